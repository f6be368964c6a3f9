//! The REAPI server as clients see it: real gRPC over a socket, real actions in bubblewrap.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, its helpers too")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
use bazel_remote_apis::build::bazel::remote::execution::v2::action_cache_client::ActionCacheClient;
use bazel_remote_apis::build::bazel::remote::execution::v2::capabilities_client::CapabilitiesClient;
use bazel_remote_apis::build::bazel::remote::execution::v2::content_addressable_storage_client::ContentAddressableStorageClient;
use bazel_remote_apis::build::bazel::remote::execution::v2::execution_client::ExecutionClient;
use bazel_remote_apis::build::bazel::remote::execution::v2::execution_stage::Value as Stage;
use bazel_remote_apis::google::bytestream;
use bazel_remote_apis::google::bytestream::byte_stream_client::ByteStreamClient;
use bazel_remote_apis::google::longrunning;
use bazel_remote_apis::google::protobuf;
use farccd::digest::Digest;
use farccd::digest::DigestFunction;
use farccd::serve;
use farccd::serve::ServeOptions;
use prost::Message;
use reapi::Action;
use reapi::ActionResult;
use reapi::Command;
use reapi::Directory;
use reapi::DirectoryNode;
use reapi::ExecuteRequest;
use reapi::ExecuteResponse;
use reapi::FileNode;
use reapi::SymlinkNode;
use tonic::Code;
use tonic::Status;
use tonic::transport::Channel;
use tonic_types::StatusExt;
use tonic_types::pb::PreconditionFailure;

mod access;
mod bucket;
mod cache;
mod compression;
mod execution;
mod functions;

/// A server in this process, on a directory of its own, and a connection to it.
struct Server {
    directory: tempfile::TempDir,
    address: SocketAddr,
    channel: Channel,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    task: Option<tokio::task::JoinHandle<anyhow::Result<()>>>,
}

impl Server {
    async fn start(jobs: usize) -> Server {
        Server::start_with(jobs, |_| {}).await
    }

    /// With options that are not the usual ones; the connection is in clear text, and made when it is needed.
    async fn start_with(jobs: usize, edit: impl FnOnce(&mut ServeOptions)) -> Server {
        let directory = tempfile::tempdir().unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let mut options = ServeOptions::new(directory.path().to_owned(), jobs);
        edit(&mut options);
        let task = tokio::spawn(serve::run(listener, options, async {
            let _ = stopped.await;
        }));
        let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
        // The socket listens already: a call waits until the server accepts.
        let channel = endpoint.connect_lazy();
        Server { directory, address, channel, stop: Some(stop), task: Some(task) }
    }

    async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.task.take().unwrap().await.unwrap().unwrap();
        let scratch = self.directory.path().join("scratch");
        assert_eq!(std::fs::read_dir(scratch).unwrap().count(), 0, "every scratch directory is removed");
    }

    /// Waits until `status.json` says that `name` is `expected`.
    async fn expect_count(&self, name: &str, expected: u64) {
        let path = self.directory.path().join("status.json");
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let text = std::fs::read_to_string(&path).unwrap();
            let status: serde_json::Value = serde_json::from_str(&text).unwrap();
            if status[name] == expected {
                return;
            }
            assert!(Instant::now() < deadline, "{name} is {}, not {expected}", status[name]);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn storage(&self) -> ContentAddressableStorageClient<Channel> {
        ContentAddressableStorageClient::new(self.channel.clone())
    }

    fn bytes(&self) -> ByteStreamClient<Channel> {
        ByteStreamClient::new(self.channel.clone())
    }

    fn action_cache(&self) -> ActionCacheClient<Channel> {
        ActionCacheClient::new(self.channel.clone())
    }

    fn execution(&self) -> ExecutionClient<Channel> {
        ExecutionClient::new(self.channel.clone())
    }

    async fn upload(&self, blobs: &[Vec<u8>]) {
        self.upload_as(DigestFunction::Sha256, blobs).await;
    }

    async fn upload_as(&self, function: DigestFunction, blobs: &[Vec<u8>]) {
        let requests = blobs.iter().map(|data| reapi::batch_update_blobs_request::Request {
            digest: Some(message(&function.digest(data))),
            data: data.clone(),
            compressor: 0,
        });
        let request = reapi::BatchUpdateBlobsRequest {
            requests: requests.collect(),
            digest_function: function.number(),
            ..Default::default()
        };
        let response = self.storage().batch_update_blobs(request).await.unwrap().into_inner();
        assert_eq!(response.responses.len(), blobs.len());
        for response in response.responses {
            assert_eq!(response.status.unwrap().code, 0);
        }
    }

    async fn download(&self, digest: &reapi::Digest) -> Vec<u8> {
        self.read(&format!("blobs/{}/{}", digest.hash, digest.size_bytes)).await.unwrap()
    }

    /// All that a resource name yields.
    async fn read(&self, resource_name: &str) -> Result<Vec<u8>, Status> {
        let request =
            bytestream::ReadRequest { resource_name: resource_name.to_owned(), ..Default::default() };
        let mut stream = self.bytes().read(request).await?.into_inner();
        let mut bytes = Vec::new();
        while let Some(piece) = stream.message().await? {
            bytes.extend(piece.data);
        }
        Ok(bytes)
    }

    async fn find_missing(&self, digests: &[Digest]) -> usize {
        let blob_digests = digests.iter().map(message).collect();
        let request = reapi::FindMissingBlobsRequest { blob_digests, ..Default::default() };
        self.storage().find_missing_blobs(request).await.unwrap().into_inner().missing_blob_digests.len()
    }

    /// Uploads the case and executes it to its end.
    async fn execute(&self, case: &Case) -> Result<ExecuteResponse, Status> {
        self.upload_as(case.function, &case.blobs()).await;
        finish(self.execution().execute(case.request()).await?.into_inner()).await
    }

    /// Executes a case that is to have a result.
    async fn result(&self, case: &Case) -> ActionResult {
        let response = self.execute(case).await.unwrap();
        let status = response.status.unwrap();
        assert_eq!(status.code, 0, "{}", status.message);
        response.result.unwrap()
    }

    async fn stdout(&self, result: &ActionResult) -> String {
        String::from_utf8(self.download(result.stdout_digest.as_ref().unwrap()).await).unwrap()
    }

    async fn stderr(&self, result: &ActionResult) -> String {
        String::from_utf8(self.download(result.stderr_digest.as_ref().unwrap()).await).unwrap()
    }
}

/// Reads a stream of operations to its end.
async fn finish(mut stream: tonic::Streaming<longrunning::Operation>) -> Result<ExecuteResponse, Status> {
    let mut last = None;
    while let Some(operation) = stream.message().await? {
        last = Some(operation);
    }
    let last = last.unwrap();
    assert!(last.done);
    Ok(response_of(&last))
}

fn response_of(operation: &longrunning::Operation) -> ExecuteResponse {
    let Some(longrunning::operation::Result::Response(any)) = &operation.result else {
        panic!("the operation has no response: {operation:?}");
    };
    assert_eq!(any.type_url, "type.googleapis.com/build.bazel.remote.execution.v2.ExecuteResponse");
    ExecuteResponse::decode(any.value.as_slice()).unwrap()
}

fn stage_of(operation: &longrunning::Operation) -> Stage {
    let any = operation.metadata.as_ref().unwrap();
    let metadata = reapi::ExecuteOperationMetadata::decode(any.value.as_slice()).unwrap();
    Stage::try_from(metadata.stage).unwrap()
}

fn message(digest: &Digest) -> reapi::Digest {
    reapi::Digest { hash: digest.hex(), size_bytes: i64::try_from(digest.size_bytes()).unwrap() }
}

/// An input tree.
#[derive(Default, Clone)]
struct Tree {
    files: BTreeMap<String, (Vec<u8>, bool)>,
    symlinks: BTreeMap<String, String>,
    directories: BTreeMap<String, Tree>,
}

impl Tree {
    fn directory(&mut self, path: &str) -> &mut Tree {
        path.split('/')
            .filter(|name| !name.is_empty())
            .fold(self, |tree, name| tree.directories.entry(name.to_owned()).or_default())
    }

    fn parent<'a, 'b>(&'a mut self, path: &'b str) -> (&'a mut Tree, &'b str) {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        (self.directory(parent), name)
    }

    /// The digest of this directory; its blobs are appended.
    fn build(&self, function: DigestFunction, blobs: &mut Vec<Vec<u8>>) -> Digest {
        let mut directory = Directory::default();
        for (name, (bytes, is_executable)) in &self.files {
            blobs.push(bytes.clone());
            directory.files.push(FileNode {
                name: name.clone(),
                digest: Some(message(&function.digest(bytes))),
                is_executable: *is_executable,
                ..Default::default()
            });
        }
        for (name, tree) in &self.directories {
            let digest = Some(message(&tree.build(function, blobs)));
            directory.directories.push(DirectoryNode { name: name.clone(), digest });
        }
        for (name, target) in &self.symlinks {
            directory.symlinks.push(SymlinkNode {
                name: name.clone(),
                target: target.clone(),
                ..Default::default()
            });
        }
        let bytes = directory.encode_to_vec();
        let digest = function.digest(&bytes);
        blobs.push(bytes);
        digest
    }
}

/// An action and its inputs.
#[derive(Clone, Default)]
struct Case {
    tree: Tree,
    command: Command,
    /// Of all its digests.
    function: DigestFunction,
    /// Its command and input root are filled in.
    action: Action,
    skip_cache_lookup: bool,
    inline_stdout: bool,
    /// Instead of the tree's root.
    root: Option<Directory>,
}

impl Case {
    fn new(arguments: &[&str]) -> Case {
        let mut case = Case::default();
        case.command.arguments = arguments.iter().map(ToString::to_string).collect();
        case.env("PATH", "/usr/bin:/bin")
    }

    fn shell(script: &str) -> Case {
        Case::new(&["/bin/sh", "-c", script])
    }

    fn env(mut self, name: &str, value: &str) -> Case {
        let variable = reapi::command::EnvironmentVariable { name: name.to_owned(), value: value.to_owned() };
        self.command.environment_variables.push(variable);
        self
    }

    fn file(mut self, path: &str, text: &str) -> Case {
        let (tree, name) = self.tree.parent(path);
        tree.files.insert(name.to_owned(), (text.as_bytes().to_vec(), false));
        self
    }

    fn program(mut self, path: &str, text: &str) -> Case {
        let (tree, name) = self.tree.parent(path);
        tree.files.insert(name.to_owned(), (text.as_bytes().to_vec(), true));
        self
    }

    fn symlink(mut self, path: &str, target: &str) -> Case {
        let (tree, name) = self.tree.parent(path);
        tree.symlinks.insert(name.to_owned(), target.to_owned());
        self
    }

    fn working_directory(mut self, path: &str) -> Case {
        self.tree.directory(path);
        self.command.working_directory = path.to_owned();
        self
    }

    fn outputs(mut self, paths: &[&str]) -> Case {
        self.command.output_paths = paths.iter().map(ToString::to_string).collect();
        self
    }

    fn timeout(mut self, duration: Duration) -> Case {
        self.action.timeout = Some(protobuf::Duration {
            seconds: i64::try_from(duration.as_secs()).unwrap(),
            nanos: i32::try_from(duration.subsec_nanos()).unwrap(),
        });
        self
    }

    fn not_cached(mut self) -> Case {
        self.action.do_not_cache = true;
        self
    }

    fn built(&self) -> (Digest, Vec<Vec<u8>>) {
        let mut blobs = Vec::new();
        let mut add = |bytes: Vec<u8>| {
            let digest = self.function.digest(&bytes);
            blobs.push(bytes);
            digest
        };
        let command = add(self.command.encode_to_vec());
        let root = match &self.root {
            Some(directory) => add(directory.encode_to_vec()),
            None => self.tree.build(self.function, &mut blobs),
        };
        let action = Action {
            command_digest: Some(message(&command)),
            input_root_digest: Some(message(&root)),
            ..self.action.clone()
        };
        let bytes = action.encode_to_vec();
        let digest = self.function.digest(&bytes);
        blobs.push(bytes);
        (digest, blobs)
    }

    fn blobs(&self) -> Vec<Vec<u8>> {
        self.built().1
    }

    fn digest(&self) -> Digest {
        self.built().0
    }

    fn request(&self) -> ExecuteRequest {
        ExecuteRequest {
            action_digest: Some(message(&self.digest())),
            skip_cache_lookup: self.skip_cache_lookup,
            inline_stdout: self.inline_stdout,
            digest_function: self.function.number(),
            ..Default::default()
        }
    }
}

/// `gcc -c` of a source that includes a header, in a tree that repeats the client's absolute path.
fn compile() -> Case {
    Case::new(&["gcc", "-g", "-c", "/home/u/w/a.c", "-o", "/home/u/w/out/a.o"])
        .file("home/u/w/a.c", "#include <stdio.h>\n#include \"a.h\"\nint main(void) { return puts(TEXT); }\n")
        .file("home/u/w/a.h", "#define TEXT \"hello\"\n")
        .working_directory("home/u/w")
        .outputs(&["out/a.o", "out/never.d"])
}

//! A cluster whose worker runs commands in a directory that holds the input root, as most do that are left as they come: it
//! does not make that its root directory. It cannot see the client's files.
//! Knows nothing of clients.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use bazel_remote_apis::build::bazel::remote::execution::v2 as proto;

use crate::fake_reapi::FakeReapi;
use crate::fake_reapi::InputTree;
use crate::fake_reapi::Options;
use crate::fake_reapi::succeed;
use crate::prerequisites;
use crate::space::SYSTEM_PATH;
use crate::space::TestSpace;
use crate::space::run;

/// In a mount namespace of its own: hides the client, puts the input root where it was asked for, and runs the command with
/// nothing but the action's environment.
const RUN: &str = r#"
set -eu
mount -t tmpfs -o size=16k none "$HIDDEN"
test -z "$(ls -A "$HIDDEN")"
printf %s "$REPLACED" | while read -r ours theirs; do
    mount --bind "$ours" "$theirs"
done
for directory in $EMPTIED; do
    mount -t tmpfs -o size=16k none "$directory"
done
if [ -n "$AT" ]; then
    mkdir -p "$AT"
    mount --bind "$ROOT" "$AT"
    ROOT=$AT
fi
cd "$ROOT/$DIRECTORY"
if [ -n "$CONFINED" ]; then
    exec unshare --user --map-root-user sh -c '
        echo 0 > /proc/sys/user/max_mnt_namespaces
        echo 0 > /proc/sys/user/max_user_namespaces
        exec env -i "$@"' sh "$@"
fi
exec env -i "$@"
"#;

/// What the worker can do for commands with absolute paths.
#[derive(Debug, Clone, Copy)]
pub struct Abilities {
    /// It lets them have mount namespaces.
    pub namespaces: bool,
    /// It knows `InputRootAbsolutePath`.
    pub property: bool,
}

/// How the worker's image differs from this machine's, which it has otherwise.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// Files that stand in another's place: theirs, and the place. No name has spaces.
    pub replaced: Vec<(PathBuf, PathBuf)>,
    /// Directories that are empty there. No name has spaces.
    pub emptied: Vec<PathBuf>,
}

/// Whether this machine can have such a worker with and without these; else why not is for the test to say.
pub fn can_be_had() -> bool {
    rustix::process::geteuid().is_root()
}

/// The cluster, before it starts; its workers have this machine's image.
pub fn plain_worker(space: &TestSpace, abilities: Abilities) -> Options {
    plain_worker_with(space, abilities, Image::default())
}

/// The cluster, before it starts.
pub fn plain_worker_with(space: &TestSpace, abilities: Abilities, image: Image) -> Options {
    prerequisites::require(&["unshare", "mount"]);
    let (builds, hidden) = (space.serve_dir().join("build"), space.client());
    std::fs::create_dir_all(&builds).unwrap();
    let number = AtomicUsize::new(0);
    FakeReapi::new().execute(move |action, command, inputs| {
        let place = builds.join(number.fetch_add(1, Ordering::Relaxed).to_string());
        let result = execute(&place.join("root"), &hidden, abilities, &image, action, command, inputs);
        std::fs::remove_dir_all(&place).unwrap();
        result
    })
}

fn execute(
    root: &Path,
    hidden: &Path,
    abilities: Abilities,
    image: &Image,
    action: &proto::Action,
    command: &proto::Command,
    inputs: &InputTree,
) -> proto::ActionResult {
    stage(root, inputs);
    let cwd = root.join(&command.working_directory);
    for output in &command.output_paths {
        std::fs::create_dir_all(cwd.join(output).parent().unwrap()).unwrap();
    }
    let properties = action.platform.iter().flat_map(|platform| &platform.properties);
    let at = properties.into_iter().find(|property| property.name == "InputRootAbsolutePath");
    let at = at.filter(|_| abilities.property).map_or("", |property| property.value.as_str());
    let mut confined = Command::new("unshare");
    confined.args(["--mount", "--propagation", "private", "sh", "-c", RUN, "sh"]);
    let variables = command.environment_variables.iter();
    confined.args(variables.map(|variable| format!("{}={}", variable.name, variable.value)));
    confined.args(&command.arguments).env_clear().env("PATH", SYSTEM_PATH).current_dir("/");
    confined
        .env("HIDDEN", hidden)
        .env("ROOT", root)
        .env("AT", at)
        .env("DIRECTORY", &command.working_directory);
    let replaced =
        image.replaced.iter().map(|(ours, theirs)| format!("{} {}\n", ours.display(), theirs.display()));
    let emptied = image.emptied.iter().map(|directory| format!("{} ", directory.display()));
    confined.env("REPLACED", replaced.collect::<String>()).env("EMPTIED", emptied.collect::<String>());
    confined.env("CONFINED", if abilities.namespaces { "" } else { "yes" });
    let finished = run(&mut confined);
    if !at.is_empty() && !Path::new(at).starts_with(hidden) {
        // Left behind by a probe; another one may be using it.
        let _ = std::fs::remove_dir(at);
    }
    let made = command.output_paths.iter().filter_map(|path| match std::fs::read(cwd.join(path)) {
        Ok(bytes) => {
            let mode = std::fs::metadata(cwd.join(path)).unwrap().permissions().mode();
            Some(inputs.output_file(path, &bytes, mode & 0o100 != 0))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => panic!("failed to read {path}: {error}"),
    });
    let mut result = succeed(made.collect());
    result.exit_code = finished.status;
    result.stdout_raw = finished.stdout;
    result.stderr_raw = finished.stderr;
    result
}

fn stage(root: &Path, inputs: &InputTree) {
    std::fs::create_dir_all(root).unwrap();
    for directory in inputs.directories() {
        std::fs::create_dir_all(root.join(directory)).unwrap();
    }
    for path in inputs.paths() {
        let file: PathBuf = root.join(path);
        std::fs::write(&file, inputs.file(path).unwrap()).unwrap();
        if inputs.file_node(path).unwrap().is_executable {
            std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
        }
    }
    for (path, target) in inputs.symlinks() {
        symlink(target, root.join(path)).unwrap();
    }
}

//! Whether the workers have the compiler of this machine, with its programs and libraries, and the system headers that a
//! command reads: by digest, file by file.
//! Knows nothing of how a file that they lack gets there.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use bazel_remote_apis::build::bazel::remote::execution::v2 as re;
use dashmap::DashMap;
use prost::Message;
use tokio::sync::Mutex;

use crate::action::Action;
use crate::action::Brought;
use crate::action::report;
use crate::compiler::Toolchain;
use crate::config::Config;
use crate::digest::Digest;
use crate::dispatch::in_background;
use crate::paths;
use crate::reason::Reason;

use super::Asker;
use super::is_current;
use super::key;
use super::said;
use super::seconds;
use super::write;

/// How many files one action asks for: servers limit the length of a command.
const MOST_ASKED: usize = 2000;

/// After how long what differs, or a worker that said nothing, is asked again: somebody mends an image because it was reported.
const ASKED_AGAIN_AFTER: Duration = Duration::from_secs(5 * 60);

/// What workers were seen to have, by cluster and platform.
pub(super) struct Images {
    directory: PathBuf,
    known: DashMap<String, Arc<Mutex<Image>>>,
}

/// What the workers of one cluster and platform have.
#[derive(Debug, Default)]
struct Image {
    /// When the oldest answer came, in seconds since 1970.
    asked_at: u64,
    /// By the name under which a command would open it.
    files: HashMap<PathBuf, Found>,
    /// Whether any file that some command needs differs.
    differs: bool,
    /// When what differs was asked for last.
    asked_again: Option<Instant>,
    /// When a worker could not run the program, and what it said.
    speechless: Option<(Instant, String)>,
}

/// A worker's answer about one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// The SHA-256 of its content.
    File([u8; 32]),
    Missing,
    /// It is no file, or cannot be read.
    Other,
}

/// A file of the image that a command needs.
#[derive(Debug, Clone)]
struct Needed {
    path: PathBuf,
    digest: Digest,
    /// Only read, so that another place would do. Programs find others by where they lie.
    is_input: bool,
}

/// How a worker's image differs from this machine's, as far as a command depends on it.
#[derive(Debug, Default)]
pub(super) struct Differences {
    /// The first one, as a clause.
    pub first: Option<String>,
    /// The files to send.
    pub brought: Vec<Brought>,
    /// Whether these are all.
    pub can_be_brought: bool,
}

/// How a worker's image differs from this machine's, for `farccd doctor`.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// Programs and libraries of the compiler.
    pub programs: usize,
    /// The first one that differs, as a clause.
    pub first_program: Option<String>,
    /// Headers on the compiler's own search path.
    pub headers: usize,
    /// How many of them differ or are missing there.
    pub differing_headers: usize,
    /// The first one of them, as a clause.
    pub first_header: Option<String>,
}

impl Images {
    /// Answers are kept in `directory`.
    pub(super) fn new(directory: PathBuf) -> Images {
        Images { directory, known: DashMap::new() }
    }

    /// How the workers differ in what `action` needs; they are asked where that is not known.
    ///
    /// # Errors
    /// When the cluster gives no answer.
    pub(super) async fn differences(
        &self,
        asker: &Asker<'_>,
        action: &Arc<Action>,
        toolchain: &Arc<Toolchain>,
        config: &Config,
    ) -> Result<Differences, Reason> {
        let (reading, compiler) = (Arc::clone(action), Arc::clone(toolchain));
        let needed = in_background(move || {
            let mut needed = programs(&compiler, &reading);
            needed.extend(inputs(&reading));
            needed
        });
        let differing = self.differing(asker, needed.await?, toolchain, config).await?;
        in_background(move || {
            let first = differing.first().map(|(needed, found)| clause(needed, *found));
            let brought: Vec<_> = differing.iter().filter_map(|(needed, _)| brought(needed)).collect();
            let can_be_brought = brought.len() == differing.len();
            Differences { first, brought, can_be_brought }
        })
        .await
    }

    /// Those inputs of `action` that the workers are known to lack and that can be sent. None is asked for.
    pub(super) async fn known_to_differ(
        &self,
        platform: &re::Platform,
        action: &Arc<Action>,
        config: &Config,
    ) -> Vec<Brought> {
        let (file, known) = self.entry(platform, config);
        let mut image = known.lock().await;
        image.recall(&file);
        if !image.differs {
            return Vec::new();
        }
        let needed = inputs(action);
        let (differing, _) = image.compare(&needed);
        drop(image);
        let found =
            in_background(move || differing.iter().filter_map(|(needed, _)| brought(needed)).collect());
        found.await.unwrap_or_default()
    }

    /// Asks for all that `toolchain` is made of, and for every header on its own search path.
    ///
    /// # Errors
    /// When the cluster gives no answer.
    pub(super) async fn compare(
        &self,
        asker: &Asker<'_>,
        toolchain: &Arc<Toolchain>,
        config: &Config,
    ) -> Result<Comparison, Reason> {
        let compiler = Arc::clone(toolchain);
        let (programs, headers) =
            in_background(move || (parts(&compiler), headers_below(&search_path(&compiler)))).await?;
        let counts = (programs.len(), headers.len());
        let differing_programs = self.differing(asker, programs, toolchain, config).await?;
        let differing_headers = self.differing(asker, headers, toolchain, config).await?;
        let first =
            |differing: &[(Needed, Found)]| differing.first().map(|(needed, found)| clause(needed, *found));
        Ok(Comparison {
            programs: counts.0,
            first_program: first(&differing_programs),
            headers: counts.1,
            differing_headers: differing_headers.len(),
            first_header: first(&differing_headers),
        })
    }

    /// Those of `needed` that the workers lack or have otherwise.
    async fn differing(
        &self,
        asker: &Asker<'_>,
        needed: Vec<Needed>,
        toolchain: &Toolchain,
        config: &Config,
    ) -> Result<Vec<(Needed, Found)>, Reason> {
        let (file, known) = self.entry(&asker.platform, config);
        // One command asks, the others wait for the answer.
        let mut image = known.lock().await;
        image.recall(&file);
        let now = seconds();
        if !is_current(image.asked_at, now) {
            *image = Image { asked_at: now, speechless: image.speechless.take(), ..Image::default() };
        }
        let speechless = image.speechless.as_ref();
        if let Some((_, why)) = speechless.filter(|(since, _)| since.elapsed() < ASKED_AGAIN_AFTER) {
            return Err(Reason::WorkerDiffers(why.clone()));
        }
        let (mut differing, unknown) = image.compare(&needed);
        let mut has_asked = !unknown.is_empty();
        if !unknown.is_empty() {
            let directories = if image.files.is_empty() { search_path(toolchain) } else { Vec::new() };
            let apart =
                unknown.into_iter().filter(|path| !directories.iter().any(|above| path.starts_with(above)));
            let asked = directories.iter().cloned().chain(apart).collect();
            image.ask(asker, asked).await?;
            // Below a directory, symlinks are told as such.
            let (_, unknown) = image.compare(&needed);
            image.ask(asker, unknown).await?;
            (differing, _) = image.compare(&needed);
        }
        let is_due = image.asked_again.is_none_or(|at| at.elapsed() >= ASKED_AGAIN_AFTER);
        if !differing.is_empty() && !has_asked && is_due {
            image.asked_again = Some(Instant::now());
            image.ask(asker, differing.iter().map(|(needed, _)| needed.path.clone()).collect()).await?;
            (differing, _) = image.compare(&needed);
            has_asked = true;
        }
        image.differs |= !differing.is_empty();
        if has_asked {
            if let Some((needed, found)) = differing.first() {
                tracing::warn!("{} files of the workers differ: {}", differing.len(), clause(needed, *found));
            }
            let text = image.text();
            drop(image);
            in_background(move || write(&file, text.as_bytes())).await?;
        }
        Ok(differing)
    }

    fn entry(&self, platform: &re::Platform, config: &Config) -> (PathBuf, Arc<Mutex<Image>>) {
        let key = key(platform, config);
        let file = self.directory.join(&key);
        (file, Arc::clone(self.known.entry(key).or_default().value()))
    }
}

impl Image {
    /// Takes over what an earlier daemon was told, unless this one has asked already.
    fn recall(&mut self, file: &Path) {
        if self.asked_at == 0
            && let Ok(text) = std::fs::read_to_string(file)
            && let Some(image) = Image::read(&text)
        {
            *self = image;
        }
    }

    /// What a file of [`text`](Self::text) says.
    fn read(text: &str) -> Option<Image> {
        let (first, lines) = text.split_once('\n')?;
        let mut words = first.split(' ');
        let asked_at = words.next()?.parse().ok()?;
        let differs = words.next()? == "differs";
        Some(Image {
            asked_at,
            differs,
            files: lines.lines().filter_map(read_line).collect(),
            ..Image::default()
        })
    }

    /// All answers: when they came, then a line each in the form of a report.
    fn text(&self) -> String {
        let mut text = format!("{} {}\n", self.asked_at, if self.differs { "differs" } else { "agrees" });
        for (path, found) in &self.files {
            let (kind, digest) = match found {
                Found::File(digest) => {
                    let hex = digest.iter().fold(String::new(), |mut hex, byte| {
                        // Writing to a string does not fail.
                        let _ = write!(hex, "{byte:02x}");
                        hex
                    });
                    ("file", hex)
                }
                Found::Missing => ("missing", "-".to_owned()),
                Found::Other => ("other", "-".to_owned()),
            };
            // Writing to a string does not fail.
            let _ = writeln!(text, "{kind} {digest} {}", escaped(path));
        }
        text
    }

    /// Those of `needed` that differ, and those of which nothing is known.
    fn compare(&self, needed: &[Needed]) -> (Vec<(Needed, Found)>, Vec<PathBuf>) {
        let (mut differing, mut unknown) = (Vec::new(), Vec::new());
        for file in needed {
            match self.files.get(&file.path) {
                None => unknown.push(file.path.clone()),
                Some(Found::File(digest)) if digest.as_slice() == file.digest.hash() => {}
                Some(found) => differing.push((file.clone(), *found)),
            }
        }
        (differing, unknown)
    }

    /// Asks a worker for what the files at `paths` hold, and those below them.
    async fn ask(&mut self, asker: &Asker<'_>, paths: Vec<PathBuf>) -> Result<(), Reason> {
        for asked in paths.chunks(MOST_ASKED) {
            let named = asked.to_vec();
            let result =
                asker.ask_patiently(move |platform, program| report(platform, program, &named)).await?;
            if result.exit_code != 0 {
                let why = format!(
                    "a worker was asked and ended with status {}: {}",
                    result.exit_code,
                    said(&result)
                );
                self.speechless = Some((Instant::now(), why.clone()));
                return Err(Reason::WorkerDiffers(why));
            }
            // What is no UTF-8 is no line of a report.
            let answers = String::from_utf8_lossy(&result.stdout_raw);
            self.files.extend(answers.lines().filter_map(read_line));
            for path in asked {
                // It has been asked for by name.
                if !self.files.contains_key(path) && !answers_below(&answers, path) {
                    self.files.insert(path.clone(), Found::Other);
                }
            }
        }
        Ok(())
    }
}

/// Whether a report tells of files below `path`.
fn answers_below(answers: &str, path: &Path) -> bool {
    answers.lines().filter_map(line_path).any(|told| told.starts_with(path))
}

/// The programs and libraries that `action` runs, and its driver by the name that a worker runs it by.
fn programs(toolchain: &Toolchain, action: &Action) -> Vec<Needed> {
    let mut needed = parts(toolchain);
    let command = re::Command::decode(action.command.as_slice()).unwrap_or_default();
    if let Some(driver) = command.arguments.first() {
        let cwd = Path::new("/").join(&command.working_directory);
        let name = paths::lexically_normal(&cwd.join(driver));
        let target = std::fs::canonicalize(&name).ok();
        let of_target = toolchain.programs.iter().find(|(path, _)| Some(path) == target.as_ref());
        if let Some((_, digest)) = of_target {
            needed.push(Needed { path: name, digest: *digest, is_input: false });
        }
    }
    needed
}

/// The programs and libraries of a toolchain.
fn parts(toolchain: &Toolchain) -> Vec<Needed> {
    let programs = toolchain.programs.iter();
    programs.map(|(path, digest)| Needed { path: path.clone(), digest: *digest, is_input: false }).collect()
}

/// What `action` reads of the image.
fn inputs(action: &Action) -> Vec<Needed> {
    let needed = action.in_image.iter().map(|input| {
        let path = match paths::is_system(&paths::lexically_normal(&input.path)) {
            true => input.path.clone(),
            // A link outside leads to it.
            false => std::fs::canonicalize(&input.path).unwrap_or_else(|_| input.path.clone()),
        };
        Needed { path, digest: input.version.digest, is_input: true }
    });
    needed.collect()
}

/// The compiler's own search path, as far as it lies in the image.
fn search_path(toolchain: &Toolchain) -> Vec<PathBuf> {
    let directories = toolchain.search_path.quote.iter().chain(&toolchain.search_path.angle);
    directories.filter(|directory| paths::is_system(&paths::lexically_normal(directory))).cloned().collect()
}

/// The files of this machine below `directories`; symlinks are not followed.
fn headers_below(directories: &[PathBuf]) -> Vec<Needed> {
    let mut needed = Vec::new();
    let mut pending = directories.to_vec();
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => pending.push(path),
                Ok(kind) if kind.is_file() => {
                    let digest = std::fs::File::open(&path).and_then(|mut file| Digest::of_reader(&mut file));
                    needed.extend(digest.ok().map(|digest| Needed { path, digest, is_input: true }));
                }
                _ => {}
            }
        }
    }
    needed.sort_by(|a, b| a.path.cmp(&b.path));
    needed
}

/// The file as it can be sent. None: on the way to it there is a symlink, which may lead elsewhere on a worker, or it is a
/// program.
fn brought(needed: &Needed) -> Option<Brought> {
    let path = paths::lexically_normal(&needed.path);
    let parent = path.parent()?;
    let is_physical = std::fs::canonicalize(parent).is_ok_and(|physical| physical == parent);
    (needed.is_input && is_physical).then(|| Brought { path: path.clone(), digest: needed.digest })
}

fn clause(needed: &Needed, found: Found) -> String {
    let path = needed.path.display();
    match found {
        Found::File(_) => format!("{path} is another one on the workers"),
        Found::Missing => format!("{path} is missing on the workers"),
        Found::Other => format!("{path} cannot be read on the workers"),
    }
}

/// One line of a report (see `shim/worker`): kind, digest, path. None: a symlink, or no such line.
fn read_line(line: &str) -> Option<(PathBuf, Found)> {
    let mut words = line.splitn(3, ' ');
    let (kind, digest, _) = (words.next()?, words.next()?, words.next()?);
    let found = match kind {
        "file" => Found::File(Digest::from_hex(digest, 0).ok()?.hash().try_into().ok()?),
        "missing" => Found::Missing,
        "other" | "error" => Found::Other,
        _ => return None,
    };
    Some((line_path(line)?, found))
}

/// The path in a line of a report.
fn line_path(line: &str) -> Option<PathBuf> {
    let text = line.splitn(3, ' ').nth(2)?;
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next()? {
            b'n' => b'\n',
            b'x' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    Some(OsString::from_vec(bytes).into())
}

/// The path in the form of a report's line.
fn escaped(path: &Path) -> String {
    let mut text = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        text.push_str(&chunk.valid().replace('\\', "\\\\").replace('\n', "\\n"));
        for byte in chunk.invalid() {
            // Writing to a string does not fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needed(path: &str, content: &[u8]) -> Needed {
        Needed { path: path.into(), digest: Digest::of(content), is_input: true }
    }

    fn line(path: &str, content: &[u8]) -> String {
        format!("file {} {path}", Digest::of(content).hex())
    }

    #[test]
    fn what_differs_and_what_is_not_known() {
        let lines = [
            line("/usr/a", b"a"),
            line("/usr/b", b"other"),
            "missing - /usr/c".into(),
            "error - /usr/d".into(),
        ];
        let files = lines.iter().filter_map(|line| read_line(line)).collect();
        let image = Image { files, ..Image::default() };
        let all: Vec<_> = ["a", "b", "c", "d", "e"]
            .iter()
            .map(|name| needed(&format!("/usr/{name}"), name.as_bytes()))
            .collect();
        let (differing, unknown) = image.compare(&all);
        let clauses: Vec<_> = differing.iter().map(|(needed, found)| clause(needed, *found)).collect();
        assert_eq!(
            clauses,
            [
                "/usr/b is another one on the workers",
                "/usr/c is missing on the workers",
                "/usr/d cannot be read on the workers"
            ]
        );
        assert_eq!(unknown, [Path::new("/usr/e")]);
    }

    #[test]
    fn lines_of_a_report() {
        let path = |line: &str| read_line(line).map(|(path, _)| path);
        for bad in
            ["", "file", "file x /usr/a", "link - /usr/a", "file - /usr/a", "missing -", "missing - a\\"]
        {
            assert_eq!(path(bad), None, "{bad}");
        }
        assert_eq!(
            path("missing - /a b\\nc\\\\d\\xff"),
            Some(OsString::from_vec(b"/a b\nc\\d\xff".to_vec()).into())
        );
    }

    #[test]
    fn answers_outlive_the_daemon() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("image");
        let odd = PathBuf::from(OsString::from_vec(b"/usr/\xff \\\n".to_vec()));
        let files = HashMap::from([
            (odd, Found::Missing),
            ("/usr/a".into(), Found::File([7; 32])),
            ("/usr/b".into(), Found::Other),
        ]);
        let image = Image { asked_at: 7, differs: true, files, ..Image::default() };
        write(&file, image.text().as_bytes());
        let mut later = Image::default();
        later.recall(&file);
        assert_eq!((later.asked_at, later.differs, &later.files), (7, true, &image.files));
        // What this daemon was told counts more.
        std::fs::write(&file, "9 agrees\n").unwrap();
        later.recall(&file);
        assert_eq!(later.asked_at, 7);
        std::fs::write(&file, "garbage").unwrap();
        let mut none = Image::default();
        none.recall(&file);
        assert_eq!((none.asked_at, none.files.len()), (0, 0));
    }

    #[test]
    fn a_header_behind_a_symlink_is_not_sent() {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path().canonicalize().unwrap();
        std::fs::create_dir(top.join("real")).unwrap();
        std::fs::write(top.join("real/a.h"), "").unwrap();
        std::os::unix::fs::symlink("real", top.join("link")).unwrap();
        let at = |name: &str| brought(&needed(top.join(name).to_str().unwrap(), b""));
        assert_eq!(at("real/a.h").unwrap().path, top.join("real/a.h"));
        assert_eq!(at("link/a.h"), None);
        let program = Needed { is_input: false, ..needed(top.join("real/a.h").to_str().unwrap(), b"") };
        assert_eq!(brought(&program), None);
    }
}

//! Whether the workers have the compiler of this machine, with its programs and libraries, and the system headers that a
//! command reads: by digest, file by file.
//! Knows nothing of how a file that they lack gets there.

use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use bazel_remote_apis::build::bazel::remote::execution::v2 as re;
use dashmap::DashMap;

use crate::action::Action;
use crate::action::Brought;
use crate::action::report;
use crate::compiler::Tools;
use crate::config::Config;
use crate::dispatch::in_background;
use crate::reason::Reason;

use super::Asked;
use super::Asker;
use super::is_current;
use super::key;
use super::needed::Needed;
use super::needed::brought;
use super::needed::headers;
use super::needed::headers_below;
use super::needed::inputs;
use super::needed::parts;
use super::needed::programs;
use super::said;
use super::seconds;
use super::told::Found;
use super::told::line;
use super::told::read_line;
use super::write;

/// How many files one action asks for: servers limit the length of a command.
const MOST_ASKED: usize = 2000;

/// After how long what differs, or a worker that said nothing, is asked again: somebody mends an image because it was reported.
const ASKED_AGAIN_AFTER: Duration = Duration::from_secs(5 * 60);

/// What workers were seen to have, by cluster and platform.
pub(super) struct Images {
    directory: PathBuf,
    known: DashMap<String, Arc<Asked<Image>>>,
}

/// What the workers of one cluster and platform have.
#[derive(Debug, Default)]
struct Image {
    /// When the first answer was asked for, in seconds since 1970; 0: none was.
    asked_at: u64,
    /// By the name under which a command would open it.
    files: HashMap<PathBuf, Found>,
    /// When what differs was asked for last.
    asked_again: Option<Instant>,
    /// When a worker could not run the program, and what it said.
    speechless: Option<(Instant, String)>,
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
        tools: &Arc<Tools>,
        config: &Config,
    ) -> Result<Differences, Reason> {
        let (reading, compiler) = (Arc::clone(action), Arc::clone(tools));
        let needed = in_background(move || {
            let mut needed = programs(&compiler, &reading);
            needed.extend(inputs(&reading));
            needed
        });
        let differing = self.differing(asker, needed.await?, tools, config).await?;
        in_background(move || {
            let first = differing.first().map(|(needed, found)| clause(needed, *found));
            let can_be_brought = differing.iter().all(|(needed, _)| brought(needed).is_some());
            Differences { first, brought: all_brought(&differing), can_be_brought }
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
        let (file, asked) = self.entry(platform, config);
        recall(&file, &asked).await;
        let action = Arc::clone(action);
        let found = in_background(move || {
            let needed = inputs(&action);
            let (differing, _) = asked.look(|image| image.compare(&needed));
            all_brought(&differing)
        });
        found.await.unwrap_or_default()
    }

    /// Asks for all that `tools` are made of, and for every header that comes with them.
    ///
    /// # Errors
    /// When the cluster gives no answer.
    pub(super) async fn compare(
        &self,
        asker: &Asker<'_>,
        tools: &Arc<Tools>,
        config: &Config,
    ) -> Result<Comparison, Reason> {
        let compiler = Arc::clone(tools);
        let (programs, headers) =
            in_background(move || (parts(&compiler), headers_below(&headers(&compiler)))).await?;
        let counts = (programs.len(), headers.len());
        let differing_programs = self.differing(asker, programs, tools, config).await?;
        let differing_headers = self.differing(asker, headers, tools, config).await?;
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
        tools: &Tools,
        config: &Config,
    ) -> Result<Vec<(Needed, Found)>, Reason> {
        let (file, asked) = self.entry(&asker.platform, config);
        recall(&file, &asked).await;
        let compared = |needed: &[Needed]| {
            asked.look(|image| {
                image.forget_what_is_old(seconds());
                image.speech()?;
                Ok::<_, Reason>(image.compare(needed))
            })
        };
        let (differing, unknown) = compared(&needed)?;
        if unknown.is_empty() && (differing.is_empty() || !asked.look(|image| image.is_due())) {
            return Ok(differing);
        }
        let _turn = asked.turn().await;
        let (mut differing, mut unknown) = compared(&needed)?;
        let mut told = String::new();
        if !unknown.is_empty() {
            let questions = asked.look(|image| image.questions(tools, unknown));
            told += &ask(asker, &asked, questions).await?;
            // What lies behind symlinks.
            (differing, unknown) = compared(&needed)?;
            told += &ask(asker, &asked, unknown.into_iter().map(apart).collect()).await?;
        } else if !differing.is_empty() && asked.look(|image| image.is_due()) {
            asked.look(|image| image.asked_again = Some(Instant::now()));
            let again = differing.iter().map(|(needed, _)| apart(needed.path.clone())).collect();
            told += &ask(asker, &asked, again).await?;
        }
        if told.is_empty() {
            return Ok(differing);
        }
        let (differing, _) = compared(&needed)?;
        if let Some((needed, found)) = differing.first() {
            tracing::warn!("{} files of the workers differ: {}", differing.len(), clause(needed, *found));
        }
        let since = asked.look(|image| image.asked_at);
        in_background(move || keep(&file, since, &told)).await?;
        Ok(differing)
    }

    fn entry(&self, platform: &re::Platform, config: &Config) -> (PathBuf, Arc<Asked<Image>>) {
        let key = key(platform, config);
        let file = self.directory.join(&key);
        (file, Arc::clone(self.known.entry(key).or_default().value()))
    }
}

impl Image {
    /// What a file that was [kept](keep) says.
    fn read(text: &str) -> Option<Image> {
        let (asked_at, lines) = text.split_once('\n')?;
        let files = lines.lines().filter_map(read_line).collect();
        Some(Image { asked_at: asked_at.parse().ok()?, files, ..Image::default() })
    }

    fn forget_what_is_old(&mut self, now: u64) {
        if !is_current(self.asked_at, now) {
            *self = Image { asked_at: now, speechless: self.speechless.take(), ..Image::default() };
        }
    }

    /// Whether what differs may be asked again.
    fn is_due(&self) -> bool {
        self.asked_again.is_none_or(|at| at.elapsed() >= ASKED_AGAIN_AFTER)
    }

    /// Fails when a worker could not run the program, not long ago.
    fn speech(&self) -> Result<(), Reason> {
        let speechless = self.speechless.as_ref().filter(|(since, _)| since.elapsed() < ASKED_AGAIN_AFTER);
        speechless.map_or(Ok(()), |(_, why)| Err(Reason::WorkerDiffers(why.clone())))
    }

    /// What is to be asked to know `unknown`: directories of headers that come with the compiler, and what lies in none.
    fn questions(&self, tools: &Tools, mut unknown: Vec<PathBuf>) -> Vec<Question> {
        let mut directories = headers(tools);
        directories.retain(|directory| !self.files.contains_key(directory));
        unknown.retain(|path| !directories.iter().any(|above| path.starts_with(above)));
        let directories = directories.into_iter().map(|path| Question { path, otherwise: Found::Listed });
        directories.chain(unknown.into_iter().map(apart)).collect()
    }

    /// Those of `needed` that differ, and those of which nothing is known.
    fn compare(&self, needed: &[Needed]) -> (Vec<(Needed, Found)>, Vec<PathBuf>) {
        let (mut differing, mut unknown) = (Vec::new(), Vec::new());
        for file in needed {
            match self.find(&file.path) {
                None | Some(Found::Link) => unknown.push(file.path.clone()),
                Some(Found::File(digest)) if digest.as_slice() == file.digest.hash() => {}
                Some(found) => differing.push((file.clone(), found)),
            }
        }
        (differing, unknown)
    }

    /// What was told of `path`, be it only by silence in the list of a directory above.
    fn find(&self, path: &Path) -> Option<Found> {
        if let Some(found) = self.files.get(path) {
            return Some(*found);
        }
        let told = path.ancestors().skip(1).find_map(|above| self.files.get(above))?;
        matches!(told, Found::Listed | Found::Missing).then_some(Found::Missing)
    }
}

/// Takes over what an earlier daemon was told, unless this one has asked already.
async fn recall(file: &Path, asked: &Asked<Image>) {
    if asked.look(|image| image.asked_at != 0) {
        return;
    }
    let file = file.to_owned();
    let read = in_background(move || Image::read(&std::fs::read_to_string(file).ok()?)).await.ok().flatten();
    let image = read.unwrap_or_default();
    asked.look(|known| {
        if known.asked_at == 0 {
            *known = image;
        }
    });
}

/// Keeps answers for the next daemon: when the first was asked for, and then their lines.
fn keep(file: &Path, asked_at: u64, told: &str) {
    let known = std::fs::read_to_string(file).unwrap_or_default();
    let first = format!("{asked_at}\n");
    let known = if known.starts_with(&first) { known } else { first };
    write(file, (known + told).as_bytes());
}

/// What a worker is asked for: what the file at `path` holds, or all files below it.
struct Question {
    path: PathBuf,
    /// What it is when nothing is told of itself.
    otherwise: Found,
}

/// A file, asked for by its name.
fn apart(path: PathBuf) -> Question {
    Question { path, otherwise: Found::Other }
}

/// Asks a worker. Returns the lines of the answers.
async fn ask(asker: &Asker<'_>, asked: &Asked<Image>, questions: Vec<Question>) -> Result<String, Reason> {
    let mut told = String::new();
    for some in questions.chunks(MOST_ASKED) {
        let named: Vec<_> = some.iter().map(|question| question.path.clone()).collect();
        let result = asker.ask_patiently(move |platform, program| report(platform, program, &named)).await?;
        if result.exit_code != 0 {
            let why =
                format!("a worker was asked and ended with status {}: {}", result.exit_code, said(&result));
            asked.look(|image| image.speechless = Some((Instant::now(), why.clone())));
            return Err(Reason::WorkerDiffers(why));
        }
        // What is no UTF-8 is no line of a report.
        let mut answers = String::from_utf8_lossy(&result.stdout_raw).into_owned();
        let known: HashMap<_, _> = answers.lines().filter_map(read_line).collect();
        for question in some.iter().filter(|question| !known.contains_key(&question.path)) {
            answers += &line(&question.path, question.otherwise);
        }
        asked.look(|image| image.files.extend(answers.lines().filter_map(read_line)));
        told += &answers;
    }
    Ok(told)
}

/// What can be sent of what differs, each file once, by however many names it is asked for.
fn all_brought(differing: &[(Needed, Found)]) -> Vec<Brought> {
    let mut files: Vec<_> = differing.iter().filter_map(|(needed, _)| brought(needed)).collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files.dedup();
    files
}

fn clause(needed: &Needed, found: Found) -> String {
    let path = needed.path.display();
    match found {
        Found::File(_) => format!("{path} is another one on the workers"),
        Found::Missing => format!("{path} is missing on the workers"),
        Found::Other | Found::Link | Found::Listed => format!("{path} is no readable file on the workers"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn needed(path: &str, content: &[u8]) -> Needed {
        Needed { path: path.into(), digest: Digest::of(content), is_input: true }
    }

    fn line(path: &str, content: &[u8]) -> String {
        format!("file {} {path}", Digest::of(content).hex())
    }

    fn image(lines: &[&str]) -> Image {
        Image { files: lines.iter().filter_map(|line| read_line(line)).collect(), ..Image::default() }
    }

    #[test]
    fn what_differs_and_what_is_not_known() {
        let (a, b) = (line("/usr/a", b"a"), line("/usr/b", b"other"));
        let image = image(&[&a, &b, "missing - /usr/c", "error - /usr/d"]);
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
                "/usr/d is no readable file on the workers"
            ]
        );
        assert_eq!(unknown, [Path::new("/usr/e")]);
    }

    #[test]
    fn what_a_list_does_not_have_is_missing_but_behind_links() {
        let file = line("/usr/include/a.h", b"");
        let image =
            image(&[&file, "link - /usr/include/way", "link - /usr/include/b.h", "listed - /usr/include"]);
        let at = |name: &str| image.find(Path::new(name));
        assert!(matches!(at("/usr/include/a.h"), Some(Found::File(_))));
        assert_eq!(at("/usr/include/none/c.h"), Some(Found::Missing));
        assert_eq!(at("/usr/include/b.h"), Some(Found::Link));
        assert_eq!(at("/usr/include/way/c.h"), None);
        assert_eq!(at("/usr/share/c.h"), None);
    }

    #[test]
    fn a_header_with_two_names_is_sent_once() {
        let names = ["/usr/include/assert.h", "/usr/bin/../include/assert.h", "/usr/include/stdio.h"];
        let differing: Vec<_> = names.iter().map(|name| (needed(name, b""), Found::Missing)).collect();
        let brought = all_brought(&differing);
        let paths: Vec<_> = brought.iter().map(|file| file.path.as_path()).collect();
        assert_eq!(paths, [Path::new("/usr/include/assert.h"), Path::new("/usr/include/stdio.h")]);
    }

    #[tokio::test]
    async fn answers_outlive_the_daemon() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("images/k");
        let recalled = async || {
            let asked = Asked::default();
            recall(&file, &asked).await;
            asked.look(|image: &mut Image| (image.asked_at, image.files.clone()))
        };
        assert_eq!(recalled().await, (0, HashMap::new()));
        keep(&file, 7, "missing - /usr/a\n");
        keep(&file, 7, "missing - /usr/b\nother - /usr/a\n");
        let both = HashMap::from([("/usr/a".into(), Found::Other), ("/usr/b".into(), Found::Missing)]);
        assert_eq!(recalled().await, (7, both));
        // What was asked a day later stands alone.
        keep(&file, 8, "missing - /usr/c\n");
        assert_eq!(recalled().await, (8, HashMap::from([("/usr/c".into(), Found::Missing)])));
        std::fs::write(&file, "garbage").unwrap();
        assert_eq!(recalled().await, (0, HashMap::new()));
    }
}

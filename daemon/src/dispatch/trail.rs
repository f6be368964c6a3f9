//! What is to be remembered of one command: for the counts and for `farccd explain`.
//! Decides nothing.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use farcc_proto::record::CommandRecord;
use farcc_proto::record::Ingredient;
use farcc_proto::record::Run;
use farcc_proto::record::ingredient::Kind;

use crate::action::Action;
use crate::action::Execution;
use crate::action::Layout;
use crate::action::Sought;
use crate::compiler::Compile;
use crate::compiler::Invocation;
use crate::compiler::OutputKind;
use crate::compiler::Tools;
use crate::config::Config;
use crate::config::Paths;
use crate::digest::Digest;
use crate::digest::Hasher;
use crate::dispatch::preparation::Prepared;
use crate::dispatch::preparation::driver_name;
use crate::dispatch::repeats::Learned;
use crate::dispatch::step::Step;
use crate::history::Made;
use crate::paths;
use crate::reason::Reason;
use crate::stats::Bytes;
use crate::stats::Kind as CommandKind;
use crate::stats::Outcome;
use crate::stats::Record;

/// The name of the ingredient that says whether the result is for all checkouts.
pub const PATHS: &str = "[exec] paths";

/// The name of the ingredient that there is where the compiler would colour its messages.
const ON_A_TERMINAL: &str = "standard error is a terminal";

/// The trail of one command through the daemon.
pub struct Trail {
    invocation: Arc<Invocation>,
    started: Instant,
    /// Time in which the launcher, not the daemon, was at work.
    elsewhere: Duration,
    kind: CommandKind,
    outputs: Vec<PathBuf>,
    /// Arguments and configuration.
    ingredients: Vec<Ingredient>,
    /// What has more ingredients than are spelled out before the end: hundreds of commands may be under way.
    made_of: Option<(Arc<Action>, Arc<Tools>)>,
    /// The command of which its histories know all but this run.
    repeated: Option<Digest>,
    not_sure: bool,
    execution: Option<Execution>,
    outcome: Outcome,
    reason: Option<Reason>,
    /// Bytes moved for the command so far.
    pub bytes: Bytes,
}

/// What histories are told.
pub enum Entry<R> {
    /// A further run of a command.
    Again {
        /// Of all of these.
        outputs: Vec<PathBuf>,
        /// As [`History::again`](crate::history::History::again) is told.
        command: Digest,
        /// The run.
        run: Run,
    },
    /// A command that may be another one than before.
    Made {
        /// Absolute paths.
        outputs: Vec<PathBuf>,
        /// What made them.
        made: Made<R>,
    },
}

impl Trail {
    /// The trail of a command that has just come in.
    pub fn new(invocation: Arc<Invocation>) -> Trail {
        Trail {
            invocation,
            started: Instant::now(),
            elsewhere: Duration::ZERO,
            kind: CommandKind::Other,
            outputs: Vec::new(),
            ingredients: Vec::new(),
            made_of: None,
            repeated: None,
            not_sure: false,
            execution: None,
            outcome: Outcome::PassedThrough,
            reason: None,
            bytes: Bytes::default(),
        }
    }

    /// It is known what the command makes.
    pub fn classified(&mut self, kind: CommandKind) {
        self.kind = kind;
    }

    /// The command is a compile: these are the files that one may ask about.
    pub fn compile(&mut self, compile: &Compile) {
        let files = compile.sources.iter().flat_map(|source| [&source.object, &source.depfile]);
        self.understood(files.flatten(), &compile.arguments);
    }

    /// The command is understood: these are the files that one may ask about, and its arguments.
    pub fn understood<'a>(&mut self, files: impl IntoIterator<Item = &'a PathBuf>, arguments: &[OsString]) {
        let cwd = &self.invocation.cwd;
        let absolute = |path: &PathBuf| paths::lexically_normal(&paths::absolute(cwd, path));
        self.outputs = files.into_iter().map(absolute).collect();
        self.ingredients = arguments
            .iter()
            .enumerate()
            .map(|(position, argument)| ingredient(Kind::Argument, argument, position.to_string().as_bytes()))
            .collect();
    }

    /// The command is a compiler's or an archiver's, and not taken apart: the file that it says it makes is what one
    /// may ask about.
    pub fn not_understood(&mut self) {
        let mut words = self.invocation.argv.iter();
        let named = words.find(|word| *word == "-o").and_then(|_| words.next());
        // Neither standard output nor a device has a history.
        if let Some(name) = named.filter(|name| *name != "-" && !name.as_bytes().starts_with(b"/dev/")) {
            let path = paths::absolute(&self.invocation.cwd, name.as_ref());
            self.outputs = vec![paths::lexically_normal(&path)];
        }
    }

    /// Everything that the key is made of is known.
    pub(super) fn prepared(
        &mut self,
        prepared: &Prepared,
        step: &Step,
        executed: &Invocation,
        config: &Config,
    ) {
        let (action, tools) = (&prepared.action, step.tools());
        self.not_sure = prepared.not_sure;
        self.outputs = files_of(&action.sought);
        self.made_of = Some((Arc::clone(action), Arc::clone(tools)));
        let ingredients = &mut self.ingredients;
        for (name, value) in &prepared.platform {
            ingredients.push(ingredient(Kind::Configuration, name.as_ref(), value.as_bytes()));
        }
        let driver = driver_name(step.program(), executed);
        ingredients.push(ingredient(Kind::Driver, "".as_ref(), driver.as_bytes()));
        if executed.stderr_is_terminal && step.additions(executed).is_ok_and(|added| !added.is_empty()) {
            ingredients.push(ingredient(Kind::Configuration, ON_A_TERMINAL.as_ref(), b""));
        }
        let cwd = self.invocation.cwd.as_os_str().as_bytes();
        ingredients.push(ingredient(Kind::WorkingDirectory, "".as_ref(), cwd));
        let salt = config.exec.salt.as_bytes();
        ingredients.push(ingredient(Kind::Configuration, "[exec] salt".as_ref(), salt));
        if config.exec.paths == Paths::Shared {
            let why = prepared.bound.as_ref();
            let paths = why.map_or_else(|| "shared".to_owned(), |why| format!("exact: {why}"));
            ingredients.push(ingredient(Kind::Configuration, PATHS.as_ref(), paths.as_bytes()));
        }
    }

    /// The command has come again, and its histories know all but this run.
    pub(super) fn repeated(&mut self, learned: &Learned) {
        self.outputs = files_of(&learned.sought);
        self.repeated = Some(learned.command);
    }

    /// The command has ended.
    pub fn ended(&mut self, outcome: Outcome, reason: Option<Reason>) {
        self.outcome = outcome;
        self.reason = reason;
    }

    /// The result is a hit, and this run of the command made it, if that is known.
    pub fn spared(&mut self, execution: Option<Execution>) {
        self.execution = execution;
    }

    /// The launcher was at work for `elapsed`.
    pub fn elsewhere(&mut self, elapsed: Duration) {
        self.elsewhere += elapsed;
    }

    /// When the command came in.
    pub fn started(&self) -> Instant {
        self.started
    }

    fn elapsed(&self) -> Duration {
        self.started.elapsed().saturating_sub(self.elsewhere)
    }

    /// What the counts are told.
    pub fn record(&self) -> Record {
        Record {
            kind: self.kind,
            outcome: self.outcome,
            reason: self.reason.clone(),
            not_sure: self.not_sure,
            bytes: self.bytes,
            elapsed: self.elapsed(),
            execution: self.execution.as_ref().map(|execution| execution.took),
        }
    }

    /// What the histories of the outputs are told; none for a command without known outputs.
    pub fn into_history(self) -> Option<Entry<impl FnOnce() -> CommandRecord>> {
        if self.outputs.is_empty() {
            return None;
        }
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let made = self.execution.as_ref();
        let run = Run {
            unix_millis: millis(since_epoch),
            outcome: self.outcome.name().to_owned(),
            reason: self.reason.as_ref().map(|reason| reason.name().to_owned()).unwrap_or_default(),
            reason_detail: self.reason.as_ref().and_then(Reason::detail).unwrap_or_default(),
            micros: micros(self.elapsed()),
            whole_micros: micros(self.started.elapsed()),
            made_unix_millis: made.map(|made| millis(made.ended)).unwrap_or_default(),
            made_micros: made.map(|made| micros(made.took)).unwrap_or_default(),
            made_by: made.map(|made| made.worker.clone()).unwrap_or_default(),
        };
        if let Some(command) = self.repeated {
            return Some(Entry::Again { outputs: self.outputs, command, run });
        }
        let (outputs, command) = (self.outputs.clone(), self.command());
        Some(Entry::Made { outputs, made: Made { command, run, record: move || self.into_record() } })
    }

    /// Stands for the command, its directory, and all that its key is made of; none where that is not known.
    pub(super) fn command(&self) -> Option<Digest> {
        let (action, _) = self.made_of.as_ref()?;
        let mut hasher = Hasher::new();
        hasher.update(action.sought.key.to_string().as_bytes());
        let own = self.ingredients.iter().flat_map(|ingredient| [&ingredient.name, &ingredient.value]);
        let cwd = self.invocation.cwd.as_os_str().as_bytes();
        let typed = self.invocation.argv.iter().map(|word| word.as_bytes());
        for part in [cwd].into_iter().chain(typed).chain(own.map(Vec::as_slice)) {
            hasher.update(&part.len().to_le_bytes());
            hasher.update(part);
        }
        Some(hasher.finish())
    }

    fn into_record(mut self) -> CommandRecord {
        let made_of = self.made_of.take();
        if let Some((action, tools)) = &made_of {
            self.ingredients.extend(ingredients_of(action, tools));
        }
        CommandRecord {
            arguments: self.invocation.argv.iter().map(|argument| argument.as_bytes().to_vec()).collect(),
            cwd: self.invocation.cwd.as_os_str().as_bytes().to_vec(),
            outputs: self.outputs.iter().map(|output| output.as_os_str().as_bytes().to_vec()).collect(),
            key: made_of.map(|(action, _)| action.sought.key.to_string()).unwrap_or_default(),
            ingredients: self.ingredients,
            run: None,
        }
    }
}

/// The files that one may ask about, what the command is for first.
pub(super) fn files_of(sought: &Sought) -> Vec<PathBuf> {
    let mut outputs: Vec<_> = sought.outputs.iter().filter(|output| output.lies_in_place()).collect();
    outputs.sort_by_key(|output| output.kind != OutputKind::Object);
    outputs.into_iter().map(|output| paths::lexically_normal(&output.path)).collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Inputs and the ways to them, programs and variables.
fn ingredients_of<'a>(action: &'a Action, tools: &'a Tools) -> impl Iterator<Item = Ingredient> + 'a {
    let inputs = action.inputs.iter();
    let inputs =
        inputs.map(|input| ingredient(Kind::Input, input.path.as_os_str(), input.version.digest.hash()));
    let programs = tools.programs.iter().chain(&tools.files);
    let programs = programs.map(|(path, digest)| ingredient(Kind::Program, path.as_os_str(), digest.hash()));
    let variables = action.environment.iter();
    let variables =
        variables.map(|(name, value)| ingredient(Kind::Variable, name.as_ref(), value.as_bytes()));
    let ways = action.layout.iter().flat_map(Layout::described);
    let ways = ways.map(|(path, what)| ingredient(Kind::Way, path.as_os_str(), what.as_bytes()));
    inputs.chain(programs).chain(variables).chain(ways)
}

fn ingredient(kind: Kind, name: &OsStr, value: &[u8]) -> Ingredient {
    Ingredient { kind: kind.into(), name: name.as_bytes().to_vec(), value: value.to_vec() }
}

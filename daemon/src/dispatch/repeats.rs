//! Commands that come again while nothing that decides about their keys has changed: what is looked for in a store is known
//! then, and need not be made anew of hundreds of inputs.
//! Knows nothing of results, nor of how an Action is made.

use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use dashmap::DashMap;

use crate::action::Action;
use crate::action::Layout;
use crate::action::Output;
use crate::action::Sought;
use crate::action::logical_directory;
use crate::compiler::Invocation;
use crate::compiler::Toolchain;
use crate::config::Config;
use crate::config::Paths;
use crate::digest::Digest;
use crate::digest::Hasher;
use crate::dispatch::inputs::Origin;
use crate::dispatch::inputs::RememberedOrigin;
use crate::dispatch::preparation::driver_name;
use crate::dispatch::preparation::platform;
use crate::dispatch::sharing;
use crate::dispatch::step::Step;
use crate::relocation::Relocation;

/// When what was learned takes more memory than this, all is forgotten: a command takes some two thousand bytes.
const LARGEST_MEMORY_BYTES: usize = 64 << 20;

/// Who has longer ways has no time to gain by looking at them.
const LARGEST_LAYOUT_BYTES: usize = 64 << 10;

/// What was learned of all commands, shared by all connections.
#[derive(Default)]
pub(super) struct Repeats {
    learned: DashMap<Digest, Arc<Learned>>,
    /// About what they take.
    size_bytes: AtomicUsize,
}

/// All that decides about the key of one command, as it is now.
pub(super) struct Occasion {
    /// Of its words, directory and environment, and all that follows from them and the configuration alone.
    words: Digest,
    toolchain: Arc<Toolchain>,
    origin: Origin,
    /// Where the workspace is, if its result is for all checkouts; or why it is not.
    relocation: Option<Result<Relocation, String>>,
}

/// An [`Occasion`] that keeps no scan in memory.
pub(super) struct RememberedOccasion {
    words: Digest,
    toolchain: Arc<Toolchain>,
    origin: RememberedOrigin,
    relocation: Option<Result<Relocation, String>>,
}

/// What a command came to on an occasion.
pub(super) struct Learned {
    occasion: RememberedOccasion,
    layout: Layout,
    /// What is looked for.
    pub(super) sought: Arc<Sought>,
    /// The [command](crate::history::Made::command) of its histories.
    pub(super) command: Digest,
}

impl Occasion {
    /// That of a step whose inputs follow from `origin`. `typed`: the command as the launcher sent it, of which `executed` is what a
    /// wrapper script makes. None: it is no compile.
    pub(super) fn of(
        config: &Config,
        step: &Step,
        executed: &Arc<Invocation>,
        typed: &Arc<Invocation>,
        origin: Origin,
    ) -> Option<Occasion> {
        let Step::Compile { compile, toolchain } = step else { return None };
        let relocation = (config.exec.paths == Paths::Shared)
            .then(|| sharing::relocation(&config.workspace, &executed.cwd));
        let mut hasher = Hasher::new();
        hash_invocation(&mut hasher, typed);
        if !Arc::ptr_eq(typed, executed) {
            hash_invocation(&mut hasher, executed);
        }
        // Those of response files among them.
        hasher.field(&compile.arguments.len().to_le_bytes());
        for argument in &compile.arguments {
            hasher.field(argument.as_bytes());
        }
        hasher.field(compile.driver.as_os_str().as_bytes());
        hasher.field(driver_name(&compile.driver, executed).as_bytes());
        hasher.field(logical_directory(&executed.env, &executed.cwd).as_os_str().as_bytes());
        for (name, value) in platform(config, step, executed) {
            hasher.field(name.as_bytes());
            hasher.field(value.as_bytes());
        }
        hasher.field(config.exec.salt.as_bytes());
        let words = hasher.finish();
        Some(Occasion { words, toolchain: Arc::clone(toolchain), origin, relocation })
    }

    pub(super) fn remembered(&self) -> RememberedOccasion {
        RememberedOccasion {
            words: self.words,
            toolchain: Arc::clone(&self.toolchain),
            origin: self.origin.remembered(),
            relocation: self.relocation.clone(),
        }
    }

    /// Whether it is the same now as it was then.
    pub(super) fn is(&self, then: &RememberedOccasion) -> bool {
        let RememberedOccasion { words, toolchain, origin, relocation } = then;
        self.words == *words
            && Arc::ptr_eq(&self.toolchain, toolchain)
            && self.origin.is(origin)
            && self.relocation == *relocation
    }
}

impl Repeats {
    /// What the command came to, if nothing has changed since. Looks at its outputs and at the directories on the way to its
    /// inputs.
    pub(super) fn recall(&self, occasion: &Occasion) -> Option<Arc<Learned>> {
        let learned = self.learned.get(&occasion.words).map(|learned| Arc::clone(&learned))?;
        (occasion.is(&learned.occasion) && learned.holds()).then_some(learned)
    }

    /// Remembers what a command has come to.
    pub(super) fn learn(&self, occasion: &Occasion, action: &Action, command: Digest) {
        let layout = action.layout.clone().filter(|layout| layout.size_bytes() <= LARGEST_LAYOUT_BYTES);
        let Some(layout) = layout else { return };
        let (words, sought) = (occasion.words, Arc::clone(&action.sought));
        let learned = Learned { occasion: occasion.remembered(), layout, sought, command };
        let size = learned.size_bytes();
        if self.size_bytes.fetch_add(size, Ordering::Relaxed) > LARGEST_MEMORY_BYTES {
            self.learned.clear();
            self.size_bytes.store(size, Ordering::Relaxed);
        }
        if let Some(old) = self.learned.insert(words, Arc::new(learned)) {
            self.size_bytes.fetch_sub(old.size_bytes(), Ordering::Relaxed);
        }
    }
}

impl Learned {
    /// About how much memory it takes.
    fn size_bytes(&self) -> usize {
        let paths =
            |output: &Output| size_of::<Output>() + 2 * output.path.as_os_str().len() + output.remote.len();
        let outputs: usize = self.sought.outputs.iter().map(paths).sum();
        size_of::<Learned>() + self.layout.size_bytes() + size_of::<Sought>() + outputs
    }

    fn holds(&self) -> bool {
        let is_special =
            |output: &Output| std::fs::metadata(&output.path).is_ok_and(|there| !there.is_file());
        let special = self.sought.outputs.iter().any(is_special);
        !special && self.layout.holds()
    }
}

fn hash_invocation(hasher: &mut Hasher, invocation: &Invocation) {
    let Invocation { argv, cwd, env, umask: _, stdout_is_terminal, stderr_is_terminal } = invocation;
    hasher.field(&argv.len().to_le_bytes());
    for word in argv {
        hasher.field(word.as_bytes());
    }
    hasher.field(cwd.as_os_str().as_bytes());
    hasher.field(&env.len().to_le_bytes());
    for (name, value) in env {
        hasher.field(name.as_bytes());
        hasher.field(value.as_bytes());
    }
    hasher.field(&[u8::from(*stdout_is_terminal), u8::from(*stderr_is_terminal)]);
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::path::Path;
    use std::path::PathBuf;

    use tempfile::TempDir;

    use super::*;
    use crate::compiler::Compile;
    use crate::compiler::classify;
    use crate::compiler::invocation;
    use crate::dispatch::Dispatcher;
    use crate::dispatch::tests::dispatcher_in;

    /// One compile in a directory of its own, and what is known of it.
    struct Unit {
        space: TempDir,
        dispatcher: Dispatcher,
        config: Config,
        typed: Invocation,
        executed: Option<Invocation>,
        compile: Compile,
        toolchain: Arc<Toolchain>,
        origin: Origin,
    }

    impl Unit {
        async fn new() -> Unit {
            let space = tempfile::tempdir().unwrap();
            let at = |name: &str| space.path().canonicalize().unwrap().join(name);
            std::fs::create_dir_all(at("w/.git")).unwrap();
            std::fs::write(at("w/a.c"), "int a;\n").unwrap();
            let dispatcher = dispatcher_in(&at("."));
            let typed = invocation(&at("w"), "gcc -c a.c");
            let step = dispatcher.step(classify(&typed), &typed).await.unwrap();
            let read = dispatcher.inputs(&step, &Arc::new(typed.clone())).await.unwrap();
            let Step::Compile { compile, toolchain } = step else { unreachable!("a compile") };
            let compile = Compile::clone(&compile);
            let (config, origin) = (Config::default(), read.origin.unwrap());
            Unit { space, dispatcher, config, typed, executed: None, compile, toolchain, origin }
        }

        fn at(&self, name: &str) -> PathBuf {
            self.space.path().canonicalize().unwrap().join(name)
        }

        fn occasion(&self) -> Occasion {
            let typed = Arc::new(self.typed.clone());
            let executed = self.executed.clone().map_or_else(|| Arc::clone(&typed), Arc::new);
            let (compile, toolchain) = (Arc::new(self.compile.clone()), Arc::clone(&self.toolchain));
            let step = Step::Compile { compile, toolchain };
            Occasion::of(&self.config, &step, &executed, &typed, self.origin.clone()).unwrap()
        }

        /// What this unit reads now, by one who remembers, or by one who does not.
        async fn read(&self, dispatcher: &Dispatcher) -> Origin {
            let typed = Arc::new(self.typed.clone());
            dispatcher.scan(&typed).await.unwrap().origin.unwrap()
        }
    }

    /// The occasion that `change` makes differs from the one before, which is the same when it comes again.
    #[track_caller]
    fn differs(unit: &mut Unit, what: &str, change: impl FnOnce(&mut Unit)) {
        let before = unit.occasion().remembered();
        assert!(unit.occasion().is(&before), "{what}");
        change(unit);
        assert!(!unit.occasion().is(&before), "{what}");
    }

    #[tokio::test]
    async fn words_and_surroundings_make_an_occasion() {
        let mut unit = Unit::new().await;
        let word = |text: &str| OsString::from(text);
        differs(&mut unit, "a word", |unit| unit.typed.argv[0] = word("/usr/bin/gcc"));
        differs(&mut unit, "its end", |unit| {
            unit.typed.argv.truncate(2);
            unit.typed.argv[1] = word("-ca.c");
        });
        differs(&mut unit, "a variable", |unit| unit.typed.env.push((word("A"), word("1"))));
        differs(&mut unit, "its value", |unit| unit.typed.env[1].1 = word("2"));
        differs(&mut unit, "a terminal", |unit| unit.typed.stderr_is_terminal = true);
        differs(&mut unit, "another", |unit| unit.typed.stdout_is_terminal = true);
        differs(&mut unit, "a wrapper", |unit| unit.executed = Some(unit.typed.clone()));
        differs(&mut unit, "what it makes", |unit| {
            unit.executed.as_mut().unwrap().argv.push(word("-g"));
        });
        differs(&mut unit, "a response file", |unit| unit.compile.arguments.push(word("-DA")));
        let elsewhere = unit.at("elsewhere");
        std::fs::create_dir(&elsewhere).unwrap();
        differs(&mut unit, "a directory", |unit| unit.typed.cwd = elsewhere);
        // What is there under the same words.
        let links = [unit.at("bin/gcc"), unit.at("here"), unit.at("bin/cc")];
        std::fs::create_dir(unit.at("bin")).unwrap();
        let point = |link: &Path, to: &Path| {
            let _ = std::fs::remove_file(link);
            std::os::unix::fs::symlink(to, link).unwrap();
        };
        point(&links[0], Path::new("/usr/bin/gcc"));
        differs(&mut unit, "a compiler", |unit| unit.compile.driver.clone_from(&links[0]));
        point(&links[2], Path::new("/usr/bin/gcc"));
        differs(&mut unit, "its path", |unit| unit.compile.driver.clone_from(&links[2]));
        unit.compile.driver.clone_from(&links[0]);
        differs(&mut unit, "that it stands for", |_| point(&links[0], Path::new("/usr/bin/g++")));
        let (cwd, other) = (unit.typed.cwd.clone(), unit.at("w"));
        point(&links[1], &cwd);
        unit.executed = None;
        unit.typed.env.push((word("PWD"), links[1].clone().into()));
        differs(&mut unit, "the name of the directory", |_| point(&links[1], &other));
    }

    #[tokio::test]
    async fn configuration_and_inputs_make_an_occasion() {
        let mut unit = Unit::new().await;
        differs(&mut unit, "a salt", |unit| unit.config.exec.salt = "x".into());
        differs(&mut unit, "a property", |unit| {
            unit.config.platform.properties.insert("OSFamily".into(), "Linux".into());
        });
        differs(&mut unit, "its value", |unit| {
            unit.config.platform.properties.insert("OSFamily".into(), "linux".into());
        });
        differs(&mut unit, "its name", |unit| {
            unit.config.platform.properties.clear();
            unit.config.platform.properties.insert("family".into(), "linux".into());
        });
        differs(&mut unit, "sharing", |unit| unit.config.exec.paths = Paths::Shared);
        let around = vec![unit.at(".")];
        differs(&mut unit, "a workspace", |unit| unit.config.workspace.roots = around);
        let again = unit.read(&unit.dispatcher).await;
        assert!(unit.origin.is(&again.remembered()), "a scan that holds is the same");
        let others = Unit::new().await;
        let elsewhere = unit.read(&others.dispatcher).await;
        differs(&mut unit, "a scan", |unit| unit.origin = elsewhere);
        differs(&mut unit, "what is known of the compiler", |unit| unit.toolchain = others.toolchain);
        // What a flag names is looked at each time.
        std::fs::write(unit.at("w/list"), "fun:f\n").unwrap();
        unit.typed.argv = ["clang", "-c", "-fsanitize=address", "-fsanitize-ignorelist=list", "a.c"]
            .map(Into::into)
            .to_vec();
        unit.origin = unit.read(&unit.dispatcher).await;
        std::fs::write(unit.at("w/list"), "fun:g\n").unwrap();
        let further = unit.read(&unit.dispatcher).await;
        differs(&mut unit, "a list", |unit| unit.origin = further);
    }
}

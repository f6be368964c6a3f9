//! Which commands may run on the twin: those that need nothing of this machine but the workspace, and programs that any
//! machine with the same image has.
//! Knows nothing of the twin. Of files it reads scripts and response files, and follows the links of programs.
//!
//! A command without a `[[route]]` is looked at from its own side: where it works, which program it is, which paths and
//! variables it names. What is doubtful stays here, for here it does what it did without farcc.

mod left_out;
mod programs;
mod script;
mod test_list;
mod whereabouts;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;

use farcc::recipe::is_trifle;

use crate::compiler::Invocation;
use crate::compiler::is_driver;
use crate::config::Config;
use crate::config::Destination;
use crate::dispatch::leaving::left_out::LeftOut;
use crate::dispatch::leaving::programs::Habits;
use crate::dispatch::leaving::script::Command;
use crate::dispatch::leaving::whereabouts::Whereabouts;
use crate::dispatch::policy::matching_route;
use crate::paths;
use crate::reason::Reason;

/// Scripts inside of scripts inside of commands: deeper, nobody looks.
const MOST_DEPTH: usize = 8;

/// Whether a command that is neither compile nor link may run on the twin, or why it stays here. `roots` are the
/// workspace's directories, physical.
///
/// # Errors
/// What keeps it here.
pub(super) fn may_leave(config: &Config, invocation: &Invocation, roots: &[PathBuf]) -> Result<(), Reason> {
    if !paths::is_below_any(&invocation.cwd, roots) {
        return Err(Reason::OutsideWorkspace(invocation.cwd.display().to_string()));
    }
    // Who writes a route knows the command.
    if matching_route(config, invocation).is_some_and(|route| route.to == Destination::Twin) {
        return Ok(());
    }
    let may_connect = config.twin.network;
    let whereabouts = Whereabouts { invocation, roots, left_out: LeftOut::of(roots).into() };
    let departure = Departure { invocation, roots, may_connect };
    let words: Vec<Vec<u8>> = invocation.argv.iter().map(|word| word.as_bytes().to_vec()).collect();
    match departure.of_words(&words, 0) {
        Stay::For(reason) => return Err(reason),
        Stay::Trifle(name) => {
            let text = format!("{name}: the way would cost more than the command does");
            return Err(Reason::StaysHere(text));
        }
        Stay::No => {}
    }
    whereabouts.check_places()?;
    whereabouts.check_words(&words)?;
    whereabouts.check_variables()
}

/// Whether something keeps a command here.
enum Stay {
    /// Nothing does.
    No,
    /// It is done sooner than it is sent; its name.
    Trifle(String),
    /// It needs this machine.
    For(Reason),
}

impl Stay {
    fn here(name: &str, why: &str) -> Stay {
        Stay::For(Reason::StaysHere(format!("{name} {why}")))
    }
}

/// A command that is about to leave.
struct Departure<'a> {
    invocation: &'a Invocation,
    roots: &'a [PathBuf],
    /// Whether the twin lets commands open connections.
    may_connect: bool,
}

impl Departure<'_> {
    /// Of one command, the program first.
    fn of_words(&self, words: &[Vec<u8>], depth: usize) -> Stay {
        let Some((program, arguments)) = words.split_first() else { return Stay::No };
        let name = base_name(program);
        if depth > MOST_DEPTH {
            return Stay::here(&name, "starts more than farcc follows");
        }
        if let Some(compiler) = words.iter().map(|word| base_name(word)).find(|name| is_compiler(name)) {
            return Stay::here(&name, &format!("starts {compiler}, which goes its own way"));
        }
        if is_trifle(OsStr::from_bytes(program)) {
            return Stay::Trifle(name);
        }
        match programs::habits(&name, arguments) {
            Habits::Trifle => return Stay::Trifle(name),
            Habits::Bound(why) => return Stay::here(&name, why),
            Habits::Connects if !self.may_connect => {
                return Stay::here(&name, "opens connections, and [twin] network is false");
            }
            Habits::Starts(0) => return Stay::here(&name, "starts nothing"),
            Habits::Starts(skipped) => {
                let is_builtin = depth > 0 && programs::is_builtin_starter(program);
                if !is_builtin && let Err(reason) = self.check_program(program) {
                    return Stay::For(reason);
                }
                return self.of_words(words.get(skipped..).unwrap_or_default(), depth + 1);
            }
            Habits::Shell(text) => {
                if let Err(reason) = self.check_program(program) {
                    return Stay::For(reason);
                }
                return self.of_script(&name, text, depth);
            }
            // There, nobody would find the launcher.
            Habits::Tests if test_list::are_launched(arguments, &self.invocation.cwd) => {
                return Stay::here(&name, "starts tests that go their own ways");
            }
            Habits::Connects | Habits::Tests | Habits::Unknown => {}
        }
        let file = match self.check_program(program) {
            Ok(file) => file,
            Err(reason) => return Stay::For(reason),
        };
        if let Some(why) = self.told_by_texts(&file, &name, arguments) {
            return Stay::here(&name, &why);
        }
        Stay::No
    }

    /// Of what a shell is told to do: one command that needs this machine is enough, one that is no trifle suffices to go.
    fn of_script(&self, shell: &str, text: &[u8], depth: usize) -> Stay {
        let Some(commands) = script::commands(text) else {
            return Stay::here(shell, "runs a script that farcc does not follow");
        };
        // A path upwards is judged from where the command began.
        let mut changes = commands.iter().skip_while(|command| !command.is_cd());
        if changes.next().is_some() && changes.any(Command::leads_up) {
            return Stay::here(shell, "names places by directories that it changes to");
        }
        let mut leaves = false;
        for Command { words, is_clear } in &commands {
            match programs::builtin(words.first().map_or(b"".as_slice(), Vec::as_slice)) {
                Some(Habits::Bound(why)) => return Stay::here(shell, why),
                Some(_) => continue,
                None => {}
            }
            if !is_clear {
                return Stay::here(shell, "starts a program that only the shell knows");
            }
            match self.of_words(words, depth + 1) {
                Stay::No => leaves = true,
                Stay::Trifle(_) => {}
                stays @ Stay::For(_) => return stays,
            }
        }
        if leaves { Stay::No } else { Stay::Trifle(shell.to_owned()) }
    }

    /// The file behind a program's name, if a machine with the same image and the same workspace has it as well.
    fn check_program(&self, program: &[u8]) -> Result<PathBuf, Reason> {
        let program = OsStr::from_bytes(program);
        let Some(found) = self.invocation.find(program) else {
            return Err(Reason::StaysHere(format!("{} is not to be found", program.display())));
        };
        // Links may lead out of the workspace, as those of a virtual environment do.
        let file = found.canonicalize().unwrap_or_else(|_| found.clone());
        for path in [&found, &file] {
            let path = paths::lexically_normal(path);
            if !paths::is_system(&path) && !paths::is_below_any(&path, self.roots) {
                return Err(Reason::OutsideWorkspace(path.display().to_string()));
            }
        }
        Ok(file)
    }

    /// What the texts that a program is given to run name: its own, if it is a script, and those of interpreters.
    fn told_by_texts(&self, file: &Path, name: &str, arguments: &[Vec<u8>]) -> Option<String> {
        let own = script::text_of_script(file);
        if let Some(interpreter) = own.as_deref().and_then(script::interpreter)
            && let Err(reason) = self.check_program(interpreter.as_bytes())
        {
            return Some(format!("is run by {interpreter}: {reason}"));
        }
        if paths::is_system(file) && !programs::is_interpreter(name) {
            return None;
        }
        let named = arguments.iter().filter(|word| !word.starts_with(b"-"));
        let named = named.filter_map(|word| {
            let path = self.invocation.cwd.join(OsStr::from_bytes(word));
            let is_script = programs::is_interpreter(name) && !paths::is_system(&path);
            is_script.then(|| script::text(&path)).flatten()
        });
        // `python3 -c` and its like have the text with them.
        let given = arguments.iter().filter(|_| programs::is_interpreter(name)).cloned();
        let mut texts = own.into_iter().chain(named).chain(given);
        texts.find_map(|text| programs::named_in(&text, self.may_connect)).map(|word| format!("names {word}"))
    }
}

/// Whether a word is a compiler, or what stands before one: it has its own way through farcc.
fn is_compiler(name: &str) -> bool {
    is_driver(name) || name == "farcc" || name.starts_with("farcc-")
}

fn base_name(word: &[u8]) -> String {
    Path::new(OsStr::from_bytes(word)).file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::config::Route;

    /// A workspace with a few programs and files, and what becomes of commands in it.
    struct Place {
        directory: tempfile::TempDir,
        root: PathBuf,
        config: Config,
        environment: Vec<(OsString, OsString)>,
    }

    impl Place {
        fn new() -> Place {
            let directory = tempfile::tempdir().unwrap();
            let top = directory.path().canonicalize().unwrap();
            let root = top.join("ws");
            std::fs::create_dir_all(root.join("build")).unwrap();
            std::fs::create_dir_all(top.join("elsewhere/lib")).unwrap();
            let place = Place {
                directory,
                root,
                config: Config::default(),
                environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
            };
            for (path, text) in [
                ("gen", "#!/bin/sh\necho made\n"),
                ("version.sh", "#!/bin/sh\ngit describe --always > version\n"),
                ("legit.sh", "#!/bin/sh\n# legitimate, not from .gitignore or digit\n"),
                ("gen.py", "print('x')\n"),
                ("fetch.py", "import subprocess\nsubprocess.run(['curl', '-O', 'x'])\n"),
                ("version.cmake", "find_package(Git)\nexecute_process(COMMAND ${GIT_EXECUTABLE} describe)\n"),
                ("gen.cmake", "file(WRITE out.h \"x\")\n"),
                (".farccignore", "*.log\n/cache/\n/private-gen\n"),
                ("private-gen", "#!/bin/sh\n"),
                ("../elsewhere/tool", "#!/bin/sh\n"),
                ("../elsewhere/env", "#!/bin/sh\n"),
                ("sort", "#!/bin/sh\n"),
                ("rsp", "-a\n/usr/share/x\n"),
                ("build/CTestTestfile.cmake", "add_test(t \"/usr/bin/farcc\" \"/ws/t\")\n"),
                ("build/AutogenInfo.json", "{\"QT_MOC_EXECUTABLE\": \"/usr/lib/qt5/bin/moc\"}\n"),
            ] {
                place.file(path, text);
            }
            place.file("longrsp", &"-a ".repeat(1 << 19));
            place.file("badrsp", &format!("-o '{}/lib'\n", place.elsewhere()));
            place
                .file("MyInfo.json", &format!("{{\"QT_MOC_EXECUTABLE\": \"{}/tool\"}}\n", place.elsewhere()));
            place.file("foreign.sh", &format!("#!{}/tool\n", place.elsewhere()));
            for (name, target) in [
                ("data", top.join("elsewhere/lib")),
                ("inner", "build".into()),
                ("system", "/usr/lib".into()),
            ] {
                std::os::unix::fs::symlink(target, place.root.join(name)).unwrap();
            }
            std::os::unix::fs::symlink(top.join("elsewhere/tool"), place.root.join("link")).unwrap();
            std::os::unix::fs::symlink("/usr/bin/env", place.root.join("venv")).unwrap();
            place
        }

        fn file(&self, path: &str, text: &str) {
            use std::os::unix::fs::PermissionsExt;
            let path = self.root.join(path);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }

        fn elsewhere(&self) -> String {
            self.directory.path().canonicalize().unwrap().join("elsewhere").display().to_string()
        }

        /// A line of words between blanks, where `'…'` is one word; `WS` and `OUT` are the workspace and a place beside it.
        fn judge(&self, line: &str) -> Result<(), Reason> {
            let line = line.replace("WS", &self.root.display().to_string()).replace("OUT", &self.elsewhere());
            let mut argv: Vec<OsString> = Vec::new();
            for (index, piece) in line.split('\'').enumerate() {
                match index % 2 {
                    0 => argv.extend(piece.split_whitespace().map(OsString::from)),
                    _ => argv.push(piece.into()),
                }
            }
            let invocation = Invocation {
                argv,
                cwd: self.root.clone(),
                env: self.environment.clone(),
                umask: 0o22,
                stdout_is_terminal: false,
                stderr_is_terminal: false,
            };
            may_leave(&self.config, &invocation, std::slice::from_ref(&self.root))
        }

        fn check(&self, line: &str, expected: &str) {
            let judged = match self.judge(line) {
                Ok(()) => "leaves".to_owned(),
                Err(reason) => reason.to_string(),
            };
            let judged =
                judged.replace(&self.elsewhere(), "OUT").replace(&self.root.display().to_string(), "WS");
            assert!(
                judged == expected
                    || (expected.ends_with('…') && judged.starts_with(expected.trim_end_matches('…'))),
                "{line}: {judged}, not {expected}"
            );
        }
    }

    #[test]
    fn what_leaves_and_what_stays() {
        let place = Place::new();
        for (line, expected) in [
            // Generators, and what they name.
            ("./gen a b", "leaves"),
            ("WS/gen -o WS/build/out.h", "leaves"),
            ("perl -e 'print 1' -o build/x", "leaves"),
            ("awk '/pattern/ {print}' a", "leaves"),
            ("./gen s,/,_,g https://host/path --regex=/no/such", "leaves"),
            ("./gen /dev/null /usr/share/x --to=/dev/stdout", "leaves"),
            ("./gen -o OUT/x", "outside_workspace: OUT/x"),
            ("./gen -oOUT/x", "outside_workspace: OUT/x"),
            ("./gen --to=OUT/x", "outside_workspace: OUT/x"),
            ("./gen --map=a:OUT/x,b", "outside_workspace: OUT/x"),
            ("./gen --ws=WS/../elsewhere/x", "outside_workspace: OUT/x"),
            ("./gen ../elsewhere/x", "outside_workspace: OUT/x"),
            ("./gen --to=../elsewhere/x", "outside_workspace: OUT/x"),
            ("./gen build/../x", "leaves"),
            ("./gen data", "outside_workspace: WS/data"),
            ("./gen --from=WS/data", "outside_workspace: WS/data"),
            ("./gen -odata", "outside_workspace: WS/data"),
            ("./gen inner system", "leaves"),
            ("./gen file:///etc/passwd", "outside_workspace: /etc/passwd"),
            ("./gen /dev/tty", "outside_workspace: /dev/tty"),
            ("./gen /proc/cpuinfo", "outside_workspace: /proc/cpuinfo"),
            ("./gen @rsp", "leaves"),
            ("./gen @badrsp", "outside_workspace: OUT/lib"),
            ("./gen @missing", "leaves"),
            ("./gen @longrsp", "response_file: WS/longrsp"),
            // Where programs lie.
            ("nowhere-to-be-found", "stays_here: nowhere-to-be-found is not to be found"),
            ("OUT/tool", "outside_workspace: OUT/tool"),
            ("./link", "outside_workspace: OUT/tool"),
            ("./venv ./gen", "leaves"),
            ("./foreign.sh", "stays_here: foreign.sh is run by OUT/tool: outside_workspace: OUT/tool"),
            // What rules leave out is only here, and what is written there would stay there.
            ("./private-gen a", "stays_here: WS/private-gen is left out by a .farccignore"),
            ("sh -c './gen a && ./private-gen'", "stays_here: WS/private-gen is left out by a .farccignore"),
            ("./gen run.log", "stays_here: WS/run.log is left out by a .farccignore"),
            ("./gen --to=build/../cache/x", "stays_here: WS/cache/x is left out by a .farccignore"),
            ("./gen cache .farccignore", "leaves"),
            ("perl -e 'print x.log'", "leaves"),
            // Scripts that ask what is only here.
            ("./version.sh", "stays_here: version.sh names git"),
            ("sh version.sh", "stays_here: sh names git"),
            ("./legit.sh", "leaves"),
            ("perl gen.py", "leaves"),
            ("python3 -m pip install x", "stays_here: python3 …"),
            ("perl fetch.py", "stays_here: perl names curl"),
            ("perl -e 'system(\"git describe\")'", "stays_here: perl names git"),
            // Builds, and what belongs to this machine.
            ("make -j8 all", "stays_here: make starts commands that go their own ways"),
            ("/usr/bin/ninja", "stays_here: ninja starts commands that go their own ways"),
            ("cargo build", "stays_here: cargo …"),
            ("sudo ./gen", "stays_here: sudo …"),
            ("ssh host true", "stays_here: ssh …"),
            ("rsync -a host:x .", "stays_here: rsync …"),
            ("docker run x", "stays_here: docker …"),
            ("systemctl status", "stays_here: systemctl …"),
            ("mount x y", "stays_here: mount …"),
            ("git describe", "stays_here: git …"),
            ("gdb ./gen", "stays_here: gdb …"),
            ("apt-get install x", "stays_here: apt-get …"),
            ("./configure --prefix=/usr", "stays_here: configure …"),
            ("curl -O http://host/x", "stays_here: curl opens connections, and [twin] network is false"),
            ("gpg --sign x", "stays_here: gpg …"),
            // Compiles go their own way.
            ("sh ./libtool --mode=compile gcc -c a.c", "stays_here: sh starts gcc, which goes its own way"),
            (
                "env CC=x /usr/bin/x86_64-linux-gnu-g++-12 a.cc",
                "stays_here: env starts x86_64-linux-gnu-g++-12…",
            ),
            ("./gen --lang cpp", "leaves"),
            // Trifles.
            ("true", "stays_here: true: the way would cost more than the command does"),
            ("touch stamp", "stays_here: touch: …"),
            ("./sort a", "leaves"),
            ("/bin/cp a b", "stays_here: cp: …"),
            ("install -m644 a OUT/b", "stays_here: install: …"),
            // What starts others.
            ("env A=1 -u B ./gen", "stays_here: B is not to be found"),
            ("env A=1 ./gen", "leaves"),
            ("OUT/env A=1 ./gen", "outside_workspace: OUT/env"),
            ("sh -c 'exec ./gen'", "leaves"),
            ("env A=1 git describe", "stays_here: git …"),
            ("nice -n 5 ./gen", "leaves"),
            ("timeout 10s touch x", "stays_here: touch: …"),
            ("nice", "stays_here: nice starts nothing"),
            ("nohup ./gen", "stays_here: nohup …"),
            // CMake in its modes.
            ("cmake -S . -B build", "stays_here: cmake …"),
            ("cmake --build build", "stays_here: cmake …"),
            ("cmake --install build", "stays_here: cmake …"),
            ("cmake -E copy a b", "stays_here: cmake: …"),
            ("cmake -E tar cf x.tar a", "leaves"),
            ("cmake -E cmake_autogen build/AutogenInfo.json Debug", "leaves"),
            ("cmake -E cmake_autogen MyInfo.json Debug", "outside_workspace: OUT/tool"),
            ("cmake -E env A=1 ./gen x", "leaves"),
            ("cmake -E env A=1 git x", "stays_here: git …"),
            ("cmake -E chdir build WS/gen", "leaves"),
            ("cmake -E time ./gen", "leaves"),
            ("cmake -DA=1 -P gen.cmake", "leaves"),
            ("cmake -P version.cmake", "stays_here: cmake names GIT_EXECUTABLE"),
            ("cmake -P build/cmake_install.cmake", "stays_here: cmake …"),
            ("ctest -j8", "leaves"),
            ("ctest --test-dir build", "stays_here: ctest starts tests that go their own ways"),
            ("ctest -D Nightly", "stays_here: ctest …"),
            ("cpack -G TGZ", "stays_here: cpack …"),
            ("ccmake -S. -Bbuild", "stays_here: ccmake …"),
            // Shells.
            ("sh -c './gen a && ./gen b'", "leaves"),
            ("sh -ec 'cd build && WS/gen > out'", "leaves"),
            ("sh -c 'cd .. && WS/gen x'", "outside_workspace: …"),
            (
                "sh -c 'cd build/.. && WS/gen ../x'",
                "stays_here: sh names places by directories that it changes to",
            ),
            ("bash -c 'touch a; echo b'", "stays_here: bash: …"),
            ("sh -c 'echo $(git describe) > v'", "stays_here: git …"),
            ("sh -c 'if ./gen; then git x; fi'", "stays_here: git …"),
            ("sh -c './gen > OUT/x'", "outside_workspace: OUT/x"),
            ("sh -c './gen ~/x'", "outside_workspace: ~"),
            ("sh -c '$TOOL x'", "stays_here: sh starts a program that only the shell knows"),
            ("sh -c 'eval x'", "stays_here: sh …"),
            ("sh -c 'case x in a) b;; esac'", "stays_here: sh runs a script that farcc does not follow"),
            ("sh -c 'gcc -c a.c'", "stays_here: gcc starts gcc, which goes its own way"),
            ("sh -c 'A=1 ./gen \"$B\"'", "leaves"),
            ("sh -c \"unfinished", "stays_here: sh …"),
        ] {
            place.check(line, expected);
        }
    }

    #[test]
    fn where_nothing_is_sent_nothing_runs() {
        let place = Place::new();
        std::fs::write(place.root.join("build/.farccignore"), "/*\n").unwrap();
        std::fs::write(place.root.join("build/here"), "").unwrap();
        place.check("./gen build/here", "stays_here: WS/build/here is left out by a .farccignore");
        place.check(
            "perl -e 'open x, q(build/here)'",
            "stays_here: WS/build/here is left out by a .farccignore",
        );
        place.check("perl -e 'open x, q(build/other)'", "leaves");
        std::fs::write(place.root.join(".farccignore"), "/build/\n").unwrap();
        place.check("sh -c 'cd build && WS/gen'", "stays_here: WS/build is left out by a .farccignore");
        place.check("./gen", "leaves");
    }

    #[test]
    fn variables_that_lead_elsewhere() {
        let mut place = Place::new();
        place.environment.push(("LD_LIBRARY_PATH".into(), "/usr/lib:/nonexistent:build".into()));
        place.environment.push(("SSH_AUTH_SOCK".into(), format!("{}/lib", place.elsewhere()).into()));
        place.environment.push(("DATA".into(), format!("{}/lib", place.elsewhere()).into()));
        place.check("./gen", "leaves");
        place.check("sh -c './gen \"$DATA\"'", "outside_workspace: DATA=OUT/lib");
        place.environment.push(("PYTHONPATH".into(), format!("{}/lib", place.elsewhere()).into()));
        place.check("./gen", "outside_workspace: PYTHONPATH=OUT/lib");
    }

    #[test]
    fn routes_and_the_network_are_the_users() {
        let mut place = Place::new();
        let route = |pattern: &str| Route {
            pattern: regex::bytes::Regex::new(pattern).unwrap(),
            to: Destination::Twin,
            platform: std::collections::BTreeMap::new(),
        };
        place.config.routes = vec![route("^git describe")];
        place.check("git describe", "leaves");
        assert!(matches!(place.judge("git status"), Err(Reason::StaysHere(_))));
        place.config.twin.network = true;
        place.check("sh -c 'perl fetch.py'", "leaves");
        let nowhere = may_leave(
            &place.config,
            &Invocation {
                argv: vec!["git".into(), "describe".into()],
                cwd: "/".into(),
                env: Vec::new(),
                umask: 0,
                stdout_is_terminal: false,
                stderr_is_terminal: false,
            },
            std::slice::from_ref(&place.root),
        );
        assert_eq!(nowhere, Err(Reason::OutsideWorkspace("/".to_owned())));
    }
}

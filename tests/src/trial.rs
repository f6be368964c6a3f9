//! The builds of a real project through farcc, each compared with what plain builds make.
//! Knows nothing of the cluster behind farcc.

use std::fmt;
use std::time::Duration;

use crate::compare::Comparison;
use crate::compare::Judge;
use crate::execve_trace::Work;
use crate::execve_trace::trace;
use crate::plain_build::Site;
use crate::project::Compiler;
use crate::project::Project;
use crate::say;
use crate::space::Stats;
use crate::space::TestSpace;

/// One build through farcc, as a row of the table.
struct Row<'a> {
    project: &'a Project,
    compiler: Compiler,
    build: &'a str,
    stats: &'a Stats,
    products: &'a Comparison,
    took: Duration,
}

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<16} {:<5} {:<13} {:>6.1} s  {:>3} compiles: {:>3} remote, {:>3} local, {:>3} hits  {}",
            self.project.name,
            self.compiler.c(),
            self.build,
            self.took.as_secs_f64(),
            self.stats.compiles(),
            self.stats.verdict("executed_remote"),
            self.stats.verdict("executed_local"),
            self.stats.hits(),
            self.products,
        )
    }
}

/// A project with everything that its builds share.
pub struct Trial<'a> {
    /// Where it is built.
    pub space: &'a TestSpace,
    /// What is built.
    pub project: &'a Project,
    /// With what.
    pub compiler: Compiler,
    /// Its place in the space.
    pub site: Site<'a>,
    /// What two plain builds made.
    pub judge: Judge,
}

impl<'a> Trial<'a> {
    /// Builds `project` plainly, twice, to compare the others with: `None` where its source cannot be had here, which
    /// was said.
    pub fn new(space: &'a TestSpace, project: &'a Project, compiler: Compiler) -> Option<Trial<'a>> {
        let site = Site::new(space, project, compiler)?;
        let (first, plain_time) = site.plain_build("plain-1");
        let (second, _) = site.plain_build("plain-2");
        let judge = Judge::new(&first, &second);
        let (name, c) = (project.name, compiler.c());
        say(&format!("{name:<16} {c:<5} {:<13} {:>6.1} s", "plain", plain_time.as_secs_f64()));
        Some(Trial { space, project, compiler, site, judge })
    }

    /// One build through farcc in a fresh tree, compared with the plain ones. Configuring is not counted.
    ///
    /// # Panics
    /// When it fails, or makes other products.
    pub fn build(&self, name: &str) -> Stats {
        self.build_while(name, || ())
    }

    /// The same while `meanwhile` happens, which begins when the build step does. It stays on this thread, so that
    /// servers that it starts outlive it.
    ///
    /// # Panics
    /// When it fails, or makes other products.
    pub fn build_while(&self, name: &str, meanwhile: impl FnOnce()) -> Stats {
        self.site.lay();
        self.site.configure(true);
        self.space.reset_stats();
        let took = std::thread::scope(|scope| {
            let build = scope.spawn(|| self.site.build(true));
            meanwhile();
            build.join().unwrap()
        });
        let stats = self.space.stats();
        self.finish(name, &stats, took);
        stats
    }

    /// The same under strace: no compiler may run, and every compile must be a hit. The daemon is started by
    /// the build itself, below strace, so that what the daemon starts is seen too. A daemon that `knows` the
    /// compilers from earlier builds must not even ask them about themselves. Nor may the cluster run anything, as
    /// far as it tells: `executions` is its count.
    ///
    /// # Panics
    /// Else.
    pub fn build_without_compiler(
        &self,
        name: &str,
        knows: bool,
        executions: Option<&dyn Fn() -> u64>,
    ) -> Stats {
        self.site.lay();
        self.site.configure(true);
        self.space.reset_stats();
        // A configure script's own compiles are new each time: their files are named by process id.
        let executions = || executions.map(|count| count());
        let before = executions();
        self.space.stop_daemon();
        let stats_file = self.space.root().join("stats.json");
        let script = format!(
            "{}\nstatus=$?\nfarccd stats --json > {}\nfarccd stop\nexit $status",
            self.site.build_script(true),
            stats_file.display()
        );
        let trace = trace(self.space, self.project.name, &script);
        let took = trace.finished.took;
        trace.assert_no_compiler_ran();
        assert_eq!(executions(), before, "{name}: the server ran something for a hit");
        let questions = trace.of(Work::Question).len();
        let started = trace.started.len();
        assert!(!knows || questions == 0, "{name}: {:#?}", trace.of(Work::Question));
        trace.finished.success();
        let stats = Stats::parse(&std::fs::read(stats_file).unwrap());
        self.finish(name, &stats, took);
        say(&format!(
            "    {started} programs were started, {questions} of them compilers asked about themselves"
        ));
        assert!(stats.compiles() > 0, "{name}: {}", stats.0);
        assert_eq!(stats.hits(), stats.compiles(), "{name}: not every compile was a hit: {}", stats.0);
        stats
    }

    fn finish(&self, build: &str, stats: &Stats, took: Duration) {
        let products = self.judge.compare(&self.site.tree());
        let row =
            Row { project: self.project, compiler: self.compiler, build, stats, products: &products, took };
        say(&row.to_string());
        products.assert_equal(&format!("{} with {}, {build}", self.project.name, self.compiler.c()));
        self.site.test();
    }
}

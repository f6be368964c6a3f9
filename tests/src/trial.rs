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
            "{:<16} {:<5} {:<13} {:>6.1} s",
            self.project.name,
            self.compiler.c(),
            self.build,
            self.took.as_secs_f64(),
        )?;
        for (kind, word) in [("compile", "compiles"), ("link", "links"), ("archive", "archives")] {
            let (all, hits) = (self.stats.all_of_kind(kind), self.stats.hits_of_kind(kind));
            let remote = self.stats.of_kind(kind, "executed_remote");
            let here = all - hits - remote;
            write!(f, "  {all:>3} {word}: {remote:>3} remote, {here:>3} here, {hits:>3} hits;")?;
        }
        write!(f, "  {}", self.products)
    }
}

/// At least this many of a hundred links and archives run on the cluster, or are hits. Changes in place are neither.
const LINKS_PERCENT: u64 = 95;

/// Nearly all links and archives have what `of_kind` counts: among all commands a few that never do would not be seen.
#[track_caller]
fn assert_links(stats: &Stats, of_kind: impl Fn(&str) -> u64) {
    let kinds = ["link", "archive"];
    let count: u64 = kinds.map(of_kind).iter().sum();
    let all: u64 = kinds.map(|kind| stats.all_of_kind(kind)).iter().sum();
    assert!(all > 0, "nothing was linked: {}", stats.0);
    assert!(count * 100 >= all * LINKS_PERCENT, "{count} of {all} links and archives: {}", stats.0);
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

    /// The same with a cluster that has no results yet, and runs the links and archives, too.
    ///
    /// # Panics
    /// When it does not, or as [`build`](Self::build).
    pub fn build_remotely(&self, name: &str) -> Stats {
        let stats = self.build(name);
        if self.space.launches_links() {
            assert_links(&stats, |kind| stats.of_kind(kind, "executed_remote"));
        }
        stats
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
        if self.space.launches_links() {
            assert_links(&stats, |kind| stats.hits_of_kind(kind));
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(links: &str) -> Stats {
        let text = format!(
            r#"{{"commands": 101, "by_verdict": {{}}, "by_kind": {{"compile": {{"executed_remote": 99}}, "link": {links},
            "archive": {{"executed_remote": 1, "passed_through": 0}}}}}}"#
        );
        Stats::parse(text.as_bytes())
    }

    fn check(links: &str) {
        let stats = stats(links);
        assert_links(&stats, |kind| stats.of_kind(kind, "executed_remote"));
    }

    #[test]
    fn links_and_archives_count_together() {
        check(r#"{"executed_remote": 18, "executed_local": 1}"#);
    }

    #[test]
    #[should_panic(expected = "1 of 2 links and archives")]
    fn a_link_that_stays_here_is_not_lost_among_compiles() {
        check(r#"{"executed_remote": 0, "executed_local": 1}"#);
    }
}

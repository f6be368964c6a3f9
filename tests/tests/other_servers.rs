//! Whole builds on servers that other people wrote, each started as `tests/cluster/` has it: part of
//! `FARCC_TESTS=full`.
//!
//! What each server must show is the same: what comes out of a build is what plain builds make, and a machine that
//! comes later, with an empty store, needs no compiler.

#![allow(clippy::unwrap_used, clippy::panic)]

use farcc_tests::cluster::bazel_remote::Access;
use farcc_tests::cluster::bazel_remote::BASIC_CREDENTIALS;
use farcc_tests::cluster::bazel_remote::BazelRemote;
use farcc_tests::cluster::buildbarn::Buildbarn;
use farcc_tests::cluster::buildbarn::PLATFORM;
use farcc_tests::cluster::buildbox::Buildbox;
use farcc_tests::cluster::certificates::Certificates;
use farcc_tests::compare::Kind;
use farcc_tests::compare::products;
use farcc_tests::full_tier;
use farcc_tests::project::Compiler;
use farcc_tests::project::FMT_SHARED;
use farcc_tests::project::GOOGLETEST_THIN;
use farcc_tests::project::LUA_MAKE;
use farcc_tests::project::Project;
use farcc_tests::project::ZLIB_CMAKE;
use farcc_tests::say;
use farcc_tests::skipped;
use farcc_tests::space::Stats;
use farcc_tests::space::TestSpace;
use farcc_tests::space::wait_until;
use farcc_tests::trial::Trial;

/// Whether to go on with a test of the full tier; says so if not.
fn is_full(what: &str) -> bool {
    if !full_tier() {
        skipped(what, "it is part of FARCC_TESTS=full");
    }
    full_tier()
}

/// For a build during which the cluster lost something: what it did not do then was done here, and that is at most
/// `percent` of the compiles. Says why for each.
fn assert_recovered(trial: &Trial, stats: &Stats, percent: u64) {
    let (remote, local) = (stats.verdict("executed_remote"), stats.verdict("executed_local"));
    for (object, _) in products(&trial.site.tree()).iter().filter(|(_, (kind, _))| *kind == Kind::Object) {
        let object = trial.site.tree().join(object).display().to_string();
        let text = trial.space.farccd(&["explain", &object]).stdout_text();
        if let Some(line) = text.lines().find(|line| line.contains("(remote_")) {
            say(&format!("    {}", line.trim()));
        }
    }
    assert_eq!(remote + local, stats.compiles(), "{}", stats.0);
    assert!(local * 100 <= percent * stats.compiles(), "{local} ran here: {}", stats.0);
}

/// A build that executes everything on the cluster and one, on a machine with an empty store, that takes everything
/// from its action cache.
fn executes_then_hits(trial: &Trial, server: &str, toml: &str) {
    trial.space.empty_farcc_dir();
    trial.space.configure(toml);
    let stats = trial.build_remotely(&format!("{server}, cold"));
    assert!(stats.compiles() > 0, "{}", stats.0);
    assert_eq!(stats.verdict("executed_remote"), stats.compiles(), "{}", stats.0);

    trial.space.empty_farcc_dir();
    let stats = trial.build_without_compiler(&format!("{server}, warm"), false, None);
    assert_eq!(stats.verdict("hit_remote"), stats.compiles(), "{}", stats.0);
}

/// On a server that is asked for results only: all is compiled here and offered, and serves a machine that comes later.
fn caches_then_hits(trial: &Trial, server: &str, results: impl Fn() -> usize) {
    let stats = trial.build(&format!("{server}, cold"));
    assert!(stats.compiles() > 0, "{}", stats.0);
    assert_eq!(stats.verdict("executed_local"), stats.compiles(), "{}", stats.0);
    trial.space.farccd(&["stop", "--drain"]);
    assert!(results() as u64 >= stats.compiles(), "{} results of {}", results(), stats.0);

    trial.space.empty_farcc_dir();
    let stats = trial.build_without_compiler(&format!("{server}, warm"), false, None);
    assert_eq!(stats.verdict("hit_remote"), stats.compiles(), "{}", stats.0);
}

fn on_buildbox(project: &Project, compiler: Compiler) {
    if !is_full("buildbox-casd") {
        return;
    }
    let space = TestSpace::new("buildbox").with_workers_compared();
    let Some(server) = Buildbox::start(&space, "casd") else { return };
    let Some(trial) = Trial::new(&space, project, compiler) else { return };
    executes_then_hits(&trial, "buildbox", &format!("[remote]\naddress = \"grpc://{}\"\n", server.address()));
    assert!(server.results() > 0, "buildbox-casd has no result of all that");
}

#[test]
fn buildbox_builds_zlib_by_cmake_with_gcc() {
    on_buildbox(&ZLIB_CMAKE, Compiler::Gcc);
}

#[test]
fn buildbox_builds_lua_by_make_with_clang() {
    on_buildbox(&LUA_MAKE, Compiler::Clang);
}

/// It would execute, and is not asked to.
#[test]
fn buildbox_shares_what_was_compiled_here() {
    if !is_full("buildbox-casd as a cache") {
        return;
    }
    let space = TestSpace::new("buildbox-cache");
    let Some(server) = Buildbox::start(&space, "casd") else { return };
    let Some(trial) = Trial::new(&space, &LUA_MAKE, Compiler::Gcc) else { return };
    space.configure(&format!(
        "[remote]\naddress = \"grpc://{}\"\n[exec]\nstrategy = \"cache_only\"\n",
        server.address()
    ));
    caches_then_hits(&trial, "buildbox, cache_only", || server.results());
}

#[test]
fn buildbox_loses_its_blobs_in_mid_build() {
    if !is_full("eviction on buildbox-casd") {
        return;
    }
    let space = TestSpace::new("buildbox-eviction").with_workers_compared();
    let Some(server) = Buildbox::start(&space, "casd") else { return };
    let Some(trial) = Trial::new(&space, &ZLIB_CMAKE, Compiler::Gcc) else { return };
    space.configure(&format!("[remote]\naddress = \"grpc://{}\"\n", server.address()));
    let stats = trial.build_while("blobs lost", || {
        wait_until("the tenth result", 60, || server.results() >= 10);
        server.empty_cas();
    });
    assert_recovered(&trial, &stats, 10);

    // The results are there, what they name is not: as good as no results.
    server.empty_cas();
    space.empty_farcc_dir();
    let stats = trial.build("results without blobs");
    assert_eq!(stats.verdict("executed_remote"), stats.compiles(), "{}", stats.0);
}

/// What points a client at a Buildbarn.
fn buildbarn_toml(server: &Buildbarn) -> String {
    format!("[remote]\naddress = \"grpc://{}\"\n{PLATFORM}", server.address())
}

/// What points a client at a server with TLS that `certificates` were made for.
fn over_tls(address: &str, certificates: &Certificates) -> String {
    format!(
        "[remote]\naddress = \"grpcs://{address}\"\ntls = {{ ca_certs = \"{}\" }}\n",
        certificates.ca.display()
    )
}

/// Its workers are as they come: they do not chroot, so a build that names absolute paths needs a root.
fn on_buildbarn(project: &Project, compiler: Compiler, root: &'static str) {
    if !is_full("Buildbarn") {
        return;
    }
    let space = TestSpace::new("buildbarn").with_exec_root(root).with_workers_compared();
    let space = if root == "relative" { space.without_links() } else { space };
    let Some(server) = Buildbarn::start(&space) else { return };
    let Some(trial) = Trial::new(&space, project, compiler) else { return };
    executes_then_hits(&trial, "buildbarn", &buildbarn_toml(&server));
}

#[test]
fn buildbarn_builds_zlib_by_cmake_with_wrapper_and_gcc() {
    on_buildbarn(&ZLIB_CMAKE, Compiler::Gcc, "wrapper");
}

#[test]
fn buildbarn_builds_zlib_by_cmake_with_wrapper_and_clang() {
    on_buildbarn(&ZLIB_CMAKE, Compiler::Clang, "wrapper");
}

#[test]
fn buildbarn_builds_zlib_by_cmake_with_relative_and_gcc() {
    on_buildbarn(&ZLIB_CMAKE, Compiler::Gcc, "relative");
}

#[test]
fn buildbarn_links_fmt_as_a_shared_library_with_wrapper_and_clang() {
    on_buildbarn(&FMT_SHARED, Compiler::Clang, "wrapper");
}

/// Its compiles name no absolute path, so that they run wherever their inputs are laid.
#[test]
fn buildbarn_builds_lua_by_make_with_gcc() {
    on_buildbarn(&LUA_MAKE, Compiler::Gcc, "auto");
}

/// On a server whose workers chroot and on one whose workers do not, one after the other, so that the plain builds are
/// made once.
fn on_buildbox_and_buildbarn(project: &Project, compiler: Compiler) {
    if !is_full("buildbox-casd and Buildbarn") {
        return;
    }
    let space = TestSpace::new("servers").with_configured_root().with_workers_compared();
    let Some(trial) = Trial::new(&space, project, compiler) else { return };
    if let Some(server) = Buildbox::start(&space, "casd") {
        let toml = format!("[remote]\naddress = \"grpc://{}\"\n", server.address());
        executes_then_hits(&trial, "buildbox", &format!("{toml}[exec]\nroot = \"mirror\"\n"));
    }
    if let Some(server) = Buildbarn::start(&space) {
        let toml = buildbarn_toml(&server);
        executes_then_hits(&trial, "buildbarn", &format!("{toml}[exec]\nroot = \"wrapper\"\n"));
    }
}

#[test]
fn buildbox_and_buildbarn_link_fmt_as_a_shared_library_with_gcc() {
    on_buildbox_and_buildbarn(&FMT_SHARED, Compiler::Gcc);
}

/// Links read the members of archives that only name them.
#[test]
fn buildbox_and_buildbarn_link_googletest_by_thin_archives_with_gcc() {
    on_buildbox_and_buildbarn(&GOOGLETEST_THIN, Compiler::Gcc);
}

#[test]
fn buildbarn_builds_lua_over_tls() {
    if !is_full("Buildbarn with TLS") {
        return;
    }
    let space = TestSpace::new("buildbarn-tls").with_exec_root("wrapper").with_workers_compared();
    let certificates = Certificates::new(&space.serve_dir());
    let Some(server) = Buildbarn::start_with(&space, Some(certificates.server())) else { return };
    let Some(trial) = Trial::new(&space, &LUA_MAKE, Compiler::Clang) else { return };
    let toml = over_tls(server.address(), &certificates);
    executes_then_hits(&trial, "buildbarn, tls", &format!("{toml}{PLATFORM}"));
}

/// A worker and then the scheduler end in the middle of a build: what they were doing is done again.
#[test]
fn buildbarn_loses_a_worker_and_its_scheduler_in_mid_build() {
    if !is_full("losses on Buildbarn") {
        return;
    }
    let space = TestSpace::new("buildbarn-losses").with_workers_compared();
    let Some(mut server) = Buildbarn::start(&space) else { return };
    let Some(trial) = Trial::new(&space, &LUA_MAKE, Compiler::Gcc) else { return };
    space.configure(&buildbarn_toml(&server));
    let object = |name: &str| trial.site.tree().join("src").join(name).exists();
    let stats = trial.build_while("worker, scheduler", || {
        wait_until("the first objects", 60, || object("lapi.o") || object("lcode.o") || object("lctype.o"));
        server.kill_worker(0);
        wait_until("objects of the other worker", 60, || {
            object("llex.o") || object("lmem.o") || object("lgc.o")
        });
        server.restart_scheduler();
    });
    // What is asked for while there is no scheduler may be given up.
    assert_recovered(&trial, &stats, 50);
}

/// The storage ends in the middle of a build and comes back with nothing: neither blobs nor results.
#[test]
fn buildbarn_loses_its_storage_in_mid_build() {
    if !is_full("eviction on Buildbarn") {
        return;
    }
    let space = TestSpace::new("buildbarn-eviction").with_workers_compared();
    let Some(mut server) = Buildbarn::start(&space) else { return };
    let Some(trial) = Trial::new(&space, &LUA_MAKE, Compiler::Gcc) else { return };
    space.configure(&buildbarn_toml(&server));
    let object = |name: &str| trial.site.tree().join("src").join(name).exists();
    let stats = trial.build_while("storage lost", || {
        wait_until("the first objects", 60, || object("lcode.o") || object("lctype.o") || object("ldebug.o"));
        server.restart_storage();
    });
    // While it is away the cluster is left alone: how many compiles that concerns is a matter of the machine's speed.
    assert_recovered(&trial, &stats, 100);
    assert!(stats.verdict("executed_remote") > 0, "{}", stats.0);
}

/// A cache that executes nothing, with zstd, TLS and a password: what is compiled here is offered to it, and serves whoever
/// comes later.
#[test]
fn bazel_remote_shares_what_was_compiled_here() {
    if !is_full("bazel-remote") {
        return;
    }
    let space = TestSpace::new("bazel-remote");
    let certificates = Certificates::new(&space.serve_dir());
    let access = Access { tls: Some(certificates.server()), password: true };
    let Some(server) = BazelRemote::start(&space, "cache", access) else { return };
    let Some(trial) = Trial::new(&space, &ZLIB_CMAKE, Compiler::Gcc) else { return };
    let header = format!("headers = {{ authorization = \"Basic {BASIC_CREDENTIALS}\" }}\n");
    space.configure(&format!("{}{header}", over_tls(server.address(), &certificates)));
    caches_then_hits(&trial, "bazel-remote", || server.results());
}

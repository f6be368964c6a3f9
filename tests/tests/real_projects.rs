//! Real projects, with GCC and with Clang: what comes out of a build through farcc is what plain builds make,
//! the compiles run on the cluster, and a second build needs no compiler at all.
//!
//! zlib and Lua are the fast tier; `FARCC_TESTS=full` adds fmt and GoogleTest, also with precompiled headers, unity
//! sources, coverage and split debug information, and builds by Autoconf and libtool.

#![allow(clippy::unwrap_used, clippy::panic)]

use farcc_tests::compare::Kind;
use farcc_tests::compare::linked_to;
use farcc_tests::compare::products;
use farcc_tests::full_tier;
use farcc_tests::plain_build::Site;
use farcc_tests::prerequisites;
use farcc_tests::project::Compiler;
use farcc_tests::project::FMT_CMAKE;
use farcc_tests::project::FMT_PRECOMPILED;
use farcc_tests::project::FMT_SHARED;
use farcc_tests::project::GOOGLETEST_CMAKE;
use farcc_tests::project::GOOGLETEST_PRECOMPILED;
use farcc_tests::project::GOOGLETEST_THIN;
use farcc_tests::project::LUA_MAKE;
use farcc_tests::project::LZO_MASQUERADE;
use farcc_tests::project::Project;
use farcc_tests::project::XZ_AUTOTOOLS;
use farcc_tests::project::ZLIB_CMAKE;
use farcc_tests::project::ZLIB_MAKE;
use farcc_tests::project::ZLIB_OPTIMISED;
use farcc_tests::say;
use farcc_tests::serve_process::ServeProcess;
use farcc_tests::skipped;
use farcc_tests::space::TestSpace;
use farcc_tests::trial::Trial;

/// At least this many of a hundred compiles run on the cluster.
const REMOTE_PERCENT: u64 = 98;

/// The whole life of a project: plain twice, remote, hits from the cluster, hits from this machine, and the same
/// without a cluster.
fn try_project(project: &Project, compiler: Compiler) {
    let space = TestSpace::new(project.name).with_workers_compared();
    let Some(trial) = Trial::new(&space, project, compiler) else { return };
    on_cluster(&trial);

    space.empty_farcc_dir();
    space.configure("");
    let stats = trial.build("no cluster");
    assert_eq!(stats.verdict("executed_local"), stats.compiles(), "{}", stats.0);
    let stats = trial.build_without_compiler("hits, store", true, None);
    assert_eq!(stats.verdict("hit_local"), stats.compiles(), "{}", stats.0);
    space.stop_daemon();
}

/// The same with a cluster alone: what a second compiler of a large project adds to that.
fn try_on_cluster(project: &Project, compiler: Compiler) {
    let space = TestSpace::new(project.name).with_workers_compared();
    let Some(trial) = Trial::new(&space, project, compiler) else { return };
    on_cluster(&trial);
    space.stop_daemon();
}

fn on_cluster(trial: &Trial) {
    let space = trial.space;
    let server = ServeProcess::start(space, "cluster");
    space.configure_remote(server.address());
    let stats = trial.build_remotely("remote");
    let (remote, compiles) = (stats.verdict("executed_remote"), stats.compiles());
    assert!(compiles > 0 && stats.hits() == 0, "the store was not empty: {}", stats.0);
    assert!(remote * 100 >= compiles * REMOTE_PERCENT, "{remote} of {compiles} ran remotely: {}", stats.0);
    assert!(server.executions() >= remote, "the server ran {} of {remote}", server.executions());

    space.empty_farcc_dir();
    let stats = trial.build_without_compiler("hits, cluster", false, Some(&|| server.executions()));
    assert_eq!(stats.verdict("hit_remote"), stats.compiles(), "{}", stats.0);
    let stats = trial.build_without_compiler("hits, local", true, Some(&|| server.executions()));
    assert_eq!(stats.verdict("hit_local"), stats.compiles(), "{}", stats.0);
}

/// Two checkouts in different directories, on two machines: what the cluster made for the first is a hit for the second.
fn try_checkouts(project: &Project, compiler: Compiler) {
    let space = TestSpace::new(&format!("checkouts-{}", project.name));
    let server = ServeProcess::start(&space, "cluster");
    let address = server.address();
    space.configure(&format!("[remote]\naddress = \"grpc://{address}\"\n[exec]\npaths = \"shared\"\n"));
    let mut made = Vec::new();
    for (directory, outcome) in
        [("one", "executed_remote"), ("quite/another/place/of/the/other/one", "hit_remote")]
    {
        let directory = format!("{directory}/{}", project.name);
        let Some(site) = Site::at(&directory, &space, project, compiler) else { return };
        // It comes from a package, not from a repository.
        std::fs::create_dir(site.tree().join(".git")).unwrap();
        site.configure(true);
        space.empty_farcc_dir();
        let took = site.build(true);
        let stats = space.stats();
        say(&format!(
            "{:<16} {:<5} {directory}: {:.1} s, {} commands, {outcome}: {}",
            project.name,
            compiler.c(),
            took.as_secs_f64(),
            stats.compiles(),
            stats.verdict(outcome)
        ));
        assert!(stats.compiles() > 0);
        let mut objects = products(&site.tree());
        // A run path names its own checkout, so there is nothing to share. Nothing else has such an excuse.
        let own = linked_to(&site.tree(), &objects);
        assert!(stats.verdict(outcome) + own >= stats.compiles(), "{own} name the checkout: {}", stats.0);
        assert_eq!(stats.verdict("executed_remote") + stats.hits(), stats.compiles(), "{}", stats.0);
        site.test();
        objects.retain(|_, (kind, _)| *kind == Kind::Object);
        made.push(objects);
    }
    assert!(!made[0].is_empty());
    assert!(made[0] == made[1], "the objects of two checkouts differ");
}

#[test]
fn checkouts_of_zlib_share_what_gcc_makes() {
    try_checkouts(&ZLIB_CMAKE, Compiler::Gcc);
}

#[test]
fn checkouts_of_lua_share_what_clang_makes() {
    try_checkouts(&LUA_MAKE, Compiler::Clang);
}

#[test]
fn checkouts_of_fmt_share_what_clang_makes() {
    in_full_tier(try_checkouts, &FMT_CMAKE, Compiler::Clang);
}

#[test]
fn checkouts_of_googletest_share_what_gcc_makes() {
    in_full_tier(try_checkouts, &GOOGLETEST_CMAKE, Compiler::Gcc);
}

fn in_full_tier(trial: fn(&Project, Compiler), project: &Project, compiler: Compiler) {
    if full_tier() {
        trial(project, compiler);
    } else {
        skipped(&format!("{} with {}", project.name, compiler.c()), "it is part of FARCC_TESTS=full");
    }
}

#[test]
fn zlib_by_cmake_with_gcc() {
    try_project(&ZLIB_CMAKE, Compiler::Gcc);
}

#[test]
fn zlib_by_cmake_with_clang() {
    try_project(&ZLIB_CMAKE, Compiler::Clang);
}

#[test]
fn zlib_by_make_with_gcc() {
    try_project(&ZLIB_MAKE, Compiler::Gcc);
}

#[test]
fn zlib_by_make_with_clang() {
    try_project(&ZLIB_MAKE, Compiler::Clang);
}

#[test]
fn lua_by_make_with_gcc() {
    try_project(&LUA_MAKE, Compiler::Gcc);
}

#[test]
fn lua_by_make_with_clang() {
    try_project(&LUA_MAKE, Compiler::Clang);
}

#[test]
fn fmt_by_cmake_with_gcc() {
    in_full_tier(try_project, &FMT_CMAKE, Compiler::Gcc);
}

#[test]
fn fmt_by_cmake_with_clang() {
    in_full_tier(try_on_cluster, &FMT_CMAKE, Compiler::Clang);
}

#[test]
fn googletest_by_cmake_with_gcc() {
    in_full_tier(try_project, &GOOGLETEST_CMAKE, Compiler::Gcc);
}

#[test]
fn zlib_optimised_with_gcc() {
    in_full_tier(try_project, &ZLIB_OPTIMISED, Compiler::Gcc);
}

#[test]
fn zlib_optimised_with_clang() {
    in_full_tier(try_project, &ZLIB_OPTIMISED, Compiler::Clang);
}

#[test]
fn fmt_shared_with_gcc() {
    in_full_tier(try_project, &FMT_SHARED, Compiler::Gcc);
}

#[test]
fn googletest_thin_with_gcc() {
    in_full_tier(try_project, &GOOGLETEST_THIN, Compiler::Gcc);
}

/// Whose archives `llvm-ar` makes.
#[test]
fn googletest_thin_with_clang() {
    prerequisites::require(&["llvm-ar", "llvm-ranlib"]);
    in_full_tier(try_project, &GOOGLETEST_THIN, Compiler::Clang);
}

#[test]
fn xz_by_autotools_with_gcc() {
    in_full_tier(try_project, &XZ_AUTOTOOLS, Compiler::Gcc);
}

#[test]
fn lzo_by_autotools_and_links_with_clang() {
    in_full_tier(try_project, &LZO_MASQUERADE, Compiler::Clang);
}

#[test]
fn fmt_precompiled_with_gcc() {
    in_full_tier(try_project, &FMT_PRECOMPILED, Compiler::Gcc);
}

#[test]
fn fmt_precompiled_with_clang() {
    in_full_tier(try_project, &FMT_PRECOMPILED, Compiler::Clang);
}

#[test]
fn googletest_precompiled_with_gcc() {
    in_full_tier(try_project, &GOOGLETEST_PRECOMPILED, Compiler::Gcc);
}

#[test]
fn googletest_precompiled_with_clang() {
    in_full_tier(try_on_cluster, &GOOGLETEST_PRECOMPILED, Compiler::Clang);
}

#[test]
fn googletest_by_cmake_with_clang() {
    in_full_tier(try_on_cluster, &GOOGLETEST_CMAKE, Compiler::Clang);
}

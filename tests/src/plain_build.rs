//! Builds a real project in a test space, with farcc or without, always at the same path.
//! Knows nothing of what the trees are compared for.

use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use crate::prerequisites;
use crate::project::Compiler;
use crate::project::Project;
use crate::space::TestSpace;

/// A project that is built again and again at one place of a space.
pub struct Site<'a> {
    space: &'a TestSpace,
    project: &'a Project,
    compiler: Compiler,
    /// Relative to the workspace.
    directory: String,
}

impl<'a> Site<'a> {
    /// The site of `project`: `None` where its source cannot be had here, which was said.
    pub fn new(space: &'a TestSpace, project: &'a Project, compiler: Compiler) -> Option<Site<'a>> {
        Site::at(project.name, space, project, compiler)
    }

    /// The same, in this directory of the workspace.
    pub fn at(
        directory: &str,
        space: &'a TestSpace,
        project: &'a Project,
        compiler: Compiler,
    ) -> Option<Site<'a>> {
        prerequisites::require(project.programs);
        prerequisites::require(&[compiler.c(), "strace"]);
        let site = Site { space, project, compiler, directory: directory.to_owned() };
        site.lay().then_some(site)
    }

    /// The tree, source and build together.
    pub fn tree(&self) -> PathBuf {
        self.space.workspace().join(&self.directory)
    }

    /// Wipes the tree and lays the source again: a wiped build directory, even where the build is in the source.
    pub fn lay(&self) -> bool {
        if self.tree().exists() {
            std::fs::remove_dir_all(self.tree()).unwrap();
        }
        self.project.lay_source(&self.tree())
    }

    /// Configures the build.
    pub fn configure(&self, through_farcc: bool) {
        let script = self.project.recipe.configure_script(self.compiler, through_farcc);
        self.space.sh(&self.directory, &script).success();
    }

    /// The script of the build step.
    pub fn build_script(&self, through_farcc: bool) -> String {
        self.project.recipe.build_script(self.compiler, through_farcc)
    }

    /// Runs the build step and says how long it took.
    pub fn build(&self, through_farcc: bool) -> Duration {
        let started = Instant::now();
        self.space.sh(&self.directory, &self.build_script(through_farcc)).success();
        started.elapsed()
    }

    /// Runs the project's own tests.
    pub fn test(&self) {
        self.space.sh(&self.directory, self.project.test).success();
    }

    /// Builds plainly in a fresh tree and moves the result away, so that the next build has the same path.
    pub fn plain_build(&self, kept_as: &str) -> (PathBuf, Duration) {
        self.lay();
        self.configure(false);
        let took = self.build(false);
        (self.keep(kept_as), took)
    }

    /// Moves the tree away, out of every build's sight, and lays a fresh one.
    pub fn keep(&self, name: &str) -> PathBuf {
        let kept = self.space.root().join("kept").join(name);
        std::fs::create_dir_all(kept.parent().unwrap()).unwrap();
        if kept.exists() {
            std::fs::remove_dir_all(&kept).unwrap();
        }
        std::fs::rename(self.tree(), &kept).unwrap();
        self.lay();
        kept
    }
}

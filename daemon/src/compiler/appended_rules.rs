//! The make rules that GCC appends to a file which an environment variable names, besides all that flags ask for (GCC
//! manual, "Environment Variables Affecting the Preprocessor"; `check_deps_environment_vars` in gcc/c-family/c-opts.cc).
//! Knows nothing of where the compiler runs.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;

use crate::compiler::Compile;
use crate::compiler::Invocation;
use crate::compiler::flag_table::Meaning;
use crate::compiler::search_path;
use crate::compiler::sources;
use crate::preprocessor::Family;
use crate::preprocessor::Form;
use crate::preprocessor::Language;
use crate::reason::Reason;

/// Both variables; where both are set, GCC takes the first.
pub(super) const VARIABLES: [&str; 2] = ["DEPENDENCIES_OUTPUT", "SUNPRO_DEPENDENCIES"];

/// Where a compile appends its rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppendedRules {
    /// The variable that asks for them.
    pub variable: &'static str,
    /// As the variable names it: absolute, or relative to the working directory.
    pub file: PathBuf,
    /// What the variable names as the target; else it is the object's default name.
    target: Option<OsString>,
}

impl AppendedRules {
    /// The variable's value if it is to name `file`, which has no blank in it.
    ///
    /// # Errors
    /// [`Reason::UnsupportedEnvironment`]: the target is not UTF-8.
    pub fn value(&self, file: &str) -> Result<String, Reason> {
        let Some(target) = &self.target else { return Ok(file.to_owned()) };
        let target =
            target.to_str().ok_or_else(|| Reason::UnsupportedEnvironment(self.variable.to_owned()))?;
        Ok(format!("{file} {target}"))
    }
}

impl Compile {
    /// The rules that an environment variable asks for. Clang does not know the variables, and GCC looks at them only
    /// where no flag asks for a depfile.
    ///
    /// # Errors
    /// [`Reason::UnsupportedEnvironment`]: what the variable names is no regular file that can be appended to, or the
    /// rules are not understood.
    pub fn appended_rules(
        &self,
        invocation: &Invocation,
        family: Family,
    ) -> Result<Option<AppendedRules>, Reason> {
        let lists = self.command_line.with(Meaning::PreprocessorList);
        let mut lists = lists.filter_map(|argument| argument.preprocessor_list().ok());
        let has_depfile = self.command_line.has(Meaning::Depfile) || lists.any(|list| list.depfile.is_some());
        // Nothing is preprocessed.
        let is_plain_assembler = self.form == Form::Preprocessed && self.language == Language::Assembler;
        let set = VARIABLES.iter().find_map(|&variable| Some((variable, invocation.variable(variable)?)));
        let Some((variable, value)) = set else { return Ok(None) };
        if family == Family::Clang || has_depfile || is_plain_assembler {
            return Ok(None);
        }
        let blank = value.as_bytes().iter().position(|&byte| byte == b' ');
        let (file, target) = match blank {
            Some(blank) => {
                let (file, target) = search_path::split_at_byte(value, blank);
                (file, Some(OsStr::from_bytes(&target.as_bytes()[1..]).to_owned()))
            }
            None => (value, None),
        };
        let file = PathBuf::from(file);
        let is_understood = self.form != Form::Preprocessed
            && target.as_ref().is_none_or(|target| !target.is_empty())
            && can_be_appended_to(&invocation.cwd, &file);
        match is_understood {
            true => Ok(Some(AppendedRules { variable, file, target })),
            false => Err(Reason::UnsupportedEnvironment(variable.to_owned())),
        }
    }
}

/// Whether it is a regular file, or may become one.
fn can_be_appended_to(cwd: &Path, file: &Path) -> bool {
    let bytes = file.as_os_str().as_bytes();
    let place = cwd.join(file);
    let may_be_there = match std::fs::metadata(&place) {
        Ok(metadata) => metadata.is_file(),
        // A symlink that leads nowhere is followed by whoever creates the file.
        Err(_) => !place.is_symlink() && place.parent().is_some_and(Path::is_dir),
    };
    !bytes.is_empty() && bytes != b"-" && !bytes.ends_with(b"/") && !sources::is_device(file) && may_be_there
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compiler::Task;
    use crate::compiler::classify;
    use crate::compiler::invocation::tests::invocation;

    /// The variables as GCC 12 takes them.
    #[test]
    fn rules_are_appended_where_no_flag_asks_for_a_depfile() {
        let space = tempfile::tempdir().unwrap();
        let found = |line: &str, variables: &[(&str, &str)], family| {
            let mut invocation = invocation(space.path(), line);
            invocation.env.extend(variables.iter().map(|(name, value)| (name.into(), value.into())));
            let Task::Compile(compile) = classify(&invocation) else { panic!("{line}") };
            match compile.appended_rules(&invocation, family) {
                Ok(Some(rules)) => format!("{}: {}", rules.file.display(), rules.value("F").unwrap()),
                Ok(None) => "none".to_owned(),
                Err(reason) => reason.to_string(),
            }
        };
        let gcc = |line: &str, value: &str| found(line, &[("DEPENDENCIES_OUTPUT", value)], Family::Gcc);
        for (line, value, expected) in [
            ("gcc -c a.c", "x.d", "x.d: F"),
            ("gcc -S a.c", "x.d a b", "x.d: F a b"),
            ("gcc -c a.c b.c", "x.d", "x.d: F"),
            ("gcc -c a.S", "x.d", "x.d: F"),
            ("gcc -c a.s", "x.d", "none"),
            ("gcc -c a.c -MD", "x.d", "none"),
            ("gcc -c a.c -Wp,-MMD,b.d", "x.d", "none"),
            ("gcc -c a.i", "x.d", "unsupported_environment: DEPENDENCIES_OUTPUT"),
            ("gcc -c a.c", "", "unsupported_environment: DEPENDENCIES_OUTPUT"),
            ("gcc -c a.c", "-", "unsupported_environment: DEPENDENCIES_OUTPUT"),
            ("gcc -c a.c", " x.d", "unsupported_environment: DEPENDENCIES_OUTPUT"),
            ("gcc -c a.c", "x.d ", "unsupported_environment: DEPENDENCIES_OUTPUT"),
            ("gcc -c a.c", ".", "unsupported_environment: DEPENDENCIES_OUTPUT"),
            ("gcc -c a.c", "none/x.d", "unsupported_environment: DEPENDENCIES_OUTPUT"),
            ("gcc -c a.c", "/dev/null", "unsupported_environment: DEPENDENCIES_OUTPUT"),
        ] {
            assert_eq!(gcc(line, value), expected, "{line} with {value:?}");
        }
        assert_eq!(found("clang -c a.c", &[("DEPENDENCIES_OUTPUT", "-")], Family::Clang), "none");
        let both = [("SUNPRO_DEPENDENCIES", "y.d"), ("DEPENDENCIES_OUTPUT", "x.d")];
        assert_eq!(found("gcc -c a.c", &both, Family::Gcc), "x.d: F");
        assert_eq!(found("gcc -c a.c", &both[..1], Family::Gcc), "y.d: F");
    }
}

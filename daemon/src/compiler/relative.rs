//! The same compile by relative paths alone (`[exec] root = "relative"`): which commands can be written so, and what becomes
//! of their arguments.
//! Knows nothing of where the command runs, nor of what becomes of its results.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;

use crate::compiler::Compile;
use crate::compiler::Invocation;
use crate::compiler::Toolchain;
use crate::compiler::command_line::Argument;
use crate::compiler::flag_table::Chain;
use crate::compiler::flag_table::Meaning;
use crate::compiler::relocated::major_version;
use crate::compiler::relocated::split_map;
use crate::paths;
use crate::preprocessor::Family;
use crate::preprocessor::Language;
use crate::relocation::SHOWN;

impl Compile {
    /// The arguments of the command in which each absolute path outside the image begins with `link`, a symlink to the root
    /// directory. By prefix maps the object names everything as it does here. The working directory is called `pwd`.
    ///
    /// # Errors
    /// Why there are none, as a clause.
    pub fn relative_arguments(
        &self,
        toolchain: &Toolchain,
        invocation: &Invocation,
        pwd: &str,
        link: &str,
    ) -> Result<Vec<OsString>, String> {
        self.check_movable(toolchain, invocation)?;
        let arguments = &self.command_line.arguments;
        // GCC's assembler is not told of all maps.
        if self.language == Language::Assembler
            && arguments.iter().any(|flag| flag.name.as_bytes().starts_with(b"-g"))
        {
            return Err("the assembler maps no paths in debug information".to_owned());
        }
        if toolchain.family == Family::Gcc && writes_old_dwarf(arguments, &toolchain.tools.version) {
            return Err("GCC numbers files by unmapped names in debug information before DWARF 5".to_owned());
        }
        for argument in arguments {
            check(argument, toolchain.family, pwd)?;
        }
        let mut words = self.native_arguments(toolchain).map_err(|reason| reason.to_string())?;
        // Maps that come later are tried first: the user's own stand.
        words.push(format!("-ffile-prefix-map={link}/=/").into());
        words.push(format!("-fdebug-prefix-map={SHOWN}={pwd}").into());
        if toolchain.family == Family::Clang {
            words.extend(["-fdebug-compilation-dir".into(), pwd.into()]);
        }
        words.extend(self.mapped_arguments(|path| by_link(link, path)));
        Ok(words)
    }
}

/// `path` by way of `link`; relative ones and those of the image stay what they are.
pub fn by_link(link: &str, path: &Path) -> PathBuf {
    if path.is_relative() || paths::is_system(path) {
        return path.to_owned();
    }
    let mut from = OsString::from(link);
    from.push(path);
    from.into()
}

/// Since when GCC's debug information is DWARF 5 by default.
const FIRST_GCC_WITH_DWARF_5: u32 = 11;

/// Whether GCC may write debug information of an older format than DWARF 5: there, one file that has a mapped name is two.
fn writes_old_dwarf(arguments: &[Argument], version: &str) -> bool {
    let is_old = major_version(version).is_none_or(|version| version < FIRST_GCC_WITH_DWARF_5);
    let mut flags = arguments.iter().map(Argument::text).filter(|text| text.starts_with("-g"));
    flags.any(|flag| {
        let formats =
            ["-gdwarf-2", "-gdwarf-3", "-gdwarf-4", "-gstabs", "-gxcoff", "-gvms", "-gstrict-dwarf"];
        is_old || formats.iter().any(|format| flag.starts_with(format))
    })
}

fn check(argument: &Argument, family: Family, pwd: &str) -> Result<(), String> {
    let text = || argument.text();
    if argument.meaning == Meaning::PrefixMap {
        let (old, _) = split_map(argument.value());
        // What names the working directory is mapped already, and not once more.
        return match pwd.as_bytes().starts_with(old) || b"/proc/self/cwd".starts_with(old) {
            true => Err(format!("{} maps the working directory", text())),
            false => Ok(()),
        };
    }
    let Some(path) = argument.path().filter(|path| path.is_absolute()) else { return Ok(()) };
    let is_outside = !paths::is_system(path);
    if is_outside == paths::is_system(&paths::lexically_normal(path)) {
        return Err(format!("{} leads into the image, or out of it", text()));
    }
    match argument.meaning {
        Meaning::Sysroot if is_outside => Err(format!("{} names headers of the system", text())),
        // Here, the physical name may be the shorter one.
        Meaning::Directory(Chain::System | Chain::After)
            if is_outside
                && family == Family::Gcc
                && std::fs::canonicalize(path)
                    .is_ok_and(|physical| physical.as_os_str() != path.as_os_str()) =>
        {
            Err(format!("{} is not the physical name of a directory of system headers", text()))
        }
        _ => Ok(()),
    }
}

//! A program that begins its messages with the name that it was called by: as the user typed it here, and absolute in
//! actions.
//! Knows nothing of which programs do so.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// A program's two names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Speaker {
    here: Vec<u8>,
    there: Vec<u8>,
}

impl Speaker {
    /// The program that is called `here` on this machine and `there` in the action; None: it has one name.
    pub fn new(here: &OsStr, there: &OsStr) -> Option<Speaker> {
        let [here, there] = [here, there].map(|name| [name.as_bytes(), b": "].concat());
        (here != there).then_some(Speaker { here, there })
    }

    pub(super) fn here(&self, text: &[u8]) -> Vec<u8> {
        renamed(text, &self.there, &self.here)
    }

    pub(super) fn there(&self, text: &[u8]) -> Vec<u8> {
        renamed(text, &self.here, &self.there)
    }
}

/// Lines that begin with one name begin with the other.
fn renamed(text: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let lines = text.split_inclusive(|&byte| byte == b'\n');
    let renamed = lines.map(|line| match line.strip_prefix(from) {
        Some(rest) => [to, rest].concat(),
        None => line.to_vec(),
    });
    renamed.collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_beginnings_of_lines_are_names() {
        let speaker = Speaker::new("ar".as_ref(), "/usr/bin/ar".as_ref()).unwrap();
        let (here, there) =
            (b"ar: creating ar: x\na - ar\nar: y", b"/usr/bin/ar: creating ar: x\na - ar\n/usr/bin/ar: y");
        assert_eq!(speaker.there(here), there);
        assert_eq!(speaker.here(there), here);
        assert_eq!(Speaker::new("/usr/bin/ar".as_ref(), "/usr/bin/ar".as_ref()), None);
    }
}

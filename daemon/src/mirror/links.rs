//! Where symlinks may lead.
//! Pure paths: nothing here looks at the file system.

use std::ffi::OsStr;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;

use crate::mirror::TreePath;

/// Directories of the image, which both machines have, to which a symlink may lead. Not `/proc`, from where ways lead on.
const IMAGE: &[&str] = &["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/alternatives"];

/// Whether a symlink at `path` in the root at position `root` leads to something in one of the workspace's `roots` (absolute,
/// to which no symlink leads) or in the image. A directory is left, by `..`, only at the beginning, where it is the symlink's
/// own and those above: any other may be a symlink that leads elsewhere.
pub fn leads_inside(roots: &[PathBuf], root: u32, path: &TreePath, target: &OsStr) -> bool {
    if target == "/dev/null" {
        return true;
    }
    let target = Path::new(target);
    let down = target.components().skip_while(|component| *component == Component::ParentDir);
    if down.clone().any(|component| component == Component::ParentDir) {
        return false;
    }
    let is_in_a_root = |path: &Path| roots.iter().any(|root| path.starts_with(root));
    if target.is_absolute() {
        return is_in_a_root(target) || IMAGE.iter().any(|directory| target.starts_with(directory));
    }
    let ups = target.components().count() - down.clone().count();
    let depth = std::iter::successors(path.parent(), TreePath::parent).count().saturating_sub(1);
    if ups <= depth {
        return true;
    }
    let above = usize::try_from(root).ok().and_then(|root| roots.get(root)?.ancestors().nth(ups - depth));
    above.is_some_and(|above| is_in_a_root(&above.join(down.collect::<PathBuf>())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_into_the_workspace_or_the_image() {
        let roots = ["/ws/src", "/ws/out/build"].map(PathBuf::from);
        for (path, target, expected) in [
            ("l", "x", true),
            ("l", "./x//y", true),
            ("l", "nowhere/./z", true),
            ("l", "..", false),
            ("l", "../x", false),
            ("d/l", "..", true),
            ("d/l", "../../build/x", true),
            ("d/l", "../../build", true),
            ("d/l", "../../buildx", false),
            ("d/l", "../../../src/a", true),
            ("d/l", "../../../src", true),
            ("d/l", "../../..", false),
            ("d/l", "../../../../../../ws/src", false),
            ("d/l", "../../../x/../src", false),
            ("d/l", "x/..", false),
            ("d/l", "/ws/src/a", true),
            ("d/l", "/ws/src", true),
            ("d/l", "/ws/./out//build/a", true),
            ("d/l", "/ws", false),
            ("d/l", "/ws/srcs", false),
            ("d/l", "/ws/src/..", false),
            ("d/l", "/usr/include", true),
            ("d/l", "/usr/../etc/passwd", false),
            ("d/l", "/../usr", false),
            ("d/l", "/etc/passwd", false),
            ("d/l", "/proc/self/root/usr", false),
            ("d/l", "/dev/null", true),
            ("d/l", "/dev/zero", false),
        ] {
            let path = TreePath::parse(path.as_bytes()).unwrap();
            assert_eq!(leads_inside(&roots, 1, &path, OsStr::new(target)), expected, "{path} -> {target}");
        }
        let deep = TreePath::parse(b"d/l").unwrap();
        assert!(!leads_inside(&roots, 2, &deep, OsStr::new("../../build/x")), "there is no such root");
    }
}

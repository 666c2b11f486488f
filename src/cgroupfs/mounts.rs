//! [`Mounts`]: what is mounted where, as `/proc/self/mountinfo` has it.
//!
//! ```text
//! 36 35 0:98 / /mnt/my\040tree rw,noatime shared:1 - fuse.zspool zspool rw
//! |  |  |    | |                          |        | |
//! id |  dev  | where                      optional | type
//!    parent  root of it                   fields   -
//! ```
//!
//! Nothing here asks a mounted file system anything, so a dead one does not stop us.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// The file system's number, `major:minor`: not used twice at one time.
    pub(super) device: String,
    pub(super) at: PathBuf,
    pub(super) kind: String,
}

/// All mounts of this process's namespace, in the order of the file: of two at one place, the later one is on top.
#[derive(Debug)]
pub(super) struct Mounts(Vec<Mount>);

impl Mounts {
    /// Those there are now.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub(super) fn read() -> io::Result<Self> {
        Ok(Self::parse(&std::fs::read("/proc/self/mountinfo")?))
    }

    fn parse(text: &[u8]) -> Self {
        Mounts(text.split(|&b| b == b'\n').filter_map(parse_line).collect())
    }

    /// What one sees at this very place.
    pub(super) fn on_top(&self, at: &Path) -> Option<&Mount> {
        self.0.iter().rfind(|mount| mount.at == at)
    }

    /// What a path (without links in it) lies in.
    pub(super) fn around(&self, path: &Path) -> Option<&Mount> {
        path.ancestors().find_map(|above| self.on_top(above))
    }

    /// Whether this file system is mounted anywhere.
    pub(super) fn has(&self, device: &str) -> bool {
        self.0.iter().any(|mount| mount.device == device)
    }
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&b| b == b' ');
    let device = String::from_utf8(fields.nth(2)?.to_vec()).ok()?;
    let at = PathBuf::from(OsString::from_vec(unescape(fields.nth(1)?)));
    let kind = String::from_utf8_lossy(fields.skip_while(|field| *field != b"-").nth(1)?).into_owned();
    Some(Mount { device, at, kind })
}

/// Blanks and backslashes stand there as `\040`.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, more @ ..] = rest {
        rest = more;
        match (first, more) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => out.push(*first),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
        36 22 0:98 / /mnt/my\\040tree rw,noatime - fuse.zspool zspool rw,user_id=0\n\
        37 22 0:99 / /mnt rw shared:2 master:3 - tmpfs none rw\n\
        38 36 0:101 / /mnt/my\\040tree rw - tmpfs none rw\n\
        a line of some other kind\n";

    #[test]
    fn the_latest_mount_at_a_place_is_the_one_that_is_seen() {
        let mounts = Mounts::parse(TEXT);
        let at = |path: &str| mounts.on_top(Path::new(path)).map(|mount| mount.device.as_str());
        assert_eq!(
            (at("/"), at("/mnt"), at("/mnt/my tree"), at("/tmp")),
            (Some("8:1"), Some("0:99"), Some("0:101"), None)
        );
        assert!(mounts.has("0:98") && !mounts.has("0:9"));
    }

    #[test]
    fn a_path_lies_in_the_mount_nearest_above_it() {
        let mounts = Mounts::parse(
            &TEXT[..TEXT.len()
                - b"38 36 0:101 / /mnt/my\\040tree rw - tmpfs none rw\na line of some other kind\n".len()],
        );
        let around = |path: &str| mounts.around(Path::new(path)).map(|mount| mount.kind.as_str());
        assert_eq!(around("/mnt/my tree/vm0"), Some("fuse.zspool"));
        assert_eq!((around("/mnt/other"), around("/tmp/x")), (Some("tmpfs"), Some("ext4")));
    }

    #[test]
    fn this_process_has_a_root_and_proc() {
        let mounts = Mounts::read().unwrap();
        assert_eq!(mounts.on_top(Path::new("/proc")).map(|mount| mount.kind.as_str()), Some("proc"));
        assert!(mounts.around(Path::new("/nowhere")).is_some());
    }
}

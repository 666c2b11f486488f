//! Why a tree could not be mounted, or unmounted.

use std::io;
use std::path::PathBuf;

/// A refusal to mount or unmount, as a sentence that says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// This system has no FUSE.
    #[error(
        "FUSE is missing here: /dev/fuse cannot be used ({cause}); load it with `modprobe fuse` as root, or give it to the \
         container (docker run --device /dev/fuse)"
    )]
    NoFuse {
        /// What opening it, or mounting, said.
        cause: io::Error,
    },
    /// This user may not use it.
    #[error(
        "this user may not use /dev/fuse; run this as root, or let root allow it to all (chmod 666 /dev/fuse), as most systems do"
    )]
    Forbidden,
    /// Only root may mount, and nobody helps.
    #[error(
        "only root may mount without help, and the helper fusermount3 is not there; install it (apt-get install fuse3), or run \
         this as root"
    )]
    NoHelper,
    /// The helper did not mount.
    #[error("{helper} does not mount at {}: {}", .at.display(), .said.trim())]
    Helper {
        /// Its name.
        helper: String,
        /// Where it was to mount.
        at: PathBuf,
        /// What it said.
        said: String,
    },
    /// The mount point is not there, or cannot be reached.
    #[error("{} cannot be mounted at: {cause}; name an empty directory, or make it with mkdir", .at.display())]
    NoMountPoint {
        /// As it was given.
        at: PathBuf,
        /// What looking at it said.
        cause: io::Error,
    },
    /// The mount point is something else.
    #[error("{} is no directory; name an empty directory", .at.display())]
    NoDirectory {
        /// As it was given.
        at: PathBuf,
    },
    /// What lies in the directory would be hidden.
    #[error("{} is not empty, and what is in it would be hidden; name an empty directory", .at.display())]
    NotEmpty {
        /// As it was given.
        at: PathBuf,
    },
    /// The mount point lies in such a tree.
    #[error("{} lies in a tree that is mounted at {} already; name an empty directory outside of it", .at.display(), .tree.display())]
    InTree {
        /// As it was given.
        at: PathBuf,
        /// Where that tree is mounted.
        tree: PathBuf,
    },
    /// Whoever was mounted here has gone without unmounting.
    #[error(
        "{} is still the mount point of a program that has ended; free it with `fusermount3 -u {}`, or `umount {}` as root",
        .at.display(), .at.display(), .at.display()
    )]
    Stale {
        /// As it was given.
        at: PathBuf,
    },
    /// Something else was mounted over the tree.
    #[error("something else is mounted over the tree at {}; unmount that first", .at.display())]
    Covered {
        /// Where.
        at: PathBuf,
    },
    /// The system said no, for no reason that is known here.
    #[error("{doing} {} failed: {cause}", .at.display())]
    System {
        /// What was being done.
        doing: &'static str,
        /// The mount point.
        at: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}

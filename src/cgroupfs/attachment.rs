//! [`Attachment`]: a FUSE connection at a place in the file system, and how it gets away from there.
//!
//! ```text
//!                 may we mount?
//!  /dev/fuse --yes--> mount(2)                      umount(2)           busy: umount(2), forced and detached
//!            --no---> fusermount3, which is setuid: sends us the fd     busy: abort the connection, fusermount3 -u -z
//! ```
//!
//! 1. What is unmounted is what was mounted: the connection still lives, and the file system at the place has its number, which
//!    is given to no other while the connection lives. (That is why this is not left to fuser, which unmounts whatever is at
//!    the path by then.)
//! 2. A detached tree is gone for everybody: files still open say `ENOTCONN`, except where only a helper may unmount and the
//!    connection cannot be aborted; there they say `ENODEV`.

use super::error::Error;
use super::mounts::Mounts;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::{getgid, getuid};
use std::fs::{self, File};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the file system is called in the list of mounts.
pub(super) const KIND: &str = "fuse.zspool";

const DEVICE: &str = "/dev/fuse";

/// Setuid programs that mount for users; the first one that is there is taken.
const HELPERS: [&str; 2] = ["fusermount3", "fusermount"];

/// A mount of ours.
#[derive(Debug)]
pub(super) struct Attachment {
    /// Without links.
    at: PathBuf,
    /// Its number in the list of mounts.
    device: String,
    /// The connection once more, to ask whether it lives.
    connection: OwnedFd,
}

impl Attachment {
    /// Mount at an empty directory. The connection is to be served from now on: until its first answer whoever looks at the
    /// place waits.
    pub(super) fn new(given: &Path) -> Result<(OwnedFd, Self), Error> {
        let at = check(given)?;
        let connection = match mount_directly(&at)? {
            Some(connection) => connection,
            None => mount_by_helper(&at)?,
        };
        let mounts = Mounts::read().map_err(|cause| system("reading the mounts for", &at, cause))?;
        match mounts.on_top(&at) {
            Some(mount) if mount.kind == KIND => {
                let again = connection.try_clone().map_err(|cause| system("mounting at", &at, cause))?;
                Ok((connection, Attachment { device: mount.device.clone(), at, connection: again }))
            }
            _ => Err(Error::Covered { at }),
        }
    }

    /// Where it is mounted, without links.
    pub(super) fn at(&self) -> &Path {
        &self.at
    }

    /// Unmount, unless somebody else has.
    pub(super) fn detach(&self) -> Result<(), Error> {
        let Attachment { at, device, .. } = self;
        if self.is_over() {
            return Ok(());
        }
        let mounts = Mounts::read().map_err(|cause| system("reading the mounts for", at, cause))?;
        match mounts.on_top(at) {
            Some(mount) if mount.device == *device => {}
            _ if mounts.has(device) => return Err(Error::Covered { at: at.clone() }),
            _ => return Ok(()),
        }
        match umount2(at, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => Ok(()),
            // Some file is open, or somebody's working directory is here. Whoever waits for an answer is woken.
            Err(Errno::EBUSY) => umount2(at, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_FORCE | MntFlags::MNT_DETACH)
                .map_err(|errno| system("unmounting", at, errno.into())),
            Err(Errno::EPERM) => self.detach_by_helper(),
            Err(errno) => Err(system("unmounting", at, errno.into())),
        }
    }

    /// Whether the file system is mounted nowhere any more.
    pub(super) fn is_over(&self) -> bool {
        let mut ends = [PollFd::new(self.connection.as_fd(), PollFlags::empty())];
        matches!(poll(&mut ends, PollTimeout::ZERO), Ok(1..))
            && ends[0].revents().is_some_and(|seen| seen.contains(PollFlags::POLLERR))
    }

    fn detach_by_helper(&self) -> Result<(), Error> {
        let at = &self.at;
        if run_helper(&["-u", "--"], at, None)?.1.is_empty() {
            return Ok(());
        }
        // Busy. The abort is a file of the user's own; where it is not there, the connection lives until the last file is closed.
        if let Some((_, minor)) = self.device.split_once(':') {
            let _ = fs::write(format!("/sys/fs/fuse/connections/{minor}/abort"), "1");
        }
        match run_helper(&["-u", "-z", "--"], at, None)? {
            (_, said) if said.is_empty() => Ok(()),
            (helper, said) => Err(system("unmounting", at, io::Error::other(format!("{helper}: {}", said.trim())))),
        }
    }
}

/// The mount point without links in it, if it is one.
fn check(given: &Path) -> Result<PathBuf, Error> {
    let at = || given.to_owned();
    let sort = |cause: io::Error| match cause.raw_os_error() {
        Some(libc::ENOTCONN | libc::ECONNABORTED) => Error::Stale { at: at() },
        _ => Error::NoMountPoint { at: at(), cause },
    };
    let found = given.canonicalize().map_err(sort)?;
    if !fs::metadata(&found).map_err(sort)?.is_dir() {
        return Err(Error::NoDirectory { at: at() });
    }
    let mounts = Mounts::read().map_err(|cause| system("reading the mounts for", given, cause))?;
    if let Some(mount) = mounts.around(&found).filter(|mount| mount.kind == KIND) {
        return Err(Error::InTree { at: at(), tree: mount.at.clone() });
    }
    match fs::read_dir(&found).map_err(sort)?.next() {
        None => Ok(found),
        Some(_) => Err(Error::NotEmpty { at: at() }),
    }
}

/// None when that is not for us to do.
fn mount_directly(at: &Path) -> Result<Option<OwnedFd>, Error> {
    let device = match File::options().read(true).write(true).open(DEVICE) {
        Ok(device) => device,
        // The helper would use our rights.
        Err(cause) if cause.kind() == io::ErrorKind::PermissionDenied => return Err(Error::Forbidden),
        Err(cause) => return Err(Error::NoFuse { cause }),
    };
    let options = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        getuid(),
        getgid()
    );
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOATIME;
    match mount(Some("zspool"), at, Some(KIND), flags, Some(options.as_str())) {
        Ok(()) => Ok(Some(device.into())),
        Err(Errno::EPERM) => Ok(None),
        Err(Errno::ENODEV) => Err(Error::NoFuse { cause: Errno::ENODEV.into() }),
        Err(errno) => Err(system("mounting at", at, errno.into())),
    }
}

fn mount_by_helper(at: &Path) -> Result<OwnedFd, Error> {
    let (ours, its) = UnixStream::pair().map_err(|cause| system("mounting at", at, cause))?;
    let options = "nosuid,nodev,noexec,noatime,default_permissions,fsname=zspool,subtype=zspool";
    let (helper, said) = run_helper(&["-o", options, "--"], at, Some(its))?;
    receive(&ours).ok_or_else(|| Error::Helper { helper, at: at.to_owned(), said })
}

/// Run the helper to its end; what it said is empty when it did what it was to do. It sends a connection to `socket`, which it
/// has as its standard input: so no descriptor has to be made to survive exec.
fn run_helper(arguments: &[&str], at: &Path, socket: Option<UnixStream>) -> Result<(String, String), Error> {
    let stdin = || -> io::Result<Stdio> {
        Ok(match &socket {
            Some(socket) => OwnedFd::from(socket.try_clone()?).into(),
            None => Stdio::null(),
        })
    };
    for helper in HELPERS {
        let stdin = stdin().map_err(|cause| system("mounting at", at, cause))?;
        let mut command = Command::new(helper);
        command.args(arguments).arg(at).env("_FUSE_COMMFD", "0").env("LC_ALL", "C").stdin(stdin);
        match command.output() {
            Ok(output) if output.status.success() => return Ok((helper.to_owned(), String::new())),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                let said = if said.trim().is_empty() { format!("it ended with {}", output.status) } else { said };
                return Ok((helper.to_owned(), said));
            }
            // A folder on the path that may not be searched counts as one without it.
            Err(cause) if matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {}
            Err(cause) => {
                return Err(Error::Helper { helper: helper.to_owned(), at: at.to_owned(), said: cause.to_string() });
            }
        }
    }
    Err(Error::NoHelper)
}

/// The descriptor that the helper sent before it ended. Its end of the socket is closed by now, so this does not wait.
fn receive(socket: &UnixStream) -> Option<OwnedFd> {
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!(RawFd);
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT,
    );
    let descriptors = message.ok()?.cmsgs().ok()?.find_map(|message| match message {
        ControlMessageOwned::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    })?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows of it.
    descriptors.first().map(|&descriptor| unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn system(doing: &'static str, at: &Path, cause: io::Error) -> Error {
    Error::System { doing, at: at.to_owned(), cause }
}

//! [`mount`] and [`Mounted`]: a tree at a place in the file system, until it is dropped.
//!
//! Taking it away, in this order:
//!
//! 1. nothing is answered from the tree any more, and writes under way are cancelled and waited for;
//! 2. the file system is unmounted, files open or not;
//! 3. the threads that served it end. Only where somebody holds the connection itself (a copy of the mount in another
//!    namespace) do they stay, and answer `ENODEV`.

use super::attachment::{Attachment, KIND};
use super::error::Error;
use super::filesystem::{Shared, TreeFs};
use crate::memcg::Tree;
use crate::sync::{Arc, thread};
use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use nix::unistd::{getegid, geteuid};
use std::io;
use std::path::Path;

/// Threads that answer. None of them ever waits for a write; a second one for when a sum over a large tree takes its time.
const THREADS: usize = 2;

/// A tree that is mounted; dropping it unmounts.
#[derive(Debug)]
pub struct Mounted {
    attachment: Attachment,
    shared: Arc<Shared>,
    /// None only when it is over.
    threads: Option<Threads>,
}

#[derive(Debug)]
struct Threads {
    session: BackgroundSession,
    watcher: thread::JoinHandle<()>,
}

/// Mount the memcgs of a tree as directories at an empty directory, with their control files. Whoever runs this program owns
/// the files, and nobody else sees them.
///
/// It needs `/dev/fuse`, and either root's right to mount or the helper `fusermount3`.
///
/// # Errors
/// Of each kind that [`Error`] has. Nothing is mounted then.
///
/// # Examples
/// ```no_run
/// use zspool::{cgroupfs, memcg::{Tree, TreeConfig}};
///
/// let tree = Tree::new(TreeConfig::default()); // or that of a Zswap: zswap.tree()
/// let mounted = cgroupfs::mount(&tree, "/mnt/zspool".as_ref())?;
/// std::fs::create_dir("/mnt/zspool/vm0").expect("a memcg");
/// mounted.unmount()?;
/// # Ok::<(), cgroupfs::Error>(())
/// ```
pub fn mount(tree: &Tree, at: &Path) -> Result<Mounted, Error> {
    let (connection, attachment) = Attachment::new(at)?;
    let shared = Arc::new(Shared::new(tree, (geteuid().as_raw(), getegid().as_raw())));
    match serve(connection, &shared) {
        Ok(threads) => Ok(Mounted { attachment, shared, threads: Some(threads) }),
        Err(cause) => {
            shared.close();
            // The first error is the one to tell.
            let _ = attachment.detach();
            Err(Error::System { doing: "serving", at: at.to_owned(), cause })
        }
    }
}

fn serve(connection: std::os::fd::OwnedFd, shared: &Arc<Shared>) -> io::Result<Threads> {
    let mut config = Config::default();
    config.mount_options = vec![MountOption::DefaultPermissions, MountOption::Subtype(KIND.to_owned())];
    config.n_threads = Some(THREADS);
    let session = Session::from_fd(TreeFs(shared.clone()), connection, SessionACL::Owner, config)?.spawn()?;
    let callers = shared.callers.clone();
    let watcher = thread::spawn("zspool-signals", move || callers.watch())?;
    Ok(Threads { session, watcher })
}

impl Mounted {
    /// Where it is mounted, without links in the path.
    pub fn path(&self) -> &Path {
        self.attachment.at()
    }

    /// Whether nobody else has unmounted it.
    pub fn is_mounted(&self) -> bool {
        !self.attachment.is_over()
    }

    /// Unmount, also when files are open or are being written: those say that their device is gone.
    ///
    /// # Errors
    /// [`Error::Covered`] and [`Error::System`]; then the place still has a dead file system.
    pub fn unmount(mut self) -> Result<(), Error> {
        self.end()
    }

    /// Wait until somebody else unmounts it (`umount`, `fusermount3 -u`).
    ///
    /// # Errors
    /// [`Error::System`] when serving it failed.
    pub fn join(mut self) -> Result<(), Error> {
        let Some(Threads { session, watcher }) = self.threads.take() else { return Ok(()) };
        let served = session.join();
        self.shared.close();
        // A watcher that panicked has said so itself.
        let _ = watcher.join();
        served.map_err(|cause| Error::System { doing: "serving", at: self.path().to_owned(), cause })
    }

    fn end(&mut self) -> Result<(), Error> {
        let Some(Threads { session, watcher }) = self.threads.take() else { return Ok(()) };
        self.shared.close();
        let _ = watcher.join();
        let detached = self.attachment.detach();
        if self.attachment.is_over() {
            // How serving ended does not matter any more.
            let _ = session.join();
        }
        detached
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Whoever wants to know calls `unmount`.
        let _ = self.end();
    }
}

//! [`TreeFs`]: what the kernel asks, answered from the tree.
//!
//! ```text
//!  kernel                       fuser, two threads                    the tree
//!  lookup a/b  -------------->  by parent's id and name  ---------->  by_path
//!  open, read  -------------->  a handle; its text       ---------->  read_file
//!  write       -------------->  a thread of its own      ---------->  write_file, may take long
//!  mkdir, rmdir ------------->                           ---------->  mkdir, offline
//! ```
//!
//! 1. Nothing is cached: names and attributes are good for no time at all, contents are read past the page cache. The tree
//!    changes behind the kernel's back.
//! 2. No write is done by the threads that answer the rest, so a long one holds nobody up.
//! 3. What cgroup2 refuses is refused with its number: files cannot be made (`EACCES`), removed, renamed or linked (`EPERM`);
//!    a removed memcg's open files say `ENODEV`.

use super::callers::Callers;
use super::control::{Control, of_directory, of_open};
use super::inode::Ino;
use super::opened::{Entry, Opened};
use crate::memcg::{Memcg, Tree};
use crate::sync::{Arc, Mutex, Rank, thread};
use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// How long an answer is good for.
const TTL: Duration = Duration::ZERO;

/// A bigger write comes in pieces; the first of them is refused, being longer than any file takes.
const WRITE_PIECE: u32 = 64 << 10;

/// What the file system's threads share with who mounted it.
#[derive(Debug)]
pub(super) struct Shared {
    /// None once unmounted: the tree is not kept alive by those who still have its files open.
    tree: Mutex<Option<Tree>>,
    opened: Opened,
    pub(super) callers: Arc<Callers>,
    owner: (u32, u32),
    since: SystemTime,
}

impl Shared {
    pub(super) fn new(tree: &Tree, owner: (u32, u32)) -> Self {
        Shared {
            tree: Mutex::new(Rank::Leaf, Some(tree.clone())),
            opened: Opened::new(),
            callers: Arc::new(Callers::new()),
            owner,
            since: SystemTime::now(),
        }
    }

    /// Answer nothing from the tree any more, and have no write under way.
    pub(super) fn close(&self) {
        let tree = self.tree.lock().take();
        self.callers.close();
        self.opened.close_all();
        drop(tree);
    }

    fn tree(&self) -> Result<Tree, Errno> {
        self.tree.lock().clone().ok_or(Errno::ENODEV)
    }

    /// The memcg of a number; none when it was removed.
    fn memcg_or_none(&self, ino: Ino) -> Result<Option<Memcg>, Errno> {
        Ok(self.tree()?.find(ino.memcg))
    }

    /// The memcg of a number, if it is there still.
    fn memcg(&self, ino: Ino) -> Result<Memcg, Errno> {
        self.memcg_or_none(ino)?.ok_or(Errno::ENOENT)
    }

    fn attributes(&self, ino: Ino, exists: bool) -> Result<FileAttr, Errno> {
        let (kind, perm) = match ino.file {
            None => (FileType::Directory, 0o755),
            Some(file) => (FileType::RegularFile, Control::at(file).ok_or(Errno::ENOENT)?.mode()),
        };
        let time = self.since;
        Ok(FileAttr {
            ino: INodeNo(ino.number()),
            size: 0,
            blocks: 0,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm,
            // Of a directory, 1 says that its children were not counted.
            nlink: exists.into(),
            uid: self.owner.0,
            gid: self.owner.1,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    fn lookup(&self, parent: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        let memcg = self.memcg(directory(parent)?)?;
        let name = name.to_str().ok_or(Errno::ENOENT)?;
        let found = match Control::named(name) {
            Some(control) => Ino::file(memcg.id(), control.index),
            None => Ino::directory(child(&memcg, name)?.id()),
        };
        self.attributes(found, true)
    }

    fn list(&self, memcg: &Option<Memcg>) -> Result<Vec<Entry>, Errno> {
        self.tree()?;
        let Some(memcg) = memcg.as_ref().filter(|memcg| memcg.is_online()) else { return Ok(Vec::new()) };
        let directory = |memcg: &Memcg, name: &str| Entry {
            ino: Ino::directory(memcg.id()).number(),
            directory: true,
            name: name.to_owned(),
        };
        let above = memcg.parent();
        let mut entries = vec![directory(memcg, "."), directory(above.as_ref().unwrap_or(memcg), "..")];
        entries.extend(Control::all().map(|control| Entry {
            ino: Ino::file(memcg.id(), control.index).number(),
            directory: false,
            name: control.name().to_owned(),
        }));
        for child in memcg.children() {
            let path = child.path();
            entries.push(directory(&child, path.rsplit('/').next().unwrap_or_default()));
        }
        Ok(entries)
    }

    fn mkdir(&self, parent: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        let memcg = self.memcg(directory(parent)?)?;
        // Names are text here, and of one line, as they are in the kernel.
        let name = name.to_str().filter(|name| !name.contains('\n')).ok_or(Errno::EINVAL)?;
        let made = memcg.mkdir(name).map_err(|error| Errno::from_i32(of_directory(&error)))?;
        self.attributes(Ino::directory(made.id()), true)
    }

    fn rmdir(&self, parent: INodeNo, name: &OsStr) -> Result<(), Errno> {
        let memcg = self.memcg(directory(parent)?)?;
        let name = name.to_str().ok_or(Errno::ENOENT)?;
        child(&memcg, name)?.offline().map_err(|error| Errno::from_i32(of_directory(&error)))
    }

    fn open(&self, ino: INodeNo) -> Result<u64, Errno> {
        let ino = known(ino)?;
        let control = ino.file.and_then(Control::at).ok_or(Errno::EISDIR)?;
        let memcg = self.memcg_or_none(ino)?.ok_or(Errno::ENODEV)?;
        let file = memcg.open_file(control.name()).map_err(|error| Errno::from_i32(of_open(&error)))?;
        Ok(self.opened.open(file))
    }

    fn read(&self, handle: FileHandle, offset: u64) -> Result<Arc<[u8]>, Errno> {
        let file = self.opened.file(handle.0).ok_or(Errno::ENODEV)?;
        file.text(offset).map_err(Errno::from_i32)
    }
}

/// A number that the kernel has from us.
fn known(ino: INodeNo) -> Result<Ino, Errno> {
    Ino::from_number(ino.0).ok_or(Errno::ENOENT)
}

/// The same, of a directory.
fn directory(ino: INodeNo) -> Result<Ino, Errno> {
    known(ino).and_then(|ino| if ino.file.is_none() { Ok(ino) } else { Err(Errno::ENOTDIR) })
}

fn child(memcg: &Memcg, name: &str) -> Result<Memcg, Errno> {
    let found = memcg.tree().by_path(&format!("{}/{name}", memcg.path().trim_end_matches('/')));
    // If the memcg went meanwhile, its path may be another's.
    found.filter(|child| child.parent().as_ref() == Some(memcg)).ok_or(Errno::ENOENT)
}

/// The file system.
#[derive(Debug)]
pub(super) struct TreeFs(pub(super) Arc<Shared>);

impl Filesystem for TreeFs {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Kernels that want it smaller take what they can.
        let _ = config.set_max_write(WRITE_PIECE);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.0.lookup(parent, name) {
            Ok(found) => reply.entry(&TTL, &found, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        // Only who has it open can ask for one that is gone.
        match known(ino).and_then(|ino| self.0.attributes(ino, self.0.memcg_or_none(ino)?.is_some())) {
            Ok(found) => reply.attr(&TTL, &found),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        _size: Option<u64>, // O_TRUNC: there is nothing to cut off
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        match (mode, uid, gid) {
            (None, None, None) => self.getattr(request, ino, handle, reply),
            _ => reply.error(Errno::EPERM),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _mode: u32, _umask: u32, reply: ReplyEntry) {
        match self.0.mkdir(parent, name) {
            Ok(made) => reply.entry(&TTL, &made, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        match self.0.rmdir(parent, name) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn create(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        reply.error(Errno::EACCES);
    }

    fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
    }

    fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EPERM);
    }

    fn rename(&self, _: &Request, _: INodeNo, _: &OsStr, _: INodeNo, _: &OsStr, _: RenameFlags, reply: ReplyEmpty) {
        reply.error(Errno::EPERM);
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.0.open(ino) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::FOPEN_DIRECT_IO),
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.0.read(handle, offset) {
            Ok(text) => {
                let start = usize::try_from(offset).map_or(text.len(), |offset| offset.min(text.len()));
                let rest = &text[start..];
                reply.data(&rest[..rest.len().min(size as usize)]);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        _offset: u64, // each write is a whole one
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let Some((file, call)) = self.0.opened.file(handle.0).zip(self.0.callers.enter(request.pid())) else {
            return reply.error(Errno::ENODEV);
        };
        let text = data.to_vec();
        let write = move || {
            match file.write(&text, &call.cancel) {
                Ok(()) => reply.written(text.len() as u32),
                Err(errno) => reply.error(Errno::from_i32(errno)),
            }
            drop(file);
            drop(call); // the last thing: whoever closes waits for it
        };
        // Without a thread for it the write is dropped, and the caller told EIO.
        drop(thread::spawn("zspool-write", write));
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.0.opened.close(handle.0);
        reply.ok();
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match directory(ino).and_then(|ino| self.0.memcg_or_none(ino)) {
            Ok(memcg) => reply.opened(FileHandle(self.0.opened.open_directory(memcg)), FopenFlags::empty()),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(&self, _: &Request, _: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let Some(directory) = self.0.opened.directory(handle.0) else { return reply.error(Errno::ENODEV) };
        let entries = match directory.entries(offset, || self.0.list(&directory.memcg)) {
            Ok(entries) => entries,
            Err(errno) => return reply.error(errno),
        };
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        for (place, Entry { ino, directory, name }) in entries.iter().enumerate().skip(start) {
            let kind = if *directory { FileType::Directory } else { FileType::RegularFile };
            if reply.add(INodeNo(*ino), place as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.0.opened.close(handle.0);
        reply.ok();
    }
}

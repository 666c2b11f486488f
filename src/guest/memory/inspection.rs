//! The look at memory before it is registered: each thing that cannot work is refused by name.
//!
//! ```text
//!   range       whole pages, not too many                          (no system call)
//!   maps        mapped without a gap, rw, right kind, right file   /proc/self/maps
//!   locks       none                                               /proc/self/status, and smaps only where something is locked
//!   memfd       tmpfs, no seal, long enough, mapped once           fstatfs, fcntl, fstat, /proc/*/maps
//! ```
//!
//! What another process does meanwhile is not seen; nor what processes of other users have mapped: [`Inspected`] says how many were not looked at.

use super::maps::{self, Mapping};
use super::{Kind, Memory, Refusal};
use crate::units::PAGE_SIZE;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Most bytes of one region: page numbers have 32 bits, and those a little behind the last are counted with.
pub(super) const MOST_BYTES: usize = (u32::MAX as usize - 127) * PAGE_SIZE;

/// Magic number of tmpfs, which memfd is on.
const TMPFS: i64 = 0x0102_1994;
/// Magic number of hugetlbfs.
const HUGETLBFS: i64 = 0x9584_58f6;

/// What was looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Inspected {
    /// Mappings in the range.
    pub mappings: usize,
    /// Processes whose mappings were searched for the memfd.
    pub processes: usize,
    /// Processes that could not be looked at: of other users. Run as root to be sure that none of them maps the memfd.
    pub hidden_processes: usize,
}

impl Memory {
    /// Look whether this can be registered, without doing it.
    ///
    /// # Errors
    /// The first thing that is in the way.
    pub fn inspect(&self) -> Result<Inspected, Refusal> {
        self.inspect_mappings().map(|(inspected, _)| inspected)
    }

    /// As [`inspect`](Self::inspect), with the mappings that the range lies in.
    pub(super) fn inspect_mappings(&self) -> Result<(Inspected, Vec<Mapping>), Refusal> {
        let range = self.addresses();
        let (start, end) = (range.start, range.end);
        if range.is_empty() {
            return Err(Refusal::Empty { start });
        }
        if start % PAGE_SIZE != 0 || end % PAGE_SIZE != 0 {
            return Err(Refusal::Unaligned { start, end });
        }
        if range.len() > MOST_BYTES {
            return Err(Refusal::TooLarge { bytes: range.len(), most: MOST_BYTES });
        }
        // SAFETY: asks for a number.
        let page_size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        if page_size != PAGE_SIZE {
            return Err(Refusal::PageSize { found: page_size });
        }
        let mappings = maps::inside(&range).map_err(|source| Refusal::Proc { what: "/proc/self/maps", source })?;
        without_gap(&mappings, &range)?;
        for mapping in &mappings {
            self.mapping_fits(mapping, &range)?;
        }
        unlocked(&range)?;
        let mut inspected = Inspected { mappings: mappings.len(), ..Inspected::default() };
        if let Kind::Memfd { file, offset } = self.kind() {
            let file =
                file.as_ref().map_err(|&errno| Refusal::Descriptor { source: io::Error::from_raw_os_error(errno) })?;
            let shown = Shown { range: &range, offset: *offset, file: std::os::fd::AsFd::as_fd(file) };
            let like = shown.file_is_fit(&mappings)?;
            let all = maps::of("self").map_err(|source| Refusal::Proc { what: "/proc/self/maps", source })?;
            shown.mapped_once(&all, like)?;
            shown.mapped_by_nobody_else(like, &mut inspected)?;
        }
        Ok((inspected, mappings))
    }

    /// Whether a mapping is of the kind that was said, and may be read and written.
    fn mapping_fits(&self, mapping: &Mapping, range: &Range<usize>) -> Result<(), Refusal> {
        let (start, end) = (mapping.range.start.max(range.start), mapping.range.end.min(range.end));
        let name = || if mapping.name.is_empty() { "no name".to_owned() } else { mapping.name.clone() };
        if mapping.name.starts_with("[stack") || mapping.name.starts_with("[v") {
            return Err(Refusal::Special { start, end, name: name() });
        }
        if is_hugetlb(mapping) {
            return Err(Refusal::Hugetlb { start, end });
        }
        match self.kind() {
            Kind::Anonymous if mapping.shared => return Err(Refusal::Shared { start, end, name: name() }),
            Kind::Anonymous if mapping.inode != 0 => return Err(Refusal::FileBacked { start, end, name: name() }),
            Kind::Memfd { .. } if !mapping.shared => return Err(Refusal::NotShared { start, end, name: name() }),
            _ => {}
        }
        match (mapping.read, mapping.write) {
            (true, true) => Ok(()),
            (false, false) if !mapping.execute => Err(Refusal::NoAccess { start, end }),
            _ => Err(Refusal::Protection { start, end, access: mapping.access() }),
        }
    }
}

/// By its name, as its file system is not told: mappings without a file, and those below the usual mount point.
fn is_hugetlb(mapping: &Mapping) -> bool {
    mapping.inode != 0 && (mapping.name.starts_with("/anon_hugepage") || mapping.name.starts_with("/dev/hugepages"))
}

fn without_gap(mappings: &[Mapping], range: &Range<usize>) -> Result<(), Refusal> {
    let mut mapped_to = range.start;
    for mapping in mappings {
        if mapping.range.start > mapped_to {
            return Err(Refusal::NotMapped { start: mapped_to, end: mapping.range.start });
        }
        mapped_to = mapping.range.end;
    }
    if mapped_to < range.end { Err(Refusal::NotMapped { start: mapped_to, end: range.end }) } else { Ok(()) }
}

fn unlocked(range: &Range<usize>) -> Result<(), Refusal> {
    let locked = maps::locked_bytes().map_err(|source| Refusal::Proc { what: "/proc/self/status", source })?;
    // Reading the flags of all mappings takes long where there are thousands; keys for devices are always locked.
    if locked <= crate::swap::locked_bytes() {
        return Ok(());
    }
    let flags = maps::flags(range).map_err(|source| Refusal::Proc { what: "/proc/self/smaps", source })?;
    match flags.iter().find(|(_, flags)| flags.split(' ').any(|flag| flag == "lo")) {
        Some((at, _)) => Err(Refusal::Locked { start: at.start.max(range.start), end: at.end.min(range.end) }),
        None => Ok(()),
    }
}

/// A file's device and inode, as `maps` has them.
type Identity = ((u32, u32), u64);

/// A range that is said to show a file.
struct Shown<'a> {
    range: &'a Range<usize>,
    offset: u64,
    file: BorrowedFd<'a>,
}

impl Shown<'_> {
    fn file_range(&self) -> Range<u64> {
        self.offset..self.offset + self.range.len() as u64
    }

    /// Whether it is a file of shared memory, the one that is mapped, and open to what is done to it.
    fn file_is_fit(&self, mappings: &[Mapping]) -> Result<Identity, Refusal> {
        let (start, end) = (self.range.start, self.range.end);
        let failed = || Refusal::Descriptor { source: io::Error::last_os_error() };
        let fd = self.file.as_raw_fd();
        // SAFETY: all zeroes is a value of this plain structure.
        let mut system: libc::statfs = unsafe { std::mem::zeroed() };
        // SAFETY: the structure is borrowed for the call.
        if unsafe { libc::fstatfs(fd, &raw mut system) } != 0 {
            return Err(failed());
        }
        match system.f_type as i64 {
            TMPFS => {}
            HUGETLBFS => return Err(Refusal::Hugetlb { start, end }),
            _ => return Err(Refusal::NotMemfd),
        }
        // SAFETY: all zeroes is a value of this plain structure.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: the structure is borrowed for the call.
        if unsafe { libc::fstat(fd, &raw mut stat) } != 0 {
            return Err(failed());
        }
        // SAFETY: asks for a number. A file of a tmpfs that takes no seals has none.
        let seals = unsafe { libc::fcntl(fd, libc::F_GET_SEALS) }.max(0);
        for (seal, name) in [(libc::F_SEAL_WRITE, "F_SEAL_WRITE"), (libc::F_SEAL_FUTURE_WRITE, "F_SEAL_FUTURE_WRITE")] {
            if seals & seal != 0 {
                return Err(Refusal::Sealed { seal: name });
            }
        }
        let identity = ((libc::major(stat.st_dev), libc::minor(stat.st_dev)), stat.st_ino);
        for mapping in mappings {
            let wanted = self.offset as i128 + mapping.range.start as i128 - start as i128;
            if (mapping.device, mapping.inode) != identity || mapping.offset as i128 != wanted {
                let found = format!("{} at offset {}", mapping.name, mapping.offset);
                return Err(Refusal::OtherFile { start, end, offset: self.offset, found });
            }
        }
        if self.file_range().end > stat.st_size as u64 {
            return Err(Refusal::FileTooShort { bytes: stat.st_size as u64, end: self.file_range().end });
        }
        Ok(identity)
    }

    fn shows_same(&self, mapping: &Mapping, identity: Identity) -> bool {
        let (mine, other) = (self.file_range(), mapping.file_range());
        (mapping.device, mapping.inode) == identity && mine.start < other.end && other.start < mine.end
    }

    /// Whether this process maps these bytes at the range only.
    fn mapped_once(&self, all: &[Mapping], identity: Identity) -> Result<(), Refusal> {
        let outside = |m: &&Mapping| m.range.end <= self.range.start || self.range.end <= m.range.start;
        // A mapping that reaches past the range is one of other bytes there.
        match all.iter().filter(outside).find(|mapping| self.shows_same(mapping, identity)) {
            Some(mapping) => Err(Refusal::MappedTwice { other: mapping.range.start }),
            None => Ok(()),
        }
    }

    /// Whether any other process that may be looked at maps them.
    fn mapped_by_nobody_else(&self, identity: Identity, inspected: &mut Inspected) -> Result<(), Refusal> {
        let folder = std::fs::read_dir("/proc").map_err(|source| Refusal::Proc { what: "/proc", source })?;
        let me = std::process::id();
        for pid in folder.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
            if pid == me {
                continue;
            }
            match maps::of(&pid.to_string()) {
                Ok(mappings) => {
                    inspected.processes += 1;
                    if mappings.iter().any(|mapping| self.shows_same(mapping, identity)) && !same_memory(me, pid) {
                        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                        return Err(Refusal::MappedElsewhere { pid, name: name.trim().to_owned() });
                    }
                }
                // One that ended meanwhile maps nothing.
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => {}
                Err(_) => inspected.hidden_processes += 1,
            }
        }
        Ok(())
    }
}

/// Whether two processes have one address space, as a child of `vfork` has with its parent until it calls exec.
fn same_memory(me: u32, other: u32) -> bool {
    const KCMP_VM: libc::c_int = 1;
    // SAFETY: compares two processes and touches no memory.
    unsafe { libc::syscall(libc::SYS_kcmp, me, other, KCMP_VM, 0, 0) == 0 }
}

//! [`zsp_status`]: what a program can do about a refusal, as a number; and which error of the library is which.

use zspool_core::guest::{self, memory::Refusal, uffd};
use zspool_core::zsmalloc::{self, HandleError};
use zspool_core::zswap::{self, SwapoffError};
use zspool_core::{arena, memcg, swap};

/// What became of a call. `zsp_error_message()` has the sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub enum zsp_status {
    /// It did what it says.
    ZSP_OK = 0,
    /// An argument is NULL, not aligned, of another kind, closed before, or a number that cannot be: a defect of the program.
    ZSP_EINVAL = 1,
    /// A limit is reached and no room could be made below it: free something, raise it, or add a swap device.
    ZSP_ELIMIT = 2,
    /// The handle is of an object that was removed.
    ZSP_ESTALE = 3,
    /// It is not there: the slot is empty, the group, file, tier or device does not exist.
    ZSP_ENOENT = 4,
    /// It is there already; or the path has something that must not be overwritten.
    ZSP_EEXIST = 5,
    /// The group was removed, or the memory unmapped, since the handle was made.
    ZSP_EGONE = 6,
    /// The page cannot be had any more: its device lost it, or its bytes are damaged. It is never made up.
    ZSP_ELOST = 7,
    /// A device failed, or does not answer: nothing is lost, another try may succeed.
    ZSP_EIO = 8,
    /// It would have to wait for a device, and was told not to.
    ZSP_EWAIT = 9,
    /// It is in use this moment: pinned, locked, being moved, not empty. Try again when that has changed.
    ZSP_EBUSY = 10,
    /// Less was done than was asked for; the result says how much.
    ZSP_EPARTIAL = 11,
    /// A callback called it off. What was done stays done.
    ZSP_ECANCELED = 12,
    /// The buffer is too small; the result says what is needed.
    ZSP_ERANGE = 13,
    /// This process may not do it: a capability, a setting or a file's mode is missing.
    ZSP_EPERM = 14,
    /// The kernel or the file system here cannot do it.
    ZSP_EUNSUPPORTED = 15,
    /// The system has no memory, address space, thread or descriptor left for it.
    ZSP_ENOMEM = 16,
    /// The system refused something else.
    ZSP_ESYSTEM = 17,
    /// The library panicked, and the panic was caught: a defect of the library.
    ZSP_EPANIC = 18,
    /// Anything else: codes that come later are this to older programs.
    ZSP_EOTHER = 19,
}

use zsp_status::*;

/// An error with a code.
pub(crate) trait Coded: std::fmt::Display {
    fn code(&self) -> zsp_status;
}

/// The name of a code, such as "ZSP_ELIMIT"; "unknown" for a number that is none. Never freed. Any thread, at any time.
#[unsafe(no_mangle)]
pub extern "C" fn zsp_status_name(status: i32) -> *const std::ffi::c_char {
    let names = [
        c"ZSP_OK",
        c"ZSP_EINVAL",
        c"ZSP_ELIMIT",
        c"ZSP_ESTALE",
        c"ZSP_ENOENT",
        c"ZSP_EEXIST",
        c"ZSP_EGONE",
        c"ZSP_ELOST",
        c"ZSP_EIO",
        c"ZSP_EWAIT",
        c"ZSP_EBUSY",
        c"ZSP_EPARTIAL",
        c"ZSP_ECANCELED",
        c"ZSP_ERANGE",
        c"ZSP_EPERM",
        c"ZSP_EUNSUPPORTED",
        c"ZSP_ENOMEM",
        c"ZSP_ESYSTEM",
        c"ZSP_EPANIC",
        c"ZSP_EOTHER",
    ];
    usize::try_from(status).ok().and_then(|status| names.get(status)).map_or(c"unknown", |name| name).as_ptr()
}

/// A refusal of the system's.
fn of_system(error: &std::io::Error) -> zsp_status {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => ZSP_EPERM,
        Some(libc::ENOMEM | libc::EMFILE | libc::ENFILE) => ZSP_ENOMEM,
        Some(libc::ENOSYS | libc::EOPNOTSUPP | libc::ENOTTY) => ZSP_EUNSUPPORTED,
        Some(libc::EBUSY | libc::EAGAIN) => ZSP_EBUSY,
        Some(libc::ENOENT) => ZSP_ENOENT,
        _ => ZSP_ESYSTEM,
    }
}

impl Coded for arena::Error {
    fn code(&self) -> zsp_status {
        use arena::Error::*;
        match self {
            Reserve { .. } => ZSP_ENOMEM,
            AddressSpace { .. } | RunFrames { .. } | NoSuchNode { .. } => ZSP_EINVAL,
            PageSize { .. } => ZSP_EUNSUPPORTED,
            NoRun { .. } | Limit { .. } | NodeFull { .. } => ZSP_ELIMIT,
            NoMemory { .. } => ZSP_ENOMEM,
            _ => ZSP_EOTHER,
        }
    }
}

impl Coded for zsmalloc::Error {
    fn code(&self) -> zsp_status {
        use zsmalloc::Error::*;
        match self {
            Geometry { .. } | ShortRuns { .. } | Nodes { .. } => ZSP_EINVAL,
            Length { .. } | WrongLength { .. } | Prepaid { .. } | ForeignMemcg { .. } => ZSP_EINVAL,
            Metadata(_) => ZSP_ENOMEM,
            Limit(_) | NodesFull { .. } | Entries { .. } => ZSP_ELIMIT,
            Memcg(error) => error.code(),
            Arena(error) => error.code(),
            _ => ZSP_EOTHER,
        }
    }
}

impl Coded for HandleError {
    fn code(&self) -> zsp_status {
        match self {
            HandleError::Pool(error) => error.code(),
            HandleError::ForeignHandle { .. } | HandleError::OutOfRange { .. } => ZSP_EINVAL,
            HandleError::Stale { .. } => ZSP_ESTALE,
            HandleError::NoHandle { .. } | HandleError::NoTag { .. } => ZSP_ELIMIT,
            _ => ZSP_EOTHER,
        }
    }
}

impl Coded for memcg::Error {
    fn code(&self) -> zsp_status {
        use memcg::Error::*;
        match self {
            Offline { .. } => ZSP_EGONE,
            FileName { .. } | Exists { .. } => ZSP_EEXIST,
            HasChildren { .. } | Root | BelowPinned { .. } | Unmoved { .. } => ZSP_EBUSY,
            OutOfIds { .. } => ZSP_ELIMIT,
            NoSuchTier { .. } | NoSuchFile { .. } => ZSP_ENOENT,
            Again { .. } => ZSP_EPARTIAL,
            Interrupted { .. } => ZSP_ECANCELED,
            BadName { .. }
            | TooDeep { .. }
            | Nodes { .. }
            | NoNodeLeft { .. }
            | TierForbidden { .. }
            | ReadOnly { .. }
            | WriteOnly { .. }
            | Unsupported { .. }
            | NoValue { .. }
            | BadWord { .. }
            | Request(_)
            | Unserved { .. }
            | WritebackOff { .. } => ZSP_EINVAL,
            _ => ZSP_EOTHER,
        }
    }
}

impl Coded for swap::Error {
    fn code(&self) -> zsp_status {
        use swap::Error::*;
        match self {
            AddressSpace { .. } | Key { .. } => ZSP_ENOMEM,
            Reserve { .. }
            | NotReserved { .. }
            | Incomplete { .. }
            | TooSmall { .. }
            | TooLarge { .. }
            | Symlink { .. }
            | NotRegular { .. }
            | TwoNames { .. }
            | IncompleteBlock
            | NotBlock { .. }
            | Sector { .. }
            | Geometry { .. }
            | Alignment { .. }
            | DeviceNumber { .. }
            | Forked
            | TierName { .. }
            | TierPriority { .. }
            | TiersClash { .. }
            | CapTooSmall { .. } => ZSP_EINVAL,
            Foreign { .. } | DamagedHeader { .. } | Version { .. } | Units { .. } | Occupied { .. } => ZSP_EEXIST,
            Locked { .. } | Busy { .. } | Unstable { .. } | Shut | NotDraining { .. } | NotEmpty { .. } => ZSP_EBUSY,
            Permission { .. } => ZSP_EPERM,
            MissingFolder { .. } | NoDevice | NotOn { .. } => ZSP_ENOENT,
            NoUnnamed { .. } => ZSP_EUNSUPPORTED,
            File { source, .. } => of_system(source),
            TooManySlots { .. }
            | NoncesExhausted { .. }
            | TooManyDevices { .. }
            | TooManyTiers { .. }
            | SwapLimit { .. }
            | Floor { .. }
            | Full { .. } => ZSP_ELIMIT,
            Io { .. } | TimedOut { .. } | Hung { .. } => ZSP_EIO,
            Corrupt { .. } => ZSP_ELOST,
            _ => ZSP_EOTHER,
        }
    }
}

impl Coded for zswap::Error {
    fn code(&self) -> zsp_status {
        use zswap::Error::*;
        match self {
            NotStored { .. } => ZSP_ENOENT,
            NeedsIo { .. } => ZSP_EWAIT,
            Corrupt { .. } | Lost { .. } => ZSP_ELOST,
            Read { .. } => ZSP_EIO,
            Limit { .. } | PoolFull { .. } | NodesFull { .. } | TooManyReferences { .. } | Incompressible { .. } => {
                ZSP_ELIMIT
            }
            Busy { .. } => ZSP_EBUSY,
            ForeignMemcg { .. } | Codec(_) => ZSP_EINVAL,
            Worker(_) | AddressSpace { .. } => ZSP_ENOMEM,
            Memcg(error) => error.code(),
            Swap(error) => error.code(),
            Pool(error) => error.code(),
            Arena(error) => error.code(),
            _ => ZSP_EOTHER,
        }
    }
}

impl Coded for SwapoffError {
    fn code(&self) -> zsp_status {
        match self {
            SwapoffError::Device(error) => error.code(),
            SwapoffError::UnderWay { .. } => ZSP_EBUSY,
            SwapoffError::Cancelled { .. } => ZSP_ECANCELED,
            SwapoffError::NoRoom { .. } => ZSP_ELIMIT,
            SwapoffError::Unreadable { .. } => ZSP_EIO,
            _ => ZSP_EOTHER,
        }
    }
}

impl Coded for uffd::Error {
    fn code(&self) -> zsp_status {
        use uffd::Error::*;
        match self {
            NotPermitted { .. } | Filtered | ForkEvents | Device { .. } => ZSP_EPERM,
            NoSystemCall | Missing { .. } => ZSP_EUNSUPPORTED,
            TooManyFiles { .. } => ZSP_ENOMEM,
            Taken { .. } => ZSP_EBUSY,
            Register { .. } => ZSP_EINVAL,
            Failed { .. } => ZSP_ESYSTEM,
            _ => ZSP_EOTHER,
        }
    }
}

impl Coded for Refusal {
    fn code(&self) -> zsp_status {
        use Refusal::*;
        match self {
            Empty { .. }
            | Unaligned { .. }
            | TooLarge { .. }
            | Overlap { .. }
            | NotMapped { .. }
            | NoAccess { .. }
            | Protection { .. }
            | Locked { .. }
            | FileBacked { .. }
            | Shared { .. }
            | NotShared { .. }
            | Hugetlb { .. }
            | Special { .. }
            | NotMemfd
            | OtherFile { .. }
            | FileTooShort { .. }
            | Sealed { .. }
            | MappedTwice { .. } => ZSP_EINVAL,
            MappedElsewhere { .. } => ZSP_EBUSY,
            PageSize { .. } | NoMethod { .. } => ZSP_EUNSUPPORTED,
            Descriptor { source } if source.raw_os_error() == Some(libc::EBADF) => ZSP_EINVAL,
            AddressSpace { .. } => ZSP_ENOMEM,
            Descriptor { source } | Advice { source, .. } | Proc { source, .. } => of_system(source),
            Userfaultfd(error) => error.code(),
            _ => ZSP_EOTHER,
        }
    }
}

impl Coded for guest::Error {
    fn code(&self) -> zsp_status {
        use guest::Error::*;
        match self {
            Overlap { .. }
            | Unaligned { .. }
            | TooLarge { .. }
            | Outside { .. }
            | Options { .. }
            | ForeignMemcg { .. } => ZSP_EINVAL,
            AddressSpace { .. } | NoThread { .. } => ZSP_ENOMEM,
            Kernel { source, .. } | Service { source, .. } => of_system(source),
            Gone { .. } => ZSP_EGONE,
            Unreadable { source, .. } => source.code(),
            Pinned { .. } | SigbusTaken | Moving { .. } | Changed { .. } => ZSP_EBUSY,
            TooManyPins { .. } => ZSP_ELIMIT,
            Userfaultfd(error) => error.code(),
            Refused(refusal) => refusal.code(),
            Memcg(error) => error.code(),
            Zswap(error) => error.code(),
            _ => ZSP_EOTHER,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    #[test]
    fn every_code_has_its_name() {
        let mut number = 0;
        loop {
            // SAFETY: it never goes away.
            let name = unsafe { CStr::from_ptr(zsp_status_name(number)) }.to_str().unwrap();
            if name == "unknown" {
                break;
            }
            number += 1;
        }
        assert_eq!(number, ZSP_EOTHER as i32 + 1);
        for (status, name) in [(ZSP_OK, c"ZSP_OK"), (ZSP_ERANGE, c"ZSP_ERANGE"), (ZSP_EOTHER, c"ZSP_EOTHER")] {
            // SAFETY: as above.
            assert_eq!(unsafe { CStr::from_ptr(zsp_status_name(status as i32)) }, name);
        }
        assert_eq!(zsp_status_name(-1), zsp_status_name(1000));
    }
}

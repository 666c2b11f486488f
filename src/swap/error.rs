//! The errors of the swap layer. Each is a sentence without a full stop, for upper layers quote it in theirs.

use super::device::Op;
use super::{Flaw, Place};
use crate::units::Slot;
use std::io;
use std::path::PathBuf;

/// Why a swapfile was refused, or why something could not be written to or read from a device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // --- slots
    /// No room for the words of so many slots.
    #[error(
        "{bytes} bytes of address space for slot words could not be reserved ({source}): raise `ulimit -v` or allow fewer slots in use"
    )]
    AddressSpace {
        /// Bytes asked for.
        bytes: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// A range that cannot be handed out.
    #[error(
        "{asked} slots cannot be reserved: ask for at least 1, and for no more than 2^63 in all over the life of an instance"
    )]
    Reserve {
        /// Slots asked for.
        asked: u64,
    },
    /// A slot no range handed out.
    #[error("slot {slot} was never reserved: use slots of a range that `reserve` returned", slot = .slot.0)]
    NotReserved {
        /// The slot.
        slot: Slot,
    },
    /// All dense numbers are in use.
    #[error("all {in_use} slots that can be in use at once are: free some, or build the instance with more")]
    TooManySlots {
        /// Slots in touched clusters.
        in_use: u64,
    },

    // --- opening a swapfile
    /// The options lack something.
    #[error("a swapfile needs a {missing}: set it with `SwapFile::options().{missing}(..)`")]
    Incomplete {
        /// The option that was not set.
        missing: &'static str,
    },
    /// A device smaller than its header and two segments.
    #[error(
        "a swap device of {size} bytes is too small: it needs {least}, for its header and two segments, one of which is kept \
         for cleaning"
    )]
    TooSmall {
        /// Bytes asked for.
        size: u64,
        /// Fewest bytes that work.
        least: u64,
    },
    /// More bytes than places can name.
    #[error(
        "a swap device of {size} bytes is too large: ask for {most} bytes at most, and use several devices for more"
    )]
    TooLarge {
        /// Bytes asked for, or bytes of the device.
        size: u64,
        /// Most bytes that work.
        most: u64,
    },
    /// A symbolic link, which is never followed: somebody could aim it at a file of ours.
    #[error(
        "{path} is a symbolic link, which is never followed: give the path of the file itself",
        path = .path.display()
    )]
    Symlink {
        /// The path given.
        path: PathBuf,
    },
    /// A directory, device, pipe or socket.
    #[error(
        "{path} is {what}, not a regular file: give the path of a file, which may be missing, empty, or an \
         earlier swapfile",
        path = .path.display()
    )]
    NotRegular {
        /// The path given.
        path: PathBuf,
        /// What it is, with an article.
        what: &'static str,
    },
    /// A file that is not ours. It was not written to.
    #[error(
        "{path} holds {bytes} bytes that are no swapfile of zspool, and was left alone: give another path, or \
         move that file away",
        path = .path.display()
    )]
    Foreign {
        /// The path given.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
    /// A file that begins as ours do, with a header that fails its check. It was not written to.
    #[error(
        "{path} begins like a swapfile of zspool but its header is damaged; it was left alone: delete it if \
         nobody needs it, or give another path",
        path = .path.display()
    )]
    DamagedHeader {
        /// The path given.
        path: PathBuf,
    },
    /// A swapfile of another format version. It was not written to.
    #[error(
        "{path} is a swapfile of format version {found}, and this program writes version {known}: delete it if \
         its owner is gone, or give another path",
        path = .path.display()
    )]
    Version {
        /// The path given.
        path: PathBuf,
        /// Version in the header.
        found: u32,
        /// Version of this program.
        known: u32,
    },
    /// A swapfile made for other page or block sizes. It was not written to.
    #[error(
        "{path} is a swapfile for pages of {found_page} and blocks of {found_block} bytes, and this program uses \
         {page} and {block}: delete it if its owner is gone, or give another path",
        path = .path.display()
    )]
    Units {
        /// The path given.
        path: PathBuf,
        /// Page bytes in the header.
        found_page: u32,
        /// Block bytes in the header.
        found_block: u32,
        /// Page bytes of this program.
        page: u32,
        /// Block bytes of this program.
        block: u32,
    },
    /// Another process, or another handle in this one, uses the file.
    #[error(
        "{path} is in use by another process or by another handle of this one: stop its user, or give this one a \
         path of its own",
        path = .path.display()
    )]
    Locked {
        /// The path given.
        path: PathBuf,
    },
    /// The file or its folder may not be used by us.
    #[error(
        "there is no permission {doing} {path}: run as its owner, change its mode, or give another path",
        path = .path.display()
    )]
    Permission {
        /// The path given.
        path: PathBuf,
        /// What was refused: "to open", "to create".
        doing: &'static str,
    },
    /// The folder the file should be made in is not there.
    #[error("the folder {folder} does not exist: make it first, or give another path", folder = .folder.display())]
    MissingFolder {
        /// The folder.
        folder: PathBuf,
    },
    /// A path, and a wish for no name.
    #[error(
        "a swapfile at {path} cannot be one without a name as well: set one of `path(..)` and `unnamed(..)`",
        path = .path.display()
    )]
    TwoNames {
        /// The path given.
        path: PathBuf,
    },
    /// The folder's file system has no files without a name.
    #[error(
        "the file system of {folder} has no files without a name (O_TMPFILE): give a folder on another one, such as ext4, \
         XFS, Btrfs or tmpfs, or give the file a name with `path(..)`",
        folder = .folder.display()
    )]
    NoUnnamed {
        /// The folder.
        folder: PathBuf,
    },
    /// The options of a block device lack its path.
    #[error("a block device needs a path: set it with `BlockDevice::options().path(..)`")]
    IncompleteBlock,
    /// Not a block device.
    #[error(
        "{path} is {what}, not a block device: give the path of one, or use a swapfile instead",
        path = .path.display()
    )]
    NotBlock {
        /// The path given.
        path: PathBuf,
        /// What it is, with an article.
        what: &'static str,
    },
    /// A block device that somebody else has.
    #[error(
        "{path} is in use: it is mounted, swapped to, part of an array or volume group, or another instance's; end that \
         use, or give another device",
        path = .path.display()
    )]
    Busy {
        /// The path given.
        path: PathBuf,
    },
    /// A block device that holds something. It was not written to.
    #[error(
        "{path} holds {what}, and was left alone: give another device, or say `overwrite` if nobody needs what is on \
         it",
        path = .path.display()
    )]
    Occupied {
        /// The path given.
        path: PathBuf,
        /// What it holds.
        what: &'static str,
    },
    /// A block device whose sectors are not written page by page.
    #[error(
        "{path} has sectors of {sector} bytes, and pages are written in units of {most}: give a device with sectors of \
         {most} bytes or less, or a file on this one",
        path = .path.display()
    )]
    Sector {
        /// The path given.
        path: PathBuf,
        /// Bytes of a sector.
        sector: usize,
        /// Most bytes that work.
        most: usize,
    },
    /// Others kept replacing the file while it was being opened.
    #[error(
        "{path} was replaced {attempts} times while it was being opened: see who does that, or give another path",
        path = .path.display()
    )]
    Unstable {
        /// The path given.
        path: PathBuf,
        /// Attempts made.
        attempts: u32,
    },
    /// Another refusal by the system.
    #[error(
        "the system refused {doing} {path} ({source}): see what that error asks for, or give another path",
        path = .path.display()
    )]
    File {
        /// The path given.
        path: PathBuf,
        /// What was refused: "to lock", "to resize".
        doing: &'static str,
        /// The refusal.
        source: io::Error,
    },

    // --- making an area
    /// Sizes that do not go together.
    #[error("the geometry's {field} is {value}: it must be {rule}")]
    Geometry {
        /// The field.
        field: &'static str,
        /// Its value.
        value: usize,
        /// What it must be.
        rule: &'static str,
    },
    /// The device wants larger units than the area's pages.
    #[error(
        "the device {name} wants requests in units of {unit} bytes and the area writes pages of {page} bytes: \
         use a device whose unit divides the page"
    )]
    Alignment {
        /// The device.
        name: String,
        /// Its unit.
        unit: usize,
        /// The area's page.
        page: usize,
    },
    /// A device number that does not fit in a place.
    #[error("device number {number} is out of range: use 0 to {most}")]
    DeviceNumber {
        /// The number given.
        number: u8,
        /// The highest.
        most: u8,
    },

    // --- keys
    /// No key could be made.
    #[error(
        "the key for what goes to swap devices could not be made ({source}): free some memory, or turn encryption off"
    )]
    Key {
        /// What the system said.
        source: io::Error,
    },
    /// The process is a child of fork, and what it writes would be encrypted with nonces that its parent uses too.
    #[error(
        "a child of fork cannot write to its parent's swap devices: make a new instance, with devices of its own, in \
         the child"
    )]
    Forked,
    /// All nonces of the key are used.
    #[error(
        "the key of the swap devices has sealed {sealed} objects, all it may: make a new instance, which has a new key"
    )]
    NoncesExhausted {
        /// Objects that were sealed.
        sealed: u64,
    },

    // --- devices and tiers
    /// There is no device.
    #[error("there is no swap device: add one")]
    NoDevice,
    /// None of the devices that would be allowed takes writes.
    #[error(
        "no swap device that may be used here takes writes: they are being removed, retired after failed writes, hung, or of \
         tiers that are not allowed; look at the table of devices, then add one, or reinstate one"
    )]
    Shut,
    /// No device has this number.
    #[error("there is no swap device {device}: it is off already, or never was on; look at the table of devices")]
    NotOn {
        /// The number.
        device: u8,
    },
    /// A device that is still written to was to be removed.
    #[error("the swap device {device} is still written to: have it drained first, which `swapoff` does")]
    NotDraining {
        /// The device.
        device: String,
    },
    /// A device that is not empty was to be removed.
    #[error(
        "the swap device {device} still holds {objects} objects, and {batches} batches are under way to it: move them away \
         first, which `swapoff` does"
    )]
    NotEmpty {
        /// The device.
        device: String,
        /// Objects on it.
        objects: u64,
        /// Batches under way.
        batches: u64,
    },
    /// As many devices as places can name.
    #[error("there are {most} swap devices already, which is as many as there can be: remove one first")]
    TooManyDevices {
        /// How many.
        most: usize,
    },
    /// A name that no tier can have.
    #[error(
        "{name:?} cannot be the name of a tier: take 1 to {most} letters, digits, `_`, `-` or `.`, for control files name \
         tiers in words"
    )]
    TierName {
        /// The name given.
        name: String,
        /// Most bytes.
        most: usize,
    },
    /// The tier has another priority.
    #[error(
        "the tier {tier} has priority {has}, and the new device asks for {asked}: a tier has one priority, so give the device \
         {has} or another tier"
    )]
    TierPriority {
        /// The tier.
        tier: String,
        /// Its priority.
        has: i16,
        /// That of the device.
        asked: i16,
    },
    /// Another tier has the priority.
    #[error(
        "priority {priority} is that of the tier {other}, so the tier {tier} cannot have it: name {other} for a device that is to \
         share its load, or take another priority"
    )]
    TiersClash {
        /// The new tier.
        tier: String,
        /// The one that is there.
        other: String,
        /// The priority.
        priority: i16,
    },
    /// As many tiers as a mask has bits for.
    #[error("there were {most} tiers already, which is as many as an instance can name: {tier} has to be one of them")]
    TooManyTiers {
        /// The name given.
        tier: String,
        /// How many.
        most: usize,
    },

    // --- room
    /// All devices together have as many bytes in use as they may.
    #[error(
        "the swap devices have {used} of the {limit} bytes in use that they may have together: raise the limit, free slots, or wait \
         until pages are loaded back"
    )]
    SwapLimit {
        /// Bytes in use.
        used: u64,
        /// The limit.
        limit: u64,
    },
    /// The file system of a device has to keep what it has free.
    #[error(
        "the file system of the swap device {device} has {free} bytes free, and {floor} are to be left: free some there, lower the \
         floor, or add a device on another one"
    )]
    Floor {
        /// The device.
        device: String,
        /// Bytes free.
        free: u64,
        /// Bytes that are to be left.
        floor: u64,
    },
    /// The limit of a device is below what it needs.
    #[error("a swap device that may use {size} bytes is too small: let it use {least} bytes or more")]
    CapTooSmall {
        /// Bytes that it may use.
        size: u64,
        /// Fewest that work.
        least: u64,
    },

    // --- using an area
    /// No run of pages is left that would do.
    #[error(
        "device {device} has no run of {wanted} pages left: of its {size} bytes {live} are live, and cleaning would win \
         {reclaimable}: clean it, free slots, wait until pages are loaded back, or add a device"
    )]
    Full {
        /// Number of the device.
        device: u8,
        /// Fewest pages that would have done.
        wanted: usize,
        /// Bytes of live objects.
        live: u64,
        /// Bytes that cleaning would win.
        reclaimable: u64,
        /// Bytes of the device.
        size: u64,
    },
    /// The device failed.
    #[error(
        "device {device} failed to {op} {bytes} bytes at {offset}, after {done} of them ({why}): {advice}",
        why = why(source),
        advice = advice(source)
    )]
    Io {
        /// Number of the device.
        device: u8,
        /// What it was to do.
        op: Op,
        /// First byte on the device.
        offset: u64,
        /// Bytes asked for.
        bytes: usize,
        /// Bytes done before the failure.
        done: usize,
        /// The failure.
        source: io::Error,
    },
    /// The device did not answer in time.
    #[error(
        "device {device} did not {op} {bytes} bytes at {offset} within {seconds} seconds: check the disk; nothing is lost, \
         try again when it answers"
    )]
    TimedOut {
        /// Number of the device.
        device: u8,
        /// What it was to do.
        op: Op,
        /// First byte on the device.
        offset: u64,
        /// Bytes asked for.
        bytes: usize,
        /// Its time-out.
        seconds: f32,
    },
    /// The device has not answered earlier requests, so it was given no more.
    #[error(
        "device {device} has not answered {late} earlier requests, so it is given no more: check the disk; nothing is lost, \
         try again when it answers"
    )]
    Hung {
        /// Number of the device.
        device: u8,
        /// Requests that are late.
        late: usize,
    },
    /// The bytes on the device are not those that were written.
    #[error(
        "the object of slot {slot} at {place:?} is not what was written there, for {flaw}: its page is lost; \
         check the disk, and that nobody else writes to the swapfile"
    )]
    Corrupt {
        /// The slot that was to be loaded.
        slot: u64,
        /// Where it should be.
        place: Place,
        /// What is wrong with it.
        flaw: Flaw,
    },
}

/// What a device said, in words.
fn why(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::UnexpectedEof => "the file ends before".to_owned(),
        _ => source.to_string(),
    }
}

/// What to do about it.
fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::UnexpectedEof => {
            "somebody cut it down while it was in use, and what was there is lost; find out who, and start anew with a \
             file that nobody else touches"
        }
        _ => "check the disk, and the space on its file system",
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_failed_request_says_what_failed_why_and_what_to_do() {
        let text = |op, source: io::Error| {
            Error::Io { device: 3, op, offset: 8192, bytes: 4096, done: 512, source }.to_string()
        };
        let full = text(Op::Write, io::Error::from_raw_os_error(libc::EIO));
        assert!(
            full.starts_with("device 3 failed to write 4096 bytes at 8192, after 512 of them (Input/output"),
            "{full}"
        );
        assert!(full.ends_with("): check the disk, and the space on its file system"), "{full}");
        let cut = text(Op::Read, io::ErrorKind::UnexpectedEof.into());
        let says = "device 3 failed to read 4096 bytes at 8192, after 512 of them (the file ends before): somebody cut it down";
        assert!(cut.starts_with(says), "{cut}");
        assert!(cut.ends_with("start anew with a file that nobody else touches"), "{cut}");
    }
}

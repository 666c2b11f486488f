//! Virtual swap slots, and the devices that hold what the pool writes back.
//!
//! A client names pages by slots without end ([`Slots`]); each is one word ([`SlotWord`]) that says what backs it now:
//! nothing, a repeated word, an object in the pool, or a [`Place`] on a device. Devices know nothing of words:
//!
//! ```text
//!                Devices      up to 32 in tiers, added and removed while others are used
//!                   |
//!                 Area
//!        +---------+----------+-----------+
//!     Segments  Batch     BufferPool    Device
//!   reverse words |       preallocated    |
//!                block format             +-- SwapFile      a file, O_DIRECT, sparse
//!                sealed or checked        +-- BlockDevice   a disk
//!                                         +-- MemoryDevice  tests, models
//!                                         +-- FaultyDevice  another, with faults on cue
//! ```
//!
//! Objects are written in batches of up to 256 KiB, compressed as they are, and take space only when they are written;
//! each is named by a [`Place`]. The format is described in `docs/swapfile-format.md`.

mod area;
mod batch;
mod bitmap;
mod block;
mod blockdev;
mod buffer;
mod device;
mod devices;
mod error;
mod faulty;
mod fileio;
mod geometry;
mod header;
mod image;
mod iothread;
mod key;
mod loss;
mod memory;
mod opening;
mod options;
mod place;
mod quarantine;
mod queue;
mod read_many;
mod requests;
mod rmap;
mod seal;
mod segments;
mod slots;
mod swapfile;
mod syscalls;
mod uring;
mod word;

pub use area::{Area, AreaStats};
pub use batch::{Batch, Written};
pub use block::{Flaw, HEADER_BYTES, Label, ObjectRef};
pub use blockdev::{BlockDevice, BlockOptions};
pub use buffer::{BufferPool, IoBuffer, Lease, Starved};
pub use device::{Cause, Device, Failure, Op, Request, Status};
pub use devices::{Allowed, DeviceRef, DeviceStats, Devices, Outgoing, State, TierInfo};
pub use error::Error;
pub use faulty::{Fault, FaultyDevice, Plan, SECTOR_BYTES};
pub use geometry::{BLOCK_BYTES, Geometry, MAX_BATCH_PAGES, MAX_BLOCKS, MAX_DEVICE_BYTES, MAX_PAYLOAD};
pub use image::SegmentImage;
pub use key::{Cipher, Key, locked_bytes};
pub use loss::{Loss, Why};
pub use memory::MemoryDevice;
pub use options::{DEFAULT_TIER, DeviceOptions, RETIRE_AFTER};
pub use place::Place;
pub use read_many::ReadOne;
pub use rmap::Tenant;
pub use seal::Protection;
pub use segments::{SegmentCounts, SegmentId};
pub use slots::{MAX_REFERENCES, SlotGuard, SlotMemory, Slots};
pub use swapfile::{FileOptions, SWAPFILE_HEADER_BYTES, SwapFile};
pub use word::{Content, Entry, SlotWord};

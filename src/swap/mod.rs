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
mod block;
mod buffer;
mod device;
mod devices;
mod error;
mod geometry;
mod loss;
mod place;
mod rmap;
mod segments;
mod slots;
mod word;

pub use area::batch::{Batch, Written};
pub use area::image::SegmentImage;
pub use area::read_many::ReadOne;
pub use area::{Area, AreaStats};
pub use block::key::{Cipher, Key, locked_bytes};
pub use block::seal::Protection;
pub use block::{Flaw, HEADER_BYTES, Label, ObjectRef};
pub use buffer::{BufferPool, IoBuffer, Lease, Starved};
pub use device::blockdev::{BlockDevice, BlockOptions};
pub use device::faulty::{Fault, FaultyDevice, Plan, SECTOR_BYTES};
pub use device::memory::MemoryDevice;
pub use device::swapfile::{FileOptions, SWAPFILE_HEADER_BYTES, SwapFile};
pub use device::{Cause, Device, Failure, Op, Request, Status};
pub use devices::options::{DEFAULT_TIER, DeviceOptions, RETIRE_AFTER};
pub use devices::{Allowed, DeviceRef, DeviceStats, Devices, Outgoing, State, TierInfo, check_tier_name};
pub use error::Error;
pub use geometry::{BLOCK_BYTES, Geometry, MAX_BATCH_PAGES, MAX_BLOCKS, MAX_DEVICE_BYTES, MAX_PAYLOAD};
pub use loss::{Loss, Why};
pub use place::Place;
pub use rmap::Tenant;
pub use segments::{SegmentCounts, SegmentId};
pub use slots::{MAX_REFERENCES, SlotGuard, SlotMemory, Slots};
pub use word::{Content, Entry, SlotWord};

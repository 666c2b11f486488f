//! Compressed memory for userspace: hold more pages than there is memory for them.
//!
//! An embedder (a virtual machine monitor, an emulator, a cache) names its pages by *slots* and hands the cold ones over. They
//! are compressed into a dense pool, charged to the byte to a group with limits (a *memcg*), written to a swapfile when
//! colder still, and come back identical. It is the design of the kernel's zsmalloc, zswap and memory cgroups, as a library;
//! [`docs/ARCHITECTURE.md`] is the map of the code, [`docs/fault-model.md`] says which faults are detected.
//!
//! Or it registers memory that its guest uses directly, and that memory leaves and comes back by itself ([`guest`]).
//!
//! ```text
//!              guest            memory under a limit while it is used, by userfaultfd
//!                \________________.
//!                               zswap        store, load, take_with, free; who is cold, limits, writeback
//!              +-------------+----+------+     (zram beside it: blocks, over compress and zsmalloc alone)
//!            swap         compress    zsmalloc      where a slot's page is | page <-> bytes | objects in size classes
//!              |                      |      |
//!              |                    memcg  arena    who pays, and how much at most | frames of memory, node by node
//!              +---- units, sync -----+------+      newtypes | locks and atomics, std's or the model checker's
//! ```
//!
//! | module | for an embedder |
//! |---|---|
//! | [`zswap`] | **Start here.** [`Zswap`](zswap::Zswap): an instance and its [`Builder`](zswap::Builder) |
//! | [`memcg`] | [`Memcg`](memcg::Memcg): groups, limits, `memory.stat` and the other files |
//! | [`units`] | [`Page`](units::Page), [`Slot`](units::Slot), [`SlotRange`](units::SlotRange), [`NodeId`](units::NodeId) |
//! | [`zsmalloc`] | [`Pool`](zsmalloc::Pool): the allocator alone, for compressed objects of one's own, named by handles; see below |
//! | [`zram`] | [`Zram`](zram::Zram): blocks by number in compressed memory, without owners or groups |
//! | [`compress`] | [`Codec`](compress::Codec), to bring a codec of one's own; LZ4 is built in |
//! | [`swap`] | [`Device`](swap::Device), to write cold pages somewhere else than to a [`SwapFile`](swap::SwapFile) |
//! | [`arena`] | [`Topology`](arena::Topology), [`ArenaConfig`](arena::ArenaConfig): nodes, address space |
//! | [`guest`] | **Guest memory**: memory of virtual machines and emulators that is under a limit while it is used (feature `guest`, Linux) |
//! | [`cgroupfs`] | the groups as a mounted tree of cgroup v2's files, for shells and agents (feature `fuse`) |
//! | [`sync`] | what the crate's own models need; nothing for embedders but [`Arc`](sync::Arc) |
//!
//! # Example
//!
//! ```
//! use zspool::units::{NodeId, Page};
//! use zspool::zswap::{Installed, Taken, Zswap};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let zswap = Zswap::builder().pool_limit(64 << 20).build()?; // add .swapfile(path, bytes) for what is colder still
//!     let vm = zswap.root().mkdir("vm0")?; // a memcg: limits and counters of one VM
//!     zswap.set_zswap_max(&vm, 16 << 20)?; // memory.zswap.max
//!
//!     let slots = zswap.reserve(262_144)?; // 1 GiB of guest: page k is slot base + k, and costs nothing until stored
//!     let page = Page::zeroed(); // guest page 7, which nobody writes meanwhile
//!     zswap.store(slots.base() + 7, &vm, NodeId(0), &page)?;
//!
//!     let mut guest = Page::zeroed();
//!     let taken = zswap.take_with(slots.base() + 7, |page| {
//!         guest.copy_from_slice(page); // install it; the slot is freed only afterwards
//!         Installed::Yes
//!     })?;
//!     assert_eq!(taken, Taken::Freed);
//!     println!("{}", vm.read_file("memory.stat")?);
//!     Ok(())
//! }
//! ```
//!
//! `examples/embed.rs` is a small virtual machine that pages its memory out and back. `examples/guest_limits.rs` is one whose pages
//! in memory are charged as well ([`charge_resident`](memcg::Memcg::charge_resident), [`swap_out`](zswap::Zswap::swap_out)), and
//! leave when `memory.max` or a [request](memcg::Memcg::reclaim) asks a [`Reclaimer`](memcg::Reclaimer) for them.
//!
//! # Swap in tiers
//!
//! What is colder than the pool has room for goes to devices: [`swapon`](zswap::Zswap::swapon) adds one while others are used,
//! [`swapoff`](zswap::Zswap::swapoff) moves what lives on it elsewhere and removes it.
//!
//! ```
//! use zspool::memcg::Cancel;
//! use zspool::swap::DeviceOptions;
//! use zspool::zswap::Zswap;
//!
//! # let folder = tempfile::tempdir()?;
//! # let folder = folder.path();
//! let zswap = Zswap::builder().pool_limit(64 << 20).build()?; // what is written is encrypted: .encryption(false) for a checksum
//! let (fast, slow) = (folder.join("fast.swap"), folder.join("slow.swap"));
//! let fast = zswap.swapon(DeviceOptions::path(fast, 16 << 20).tier("fast", 10).water_marks(60, 80))?;
//! zswap.swapon(DeviceOptions::path(slow, 256 << 20).tier("slow", 0).min_free_bytes(1 << 20))?;
//!
//! let archive = zswap.root().mkdir("archive")?;
//! archive.write_file("memory.swap.tiers.max", "fast 0")?; // its pages go to the slow one only
//! for device in zswap.devices() {
//!     println!("{} of tier {}: {} of {} bytes live", device.name, device.tier, device.area.live_bytes, device.area.size_bytes);
//! }
//! let report = zswap.swapoff(fast, &Cancel::new(), |done| println!("{} objects to go", done.objects_left))?;
//! println!("{} went into memory, {} to other devices", report.to_pool, report.to_devices);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Files without a name ([`SwapFile::options`](swap::SwapFile::options)`().unnamed(folder)`) and disks
//! ([`BlockDevice`](swap::BlockDevice)) are devices too. `examples/swapoff.rs` takes one off beside four threads. [`prefetch`](zswap::Zswap::prefetch) brings a range back before it is asked
//! for; [`metadata`](zswap::Zswap::metadata) says what slots cost. A client without page numbers of its own gets slots from
//! [`store_new`](zswap::Zswap::store_new).
//!
//! # The allocator alone
//!
//! For caches and databases that compress by themselves: objects of 1 to 4096 bytes, in memory that has a limit.
//!
//! ```
//! use zspool::zsmalloc::{HandleError, Pool};
//!
//! let pool = Pool::builder().limit(16 << 20).build()?;
//! let handle = pool.insert(b"compressed bytes of a document")?; // refused at the limit: remove something, or compact
//! assert_eq!(&*pool.get(handle)?, b"compressed bytes of a document"); // no copy, no lock
//! let _won = pool.compact(u64::MAX); // moves objects together; handles stay good
//! println!("{:?}\n{}", pool.usage(), pool.classes()); // where every byte goes
//! pool.remove(handle)?;
//! assert!(matches!(pool.get(handle), Err(HandleError::Stale { .. }))); // a handle is never another object's
//! # Ok::<(), HandleError>(())
//! ```
//!
//! `examples/json_cache.rs` is a cache of JSON documents with eviction. A client that has names for its objects already brings
//! them as [`Cells`](zsmalloc::Cells) and saves the table of handles.
//!
//! # Guest memory
//!
//! Memory that is used directly (a virtual machine's, an emulator's, a heap) is registered where it lies, with the feature `guest` on Linux:
//! an `Engine` over a `Zswap`, a `Vm` for each guest with a memcg and a choice of who serves its faults
//! (`Service`), and a `Region` for each range. At `memory.max` cold pages leave before others come.
#![cfg_attr(
    all(feature = "guest", target_os = "linux"),
    doc = r#"
```
use zspool::guest::{Engine, VmOptions, memory::Memory};
use zspool::memcg::Counter;
use zspool::zswap::Zswap;

# fn main() -> Result<(), Box<dyn std::error::Error>> {
let mut ram = memmap2::MmapMut::map_anon(8 << 20)?;
let engine = Engine::new(Zswap::builder().pool_limit(64 << 20).build()?)?;
let group = engine.root().mkdir("vm0")?;
group.set_max(Counter::Memory, 2 << 20)?;
let vm = engine.vm(&group, VmOptions::new())?;
// SAFETY: `ram` stays mapped as it is until `unregister`.
let region = unsafe { vm.register(Memory::anonymous(ram.as_mut_ptr(), ram.len())) }?;
ram.chunks_exact_mut(4096).enumerate().for_each(|(k, page)| page.fill(k as u8)); // in a quarter of its memory
assert!(ram.chunks_exact(4096).enumerate().all(|(k, page)| page[4095] == k as u8));
group.set_max(Counter::Memory, u64::MAX)?; // all of it comes in
region.unregister().map_err(|(_, error)| error)?;
# Ok(())
# }
```
"#
)]
//!
//! [`docs/embedding.md`] is the guide; an unmodified program is put under a limit by `zspool run`.
//!
//! # What to rely on
//!
//! - A page that was stored comes back identical or as an error, never as other bytes, within the faults of
//!   [`docs/fault-model.md`].
//! - A store that fails leaves the caller's page untouched and no older copy in the slot.
//! - No limit is exceeded at any instant by any number of threads: bytes are reserved, not counted afterwards.
//! - [`load`](zswap::Zswap::load), [`take_with`](zswap::Zswap::take_with), [`put`](zswap::Zswap::put) and
//!   [`free`](zswap::Zswap::free) never call the global allocator, and take no lock that is ever held over client memory: they can
//!   run in fault handlers. `store` may allocate.
//! - A page of a guest comes back as it was, or touching it is a SIGBUS: never zeroes, never other bytes. Its limit is passed only where a
//!   fault must be served and nothing can leave, and that is counted.
//! - Nothing survives the process, on purpose: a swapfile of an earlier instance is thrown away unread.
//!
//! # Features
//!
//! | feature | |
//! |---|---|
//! | `cli` | the program `zspool` |
//! | `fuse` | `cgroupfs`: the tree of memcgs as files, mounted for shells and agents to read and drive; Linux |
//! | `guest` | `guest`: memory of the embedder's own, registered, paged out and back by userfaultfd; [`docs/embedding.md`] is the guide; Linux |
//! | `vm-memory` | `guest::vm_memory`: guest memory of monitors that are built on the crate vm-memory; brings `guest` |
//! | `full` | all of the above |
//! | `poison` | marks pool memory for AddressSanitizer where no live object lies; only links under the sanitizer |
//!
//! [`docs/ARCHITECTURE.md`]: https://docs.rs/crate/zspool/latest/source/docs/ARCHITECTURE.md
//! [`docs/embedding.md`]: https://docs.rs/crate/zspool/latest/source/docs/embedding.md
//! [`docs/fault-model.md`]: https://docs.rs/crate/zspool/latest/source/docs/fault-model.md
// Modules that are not in every build are linked to where they are.
#![cfg_attr(all(feature = "guest", target_os = "linux"), doc = "", doc = "[`guest`]: crate::guest")]
#![cfg_attr(
    not(all(feature = "guest", target_os = "linux")),
    doc = "",
    doc = "[`guest`]: https://docs.rs/zspool/latest/zspool/guest/"
)]
#![cfg_attr(feature = "fuse", doc = "", doc = "[`cgroupfs`]: crate::cgroupfs")]
#![cfg_attr(not(feature = "fuse"), doc = "", doc = "[`cgroupfs`]: https://docs.rs/zspool/latest/zspool/cgroupfs/")]
// docs.rs labels items with their features.
#![cfg_attr(docsrs, feature(doc_cfg), doc(auto_cfg(hide(loom))))]

#[cfg(not(target_pointer_width = "64"))]
compile_error!("zspool needs a 64-bit unix");

#[cfg(all(feature = "fuse", not(target_os = "linux")))]
compile_error!("the feature `fuse` mounts as Linux does; leave it out elsewhere");

pub mod arena;
#[cfg(feature = "fuse")]
pub mod cgroupfs;
pub mod compress;
#[cfg(all(feature = "guest", target_os = "linux"))]
pub mod guest;
pub mod memcg;
pub mod swap;
pub mod sync;
pub mod units;
pub mod zram;
pub mod zsmalloc;
pub mod zswap;

/// The README's example is compiled and run with the other examples of the documentation.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

//! The live tree of memcgs as files (feature `fuse`): what is written for cgroup v2's files drives an instance unchanged.
//!
//! ```text
//! $ mkdir /mnt/zspool/vm0                                          a memcg is made
//! $ echo 64M > /mnt/zspool/vm0/memory.zswap.max                    its limit
//! $ cat /mnt/zspool/vm0/memory.stat                                its counters
//! $ echo "10M source=zswap" > /mnt/zspool/vm0/memory.reclaim       10 MiB of its pages go to the device
//! $ rmdir /mnt/zspool/vm0                                          it is taken offline; its pages stay, its parent's
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `mounted` | [`mount`], [`Mounted`] |
//! | `attachment`, `mounts` | mounting and unmounting; what is mounted where |
//! | `filesystem` | the answers to what the kernel asks |
//! | `control` | the table of files, their modes, errors as numbers |
//! | `inode`, `opened` | how things are called; what is open |
//! | `callers` | who waits for a write, and whether they still want it |
//!
//! Where it differs from cgroup2: owner and mode cannot be changed; `statfs` names FUSE; nothing tells of changes (no `poll`, no
//! inotify); two writes to one file of one memcg go one after the other, for the kernel locks a file that is written.
//!
//! This layer knows `memcg`, and nothing of pages, pools and devices.

mod attachment;
mod callers;
mod control;
mod error;
mod filesystem;
mod inode;
mod mounted;
mod mounts;
mod opened;

pub use error::Error;
pub use mounted::{Mounted, mount};

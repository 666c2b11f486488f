//! Groups with limits (memory cgroups): a tree of them, and cgroup v2's files as texts.

use crate::call::{Refused, enter, invalid, refuse};
use crate::handle::{Kind, Object, open};
use crate::status::zsp_status::{self, ZSP_ENOENT, ZSP_ERANGE};
use crate::zswap::{Store, zsp_zswap};
use std::ffi::{c_char, c_void};
use zspool_core::memcg::{Cancel, Counter, Error, Memcg, ReclaimRequest};

/// A group of a store's tree.
pub struct zsp_memcg(());

/// What bytes are charged as.
#[repr(C)]
pub enum zsp_counter {
    /// Pages in memory and compressed ones: memory.current, memory.max, memory.peak.
    ZSP_MEMORY = 0,
    /// Compressed ones alone: memory.zswap.current and so on.
    ZSP_ZSWAP = 1,
    /// On swap devices: memory.swap.current and so on.
    ZSP_SWAP = 2,
}

impl Object for Memcg {
    type Opaque = zsp_memcg;
    const KIND: Kind = Kind::Memcg;
}

fn counter(number: u32) -> Result<Counter, Refused> {
    match number {
        0 => Ok(Counter::Memory),
        1 => Ok(Counter::Zswap),
        2 => Ok(Counter::Swap),
        other => Err(invalid(format_args!("there is no counter {other}: pass ZSP_MEMORY, ZSP_ZSWAP or ZSP_SWAP"))),
    }
}

fn no_group(path: &str) -> Refused {
    refuse(
        ZSP_ENOENT,
        format_args!("there is no group \"/{path}\": make it with zsp_memcg_mkdir, those above it first"),
    )
}

/// The names of a path, one behind the other: nothing for the root.
fn names(path: &str) -> Result<&str, Refused> {
    let names = path.strip_prefix('/').ok_or_else(|| {
        invalid(format_args!("{path:?} is no path of a group: begin with \"/\", which alone is the root"))
    })?;
    Ok(names.strip_suffix('/').unwrap_or(names))
}

/// Make a group: `*memcg` is its handle, NULL if it was refused. The path begins with "/", which is the root, and all but its last name
/// are there already: "/tenants/vm0". A new group has no limit of its own. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_memcg_mkdir(
    zswap: *const zsp_zswap,
    path: *const c_char,
    memcg: *mut *mut zsp_memcg,
) -> zsp_status {
    enter(|call| {
        let mut to = call.handle_out(memcg, "memcg")?;
        let tree = call.object::<Store>(zswap, "zswap")?.zswap.tree();
        let names = names(call.text(path, "path")?)?;
        let (above, name) = names.rsplit_once('/').unwrap_or(("", names));
        if name.is_empty() {
            return Err(invalid(format_args!("the root is there already: name the group to make behind \"/\"")));
        }
        let parent = tree.by_path(above).ok_or_else(|| no_group(above))?;
        to.set(open(parent.mkdir(name)?));
        Ok(())
    })
}

/// A handle of a group that is there already; "/" is the root. `ZSP_ENOENT` if there is none. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_memcg_open(
    zswap: *const zsp_zswap,
    path: *const c_char,
    memcg: *mut *mut zsp_memcg,
) -> zsp_status {
    enter(|call| {
        let mut to = call.handle_out(memcg, "memcg")?;
        let tree = call.object::<Store>(zswap, "zswap")?.zswap.tree();
        let names = names(call.text(path, "path")?)?;
        to.set(open(tree.by_path(names).ok_or_else(|| no_group(names))?));
        Ok(())
    })
}

/// Close a handle. The group stays, until `zsp_memcg_rmdir`. NULL is ignored. Any thread, when no other call uses the handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_memcg_close(memcg: *mut zsp_memcg) -> zsp_status {
    enter(|call| call.close::<Memcg>(memcg, "memcg"))
}

/// Remove a group: what is charged to it is its parent's from now on. `ZSP_EBUSY` while it has groups below it. Its handles stay good for
/// `zsp_memcg_close`, and say `ZSP_EGONE` to the rest. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_memcg_rmdir(memcg: *const zsp_memcg) -> zsp_status {
    enter(|call| Ok(call.object::<Memcg>(memcg, "memcg")?.offline()?))
}

/// The group's number, which no other group of the store ever has. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_memcg_id(memcg: *const zsp_memcg, id: *mut u64) -> zsp_status {
    enter(|call| {
        let mut to = call.out(id, "id")?;
        to.set(call.object::<Memcg>(memcg, "memcg")?.id().0);
        Ok(())
    })
}

/// Set a limit in bytes; `counter` is an enum zsp_counter, ZSP_NO_LIMIT takes the limit away. When this returns nothing is charged past it
/// any more; what is charged already stays until it is reclaimed, and pages of VMs leave at once. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_memcg_set_max(memcg: *const zsp_memcg, counter: u32, bytes: u64) -> zsp_status {
    enter(|call| Ok(call.object::<Memcg>(memcg, "memcg")?.set_max(self::counter(counter)?, bytes)?))
}

/// Bytes charged to the group and those below it. Any thread, but not in handlers: it waits a moment for what threads hold in stock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_memcg_current(memcg: *const zsp_memcg, counter: u32, bytes: *mut u64) -> zsp_status {
    enter(|call| {
        let mut to = call.out(bytes, "bytes")?;
        let memcg = call.object::<Memcg>(memcg, "memcg")?;
        let counter = self::counter(counter)?;
        check_online(memcg)?;
        to.set(memcg.current(counter));
        Ok(())
    })
}

/// The most that `zsp_memcg_current` ever was. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_memcg_peak(memcg: *const zsp_memcg, counter: u32, bytes: *mut u64) -> zsp_status {
    enter(|call| {
        let mut to = call.out(bytes, "bytes")?;
        let memcg = call.object::<Memcg>(memcg, "memcg")?;
        let counter = self::counter(counter)?;
        check_online(memcg)?;
        to.set(memcg.peak(counter));
        Ok(())
    })
}

fn check_online(memcg: &Memcg) -> Result<(), Error> {
    if memcg.is_online() { Ok(()) } else { Err(Error::Offline { id: memcg.id() }) }
}

/// Read one of cgroup v2's files, such as "memory.stat": `*length` is how long its text is, without the 0 that is written behind it.
/// `ZSP_ERANGE` when `room` bytes are not enough for both; nothing was written then, and NULL with 0 bytes asks for the length. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_memcg_read_file(
    memcg: *const zsp_memcg,
    name: *const c_char,
    text: *mut c_char,
    room: usize,
    length: *mut usize,
) -> zsp_status {
    enter(|call| {
        let memcg = call.object::<Memcg>(memcg, "memcg")?;
        let mut told = call.out(length, "length")?;
        let to = call.room(text.cast::<c_void>(), room, "text")?;
        let content = memcg.read_file(call.text(name, "name")?)?;
        told.set(content.len());
        if to.len() <= content.len() {
            let needed = content.len() + 1;
            return Err(refuse(
                ZSP_ERANGE,
                format_args!("the file has {needed} bytes with its 0, and there is room for {room}"),
            ));
        }
        to[..content.len()].copy_from_slice(content.as_bytes());
        to[content.len()] = 0;
        Ok(())
    })
}

/// Write one of cgroup v2's files: "memory.high" with "512M", "memory.low", "memory.swap.tiers.max", "memory.reclaim" with
/// "64M source=zswap". docs/control-files.md has them all. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_memcg_write_file(
    memcg: *const zsp_memcg,
    name: *const c_char,
    text: *const c_char,
) -> zsp_status {
    enter(|call| {
        let memcg = call.object::<Memcg>(memcg, "memcg")?;
        Ok(memcg.write_file(call.text(name, "name")?, call.text(text, "text")?)?)
    })
}

/// Have `bytes` bytes leave of the group and those below it, the coldest first: pages of VMs into the pool, compressed ones to devices.
/// `reclaimed`, how many there were, may be NULL; `ZSP_EPARTIAL` when they are fewer. Any thread, but not in handlers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_memcg_reclaim(memcg: *const zsp_memcg, bytes: u64, reclaimed: *mut u64) -> zsp_status {
    enter(|call| {
        let memcg = call.object::<Memcg>(memcg, "memcg")?;
        let mut told = call.out_or_none(reclaimed, "reclaimed")?;
        let done = memcg.reclaim(&ReclaimRequest::new(bytes), &Cancel::new());
        let there_were = match &done {
            Ok(done) => done.bytes,
            Err(Error::Again { reclaimed, .. } | Error::Interrupted { reclaimed, .. }) => *reclaimed,
            Err(_) => 0,
        };
        told.iter_mut().for_each(|told| told.set(there_were));
        Ok(done.map(drop)?)
    })
}

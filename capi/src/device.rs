//! Swap devices of a store: files and disks in tiers, added and removed while pages are stored and loaded.

use crate::call::{Call, Outcome, enter, invalid, refuse};
use crate::sized::sized;
use crate::status::zsp_status::{self, ZSP_ENOENT};
use crate::zswap::{Store, zsp_zswap};
use std::ffi::{c_char, c_int, c_void};
use zspool_core::memcg::Cancel;
use zspool_core::swap::{BlockDevice, DEFAULT_TIER, DeviceOptions, State, SwapFile};

/// A swap device that is to be added.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct zsp_swap_options {
    /// sizeof(struct zsp_swap_options).
    pub size: usize,
    /// A file, which is made if it is not there, and refused if it holds anything but an earlier swapfile; or, with `disk`, a disk.
    pub path: *const c_char,
    /// Instead of a path: a folder for a file without a name, which nobody else can open and which goes with the process.
    pub unnamed_in: *const c_char,
    /// Bytes of the file; of a disk that may be used, 0: all of it.
    pub bytes: u64,
    /// Name of the tier; NULL: "swap". A tier has one priority.
    pub tier: *const c_char,
    /// Tiers with a higher one are written to first.
    pub priority: i64,
    /// Bytes that its file system keeps free.
    pub min_free_bytes: u64,
    /// Move what was written first to the next tier when more than so many percent are in use; 0: never.
    pub high_percent: u64,
    /// Down to so many percent.
    pub low_percent: u64,
    /// Not 0: through the page cache.
    pub buffered: u64,
    /// Not 0: a file that was made stays, empty, when the device goes.
    pub keep: u64,
    /// Not 0: `path` is a disk.
    pub disk: u64,
    /// Not 0: a disk that holds something is used all the same. What is on it is lost.
    pub overwrite: u64,
}
sized!(
    zsp_swap_options,
    104,
    [
        path,
        unnamed_in,
        bytes,
        tier,
        priority,
        min_free_bytes,
        high_percent,
        low_percent,
        buffered,
        keep,
        disk,
        overwrite
    ]
);

/// How a swap device is.
#[repr(C)]
pub enum zsp_device_state {
    /// It is read and written.
    ZSP_DEVICE_ON = 0,
    /// It is being emptied.
    ZSP_DEVICE_DRAINING = 1,
    /// It is only read: too many writes failed.
    ZSP_DEVICE_RETIRED = 2,
    /// A request has not come back in time: nothing is written until it does.
    ZSP_DEVICE_HUNG = 3,
    /// Anything else.
    ZSP_DEVICE_OTHER = 4,
}

/// A swap device as a row of a table.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct zsp_device {
    /// sizeof(struct zsp_device).
    pub size: usize,
    /// Its number.
    pub number: u64,
    /// enum zsp_device_state.
    pub state: u64,
    /// The priority of its tier.
    pub priority: i64,
    /// The name of its tier, and 0.
    pub tier: [c_char; 64],
    /// Its path, and 0; cut where it is longer.
    pub name: [c_char; 256],
    /// Bytes that it has room for.
    pub bytes: u64,
    /// Bytes that were written and not given back yet.
    pub used_bytes: u64,
    /// Bytes of pages that live there.
    pub live_bytes: u64,
    /// Pages that live there.
    pub pages: u64,
    /// Bytes written so far.
    pub written_bytes: u64,
    /// Bytes read so far.
    pub read_bytes: u64,
    /// Requests that failed so far.
    pub io_errors: u64,
    /// Pages found damaged so far.
    pub corrupt: u64,
}
sized!(
    zsp_device,
    416,
    [
        number,
        state,
        priority,
        tier,
        name,
        bytes,
        used_bytes,
        live_bytes,
        pages,
        written_bytes,
        read_bytes,
        io_errors,
        corrupt
    ]
);

/// How far a swapoff is, or what it came to.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct zsp_swapoff_report {
    /// sizeof(struct zsp_swapoff_report).
    pub size: usize,
    /// Pages that lived on the device when it began.
    pub pages_at_start: u64,
    /// Pages that live there now.
    pub pages_left: u64,
    /// Pages that went into the pool. Told when it is done.
    pub to_pool: u64,
    /// Pages that went to other devices. Told when it is done.
    pub to_devices: u64,
    /// Pages that could not be read back. Told when it is done.
    pub lost: u64,
}
sized!(zsp_swapoff_report, 48, [pages_at_start, pages_left, to_pool, to_devices, lost]);

/// Told now and then how far a swapoff is; returns other than 0 to call it off. It must not end by an exception or longjmp.
pub type zsp_swapoff_progress =
    Option<unsafe extern "C" fn(context: *mut c_void, so_far: *const zsp_swapoff_report) -> c_int>;

/// Add a device; `*device` is its number, and may be NULL. Any thread, while pages are stored and loaded.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_zswap_swapon(
    zswap: *const zsp_zswap,
    options: *const zsp_swap_options,
    device: *mut u32,
) -> zsp_status {
    enter(|call| {
        let store = call.object::<Store>(zswap, "zswap")?;
        let mut to = call.out_or_none(device, "device")?;
        let number = store.zswap.swapon(described(call, &call.options(options, "options")?)?)?;
        if let Some(to) = &mut to {
            to.set(number.into());
        }
        Ok(())
    })
}

fn described(call: &Call, options: &zsp_swap_options) -> Outcome<DeviceOptions> {
    let device = if options.disk != 0 {
        if !options.unnamed_in.is_null() || options.keep != 0 {
            return Err(invalid(format_args!(
                "a disk has neither `unnamed_in` nor `keep`: leave them at 0, or leave `disk` at 0"
            )));
        }
        let path = call.path(options.path, "options->path")?;
        let mut disk =
            BlockDevice::options().path(path).direct(options.buffered == 0).overwrite(options.overwrite != 0);
        if options.bytes > 0 {
            disk = disk.size(options.bytes);
        }
        DeviceOptions::device(disk.open()?)
    } else {
        if options.overwrite != 0 {
            return Err(invalid(format_args!(
                "`overwrite` is for disks: a file that holds anything else is never written to"
            )));
        }
        let file = SwapFile::options().size(options.bytes).direct(options.buffered == 0).keep(options.keep != 0);
        let file = match (options.path.is_null(), options.unnamed_in.is_null()) {
            (false, true) => file.path(call.path(options.path, "options->path")?),
            (true, false) => file.unnamed(call.path(options.unnamed_in, "options->unnamed_in")?),
            _ => {
                return Err(invalid(format_args!(
                    "set one of `path` and `unnamed_in`: a swapfile is at a path or has no name"
                )));
            }
        };
        DeviceOptions::swapfile(file)
    };
    let tier = if options.tier.is_null() { DEFAULT_TIER } else { call.text(options.tier, "options->tier")? };
    let priority = i16::try_from(options.priority)
        .map_err(|_| invalid(format_args!("priority is {}: give one of -32768 to 32767", options.priority)))?;
    let device = device.tier(tier, priority).min_free_bytes(options.min_free_bytes);
    match (options.low_percent, options.high_percent) {
        (0, 0) => Ok(device),
        (low, high @ 0..=100) if low <= high => Ok(device.water_marks(low as u8, high as u8)),
        (low, high) => Err(invalid(format_args!(
            "low_percent is {low} and high_percent {high}: the lower comes first, and the higher is at most 100"
        ))),
    }
}

/// Empty a device and remove it, while pages are stored and loaded: what is on it goes into the pool, and to other devices where that is
/// full. `progress` is called on this thread now and then, with `context`; it and `report` may be NULL. `ZSP_ECANCELED` when it called
/// the rest off, `ZSP_ELIMIT` when nothing takes the rest: the device is used as before then, and another call goes on. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_zswap_swapoff(
    zswap: *const zsp_zswap,
    device: u32,
    progress: zsp_swapoff_progress,
    context: *mut c_void,
    report: *mut zsp_swapoff_report,
) -> zsp_status {
    enter(|call| {
        let store = call.object::<Store>(zswap, "zswap")?;
        call.check_fill(report, "report")?;
        let Ok(device) = u8::try_from(device) else { return Err(no_device(device)) };
        let cancel = Cancel::new();
        let mut told = zsp_swapoff_report {
            size: size_of::<zsp_swapoff_report>(),
            pages_at_start: 0,
            pages_left: 0,
            to_pool: 0,
            to_devices: 0,
            lost: 0,
        };
        let done = store.zswap.swapoff(device, &cancel, |so_far| {
            (told.pages_at_start, told.pages_left) = (so_far.objects_at_start, so_far.objects_left);
            if let Some(progress) = progress {
                // SAFETY: the caller's function, with the caller's context, during the call that was given both.
                if unsafe { progress(context, &told) } != 0 {
                    cancel.cancel();
                }
            }
        });
        if let Ok(done) = &done {
            told.pages_at_start = done.objects_at_start;
            (told.pages_left, told.to_pool, told.to_devices, told.lost) = (0, done.to_pool, done.to_devices, done.lost);
        }
        call.fill_if_wanted(report, "report", &told)?;
        Ok(done.map(drop)?)
    })
}

fn no_device(number: u32) -> crate::call::Refused {
    refuse(ZSP_ENOENT, format_args!("there is no swap device {number}: zsp_zswap_get_device lists those there are"))
}

/// Row `nth` of the table of devices, from 0, those of the highest priority first; `ZSP_ENOENT` behind the last. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_zswap_get_device(
    zswap: *const zsp_zswap,
    nth: u32,
    device: *mut zsp_device,
) -> zsp_status {
    enter(|call| {
        let rows = call.object::<Store>(zswap, "zswap")?.zswap.devices();
        let Some(row) = rows.get(nth as usize) else {
            return Err(refuse(
                ZSP_ENOENT,
                format_args!("there are {} swap devices: row {nth} is behind the last", rows.len()),
            ));
        };
        let state = match row.state {
            State::On => zsp_device_state::ZSP_DEVICE_ON,
            State::Draining => zsp_device_state::ZSP_DEVICE_DRAINING,
            State::Retired => zsp_device_state::ZSP_DEVICE_RETIRED,
            State::Hung => zsp_device_state::ZSP_DEVICE_HUNG,
            _ => zsp_device_state::ZSP_DEVICE_OTHER,
        };
        call.fill(
            device,
            "device",
            &zsp_device {
                size: 0,
                number: row.number.into(),
                state: state as u64,
                priority: row.priority.into(),
                tier: characters(&row.tier),
                name: characters(&row.name),
                bytes: row.area.size_bytes,
                used_bytes: row.area.used_bytes,
                live_bytes: row.area.live_bytes,
                pages: row.area.objects,
                written_bytes: row.area.written_bytes,
                read_bytes: row.area.read_bytes,
                io_errors: row.area.io_errors,
                corrupt: row.area.corrupt,
            },
        )
    })
}

/// A text and at least one 0.
fn characters<const N: usize>(text: &str) -> [c_char; N] {
    let mut characters = [0; N];
    let fits = text.floor_char_boundary(text.len().min(N - 1));
    characters.iter_mut().zip(text[..fits].bytes()).for_each(|(to, byte)| *to = byte as c_char);
    characters
}

/// Write to a device again that was retired after failed writes. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_zswap_reinstate(zswap: *const zsp_zswap, device: u32) -> zsp_status {
    enter(|call| {
        let store = call.object::<Store>(zswap, "zswap")?;
        let Ok(number) = u8::try_from(device) else { return Err(no_device(device)) };
        Ok(store.zswap.reinstate(number)?)
    })
}

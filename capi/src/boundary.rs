//! What C hands over as addresses, looked at: bytes, pages, texts, and places for results. One way for each kind.
//!
//! 1. NULL, lengths that no object has and addresses that are not aligned are refused. That the rest is memory which may be read or
//!    written, and which nobody else writes meanwhile, is the caller's part, said once in the header.
//! 2. Nothing here is called with other addresses than those of a call's arguments, and what comes of them lives no longer than the
//!    [`Call`].

use crate::call::{Call, Outcome, invalid};
use std::ffi::{CStr, OsStr, c_char, c_void};
use std::os::unix::ffi::OsStrExt;
use zspool_core::units::PAGE_SIZE;

/// A place of the caller's for a result.
pub(crate) struct Out<'a, T>(&'a mut std::mem::MaybeUninit<T>);

impl<T: Copy> Out<'_, T> {
    pub(crate) fn set(&mut self, value: T) {
        self.0.write(value);
    }
}

impl Call {
    /// Some bytes.
    pub(crate) fn bytes(&self, at: *const c_void, length: usize, name: &str) -> Outcome<&[u8]> {
        if length == 0 {
            return Ok(&[]);
        }
        check(at, 1, name)?;
        check_length(length, name)?;
        // SAFETY: not NULL, not too long; readable by 1.
        Ok(unsafe { std::slice::from_raw_parts(at.cast(), length) })
    }

    /// Room for bytes.
    #[allow(clippy::mut_from_ref, reason = "of the caller's memory, not of the call's")]
    pub(crate) fn room(&self, at: *mut c_void, length: usize, name: &str) -> Outcome<&mut [u8]> {
        if length == 0 {
            return Ok(&mut []);
        }
        check(at, 1, name)?;
        check_length(length, name)?;
        // SAFETY: not NULL, not too long; the caller's for the call, and initialised, by 1.
        Ok(unsafe { std::slice::from_raw_parts_mut(at.cast(), length) })
    }

    /// Some numbers.
    pub(crate) fn numbers(&self, at: *const u32, count: usize, name: &str) -> Outcome<&[u32]> {
        if count == 0 {
            return Ok(&[]);
        }
        check(at, align_of::<u32>(), name)?;
        check_length(count.saturating_mul(size_of::<u32>()), name)?;
        // SAFETY: not NULL, aligned, not too long; readable by 1.
        Ok(unsafe { std::slice::from_raw_parts(at, count) })
    }

    /// A page.
    pub(crate) fn page(&self, at: *const c_void, name: &str) -> Outcome<&[u8; PAGE_SIZE]> {
        check(at, 1, name)?;
        // SAFETY: not NULL; 4096 readable bytes by 1.
        Ok(unsafe { &*at.cast() })
    }

    /// Room for a page.
    #[allow(clippy::mut_from_ref, reason = "of the caller's memory, not of the call's")]
    pub(crate) fn page_mut(&self, at: *mut c_void, name: &str) -> Outcome<&mut [u8; PAGE_SIZE]> {
        check(at, 1, name)?;
        // SAFETY: not NULL; 4096 writable bytes, the caller's for the call, by 1.
        Ok(unsafe { &mut *at.cast() })
    }

    /// A text that ends with a 0.
    fn c_str(&self, at: *const c_char, name: &str) -> Outcome<&CStr> {
        check(at, 1, name)?;
        // SAFETY: not NULL; it ends with a 0 by 1.
        Ok(unsafe { CStr::from_ptr(at) })
    }

    /// A text in UTF-8.
    pub(crate) fn text(&self, at: *const c_char, name: &str) -> Outcome<&str> {
        let text = self.c_str(at, name)?.to_str();
        text.map_err(|_| invalid(format_args!("`{name}` is not UTF-8: pass a text in that encoding")))
    }

    /// A path, in whatever encoding.
    pub(crate) fn path(&self, at: *const c_char, name: &str) -> Outcome<&std::path::Path> {
        Ok(OsStr::from_bytes(self.c_str(at, name)?.to_bytes()).as_ref())
    }

    /// A place for a result.
    pub(crate) fn out<T: Copy>(&self, at: *mut T, name: &str) -> Outcome<Out<'_, T>> {
        check(at, align_of::<T>(), name)?;
        // SAFETY: not NULL, aligned; writable, and the caller's for the call, by 1. Nothing is read from it.
        Ok(Out(unsafe { &mut *at.cast() }))
    }

    /// A place for a result that the caller may not want: then NULL.
    pub(crate) fn out_or_none<T: Copy>(&self, at: *mut T, name: &str) -> Outcome<Option<Out<'_, T>>> {
        if at.is_null() { Ok(None) } else { self.out(at, name).map(Some) }
    }

    /// A variable of the caller's that has a value.
    #[allow(clippy::mut_from_ref, reason = "of the caller's memory, not of the call's")]
    pub(crate) fn variable<T: Copy>(&self, at: *mut T, name: &str) -> Outcome<&mut T> {
        check(at, align_of::<T>(), name)?;
        // SAFETY: not NULL, aligned; initialised, and the caller's for the call, by 1.
        Ok(unsafe { &mut *at })
    }

    /// A place for a handle, NULL from here on.
    pub(crate) fn handle_out<H>(&self, at: *mut *mut H, name: &str) -> Outcome<Out<'_, *mut H>> {
        let mut out = self.out(at, name)?;
        out.set(std::ptr::null_mut());
        Ok(out)
    }
}

/// What can be seen of an address.
pub(crate) fn check<T>(at: *const T, align: usize, name: &str) -> Outcome {
    if at.is_null() {
        return Err(invalid(format_args!("`{name}` is NULL: pass an address")));
    }
    if !at.addr().is_multiple_of(align) {
        return Err(invalid(format_args!(
            "`{name}` is {at:p}, which is not aligned to {align} bytes: pass the address of a variable"
        )));
    }
    Ok(())
}

fn check_length(bytes: usize, name: &str) -> Outcome {
    match isize::try_from(bytes) {
        Ok(_) => Ok(()),
        Err(_) => Err(invalid(format_args!("`{name}` cannot have {bytes} bytes: see how its length was computed"))),
    }
}

//! [`Next`]: the function of a name behind ours, which is the C library's or another preloaded library's.
//!
//! Looked for when it is first wanted: that may be before our constructor, or in a process where that does nothing.

use libc::c_void;
use std::ffi::CStr;
use std::ptr::null_mut;
use std::sync::atomic::{
    AtomicPtr,
    Ordering::{Acquire, Release},
};

/// What is behind us under a name.
pub(crate) struct Next {
    name: &'static CStr,
    /// Null: not looked for yet, or there is none.
    found: AtomicPtr<c_void>,
}

impl Next {
    pub(crate) const fn of(name: &'static CStr) -> Next {
        Next { name, found: AtomicPtr::new(null_mut()) }
    }

    /// Null: there is none.
    pub(crate) fn get(&self) -> *mut c_void {
        let mut found = self.found.load(Acquire);
        if found.is_null() {
            // SAFETY: the name ends with a zero.
            found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
            self.found.store(found, Release);
        }
        found
    }
}

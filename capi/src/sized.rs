//! Structs that begin with their size, so that they can grow.
//!
//! ```text
//!   the caller's, older       | size | a | b |              what it does not have is 0 for us; of results it gets what it knows
//!   the library's             | size | a | b | c |
//!   the caller's, newer       | size | a | b | c | d |      d must be 0 where it asks for something; of results it gets 0
//! ```

use crate::boundary::check;
use crate::call::{Call, Outcome, invalid};
use std::mem::{MaybeUninit, zeroed};

/// A struct that begins with its size in bytes.
///
/// # Safety
/// `repr(C)`, the first field is `size: usize`, no padding, and all zeroes are a value as is every other content.
pub(crate) unsafe trait Sized_: Copy {
    /// Its size in version 0.1, the first there was.
    const LEAST: usize;
}

/// Say that a struct is [`Sized_`]: its name, all its fields, and its size in version 0.1.
macro_rules! sized {
    ($type:ident, $least:expr, [$($field:ident),* $(,)?]) => {
        const _: () = {
            assert!(std::mem::offset_of!($type, size) == 0);
            assert!($least <= size_of::<$type>());
            const fn size_of_field<T>(_: fn(&$type) -> &T) -> usize {
                size_of::<T>()
            }
            // What is between fields is never written by a caller who sets them one by one.
            assert!(size_of::<usize>() $(+ size_of_field(|it: &$type| &it.$field))* == size_of::<$type>(), "no padding");
        };
        // SAFETY: `repr(C)` structs of integers and addresses, with the size first and without padding, as asserted.
        unsafe impl $crate::sized::Sized_ for $type {
            const LEAST: usize = $least;
        }
    };
}
pub(crate) use sized;

impl Call {
    /// Options, or what they are by default: all zeroes.
    pub(crate) fn options_or_default<T: Sized_>(&self, at: *const T, name: &str) -> Outcome<T> {
        if at.is_null() {
            // SAFETY: a value, as the trait says.
            return Ok(unsafe { zeroed() });
        }
        self.options(at, name)
    }

    /// Options.
    pub(crate) fn options<T: Sized_>(&self, at: *const T, name: &str) -> Outcome<T> {
        let size = size_told(at, name)?;
        // SAFETY: the caller says that there are so many bytes to read, which is more than none and no more than a page.
        let given: &[u8] = unsafe { std::slice::from_raw_parts(at.cast(), size) };
        let (known, new) = given.split_at(size.min(size_of::<T>()));
        if new.iter().any(|&byte| byte != 0) {
            return Err(invalid(format_args!(
                "`{name}` asks for something that this library ({}) does not have yet: use a newer one, or leave what it does not know at 0",
                env!("CARGO_PKG_VERSION")
            )));
        }
        let mut options = MaybeUninit::<T>::zeroed();
        // SAFETY: `known` has at most as many bytes as `options`, and they are two things.
        unsafe { std::ptr::copy_nonoverlapping(known.as_ptr(), options.as_mut_ptr().cast(), known.len()) };
        // SAFETY: any bytes are a value, as the trait says.
        Ok(unsafe { options.assume_init() })
    }

    /// Fill a struct of results; its size stays.
    pub(crate) fn fill<T: Sized_>(&self, at: *mut T, name: &str, numbers: &T) -> Outcome {
        let size = size_told(at, name)?;
        // SAFETY: the caller says that there are so many bytes to write.
        let to: &mut [u8] = unsafe { std::slice::from_raw_parts_mut(at.cast(), size) };
        // SAFETY: no padding, as the trait says: every byte is initialised.
        let from: &[u8] = unsafe { std::slice::from_raw_parts(std::ptr::from_ref(numbers).cast(), size_of::<T>()) };
        let known = size.min(from.len());
        to[size_of::<usize>()..known].copy_from_slice(&from[size_of::<usize>()..known]);
        to[known..].fill(0);
        Ok(())
    }

    /// The same where the caller may not want them: then NULL.
    pub(crate) fn fill_if_wanted<T: Sized_>(&self, at: *mut T, name: &str, numbers: &T) -> Outcome {
        if at.is_null() { Ok(()) } else { self.fill(at, name, numbers) }
    }

    /// Look at a struct of results before there are any, so that a call is refused before it does something.
    pub(crate) fn check_fill<T: Sized_>(&self, at: *const T, name: &str) -> Outcome {
        if at.is_null() { Ok(()) } else { size_told(at, name).map(drop) }
    }
}

/// A struct larger than this is no struct of this library's, now or later.
const MOST: usize = 4096;

fn size_told<T: Sized_>(at: *const T, name: &str) -> Outcome<usize> {
    check(at, align_of::<T>(), name)?;
    // SAFETY: not NULL, aligned, and begins with its size, which the caller has set.
    let size = unsafe { at.cast::<usize>().read() };
    if (T::LEAST..=MOST).contains(&size) {
        Ok(size)
    } else {
        Err(invalid(format_args!(
            "`{name}` says that it has {size} bytes, and has at least {}: set its `size` to its sizeof, and the rest to 0",
            T::LEAST
        )))
    }
}

#[cfg(test)]
mod tests {
    use crate::call::enter;
    use crate::message::said;
    use crate::status::zsp_status::{ZSP_EINVAL, ZSP_OK};

    #[derive(Clone, Copy, Debug, PartialEq)]
    #[repr(C)]
    struct Old {
        size: usize,
        a: u64,
    }
    #[derive(Clone, Copy, Debug, PartialEq)]
    #[repr(C)]
    struct Ours {
        size: usize,
        a: u64,
        b: u64,
    }
    #[derive(Clone, Copy, Debug, PartialEq)]
    #[repr(C)]
    struct New {
        size: usize,
        a: u64,
        b: u64,
        c: u64,
    }
    sized!(Ours, 16, [a, b]);

    fn read<T>(from: &T) -> Result<Ours, String> {
        let mut seen = Ours { size: 0, a: 0, b: 0 };
        let status = enter(|call| {
            seen = call.options(std::ptr::from_ref(from).cast::<Ours>(), "it")?;
            Ok(())
        });
        if status == ZSP_OK { Ok(seen) } else { Err(said()) }
    }

    #[test]
    fn older_and_newer_callers_are_understood_as_far_as_they_can_be() {
        assert_eq!(read(&Old { size: 16, a: 1 }), Ok(Ours { size: 16, a: 1, b: 0 }));
        assert_eq!(read(&Ours { size: 24, a: 1, b: 2 }), Ok(Ours { size: 24, a: 1, b: 2 }));
        assert_eq!(read(&New { size: 32, a: 1, b: 2, c: 0 }), Ok(Ours { size: 32, a: 1, b: 2 }));
        assert!(read(&New { size: 32, a: 1, b: 2, c: 3 }).unwrap_err().contains("does not have yet"));
        for size in [0, 8, 15, 4097, usize::MAX] {
            assert!(read(&Ours { size, a: 1, b: 2 }).unwrap_err().contains("set its `size` to its sizeof"));
        }
    }

    #[test]
    fn callers_get_of_results_what_they_know() {
        let numbers = Ours { size: 0, a: 1, b: 2 };
        let mut old = [Old { size: 16, a: 9 }; 2];
        assert_eq!(enter(|call| call.fill(old.as_mut_ptr().cast::<Ours>(), "it", &numbers)), ZSP_OK);
        assert_eq!(old, [Old { size: 16, a: 1 }, Old { size: 16, a: 9 }], "and nothing behind it");
        let mut new = New { size: 32, a: 9, b: 9, c: 9 };
        assert_eq!(enter(|call| call.fill(std::ptr::from_mut(&mut new).cast::<Ours>(), "it", &numbers)), ZSP_OK);
        assert_eq!(new, New { size: 32, a: 1, b: 2, c: 0 });
        let null = std::ptr::null_mut::<Ours>();
        assert_eq!(enter(|call| call.fill_if_wanted(null, "it", &numbers)), ZSP_OK);
        assert_eq!(enter(|call| call.fill(null, "it", &numbers)), ZSP_EINVAL);
    }
}

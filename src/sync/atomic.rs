//! Atomics: std's, loom's with a token each, or std's with a scheduling point of shuttle's before each step.
//!
//! Loom 0.7 keeps one "last access" per atomic. A thread that loads and then stores or compare-exchanges
//! the same atomic hides the other threads' loads, and the order in which they go first is never explored: a
//! model can pass having seen one outcome of two. So under loom each of our atomics carries a companion that
//! every operation bumps first with a relaxed read-modify-write. Such operations conflict with each other, so
//! loom tries both orders; being relaxed, they add no happens-before edge that would hide an ordering bug.
//!
//! Shuttle's own atomics carry clocks, are not zero when their bytes are, and are made one by one; of its atomics nothing but the
//! scheduling point is needed here. With that before each of std's, words lie in tables as they do in production. Shuttle knows no
//! orderings: here every step is sequentially consistent.

#[cfg(not(any(loom, shuttle)))]
pub use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering};

#[cfg(loom)]
pub use token::*;

#[cfg(shuttle)]
pub use scheduled::*;

#[cfg(loom)]
mod token {
    pub use std::sync::atomic::Ordering;

    macro_rules! with_token {
        ($($name:ident($inner:ident, $value:ty);)*) => {$(
            /// Loom's atomic of the same name, with a companion token.
            #[derive(Debug)]
            pub struct $name {
                value: loom::sync::atomic::$inner,
                token: loom::sync::atomic::AtomicU8,
            }

            impl Default for $name {
                fn default() -> Self {
                    Self::new(<$value>::default())
                }
            }

            #[allow(missing_docs)] // std's methods
            impl $name {
                #[track_caller]
                pub fn new(value: $value) -> Self {
                    Self {
                        value: loom::sync::atomic::$inner::new(value),
                        token: loom::sync::atomic::AtomicU8::new(0),
                    }
                }
                #[track_caller]
                fn bump(&self) -> &loom::sync::atomic::$inner {
                    self.token.fetch_add(1, Ordering::Relaxed);
                    &self.value
                }
                #[track_caller]
                pub fn load(&self, order: Ordering) -> $value {
                    self.bump().load(order)
                }
                #[track_caller]
                pub fn store(&self, value: $value, order: Ordering) {
                    self.bump().store(value, order)
                }
                #[track_caller]
                pub fn swap(&self, value: $value, order: Ordering) -> $value {
                    self.bump().swap(value, order)
                }
                #[track_caller]
                pub fn compare_exchange(
                    &self,
                    current: $value,
                    new: $value,
                    ok: Ordering,
                    err: Ordering,
                ) -> Result<$value, $value> {
                    self.bump().compare_exchange(current, new, ok, err)
                }
                #[track_caller]
                pub fn compare_exchange_weak(
                    &self,
                    current: $value,
                    new: $value,
                    ok: Ordering,
                    err: Ordering,
                ) -> Result<$value, $value> {
                    self.bump().compare_exchange(current, new, ok, err)
                }
                #[track_caller]
                pub fn fetch_update<F: FnMut($value) -> Option<$value>>(
                    &self,
                    ok: Ordering,
                    err: Ordering,
                    mut f: F,
                ) -> Result<$value, $value> {
                    let mut old = self.load(err);
                    while let Some(new) = f(old) {
                        match self.compare_exchange(old, new, ok, err) {
                            Ok(_) => return Ok(old),
                            Err(now) => old = now,
                        }
                    }
                    Err(old)
                }
            }
        )*};
    }

    macro_rules! with_arithmetic {
        ($($name:ident: $value:ty;)*) => {$(
            #[allow(missing_docs)] // std's methods
            impl $name {
                #[track_caller]
                pub fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                    self.bump().fetch_add(value, order)
                }
                #[track_caller]
                pub fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                    self.bump().fetch_sub(value, order)
                }
                #[track_caller]
                pub fn fetch_max(&self, value: $value, order: Ordering) -> $value {
                    self.bump().fetch_max(value, order)
                }
                #[track_caller]
                pub fn fetch_or(&self, value: $value, order: Ordering) -> $value {
                    self.bump().fetch_or(value, order)
                }
                #[track_caller]
                pub fn fetch_and(&self, value: $value, order: Ordering) -> $value {
                    self.bump().fetch_and(value, order)
                }
            }
        )*};
    }

    with_token! {
        AtomicBool(AtomicBool, bool);
        AtomicU8(AtomicU8, u8);
        AtomicU16(AtomicU16, u16);
        AtomicU32(AtomicU32, u32);
        AtomicU64(AtomicU64, u64);
        AtomicUsize(AtomicUsize, usize);
    }

    with_arithmetic! {
        AtomicU8: u8;
        AtomicU16: u16;
        AtomicU32: u32;
        AtomicU64: u64;
        AtomicUsize: usize;
    }
}

#[cfg(shuttle)]
mod scheduled {
    use crate::sync::simulated::point;
    pub use std::sync::atomic::Ordering;
    use std::sync::atomic::Ordering::SeqCst;

    macro_rules! with_point {
        ($($name:ident: $value:ty;)*) => {$(
            /// Std's atomic of the same name, with a scheduling point before each step.
            #[derive(Default)]
            #[repr(transparent)]
            pub struct $name(std::sync::atomic::$name);

            #[allow(missing_docs)] // std's methods
            impl $name {
                pub const fn new(value: $value) -> Self {
                    Self(std::sync::atomic::$name::new(value))
                }
                fn step(&self) -> &std::sync::atomic::$name {
                    point();
                    &self.0
                }
                /// What it is, without a step.
                #[allow(dead_code, reason = "only words of one width are slept at")]
                pub(in crate::sync) fn peek(&self) -> $value {
                    self.0.load(SeqCst)
                }
                pub fn get_mut(&mut self) -> &mut $value {
                    self.0.get_mut()
                }
                pub fn into_inner(self) -> $value {
                    self.0.into_inner()
                }
                pub fn as_ptr(&self) -> *mut $value {
                    self.0.as_ptr()
                }
                pub fn load(&self, _: Ordering) -> $value {
                    self.step().load(SeqCst)
                }
                pub fn store(&self, value: $value, _: Ordering) {
                    self.step().store(value, SeqCst)
                }
                pub fn swap(&self, value: $value, _: Ordering) -> $value {
                    self.step().swap(value, SeqCst)
                }
                pub fn compare_exchange(
                    &self,
                    current: $value,
                    new: $value,
                    _: Ordering,
                    _: Ordering,
                ) -> Result<$value, $value> {
                    self.step().compare_exchange(current, new, SeqCst, SeqCst)
                }
                pub fn compare_exchange_weak(
                    &self,
                    current: $value,
                    new: $value,
                    ok: Ordering,
                    err: Ordering,
                ) -> Result<$value, $value> {
                    self.compare_exchange(current, new, ok, err)
                }
                pub fn fetch_update<F: FnMut($value) -> Option<$value>>(
                    &self,
                    ok: Ordering,
                    err: Ordering,
                    mut f: F,
                ) -> Result<$value, $value> {
                    let mut old = self.load(err);
                    while let Some(new) = f(old) {
                        match self.compare_exchange(old, new, ok, err) {
                            Ok(_) => return Ok(old),
                            Err(now) => old = now,
                        }
                    }
                    Err(old)
                }
                pub fn fetch_or(&self, value: $value, _: Ordering) -> $value {
                    self.step().fetch_or(value, SeqCst)
                }
                pub fn fetch_and(&self, value: $value, _: Ordering) -> $value {
                    self.step().fetch_and(value, SeqCst)
                }
            }

            impl std::fmt::Debug for $name {
                fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    self.0.fmt(f)
                }
            }
        )*};
    }

    macro_rules! with_arithmetic {
        ($($name:ident: $value:ty;)*) => {$(
            #[allow(missing_docs)] // std's methods
            impl $name {
                pub fn fetch_add(&self, value: $value, _: Ordering) -> $value {
                    self.step().fetch_add(value, SeqCst)
                }
                pub fn fetch_sub(&self, value: $value, _: Ordering) -> $value {
                    self.step().fetch_sub(value, SeqCst)
                }
                pub fn fetch_max(&self, value: $value, _: Ordering) -> $value {
                    self.step().fetch_max(value, SeqCst)
                }
            }
        )*};
    }

    with_point! {
        AtomicBool: bool;
        AtomicU8: u8;
        AtomicU16: u16;
        AtomicU32: u32;
        AtomicU64: u64;
        AtomicUsize: usize;
    }

    with_arithmetic! {
        AtomicU8: u8;
        AtomicU16: u16;
        AtomicU32: u32;
        AtomicU64: u64;
        AtomicUsize: usize;
    }
}

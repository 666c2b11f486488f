//! Atomics: std's, or loom's with a token each.
//!
//! Loom 0.7 keeps one "last access" per atomic. A thread that loads and then stores or compare-exchanges
//! the same atomic hides the other threads' loads, and the order in which they go first is never explored: a
//! model can pass having seen one outcome of two. So under loom each of our atomics carries a companion that
//! every operation bumps first with a relaxed read-modify-write. Such operations conflict with each other, so
//! loom tries both orders; being relaxed, they add no happens-before edge that would hide an ordering bug.

#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering};

#[cfg(loom)]
pub use token::*;

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

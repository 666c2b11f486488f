//! What a process has once, and what models leave out.

/// A static [`Mutex`](super::Mutex), made at compile time: asking for it never allocates. Under loom, which counts on every
/// lock being made inside a model, each run of a model has its own; under shuttle, each execution.
macro_rules! process_mutex {
    ($(#[$doc:meta])* $name:ident: $t:ty = $rank:expr, $value:expr) => {
        #[cfg(not(any(loom, shuttle)))]
        $(#[$doc])*
        static $name: $crate::sync::Mutex<$t> = $crate::sync::Mutex::new($rank, $value);
        #[cfg(shuttle)]
        shuttle::lazy_static! {
            $(#[$doc])*
            static ref $name: $crate::sync::Mutex<$t> = $crate::sync::Mutex::new($rank, $value);
        }
        #[cfg(loom)]
        loom::lazy_static! {
            $(#[$doc])*
            static ref $name: $crate::sync::Mutex<$t> = $crate::sync::Mutex::new($rank, $value);
        }
    };
}

/// A static made of atomics and locks, at compile time. Under loom, each run of a model has its own; under
/// shuttle, each execution.
macro_rules! process_static {
    ($(#[$doc:meta])* $name:ident: $t:ty = $value:expr) => {
        #[cfg(not(any(loom, shuttle)))]
        $(#[$doc])*
        static $name: $t = $value;
        #[cfg(shuttle)]
        shuttle::lazy_static! {
            $(#[$doc])*
            static ref $name: $t = $value;
        }
        #[cfg(loom)]
        loom::lazy_static! {
            $(#[$doc])*
            static ref $name: $t = $value;
        }
    };
}

/// Items that no model has a use for, and that use what loom has not (references that do not keep, references to traits).
#[cfg_attr(not(feature = "guest"), allow(unused_macros))] // guest memory is all there is of the kind
macro_rules! unmodelled {
    ($($item:item)*) => {$(
        #[cfg(not(loom))]
        $item
    )*};
}

/// Items that are for models alone.
#[cfg_attr(not(feature = "guest"), allow(unused_macros))]
macro_rules! modelled {
    ($($item:item)*) => {$(
        #[cfg(loom)]
        $item
    )*};
}

#[cfg_attr(not(feature = "guest"), allow(unused_imports))]
pub(crate) use {modelled, unmodelled};
pub(crate) use {process_mutex, process_static};

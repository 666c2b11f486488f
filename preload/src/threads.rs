//! `pthread_create` of the program and of ours: where stacks lie, and what our own threads are.
//!
//! ```text
//!   pthread_create(f) -> the real one(trampoline) --new thread--> note its stack -> f -> forget it
//!                                                    | started inside: inside for good, signals stay blocked
//! ```

use crate::inside::{self, Inside};
use crate::own;
use crate::system::PAGE;
use libc::{c_int, c_void, pthread_attr_t, pthread_t};
use std::mem::{MaybeUninit, transmute};
use std::ops::Range;
use std::sync::atomic::{
    AtomicPtr, AtomicU32,
    Ordering::{Acquire, Release},
};

type Start = extern "C" fn(*mut c_void) -> *mut c_void;
type Create = unsafe extern "C" fn(*mut pthread_t, *const pthread_attr_t, Start, *mut c_void) -> c_int;

/// The C library's function, found when it is first wanted.
static REAL: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

/// Calls us when a thread ends that has noted a stack, however it ends. [`NO_KEY`]: not made yet.
static KEY: AtomicU32 = AtomicU32::new(NO_KEY);
const NO_KEY: u32 = u32::MAX;

/// What a new thread is to do.
struct Task {
    start: Start,
    argument: *mut c_void,
    /// It is one of ours.
    ours: bool,
    /// Bytes of its stack; 0: its creator brought the memory, which is then the program's business.
    stack: usize,
}

/// Have ends of threads be seen. Before [`create`] is called.
pub(crate) fn prepare() {
    extern "C" fn ended(stack: *mut c_void) {
        // SAFETY: it is the box that `trampoline` left.
        let stack = unsafe { Box::from_raw(stack.cast::<Range<usize>>()) };
        let _inside = Inside::enter();
        own::remove(*stack);
    }
    let mut key = 0;
    // SAFETY: the key is written. Without one, stacks of threads that have ended are left out of our work for ever: no harm.
    if unsafe { libc::pthread_key_create(&mut key, Some(ended)) } == 0 {
        KEY.store(key, Release);
    }
    real();
}

fn real() -> Option<Create> {
    let mut found = REAL.load(Acquire);
    if found.is_null() {
        // SAFETY: the name ends with a zero.
        found = unsafe { libc::dlsym(libc::RTLD_NEXT, c"pthread_create".as_ptr()) };
        REAL.store(found, Release);
    }
    // SAFETY: that is the type of the function of that name.
    (!found.is_null()).then(|| unsafe { transmute::<*mut c_void, Create>(found) })
}

/// As `pthread_create`, but that stacks are noted if `noted`.
///
/// # Safety
/// As that function wants it.
pub(crate) unsafe fn create(
    noted: bool, thread: *mut pthread_t, attributes: *const pthread_attr_t, start: Start, argument: *mut c_void,
) -> c_int {
    let Some(real) = real() else { return libc::EAGAIN };
    if !noted {
        // SAFETY: the caller's arguments, as they are.
        return unsafe { real(thread, attributes, start, argument) };
    }
    let task = {
        let ours = inside::is_inside();
        let _inside = Inside::enter();
        Box::into_raw(Box::new(Task { start, argument, ours, stack: stack_size(attributes) }))
    };
    // SAFETY: the task is for the new thread, and the rest as the caller wants it; signals are as they were.
    let result = unsafe { real(thread, attributes, trampoline, task.cast()) };
    if result != 0 {
        let _inside = Inside::enter();
        // SAFETY: there is no thread that has it.
        drop(unsafe { Box::from_raw(task) });
    }
    result
}

/// Bytes of the stack that the C library will give; 0 if the creator brings one.
fn stack_size(attributes: *const pthread_attr_t) -> usize {
    let mut size = 0;
    if !attributes.is_null() {
        let mut low = std::ptr::null_mut();
        // SAFETY: the caller's attributes are good, and both are written.
        unsafe { libc::pthread_attr_getstack(attributes, &mut low, &mut size) };
        // One who brings no stack has one that ends at 0.
        let given = low.addr().wrapping_add(size) != 0;
        if given {
            return 0;
        }
        // SAFETY: as above.
        unsafe { libc::pthread_attr_getstacksize(attributes, &mut size) };
        return size;
    }
    let mut default = MaybeUninit::uninit();
    // SAFETY: the attributes are written, if that works.
    if unsafe { libc::pthread_getattr_default_np(default.as_mut_ptr()) } == 0 {
        // SAFETY: it worked.
        unsafe { libc::pthread_attr_getstacksize(default.as_ptr(), &mut size) };
        // SAFETY: as above, once.
        unsafe { libc::pthread_attr_destroy(default.as_mut_ptr()) };
    }
    size
}

/// The stack of this thread, which the C library made: its descriptor of the thread lies in the last page.
fn stack(size: usize) -> Range<usize> {
    // SAFETY: it only asks.
    let descriptor = unsafe { libc::pthread_self() } as usize;
    let end = (descriptor & !(PAGE - 1)) + PAGE;
    end.saturating_sub(size.next_multiple_of(PAGE))..end
}

extern "C" fn trampoline(task: *mut c_void) -> *mut c_void {
    let inside = Inside::enter();
    // SAFETY: the box that `create` left for us alone.
    let Task { start, argument, ours, stack: size } = *unsafe { Box::from_raw(task.cast::<Task>()) };
    if size > 0 {
        let stack = stack(size);
        own::add(stack.clone());
        let key = KEY.load(Acquire);
        if key != NO_KEY {
            let stack = Box::into_raw(Box::new(stack));
            // SAFETY: the key is one of ours. Where it cannot be set the box is left, and the stack noted for ever.
            unsafe { libc::pthread_setspecific(key, stack.cast()) };
        }
    }
    match ours {
        true => inside.stay(),
        false => drop(inside),
    }
    // A thread that ends by pthread_exit does not come back here; the key sees it.
    start(argument)
}

//! `pthread_create` of the program and of ours: where stacks lie, and what our own threads are.
//!
//! ```text
//!   pthread_create(f) -> the real one(trampoline) --new thread--> note its stack -> f -> the stack is as it was
//!         |                                          | started inside: inside for good, signals stay blocked
//!         +- inside: on a stack of ours
//! ```
//!
//! Stacks of ours are our own mappings: the C library would give a stack that a thread of the program's had before, and that
//! may be registered. One is used again when the kernel knows nothing of its thread any more.

use crate::following;
use crate::inside::{self, Inside};
use crate::lock::Lock;
use crate::system::PAGE;
use crate::{own, state, system};
use libc::{c_int, c_void, pthread_attr_t, pthread_t};
use std::mem::{MaybeUninit, transmute};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicI32, AtomicPtr, AtomicU32,
    Ordering::{Acquire, Release},
};

unsafe extern "C" {
    // Not in the crate `libc`.
    fn pthread_getattr_default_np(attributes: *mut pthread_attr_t) -> c_int;
    fn pthread_attr_getdetachstate(attributes: *const pthread_attr_t, state: *mut c_int) -> c_int;
}

type Start = extern "C-unwind" fn(*mut c_void) -> *mut c_void;
type Create = unsafe extern "C" fn(*mut pthread_t, *const pthread_attr_t, Start, *mut c_void) -> c_int;

/// The C library's function, found when it is first wanted.
static REAL: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

/// Calls us when a thread ends that has noted a stack, however it ends. [`NO_KEY`]: not made yet.
static KEY: AtomicU32 = AtomicU32::new(NO_KEY);
const NO_KEY: u32 = u32::MAX;

/// The stacks of our threads, and the numbers of those that have them.
static STACKS: Lock<Vec<(Range<usize>, Arc<AtomicI32>)>> = Lock::new(Vec::new());

/// Stacks of ours have at least so many bytes.
const LEAST: usize = 256 << 10;

/// What a new thread is to do.
struct Task {
    start: Start,
    argument: *mut c_void,
    /// It is one of ours; its number goes here.
    ours: Option<Arc<AtomicI32>>,
    /// Bytes of its stack; 0: it is ours, or its creator brought it, which is then the program's business.
    stack: usize,
}

/// A thread that has a stack and no number yet.
const STARTING: i32 = -1;

/// Have ends of threads be seen. Before [`create`] is called.
pub(crate) fn prepare() {
    extern "C" fn ended(stack: *mut c_void) {
        if !state::is_running() {
            return; // in a child: see `fork`
        }
        // SAFETY: it is the box that `trampoline` left.
        let stack = unsafe { Box::from_raw(stack.cast::<Range<usize>>()) };
        let _inside = Inside::enter();
        own::ended(*stack);
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
    noted: bool,
    thread: *mut pthread_t,
    attributes: *const pthread_attr_t,
    start: Start,
    argument: *mut c_void,
) -> c_int {
    let Some(real) = real() else { return libc::EAGAIN };
    if !noted {
        // SAFETY: the caller's arguments, as they are.
        return unsafe { real(thread, attributes, start, argument) };
    }
    if inside::is_inside() {
        // SAFETY: as the caller wants it.
        return unsafe { create_ours(real, thread, attributes, start, argument) };
    }
    let task = {
        let _inside = Inside::enter();
        Box::into_raw(Box::new(Task { start, argument, ours: None, stack: stack_size(attributes) }))
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

/// A thread of ours.
///
/// # Safety
/// As `pthread_create` wants it.
unsafe fn create_ours(
    real: Create,
    thread: *mut pthread_t,
    attributes: *const pthread_attr_t,
    start: Start,
    argument: *mut c_void,
) -> c_int {
    let size = stack_size(attributes).max(LEAST).next_multiple_of(PAGE);
    let Some((stack, number)) = take_stack(size) else { return libc::EAGAIN };
    let mut ours = MaybeUninit::uninit();
    // SAFETY: it is written.
    unsafe { libc::pthread_attr_init(ours.as_mut_ptr()) };
    // SAFETY: it was initialised; the stack is ours, and nobody's now.
    unsafe { libc::pthread_attr_setstack(ours.as_mut_ptr(), stack.start as *mut c_void, stack.len()) };
    let mut detached = libc::PTHREAD_CREATE_JOINABLE;
    if !attributes.is_null() {
        // SAFETY: the caller's attributes are good.
        unsafe { pthread_attr_getdetachstate(attributes, &mut detached) };
    }
    // SAFETY: it was initialised.
    unsafe { libc::pthread_attr_setdetachstate(ours.as_mut_ptr(), detached) };
    let task = Box::into_raw(Box::new(Task { start, argument, ours: Some(Arc::clone(&number)), stack: 0 }));
    // SAFETY: the task is for the new thread, and the rest as the caller wants it.
    let result = unsafe { real(thread, ours.as_ptr(), trampoline, task.cast()) };
    // SAFETY: it was initialised, once.
    unsafe { libc::pthread_attr_destroy(ours.as_mut_ptr()) };
    if result != 0 {
        number.store(0, Release);
        // SAFETY: there is no thread that has it.
        drop(unsafe { Box::from_raw(task) });
    }
    result
}

/// A stack of at least so many bytes that no thread has: above a page that cannot be touched.
fn take_stack(size: usize) -> Option<(Range<usize>, Arc<AtomicI32>)> {
    let mut stacks = STACKS.lock();
    let is_free = |number: i32| match number {
        0 => true,
        STARTING => false,
        number => {
            let process = std::process::id();
            // SAFETY: signal 0 only asks whether there is such a thread.
            unsafe { libc::syscall(libc::SYS_tgkill, process, number, 0) != 0 }
        }
    };
    if let Some((stack, number)) =
        stacks.iter().find(|(stack, number)| stack.len() >= size && is_free(number.load(Acquire)))
    {
        number.store(STARTING, Release);
        system::discard(stack.clone());
        return Some((stack.clone(), Arc::clone(number)));
    }
    let mapped = own::change(|own| {
        let start = system::reserve(size + PAGE)?;
        own.add(start..start + size + PAGE);
        Some(start)
    })?;
    let stack = mapped + PAGE..mapped + PAGE + size;
    if !system::make_writable(stack.clone()) {
        return None; // addresses only; there is no memory for more
    }
    let number = Arc::new(AtomicI32::new(STARTING));
    stacks.push((stack.clone(), Arc::clone(&number)));
    Some((stack, number))
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
    if unsafe { pthread_getattr_default_np(default.as_mut_ptr()) } == 0 {
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

extern "C-unwind" fn trampoline(task: *mut c_void) -> *mut c_void {
    let inside = Inside::enter();
    // SAFETY: the box that `create` left for us alone.
    let Task { start, argument, ours, stack: size } = *unsafe { Box::from_raw(task.cast::<Task>()) };
    if size > 0 {
        let stack = stack(size);
        own::begun(stack.clone());
        // It was mapped a moment ago, and may have been registered since: it could go out under who holds a lock of ours.
        following::never(stack.clone());
        let key = KEY.load(Acquire);
        if key != NO_KEY {
            let stack = Box::into_raw(Box::new(stack));
            // SAFETY: the key is one of ours. Where it cannot be set the box is left, and the stack noted for ever.
            unsafe { libc::pthread_setspecific(key, stack.cast()) };
        }
    }
    match ours {
        Some(number) => {
            // SAFETY: it only asks.
            number.store(unsafe { libc::gettid() }, Release);
            inside.stay();
        }
        None => drop(inside),
    }
    // A thread that ends by pthread_exit does not come back here; the key sees it.
    start(argument)
}

//! What is mapped by this library, and where its threads and the program's have their stacks: never registered.
//!
//! ```text
//!   a mapping as the kernel shows it (neighbours of one kind are shown as one)
//!   [ the program's | ours: arena | the program's | a stack ]
//!                     ^^^^^^^^^^^                   ^^^^^^^  left out
//! ```

use crate::allocator;
use crate::lock::Lock;
use crate::ranges::Ranges;
use std::ops::Range;
use std::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Release},
};

/// What is mapped by this library.
static OWN: Lock<Ranges> = Lock::new(Ranges::new());

/// Where threads of the program's have their stacks, or had them. Apart from what is ours: that may lie where a stack was.
static STACKS: Lock<Ranges> = Lock::new(Ranges::new());

/// Why memory of the program's is left out.
#[derive(Clone, Copy)]
pub(crate) enum Why {
    /// It is to be wiped in children of fork. What is out when they are born would come back there.
    Wiped,
    /// The program serves its faults: memory has one descriptor.
    Served,
}

static LEFT_OUT: [Lock<Ranges>; 2] = [const { Lock::new(Ranges::new()) }; 2];

/// Something was, ever: most programs have nothing of the kind.
static LEAVES_OUT: AtomicBool = AtomicBool::new(false);

/// `range` is not to be registered, from here on.
pub(crate) fn leave_out(range: Range<usize>, why: Why) {
    LEAVES_OUT.store(true, Release);
    LEFT_OUT[why as usize].lock().add(range);
}

/// Or no more, for that reason.
pub(crate) fn take_in(range: Range<usize>, why: Why) {
    LEFT_OUT[why as usize].lock().remove(range);
}

/// What was left out of one range is left out of another, where it was moved to; and of the first, if it is mapped `still`. Where that is now.
pub(crate) fn move_left_out(from: Range<usize>, to: usize, len: usize, still: bool) -> Vec<Range<usize>> {
    let mut moved = Vec::new();
    for left_out in &LEFT_OUT {
        let mut left_out = left_out.lock();
        let parts: Vec<_> = left_out.within(from.clone()).collect();
        if !still {
            left_out.remove(from.clone());
        }
        for part in parts {
            let offset = |address: usize| (address - from.start).min(len);
            let there = to + offset(part.start)..to + offset(part.end);
            left_out.add(there.clone());
            moved.push(there);
        }
    }
    moved.retain(|range| !range.is_empty());
    moved
}

pub(crate) fn leaves_out() -> bool {
    LEAVES_OUT.load(Acquire)
}

/// Map or unmap something of ours: `call` does it, and notes it. Under the lock: who has seen the mapping finds it noted.
pub(crate) fn change<R>(call: impl FnOnce(&mut Ranges) -> R) -> R {
    call(&mut OWN.lock())
}

/// Nothing of ours lies in `range`, and nothing that is left out; and nothing is mapped there, or anywhere, by us while what this returns is held.
/// A thread that begins its stack meanwhile waits for who is registering it: [`following::never`](crate::following::never).
pub(crate) fn still_theirs(range: &Range<usize>) -> Option<impl Sized + 'static> {
    let own = OWN.lock();
    let left_out = STACKS.lock().overlaps(range) || LEFT_OUT.iter().any(|left_out| left_out.lock().overlaps(range));
    (!own.overlaps(range) && !left_out).then_some(own)
}

/// Stacks of threads that have ended. The C library keeps some of them for the next threads, which may be ours: they stay
/// what they are until they are mapped differently.
static ENDED: Lock<Vec<Range<usize>>> = Lock::new(Vec::new());

/// A thread has ended that had its stack here.
pub(crate) fn ended(stack: Range<usize>) {
    ENDED.lock().push(stack);
}

/// A thread has its stack here.
pub(crate) fn begun(stack: Range<usize>) {
    // Not only the same: the C library gives a thread a part of a larger one that it has kept.
    ENDED.lock().retain(|ended| ended.end <= stack.start || stack.end <= ended.start);
    STACKS.lock().add(stack);
}

/// Forget the stacks of threads that have ended but for those that are mapped as they were.
pub(crate) fn forget_stacks(is_mapped: impl Fn(&Range<usize>) -> bool) {
    let mut ended = ENDED.lock();
    // Under the lock: one that has begun meanwhile is not forgotten.
    ended.retain(|stack| {
        let keep = is_mapped(stack);
        if !keep {
            STACKS.lock().remove(stack.clone());
        }
        keep
    });
}

/// What is ours, and what is left out. One who looks at mappings takes it before and after: what is in neither is the program's, or was: see
/// [`still_theirs`].
pub(crate) fn snapshot() -> Ranges {
    let mut all = ours();
    STACKS.lock().iter().for_each(|stack| all.add(stack.clone()));
    LEFT_OUT.iter().for_each(|left_out| left_out.lock().iter().for_each(|range| all.add(range.clone())));
    all
}

/// What is ours.
pub(crate) fn ours() -> Ranges {
    let mut all = OWN.lock().clone();
    all.add(allocator::reserve());
    all
}

/// Note the segments of this library, and of those whose data its threads use, once: what follows the data of a library without a file is
/// anonymous memory to the kernel, and may be shown as one with a mapping of the program's behind it. (Not at each look: the loader's lock would
/// be held by a thread while another forks.)
pub(crate) fn note_images() {
    let mut all = Ranges::new();
    add_images(&mut all);
    let mut own = OWN.lock();
    all.iter().for_each(|range| own.add(range.clone()));
}

/// An address in each of them: ours, the C library's, the unwinder's, the loader's.
fn needed() -> [usize; 4] {
    unsafe extern "C" {
        fn _Unwind_Backtrace();
    }
    // SAFETY: only asks.
    let loader = unsafe { libc::getauxval(libc::AT_BASE) } as usize;
    [(&raw const OWN).addr(), libc::getpid as *const () as usize, _Unwind_Backtrace as *const () as usize, loader]
}

fn add_images(all: &mut Ranges) {
    unsafe extern "C" fn look(info: *mut libc::dl_phdr_info, _size: usize, all: *mut libc::c_void) -> libc::c_int {
        // SAFETY: the loader passes an object that is loaded.
        let info = unsafe { &*info };
        // SAFETY: its headers, as many as it says.
        let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
        let segments = headers.iter().filter(|header| header.p_type == libc::PT_LOAD).map(|header| {
            let start = info.dlpi_addr as usize + header.p_vaddr as usize;
            start & !4095..(start + header.p_memsz as usize).next_multiple_of(4096)
        });
        if segments.clone().any(|segment| needed().iter().any(|address| segment.contains(address))) {
            // SAFETY: the caller's ranges, which nobody else has.
            let all = unsafe { &mut *all.cast::<Ranges>() };
            segments.for_each(|segment| all.add(segment));
        }
        0
    }
    // SAFETY: the function keeps to what the loader asks of it, and is called before this returns.
    unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut *all).cast()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mapped_where_a_stack_was_stays_ours_when_the_stack_is_forgotten() {
        // Addresses that no process of this machine has.
        let stack = 1 << 60..(1 << 60) + 0x8000;
        let ours = stack.start + 0x2000..stack.start + 0x4000;
        begun(stack.clone());
        assert!(
            snapshot().overlaps(&stack) && still_theirs(&stack).is_none(),
            "it is left out, also by who has looked before"
        );
        ended(stack.clone());
        change(|own| own.add(ours.clone()));
        forget_stacks(|other| *other != stack);
        assert_eq!(snapshot().within(stack.clone()).collect::<Vec<_>>(), std::slice::from_ref(&ours));
        assert!(still_theirs(&stack).is_none() && still_theirs(&(stack.start..ours.start)).is_some());
        change(|own| own.remove(ours));
        assert!(!snapshot().overlaps(&stack));
    }

    #[test]
    fn a_live_stack_stays_noted_where_a_smaller_one_has_ended() {
        let large = 1 << 58..(1 << 58) + 0x8000;
        let small = (1 << 58) + 0x4000..(1 << 58) + 0x8000; // the C library cuts it out of one that it has kept
        for stack in [&large, &small] {
            begun(stack.clone());
            ended(stack.clone());
        }
        begun(large.clone());
        forget_stacks(|other| *other == large);
        assert!(still_theirs(&small).is_none());
        ended(large.clone());
        forget_stacks(|_| false);
        assert!(!snapshot().overlaps(&large));
    }

    #[test]
    fn nothing_of_ours_is_mapped_while_memory_of_the_programs_is_registered() {
        static MAPPED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
        let range = 1 << 59..(1 << 59) + 0x1000;
        let held = still_theirs(&range).expect("nothing is there");
        let mapper = {
            let range = range.clone();
            std::thread::spawn(move || {
                change(|own| {
                    MAPPED.store(true, std::sync::atomic::Ordering::SeqCst);
                    own.add(range);
                })
            })
        };
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(!MAPPED.load(std::sync::atomic::Ordering::SeqCst));
        drop(held);
        mapper.join().unwrap();
        assert!(still_theirs(&range).is_none());
        change(|own| own.remove(range));
    }
}

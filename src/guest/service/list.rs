//! [`List`]: a short list that is locked for moments in which nobody calls the allocator.
//!
//! ```text
//!   push:      no room?  unlock, allocate, lock, move over      snapshot:  allocate, lock, enough room? clone
//!   nth:       lock, clone one
//! ```
//!
//! A thread that forks has the allocator's locks until a reader has read the event of it. A reader looks at such lists, and must not wait for
//! somebody who waits for the allocator: neither to give memory out nor to take it back.

use crate::sync::{Arc, Mutex, Rank};

/// Things that several share.
#[derive(Debug)]
pub(crate) struct List<T>(Mutex<Vec<Arc<T>>>);

impl<T> List<T> {
    /// An empty one.
    pub(crate) fn new() -> Self {
        List(Mutex::new(Rank::Guest, Vec::new()))
    }

    /// An empty one, with room.
    pub(crate) fn with_capacity(room: usize) -> Self {
        List(Mutex::new(Rank::Guest, Vec::with_capacity(room)))
    }

    /// Have room for so many more: they are pushed without the allocator.
    pub(crate) fn make_room(&self, more: usize) {
        loop {
            let room = {
                let list = self.0.lock();
                if list.capacity() - list.len() >= more {
                    return;
                }
                2 * list.len() + more
            };
            let mut larger = Vec::with_capacity(room);
            let mut list = self.0.lock();
            if list.len() + more <= larger.capacity() {
                larger.append(&mut list);
                std::mem::swap(&mut *list, &mut larger);
                drop(list);
                return drop(larger);
            }
        }
    }

    /// Put something at the end.
    pub(crate) fn push(&self, item: Arc<T>) {
        loop {
            let room = {
                let mut list = self.0.lock();
                if list.len() < list.capacity() {
                    return list.push(item);
                }
                2 * list.len() + 4
            };
            let mut larger = Vec::with_capacity(room);
            let mut list = self.0.lock();
            if list.len() < larger.capacity() {
                larger.append(&mut list);
                larger.push(item);
                std::mem::swap(&mut *list, &mut larger);
                drop(list);
                return drop(larger);
            }
        }
    }

    /// All that is there now.
    pub(crate) fn snapshot(&self) -> Vec<Arc<T>> {
        let mut room = self.0.lock().len();
        loop {
            let mut all = Vec::with_capacity(room);
            let list = self.0.lock();
            if list.len() <= all.capacity() {
                all.extend(list.iter().cloned());
                return all;
            }
            room = list.len();
        }
    }

    /// One of them. Calls no allocator.
    pub(crate) fn nth(&self, number: usize) -> Option<Arc<T>> {
        self.0.lock().get(number).cloned()
    }

    /// The first that is wanted. Calls no allocator.
    pub(crate) fn find(&self, is_wanted: impl Fn(&T) -> bool) -> Option<Arc<T>> {
        self.0.lock().iter().find(|item| is_wanted(item)).cloned()
    }

    /// Whether one is wanted. Calls no allocator, also where it goes this moment.
    pub(crate) fn any(&self, is_wanted: impl Fn(&T) -> bool) -> bool {
        self.0.lock().iter().any(|item| is_wanted(item))
    }

    /// Keep those that `stays` says, and call `then` before anybody sees the list.
    pub(crate) fn retain(&self, stays: impl Fn(&Arc<T>) -> bool, then: impl FnOnce()) {
        let all = self.snapshot(); // what goes is freed with these
        let mut list = self.0.lock();
        list.retain(stays);
        then();
        drop(list);
        drop(all);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_pushed_by_several_is_there_and_what_goes_is_gone() {
        let list = List::new();
        std::thread::scope(|scope| {
            for thread in 0..4u32 {
                let list = &list;
                scope.spawn(move || (0..100).for_each(|n| list.push(Arc::new(thread * 100 + n))));
            }
            (0..100).for_each(|_| assert!(list.snapshot().len() <= 400));
        });
        let mut all: Vec<u32> = list.snapshot().iter().map(|n| **n).collect();
        all.sort_unstable();
        assert_eq!(all, (0..400).collect::<Vec<_>>());
        let mut told = false;
        list.retain(|n| **n % 2 == 0, || told = true);
        assert!(told && list.snapshot().len() == 200 && list.nth(199).is_some() && list.nth(200).is_none());
        assert!(list.any(|n| *n == 8) && !list.any(|n| *n == 7));
        assert_eq!((list.find(|n| *n == 7), list.find(|n| *n == 8).map(|n| *n)), (None, Some(8)));
    }
}

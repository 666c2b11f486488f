//! [`Stack`]: numbers of what somebody has to look at, left there without a lock and without the allocator.
//!
//! ```text
//!   top --> 7 --> 3 --> 9      a link for each item, in the item's own memory; 0 ends it, so 0 is no item
//!
//!   push    the item's link = top, top = the item      by compare-exchange, by whoever owns the link
//!   take    top = 0, and the items are the taker's     all at once: no item goes while others stay, so there is no ABA
//! ```
//!
//! It is the stack of R. K. Treiber (Systems programming: coping with parallelism, 1986), with taking reduced to that.
//!
//! Callers: `objcg` and `tree` (what is dead, until a sweep), `excess` (what is above its mark, until a worker looks).

use crate::sync::atomic::{AtomicU32, Ordering};

/// Items, the last one pushed first.
#[derive(Debug, Default)]
pub(super) struct Stack {
    /// The first item, or 0.
    top: AtomicU32,
}

impl Stack {
    /// Push an item that is on no stack, whose link the caller owns.
    pub(super) fn push(&self, item: u32, link: &AtomicU32) {
        debug_assert_ne!(item, 0, "0 ends a stack");
        // Release publishes the link to `take`.
        let _ = self.top.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |top| {
            link.store(top, Ordering::Relaxed);
            Some(item)
        });
    }

    /// Take everything off. An item's link is read before the item is given out, which may then be pushed again.
    pub(super) fn take<'a>(&self, link_of: impl Fn(u32) -> &'a AtomicU32) -> impl Iterator<Item = u32> {
        // Acquire pairs with the release of every push below: a read-modify-write continues its release sequence.
        let mut top = self.top.swap(0, Ordering::AcqRel);
        std::iter::from_fn(move || {
            let item = top;
            if item == 0 {
                return None;
            }
            top = link_of(item).load(Ordering::Relaxed);
            Some(item)
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_was_pushed_is_taken_once_the_last_one_first() {
        let links: [AtomicU32; 5] = Default::default();
        let stack = Stack::default();
        let link_of = |item: u32| &links[item as usize];
        assert_eq!(stack.take(link_of).count(), 0);
        [3, 1, 4].into_iter().for_each(|item| stack.push(item, link_of(item)));
        // Pushed again while the rest is still to be given out.
        let mut taken = Vec::new();
        for item in stack.take(link_of) {
            taken.push(item);
            stack.push(item, link_of(item));
        }
        assert_eq!(taken, [4, 1, 3]);
        assert_eq!(stack.take(link_of).collect::<Vec<_>>(), [3, 1, 4]);
        assert_eq!(stack.take(link_of).count(), 0);
    }
}

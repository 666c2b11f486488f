//! Where the kernel puts memory: the thread's memory policy around a commit, and the question where a page lies.
//!
//! The policy belongs to the thread and is put back before anything else runs on it. `mbind` per frame would split the
//! mapping into a piece per frame, and the kernel allows 65,530 pieces.

#[cfg(target_os = "linux")]
pub(super) use linux::{locate, with_preferred};
#[cfg(not(target_os = "linux"))]
pub(super) use other::{locate, with_preferred};

#[cfg(target_os = "linux")]
mod linux {
    use crate::units::FRAME_SIZE;

    /// More nodes than any kernel is built for: `CONFIG_NODES_SHIFT` is at most 10.
    const MASK_BITS: usize = 1024;
    type Mask = [libc::c_ulong; MASK_BITS / libc::c_ulong::BITS as usize];
    /// The kernel takes one bit less than it is told.
    const MASK_LEN: usize = MASK_BITS + 1;

    /// A thread's memory policy.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Policy {
        mode: libc::c_int,
        mask: Mask,
    }

    impl Policy {
        /// The calling thread's, unless the kernel does not tell.
        pub(super) fn current() -> Option<Self> {
            let mut policy = Policy { mode: 0, mask: [0; _] };
            let (mode, mask) = (&raw mut policy.mode, policy.mask.as_mut_ptr());
            // SAFETY: both pointers are to places as large as the call is told.
            let done = unsafe { libc::syscall(libc::SYS_get_mempolicy, mode, mask, MASK_LEN, 0usize, 0usize) };
            (done == 0).then_some(policy)
        }

        fn preferring(kernel_node: u32) -> Self {
            let mut mask: Mask = [0; _];
            mask[kernel_node as usize / libc::c_ulong::BITS as usize] |= 1 << (kernel_node % libc::c_ulong::BITS);
            Policy { mode: libc::MPOL_PREFERRED, mask }
        }

        /// Make it the calling thread's.
        pub(super) fn install(&self) -> bool {
            let mask = self.mask.as_ptr();
            // SAFETY: the kernel reads `MASK_LEN - 1` bits, which the mask has.
            let done = unsafe { libc::syscall(libc::SYS_set_mempolicy, self.mode, mask, MASK_LEN) };
            done == 0
        }
    }

    /// Run `f` so that memory it has backed comes from `kernel_node` while there is some. Where policies cannot be set, `f`
    /// runs all the same: who asks afterwards learns where the memory lies.
    pub(in super::super) fn with_preferred<R>(kernel_node: u32, f: impl FnOnce() -> R) -> R {
        let saved = Policy::current().filter(|_| (kernel_node as usize) < MASK_BITS);
        let changed = saved.filter(|_| Policy::preferring(kernel_node).install());
        let result = f();
        if let Some(saved) = changed {
            saved.install();
        }
        result
    }

    /// Say for each frame-sized page from `address` on which kernel node it lies: `found(index, node)`. Silent about pages
    /// the kernel does not tell about. At most 64 pages.
    pub(in super::super) fn locate(address: usize, count: usize, mut found: impl FnMut(usize, u32)) {
        let mut pages = [0usize; 64];
        let mut status = [-1i32; 64];
        for (index, page) in pages[..count].iter_mut().enumerate() {
            *page = address + index * FRAME_SIZE;
        }
        let (pages, nodes) = (pages.as_ptr(), std::ptr::null::<i32>());
        // SAFETY: without target nodes the call moves nothing; both arrays have `count` elements, asserted by the slice above.
        let done = unsafe { libc::syscall(libc::SYS_move_pages, 0, count, pages, nodes, status.as_mut_ptr(), 0) };
        if done < 0 {
            return;
        }
        for (index, &node) in status[..count].iter().enumerate() {
            if let Ok(node) = u32::try_from(node) {
                found(index, node);
            }
        }
    }

    #[cfg(all(test, not(miri)))]
    mod tests {
        use super::*;
        use crate::sync::Region;

        #[test]
        fn the_thread_has_its_policy_back_afterwards() {
            let before = Policy::current();
            let inside = with_preferred(0, Policy::current);
            assert_eq!(Policy::current(), before);
            match before {
                Some(_) => assert_eq!(inside, Some(Policy::preferring(0))),
                None => println!("this kernel has no memory policies; only that nothing changes was tested"),
            }
        }

        #[test]
        fn a_node_that_is_not_there_changes_nothing() {
            let before = Policy::current();
            for node in [1023, 1024, u32::MAX] {
                assert_eq!(with_preferred(node, Policy::current), before);
            }
        }

        #[test]
        fn backed_pages_are_found_and_others_are_not() {
            let region = Region::reserve(64 * FRAME_SIZE).unwrap();
            region.populate(0..2 * FRAME_SIZE).unwrap();
            let mut seen = Vec::new();
            locate(region.address(), 64, |index, node| seen.push((index, node)));
            if seen.is_empty() {
                return println!("this kernel does not tell where pages lie; nothing was tested");
            }
            assert_eq!(seen.iter().map(|&(index, _)| index).collect::<Vec<_>>(), [0, 1]);
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod other {
    pub(in super::super) fn with_preferred<R>(_kernel_node: u32, f: impl FnOnce() -> R) -> R {
        f()
    }

    pub(in super::super) fn locate(_address: usize, _count: usize, _found: impl FnMut(usize, u32)) {}
}

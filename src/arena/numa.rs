//! Where the kernel puts memory: the memory policy of the addresses around a commit, and the question where a page lies.
//!
//! ```text
//! all the time      | local                                                  |   one mapping: nothing is split for good
//! during a commit   | local        | preferred: node 1 | local               |   three, and one again afterwards
//! ```
//!
//! All addresses have a policy of their own, *local*, not for what it says but because memory with a policy of its own is
//! left alone by the kernel's automatic NUMA balancing, which else moves pages to the node of whoever touches them: frames
//! would leave the nodes that they are counted on, and that their owners are bound to. For that the policy of the thread,
//! which costs as many calls, will not do. A policy per frame that stays would split the mapping into a piece per frame, and the
//! kernel allows 65,530 pieces.
//!
//! What this cannot keep the kernel from: demotion of cold pages to slower memory, if an administrator switched that on, and
//! `migrate_pages` by others.

#[cfg(target_os = "linux")]
pub(super) use linux::{keep_still, locate, with_preferred};
#[cfg(not(target_os = "linux"))]
pub(super) use other::{keep_still, locate, with_preferred};

#[cfg(target_os = "linux")]
mod linux {
    use crate::units::FRAME_SIZE;

    /// More nodes than any kernel is built for: `CONFIG_NODES_SHIFT` is at most 10.
    const MASK_BITS: usize = 1024;
    type Mask = [libc::c_ulong; MASK_BITS / libc::c_ulong::BITS as usize];
    /// The kernel takes one bit less than it is told.
    const MASK_LEN: usize = MASK_BITS + 1;

    /// Set the policy of addresses: a preferred node, or local. Says whether the kernel took it.
    fn bind(address: usize, len: usize, preferred: Option<u32>) -> bool {
        let mut mask: Mask = [0; _];
        let (mode, mask, mask_len) = match preferred {
            None => (libc::MPOL_LOCAL, std::ptr::null(), 0),
            Some(node) if node as usize >= MASK_BITS => return false,
            Some(node) => {
                mask[node as usize / libc::c_ulong::BITS as usize] |= 1 << (node % libc::c_ulong::BITS);
                (libc::MPOL_PREFERRED, mask.as_ptr(), MASK_LEN)
            }
        };
        // SAFETY: the kernel reads `mask_len - 1` bits, which the mask has; the call moves nothing and changes no byte.
        let done = unsafe { libc::syscall(libc::SYS_mbind, address, len, mode, mask, mask_len, 0) };
        done == 0
    }

    /// Have the kernel leave pages where they are put. Where policies cannot be set, nothing is changed.
    ///
    /// Some page of the addresses must have been backed before, if only for a moment: pieces become one again only if the
    /// kernel keeps one record of anonymous pages (`anon_vma`) for them, and one that is made for a piece is not another's.
    pub(in super::super) fn keep_still(address: usize, len: usize) {
        bind(address, len, None);
    }

    /// Run `f` so that memory it has backed at these addresses comes from `kernel_node` while there is some; afterwards they
    /// have the policy local. Where policies cannot be set, `f` runs all the same: who asks afterwards learns where the
    /// memory lies.
    pub(in super::super) fn with_preferred<R>(
        address: usize,
        len: usize,
        kernel_node: u32,
        f: impl FnOnce() -> R,
    ) -> R {
        let changed = bind(address, len, Some(kernel_node));
        let result = f();
        if changed {
            bind(address, len, None);
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

        /// Mode and first word of the mask of an address, unless the kernel does not tell.
        fn policy(address: usize) -> Option<(libc::c_int, libc::c_ulong)> {
            const OF_ADDRESS: libc::c_ulong = 2; // MPOL_F_ADDR
            let (mut mode, mut mask): (libc::c_int, Mask) = (0, [0; _]);
            let (to_mode, to_mask) = (&raw mut mode, mask.as_mut_ptr());
            // SAFETY: both pointers are to places as large as the call is told.
            let done =
                unsafe { libc::syscall(libc::SYS_get_mempolicy, to_mode, to_mask, MASK_LEN, address, OF_ADDRESS) };
            (done == 0).then_some((mode, mask[0]))
        }

        fn pieces(region: &Region, bytes: usize) -> usize {
            let (start, end) = (region.address(), region.address() + bytes);
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
            let starts = maps.lines().filter_map(|line| usize::from_str_radix(line.split('-').next()?, 16).ok());
            starts.filter(|at| (start..end).contains(at)).count()
        }

        #[test]
        fn addresses_prefer_a_node_for_the_time_of_a_commit() {
            let bytes = 64 * FRAME_SIZE;
            let region = Region::reserve(bytes).unwrap();
            let at = region.address();
            if !bind(at, bytes, None) {
                return println!("this kernel has no memory policies, and nothing was tested");
            }
            let local = policy(at);
            assert_eq!(local, Some((libc::MPOL_LOCAL, 0)));
            region.populate(0..FRAME_SIZE).unwrap(); // see `keep_still`
            let before = pieces(&region, bytes);
            for frame in [0, 5, 6, 63] {
                let range = frame * FRAME_SIZE..(frame + 1) * FRAME_SIZE;
                let frame = at + range.start;
                let (inside, beside) = with_preferred(frame, FRAME_SIZE, 0, || {
                    region.populate(range).unwrap();
                    (policy(frame), policy(at + FRAME_SIZE))
                });
                assert_eq!((inside, beside), (Some((libc::MPOL_PREFERRED, 1)), local));
                assert_eq!(policy(frame), local);
            }
            assert_eq!(pieces(&region, bytes), before, "what was split is one again");
        }

        #[test]
        fn a_node_that_is_not_there_changes_nothing() {
            let region = Region::reserve(FRAME_SIZE).unwrap();
            keep_still(region.address(), FRAME_SIZE);
            let before = policy(region.address());
            for node in [1023, 1024, u32::MAX] {
                assert_eq!(with_preferred(region.address(), FRAME_SIZE, node, || policy(region.address())), before);
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
    pub(in super::super) fn keep_still(_address: usize, _len: usize) {}

    pub(in super::super) fn with_preferred<R>(
        _address: usize,
        _len: usize,
        _kernel_node: u32,
        f: impl FnOnce() -> R,
    ) -> R {
        f()
    }

    pub(in super::super) fn locate(_address: usize, _count: usize, _found: impl FnMut(usize, u32)) {}
}

//! Real nodes: every claim about where memory lies is put to the kernel (`move_pages` with a null list).
//!
//! A program rather than a list of tests, for it is also the whole of a guest with two nodes, the second a small one:
//! `.ci/numa` builds it static and boots it as the first process, and then it ends by a restart. It prints PASS or FAIL and a
//! sentence per check, and which checks there were. On a machine with one node it checks only that one is enough.
//!
//! 1. Frames lie on the node they were asked for.
//! 2. Objects of memcgs with masks lie within them, and `memory.numa_stat` is what the kernel says, byte for byte.
//! 3. Narrowing a mask moves what lies outside.
//! 4. Commits leave the mapping in one piece, and the kernel leaves frames where they were put.
//! 5. When the small node is exhausted, frames of others come to lie elsewhere and are counted there; an owner that may use
//!    only that node is refused with the numbers, or makes room by writing back, and nothing of it lies elsewhere.

#[cfg(all(target_os = "linux", not(miri)))]
mod support;

#[cfg(all(target_os = "linux", not(miri)))]
mod checks {
    use super::support;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use zspool::arena::{Arena, ArenaConfig, Topology};
    use zspool::memcg::{Memcg, Tree};
    use zspool::swap::MemoryDevice;
    use zspool::units::{FRAME_SIZE, Frame, NodeId, NodeMask, Page};
    use zspool::zsmalloc::{Cells, Pool};
    use zspool::zswap::{Builder, Error, Zswap};

    const N0: NodeId = NodeId(0);
    const N1: NodeId = NodeId(1);

    /// The kernel's nodes of frames, by its own word.
    fn kernel_nodes(arena: &Arena, frames: &[Frame]) -> Vec<i32> {
        let mut status = vec![-1i32; frames.len()];
        let pages: Vec<usize> = frames.iter().map(|frame| arena.address() + frame.offset()).collect();
        let (pages, nodes) = (pages.as_ptr(), std::ptr::null::<i32>());
        // SAFETY: without target nodes nothing is moved; both arrays have as many elements as the call is told.
        let done =
            unsafe { libc::syscall(libc::SYS_move_pages, 0, frames.len(), pages, nodes, status.as_mut_ptr(), 0) };
        assert_eq!(done, 0, "the kernel says where pages lie");
        status
    }

    fn lie_on(arena: &Arena, frames: &[Frame], node: NodeId) {
        let kernel = arena.topology().kernel_node(node) as i32;
        assert!(kernel_nodes(arena, frames).iter().all(|&status| status == kernel), "all lie on node {kernel}");
        assert!(frames.iter().all(|&frame| arena.node_of(frame) == node), "and the arena says so");
    }

    /// Compressed bytes of a memcg (one without children) by node, each object's frames looked up at the kernel's.
    fn bytes_by_node<C: Cells>(pool: &Pool<C>, memcg: &Memcg) -> Vec<u64> {
        let (tree, arena): (&Tree, &Arena) = (pool.accounting().unwrap(), pool.arena());
        let mut parts = Vec::new();
        pool.for_each_object(|object| {
            if tree.is_current(object.objcg, memcg.group()) {
                let (start, end) = (object.location.offset(), object.location.offset() + object.slot_bytes);
                for frame in start / FRAME_SIZE..=(end - 1) / FRAME_SIZE {
                    let inside = end.min((frame + 1) * FRAME_SIZE) - start.max(frame * FRAME_SIZE);
                    parts.push((Frame(frame as u32), inside as u64));
                }
            }
        });
        let frames: Vec<Frame> = parts.iter().map(|part| part.0).collect();
        let mut bytes = vec![0; tree.nodes()];
        for (&(_, part), status) in parts.iter().zip(kernel_nodes(arena, &frames)) {
            let status =
                u32::try_from(status).unwrap_or_else(|_| panic!("an object's frame is backed: status {status}"));
            let node = arena.topology().from_kernel(status);
            bytes[node.expect("it is one of the nodes there are").index()] += part;
        }
        bytes
    }

    /// What `memory.numa_stat` says, and that the kernel says the same.
    fn numa_stat(zswap: &Zswap, memcg: &Memcg) -> Vec<u64> {
        let text = memcg.read_file("memory.numa_stat").unwrap();
        let line = text.lines().next().unwrap().strip_prefix("zswap ").expect("the first line is zswap");
        let shown: Vec<u64> = line.split(' ').map(|word| word.split_once('=').unwrap().1.parse().unwrap()).collect();
        assert_eq!(shown, bytes_by_node(zswap.pool(), memcg), "{line} is not what the kernel says");
        shown
    }

    fn builder() -> Builder {
        Zswap::builder().pool_limit(1 << 30).slots_in_use(1 << 20).worker(false)
    }

    /// A page of noise that takes `bytes` compressed, or a little more.
    fn page(random: &mut support::Random, bytes: usize) -> Page {
        let mut page = Page::zeroed();
        page[..bytes].chunks_mut(8).for_each(|chunk| {
            let word = random.next().to_ne_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        });
        page
    }

    fn frames_lie_on_the_node_asked_for() {
        let arena = Arena::new(ArenaConfig { warm_frames: 0, ..ArenaConfig::default() }).unwrap();
        for node in [N0, N1, N1, N0] {
            let run = arena.alloc_run().unwrap();
            let first = arena.first_frame(run);
            arena.ensure(first, arena.run_frames(), node).unwrap();
            let frames: Vec<Frame> = (first.0..first.0 + arena.run_frames() as u32).map(Frame).collect();
            lie_on(&arena, &frames, node);
            frames.iter().for_each(|&frame| arena.release(frame));
            // Warm there, and asked for elsewhere.
            let other = NodeId(1 - node.0);
            arena.ensure(first, 2, other).unwrap();
            lie_on(&arena, &frames[..2], other);
            frames.iter().for_each(|&frame| arena.release(frame));
            arena.free_run(run);
            arena.flush();
        }
        assert_eq!(arena.backed_bytes(), 0);
        arena.assert_valid();
    }

    fn masks_hold_and_numa_stat_is_what_the_kernel_says() {
        let zswap = builder().build().unwrap();
        let [a, b, c] = ["a", "b", "c"].map(|name| zswap.root().mkdir(name).unwrap());
        zswap.set_nodes(&a, NodeMask::only(N0)).unwrap();
        zswap.set_nodes(&b, NodeMask::only(N1)).unwrap();
        let mut random = support::Random::new(1);
        let slots = zswap.reserve(3000).unwrap().base();
        for n in 0..3000 {
            let page = page(&mut random, 200 + (n as usize * 37) % 3800);
            // Each asks for the node that it may not have, or for both.
            let (memcg, node) = [(&a, N1), (&b, N0), (&c, [N0, N1][n as usize / 3 % 2])][n as usize % 3];
            zswap.store(slots + n, memcg, node, &page).unwrap();
        }
        let (on_a, on_b, on_c) = (numa_stat(&zswap, &a), numa_stat(&zswap, &b), numa_stat(&zswap, &c));
        println!("  a {on_a:?}, b {on_b:?}, c {on_c:?}");
        assert!(on_a[0] > 0 && on_a[1] == 0 && on_b[0] == 0 && on_b[1] > 0 && on_c[0] > 0 && on_c[1] > 0);
        let _ = zswap.compact(u64::MAX);
        assert_eq!([&a, &b, &c].map(|memcg| numa_stat(&zswap, memcg)), [on_a, on_b, on_c]);
        zswap.assert_valid();
    }

    fn narrowing_moves_what_lies_outside() {
        let zswap = builder().build().unwrap();
        let vm = zswap.root().mkdir("vm").unwrap();
        let slots = zswap.reserve(1000).unwrap().base();
        let make = |n: u64| page(&mut support::Random::new(n + 1), 1500);
        for n in 0..1000 {
            zswap.store(slots + n, &vm, NodeId((n % 2) as u8), &make(n)).unwrap();
        }
        assert!(numa_stat(&zswap, &vm).iter().all(|&bytes| bytes > 0));
        for node in [N1, N0] {
            zswap.set_nodes(&vm, NodeMask::only(node)).unwrap();
            assert_eq!(numa_stat(&zswap, &vm)[1 - node.index()], 0, "all was moved to {node}");
            zswap.assert_valid();
        }
        let mut back = Page::zeroed();
        for n in 0..1000 {
            zswap.load(slots + n, &mut back).unwrap();
            assert!(*back == *make(n), "page {n} is not what was stored");
        }
    }

    fn an_exhausted_node_spills_and_masks_hold_all_the_same() {
        let zswap = builder().device(MemoryDevice::new(8 << 20, 4096)).scan(16, 16).build().unwrap();
        let (free, bound) = (zswap.root().mkdir("free").unwrap(), zswap.root().mkdir("bound").unwrap());
        zswap.set_nodes(&bound, NodeMask::only(N1)).unwrap();
        let slots = zswap.reserve(1 << 17).unwrap().base();
        let mut random = support::Random::new(7);
        let mut next = 0;
        // Node 1 has less than 128 MiB: pages for it that do not compress, until a good part lies on node 0.
        loop {
            zswap.store(slots + next, &free, N1, &page(&mut random, 4096)).unwrap();
            next += 1;
            if next % 1024 == 0 && zswap.arena().backed_on(N0) > 16 << 20 {
                break;
            }
            assert!(next < 1 << 16, "256 MiB do not fit on a node of less than 128 MiB");
        }
        let on = numa_stat(&zswap, &free);
        println!("  {next} pages for node 1 lie on {on:?}");
        assert!(on[0] > 8 << 20 && on[1] > 8 << 20, "some spilled, and some did not");
        zswap.assert_valid();
        // Writeback is for the others only now: for the bound one this is a node without room, and it makes some there.
        let (mut stored, mut refused) = (0, None);
        for _ in 0..2000 {
            match zswap.store(slots + next, &bound, N1, &page(&mut random, 2000)) {
                Ok(_) => stored += 1,
                Err(error @ (Error::NodesFull { .. } | Error::PoolFull { .. })) => refused = Some(error),
                Err(other) => panic!("{other}"),
            }
            next += 1;
        }
        let written = free.stat().unwrap().events(zspool::memcg::Event::ZswpWb);
        println!(
            "  of 2000 pages of an owner bound to node 1, {stored} were stored; {written} others were written back"
        );
        if let Some(refused) = refused {
            assert!(refused.to_string().contains("no room is left on the nodes 1, where the pool has"), "{refused}");
            println!("  refused: {refused}");
        }
        assert!(stored > 0 && written > 0, "room was made on node 1");
        assert_eq!(numa_stat(&zswap, &bound)[0], 0, "nothing of it lies on node 0");
        assert_eq!(zswap.pool().bytes_outside(&bound), 0);
        zswap.quiesce();
        zswap.assert_valid();
        // Narrowing `free` to a node that has no room for it is busy, or done; and the bytes left are right.
        match zswap.set_nodes(&free, NodeMask::only(N1)) {
            Ok(()) => assert_eq!(numa_stat(&zswap, &free)[0], 0),
            Err(Error::Busy { left_bytes, .. }) => assert_eq!(left_bytes, zswap.pool().bytes_outside(&free)),
            Err(other) => panic!("{other}"),
        }
        numa_stat(&zswap, &free);
        zswap.assert_valid();
    }

    /// Mappings of the process.
    fn mappings() -> usize {
        std::fs::read_to_string("/proc/self/maps").unwrap().lines().count()
    }

    fn commits_leave_the_mapping_in_one_piece() {
        let before = mappings();
        let arena = Arena::new(ArenaConfig { warm_frames: 0, commit_ahead: 1, ..ArenaConfig::default() }).unwrap();
        let made = mappings();
        // Every other frame, on nodes in turn, by threads at once.
        std::thread::scope(|scope| {
            for t in 0..2 {
                let arena = &arena;
                scope.spawn(move || {
                    for n in 0..200 {
                        let first = arena.first_frame(arena.alloc_run().unwrap());
                        for k in (0..arena.run_frames() as u32).step_by(2) {
                            arena.ensure(Frame(first.0 + k), 1, NodeId(((n + k + t) / 2 % 2) as u8)).unwrap();
                        }
                    }
                });
            }
        });
        let now = mappings();
        println!("  {before} mappings, {made} with an arena, {now} after {} commits", arena.backed_bytes() / 4096);
        // Stacks and the allocator of threads take some.
        assert!(now < made + 32, "commits split the mapping");
    }

    /// The kernel's automatic balancing moves what a thread of the other node touches again and again, and must leave frames
    /// alone.
    fn frames_stay_where_they_are_put() {
        let arena = Arena::new(ArenaConfig { warm_frames: 0, ..ArenaConfig::default() }).unwrap();
        let mut frames = Vec::new();
        for _ in 0..64 {
            let first = arena.first_frame(arena.alloc_run().unwrap());
            arena.ensure(first, arena.run_frames(), N1).unwrap();
            frames.extend((first.0..first.0 + arena.run_frames() as u32).map(Frame));
        }
        let until = std::time::Instant::now() + std::time::Duration::from_secs(8);
        let mut sum = 0u64;
        // Two threads, so that one at least runs on the node where the frames do not lie.
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut sum = 0u64;
                    while std::time::Instant::now() < until {
                        for frame in &frames {
                            let at = zspool::units::Location::from_offset(frame.offset());
                            // SAFETY: the frame is owned, and nobody writes to it.
                            sum += arena.with(at, 8, |bytes| unsafe { bytes.cast::<u64>().read_volatile() });
                        }
                    }
                    sum
                });
            }
        });
        sum += frames.len() as u64;
        assert!(sum > 0);
        lie_on(&arena, &frames, N1);
    }

    fn one_node_is_enough() {
        let zswap = builder().build().unwrap();
        let vm = zswap.root().mkdir("vm").unwrap();
        zswap.set_nodes(&vm, NodeMask::only(N0)).unwrap();
        assert!(zswap.set_nodes(&vm, NodeMask::only(N1)).is_err(), "there is no node 1");
        let slot = zswap.reserve(1).unwrap().base();
        zswap.store(slot, &vm, N0, &page(&mut support::Random::new(1), 1000)).unwrap();
        assert_eq!(vm.read_file("memory.zswap.nodes.effective").unwrap(), "0\n");
        assert_eq!(numa_stat(&zswap, &vm), [vm.usage()]);
        zswap.assert_valid();
    }

    /// Run the checks; whether all passed.
    pub(super) fn run() -> bool {
        let nodes = Topology::detect().len();
        println!("numa_guest: {nodes} nodes with memory");
        let two: &[(&str, fn())] = &[
            ("frames lie on the node asked for", frames_lie_on_the_node_asked_for),
            ("masks hold and numa_stat is what the kernel says", masks_hold_and_numa_stat_is_what_the_kernel_says),
            ("narrowing moves what lies outside", narrowing_moves_what_lies_outside),
            ("commits leave the mapping in one piece", commits_leave_the_mapping_in_one_piece),
            ("frames stay where they are put", frames_stay_where_they_are_put),
            ("an exhausted node spills and masks hold", an_exhausted_node_spills_and_masks_hold_all_the_same),
        ];
        let checks: &[(&str, fn())] = match nodes {
            2 if std::process::id() == 1 => two,
            1 => &[("one node is enough", one_node_is_enough)],
            // A small second node is only known to be there in the guest.
            2 => &two[..5],
            _ => &two[..1],
        };
        let mut passed = 0;
        for (name, check) in checks {
            let done = catch_unwind(AssertUnwindSafe(check)).is_ok();
            println!("{} {name}", if done { "PASS" } else { "FAIL" });
            passed += usize::from(done);
        }
        println!("numa_guest: {passed} of {} checks passed on {nodes} nodes", checks.len());
        passed == checks.len()
    }

    /// Mount what the topology is read from.
    pub(super) fn mount() {
        for (kind, at) in [(c"proc", c"/proc"), (c"sysfs", c"/sys")] {
            let data = std::ptr::null();
            // SAFETY: a string that ends in NUL. That there is such a folder already is no harm.
            unsafe { libc::mkdir(at.as_ptr(), 0o755) };
            // SAFETY: three strings that end in NUL, and no data.
            unsafe { libc::mount(kind.as_ptr(), at.as_ptr(), kind.as_ptr(), 0, data) };
        }
    }

    /// End the guest.
    pub(super) fn restart() -> ! {
        // SAFETY: the system is ours to end; nothing is on a disk.
        unsafe { libc::reboot(libc::RB_AUTOBOOT) };
        unreachable!("the guest restarts")
    }
}

#[cfg(all(target_os = "linux", not(miri)))]
fn main() {
    let guest = std::process::id() == 1;
    if guest {
        checks::mount();
    }
    let passed = checks::run();
    if guest {
        checks::restart();
    }
    std::process::exit(i32::from(!passed));
}

#[cfg(not(all(target_os = "linux", not(miri))))]
fn main() {
    println!("numa_guest: where memory lies is asked of Linux only");
}

//! Bad input to the allocator: each is refused with a sentence that says what to do, and nothing changes.

use zspool::arena::{self, Topology};
use zspool::memcg::{Tree, TreeConfig};
use zspool::units::{FRAME_SIZE, NodeId, PAGE_SIZE};
use zspool::zsmalloc::{Builder, ClassTotal, Error, Handle, HandleError, Pool, Usage};

fn small() -> Builder {
    Pool::builder().limit(1 << 20).address_space(16 << 20).topology(Topology::simulated(1))
}

/// What must not change by a refusal: warm frames, idle pages of entries and cells may stay.
fn state(pool: &Pool) -> (Usage, ClassTotal) {
    let mut usage = pool.usage();
    (usage.warm_bytes, usage.entry_bytes, usage.cell_bytes) = (0, 0, 0);
    (usage, pool.classes().total())
}

/// The refusal, which says this, and after which the pool is as before.
#[track_caller]
fn refused<T>(pool: &Pool, attempt: impl FnOnce() -> Result<T, HandleError>, says: &[&str]) -> HandleError {
    let before = state(pool);
    let refusal = attempt().err().expect("it is refused");
    let said = refusal.to_string();
    assert!(says.iter().all(|part| said.contains(part)), "{says:?} are not in: {said}");
    pool.assert_valid();
    assert_eq!(state(pool), before, "after {said}");
    refusal
}

// === sizes ===

#[test]
fn objects_of_no_bytes_and_of_more_than_a_page_are_refused() {
    let pool = small().build().unwrap();
    let kept = pool.insert(b"kept").unwrap();
    for len in [0, PAGE_SIZE + 1, 2 * PAGE_SIZE, 1 << 20] {
        let says = [format!("an object of {len} bytes is not possible"), "ask for 1 to 4096 bytes".to_owned()];
        let says = says.each_ref().map(String::as_str);
        let inserted = refused(&pool, || pool.insert(&vec![1; len]), &says);
        let drafted = refused(&pool, || pool.draft(len).map(drop), &says);
        for refusal in [inserted, drafted] {
            assert!(matches!(refusal, HandleError::Pool(Error::Length { len: said }) if said == len));
        }
    }
    refused(&pool, || pool.draft(usize::MAX).map(drop), &["ask for 1 to 4096 bytes"]);
    for len in [1, PAGE_SIZE] {
        let handle = pool.insert(&vec![1; len]).unwrap();
        assert_eq!(pool.get(handle).unwrap().len(), len, "the edges are possible");
        pool.remove(handle).unwrap();
    }
    assert_eq!(&*pool.get(kept).unwrap(), b"kept");
}

#[test]
fn a_draft_takes_exactly_the_bytes_it_was_made_for() {
    let pool = small().build().unwrap();
    let _open = pool.insert(&[9; 100]).unwrap(); // so that the class has its zspage and array already
    for wrong in [0, 99, 101, 5000] {
        let says = [format!("{wrong} bytes were written into an object of 100"), "write exactly as many".to_owned()];
        let write = || pool.draft(100)?.write(&vec![1; wrong]);
        let refusal = refused(&pool, write, &says.each_ref().map(String::as_str));
        assert!(matches!(refusal, HandleError::Pool(Error::WrongLength { len: 100, .. })));
    }
    let before = state(&pool);
    drop(pool.draft(100).unwrap());
    assert_eq!(state(&pool), before, "a draft that is not written leaves nothing");
}

#[test]
fn nodes_there_are_not_are_refused() {
    let pool = small().build().unwrap();
    for node in [1, 7, 255] {
        let draft = || pool.draft_for(None, 100, NodeId(node)).map(drop);
        refused(&pool, draft, &[&format!("there is no node N{node}"), "made for 1 nodes"]);
    }
}

// === handles ===

#[test]
fn handles_used_wrongly_are_told_apart() {
    let (pool, other) = (small().build().unwrap(), small().build().unwrap());
    let kept = pool.insert(b"kept").unwrap();
    let removed = pool.insert(b"removed").unwrap();
    pool.remove(removed).unwrap();
    let again = pool.insert(b"another in its place").unwrap();
    let foreign = other.insert(b"theirs").unwrap();
    let never = Handle::from_raw(kept.raw() + (1000 << 32));
    let unborn = Handle::from_raw(kept.raw() + (1 << 8));
    for (handle, says) in [
        (removed, ["was removed before", "drop handles when removing their objects"]),
        (foreign, ["is of the pool with tag", "ask the pool that made it"]),
        (never, ["was never made by this pool", "check where the handle came from"]),
        (unborn, ["was never made by this pool", "check where the handle came from"]),
        (Handle::from_raw(0), ["ool", ";"]),
        (Handle::from_raw(u64::MAX), ["ool", ";"]),
    ] {
        refused(&pool, || pool.get(handle).map(drop), &says[..1]);
        let refusal = refused(&pool, || pool.remove(handle), &says);
        use HandleError::{ForeignHandle, OutOfRange, Stale};
        let kind = match refusal {
            Stale { .. } => handle == removed,
            // The last two have whichever tag their numbers happen to have.
            ForeignHandle { .. } => handle != removed && handle != never && handle != unborn,
            OutOfRange { .. } => handle != removed && handle != foreign,
            _ => false,
        };
        assert!(kind, "{handle:?}: {refusal}");
    }
    assert_eq!(&*pool.get(kept).unwrap(), b"kept");
    assert_eq!(&*pool.get(again).unwrap(), b"another in its place");
    assert_eq!(&*other.get(foreign).unwrap(), b"theirs");
}

#[test]
fn a_pool_with_objects_is_closed_by_nobody() {
    let pool = small().build().unwrap();
    let handles = [pool.insert(&[1; 10]).unwrap(), pool.insert(&[2; 4096]).unwrap()];
    // A guard and a draft borrow the pool, so that `close(self)` is refused by the compiler while they live.
    let still = pool.close().unwrap_err();
    assert_eq!((still.live, still.to_string().contains("remove them before closing it, or drop it")), (2, true));
    let pool = still.pool;
    assert_eq!(&*pool.get(handles[0]).unwrap(), [1; 10], "it goes on as if nothing had happened");
    handles.into_iter().for_each(|handle| pool.remove(handle).unwrap());
    pool.close().unwrap();
}

#[test]
fn guards_outlive_removal_compaction_and_their_slots_neighbours() {
    let pool = small().build().unwrap();
    let handles: Vec<Handle> = (0..200u8).map(|n| pool.insert(&[n; 700]).unwrap()).collect();
    let guards: Vec<_> = handles.iter().step_by(3).map(|&handle| pool.get(handle).unwrap()).collect();
    handles.iter().for_each(|&handle| pool.remove(handle).unwrap());
    refused(&pool, || pool.get(handles[0]).map(drop), &["was removed before"]);
    let _ = pool.compact(u64::MAX);
    let others: Vec<Handle> = (0..200).map(|_| pool.insert(&[255; 700]).unwrap()).collect();
    for (n, guard) in (0..200u8).step_by(3).zip(&guards) {
        assert_eq!(&**guard, [n; 700], "nobody writes where a guard looks");
    }
    assert_eq!(pool.stats().objects, 200 + guards.len() as u64, "what guards hold is still there");
    drop(guards);
    assert_eq!(pool.stats().objects, 200);
    others.into_iter().for_each(|handle| pool.remove(handle).unwrap());
    pool.assert_valid();
    pool.close().unwrap();
}

// === room ===

#[test]
fn a_limit_of_zero_makes_a_pool_that_refuses_everything() {
    for limit in [0, 1, FRAME_SIZE as u64 - 1] {
        let pool = small().limit(limit).build().unwrap();
        for len in [1, 4096] {
            let says = ["0 of at most", &format!("{limit} bytes backed"), "raise the limit"];
            refused(&pool, || pool.insert(&vec![1; len]), &says);
        }
        assert_eq!(pool.arena().backed_bytes(), 0);
        pool.close().unwrap();
    }
    let pool = small().limit(FRAME_SIZE as u64).build().unwrap();
    pool.insert(&[1; 4096]).unwrap();
    refused(&pool, || pool.insert(&[1]), &["4096 of at most 4096 bytes backed"]);
}

#[test]
fn address_space_of_nothing_is_one_run_and_its_end_is_said() {
    let pool = small().address_space(0).build().unwrap();
    let mut handles = Vec::new();
    let refusal = loop {
        match pool.insert(&[3; 4096]) {
            Ok(handle) => handles.push(handle),
            Err(refusal) => break refusal,
        }
    };
    assert_eq!(handles.len(), pool.arena().run_frames());
    assert!(matches!(refusal, HandleError::Pool(Error::Arena(arena::Error::NoRun { runs: 1 }))), "{refusal}");
    assert!(refusal.to_string().contains("make the pool with a larger `address_space`"), "{refusal}");
    refused(&pool, || pool.insert(&[3; 4096]), &["all 1 runs"]);
    pool.remove(handles.pop().unwrap()).unwrap();
    pool.insert(&[4; 4096]).unwrap();
}

#[test]
fn more_address_space_than_there_can_be_is_refused() {
    let refusal = small().address_space((1 << 40) + 1).build().unwrap_err().to_string();
    assert!(refusal.contains("ask for at most 1099511627776"), "{refusal}");
}

#[test]
fn full_nodes_are_refused_with_their_numbers_when_all_are_full() {
    let topology =
        Topology::simulated(2).with_capacity(NodeId(0), 8 * FRAME_SIZE as u64).with_capacity(NodeId(1), 4096);
    let tree = Tree::new(TreeConfig { nodes: 2, ..TreeConfig::default() });
    let vm = tree.root().mkdir("vm").unwrap();
    let pool = small().topology(topology).accounting(tree).build().unwrap();
    let put = |node: u8| pool.draft_for(Some(&vm), 4096, NodeId(node))?.write(&[node; 4096]);
    let mut handles: Vec<Handle> = (0..9).map(|_| put(0).unwrap()).collect();
    let nodes = |handles: &[Handle]| {
        let on = |node: u8| handles.iter().filter(|&&h| pool.get(h).unwrap().home_node() == NodeId(node)).count();
        (on(0), on(1))
    };
    assert_eq!(nodes(&handles), (8, 1), "the ninth spills");
    let charged = vm.usage();
    for node in [0, 1] {
        let says = ["no room is left on the nodes 0-1", "36864 bytes of at most 36864", "free something there"];
        refused(&pool, || put(node), &says);
        assert_eq!(vm.usage(), charged, "what is refused is not charged");
    }
    pool.remove(handles.remove(8)).unwrap();
    assert_eq!(pool.get(put(0).unwrap()).unwrap().home_node(), NodeId(1), "room on the other node is found");
}

#[test]
fn frames_that_the_kernel_refuses_cost_one_insert_and_nothing_else() {
    let pool = small().build().unwrap();
    let bytes = |n: usize| vec![n as u8; 1 + n * 131 % 4096];
    let mut kept: Vec<(Handle, usize)> = Vec::new();
    for n in 0..300 {
        // The next commit fails: an insert that needs a frame is refused, one that does not goes on.
        pool.arena().fail_commits_after(if n % 3 == 0 { Some(0) } else { None });
        match pool.insert(&bytes(n)) {
            Ok(handle) => kept.push((handle, n)),
            Err(refusal) => {
                let no_memory = matches!(refusal, HandleError::Pool(Error::Arena(arena::Error::NoMemory { .. })));
                let full = matches!(refusal, HandleError::Pool(Error::Arena(arena::Error::Limit { .. })));
                assert!(no_memory && n % 3 == 0 || full, "{refusal}");
                assert!(full || refusal.to_string().contains("free memory on this machine"), "{refusal}");
            }
        }
        pool.assert_valid();
    }
    pool.arena().fail_commits_after(None);
    assert!(kept.len() < 300 && kept.len() > 150, "{}", kept.len());
    for (handle, n) in kept {
        assert_eq!(&*pool.get(handle).unwrap(), bytes(n), "nothing is lost");
        pool.remove(handle).unwrap();
    }
    pool.flush();
    assert_eq!(pool.usage().backed_bytes(), 0);
}

#[test]
fn a_257th_pool_is_refused_and_says_so() {
    let tags = zspool::zsmalloc::TagSpace::new();
    let tiny = || Pool::builder().limit(1 << 16).address_space(1 << 16).topology(Topology::simulated(1)).tags(&tags);
    let mut pools: Vec<Pool> = (0..256).map(|_| tiny().build().unwrap()).collect();
    let refusal = tiny().build().unwrap_err();
    assert!(matches!(refusal, HandleError::NoTag { live: 256 }));
    assert!(refusal.to_string().contains("256 pools are open") && refusal.to_string().contains("close one first"));
    pools.pop().unwrap().close().unwrap();
    tiny().build().unwrap();
}

//! Prepaid objects of a client that has cells of its own: a page that its owner is charged for becomes an object.

use zspool::arena::{Arena, ArenaConfig, Topology};
use zspool::memcg::{Counter, Memcg, ObjcgId, Tree, TreeConfig};
use zspool::sync::Arc;
use zspool::sync::atomic::{AtomicU64, Ordering};
use zspool::units::{Location, NodeId, Owner};
use zspool::zsmalloc::{Cells, Error, Object, Pool, PoolConfig};

const NODE: NodeId = NodeId(0);
const PAGE: u64 = 4096;

/// A word per owner: location and length.
struct Words(Vec<AtomicU64>);

const LOCATION: u64 = (1 << 36) - 1;

impl Cells for Words {
    fn object(&self, owner: Owner) -> Option<Object> {
        let word = self.0[owner.0 as usize].load(Ordering::Acquire);
        (word != 0).then(|| Object { location: Location::from_raw(word & LOCATION), len: (word >> 40) as usize })
    }

    fn relocate(&self, owner: Owner, from: Location, to: Location) -> bool {
        let moved = |word: u64| (word & LOCATION == from.raw()).then_some(word - from.raw() + to.raw());
        self.0[owner.0 as usize].fetch_update(Ordering::AcqRel, Ordering::Acquire, moved).is_ok()
    }
}

/// A guest's pages: each is resident, charged whole, or an object, charged by its slot.
struct Guest {
    pool: Pool<Words>,
    vm: Memcg,
    /// Through which its pages are charged.
    page: ObjcgId,
}

impl Guest {
    fn new(pages: usize, nodes: usize) -> Self {
        let config =
            ArenaConfig { address_space: 1 << 26, topology: Topology::simulated(nodes), ..ArenaConfig::default() };
        let tree = Tree::new(TreeConfig { nodes, ..TreeConfig::default() });
        let vm = tree.root().mkdir("tenant").unwrap().mkdir("vm").unwrap();
        let words = Words((0..pages).map(|_| AtomicU64::new(0)).collect());
        let config =
            (Arc::new(Arena::new(config).unwrap()), PoolConfig { accounting: Some(tree), ..Default::default() });
        let pool = Pool::new(config.0, words, config.1).unwrap();
        let page = vm.objcg().unwrap().into_id();
        Guest { pool, vm, page }
    }

    fn tree(&self) -> &Tree {
        self.vm.tree()
    }

    fn fault_in(&self) {
        self.tree().charge(self.page, Counter::Memory, PAGE).unwrap();
    }

    fn word(&self, owner: u32) -> &AtomicU64 {
        &self.pool.cells().0[owner as usize]
    }

    /// Compress a resident page. On an error it stays resident.
    fn compress(&self, owner: u32, len: usize) -> Result<(), Error> {
        let mut draft = self.pool.malloc_prepaid(&self.vm, len, NODE, PAGE)?;
        draft.write(&vec![owner as u8; len]).unwrap();
        let published = draft.publish(Owner(owner));
        self.word(owner).store(published.location().raw() | (len as u64) << 40, Ordering::Release);
        Ok(())
    }

    fn free(&self, owner: u32) {
        let Object { location, len } = self.pool.cells().object(Owner(owner)).unwrap();
        self.word(owner).store(0, Ordering::Release);
        self.pool.free(Owner(owner), location, len);
    }

    /// Zswap, Memory, and what of it is resident, in the tenant.
    fn charged(&self) -> (u64, u64, u64) {
        let tenant = self.tree().by_path("tenant").unwrap();
        let [zswap, memory] = [Counter::Zswap, Counter::Memory].map(|counter| tenant.current(counter));
        (zswap, memory, tenant.stat().unwrap().resident)
    }

    fn close(self) {
        self.tree().put(self.page);
        self.tree().assert_quiet();
        self.pool.assert_valid();
        assert_eq!(Counter::ALL.map(|counter| self.tree().root().current(counter)), [0; 3]);
    }
}

#[test]
fn a_guest_at_its_limit_compresses_every_page_and_is_charged_by_slots() {
    let guest = Guest::new(300, 2);
    for _ in 0..300 {
        guest.fault_in();
    }
    // Not one byte more than is resident: what asked the limit for an object would be refused.
    guest.vm.set_max(Counter::Memory, 300 * PAGE).unwrap();
    for owner in 0..300 {
        let before = guest.charged();
        guest.compress(owner, 100 + owner as usize * 13).unwrap();
        let (zswap, memory, resident) = guest.charged();
        let slot = zswap - before.0;
        assert!(slot >= 100 + u64::from(owner) * 13 && slot <= PAGE);
        assert_eq!((memory, resident), (before.1 - (PAGE - slot), before.2 - PAGE));
    }
    let (zswap, memory, resident) = guest.charged();
    assert_eq!((memory, resident), (zswap, 0));
    assert_eq!(guest.vm.peak(Counter::Memory), 300 * PAGE);
    guest.tree().assert_quiet();
    // From here on they are like any others: freed, moved, inherited.
    (0..300).filter(|owner| owner % 3 > 0).for_each(|owner| guest.free(owner));
    assert!(guest.pool.compact(u64::MAX).frames_won() > 0);
    guest.vm.offline().unwrap();
    guest.tree().assert_quiet();
    guest.pool.assert_valid();
    (0..300).step_by(3).for_each(|owner| {
        let Object { location, len } = guest.pool.cells().object(Owner(owner)).unwrap();
        assert!(guest.pool.read(Owner(owner), location, len).unwrap().iter().all(|&byte| byte == owner as u8));
        guest.free(owner);
    });
    assert_eq!(guest.charged(), (0, 0, 0));
    guest.close();
}

#[test]
fn what_zswap_max_refuses_stays_resident_and_what_is_cancelled_is_nobodys() {
    let guest = Guest::new(2, 1);
    guest.fault_in();
    guest.vm.set_max(Counter::Zswap, 50).unwrap();
    assert!(matches!(guest.compress(0, 1000), Err(Error::Limit(hit)) if hit.counter() == Counter::Zswap));
    assert_eq!(guest.charged(), (0, PAGE, PAGE));
    guest.vm.set_max(Counter::Zswap, PAGE).unwrap();
    // A published object has paid back what it did not need; cancelled, it gives back the rest.
    guest.pool.malloc_prepaid(&guest.vm, 1000, NODE, PAGE).unwrap().publish(Owner(1)).cancel();
    assert_eq!(guest.charged(), (0, 0, 0));
    guest.close();
}

#[test]
fn threads_that_compress_and_fault_at_the_limit_never_pass_it_and_leave_exact_sums() {
    const PAGES: u32 = 64;
    let guest = Guest::new(PAGES as usize, 1);
    let limit = u64::from(PAGES) * PAGE / 2;
    guest.vm.set_max(Counter::Memory, limit).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let guest = &guest;
            scope.spawn(move || {
                // Each has pages of its own, and stores and frees each in turn as far as the limit lets it.
                let mine: Vec<u32> = (0..PAGES).filter(|owner| owner % 3 == thread).collect();
                for round in 0..200 {
                    let owner = mine[round % mine.len()];
                    if guest.word(owner).load(Ordering::Relaxed) != 0 {
                        guest.free(owner);
                    } else if guest.tree().charge(guest.page, Counter::Memory, PAGE).is_ok() {
                        guest.compress(owner, 50 + (round * 37 + owner as usize) % 3000).unwrap();
                    }
                    assert!(guest.vm.current(Counter::Memory) <= limit);
                    assert!(guest.vm.peak(Counter::Memory) <= limit);
                }
            });
        }
    });
    guest.tree().assert_quiet();
    let (zswap, memory, resident) = guest.charged();
    assert!(zswap > 0 && memory == zswap && resident == 0);
    (0..PAGES).filter(|&owner| guest.word(owner).load(Ordering::Relaxed) != 0).for_each(|owner| guest.free(owner));
    guest.close();
}

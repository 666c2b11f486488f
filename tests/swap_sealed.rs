//! What reaches encrypted devices over the life of an instance: written back, written again after failures, cleaned, demoted and
//! moved off.
//!
//! - No nonce comes twice, whatever becomes of what it sealed.
//! - No page can be read off a device.
//! - A child of fork, which has its parent's key and nonces, writes nothing.
//!
//! Every page is one that does not shrink, so that objects are equally long, and where each begins in a write is known.

#![cfg(all(not(loom), not(miri)))]

mod support;

use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use support::{Kind, Random, page_of};
use zspool::memcg::Cancel;
use zspool::swap::{
    BLOCK_BYTES, Device, DeviceOptions, Fault, FaultyDevice, Geometry, HEADER_BYTES, MemoryDevice, Op, Plan, Request,
    Status,
};
use zspool::units::{NodeId, PAGE_SIZE, Page, Slot};
use zspool::zswap::{Shrunk, Zswap};

const PAGES: u64 = 600;

/// Bytes of an object on a device.
const OBJECT: usize = (HEADER_BYTES + PAGE_SIZE).next_multiple_of(BLOCK_BYTES);

/// A device that notes the bytes of every write, also of those that then fail.
#[derive(Debug)]
struct Noting {
    inner: FaultyDevice<MemoryDevice>,
    writes: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Device for Noting {
    fn submit(&self, requests: &mut [Request]) {
        for request in requests.iter_mut() {
            if request.op() == Op::Write && request.status() == Status::Idle {
                self.writes.lock().unwrap().push(request.bytes_mut().to_vec());
            }
        }
        self.inner.submit(requests);
    }
    fn complete(&self, requests: &mut [Request]) {
        self.submit(requests);
    }
    fn punch(&self, range: Range<u64>) -> std::io::Result<()> {
        self.inner.punch(range)
    }
    fn len_bytes(&self) -> u64 {
        self.inner.len_bytes()
    }
    fn block_bytes(&self) -> usize {
        self.inner.block_bytes()
    }
    fn name(&self) -> &str {
        "noting"
    }
}

fn page(slot: Slot) -> Page {
    page_of(Kind::Random, slot.0)
}

fn write_back_all(zswap: &Zswap) {
    while matches!(zswap.shrink_memcg(&zswap.root(), 64), Shrunk::Written(_)) {}
}

/// All that devices were given to write in a full life of an instance.
fn life(encryption: bool) -> (Vec<Vec<u8>>, HashSet<u64>) {
    let writes = Arc::new(Mutex::new(Vec::new()));
    let device = |plan| {
        let inner = FaultyDevice::new(MemoryDevice::new(16 << 20, 4096), plan);
        Arc::new(Noting { inner, writes: Arc::clone(&writes) })
    };
    // Writes that fail, of which all or a part is on the disk.
    let fast = device(
        Plan::none()
            .at(2, Fault::Errno(libc::ENOSPC))
            .at(3, Fault::Short { bytes: 8192 })
            .at(5, Fault::Errno(libc::ENOSPC)),
    );
    let slow = device(Plan::none());
    let zswap = Zswap::builder()
        .slots_in_use(1 << 16)
        .address_space(64 << 20)
        .pool_limit(32 << 20)
        .worker(false)
        .device_geometry(Geometry { batch_pages: 16, ..Geometry::default() })
        .encryption(encryption)
        .swap(DeviceOptions::device(fast).tier("fast", 5))
        .swap(DeviceOptions::device(slow).tier("slow", 0))
        .build()
        .unwrap();
    let root = zswap.root();
    let mut held: Vec<Slot> = zswap.reserve(PAGES).unwrap().iter().collect();
    held.iter().for_each(|&slot| _ = zswap.store(slot, &root, NodeId(0), &page(slot)).unwrap());
    let mut known = HashSet::new();
    for &slot in &held {
        known.extend(page(slot).chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())));
    }
    for _ in 0..4 {
        write_back_all(&zswap); // again after failures
    }
    let mut random = Random::new(1);
    held.retain(|&slot| random.below(2) == 0 || !zswap.free(slot));
    assert!(zswap.clean(u64::MAX).objects > 50, "cleaning moves objects");
    assert!(zswap.demote(&root, "slow", 100_000, &Cancel::new()).unwrap().bytes > 0);
    let fast = zswap.devices().iter().find(|row| row.tier == "fast").unwrap().number;
    let moved = zswap.swapoff(fast, &Cancel::new(), |_| ()).unwrap();
    assert!(moved.objects_at_start > 0, "{moved:?}");
    write_back_all(&zswap);
    let mut back = Page::zeroed();
    for &slot in &held {
        zswap.load(slot, &mut back).unwrap();
        assert!(back[..] == page(slot)[..], "{slot:?}");
    }
    zswap.assert_valid();
    let all = writes.lock().unwrap().clone();
    (all, known)
}

/// The objects in a write.
fn objects(write: &[u8]) -> impl Iterator<Item = &[u8]> {
    // After the last come zeroes.
    write.chunks_exact(OBJECT).filter(|object| object[..16] != [0; 16])
}

#[test]
fn no_nonce_comes_twice_and_no_page_is_seen_in_all_that_is_written() {
    let (writes, known) = life(true);
    let (mut nonces, mut tags, mut count) = (HashSet::new(), HashSet::new(), 0);
    for object in writes.iter().flat_map(|write| objects(write)) {
        count += 1;
        nonces.insert(<[u8; 8]>::try_from(&object[16..24]).unwrap());
        tags.insert(<[u8; 16]>::try_from(&object[..16]).unwrap());
    }
    assert!(count as u64 > PAGES * 3 / 2, "{count} objects were written, some more than once");
    assert_eq!((nonces.len(), tags.len()), (count, count), "of {count} objects");
    // Counted from 0 on: none is left out either, but of batches that were given up.
    assert!(nonces.iter().all(|&nonce| u64::from_le_bytes(nonce) < 2 * count as u64));

    let seen = |writes: &[Vec<u8>]| {
        let words = writes.iter().flat_map(|write| write.chunks_exact(8));
        words.filter(|&word| known.contains(&u64::from_le_bytes(word.try_into().unwrap()))).count()
    };
    assert_eq!(seen(&writes), 0, "words of pages are on the device");
    // They would be found.
    let (plain, _) = life(false);
    assert!(seen(&plain) > PAGES as usize * 512, "{} words", seen(&plain));
}

/// A file that the child of a fork shares with its parent: what it wrote there would use nonces of its parent's again.
#[test]
fn the_child_of_a_fork_is_refused_every_write_and_its_parent_goes_on() {
    use std::os::unix::fs::FileExt;
    use zspool::swap::{Area, Error, Label, SwapFile, Tenant};
    use zspool::units::Owner;
    const TENANT: Tenant = Tenant { owner: Owner(1), payer: 1 };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("swap");
    let file = SwapFile::options().path(&path).size(4 << 20).open().unwrap();
    let area = Area::new(Box::new(file), 0, Geometry::default()).unwrap();
    let image = || {
        let mut bytes = vec![0; 4 << 20];
        std::fs::File::open(&path).unwrap().read_exact_at(&mut bytes, 0).unwrap();
        bytes
    };
    let object = |slot: u64| move |to: &mut [u8]| to.fill(slot as u8);
    let mut before = area.begin(4).unwrap();
    let early = before.push(7, Label::default(), TENANT, 2000, object(7)).unwrap();
    before.write().unwrap();
    let mut open = area.begin(4).unwrap();
    let place = open.push(8, Label::default(), TENANT, 2000, object(8)).unwrap();
    let there = image();
    // SAFETY: the child asks for what it is refused, which takes no lock that another thread of the parent could have held, and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let written = matches!(open.write(), Err(Error::Forked));
        let begun = matches!(area.begin(4), Err(Error::Forked));
        // SAFETY: ends the child without running what belongs to the parent.
        unsafe { libc::_exit(i32::from(!(written && begun))) };
    }
    assert!(child > 0);
    let mut status = 0;
    // SAFETY: waits for our own child.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!((libc::WIFEXITED(status), libc::WEXITSTATUS(status)), (true, 0), "a write of the child was not refused");
    assert!(image() == there, "the child has changed the file");
    open.write().unwrap();
    for (slot, place) in [(7, early), (8, place)] {
        area.read(place, slot, |read| assert!(read.bytes.iter().all(|&byte| byte == slot as u8))).unwrap();
    }
}

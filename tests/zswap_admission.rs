//! What is let in and what has to go: sampling of memory that does not shrink, and what a policy that changes leaves as it is.

mod support;

use support::*;
use zspool::compress::{Codec, CodecId, Codecs, Compressed, Context, Corrupt, Lz4};
use zspool::swap::MemoryDevice;
use zspool::units::{NodeId, PAGE_SIZE, Page, Slot};
use zspool::zswap::{Builder, Error, Sampling, Shrunk, Stored, Zswap};

const N0: NodeId = NodeId(0);
const SAMPLING: Sampling = Sampling { after: 4, every: 5 };

fn base() -> Builder {
    Zswap::builder().pool_limit(16 << 20).slots_in_use(1 << 12).address_space(64 << 20).sampling(Some(SAMPLING))
}

fn store(zswap: &Zswap, slot: Slot, page: &Page) -> Result<Stored, Error> {
    zswap.store(slot, &zswap.root(), N0, page)
}

fn assert_loads(zswap: &Zswap, slot: Slot, expected: &Page) {
    let mut page = Page::zeroed();
    zswap.load(slot, &mut page).unwrap();
    assert!(page[..] == expected[..], "slot {}", slot.0);
}

/// (compressed in vain, passed by)
fn sampled(zswap: &Zswap) -> (u64, u64) {
    (zswap.stats().compressed_in_vain, zswap.stats().passed_by)
}

#[test]
fn pages_that_do_not_shrink_are_sampled_and_the_first_that_does_ends_it() {
    let zswap = base().build().unwrap();
    let slots = zswap.reserve(512).unwrap();
    let noise = |k| page_of(Kind::Random, k);
    for (k, slot) in slots.iter().take(24).enumerate() {
        assert_eq!(store(&zswap, slot, &noise(k as u64)).unwrap(), Stored::Incompressible);
    }
    // 4 in a row, and then 16 are passed by and each fifth of 20 is tried.
    assert_eq!(sampled(&zswap), (4 + 4, 16));
    // Zeroes are no news.
    assert_eq!(store(&zswap, slots.get(30).unwrap(), &Page::zeroed()).unwrap(), Stored::SameFilled);
    let text = compressible(1, 300);
    let raw = (0..4).map(|k| store(&zswap, slots.get(40 + k).unwrap(), &text).unwrap());
    assert!(raw.into_iter().all(|stored| stored == Stored::Incompressible), "stored before the next was tried");
    for k in 0..10 {
        let stored = store(&zswap, slots.get(50 + k).unwrap(), &text).unwrap();
        assert!(matches!(stored, Stored::Compressed { .. }), "{stored:?} of page {k} after the one that shrank");
    }
    assert_eq!(sampled(&zswap), (8, 20));
    (0..24).for_each(|k| assert_loads(&zswap, slots.get(k).unwrap(), &noise(k)));
    (40..44).chain(50..60).for_each(|k| assert_loads(&zswap, slots.get(k).unwrap(), &text));
    zswap.assert_valid();
}

#[test]
fn a_page_passed_by_is_not_refused_where_it_would_fit_compressed() {
    // Nothing is tried by chance in this test.
    let zswap = base().sampling(Some(Sampling { after: 4, every: 200 })).build().unwrap();
    let slots = zswap.reserve(512).unwrap();
    for k in 0..5 {
        store(&zswap, slots.get(k).unwrap(), &page_of(Kind::Random, k)).unwrap();
    }
    assert_eq!(sampled(&zswap), (4, 1), "from now on pages of this cluster are passed by");
    let vm = zswap.root().mkdir("vm").unwrap();
    let noise = page_of(Kind::Random, 5);
    // Room for no page at all; and for one, of which a half is taken.
    for (limit, taken) in [(3000, 0), (6000, 2500)] {
        vm.set_zswap_max(limit).unwrap();
        if taken > 0 {
            // Another cluster, of which nothing is known.
            let elsewhere = zswap.reserve(512).unwrap().base();
            zswap.store(elsewhere, &vm, N0, &compressible(1, taken)).unwrap();
        }
        let refused = zswap.store(slots.get(120).unwrap(), &vm, N0, &noise).unwrap_err();
        assert!(matches!(&refused, Error::Limit { source, .. } if source.asked() == 4096), "{refused}");
        let (in_vain, passed_by) = sampled(&zswap);
        let text = compressible(2, 900);
        let slot = slots.get(110).unwrap();
        let stored = zswap.store(slot, &vm, N0, &text).unwrap();
        assert!(matches!(stored, Stored::Compressed { .. }), "{stored:?} at {limit}");
        assert_loads(&zswap, slot, &text);
        // It shrank, so its cluster is one where pages shrink; until it is not once more.
        for k in 0..5 {
            store(&zswap, slots.get(k).unwrap(), &page_of(Kind::Random, k)).unwrap();
        }
        assert_eq!(sampled(&zswap), (in_vain + 4, passed_by + 1));
        zswap.free(slot);
    }
    zswap.assert_valid();
}

/// LZ4 with every bit turned: bytes that only this codec reads back.
struct Turned;

impl Codec for Turned {
    fn id(&self) -> CodecId {
        CodecId::new(9)
    }
    fn name(&self) -> &'static str {
        "turned"
    }
    fn compress<'c>(&self, context: &'c mut Context, page: &[u8; PAGE_SIZE]) -> Compressed<'c> {
        let turned = page.map(|byte| !byte);
        Lz4.compress(context, &turned)
    }
    fn decompress(&self, bytes: &[u8], out: &mut [u8; PAGE_SIZE]) -> Result<(), Corrupt> {
        Lz4.decompress(bytes, out)?;
        out.iter_mut().for_each(|byte| *byte = !*byte);
        Ok(())
    }
}

/// what a page was stored by is recorded in its entry, so that it is read back by that whatever the policy is by then.
#[test]
fn policies_that_change_between_store_and_load_change_nothing_stored() {
    let codecs = Codecs::builtin().with(Turned).unwrap();
    let zswap = base().codecs(codecs).device(MemoryDevice::new(8 << 20, 4096)).worker(false).build().unwrap();
    let slots = zswap.reserve(1024).unwrap();
    let root = zswap.root();
    let mut stored = vec![];
    let mut raw = 0;
    for (k, slot) in slots.iter().take(600).enumerate() {
        let k = k as u64;
        match k % 7 {
            0 => zswap.set_codec(["lz4", "turned"][(k / 7 % 2) as usize]).unwrap(),
            3 => zswap.set_sampling([None, Some(SAMPLING), Some(Sampling::default())][(k / 7 % 3) as usize]),
            5 => root.set_writeback((k / 7).is_multiple_of(2)).unwrap(),
            _ => {}
        }
        // Noise in runs that are long enough to be passed by, and text that is stored raw among it.
        let page = if k % 40 < 30 { page_of(Kind::Random, k) } else { compressible(k, 100 + k as usize % 3000) };
        raw += u64::from(store(&zswap, slot, &page).unwrap() == Stored::Incompressible);
        stored.push((slot, page));
        if k.is_multiple_of(3) {
            let (slot, page) = &stored[(k / 2) as usize];
            assert_loads(&zswap, *slot, page);
        }
    }
    let (in_vain, passed_by) = sampled(&zswap);
    assert!(passed_by > 50 && in_vain > 50, "{passed_by} were passed by, {in_vain} compressed in vain");
    assert!(raw > in_vain && raw == in_vain + passed_by, "raw are {raw}: those in vain and those passed by");
    // A half goes to the device, raw entries and those of both codecs, under yet another policy.
    root.set_writeback(true).unwrap();
    zswap.set_sampling(None);
    zswap.set_codec("lz4").unwrap();
    while zswap.stats().physical_pages < 300 {
        assert_ne!(zswap.shrink_memcg(&root, 64), Shrunk::NothingToScan);
    }
    stored.iter().for_each(|(slot, page)| assert_loads(&zswap, *slot, page));
    zswap.assert_valid();
}

//! Blocks stored, loaded and discarded: one thread against a plain model, several against each other, and bad input.
//!
//! 1. A block reads as what was stored in it last, or as zeroes after a discard and before any store.
//! 2. `mm_stat` says what the model says: pages, same-filled pages, huge pages, and payload as the codec makes it.
//! 3. A refused store leaves every block as it was, and the limit is never exceeded.
//! 4. A load during stores of its block sees one of the pages, whole, and never an older one after a newer one.

mod support;

use proptest::prelude::*;
use support::*;
use zspool::arena::Topology;
use zspool::compress::{Codec, Compressed, Context, Lz4, same_filled};
use zspool::units::{NodeId, Page};
use zspool::zram::{Builder, Error, MmStat, Stored, Zram};
use zspool::zsmalloc::Geometry;

const BLOCKS: u64 = 48;

fn small() -> Builder {
    Zram::builder().disksize(BLOCKS * 4096).address_space(64 << 20)
}

fn loaded(zram: &Zram, block: u64) -> Page {
    let mut page = Page([0x5a; 4096]);
    zram.load(block, &mut page).unwrap();
    page
}

/// What a page costs: same-filled, kept as it is, or compressed, with its payload.
fn cost(page: &Page, huge_len: usize) -> (Stored, u64) {
    if same_filled(page).is_some() {
        return (Stored::SameFilled, 0);
    }
    match Lz4.compress(&mut Context::new(), page) {
        Compressed::Bytes(bytes) if bytes.len() < huge_len => {
            (Stored::Compressed { payload_bytes: bytes.len() }, bytes.len() as u64)
        }
        _ => (Stored::Huge, 4096),
    }
}

#[derive(Clone, Debug)]
enum Op {
    Store(u64, u64),
    Discard(u64),
    Compact,
    Reset,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        12 => (0..BLOCKS, any::<u64>()).prop_map(|(block, page)| Op::Store(block, page)),
        6 => (0..BLOCKS).prop_map(Op::Discard),
        2 => Just(Op::Compact),
        1 => Just(Op::Reset),
    ];
    prop::collection::vec(op, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn a_device_is_an_array_of_pages(ops in ops(), kernel in any::<bool>()) {
        let geometry = if kernel { Geometry::kernel(8).unwrap() } else { Geometry::default() };
        let huge_len = geometry.huge_len();
        let mut zram = small().geometry(geometry).warm_frames(0).build().unwrap();
        let mut model = vec![None; BLOCKS as usize];
        let mut since = 0;
        for op in ops {
            match op {
                Op::Store(block, number) => {
                    let page = any_page(number);
                    let (how, payload) = cost(&page, huge_len);
                    prop_assert_eq!(zram.store(block, &page).unwrap(), how);
                    since += u64::from(how == Stored::Huge);
                    model[block as usize] = Some((page, how, payload));
                }
                Op::Discard(block) => {
                    let held = model[block as usize].take().is_some();
                    prop_assert_eq!(zram.discard(block).unwrap(), held);
                }
                Op::Compact => assert!(!zram.compact().out_of_budget),
                Op::Reset => {
                    zram.reset();
                    prop_assert_eq!(zram.mm_stat(), MmStat::default());
                    model.fill(None);
                    since = 0;
                }
            }
            zram.assert_valid();
            let (stat, stored) = (zram.mm_stat(), model.iter().flatten());
            let count = |how| stored.clone().filter(|&&(_, is, _)| is == how).count() as u64;
            prop_assert_eq!(stat.orig_data_size, stored.clone().count() as u64 * 4096);
            prop_assert_eq!(stat.compr_data_size, stored.clone().map(|&(_, _, payload)| payload).sum::<u64>());
            prop_assert_eq!((stat.same_pages, stat.huge_pages), (count(Stored::SameFilled), count(Stored::Huge)));
            prop_assert_eq!(stat.huge_pages_since, since);
            prop_assert_eq!(stat.mem_used_total, zram.pool().stats().frame_bytes);
            prop_assert!(stat.mem_used_max >= stat.mem_used_total);
        }
        for (block, model) in model.iter().enumerate() {
            let expected = model.as_ref().map_or(Page::zeroed(), |(page, ..)| page.clone());
            prop_assert!(loaded(&zram, block as u64)[..] == expected[..], "block {block}");
        }
    }
}

#[test]
fn repeated_words_of_any_width_take_no_pool_memory() {
    let zram = small().build().unwrap();
    for (block, word) in [0, 1, u64::MAX, 1 << 60, 1 << 63, 0x1234_5678_9abc_def0].into_iter().enumerate() {
        let mut page = Page::zeroed();
        page.as_chunks_mut::<8>().0.fill(u64::to_le_bytes(word));
        assert_eq!(zram.store(block as u64, &page).unwrap(), Stored::SameFilled);
        assert!(loaded(&zram, block as u64)[..] == page[..], "{word:#x}");
    }
    let stat = zram.mm_stat();
    assert_eq!((stat.orig_data_size, stat.same_pages, stat.mem_used_total), (6 * 4096, 6, 0));
}

#[test]
fn a_refused_store_leaves_the_block_as_it_was() {
    let zram = small().warm_frames(0).mem_limit(8 * 4096 - 1).build().unwrap();
    assert_eq!(zram.mm_stat().mem_limit, 8 * 4096, "rounded up to whole frames");
    let random = |number| page_of(Kind::Random, number);
    (0..8).for_each(|block| assert_eq!(zram.store(block, &random(block)).unwrap(), Stored::Huge));
    let before = zram.mm_stat();
    for block in [3, 20] {
        let refused = zram.store(block, &random(100)).unwrap_err();
        assert!(matches!(refused, Error::Refused { .. }), "{refused:?}");
        let text = refused.to_string();
        assert!(text.contains(&format!("block {block} keeps what it held")) && text.contains("32768"), "{text}");
    }
    assert_eq!(zram.mm_stat(), before);
    assert!(loaded(&zram, 3)[..] == random(3)[..]);
    assert!(loaded(&zram, 20)[..] == Page::zeroed()[..]);
    // What takes no frame is stored all the same.
    zram.store(3, &page_of(Kind::LargePattern, 9)).unwrap();
    zram.store(20, &random(20)).unwrap();
    zram.set_mem_limit(4096);
    assert!(zram.store(21, &random(21)).is_err(), "the limit may be set below what is used");
    assert_eq!(zram.mm_stat().mem_used_total, 8 * 4096, "and takes nothing away that is stored");
    zram.set_mem_limit(0);
    zram.store(21, &random(21)).unwrap();
    assert_eq!((zram.mm_stat().mem_limit, zram.mm_stat().mem_used_max), (0, 9 * 4096));
    zram.assert_valid();
}

#[test]
fn the_most_memory_used_is_remembered_until_it_is_reset() {
    let mut zram = small().warm_frames(0).mem_limit(1 << 20).build().unwrap();
    (0..4).for_each(|block| {
        zram.store(block, &page_of(Kind::Random, block)).unwrap();
    });
    (0..3).for_each(|block| {
        zram.discard(block).unwrap();
    });
    let stat = zram.mm_stat();
    assert_eq!((stat.mem_used_total, stat.mem_used_max), (4096, 4 * 4096));
    zram.reset_mem_used_max();
    assert_eq!(zram.mm_stat().mem_used_max, 4096);
    zram.set_mem_limit(0);
    zram.reset();
    assert_eq!(zram.mm_stat(), MmStat { mem_limit: 1 << 20, ..MmStat::default() }, "as it was built");
    assert!((0..BLOCKS).all(|block| loaded(&zram, block)[..] == Page::zeroed()[..]));
}

#[test]
fn compaction_gives_memory_back_and_counts_it() {
    let zram = Zram::builder().disksize(4 << 20).build().unwrap();
    (0..1024).for_each(|block| {
        zram.store(block, &compressible(block, 1000)).unwrap();
    });
    (0..1024).filter(|block| block % 6 > 0).for_each(|block| {
        zram.discard(block).unwrap();
    });
    let before = zram.mm_stat().mem_used_total;
    let compacted = zram.compact();
    let stat = zram.mm_stat();
    assert!(stat.mem_used_total < before / 2, "{before} -> {}", stat.mem_used_total);
    assert!(compacted.frames_backed > 0, "{compacted:?}");
    assert_eq!(stat.pages_compacted, compacted.frames_won(), "not those that others were put into");
    (0..1024).step_by(6).for_each(|block| assert!(loaded(&zram, block)[..] == compressible(block, 1000)[..]));
    zram.assert_valid();
}

#[test]
fn what_cannot_be_is_refused_with_a_sentence() {
    let text = |refused: Result<Zram, Error>| refused.unwrap_err().to_string();
    assert_eq!(text(Zram::builder().build()), "a device of 0 bytes has no blocks; give `disksize` at least 4096 bytes");
    let too_large = text(Zram::builder().disksize(1 << 44).build());
    assert!(too_large.contains("ask for at most 17592186040320"), "{too_large}");
    let nowhere = text(small().topology(Topology::simulated(2)).node(NodeId(2)).build());
    assert!(nowhere.contains("2 nodes, numbered from 0"), "{nowhere}");

    let zram = Zram::builder().disksize(4097).build().unwrap();
    assert_eq!(zram.blocks(), 2, "rounded up to whole blocks");
    let mut page = Page::zeroed();
    for block in [2, u64::from(u32::MAX) + 1, u64::MAX] {
        let sentence = format!("there is no block {block}; the device has 2 blocks, numbered from 0");
        for refused in [zram.store(block, &page).err(), zram.load(block, &mut page).err(), zram.discard(block).err()] {
            assert_eq!(refused.expect("it is refused").to_string(), sentence);
        }
    }
}

#[test]
fn threads_see_whole_pages_in_the_order_of_the_stores() {
    // Each block has one writer, who stores versions in order, of all kinds; readers see versions that never fall, while somebody
    // compacts. A discard between two versions reads as version 0.
    const WRITERS: u64 = 2;
    let rounds = if cfg!(debug_assertions) { 60 } else { 1000 };
    let zram = small().warm_frames(4).build().unwrap();
    let version = |block: u64, n: u64| {
        let kind = match (block + n) % 5 {
            0 => Kind::LargePattern,
            1 => Kind::Random,
            _ => Kind::Mixed(100 + (n * 97 % 2000) as usize),
        };
        page_of(kind, block << 32 | n)
    };
    let done = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|s| {
        for writer in 0..WRITERS {
            let (zram, version, done) = (&zram, &version, &done);
            s.spawn(move || {
                for n in 1..=rounds {
                    for block in (writer..BLOCKS).step_by(WRITERS as usize) {
                        zram.store(block, &version(block, n)).unwrap();
                    }
                }
                done.fetch_add(1, std::sync::atomic::Ordering::Release);
            });
        }
        for reader in 0..2 {
            let (zram, version, done) = (&zram, &version, &done);
            s.spawn(move || {
                let mut seen = [0; BLOCKS as usize];
                let mut random = Random::new(reader);
                while done.load(std::sync::atomic::Ordering::Acquire) < WRITERS as usize {
                    let block = random.below(BLOCKS);
                    let page = loaded(zram, block);
                    let last = seen[block as usize];
                    let now = (last..=rounds).find(|&n| match n {
                        0 => page[..] == Page::zeroed()[..],
                        n => page[..] == version(block, n)[..],
                    });
                    seen[block as usize] = now.unwrap_or_else(|| panic!("block {block}: no version from {last} on"));
                }
            });
        }
        s.spawn(|| {
            while done.load(std::sync::atomic::Ordering::Acquire) < WRITERS as usize {
                let _ = zram.compact();
            }
        });
    });
    zram.assert_valid();
    (0..BLOCKS).for_each(|block| assert!(loaded(&zram, block)[..] == version(block, rounds)[..]));
}

#[test]
fn stores_discards_and_loads_of_one_block_by_many_threads_leave_nothing_behind() {
    let rounds = if cfg!(debug_assertions) { 300 } else { 5000 };
    let zram = small().build().unwrap();
    std::thread::scope(|s| {
        for thread in 0..4 {
            let zram = &zram;
            s.spawn(move || {
                let mut random = Random::new(thread);
                for _ in 0..rounds {
                    let block = random.below(3);
                    match random.below(4) {
                        0 => assert!(zram.discard(block).is_ok()),
                        1 => assert!(loaded(zram, block).len() == 4096),
                        _ => assert!(zram.store(block, &any_page(random.next())).is_ok()),
                    }
                }
            });
        }
    });
    zram.assert_valid();
    (0..3).for_each(|block| {
        zram.discard(block).unwrap();
    });
    let stat = zram.mm_stat();
    assert_eq!((stat.orig_data_size, stat.compr_data_size, stat.same_pages, stat.huge_pages), (0, 0, 0, 0));
    zram.pool().flush();
    assert_eq!(zram.mm_stat().mem_used_total, 0);
}

//! The running kernel's zram as oracle: the same pages into a device of the kernel's, of our own making, and into ours.
//!
//! 1. Class by class both use as many pages: zspages times their length here, `mem_used_total` there.
//! 2. Same-filled and huge pages, original and compressed bytes are the same at every step, and so is the text of `mm_stat`.
//! 3. Frames really backed are never more than the kernel's pages, and after compaction neither.
//! 4. At a limit both refuse the same pages, and a block whose store was refused keeps what it held.
//!
//! LZ4 encoders differ by a few bytes, which would move pages between classes. So the kernel is asked first what it makes of
//! each page (`compr_data_size` of a device that holds nothing else), and a codec that is told the answers compresses here.
//!
//! Takes root and a kernel with zram and its LZ4; else the tests are skipped. Other devices are not touched. With
//! `ZSPOOL_PAGES=FOLDER` pages of real programs (flat `*.pages` files) go through, too.

#[path = "support/kernel_zram.rs"]
mod kernel_zram;
mod support;

use kernel_zram::{KernelZram, chain_size};
use std::collections::HashMap;
use std::sync::Arc;
use support::*;
use zspool::compress::{Codec, CodecId, Compressed, Context, Corrupt, same_filled};
use zspool::units::{FRAME_SIZE, PAGE_SIZE, Page};
use zspool::zram::{Error, MmStat, Zram};
use zspool::zsmalloc::{ClassIndex, Geometry};

const FRAME: u64 = FRAME_SIZE as u64;

/// Pages, and what the kernel makes of each: payload in bytes, 0 for a same-filled one, 4096 for a huge one.
struct Pages {
    pages: Vec<Page>,
    payload: Vec<usize>,
    number: HashMap<Page1, usize>,
}

/// A page as a key.
#[derive(PartialEq, Eq, Hash)]
struct Page1(Box<[u8]>);

impl Pages {
    /// Ask the kernel.
    fn measured(pages: Vec<Page>) -> Result<Arc<Self>, String> {
        let probe = KernelZram::new(1)?;
        let mut payload = vec![];
        for page in &pages {
            probe.store(0, page).expect("a device without a limit stores any page");
            payload.push(probe.mm_stat().compr_data_size as usize);
        }
        let number = pages.iter().enumerate().map(|(n, page)| (Page1(page[..].into()), n)).collect();
        Ok(Arc::new(Pages { pages, payload, number }))
    }
}

/// Compresses as the kernel did: as many bytes, the first of which say which page it is.
struct Told(Arc<Pages>);

impl Codec for Told {
    fn id(&self) -> CodecId {
        CodecId::new(9)
    }

    fn name(&self) -> &'static str {
        "told"
    }

    fn compress<'c>(&self, context: &'c mut Context, page: &[u8; PAGE_SIZE]) -> Compressed<'c> {
        let number = self.0.number[&Page1(page[..].into())];
        let len = self.0.payload[number];
        let output = context.output();
        output[..len].fill(number as u8);
        output[..8].copy_from_slice(&number.to_le_bytes());
        Compressed::from_output(output, len)
    }

    fn decompress(&self, bytes: &[u8], out: &mut [u8; PAGE_SIZE]) -> Result<(), Corrupt> {
        let (head, filler) = bytes.split_at(8);
        let number = usize::from_le_bytes(head.try_into().expect("eight bytes"));
        assert_eq!(bytes.len(), self.0.payload[number]);
        assert!(filler.iter().all(|&byte| byte == number as u8), "bytes of another object");
        out.copy_from_slice(&self.0.pages[number][..]);
        Ok(())
    }
}

/// The kernel's device and ours.
struct Both {
    pages: Arc<Pages>,
    kernel: KernelZram,
    ours: Zram,
    geometry: Geometry,
    /// What each block holds.
    held: Vec<Option<usize>>,
}

impl Both {
    fn new(pages: &Arc<Pages>, blocks: usize) -> Result<Self, String> {
        let geometry = Geometry::kernel(chain_size()).expect("the kernel's chains are possible here");
        let ours = Zram::builder()
            .disksize((blocks * PAGE_SIZE) as u64)
            .geometry(geometry.clone())
            .codec(Told(Arc::clone(pages)))
            .warm_frames(0) // the kernel keeps none
            .build()
            .expect("there is address space");
        let kernel = KernelZram::new(blocks as u64)?;
        Ok(Both { pages: Arc::clone(pages), kernel, ours, geometry, held: vec![None; blocks] })
    }

    fn store(&mut self, block: usize, number: usize) {
        let page = &self.pages.pages[number];
        self.kernel.store(block as u64, page).expect("no limit is set");
        self.ours.store(block as u64, page).expect("no limit is set");
        self.held[block] = Some(number);
    }

    fn discard(&mut self, block: usize) {
        self.kernel.discard(block as u64);
        let held = self.ours.discard(block as u64).expect("there is such a block");
        assert_eq!(held, self.held[block].take().is_some());
    }

    fn compact(&self) {
        self.kernel.compact();
        assert_eq!(self.ours.compact().busy, 0);
    }

    /// Compare what does not depend on where objects lie; returns pages of zspages here and pages there.
    fn compare(&self) -> (u64, u64) {
        self.ours.assert_valid();
        let (ours, kernel) = (self.ours.mm_stat(), self.kernel.mm_stat());
        let alike = |stat: MmStat| {
            let MmStat { orig_data_size, compr_data_size, same_pages, huge_pages, huge_pages_since, .. } = stat;
            [orig_data_size, compr_data_size, same_pages, huge_pages, huge_pages_since]
        };
        assert_eq!(alike(ours), alike(kernel), "original, compressed, same, huge, huge ever");
        assert_eq!(kernel.to_string(), self.kernel.mm_stat_line(), "the text is the kernel's");
        assert!(ours.mem_used_total <= kernel.mem_used_total, "{} and {}", ours.mem_used_total, kernel.mem_used_total);
        let (of_zspages, there) = (self.pages_of_classes().iter().sum(), kernel.mem_used_total / FRAME);
        println!(
            "{} pages in {} blocks: the kernel has {there} pages, we have {of_zspages}, {} of them backed",
            kernel.orig_data_size / FRAME,
            self.held.len(),
            ours.mem_used_total / FRAME
        );
        (of_zspages, there)
    }

    /// Pages of the zspages of each class, as the kernel would count them: backed or not.
    fn pages_of_classes(&self) -> Vec<u64> {
        let rows = self.ours.pool().classes().0;
        rows.iter().map(|row| row.zspages.iter().sum::<u64>() * row.pages_per_zspage as u64).collect()
    }

    /// Every block reads the same on both sides, and as what was stored.
    fn compare_content(&self) {
        let (mut ours, mut kernel) = (Page::zeroed(), Page::zeroed());
        for (block, &held) in self.held.iter().enumerate() {
            self.ours.load(block as u64, &mut ours).expect("it is readable");
            self.kernel.load(block as u64, &mut kernel).expect("it is readable");
            let expected = held.map_or(&[0; PAGE_SIZE], |number| &*self.pages.pages[number]);
            assert!(ours[..] == expected[..], "block {block} of ours");
            assert!(kernel[..] == expected[..], "block {block} of the kernel's");
        }
    }
}

/// Pages of all kinds, with payloads of every class, and the same ones in the same order each time.
fn mixed_pages() -> Vec<Page> {
    let mut pages: Vec<Page> = (0..400).map(any_page).collect();
    pages.extend((1..3700).map(|bytes| compressible(bytes, bytes as usize)));
    // Many around the length from which pages are kept as they are.
    pages.extend((14_000..15_200).map(|n| compressible(n, n as usize / 4)));
    pages.dedup_by(|a, b| a[..] == b[..]);
    let Some(folder) = std::env::var_os("ZSPOOL_PAGES") else { return pages };
    for entry in std::fs::read_dir(folder).expect("ZSPOOL_PAGES names a folder") {
        let path = entry.expect("it can be read").path();
        if path.extension().is_some_and(|extension| extension == "pages") {
            let bytes = std::fs::read(&path).expect("it can be read");
            let (real, _) = bytes.as_chunks::<PAGE_SIZE>();
            pages.extend(real.iter().step_by(4).map(|&page| Page(page)));
        }
    }
    pages
}

/// Run a test that needs the kernel's zram, or say why it cannot run.
fn with_kernel(test: &str, body: impl FnOnce() -> Result<(), String>) {
    if let Err(why) = body() {
        skip(test, &why);
    }
}

#[test]
fn every_class_takes_as_many_pages_as_in_the_kernel() {
    with_kernel("every_class_takes_as_many_pages_as_in_the_kernel", || {
        let pages = Pages::measured(mixed_pages())?;
        let mut both = Both::new(&pages, pages.pages.len())?;
        let longest = pages.payload.iter().filter(|&&payload| payload < PAGE_SIZE).max();
        assert_eq!(longest, Some(&(both.geometry.huge_len() - 1)), "the longest that the kernel keeps compressed");
        // All pages of a class, then those of the next: what the kernel grows by meanwhile is the class's.
        let mut of_class: HashMap<Option<ClassIndex>, Vec<usize>> = HashMap::new();
        for (number, &payload) in pages.payload.iter().enumerate() {
            of_class.entry(both.geometry.class_of(payload)).or_default().push(number);
        }
        let (mut before, mut block, mut classes) = (0, 0, 0);
        for (index, shape) in both.geometry.clone().classes() {
            let Some(numbers) = of_class.get(&Some(index)) else { continue };
            for &number in numbers {
                both.store(block, number);
                block += 1;
            }
            let there = both.kernel.mm_stat().mem_used_total / FRAME;
            let here = both.pages_of_classes()[index.0 as usize];
            assert_eq!(here, there - before, "class of {} bytes with {} objects", shape.size(), numbers.len());
            before = there;
            classes += 1;
        }
        let same = of_class.remove(&None).expect("some pages repeat a word");
        assert!(same.iter().all(|&number| same_filled(&pages.pages[number]).is_some()));
        for number in same {
            both.store(block, number);
            block += 1;
        }
        let all = both.geometry.classes().len();
        println!("{classes} of {all} classes used");
        assert!(classes * 10 >= all * 9, "pages of nearly all sizes");
        let (here, there) = both.compare();
        assert_eq!(here, there);
        assert_eq!(there, before, "same-filled pages take none");
        both.compare_content();
        Ok(())
    });
}

#[test]
fn discards_and_compaction_leave_no_more_than_in_the_kernel() {
    with_kernel("discards_and_compaction_leave_no_more_than_in_the_kernel", || {
        let pages = Pages::measured(mixed_pages())?;
        let count = pages.pages.len();
        let mut both = Both::new(&pages, count)?;
        let mut random = Random::new(11);
        let mut order: Vec<usize> = (0..count).collect();
        (1..count).rev().for_each(|i| order.swap(i, random.below(i as u64 + 1) as usize));
        for (block, &number) in order.iter().enumerate() {
            both.store(block, number);
        }
        let (here, there) = both.compare();
        assert_eq!(here, there, "after the fill, in any order");
        for &block in &order[..count / 2] {
            both.discard(block);
        }
        let (here, there) = both.compare();
        assert_eq!(here, there, "zspages that still have objects");
        both.compact();
        // From here on a frame that no object touches tells the two apart: it costs nothing here, and its zspage may stay.
        both.compare();
        both.compare_content();
        // Blocks stored over, emptied and filled.
        for _ in 0..2 * count {
            let block = random.below(count as u64) as usize;
            match random.below(4) {
                0 => both.discard(block),
                _ => both.store(block, random.below(count as u64) as usize),
            }
        }
        both.compare();
        both.compact();
        both.compare();
        both.compare_content();
        (0..count).for_each(|block| both.discard(block));
        assert_eq!(both.compare(), (0, 0));
        let (ours, kernel) = (both.ours.mm_stat(), both.kernel.mm_stat());
        assert!(ours.pages_compacted > 0 && kernel.pages_compacted > 0, "compaction had something to do in both");
        Ok(())
    });
}

#[test]
fn at_the_limit_both_refuse_the_same_and_keep_what_was_there() {
    with_kernel("at_the_limit_both_refuse_the_same_and_keep_what_was_there", || {
        const LIMIT: u64 = 1 << 20;
        let pages: Vec<Page> = (0..300).map(|number| page_of(Kind::Random, number)).collect();
        let pattern = page_of(Kind::LargePattern, 1);
        let pages = Pages::measured(pages)?;
        let mut both = Both::new(&pages, 300)?;
        both.kernel.set_mem_limit(LIMIT);
        both.ours.set_mem_limit(LIMIT);
        for block in 0..300 {
            let (here, there) = (both.ours.store(block, &pages.pages[block as usize]), {
                both.kernel.store(block, &pages.pages[block as usize])
            });
            assert_eq!(here.is_ok(), there.is_ok(), "block {block}: {here:?}, {there:?}");
            assert_eq!(here.is_ok(), block < LIMIT / FRAME, "256 pages fit");
            both.held[block as usize] = here.ok().map(|_| block as usize);
        }
        let again = &pages.pages[299];
        assert!(matches!(both.ours.store(5, again), Err(Error::Refused { .. })));
        assert!(both.kernel.store(5, again).is_err());
        both.compare_content();
        assert_eq!(both.compare(), (256, 256));
        assert_eq!(both.ours.mm_stat().mem_limit, both.kernel.mm_stat().mem_limit);
        // A page that takes none is stored all the same.
        both.kernel.store(299, &pattern).expect("it takes no memory");
        both.ours.store(299, &pattern).expect("it takes no memory");
        assert_eq!(both.compare(), (256, 256));
        Ok(())
    });
}

//! `Zram::load` and `discard` run where nobody may allocate: an allocator that aborts stands under them.

#[path = "support/forbidden_allocator.rs"]
mod forbidden_allocator;
mod support;

use forbidden_allocator::without_allocator;
use support::*;
use zspool::units::Page;
use zspool::zram::Zram;

#[test]
fn loading_and_discarding_never_call_the_allocator() {
    let zram = Zram::builder().disksize(8 << 20).warm_frames(3).build().unwrap();
    (0..1500).for_each(|block| {
        zram.store(block, &any_page(block)).unwrap();
    });
    let mut page = Page::zeroed();
    for block in 0..2000 {
        let expected = if block < 1500 { any_page(block) } else { Page::zeroed() };
        let same = without_allocator(|| {
            zram.load(block, &mut page).unwrap();
            let same = page[..] == expected[..];
            zram.discard(block).unwrap();
            same
        });
        assert!(same, "block {block}");
    }
    assert_eq!(zram.mm_stat().orig_data_size, 0);
}

//! [`Subject`]: an instance over the file, with pages to store and write back.

use crate::Scale;
use crate::file::{Noted, Plain, Seen};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use zspool::compress::{Codec, Compressed, Context, Lz4};
use zspool::memcg::Memcg;
use zspool::units::{NodeId, Page, Slot, SlotRange};
use zspool::zswap::Zswap;

/// An instance without a worker, so that nothing is written back but by request.
pub(crate) struct Subject<'a> {
    pub(crate) zswap: Zswap,
    pub(crate) device: Arc<Noted>,
    path: PathBuf,
    pub(crate) vm: Memcg,
    pub(crate) slots: SlotRange,
    pub(crate) pages: &'a [Page],
}

impl<'a> Subject<'a> {
    pub(crate) fn new(pages: &'a [Page], scale: &Scale, encryption: bool) -> Self {
        let path = scale.dir.join(format!("zspool-swap-bench.{}", std::process::id()));
        // Twice what they take if none of them shrinks.
        let device = Arc::new(Noted::new(&path, (pages.len() * 4096 * 2) as u64 + (64 << 20)));
        let builder =
            Zswap::builder().device(Arc::clone(&device)).pool_limit(8 << 30).worker(false).encryption(encryption);
        let zswap = builder.build().expect("an instance");
        let vm = zswap.root().mkdir("vm").expect("a fresh name");
        let slots = zswap.reserve(pages.len() as u64).expect("slots without end");
        Subject { zswap, device, path, vm, slots, pages }
    }

    pub(crate) fn slot(&self, k: usize) -> Slot {
        self.slots.base() + k as u64
    }

    /// Store pages in this order.
    pub(crate) fn store(&self, order: impl Iterator<Item = usize>) {
        for k in order {
            self.zswap.store(self.slot(k), &self.vm, NodeId(0), &self.pages[k]).expect("there is room");
        }
    }

    /// The file without the instance.
    pub(crate) fn plain(&self) -> Plain {
        Plain::open(&self.path)
    }

    /// Have everything written back by one request. It asks for more than there is, and is told so.
    pub(crate) fn ask_to_write(&self) {
        let _ = self.vm.write_file("memory.reclaim", "1T source=zswap");
    }

    /// Write everything back, and say what the device saw.
    pub(crate) fn write_back(&self) -> Seen {
        self.device.take();
        self.ask_to_write();
        self.device.take()
    }

    /// Load a page that was stored.
    pub(crate) fn load(&self, k: usize, page: &mut Page) {
        self.zswap.load(self.slot(k), page).expect("it was stored");
    }

    pub(crate) fn free_all(&self) {
        for k in 0..self.pages.len() {
            self.zswap.free(self.slot(k));
        }
    }

    /// These pages are on the device, and come back as they were.
    pub(crate) fn check(&self, these: Range<usize>) {
        assert!(self.zswap.stats().physical_pages >= these.len() as u64, "every page was written back");
        let mut back = Page::zeroed();
        for k in these {
            back.fill(0xa5);
            self.load(k, &mut back);
            assert!(back[..] == self.pages[k][..], "page {k} came back different");
        }
    }
}

/// What each page is for the codec alone; `None` where it does not shrink.
pub(crate) fn compressed(pages: &[Page]) -> Vec<Option<Box<[u8]>>> {
    let mut context = Context::new();
    let compress = |page: &Page| match Lz4.compress(&mut context, page) {
        Compressed::Bytes(bytes) => Some(bytes.into()),
        Compressed::Incompressible => None,
    };
    pages.iter().map(compress).collect()
}

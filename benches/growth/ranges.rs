//! With the ranges of guest memory: 1 to 64, of one VM or of a VM each.

use crate::growing::{Growing, doublings, each};
use crate::inputs::Noise;
use crate::measure::Table;

#[cfg(not(all(feature = "guest", target_os = "linux")))]
pub(crate) fn tables(_quick: bool) -> Vec<Table> {
    println!("Ranges of guest memory want `--features guest` and Linux.\n");
    vec![]
}

#[cfg(all(feature = "guest", target_os = "linux"))]
pub(crate) fn tables(quick: bool) -> Vec<Table> {
    [("Ranges of guest memory, of one VM", false), ("VMs, each with a range", true)]
        .map(|(title, apart)| table(title, apart, quick))
        .into()
}

#[cfg(all(feature = "guest", target_os = "linux"))]
fn table(title: &str, apart: bool, quick: bool) -> Table {
    use memmap2::MmapMut;
    use std::hint::black_box;
    use zspool::guest::memory::Memory;
    use zspool::guest::{Engine, FaultAround, VmOptions};
    use zspool::units::PAGE_SIZE;
    use zspool::zswap::Zswap;

    let pages = if quick { 1024 } else { 16_384 };
    let title = format!("{title}: {pages} pages of them all, by SIGBUS in the thread itself, one page a fault.");
    let costs = ["a way out, ns", "a fault, ns", "stats of a VM, ns", "evict 1 MiB of them all, us", "threads of ours"];
    let mut table = Growing::new(&title, if apart { "VMs" } else { "ranges" }, &costs);
    for ranges in doublings(64) {
        let each_pages = pages / ranges;
        let mut memory: Vec<MmapMut> =
            (0..ranges).map(|_| MmapMut::map_anon(each_pages * PAGE_SIZE).expect("there is address space")).collect();
        let threads_before = threads();
        let engine = Engine::new(Zswap::builder().build().expect("an instance")).expect("a userfaultfd");
        let root = engine.root();
        let vms: Vec<_> = (0..if apart { ranges } else { 1 })
            .map(|k| {
                let group = root.mkdir(&format!("vm{k}")).expect("a fresh name");
                engine.vm(&group, VmOptions::new().fault_around(FaultAround::Off)).expect("a VM")
            })
            .collect();
        let regions: Vec<_> = (memory.iter_mut().enumerate())
            .map(|(k, range)| {
                let memory = Memory::anonymous(range.as_mut_ptr(), range.len());
                // SAFETY: the mapping is dropped after its region, at the end of this turn.
                unsafe { vms[k % vms.len()].register(memory) }.expect("plain memory")
            })
            .collect();
        for (k, range) in memory.iter_mut().enumerate() {
            for (n, page) in range.chunks_exact_mut(PAGE_SIZE).enumerate() {
                page[..8].copy_from_slice(&(((k * each_pages + n) as u64) << 8 | 1).to_le_bytes());
                page[100..108].copy_from_slice(&(n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
            }
        }
        let order = Noise(3).shuffled(pages);
        let place = |k: usize| (order[k] % ranges, order[k] / ranges);
        let out = each(pages, |k| {
            let (range, page) = place(k);
            regions[range].evict(page * PAGE_SIZE..(page + 1) * PAGE_SIZE);
        });
        let fault = each(pages, |k| {
            let (range, page) = place(k);
            assert_eq!(memory[range][page * PAGE_SIZE], 1, "page {page} of range {range}");
        });
        let stats = each(2000, |k| drop(black_box(vms[k % vms.len()].stats())));
        let evict = each(4, |_| {
            black_box(engine.evict(&root, 1 << 20));
        });
        table.row(ranges, &[out, fault, stats, evict / 1e3, (threads() - threads_before) as f64]);
        for region in regions {
            region.unregister().map_err(|(_, error)| error).expect("all pages come back");
        }
        drop(vms);
    }
    table.end()
}

/// Threads of this process.
#[cfg(all(feature = "guest", target_os = "linux"))]
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

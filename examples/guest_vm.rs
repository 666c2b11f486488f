//! The smallest embedder of guest memory: register a range, set a limit, work in it, look at the statistics, unregister.
//!
//! ```text
//!   64 MiB of ours   [ p0 p1 p2 ...                              ]     read and written as ever
//!                       |                    ^
//!                       | memory.max: 16 MiB | touched: SIGBUS, and it is there
//!                       v                    |
//!                    compressed, 1 byte in 20 of what it was
//! ```
//!
//! Needs no root: only the program's own threads touch the memory.
//!
//! Run it: `cargo run --release --features guest --example guest_vm`

use memmap2::MmapMut;
use std::error::Error;
use zspool::guest::memory::Memory;
use zspool::guest::{Engine, VmOptions};
use zspool::memcg::Counter;
use zspool::zswap::Zswap;

const BYTES: usize = 64 << 20;
const LIMIT: u64 = 16 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    // The memory is the embedder's, however it is mapped.
    let mut ram = MmapMut::map_anon(BYTES)?;

    let engine = Engine::new(Zswap::builder().pool_limit(64 << 20).build()?)?; // a .swapfile(path, bytes) for what is colder still
    let group = engine.root().mkdir("vm0")?; // limits and counters of one VM; groups of VMs are memcgs above it
    group.set_max(Counter::Memory, LIMIT)?;
    let vm = engine.vm(&group, VmOptions::new())?;
    // SAFETY: `ram` stays mapped as it is until `unregister` below; an early return unregisters `region` before it unmaps `ram`.
    let region = unsafe { vm.register(Memory::anonymous(ram.as_mut_ptr(), BYTES)) }?;

    // Work: nothing here knows that pages leave and come back.
    for (k, page) in ram.chunks_exact_mut(4096).enumerate() {
        for (at, byte) in page.iter_mut().enumerate() {
            *byte = (k + at / 128) as u8;
        }
        page[..8].copy_from_slice(&(k as u64).to_le_bytes());
    }
    let sum = (ram.chunks_exact(4096))
        .fold(0u64, |sum, page| sum.wrapping_mul(31) ^ u64::from(page[0]) ^ u64::from(page[4095]));
    println!("{} MiB were written and read in {} MiB; their sum is {sum:#x}.", BYTES >> 20, LIMIT >> 20);
    for (k, page) in ram.chunks_exact(4096).enumerate() {
        assert_eq!(page[..8], (k as u64).to_le_bytes(), "page {k}");
    }

    println!("memory.current {} of memory.max {}", group.current(Counter::Memory), group.max(Counter::Memory));
    let stats = vm.stats();
    let faults = stats.fault_nanos();
    println!(
        "{} bytes resident, {} staged, {} compressed into {}",
        stats.resident, stats.staged, stats.compressed, stats.compressed_into
    );
    println!(
        "{} faults, half of them within {} ns, 99 of 100 within {} ns",
        faults.count(),
        faults.p50(),
        faults.p99()
    );
    assert!(group.current(Counter::Memory) <= LIMIT);

    // All of it comes in again, past no limit that there is now.
    group.set_max(Counter::Memory, u64::MAX)?;
    region.unregister().map_err(|(_, error)| error)?;
    assert!(ram.chunks_exact(4096).enumerate().all(|(k, page)| page[..8] == (k as u64).to_le_bytes()));
    println!("unregistered: the memory is as it was, and all in place");
    Ok(())
}

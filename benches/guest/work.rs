//! What the store does for a fault besides the codec: find the object, read it, empty the slot, give its place and its charge back.
//!
//! ```text
//!   zswap:  try_load + put of slots in random order        log:  the same pages, decoded from where they were appended
//! ```
//!
//! Both are cold, and take turns a page each; the difference of the medians is the store's own work.

use super::clock::Clock;
use super::floor::Log;
use super::samples::Samples;
use crate::inputs::Noise;
use zspool::compress::Context;
use zspool::guest::Engine;
use zspool::guest::own_work::Unbacked;
use zspool::units::{NodeId, Page};
use zspool::zswap::Zswap;

/// What was timed, per page.
#[derive(Default)]
pub(crate) struct Work {
    /// Decoding from the log.
    pub(crate) log: Samples,
    /// `try_load` alone.
    pub(crate) load: Samples,
    /// `put` alone, after it.
    pub(crate) put: Samples,
    /// A store, its charge taken along.
    pub(crate) swap_out: Samples,
    /// The codec with its copy into the log.
    pub(crate) append: Samples,
}

/// Each page `copies` times: what is looked up is then as cold as in a large machine.
pub(crate) fn measure(clock: &Clock, input: &[Page], rounds: usize, copies: usize) -> Work {
    let zswap = Zswap::builder().build().expect("an instance without a device");
    let group = zswap.root().mkdir("group").expect("a fresh name");
    group.set_max(zspool::memcg::Counter::Memory, 64 << 30).expect("it is online");
    let vm = group.mkdir("vm").expect("a fresh name");
    let slots = zswap.reserve((input.len() * copies) as u64).expect("slots without end");
    let mut context = Context::new();
    let (mut work, mut noise, mut to) = (Work::default(), Noise(11), Page::zeroed());
    let page = |k: usize| &input[k % input.len()];
    for _ in 0..rounds {
        let mut log = Log::new(input.len() * copies);
        // Each page once by one of the two: a page compressed a moment ago is quicker the second time.
        for k in noise.shuffled(input.len() * copies) {
            if noise.below(2) == 0 {
                work.append.push(clock.time(|| log.compress(&mut context, k, page(k))));
                continue;
            }
            let mut resident = Some(vm.charge_resident(4096).expect("no limit is near"));
            work.swap_out.push(clock.time(|| {
                let resident = resident.take().expect("once");
                _ = zswap.swap_out(slots.base() + k as u64, resident, NodeId(0), page(k)).expect("the pool has room");
            }));
        }
        for k in 0..input.len() * copies {
            let slot = slots.base() + k as u64;
            match zswap.is_stored(slot) {
                true => log.compress(&mut context, k, page(k)),
                false => _ = zswap.store(slot, &vm, NodeId(0), page(k)).expect("the pool has room"),
            }
        }
        for k in noise.shuffled(input.len() * copies) {
            let slot = slots.base() + k as u64;
            if noise.below(2) == 0 {
                work.log.push(clock.time(|| log.take(k, &mut to)));
                assert!(to.0 == page(k).0);
                zswap.free(slot);
                continue;
            }
            work.load.push(clock.time(|| zswap.try_load(slot, &mut to).expect("it was stored")));
            work.put.push(clock.time(|| _ = zswap.put(slot).expect("it was stored")));
            assert!(to.0 == page(k).0);
        }
    }
    work
}

/// A whole fault but for the signal and the kernel: `own`, with the codec; `log`, the codec alone. In turns, a page each.
pub(crate) fn fault(clock: &Clock, input: &[Page], rounds: usize) -> Result<(Samples, Samples), String> {
    let zswap = Zswap::builder().build().map_err(|error| error.to_string())?;
    let group = zswap.root().mkdir("group").map_err(|error| error.to_string())?;
    let memcg = group.mkdir("vm").map_err(|error| error.to_string())?;
    memcg.set_max(zspool::memcg::Counter::Memory, 64 << 30).map_err(|error| error.to_string())?;
    let engine = Engine::builder(zswap).evictor(false).build().map_err(|error| error.to_string())?;
    let region = Unbacked::new(&engine, &memcg, input.into()).map_err(|error| error.to_string())?;
    let (mut own, mut alone, mut noise, mut page) = (Samples::default(), Samples::default(), Noise(13), Page::zeroed());
    for _ in 0..rounds {
        region.evict();
        let (mut log, mut context) = (Log::new(input.len()), Context::new());
        for (k, page) in input.iter().enumerate() {
            log.compress(&mut context, k, page);
        }
        for k in noise.shuffled(input.len()) {
            if noise.below(2) == 0 {
                alone.push(clock.time(|| log.take(k, &mut page)));
                region.fault(k as u32);
            } else {
                own.push(clock.time(|| region.fault(k as u32)));
            }
        }
    }
    Ok((own, alone))
}

//! Administrators: threads that change limits, groups and devices, and have things compacted, cleaned, written back and looked at.

use crate::Random;
use crate::device::Troubled;
use crate::execution::note;
use crate::system::System;
use zspool::memcg::{Cancel, Counter, Memcg};
use zspool::units::{NodeId, NodeMask};
use zspool::zswap::SwapoffError;

/// Something an administrator does again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Set limits, marks and protections.
    Limit,
    /// Remove a group and make another one in its place.
    Replace,
    /// Compact.
    Compact,
    /// Have some entries written back.
    Shrink,
    /// Ask for bytes by text.
    Reclaim,
    /// Clean devices.
    Clean,
    /// Move objects to another tier.
    Demote,
    /// Take a device off, and put it on again.
    Swapoff,
    /// Reinstate devices, and have what hangs go on.
    Heal,
    /// Bring pages into the pool.
    Prefetch,
    /// Do what the worker does.
    Work,
    /// Narrow the nodes of a group, and widen them.
    Nodes,
    /// Turn writeback off and on, and tiers.
    Writeback,
    /// Push pages of guests out.
    Evict,
    /// Read what there is to read.
    Look,
}

const DUTIES: [Duty; 15] = [
    Duty::Limit,
    Duty::Replace,
    Duty::Compact,
    Duty::Shrink,
    Duty::Reclaim,
    Duty::Clean,
    Duty::Demote,
    Duty::Swapoff,
    Duty::Heal,
    Duty::Prefetch,
    Duty::Work,
    Duty::Nodes,
    Duty::Writeback,
    Duty::Evict,
    Duty::Look,
];

impl Duty {
    /// Those of one administrator.
    pub fn some(random: &mut Random) -> Vec<Duty> {
        (0..random.from(2..8)).map(|_| random.pick(&DUTIES)).collect()
    }
}

/// One thread.
pub struct Administrator<'a> {
    system: &'a System,
    duties: &'a [Duty],
    random: Random,
}

impl<'a> Administrator<'a> {
    /// One with these duties.
    pub fn new(system: &'a System, duties: &'a [Duty], random: Random) -> Self {
        Administrator { system, duties, random }
    }

    /// So many operations.
    pub fn run(mut self, operations: u64) {
        for _ in 0..operations {
            let duty = self.random.pick(self.duties);
            self.perform(duty);
        }
    }

    fn perform(&mut self, duty: Duty) {
        let (system, zswap) = (self.system, self.system.zswap());
        match duty {
            Duty::Limit => self.limit(),
            Duty::Replace => self.replace(),
            Duty::Compact => {
                let won = zswap.compact(self.random.pick(&[4096, 1 << 20, u64::MAX])).frames_won();
                system.reach("frames won by compaction", won);
                note(won);
            }
            Duty::Shrink => {
                let memcg = system.any_memcg(&mut self.random);
                let nr = 1 + self.random.index(16);
                _ = zswap.shrink_memcg(&memcg, nr);
            }
            Duty::Reclaim => {
                let memcg = system.any_memcg(&mut self.random);
                let text = self.random.pick(&["16K", "64K source=zswap", "1M", "8K swappiness=0", "32K source=anon"]);
                let done = memcg.write_file("memory.reclaim", text).is_ok();
                system.reach("requests for bytes that were met", done.into());
                note(done.into());
            }
            Duty::Clean => {
                let cleaned = zswap.clean(self.random.pick(&[4096, 1 << 20]));
                system.reach("bytes cleaned", cleaned.moved_bytes);
            }
            Duty::Demote => {
                let memcg = system.any_memcg(&mut self.random);
                let tier = self.random.pick(&["tier1", "tier2"]);
                if let Ok(demoted) = zswap.demote(&memcg, tier, 32 << 10, &Cancel::new()) {
                    system.reach("objects moved to another tier", demoted.objects);
                }
            }
            Duty::Swapoff => self.swapoff(),
            Duty::Heal => {
                for (number, device) in system.devices() {
                    _ = zswap.reinstate(number);
                    system.reach("requests that hung", device.release() as u64);
                }
            }
            Duty::Prefetch => {
                let done = zswap.prefetch(system.slots);
                system.reach("pages prefetched", done.pages);
                note(done.pages);
            }
            Duty::Work if system.plan.worker => _ = zswap.relieve(1),
            Duty::Work => _ = zswap.work_once(),
            Duty::Nodes => {
                let memcg = system.any_memcg(&mut self.random);
                let all = NodeMask::first(system.plan.nodes);
                let one = NodeMask::only(NodeId(self.random.index(system.plan.nodes) as u8));
                let mask = if self.random.one_in(2) { all } else { one };
                let done = zswap.set_nodes(&memcg, mask).is_ok();
                system.reach("nodes set", done.into());
            }
            Duty::Writeback => {
                let memcg = system.any_memcg(&mut self.random);
                let on = !self.random.one_in(3);
                _ = memcg.set_writeback(on);
                _ = memcg.set_tier("tier1", !self.random.one_in(4));
            }
            Duty::Evict => {
                if let Some(guest) = system.any_guest(&mut self.random) {
                    let first = self.random.below(guest.plan.pages.into()) as u32;
                    let pages = (1 + self.random.below(16) as u32).min(guest.plan.pages - first);
                    let won = guest.model.evict(first, pages);
                    system.reach("bytes won from guests by hand", won);
                }
            }
            Duty::Look => self.look(),
        }
    }

    fn limit(&mut self) {
        let system = self.system;
        let Some((group, memcg)) = system.any_group_below(&mut self.random) else { return };
        let bytes = match self.random.below(4) {
            0 => u64::MAX,
            _ => 4096 * self.random.below(48),
        };
        let zswap = system.zswap();
        let done = match self.random.below(6) {
            0 | 1 => group.set(&memcg, Counter::Zswap, || match self.random.one_in(2) {
                true => zswap.set_zswap_max(&memcg, bytes).is_ok(),
                false => memcg.set_max(Counter::Zswap, bytes).is_ok(),
            }),
            2 | 3 => group.set(&memcg, Counter::Memory, || match self.random.one_in(2) {
                true => memcg.write_file("memory.max", &text(bytes)).is_ok(),
                false => memcg.set_max(Counter::Memory, bytes).is_ok(),
            }),
            4 => group.set(&memcg, Counter::Swap, || memcg.set_max(Counter::Swap, bytes).is_ok()),
            _ => memcg.write_file(self.random.pick(&["memory.high", "memory.low", "memory.min"]), &text(bytes)).is_ok(),
        };
        system.reach("limits set", done.into());
        note(done.into());
    }

    /// Remove a group, if it can be, and make another one of its name.
    fn replace(&mut self) {
        let system = self.system;
        let at = 1 + self.random.index(system.plan.parents.len());
        let memcg = system.memcg(at);
        if memcg.parent().is_none() || system.zswap().offline(&memcg).is_err() {
            return;
        }
        system.reach("groups removed", 1);
        system.make_group(at);
    }

    fn swapoff(&mut self) {
        let system = self.system;
        let devices = system.devices();
        if devices.is_empty() {
            return;
        }
        let (number, device) = devices[self.random.index(devices.len())].clone();
        let (cancel, mut left) = (Cancel::new(), self.random.below(12));
        let done = system.zswap().swapoff(number, &cancel, |_| {
            left = left.saturating_sub(1);
            if left == 0 {
                cancel.cancel();
            }
        });
        match done {
            Ok(report) => {
                system.reach("devices removed", 1);
                system.reach("pages moved off devices", report.to_pool + report.to_devices);
                assert!(report.lost == 0 || system.costs.pages, "no device of this run loses anything: {report:?}");
                note(report.touched);
                system.forget_device(number);
                // Another one, with nothing on it.
                let fresh = Troubled::new(device.plan());
                if !device.is_well() {
                    fresh.go_wrong(&mut self.random);
                }
                system.add_device(fresh);
            }
            Err(SwapoffError::Cancelled { .. }) => system.reach("swapoffs called off", 1),
            Err(SwapoffError::NoRoom { .. }) => system.reach("swapoffs without room", 1),
            Err(SwapoffError::UnderWay { .. } | SwapoffError::Device(_)) => {} // somebody else has it
            Err(error @ SwapoffError::Unreadable { .. }) => {
                assert!(system.costs.patience, "every device of this run answers: {error}");
            }
            Err(other) => panic!("{other}"),
        }
    }

    fn look(&mut self) {
        let system = self.system;
        let memcg: Memcg = system.any_memcg(&mut self.random);
        for file in ["memory.stat", "memory.current", "memory.pressure", "memory.zswap.current"] {
            let text = memcg.read_file(file);
            assert!(text.is_ok() || !memcg.is_online(), "{file}: {text:?}");
        }
        _ = system.zswap().stats();
        _ = system.zswap().metadata();
        _ = system.zswap().devices();
        system.check_limits(false);
    }
}

fn text(bytes: u64) -> String {
    if bytes == u64::MAX { "max".to_owned() } else { bytes.to_string() }
}

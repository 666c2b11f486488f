//! A VM's numbers, gathered: what its meter counted, what its slots hold, how old its stamps are.

use super::{Ages, VmStats};
use crate::guest::pages::bits::State;
use crate::guest::{Engine, Vm};
use crate::units::{PAGE_SIZE, SlotRange};
use crate::zswap::Holdings;
use std::time::Duration;

const PAGE: u64 = PAGE_SIZE as u64;

impl Vm {
    /// Its numbers now. Looks at the slots of all its regions: a few nanoseconds for each that was ever stored to. What its memcg holds
    /// for others is in `compressed_into` and `on_device_into` too, if it is not the VM's alone.
    pub fn stats(&self) -> VmStats {
        let Some(enrolled) = self.enrolled() else { return VmStats::default() };
        let mut holdings = Holdings::default();
        for n in 0.. {
            let Some(pages) = self.pages(n) else { break };
            holdings += self.zswap().holdings(SlotRange::new(pages.slot(0), pages.count().into()));
        }
        let mut stats = enrolled.tenant.meter().snapshot();
        // A kept copy's page is in memory: it is counted there.
        stats.compressed = (holdings.pool * PAGE).saturating_sub(stats.kept);
        stats.on_device = holdings.device * PAGE;
        stats.same_filled = holdings.same_filled * PAGE;
        stats.overshoot_bytes = enrolled.tenant.account().overshoot();
        if let Ok(stat) = self.memcg().stat() {
            stats.compressed_into = stat.bytes.compressed;
            stats.on_device_into = self.memcg().current(crate::memcg::Counter::Swap);
        }
        stats
    }

    /// How cold it is: bytes by the time since they moved. Looks at the words of all pages, a nanosecond or two each.
    pub fn ages(&self) -> Ages {
        let mut ages = Ages::default();
        let Some(enrolled) = self.enrolled() else { return ages };
        let account = enrolled.tenant.account();
        let now = account.now();
        for n in 0.. {
            let Some(pages) = self.pages(n) else { break };
            for page in 0..pages.count() {
                let bits = pages.word(page).load();
                let in_memory = match bits.state() {
                    State::Absent | State::Dropping | State::Poisoned => continue,
                    State::Resident | State::Leaving | State::Staged | State::Compressing | State::Filling => true,
                    State::Stored => false,
                };
                ages.add(in_memory, account.epochs().age(bits.stamp(), now).map(Duration::from_millis), PAGE);
            }
        }
        ages
    }

    /// Its engine.
    pub fn engine(&self) -> Option<&Engine> {
        self.enrolled().map(|enrolled| &enrolled.engine)
    }
}

//! [`EngineControl`]: an engine that answers.

use super::json::Json;
use super::verb::{Controlled, Verb};
use crate::guest::stats::{FaultKind, VmStats};
use crate::guest::{Engine, Error, Vm};
use crate::memcg::Memcg;
use crate::sync::Clock;
use std::collections::BTreeMap;

/// Bytes a page of a report is.
const PAGE: u64 = crate::units::PAGE_SIZE as u64;

/// Answers for an engine. It keeps the engine alive.
#[derive(Clone)]
pub struct EngineControl {
    engine: Engine,
    program: String,
    /// When it was made.
    clock: Clock,
    start_ms: u64,
}

// === impl EngineControl ===

impl EngineControl {
    /// For an engine in a program of that name.
    pub fn new(engine: Engine, program: &str) -> Self {
        let clock = Clock::coarse();
        let start_ms = clock.millis();
        EngineControl { engine, program: program.to_owned(), clock, start_ms }
    }

    fn status(&self) -> String {
        let zswap = self.engine.zswap();
        let stats = zswap.stats();
        Json::build(|json| {
            json.number("pid", std::process::id().into())
                .text("program", &self.program)
                .number("uptime_ms", self.clock.millis().saturating_sub(self.start_ms))
                .text("policy", self.engine.policy());
            json.list("vms", |vms| {
                for vm in self.engine.vms() {
                    vms.object(|json| status_of(&vm, json));
                }
            });
            json.map("pool", |pool| {
                pool.number("frame_bytes", stats.backed_bytes)
                    .number("payload", stats.pool.payload_bytes)
                    .number("metadata", stats.pool.metadata_bytes + stats.slot_table_bytes)
                    .number("compressed_pages", stats.compressed_pages + stats.incompressible_pages)
                    .number("same_filled_pages", stats.same_filled_pages + stats.pattern_pages);
            });
            json.list("devices", |devices| {
                for device in zswap.devices() {
                    devices.object(|json| {
                        json.text("name", &device.name)
                            .text("tier", &device.tier)
                            .number("size", device.area.size_bytes)
                            .number("used", device.area.used_bytes)
                            .number("live", device.area.live_bytes)
                            .number("written", device.area.written_bytes)
                            .number("read", device.area.read_bytes)
                            .number("io_errors", device.area.io_errors);
                    });
                }
            });
        })
    }

    /// Everything out.
    fn out(&self) -> Result<String, String> {
        let (mut pages, mut stayed, mut refused, mut written) = (0, 0, 0, 0);
        for vm in self.engine.vms() {
            let out = vm.evict_all();
            (pages, stayed, refused) = (pages + out.pages, stayed + out.stayed, refused + out.refused);
            let pooled = vm.stats().compressed_into;
            if !self.engine.zswap().devices().is_empty() && pooled > 0 {
                let before = vm.stats().on_device_into;
                // What the devices have no room for stays where it is; that is told by the numbers.
                let _ = vm.memcg().write_file("memory.reclaim", &format!("{pooled} source=zswap"));
                written += vm.stats().on_device_into.saturating_sub(before);
            }
        }
        Ok(Json::build(|json| {
            json.number("out", pages * PAGE).number("stayed", stayed * PAGE);
            json.number("refused", refused * PAGE).number("written", written);
        }))
    }

    /// Everything in that is out, as far as limits have it: what is over them goes out again.
    fn back(&self) -> Result<String, String> {
        let mut bytes = 0u64;
        for vm in self.engine.vms() {
            let before = vm.stats().resident;
            for pages in vm.shared().regions.all() {
                match pages.bring_back(0..pages.count()) {
                    // What is not mapped any more is not out either.
                    Ok(()) | Err(Error::Gone { .. }) => (),
                    Err(error) => return Err(format!("{error}.")),
                }
            }
            bytes += vm.stats().resident.saturating_sub(before);
        }
        Ok(Json::build(|json| {
            json.number("in", bytes);
        }))
    }

    /// What nobody needs goes back.
    fn trim(&self) -> Result<String, String> {
        let zswap = self.engine.zswap();
        let before = zswap.stats().backed_bytes;
        let mut compressed = 0;
        for vm in self.engine.vms() {
            let staged = (vm.stats().staged / PAGE).try_into().unwrap_or(u32::MAX);
            compressed += u64::from(vm.shared().compress_staged(staged).pages);
        }
        let packed = zswap.pool().compact(u64::MAX);
        Ok(Json::build(|json| {
            json.number("compressed", compressed * PAGE)
                .number("pool_frames_freed", packed.frames_freed)
                .number("pool_frame_bytes_before", before)
                .number("pool_frame_bytes", zswap.stats().backed_bytes);
        }))
    }

    /// The memcg that a verb without a name means.
    fn memcg(&self) -> Result<Memcg, String> {
        let mut memcgs: Vec<Memcg> = self.engine.vms().iter().map(|vm| vm.memcg().clone()).collect();
        memcgs.dedup();
        match <[Memcg; 1]>::try_from(memcgs) {
            Ok([memcg]) => Ok(memcg),
            Err(several) => Err(format!(
                "This process has {} groups with VMs, and the verb is for one: use the control files of each.",
                several.len()
            )),
        }
    }

    /// Write to a control file; what it was before and is now.
    fn write(&self, file: &str, text: &str) -> Result<String, String> {
        let memcg = self.memcg()?;
        let read = || memcg.read_file(file).unwrap_or_default().trim().to_owned();
        let before = read();
        memcg.write_file(file, text).map_err(|error| format!("{error}."))?;
        Ok(Json::build(|json| {
            json.text("file", file).text("before", &before).text("now", &read());
            json.number("memory_current", charged(&self.engine));
        }))
    }

    fn reclaim(&self, text: &str) -> Result<String, String> {
        let memcg = self.memcg()?;
        let used = || charged(&self.engine);
        let before = used();
        memcg.write_file("memory.reclaim", text).map_err(|error| format!("{error}."))?;
        let now = used();
        Ok(Json::build(|json| {
            json.number("reclaimed", before.saturating_sub(now)).number("memory_current", now);
        }))
    }
}

/// What the VMs have in memory, and what their groups have compressed: several may be in one.
fn charged(engine: &Engine) -> u64 {
    let (mut bytes, mut groups) = (0, BTreeMap::new());
    for vm in engine.vms() {
        let stats = vm.stats();
        bytes += stats.resident + stats.staged;
        groups.insert(vm.memcg().id(), stats.compressed_into);
    }
    bytes + groups.into_values().sum::<u64>()
}

impl Controlled for EngineControl {
    fn answer(&self, verb: Verb) -> Result<String, String> {
        match verb {
            Verb::Status => Ok(self.status()),
            Verb::Out => self.out(),
            Verb::In => self.back(),
            Verb::Trim => self.trim(),
            Verb::Reclaim(text) => self.reclaim(&text),
            Verb::Limit(text) => self.write("memory.max", &text),
            Verb::High(text) => self.write("memory.high", &text),
        }
    }
}

/// A VM's numbers.
fn status_of(vm: &Vm, json: &mut Json) {
    let stats = vm.stats();
    let limit = |file| vm.memcg().read_file(file).ok().and_then(|text| text.trim().parse().ok());
    let regions = vm.regions();
    json.text("name", &vm.memcg().path())
        .perhaps("memory_max", limit("memory.max"))
        .perhaps("memory_high", limit("memory.high"))
        .number("memory_current", stats.charged())
        .number("regions", regions.len() as u64)
        .number("registered", regions.iter().map(|region| region.addresses.len() as u64).sum());
    numbers(&stats, json);
}

fn numbers(stats: &VmStats, json: &mut Json) {
    let bytes = [
        ("resident", stats.resident),
        ("staged", stats.staged),
        ("compressed", stats.compressed_into),
        ("out", stats.compressed + stats.on_device + stats.same_filled),
        ("out_compressed", stats.compressed),
        ("out_same_filled", stats.same_filled),
        ("out_on_device", stats.on_device),
        ("on_device", stats.on_device_into),
        ("poisoned", stats.poisoned),
        ("kept", stats.kept),
        ("pinned", stats.pinned),
        ("incompressible", stats.incompressible),
    ];
    let counts = [
        ("refault_distance_p50_pages", stats.refault_distance.p50()),
        ("taken_out_pages", stats.taken_out),
        ("put_away_pages", stats.put_away),
        ("put_away_clean_pages", stats.put_away_clean),
        ("wasted_pages", stats.wasted),
        ("refused_pages", stats.refused),
        ("put_back_pages", stats.put_back),
        ("unreadable_pages", stats.unreadable),
        ("around_pages", stats.around),
        ("busy_pages", stats.busy),
        ("again", stats.again),
        ("vanished_pages", stats.vanished),
        ("overshoot_bytes", stats.overshoot_bytes),
    ];
    json.numbers(&bytes);
    json.map("faults", |faults| {
        faults.number("total", stats.all_faults());
        for kind in FaultKind::ALL {
            faults.number(kind.name(), stats.faults_of(kind).count());
        }
    });
    let nanos = stats.fault_nanos();
    let some = |value| (nanos.count() > 0).then_some(value);
    json.perhaps("fault_p50_ns", some(nanos.p50()))
        .perhaps("fault_p99_ns", some(nanos.p99()))
        .perhaps("fault_p999_ns", some(nanos.p999()))
        .numbers(&counts);
}

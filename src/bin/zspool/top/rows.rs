//! [`Row`]: one VM, from two looks.

use super::look::Look;
use serde::Serialize;
use serde_json::Value;

/// What a line of the table says. Bytes, but for what is named otherwise.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Row {
    pub(crate) pid: u64,
    pub(crate) program: String,
    pub(crate) vm: String,
    /// None: no limit.
    pub(crate) memory_max: Option<u64>,
    /// What the limit counts.
    pub(crate) memory_current: u64,
    pub(crate) resident: u64,
    pub(crate) staged: u64,
    /// Taken by compressed pages.
    pub(crate) compressed: u64,
    /// Of the pages that are compressed, before.
    pub(crate) out: u64,
    pub(crate) on_device: u64,
    /// In memory, found not to shrink.
    pub(crate) incompressible: u64,
    pub(crate) faults: u64,
    /// None: the process was not there at the first look.
    pub(crate) faults_per_second: Option<f64>,
    pub(crate) p99_ns: Option<u64>,
}

/// All VMs of the second look.
pub(crate) fn rows(before: &[Look], now: &[Look]) -> Vec<Row> {
    now.iter().flat_map(|look| vms(&look.status).iter().map(|vm| row(before, look, vm))).collect()
}

fn vms(status: &Value) -> &[Value] {
    status["vms"].as_array().map_or(&[], Vec::as_slice)
}

fn row(before: &[Look], look: &Look, vm: &Value) -> Row {
    let number = |key: &str| vm[key].as_u64().unwrap_or(0);
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let faults = |vm: &Value| vm["faults"]["total"].as_u64().unwrap_or(0);
    let same = before.iter().find(|old| old.pid == look.pid).and_then(|old| {
        let earlier = vms(&old.status).iter().find(|other| other["name"] == vm["name"])?;
        let seconds = look.when.duration_since(old.when).as_secs_f64();
        // Another program by the same number, after an exec, has fewer.
        Some(faults(vm).checked_sub(faults(earlier))? as f64 / seconds.max(1e-6))
    });
    Row {
        pid: look.pid,
        program: text(&look.status["program"]),
        vm: text(&vm["name"]),
        memory_max: vm["memory_max"].as_u64(),
        memory_current: number("memory_current"),
        resident: number("resident"),
        staged: number("staged"),
        compressed: number("compressed"),
        out: number("out"),
        on_device: number("on_device"),
        incompressible: number("incompressible"),
        faults: faults(vm),
        faults_per_second: same,
        p99_ns: vm["fault_p99_ns"].as_u64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::{Duration, Instant};

    #[test]
    fn rates_are_of_two_looks_at_one_process() {
        let start = Instant::now();
        let look = |pid, seconds, faults: u64| Look {
            pid,
            when: start + Duration::from_secs(seconds),
            status: json!({"program": "p", "vms": [
                {"name": "a", "memory_max": 8192, "memory_current": 10, "resident": 4096, "faults": {"total": faults}, "fault_p99_ns": 7},
                {"name": "b", "memory_max": null}]}),
        };
        let found = rows(&[look(1, 0, 100), look(3, 0, 5000)], &[look(1, 2, 150), look(2, 2, 9), look(3, 2, 10)]);
        let rates: Vec<_> = found.iter().map(|row| (row.pid, row.vm.as_str(), row.faults_per_second)).collect();
        let expected = [
            (1, "a", Some(25.0)),
            (1, "b", Some(0.0)),
            (2, "a", None),
            (2, "b", None),
            (3, "a", None),
            (3, "b", Some(0.0)),
        ];
        assert_eq!(rates, expected);
        assert_eq!((found[0].memory_max, found[0].p99_ns, found[0].resident), (Some(8192), Some(7), 4096));
        assert_eq!((found[1].memory_max, found[1].p99_ns), (None, None));
    }
}

//! What the files say: texts in cgroup v2's formats.

use super::super::counter::{Counter, NO_LIMIT};
use super::super::error::Error;
use super::super::event::MemcgEvent;
use super::super::handle::Memcg;
use super::super::stat::{Bytes4, Event};
use super::super::tiers::TierName;
use crate::units::{PAGE_SIZE, TierMask};

pub(super) type Text = Result<String, Error>;

/// A line of its own for each value, as flat-keyed files have it.
fn keyed(lines: &[(&str, u64)]) -> String {
    lines.iter().map(|(name, value)| format!("{name} {value}\n")).collect()
}

fn limit(limit: u64) -> Text {
    Ok(match limit {
        NO_LIMIT => "max\n".to_owned(),
        limit => format!("{limit}\n"),
    })
}

pub(super) fn stat(memcg: &Memcg) -> Text {
    let stat = memcg.stat()?;
    let Bytes4 { compressed, original, payload, incompressible } = stat.bytes;
    Ok(keyed(&[
        ("anon", stat.resident),
        ("zswap", compressed),
        ("zswapped", original),
        ("zswap_incomp", incompressible / PAGE_SIZE as u64),
        ("zswpin", stat.events(Event::ZswpIn)),
        ("zswpout", stat.events(Event::ZswpOut)),
        ("zswpwb", stat.events(Event::ZswpWb)),
        ("zswpwb_bytes", stat.events(Event::ZswpWbBytes)),
        ("zswpwb_proactive_b", stat.events(Event::ZswpWbProactiveBytes)),
        ("zswap_payload", payload),
        ("zswap_refused", stat.events(Event::Refused)),
    ]))
}

pub(super) fn numa_stat(memcg: &Memcg) -> Text {
    let nodes = memcg.numa_stat()?;
    let line = |name: &str, value: fn(&Bytes4) -> u64| {
        let values = nodes.iter().enumerate().map(|(node, bytes)| format!(" N{node}={}", value(bytes)));
        format!("{name}{}\n", values.collect::<String>())
    };
    Ok([
        line("zswap", |bytes| bytes.compressed),
        line("zswapped", |bytes| bytes.original),
        line("zswap_incomp", |bytes| bytes.incompressible),
        line("zswap_payload", |bytes| bytes.payload),
    ]
    .concat())
}

fn current(memcg: &Memcg, counter: Counter) -> Text {
    Ok(format!("{}\n", memcg.current(counter)))
}

pub(super) fn memory_current(memcg: &Memcg) -> Text {
    current(memcg, Counter::Memory)
}

pub(super) fn zswap_current(memcg: &Memcg) -> Text {
    current(memcg, Counter::Zswap)
}

pub(super) fn swap_current(memcg: &Memcg) -> Text {
    current(memcg, Counter::Swap)
}

pub(super) fn memory_max(memcg: &Memcg) -> Text {
    limit(memcg.max(Counter::Memory))
}

pub(super) fn memory_low(memcg: &Memcg) -> Text {
    limit(memcg.low())
}

pub(super) fn memory_min(memcg: &Memcg) -> Text {
    limit(memcg.min())
}

pub(super) fn memory_high(memcg: &Memcg) -> Text {
    limit(memcg.high())
}

pub(super) fn zswap_max(memcg: &Memcg) -> Text {
    limit(memcg.max(Counter::Zswap))
}

pub(super) fn swap_max(memcg: &Memcg) -> Text {
    limit(memcg.max(Counter::Swap))
}

pub(super) fn writeback(memcg: &Memcg) -> Text {
    Ok(if memcg.own_writeback() { "1\n" } else { "0\n" }.to_owned())
}

pub(super) fn nodes(memcg: &Memcg) -> Text {
    Ok(format!("{}\n", memcg.own_nodes()))
}

pub(super) fn effective_nodes(memcg: &Memcg) -> Text {
    Ok(format!("{}\n", memcg.nodes()))
}

pub(super) fn tiers(memcg: &Memcg) -> Text {
    let line = |(tier, _): (TierName, bool)| match tier.priority {
        Some(priority) => format!("{} {priority}\n", tier.name),
        None => format!("{} -\n", tier.name),
    };
    Ok(memcg.tiers_in(TierMask::ALL).into_iter().map(line).collect())
}

fn tiers_allowed(memcg: &Memcg, mask: TierMask) -> Text {
    let line = |(tier, allowed): (TierName, bool)| format!("{} {}\n", tier.name, if allowed { "max" } else { "0" });
    Ok(memcg.tiers_in(mask).into_iter().map(line).collect())
}

pub(super) fn own_tiers(memcg: &Memcg) -> Text {
    tiers_allowed(memcg, memcg.own_tiers())
}

pub(super) fn effective_tiers(memcg: &Memcg) -> Text {
    tiers_allowed(memcg, memcg.tiers())
}

/// The kernel's lines, those that cannot happen here at 0: readers expect them.
fn memory_events(of: impl Fn(MemcgEvent) -> u64) -> Text {
    Ok(keyed(&[
        ("low", of(MemcgEvent::Low)),
        ("high", of(MemcgEvent::High)),
        ("max", of(MemcgEvent::Max)),
        ("oom", of(MemcgEvent::Oom)),
        ("oom_kill", 0),
        ("oom_group_kill", 0),
        ("overshoot", of(MemcgEvent::Overshoot)),
    ]))
}

pub(super) fn events(memcg: &Memcg) -> Text {
    memory_events(|event| memcg.events(event))
}

pub(super) fn local_events(memcg: &Memcg) -> Text {
    memory_events(|event| memcg.local_events(event))
}

pub(super) fn swap_events(memcg: &Memcg) -> Text {
    let of = |event| memcg.events(event);
    Ok(keyed(&[("high", 0), ("max", of(MemcgEvent::SwapMax)), ("fail", of(MemcgEvent::SwapFail))]))
}

pub(super) fn pressure(memcg: &Memcg) -> Text {
    Ok(memcg.stall_times().to_string())
}

/// No process lives in a memcg of ours, whatever its embedder is.
pub(super) fn procs(_: &Memcg) -> Text {
    Ok(String::new())
}

pub(super) fn controllers(_: &Memcg) -> Text {
    Ok("memory\n".to_owned())
}

pub(super) fn cgroup_events(_: &Memcg) -> Text {
    Ok(keyed(&[("populated", 0), ("frozen", 0)]))
}

pub(super) fn cgroup_stat(memcg: &Memcg) -> Text {
    let (online, dying) = memcg.descendants()?;
    Ok(keyed(&[("nr_descendants", online), ("nr_dying_descendants", dying)]))
}

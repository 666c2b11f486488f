//! The devices as a table like that of `swapon --show`, and sentences for what is beside it.

use super::report::{DeviceRow, Metadata, Swap, Swapoff, SwapoffEnd};
use crate::size::{human, human_ns};
use crate::table::Table;
use std::fmt::{self, Write};

fn bytes(n: u64) -> String {
    human(n.into())
}

/// A share in percent; where there is nothing to share, a dash.
fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => "-".to_owned(),
        _ => format!("{:.0}%", part as f64 * 100.0 / whole as f64),
    }
}

/// The devices, and below them what the slots name and where it lies.
pub(crate) fn show(swap: &Swap, f: &mut impl Write) -> fmt::Result {
    let mut table = Table::default();
    table.row(["NAME", "TIER", "PRIO", "STATE", "SIZE", "USED", "LIVE", "WRITTEN", "BAD"]);
    for row in &swap.devices {
        let DeviceRow {
            name, tier, priority, state, size_bytes, used_bytes, live_bytes, written_bytes, bad_bytes, ..
        } = row;
        table.row([
            name.clone(),
            tier.clone(),
            priority.to_string(),
            state.clone(),
            bytes(*size_bytes),
            bytes(*used_bytes),
            percent(*live_bytes, *used_bytes),
            bytes(*written_bytes),
            bytes(*bad_bytes),
        ]);
    }
    write!(f, "{table}")?;
    let Swap { slots, virtual_bytes, same_filled_slots, memory_slots, memory_bytes, physical_slots, metadata, .. } =
        swap;
    writeln!(
        f,
        "virtual    {slots} slots hold pages of {}; {same_filled_slots} of them repeat a word",
        bytes(*virtual_bytes)
    )?;
    writeln!(f, "memory     {memory_slots} compressed to {}", bytes(*memory_bytes))?;
    let (used, live) = (swap.used_bytes(), swap.live_bytes());
    write!(f, "physical   {physical_slots} in {} used, {} of it live; ", bytes(used), percent(live, used))?;
    writeln!(f, "{} written so far, {} bad", bytes(swap.written_bytes()), bytes(swap.bad_bytes()))?;
    show_metadata(metadata, *slots, f)
}

fn show_metadata(metadata: &Metadata, slots: u64, f: &mut impl Write) -> fmt::Result {
    let per_slot = |bytes: u64| format!("{:.1}", bytes as f64 / slots.max(1) as f64);
    let Metadata { word_bytes, link_bytes, count_bytes, directory_bytes, reverse_bytes } = *metadata;
    write!(f, "metadata   {} bytes a slot: ", per_slot(metadata.total()))?;
    let parts = [
        ("words", word_bytes),
        ("links", link_bytes),
        ("counts", count_bytes),
        ("directory", directory_bytes),
        ("reverse words", reverse_bytes),
    ];
    let parts =
        parts.iter().filter(|(_, bytes)| *bytes > 0).map(|&(what, bytes)| format!("{} {what}", per_slot(bytes)));
    writeln!(f, "{}", parts.collect::<Vec<_>>().join(", "))
}

/// A sentence for a swapoff.
pub(crate) fn show_swapoff(swapoff: &Swapoff, f: &mut impl Write) -> fmt::Result {
    let Swapoff { name, tier, moved_objects, moved_bytes, to_memory, left_objects, left_bytes, seconds, end, .. } =
        swapoff;
    let took = human_ns((seconds * 1e9) as u64);
    write!(f, "Swapoff of {tier} ({name}): {moved_objects} objects of {} moved in {took}", bytes(*moved_bytes))?;
    if *seconds > 0.0 && *moved_bytes > 0 {
        write!(f, " ({}/s)", bytes((*moved_bytes as f64 / seconds) as u64))?;
    }
    if let Some(to_memory) = to_memory.filter(|_| *moved_objects > 0) {
        write!(f, ", {to_memory} of them into memory")?;
    }
    if swapoff.lost_objects > 0 {
        write!(f, "; {} could not be read and are lost", swapoff.lost_objects)?;
    }
    match end {
        SwapoffEnd::Off => writeln!(f, "; it is off."),
        SwapoffEnd::Cancelled => {
            writeln!(f, "; cancelled, with {left_objects} objects of {} left on it, which goes on.", bytes(*left_bytes))
        }
        SwapoffEnd::Failed(why) => writeln!(
            f,
            "; it is still on, with {left_objects} objects of {} on it: {}.",
            bytes(*left_bytes),
            why.trim_end_matches('.')
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, tier: &str, priority: i16, live: u64) -> DeviceRow {
        DeviceRow {
            name: name.into(),
            tier: tier.into(),
            priority,
            state: "on".into(),
            size_bytes: 1 << 30,
            used_bytes: 100 << 20,
            live_bytes: live << 20,
            written_bytes: 5 << 30,
            bad_bytes: 256 << 10,
            ..DeviceRow::default()
        }
    }

    fn swap() -> Swap {
        Swap {
            devices: vec![row("/fast/a-file", "fast", 10, 99), row("/slow", "slow", -2, 50)],
            slots: 1000,
            virtual_bytes: 4096 * 1000,
            same_filled_slots: 100,
            memory_slots: 300,
            memory_bytes: 300 << 10,
            physical_slots: 600,
            metadata: Metadata { word_bytes: 8000, link_bytes: 4096, reverse_bytes: 4800, ..Metadata::default() },
        }
    }

    #[test]
    fn every_device_is_a_row_and_fits_a_terminal() {
        let mut text = String::new();
        show(&swap(), &mut text).unwrap();
        println!("{text}");
        let lines: Vec<Vec<_>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["NAME", "TIER", "PRIO", "STATE", "SIZE", "USED", "LIVE", "WRITTEN", "BAD"]);
        assert_eq!(lines[1], ["/fast/a-file", "fast", "10", "on", "1.0G", "100M", "99%", "5.0G", "256K"]);
        assert_eq!(lines[2][2..4], ["-2", "on"]);
        assert!(text.contains("1000 slots hold pages of 3.9M"), "{text}");
        assert!(text.contains("200M used, 74% of it live; 10.0G written so far, 512K bad"), "{text}");
        assert!(text.contains("16.9 bytes a slot: 8.0 words, 4.1 links, 4.8 reverse words"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 90), "{text}");
    }

    #[test]
    fn an_empty_one_divides_by_nothing() {
        let mut text = String::new();
        show(&Swap { devices: vec![DeviceRow::default()], ..Swap::default() }, &mut text).unwrap();
        assert!(text.contains(" - "), "{text}");
    }

    #[test]
    fn how_a_swapoff_ended_is_a_sentence() {
        let say = |end, left_objects| {
            let swapoff = Swapoff {
                name: "/fast".into(),
                tier: "fast".into(),
                end,
                moved_objects: 500,
                moved_bytes: 1 << 20,
                to_memory: Some(20),
                lost_objects: 0,
                left_objects,
                left_bytes: left_objects << 10,
                seconds: 0.5,
            };
            let mut text = String::new();
            show_swapoff(&swapoff, &mut text).unwrap();
            text
        };
        let moved = "Swapoff of fast (/fast): 500 objects of 1.0M moved in 500 ms (2.0M/s), 20 of them into memory; ";
        assert_eq!(say(SwapoffEnd::Off, 0), format!("{moved}it is off.\n").replace("500 ms", "0.50 s"));
        assert!(say(SwapoffEnd::Cancelled, 3).contains("cancelled, with 3 objects of 3.0K left on it"));
        let failed = say(SwapoffEnd::Failed("there is no room.".into()), 3);
        assert!(failed.ends_with("it is still on, with 3 objects of 3.0K on it: there is no room.\n"), "{failed}");
    }
}

//! How much anonymous memory this process has, as the kernel counts it.

use std::fs;

/// Resident anonymous bytes, now. `smaps_rollup` walks the page tables and is exact; `status` sums counters that each core keeps
/// a batch of, and is used where the former is missing. 0 when neither can be read.
pub(super) fn anonymous() -> u64 {
    field("/proc/self/smaps_rollup", "Anonymous:").or_else(|| field("/proc/self/status", "RssAnon:")).unwrap_or(0)
}

fn field(path: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn touched_memory_is_seen() {
        let before = anonymous();
        let memory = std::hint::black_box(vec![1u8; 32 << 20]);
        let grown = anonymous().saturating_sub(before);
        assert!(grown > 30 << 20, "{} bytes touched, {grown} seen", memory.len());
    }
}

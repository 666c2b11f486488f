//! `zspool files`: the control files that every memcg has.

use std::fmt::Write;
use zspool::memcg::{FileInfo, Memcg};

/// The table of control files, as text: name, who may do what, what it is, and what it takes.
pub(crate) fn table() -> String {
    let width = Memcg::files().map(str::len).max().unwrap_or(0);
    let mut text = String::new();
    for FileInfo { name, readable, takes, summary } in Memcg::file_table() {
        let mode = if readable { "r" } else { "-" }.to_owned() + if takes.is_some() { "w" } else { "-" };
        writeln!(text, "{name:width$}  {mode}  {summary}").expect("writing to a string does not fail");
        if let Some(takes) = takes {
            writeln!(text, "{:width$}      write {takes}", "").expect("writing to a string does not fail");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_has_a_line_and_those_to_write_say_what() {
        let text = table();
        assert_eq!(text.lines().filter(|line| !line.starts_with(' ')).count(), Memcg::files().count());
        let reclaim =
            text.lines().position(|line| line.starts_with("memory.reclaim ") && line.contains("  -w  ")).unwrap();
        assert!(text.lines().nth(reclaim + 1).unwrap().contains("write \"<size>"), "{text}");
        assert!(text.lines().any(|line| line.starts_with("memory.stat ") && line.contains("  r-  ")), "{text}");
    }
}

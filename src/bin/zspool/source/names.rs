//! Names of sources: what the table, the memcgs and `--memcg-limit` call them.

use std::collections::HashSet;

/// Bytes of a name; longer ones are cut, for the table must fit a terminal. Enough for a process: 15 of its own name, a dash
/// and seven digits.
const LONGEST: usize = 23;

/// Gives each source a name of its own that is also good for a memcg: no slash, no control character, no `=`, not a dot name.
#[derive(Default)]
pub(crate) struct Names {
    taken: HashSet<String>,
}

impl Names {
    /// `wanted`, made good, and with `-2`, `-3`, ... behind it if it is taken.
    pub(crate) fn unique(&mut self, wanted: &str) -> String {
        let mut base = String::new();
        for c in wanted.chars() {
            if base.len() + c.len_utf8() > LONGEST {
                break;
            }
            base.push(if c.is_control() || c.is_whitespace() || "/=".contains(c) { '_' } else { c });
        }
        if ["", ".", ".."].contains(&base.as_str()) {
            base = "source".to_owned();
        }
        let mut name = base.clone();
        let mut n = 2;
        while !self.taken.insert(name.clone()) {
            name = format!("{base}-{n}");
            n += 1;
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_fit_a_memcg() {
        let mut names = Names::default();
        let given: Vec<_> =
            ["a", "a", "a-2", "a", "x/y z=1\n", "..", ""].iter().map(|wanted| names.unique(wanted)).collect();
        assert_eq!(given, ["a", "a-2", "a-2-2", "a-3", "x_y_z_1_", "source", "source-2"]);
        assert_eq!(names.unique(&"\u{e9}".repeat(100)), "\u{e9}".repeat(11));
    }
}

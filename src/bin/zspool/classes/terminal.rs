//! [`Terminal`]: how wide the output may be, and in which characters bars are drawn.

use std::io::IsTerminal;

/// Where the picture goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terminal {
    /// Columns of the picture.
    pub(crate) columns: usize,
    /// Whether wider lines than that may be written: nobody folds them.
    pub(crate) unfolded: bool,
    /// Whether there are block characters.
    pub(crate) blocks: bool,
}

/// Columns where nothing says how many.
const USUAL: usize = 80;

impl Terminal {
    /// The terminal at standard output (or standard error), if it is one; `COLUMNS` goes before what it says.
    pub(crate) fn find(error: bool) -> Self {
        let (descriptor, is_terminal) = match error {
            true => (libc::STDERR_FILENO, std::io::stderr().is_terminal()),
            false => (libc::STDOUT_FILENO, std::io::stdout().is_terminal()),
        };
        let asked = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok()).filter(|&columns| columns > 0);
        let columns = asked.or_else(|| is_terminal.then(|| width(descriptor)).flatten());
        let locale =
            ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()));
        let utf8 = locale.is_some_and(|locale| locale.to_ascii_uppercase().replace('-', "").contains("UTF8"));
        Terminal {
            columns: columns.unwrap_or(USUAL),
            unfolded: columns.is_none() && !is_terminal,
            blocks: is_terminal && utf8,
        }
    }

    /// A bar of `part` out of `whole` over `columns` columns: a part that is not 0 is seen.
    pub(crate) fn bar(&self, part: u64, whole: u64, columns: usize) -> String {
        if part == 0 || whole == 0 {
            return String::new();
        }
        // Eighths of a column.
        let eighths = (u128::from(part) * columns as u128 * 8).div_ceil(whole.into()).min(columns as u128 * 8) as usize;
        if !self.blocks {
            return "#".repeat((eighths / 8).max(1));
        }
        let mut bar = "\u{2588}".repeat(eighths / 8);
        if !eighths.is_multiple_of(8) {
            // U+258F is one eighth, U+2589 seven.
            bar.extend(char::from_u32(0x2590 - (eighths % 8) as u32));
        }
        bar
    }
}

/// The terminal's columns, if it tells.
fn width(descriptor: i32) -> Option<usize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the call writes to `size`, which outlives it.
    let result = unsafe { libc::ioctl(descriptor, libc::TIOCGWINSZ, &mut size) };
    (result == 0 && size.ws_col > 0).then_some(size.ws_col.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_in_proportion_and_never_too_long() {
        let ascii = Terminal { columns: 80, unfolded: false, blocks: false };
        let blocks = Terminal { blocks: true, ..ascii };
        for terminal in [ascii, blocks] {
            let len = |part, whole| terminal.bar(part, whole, 40).chars().count();
            assert_eq!([len(0, 5), len(1, 0), len(5, 5), len(10, 5), len(1, 1 << 40)], [0, 0, 40, 40, 1]);
            assert_eq!((len(1, 2), len(u64::MAX, u64::MAX)), (20, 40));
        }
        assert_eq!(blocks.bar(3, 16, 2), "\u{258d}", "three eighths of a column");
        assert_eq!(blocks.bar(9, 16, 2), "\u{2588}\u{258f}", "one and an eighth");
    }
}

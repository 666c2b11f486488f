//! What is said of a source beside its numbers.

use std::fmt;

/// A sentence for each thing that is out of the ordinary.
pub(crate) fn remarks(name: &str, vanished_pages: u64, note: Option<&str>, f: &mut impl fmt::Write) -> fmt::Result {
    if vanished_pages > 0 {
        writeln!(f, "{name}: {vanished_pages} pages were gone when their turn came.")?;
    }
    note.map_or(Ok(()), |note| writeln!(f, "{name}: {note}"))
}

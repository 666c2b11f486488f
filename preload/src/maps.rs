//! [`Maps`]: what `/proc/self/maps` says, and which of it can be put under a limit.
//!
//! ```text
//!   7f0e40000000-7f0e40400000 rw-p 00000000 00:00 0                  private, anonymous: yes
//!   55d8c0a00000-55d8c1200000 rw-p 00000000 00:00 0    [heap]        yes
//!   7f0e48000000-7f0e48021000 rw-p 00000000 00:00 0    [anon:x]      yes: named by the program
//!   7ffd1c3e0000-7ffd1c401000 rw-p 00000000 00:00 0    [stack]       no: it grows
//!   7f0e50000000-7f0e50001000 rwxp 00000000 00:00 0                  no: code
//!   7f0e50001000-7f0e50002000 rw-p 00001000 fe:01 99   /lib/libc.so  no: of a file
//! ```

use std::fs::File;
use std::io::{self, Read, Seek};
use std::ops::Range;

/// The text, kept between readings so that reading allocates nothing; and the file, so that it needs no descriptor and no `/proc` in the root that
/// the program may have changed.
#[derive(Debug, Default)]
pub(crate) struct Maps {
    file: Option<File>,
    text: Vec<u8>,
}

/// A mapping that the program may have its memory in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) range: Range<usize>,
}

// === impl Maps ===

impl Maps {
    /// Read it anew.
    ///
    /// # Errors
    /// Where there is no `/proc`.
    pub(crate) fn read(&mut self) -> io::Result<()> {
        self.text.clear();
        if self.file.is_none() {
            self.file = Some(File::open("/proc/self/maps")?);
        }
        let file = self.file.as_mut().expect("it was opened");
        file.rewind()?;
        file.read_to_end(&mut self.text)?;
        Ok(())
    }

    /// Whether one mapping of such memory is just that range.
    pub(crate) fn has(&self, range: &Range<usize>) -> bool {
        self.each().any(|mapping| mapping == *range)
    }

    /// All there is, in order.
    pub(crate) fn everything(&self) -> impl Iterator<Item = Range<usize>> {
        self.text.split(|byte| *byte == b'\n').filter_map(|line| range(std::str::from_utf8(line).ok()?))
    }

    /// Private anonymous memory that is read and written, neither a stack nor code, in order.
    pub(crate) fn each(&self) -> impl Iterator<Item = Range<usize>> {
        self.text.split(|byte| *byte == b'\n').filter_map(candidate)
    }

    /// The same; neighbours are joined.
    pub(crate) fn candidates(&self) -> impl Iterator<Item = Mapping> {
        let mut lines = self.each().peekable();
        std::iter::from_fn(move || {
            let mut range = lines.next()?;
            while let Some(next) = lines.next_if(|next| next.start == range.end) {
                range.end = next.end;
            }
            Some(Mapping { range })
        })
    }
}

/// What is to be wiped in children of fork already. The kernel walks all page tables for it: for once, and early.
///
/// # Errors
/// Where there is no `/proc`.
pub(crate) fn wiped() -> io::Result<Vec<Range<usize>>> {
    let text = std::fs::read("/proc/self/smaps")?;
    let (mut found, mut current) = (Vec::new(), None);
    for line in text.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok()) {
        match line.strip_prefix("VmFlags:") {
            Some(flags) if flags.split_ascii_whitespace().any(|flag| flag == "wf") => found.extend(current.take()),
            Some(_) => {}
            None => current = range(line).or(current),
        }
    }
    Ok(found)
}

/// What a line describes, if it is such memory.
fn candidate(line: &[u8]) -> Option<Range<usize>> {
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split_ascii_whitespace();
    let (_range, mode, _offset, _device, inode) =
        (words.next()?, words.next()?, words.next()?, words.next()?, words.next()?);
    let name = words.next().unwrap_or("");
    let ours = mode == "rw-p" && inode == "0" && (name.is_empty() || name == "[heap]" || name.starts_with("[anon:"));
    if ours { range(line) } else { None }
}

/// The addresses that a line begins with.
fn range(line: &str) -> Option<Range<usize>> {
    let (start, end) = line.split_ascii_whitespace().next()?.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    Some(number(start)?..number(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_anonymous_memory_is_found_and_nothing_else() {
        let mut maps = Maps::default();
        maps.text.extend_from_slice(
            b"1000-2000 r-xp 00000000 fe:01 99                 /bin/x
2000-3000 rw-p 00000000 fe:01 99                 /bin/x
3000-4000 rw-p 00000000 00:00 0                  [heap]
4000-5000 rw-p 00000000 00:00 0 
6000-7000 ---p 00000000 00:00 0 
7000-8000 rwxp 00000000 00:00 0 
8000-9000 rw-s 00000000 00:01 1234               /dev/zero (deleted)
9000-a000 rw-p 00000000 00:00 0                  [anon:my heap]
b000-c000 rw-p 00000000 00:00 0                  [stack]
c000-d000 rw-p 00000000 00:00 0                  [vvar]
d000-e000 r--p 00000000 00:00 0 
",
        );
        let found: Vec<_> = maps.candidates().map(|mapping| mapping.range).collect();
        assert_eq!(found, [0x3000..0x5000, 0x9000..0xa000]);
        assert!(maps.has(&(0x3000..0x4000)) && !maps.has(&(0x3000..0x5000)) && !maps.has(&(0x7000..0x8000)));
    }

    #[test]
    fn memory_that_was_just_mapped_is_seen() {
        let memory = vec![1u8; 64 << 20]; // malloc maps that
        let mut maps = Maps::default();
        maps.read().unwrap();
        let at = memory.as_ptr().addr() + (32 << 20);
        assert!(maps.candidates().any(|mapping| mapping.range.contains(&at)));
        let local = 0u8;
        let stack = (&raw const local).addr();
        // The main thread's by its name; those of threads are left out by `own`.
        assert!(std::thread::current().name() != Some("main") || !maps.candidates().any(|m| m.range.contains(&stack)));
    }
}

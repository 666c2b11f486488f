//! [`Mapping`]: one line of `/proc/PID/maps`.
//!
//! ```text
//!   7f2c4a000000-7f2c4a021000 rw-p 00000000 00:00 0          [heap]
//!   start        end          access offset  device inode    name, or nothing
//! ```

use super::proc_self;
use std::io::{self, BufRead, BufReader};
use std::ops::Range;

/// One mapping of a process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Mapping {
    pub(super) range: Range<usize>,
    pub(super) read: bool,
    pub(super) write: bool,
    pub(super) execute: bool,
    pub(super) shared: bool,
    /// Where in its file it begins.
    pub(super) offset: u64,
    /// Major and minor number of the file's device.
    pub(super) device: (u32, u32),
    /// 0 for anonymous memory.
    pub(super) inode: u64,
    pub(super) name: String,
}

impl Mapping {
    /// The four letters of its access.
    pub(super) fn access(&self) -> String {
        let letter = |yes, letter| if yes { letter } else { '-' };
        [
            letter(self.read, 'r'),
            letter(self.write, 'w'),
            letter(self.execute, 'x'),
            if self.shared { 's' } else { 'p' },
        ]
        .iter()
        .collect()
    }

    /// The bytes of its file that it shows.
    pub(super) fn file_range(&self) -> Range<u64> {
        self.offset..self.offset + self.range.len() as u64
    }

    fn parse(line: &str) -> Option<Mapping> {
        let mut rest = line;
        let mut field = || {
            rest = rest.trim_start_matches(' ');
            let (field, left) = rest.split_at(rest.find(' ').unwrap_or(rest.len()));
            rest = left;
            field
        };
        let (start, end) = field().split_once('-')?;
        let access = field().as_bytes();
        let offset = u64::from_str_radix(field(), 16).ok()?;
        let (major, minor) = field().split_once(':')?;
        let inode = field().parse().ok()?;
        Some(Mapping {
            range: usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?,
            read: access.first() == Some(&b'r'),
            write: access.get(1) == Some(&b'w'),
            execute: access.get(2) == Some(&b'x'),
            shared: access.get(3) == Some(&b's'),
            offset,
            device: (u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?),
            inode,
            name: rest.trim_start_matches(' ').to_owned(),
        })
    }
}

/// The mappings of a process, `self` or its number, in ascending order.
pub(super) fn of(process: &str) -> io::Result<Vec<Mapping>> {
    let text = std::fs::read(format!("/proc/{process}/maps"))?;
    Ok(String::from_utf8_lossy(&text).lines().filter_map(Mapping::parse).collect())
}

/// The mappings of this process that overlap `range`, in ascending order. Those behind it are not read, and those before it not taken apart: there
/// may be thousands.
pub(super) fn inside(range: &Range<usize>) -> io::Result<Vec<Mapping>> {
    let mut maps = BufReader::with_capacity(32 << 10, proc_self::open("maps")?);
    let (mut found, mut line) = (Vec::new(), Vec::new());
    while maps.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        let address = |text: &str| usize::from_str_radix(text, 16).unwrap_or(0);
        let (start, rest) = text.split_once('-').unwrap_or(("", ""));
        if address(start) >= range.end {
            break;
        }
        if address(rest.split(' ').next().unwrap_or("")) > range.start {
            found.extend(Mapping::parse(text.trim_end_matches('\n')));
        }
        line.clear();
    }
    Ok(found)
}

/// The letters of `VmFlags` in `/proc/self/smaps` for the mappings that overlap `range`, each with its addresses.
///
/// The kernel walks all page tables of the process for it: to be asked only where the answer is needed.
pub(super) fn flags(range: &Range<usize>) -> io::Result<Vec<(Range<usize>, String)>> {
    let mut found = Vec::new();
    let mut current = None;
    for line in proc_self::read("smaps")?.lines() {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            if let Some(range) = current.take() {
                found.push((range, flags.trim().to_owned()));
            }
        } else if line.starts_with(|c: char| c.is_ascii_digit() || ('a'..='f').contains(&c)) {
            current = Mapping::parse(line).map(|m| m.range).filter(|m| m.start < range.end && range.start < m.end);
        }
    }
    Ok(found)
}

/// Bytes of memory that the process has locked.
pub(super) fn locked_bytes() -> io::Result<u64> {
    let status = proc_self::read("status")?;
    let kibibytes = status.lines().find_map(|line| line.strip_prefix("VmLck:")?.trim().strip_suffix(" kB"));
    Ok(kibibytes.and_then(|n| n.trim().parse::<u64>().ok()).unwrap_or(0) * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_they_are_written() {
        let line = "7f00aa000000-7f00aa021000 rw-s 00003000 00:1f 4242                       /memfd:a name (deleted)";
        let mapping = Mapping::parse(line).expect("a line");
        assert_eq!(mapping.range, 0x7f00_aa00_0000..0x7f00_aa02_1000);
        assert_eq!(mapping.access(), "rw-s");
        assert_eq!((mapping.offset, mapping.device, mapping.inode), (0x3000, (0, 0x1f), 4242));
        assert_eq!(mapping.file_range(), 0x3000..0x2_4000);
        assert_eq!(mapping.name, "/memfd:a name (deleted)");
        let anonymous = Mapping::parse("1000-2000 ---p 00000000 00:00 0 ").expect("a line");
        assert!(!anonymous.read && !anonymous.shared && anonymous.name.is_empty());
        assert_eq!(Mapping::parse("no mapping"), None);
    }

    #[test]
    fn our_own_mappings_include_this_stack() {
        let here = 0u8;
        let address = &raw const here as usize;
        let mapping = inside(&(address..address + 1)).expect("/proc");
        assert!(mapping.len() == 1 && mapping[0].write, "{mapping:?}");
        let flags = flags(&(address..address + 1)).expect("/proc");
        assert!(flags.len() == 1 && flags[0].1.contains("rd wr"), "{flags:?}");
    }
}

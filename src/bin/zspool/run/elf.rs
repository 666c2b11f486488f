//! [`Elf`]: as much of an ELF file as it takes to tell whether it and this machine's dynamic linker suit each other.

use std::env;
use std::fs::File;
use std::io::{self, Read as _};

/// What is read of a file: headers, and what linkers put right behind them (an interpreter's path, notes).
const HEAD_BYTES: u64 = 64 << 10;

/// The first bytes of a file.
pub(super) fn head_of(file: File) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    file.take(HEAD_BYTES).read_to_end(&mut head)?;
    Ok(head)
}

/// An ELF file, by its first bytes.
pub(super) struct Elf<'a> {
    head: &'a [u8],
}

// === impl Elf ===

impl<'a> Elf<'a> {
    /// None: it is no such file.
    pub(super) fn of(head: &'a [u8]) -> Option<Self> {
        let elf = Elf { head };
        (head.starts_with(b"\x7fELF") && elf.machine().is_some()).then_some(elf)
    }

    fn half(&self, at: usize) -> Option<u16> {
        self.head.get(at..at + 2).map(|b| u16::from_le_bytes([b[0], b[1]]))
    }

    fn word(&self, at: usize) -> Option<usize> {
        self.head.get(at..at + 8).map(|b| u64::from_le_bytes(b.try_into().expect("eight bytes")) as usize)
    }

    fn machine(&self) -> Option<u16> {
        self.half(18)
    }

    /// What it is for, if not for programs as this one is.
    pub(super) fn other_machine(&self) -> Option<String> {
        let machine = self.machine()?;
        let ours = match env::consts::ARCH {
            "x86_64" => libc::EM_X86_64,
            "aarch64" => libc::EM_AARCH64,
            _ => machine,
        };
        let wide = self.head[4] == libc::ELFCLASS64;
        let bits = if wide { 64 } else { 32 };
        (!wide || machine != ours).then(|| format!("another machine ({bits} bits, ELF machine {machine})"))
    }

    /// The contents of its segments of this kind, as far as they were read. None: its headers were not.
    pub(super) fn segments(&self, kind: u32) -> Option<Vec<&'a [u8]>> {
        let (at, size, count) = (self.word(32)?, self.half(54)?, self.half(56)?);
        let mut found = vec![];
        for number in 0..usize::from(count) {
            let header = at.checked_add(number * usize::from(size))?;
            let word = |offset| self.word(header.checked_add(offset)?);
            // The first half of the first word.
            if word(0)? as u32 == kind {
                let (start, len) = (word(8)?, word(32)?);
                found.push(self.head.get(start..start.checked_add(len)?).unwrap_or_default());
            }
        }
        Some(found)
    }
}

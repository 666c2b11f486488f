//! [`Core`]: the memory in an ELF core file.
//!
//! ```text
//! file    0        64                                 p_offset
//!        +--------+---------+---------+-----+--------+-----------------------+-----
//!        | header | PT_NOTE | PT_LOAD | ... | notes  | bytes of a segment    | ...
//!        +--------+---------+---------+-----+--------+-----------------------+-----
//!                  program headers, 56 bytes each     p_filesz bytes; the rest of p_memsz was not dumped
//! ```
//!
//! Layouts: System V ABI, "Object Files"; `PN_XNUM` for more than 65,534 segments: gABI draft.

use super::image::{open_file, stem};
use super::{Kind, Source, SourceError};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use zspool::units::{PAGE_SIZE, Page};

const EHDR_BYTES: usize = 64;
const PHDR_BYTES: u64 = 56;
const SHDR_BYTES: usize = 64;
const ET_CORE: u16 = 4;
const PT_LOAD: u32 = 1;
/// In `e_phnum`: the count is in `sh_info` of section header 0.
const PN_XNUM: u16 = 0xffff;
/// More would be a damaged header; Linux allows a process 65,530 mappings unless told otherwise.
const SEGMENTS_MAX: u32 = 1 << 24;

/// The dumped bytes of an ELF64 core file, in the order of its segments.
#[derive(Debug)]
pub(crate) struct Core {
    path: PathBuf,
    name: String,
    file: File,
    /// (offset in the file, bytes) of each segment that has any. The last page of one may be part of a page; zeroes follow.
    segments: Vec<(u64, u64)>,
    /// Which segment is read, and how many of its bytes are.
    at: (usize, u64),
    pages: u64,
    read: u64,
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("N bytes were taken")
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(field(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(field(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(field(bytes, at))
}

impl Core {
    pub(crate) fn open(path: &Path) -> Result<Self, SourceError> {
        let (file, len) = open_file(path)?;
        let not_a_core = |reason: String| SourceError::NotACore { path: path.to_owned(), reason };
        let read_at = |buffer: &mut [u8], at: u64| match file.read_exact_at(buffer, at) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                Err(not_a_core(format!("its headers reach beyond its {len} bytes")))
            }
            other => other.map_err(|cause| SourceError::Io { path: path.to_owned(), cause }),
        };

        let mut header = [0; EHDR_BYTES];
        read_at(&mut header, 0)?;
        if header[..4] != *b"\x7fELF" {
            return Err(not_a_core("it does not begin with the ELF magic".into()));
        }
        if header[4] != 2 || header[5] != 1 {
            return Err(not_a_core("only 64-bit little-endian ones are read".into()));
        }
        let kind = u16_at(&header, 16);
        if kind != ET_CORE {
            return Err(not_a_core(format!("its type is {kind}, a core's is {ET_CORE} (is it a program?)")));
        }
        let table = u64_at(&header, 32);
        if u64::from(u16_at(&header, 54)) != PHDR_BYTES {
            return Err(not_a_core(format!("its program headers are not {PHDR_BYTES} bytes each")));
        }
        let count = match u16_at(&header, 56) {
            PN_XNUM => {
                let mut section = [0; SHDR_BYTES];
                read_at(&mut section, u64_at(&header, 40))?;
                u32_at(&section, 44)
            }
            count => count.into(),
        };
        if count > SEGMENTS_MAX {
            return Err(not_a_core(format!("it claims {count} segments")));
        }

        let mut segments = vec![];
        let mut pages = 0;
        for n in 0..u64::from(count) {
            let mut program = [0; PHDR_BYTES as usize];
            let at = table.checked_add(n * PHDR_BYTES).ok_or_else(|| not_a_core("its header is damaged".into()))?;
            read_at(&mut program, at)?;
            let (offset, bytes) = (u64_at(&program, 8), u64_at(&program, 32));
            if u32_at(&program, 0) != PT_LOAD || bytes == 0 {
                continue;
            }
            let end = offset.saturating_add(bytes);
            if end > len {
                return Err(SourceError::IncompleteCore { path: path.to_owned(), end, len });
            }
            segments.push((offset, bytes));
            pages += bytes.div_ceil(PAGE_SIZE as u64);
        }
        if pages == 0 {
            return Err(not_a_core("it has no memory in it".into()));
        }
        Ok(Core { path: path.to_owned(), name: stem(path), file, segments, at: (0, 0), pages, read: 0 })
    }
}

impl Source for Core {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> Kind {
        Kind::Core
    }

    fn pages_at_most(&self) -> u64 {
        self.pages
    }

    fn read(&mut self, out: &mut [Page]) -> Result<usize, SourceError> {
        let mut count = 0;
        for page in out {
            let (segment, done) = self.at;
            let Some(&(offset, bytes)) = self.segments.get(segment) else { break };
            let len = (bytes - done).min(PAGE_SIZE as u64);
            let (dumped, rest) = page.0.split_at_mut(len as usize);
            rest.fill(0);
            self.file.read_exact_at(dumped, offset + done).map_err(|cause| match cause.kind() {
                io::ErrorKind::UnexpectedEof => {
                    SourceError::Truncated { path: self.path.clone(), page: self.read, pages: self.pages }
                }
                _ => SourceError::Io { path: self.path.clone(), cause },
            })?;
            self.at = if done + len == bytes { (segment + 1, 0) } else { (segment, done + len) };
            self.read += 1;
            count += 1;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// A core whose segments have these bytes, behind a note segment, with its count of segments in `e_phnum` or not.
    fn core(segments: &[&[u8]], extended: bool) -> Vec<u8> {
        let count = segments.len() as u16 + 1;
        let mut bytes = vec![0; EHDR_BYTES];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[16..18].copy_from_slice(&ET_CORE.to_le_bytes());
        bytes[32..40].copy_from_slice(&(EHDR_BYTES as u64).to_le_bytes());
        bytes[54..56].copy_from_slice(&(PHDR_BYTES as u16).to_le_bytes());
        bytes[56..58].copy_from_slice(&if extended { PN_XNUM } else { count }.to_le_bytes());

        let mut offset = 4096;
        let mut header = |kind: u32, len: usize| {
            let mut program = [0; PHDR_BYTES as usize];
            program[..4].copy_from_slice(&kind.to_le_bytes());
            program[8..16].copy_from_slice(&(offset as u64).to_le_bytes());
            program[32..40].copy_from_slice(&(len as u64).to_le_bytes());
            offset += len;
            bytes.extend_from_slice(&program);
        };
        header(4, 100);
        segments.iter().for_each(|segment| header(PT_LOAD, segment.len()));
        if extended {
            let section = bytes.len() as u64;
            bytes[40..48].copy_from_slice(&section.to_le_bytes());
            bytes.resize(bytes.len() + SHDR_BYTES, 0);
            let info = section as usize + 44;
            bytes[info..info + 4].copy_from_slice(&u32::from(count).to_le_bytes());
        }
        bytes.resize(4096 + 100, 0xee);
        segments.iter().for_each(|segment| bytes.extend_from_slice(segment));
        bytes
    }

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn the_bytes_of_all_segments_come_in_order() {
        for extended in [false, true] {
            let file = file(&core(&[&[1; 8192], &[], &[2; 4096], &[3; 5000]], extended));
            let mut core = Core::open(file.path()).unwrap();
            assert_eq!(core.pages_at_most(), 5);
            let mut out = vec![Page::zeroed(); 4];
            assert_eq!(core.read(&mut out).unwrap(), 4);
            assert_eq!(out.iter().map(|page| page[0]).collect::<Vec<_>>(), [1, 1, 2, 3]);
            out[0].fill(9);
            assert_eq!(core.read(&mut out).unwrap(), 1);
            assert_eq!((out[0][903], out[0][904], out[0][4095]), (3, 0, 0), "the last page is filled up with zeroes");
            assert_eq!(core.read(&mut out).unwrap(), 0);
        }
    }

    #[test]
    fn a_core_cut_short_is_refused_wherever_it_is_cut() {
        let whole = core(&[&[1; 8192]], false);
        for len in [0, 3, 63, 64, 100, 4096, 4196, whole.len() - 1] {
            let error = Core::open(file(&whole[..len]).path()).unwrap_err();
            assert!(
                matches!(error, SourceError::NotACore { .. } | SourceError::IncompleteCore { .. }),
                "cut at {len}: {error}"
            );
        }
    }

    #[test]
    fn damaged_headers_are_refused_or_read_without_panic() {
        let whole = core(&[&[1; 8192], &[2; 4096]], false);
        for at in 0..EHDR_BYTES + 3 * PHDR_BYTES as usize {
            for value in [0, 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                if let Ok(mut core) = Core::open(file(&bytes).path()) {
                    while core.read(&mut [Page::zeroed()]).unwrap() > 0 {}
                }
            }
        }
    }

    #[test]
    fn a_core_truncated_while_read_is_said() {
        let file = file(&core(&[&[1; 8192]], false));
        let mut core = Core::open(file.path()).unwrap();
        file.as_file().set_len(8000).unwrap();
        let error = core.read(&mut [Page::zeroed()]).unwrap_err();
        assert!(matches!(error, SourceError::Truncated { page: 0, pages: 2, .. }), "{error}");
    }
}

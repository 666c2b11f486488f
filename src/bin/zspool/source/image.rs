//! [`Image`]: a file of flat pages, as `dd` of a guest's memory gives.

use super::{Kind, Source, SourceError};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use zspool::units::{PAGE_SIZE, Page};

/// A file of flat 4096-byte pages.
#[derive(Debug)]
pub(crate) struct Image {
    path: PathBuf,
    name: String,
    file: File,
    /// Pages there were when it was opened; what is appended later is not read.
    pages: u64,
    /// Pages read.
    read: u64,
}

/// What a file is called in the table.
pub(super) fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Open a regular file for reading and say how long it is.
pub(super) fn open_file(path: &Path) -> Result<(File, u64), SourceError> {
    let io = |cause| SourceError::Io { path: path.to_owned(), cause };
    // Look before opening: opening a pipe for reading would wait for a writer.
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(SourceError::NotAFile { path: path.to_owned() });
    }
    let file = File::open(path).map_err(io)?;
    let len = file.metadata().map_err(io)?.len();
    Ok((file, len))
}

impl Image {
    pub(crate) fn open(path: &Path) -> Result<Self, SourceError> {
        let (file, len) = open_file(path)?;
        let path = path.to_owned();
        let rest = len % PAGE_SIZE as u64;
        if rest != 0 {
            return Err(SourceError::NotWholePages { path, len, rest });
        }
        if len == 0 {
            return Err(SourceError::Empty { path });
        }
        Ok(Image { name: stem(&path), path, file, pages: len / PAGE_SIZE as u64, read: 0 })
    }
}

impl Source for Image {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> Kind {
        Kind::Image
    }

    fn pages_at_most(&self) -> u64 {
        self.pages
    }

    fn read(&mut self, out: &mut [Page]) -> Result<usize, SourceError> {
        let count = out.len().min((self.pages - self.read) as usize);
        for page in &mut out[..count] {
            match self.file.read_exact(&mut page.0) {
                Ok(()) => self.read += 1,
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(SourceError::Truncated { path: self.path.clone(), page: self.read, pages: self.pages });
                }
                Err(cause) => return Err(SourceError::Io { path: self.path.clone(), cause }),
            }
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn image(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::Builder::new().suffix(".pages").tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn pages_come_in_order_and_then_no_more() {
        let file = image(&(0..5u8).flat_map(|n| [n; PAGE_SIZE]).collect::<Vec<_>>());
        let mut image = Image::open(file.path()).unwrap();
        assert_eq!(image.pages_at_most(), 5);
        let mut out = vec![Page::zeroed(); 3];
        let mut seen = vec![];
        loop {
            let n = image.read(&mut out).unwrap();
            if n == 0 {
                break;
            }
            seen.extend(out[..n].iter().map(|page| page[4095]));
        }
        assert_eq!(seen, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_file_truncated_while_read_is_said() {
        let file = image(&[7; 5 * PAGE_SIZE]);
        let mut image = Image::open(file.path()).unwrap();
        let mut out = vec![Page::zeroed(); 2];
        assert_eq!(image.read(&mut out).unwrap(), 2);
        file.as_file().set_len(2 * PAGE_SIZE as u64 + 100).unwrap();
        let error = image.read(&mut out).unwrap_err();
        assert!(matches!(error, SourceError::Truncated { page: 2, pages: 5, .. }), "{error}");
    }

    #[test]
    fn pages_appended_while_read_are_left_out() {
        let file = image(&[7; PAGE_SIZE]);
        let mut image = Image::open(file.path()).unwrap();
        file.as_file().set_len(9 * PAGE_SIZE as u64).unwrap();
        assert_eq!(image.read(&mut vec![Page::zeroed(); 4]).unwrap(), 1);
        assert_eq!(image.read(&mut vec![Page::zeroed(); 4]).unwrap(), 0);
    }
}

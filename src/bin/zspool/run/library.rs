//! [`find`]: the library that is preloaded.

use super::elf::{Elf, head_of};
use std::env;
use std::fs::File;
use std::path::{Path, PathBuf};
use zspool::guest::control::LIBRARY_NOTE;

/// Its file.
const NAME: &str = "libzspool_preload.so";

/// It cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LibraryError {
    #[error(
        "{NAME} is not beside the program, nor in ../lib or ../lib/zspool of it: build it by `cargo build --release -p zspool-preload`, or name it by --preload PATH."
    )]
    Missing,
    #[error("--preload {} is no file: build it by `cargo build --release -p zspool-preload`, or leave the option out.", .0.display())]
    NoFile(PathBuf),
    #[error("{} is not {NAME} ({why}), and the program would run without a limit: build that by `cargo build --release -p zspool-preload`, and name it by --preload PATH.", path.display())]
    Other { path: PathBuf, why: String },
    #[error("{} has a colon or a space in its path, which LD_PRELOAD takes for an end: have it somewhere else, and name that by --preload PATH.", .0.display())]
    Separator(PathBuf),
}

/// The library: the one that was named, or the one that is where it belongs.
///
/// # Errors
/// A sentence that says how to get it.
pub(crate) fn find(named: Option<&Path>) -> Result<PathBuf, LibraryError> {
    let found = match named {
        Some(path) if path.is_file() => path.to_owned(),
        Some(path) => return Err(LibraryError::NoFile(path.to_owned())),
        None => beside(&env::current_exe().map_err(|_| LibraryError::Missing)?).ok_or(LibraryError::Missing)?,
    };
    // Programs change their working directory.
    let found = std::path::absolute(&found).unwrap_or(found);
    if let Err(why) = check(&found) {
        return Err(LibraryError::Other { path: found, why });
    }
    match found.as_os_str().as_encoded_bytes().iter().any(|byte| matches!(byte, b':' | b' ')) {
        true => Err(LibraryError::Separator(found)),
        false => Ok(found),
    }
}

/// Whether it is our library: the dynamic linker says nothing worth an end when it preloads another one, or none.
fn check(path: &Path) -> Result<(), String> {
    let head = File::open(path).and_then(head_of).map_err(|error| error.to_string())?;
    let elf = Elf::of(&head).ok_or("it is no ELF file")?;
    if let Some(found) = elf.other_machine() {
        return Err(format!("it is for {found}"));
    }
    let notes = elf.segments(libc::PT_NOTE).unwrap_or_default();
    let is_ours = notes.iter().any(|note| note.windows(LIBRARY_NOTE.len()).any(|bytes| bytes == LIBRARY_NOTE));
    is_ours.then_some(()).ok_or_else(|| "it has no note of ours".to_owned())
}

/// Beside the program, as cargo and archives have it, or where packages put it. (Tests' programs lie one folder deeper.)
fn beside(program: &Path) -> Option<PathBuf> {
    let folder = program.parent()?;
    let up = folder.parent()?;
    [folder.to_owned(), up.join("lib"), up.join("lib/zspool"), up.to_owned()]
        .into_iter()
        .map(|folder| folder.join(NAME))
        .find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// As much of a library as is looked at: a header, and a note behind it.
    fn library(note: &[u8]) -> Vec<u8> {
        let mut file = fs::read("/proc/self/exe").unwrap()[..64].to_vec();
        file[32..40].copy_from_slice(&64u64.to_le_bytes());
        file[54..58].copy_from_slice(&[56, 0, 1, 0]);
        let mut segment = [0; 56];
        segment[..4].copy_from_slice(&libc::PT_NOTE.to_le_bytes());
        segment[8..16].copy_from_slice(&120u64.to_le_bytes());
        segment[32..40].copy_from_slice(&(note.len() as u64).to_le_bytes());
        file.extend(segment);
        file.extend(note);
        file
    }

    #[test]
    fn it_is_found_where_it_belongs_and_else_there_is_advice() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("bin/zspool");
        fs::create_dir(program.parent().unwrap()).unwrap();
        assert_eq!(beside(&program), None);
        let lib = folder.path().join("lib/zspool").join(NAME);
        fs::create_dir_all(lib.parent().unwrap()).unwrap();
        fs::write(&lib, library(&LIBRARY_NOTE)).unwrap();
        assert_eq!(beside(&program), Some(lib.clone()));
        let near = program.with_file_name(NAME);
        fs::write(&near, "").unwrap();
        assert_eq!(beside(&program), Some(near));
        assert_eq!(find(Some(&lib)).unwrap(), lib);
        assert!(find(Some(&folder.path().join("none"))).unwrap_err().to_string().contains("cargo build"));
        let odd = folder.path().join("a b.so");
        fs::write(&odd, library(&LIBRARY_NOTE)).unwrap();
        assert!(find(Some(&odd)).unwrap_err().to_string().contains("LD_PRELOAD"));
    }

    #[test]
    fn a_file_that_is_not_it_is_refused_by_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file.so");
        let refusal = |content: &[u8]| {
            fs::write(&file, content).unwrap();
            let said = find(Some(&file)).unwrap_err().to_string();
            assert!(said.contains("without a limit") && said.ends_with('.'), "{said}");
            said
        };
        assert!(refusal(b"").contains("no ELF file"));
        assert!(refusal(b"echo\n").contains("no ELF file"));
        assert!(refusal(&fs::read("/proc/self/exe").unwrap()).contains("no note of ours"));
        assert!(refusal(&library(b"")).contains("no note of ours"));
        assert!(refusal(&library(&LIBRARY_NOTE[..19])).contains("no note of ours"));
        let mut other = library(&LIBRARY_NOTE);
        other[18] ^= 1;
        assert!(refusal(&other).contains("another machine"));
        let whole = library(&LIBRARY_NOTE);
        for len in 0..whole.len() {
            refusal(&whole[..len]);
        }
    }
}

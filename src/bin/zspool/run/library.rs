//! [`find`]: the library that is preloaded.

use std::env;
use std::path::{Path, PathBuf};

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
    match found.as_os_str().as_encoded_bytes().iter().any(|byte| matches!(byte, b':' | b' ')) {
        true => Err(LibraryError::Separator(found)),
        false => Ok(found),
    }
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

    #[test]
    fn it_is_found_where_it_belongs_and_else_there_is_advice() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("bin/zspool");
        fs::create_dir(program.parent().unwrap()).unwrap();
        assert_eq!(beside(&program), None);
        let lib = folder.path().join("lib/zspool").join(NAME);
        fs::create_dir_all(lib.parent().unwrap()).unwrap();
        fs::write(&lib, "").unwrap();
        assert_eq!(beside(&program), Some(lib.clone()));
        let near = program.with_file_name(NAME);
        fs::write(&near, "").unwrap();
        assert_eq!(beside(&program), Some(near));
        assert_eq!(find(Some(&lib)).unwrap(), lib);
        assert!(find(Some(&folder.path().join("none"))).unwrap_err().to_string().contains("cargo build"));
        let odd = folder.path().join("a b.so");
        fs::write(&odd, "").unwrap();
        assert!(find(Some(&odd)).unwrap_err().to_string().contains("LD_PRELOAD"));
    }
}

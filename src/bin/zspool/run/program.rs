//! [`find`]: the program to run, and whether a library can be preloaded into it.
//!
//! ```text
//!   name --PATH--> file --#! lines, at most 4--> ELF: 64 bits, of this machine, with a dynamic linker of glibc's; no setuid
//! ```

use super::elf::{Elf, head_of};
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Interpreters of interpreters that the kernel follows.
const SCRIPTS: usize = 4;

/// Why a program cannot be put under a limit this way.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProgramError {
    #[error("There is no program {}: write its path, or have its folder in PATH.", .0.display())]
    NotFound(PathBuf),
    #[error("{} cannot be executed ({cause}): see `ls -l` of it.", path.display())]
    NotExecutable { path: PathBuf, cause: io::Error },
    #[error(
        "{} is linked statically: no library can be preloaded into it. Use a dynamically linked build of it, or embed the crate in it.", .0.display()
    )]
    Static(PathBuf),
    #[error(
        "{} gets rights of another user or capabilities when it starts (setuid, setgid or file capabilities), and the system preloads no library into such a program: run it as that user, or a copy of it without the bits.", .0.display()
    )]
    Setuid(PathBuf),
    #[error(
        "{} is neither an ELF program nor a script with #! and an interpreter: start the interpreter yourself, as in `zspool run ... -- sh FILE`.", .0.display()
    )]
    NotElf(PathBuf),
    #[error("{} is a program for {found}, and the library for {}: take a build of it for this machine.", path.display(), env::consts::ARCH)]
    OtherMachine { path: PathBuf, found: String },
    #[error(
        "{} uses the C library that {} belongs to, and the library was built for glibc: take a build of it for glibc.", path.display(), linker.display()
    )]
    OtherLibc { path: PathBuf, linker: PathBuf },
    #[error("{} and the interpreters of its #! lines follow each other more than {SCRIPTS} times; the system will not start it.", .0.display())]
    Scripts(PathBuf),
}

/// The file that `name` is.
///
/// # Errors
/// A sentence that says why nothing can be preloaded into it.
pub(crate) fn find(name: &OsStr) -> Result<PathBuf, ProgramError> {
    let program = locate(name)?;
    let mut path = program.clone();
    for _ in 0..=SCRIPTS {
        match look(&path)? {
            None => return Ok(program),
            Some(interpreter) => path = interpreter,
        }
    }
    Err(ProgramError::Scripts(program))
}

/// As `execvp` does.
fn locate(name: &OsStr) -> Result<PathBuf, ProgramError> {
    let not_found = || ProgramError::NotFound(name.into());
    if name.is_empty() {
        return Err(not_found());
    }
    if name.as_bytes().contains(&b'/') {
        return Ok(name.into());
    }
    let folders = env::var_os("PATH").unwrap_or_else(|| OsString::from("/bin:/usr/bin"));
    let executable =
        |path: &PathBuf| fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    env::split_paths(&folders).map(|folder| folder.join(name)).find(executable).ok_or_else(not_found)
}

/// The interpreter that a script names; none: it is an ELF program that will do.
fn look(path: &Path) -> Result<Option<PathBuf>, ProgramError> {
    let refused = |cause: io::Error| match cause.kind() {
        io::ErrorKind::NotFound => ProgramError::NotFound(path.into()),
        _ => ProgramError::NotExecutable { path: path.into(), cause },
    };
    let about = fs::metadata(path).map_err(refused)?;
    if about.is_dir() {
        return Err(refused(io::Error::from_raw_os_error(libc::EISDIR)));
    }
    if about.mode() & 0o111 == 0 {
        return Err(refused(io::Error::from_raw_os_error(libc::EACCES)));
    }
    let head = match File::open(path) {
        Ok(file) => head_of(file).map_err(refused)?,
        // May be executed but not read: the system will tell.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
        Err(error) => return Err(refused(error)),
    };
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii();
        let interpreter = line.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        return match interpreter {
            [] => Err(ProgramError::NotElf(path.into())),
            // A script's own setuid bit does nothing.
            name => Ok(Some(PathBuf::from(OsString::from_vec(name.to_vec())))),
        };
    }
    if gains_rights(path, &about) {
        return Err(ProgramError::Setuid(path.into()));
    }
    elf(path, &head)?;
    Ok(None)
}

/// Whether the kernel would start it in secure mode.
fn gains_rights(path: &Path, about: &fs::Metadata) -> bool {
    // SAFETY: it only asks, and cannot fail.
    let uid = unsafe { libc::geteuid() };
    // SAFETY: as above.
    let gid = unsafe { libc::getegid() };
    let setuid = about.mode() & libc::S_ISUID != 0 && about.uid() != uid;
    let setgid = about.mode() & libc::S_ISGID != 0 && about.mode() & libc::S_IXGRP != 0 && about.gid() != gid;
    setuid || setgid || (uid != 0 && has_capabilities(path))
}

fn has_capabilities(path: &Path) -> bool {
    let Ok(path) = std::ffi::CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: both names end with a zero; nothing is written for a size of 0.
    unsafe { libc::getxattr(path.as_ptr(), c"security.capability".as_ptr(), std::ptr::null_mut(), 0) > 0 }
}

/// Whether it is dynamically linked, by glibc, for this machine.
fn elf(path: &Path, head: &[u8]) -> Result<(), ProgramError> {
    let not_elf = || ProgramError::NotElf(path.into());
    let elf = Elf::of(head).ok_or_else(not_elf)?;
    if let Some(found) = elf.other_machine() {
        return Err(ProgramError::OtherMachine { path: path.into(), found });
    }
    let linkers = elf.segments(libc::PT_INTERP).ok_or_else(not_elf)?;
    let linker = linkers.first().ok_or_else(|| ProgramError::Static(path.into()))?;
    let linker = PathBuf::from(OsString::from_vec(linker.strip_suffix(b"\0").unwrap_or(linker).to_vec()));
    match linker.as_os_str().as_bytes().windows(7).any(|w| w == b"ld-musl") {
        true => Err(ProgramError::OtherLibc { path: path.into(), linker }),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn executable(folder: &Path, name: &str, content: &[u8]) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn refusal(path: &Path) -> String {
        find(path.as_os_str()).unwrap_err().to_string()
    }

    #[test]
    fn programs_are_found_as_the_shell_finds_them() {
        let sh = find(OsStr::new("sh")).unwrap();
        assert!(sh.is_absolute() && sh.ends_with("sh"), "{sh:?}");
        assert_eq!(find(OsStr::new("/bin/sh")).unwrap(), Path::new("/bin/sh"));
        let folder = tempfile::tempdir().unwrap();
        let script = executable(folder.path(), "script", b"#! /usr/bin/env sh\necho\n");
        assert_eq!(find(script.as_os_str()).unwrap(), script);
        assert!(refusal(Path::new("no-such-program-anywhere")).contains("PATH"));
        assert!(refusal(Path::new("")).contains("no program"));
    }

    #[test]
    fn what_cannot_be_preloaded_is_refused_by_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &[u8]| executable(folder.path(), name, content);
        assert!(refusal(&file("text", b"echo hello\n")).contains("neither an ELF program nor a script"));
        assert!(refusal(&file("empty", b"#!\n")).contains("#!"));
        assert!(refusal(&file("lost", b"#!/no/such/interpreter\n")).contains("/no/such/interpreter"));
        assert!(refusal(folder.path()).contains("cannot be executed"));
        let plain = file("plain", b"#!/bin/sh\n");
        fs::set_permissions(&plain, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(refusal(&plain).contains("cannot be executed"));
        let round = folder.path().join("round");
        file("round", format!("#!{}\n", round.display()).as_bytes());
        assert!(refusal(&round).contains("follow each other"));

        // A real program, changed where it says what it is.
        let mut shell = fs::read("/proc/self/exe").unwrap();
        assert!(find(file("same", &shell).as_os_str()).is_ok());
        let setuid = file("setuid", &shell);
        std::os::unix::fs::chown(&setuid, Some(12345), None).ok();
        fs::set_permissions(&setuid, fs::Permissions::from_mode(0o4755)).unwrap();
        if fs::metadata(&setuid).unwrap().uid() == 12345 {
            assert!(refusal(&setuid).contains("setuid"));
        } else {
            assert!(find(setuid.as_os_str()).is_ok(), "one's own setuid bit gives no rights");
        }
        shell[18] ^= 1;
        assert!(refusal(&file("machine", &shell)).contains("another machine"));
        shell[18] ^= 1;
        shell[4] = libc::ELFCLASS32;
        assert!(refusal(&file("narrow", &shell)).contains("32 bits"));
        shell[4] = libc::ELFCLASS64;
        let musl = shell.windows(9).position(|w| w == b"ld-linux-").expect("the tests are linked dynamically");
        shell[musl..musl + 9].copy_from_slice(b"ld-musl-x");
        assert!(refusal(&file("musl", &shell)).contains("glibc"));
        let headers = u64::from_le_bytes(shell[32..40].try_into().unwrap()) as usize;
        for number in 0..u16::from_le_bytes([shell[56], shell[57]]) as usize {
            let at = headers + number * 56;
            if shell[at..at + 4] == libc::PT_INTERP.to_le_bytes() {
                shell[at..at + 4].copy_from_slice(&0u32.to_le_bytes());
            }
        }
        assert!(refusal(&file("static", &shell)).contains("linked statically"));
    }
}

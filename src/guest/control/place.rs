//! [`Place`]: where control sockets lie.

use super::error::ControlError;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// The folder of a user's control sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    folder: PathBuf,
}

impl Place {
    /// `$XDG_RUNTIME_DIR/zspool`, or `/tmp/zspool-UID`. Nothing is made yet.
    pub fn of_this_user() -> Place {
        let folder = match env::var_os("XDG_RUNTIME_DIR").filter(|dir| Path::new(dir).is_absolute()) {
            Some(dir) => Path::new(&dir).join("zspool"),
            None => PathBuf::from(format!("/tmp/zspool-{}", uid())),
        };
        Place { folder }
    }

    /// This folder.
    pub fn at(folder: impl Into<PathBuf>) -> Place {
        Place { folder: folder.into() }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where a process has its socket.
    pub fn socket(&self, pid: u32) -> PathBuf {
        self.folder.join(format!("{pid}.sock"))
    }

    /// Make the folder, for this user only; one that is there must be so.
    ///
    /// # Errors
    /// [`ControlError::Folder`], [`ControlError::NotPrivate`].
    pub fn make(&self) -> Result<(), ControlError> {
        let failed = |cause| ControlError::Folder { path: self.folder.clone(), cause };
        match fs::DirBuilder::new().mode(0o700).create(&self.folder) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => (),
            Err(error) => return Err(failed(error)),
        }
        // Not what a link leads to: somebody else could have put the link there.
        let found = fs::symlink_metadata(&self.folder).map_err(failed)?;
        match shared(&found, uid()) {
            None => Ok(()),
            Some(what) => Err(ControlError::NotPrivate { path: self.folder.clone(), what }),
        }
    }
}

/// The sockets there are: of this user, and for root of all users, by the process's number. Folders that are not their user's alone are left out.
pub fn sockets() -> Vec<(u32, PathBuf)> {
    let mut folders: Vec<PathBuf> = private((uid(), Place::of_this_user().folder)).into_iter().collect();
    if uid() == 0 {
        folders.extend(of_users("/run/user", "").map(|(user, folder)| (user, folder.join("zspool"))).filter_map(private));
        folders.extend(of_users("/tmp", "zspool-").filter_map(private));
    }
    let mut found: Vec<(u32, PathBuf)> = folders
        .iter()
        .flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten())
        .filter_map(|entry| {
            let path = entry.path();
            let pid = path.file_name()?.to_str()?.strip_suffix(".sock")?.parse().ok()?;
            Some((pid, path))
        })
        .collect();
    found.sort();
    found.dedup();
    found
}

/// The entries of a folder that are named by a user's number, behind this.
fn of_users(folder: &str, before: &'static str) -> impl Iterator<Item = (u32, PathBuf)> {
    fs::read_dir(folder).into_iter().flatten().flatten().filter_map(move |entry| {
        let user = entry.file_name().to_str()?.strip_prefix(before)?.parse().ok()?;
        Some((user, entry.path()))
    })
}

/// A folder that is this user's, and nobody else may enter.
fn private((user, folder): (u32, PathBuf)) -> Option<PathBuf> {
    let found = fs::symlink_metadata(&folder).ok()?;
    shared(&found, user).is_none().then_some(folder)
}

/// What keeps it from being a folder of this user's that nobody else may enter.
fn shared(found: &fs::Metadata, user: u32) -> Option<String> {
    match () {
        () if !found.is_dir() => Some("no folder".to_owned()),
        () if found.uid() != user => Some(format!("of the user {}", found.uid())),
        () if found.mode() & 0o077 != 0 => Some(format!("of mode {:04o}", found.mode() & 0o7777)),
        () => None,
    }
}

fn uid() -> u32 {
    // SAFETY: it only asks, and cannot fail.
    unsafe { libc::geteuid() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_folder_that_others_may_enter_is_refused() {
        let temporary = tempfile::tempdir().unwrap();
        let place = Place::at(temporary.path().join("z"));
        place.make().unwrap();
        assert_eq!(fs::metadata(place.folder()).unwrap().mode() & 0o777, 0o700);
        place.make().expect("once more");
        fs::set_permissions(place.folder(), fs::Permissions::from_mode(0o755)).unwrap();
        let refused = place.make().unwrap_err().to_string();
        assert!(refused.contains("0755") && refused.contains("XDG_RUNTIME_DIR"), "{refused}");
        let link = Place::at(temporary.path().join("l"));
        symlink("/", link.folder()).unwrap();
        assert!(matches!(link.make(), Err(ControlError::NotPrivate { .. })));
        let nowhere = Place::at(temporary.path().join("a/b/c"));
        assert!(matches!(nowhere.make(), Err(ControlError::Folder { .. })));
    }
}

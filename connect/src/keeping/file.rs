//! Keys in private files, where there is no keyring.
//!
//! Called by `keeping`. One file each, mode 0600, in a folder of mode 0700 that is this user's own; written beside and
//! renamed, so that a crash leaves the old one or the new one. Invariant: what somebody else could have read or written
//! is refused, not repaired.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use bailiwick_runtime::private_file;
use zeroize::Zeroizing;

use crate::fault::Fault;

#[derive(Debug)]
pub(crate) struct Files {
    folder: PathBuf,
}

impl Files {
    pub(crate) fn open(folder: &Path) -> Result<Self, Fault> {
        private_folder(folder)?;
        Ok(Self::open_to_forget(folder))
    }

    /// Whatever has become of the folder.
    pub(crate) fn open_to_forget(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.json"))
    }

    pub(crate) fn load(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, Fault> {
        let path = self.path(name);
        if fs::symlink_metadata(&self.folder).is_ok_and(|found| !is_own(&found) || found.mode() & 0o022 != 0) {
            return Err(Fault::Keeping(format!("others can write to {}", self.folder.display())));
        }
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
            Ok(found) if !found.is_file() || !is_own(&found) => {
                return Err(Fault::Keeping(format!("{} is not a file of yours", path.display())));
            }
            Ok(_) => {}
        }
        Ok(Some(Zeroizing::new(private_file::read(&path)?)))
    }

    pub(crate) fn save(&self, name: &str, text: &[u8]) -> Result<(), Fault> {
        Ok(private_file::write(&self.path(name), text)?)
    }

    pub(crate) fn forget(&self, name: &str) -> Result<(), Fault> {
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}

/// Makes the folder if it is missing. One that others may look into, or that is not this user's, is refused.
pub(crate) fn private_folder(folder: &Path) -> Result<(), Fault> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let found = fs::symlink_metadata(folder)?;
    if !found.is_dir() || !is_own(&found) || found.mode() & 0o077 != 0 {
        let what = format!("{} must be a folder of your own with mode 0700", folder.display());
        return Err(Fault::Keeping(what));
    }
    Ok(())
}

fn is_own(found: &fs::Metadata) -> bool {
    found.uid() == rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn what_is_kept_is_private_and_comes_back() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("a/connect");
        let files = Files::open(&folder).unwrap();
        assert!(files.load("x").unwrap().is_none());
        files.save("x", b"{}").unwrap();
        files.save("x", b"{1}").unwrap();
        assert_eq!(files.load("x").unwrap().unwrap().as_slice(), b"{1}");
        assert_eq!((mode(&folder), mode(&files.path("x"))), (0o700, 0o600));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing is left beside it");
        files.forget("x").unwrap();
        files.forget("x").unwrap();
        assert!(files.load("x").unwrap().is_none());
    }

    #[test]
    fn what_others_could_have_read_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("connect");
        let files = Files::open(&folder).unwrap();
        files.save("x", b"{}").unwrap();
        fs::set_permissions(files.path("x"), fs::Permissions::from_mode(0o640)).unwrap();
        assert!(files.load("x").is_err());
        fs::remove_file(files.path("x")).unwrap();
        symlink(root.path().join("elsewhere"), files.path("x")).unwrap();
        assert!(files.load("x").is_err(), "a link leads elsewhere");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(Files::open(&folder).is_err());
    }

    #[test]
    fn what_is_to_go_goes_from_any_folder_and_is_read_where_nobody_else_could_write() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("connect");
        Files::open(&folder).unwrap().save("x", b"{}").unwrap();
        for (mode, is_read) in [(0o755, true), (0o770, false), (0o707, false)] {
            fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
            let files = Files::open_to_forget(&folder);
            assert_eq!(files.load("x").is_ok(), is_read, "{mode:o}");
        }
        let files = Files::open_to_forget(&folder);
        files.forget("x").unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        Files::open_to_forget(&root.path().join("nothing")).forget("x").unwrap();
    }
}

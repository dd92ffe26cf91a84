//! How a client's file is written, and what is kept so that it can be as it was before.
//!
//! Called by `client setup`. Beside our other keys lie the text that was there before any of ours and the digest of
//! what was written last, for each file and server; they count once the file is written. Invariants: a file is replaced
//! as a whole, with its mode, where its link leads; one that somebody else wrote meanwhile is not. Backups are private:
//! files of clients hold secrets.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use aws_lc_rs::digest;
use bailiwick_runtime::private_file;
use serde::{Deserialize, Serialize};

/// Largest file that is edited.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
const MODE_PRIVATE: u32 = 0o600;

/// What was written, and over what.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Written {
    path: PathBuf,
    server: String,
    /// Whether there was a file before.
    existed: bool,
    after_sha256: String,
}

/// Where backups of one file and server lie.
#[derive(Debug)]
pub(crate) struct Backup {
    record: PathBuf,
    before: PathBuf,
}

/// A backup that counts once [`Staged::commit`] says so.
#[derive(Debug)]
#[must_use]
pub(crate) struct Staged<'a> {
    backup: &'a Backup,
    has_before: bool,
}

impl Backup {
    pub(crate) fn of(folder: &Path, file: &Path, server: &str) -> Self {
        let name = sha256(format!("{}\n{server}", file.display()).as_bytes());
        let name = name.get(..32).unwrap_or(&name).to_owned();
        Self { record: folder.join(format!("{name}.json")), before: folder.join(format!("{name}.before")) }
    }

    /// Keeps what is there before it is written over. `present` is what stands in the file, `before` what an undo is to
    /// bring back; where we wrote the file last, that is what it was before we did.
    pub(crate) fn stage(
        &self,
        file: &Path,
        server: &str,
        (present, before): (Option<&str>, Option<&str>),
        after: &str,
    ) -> io::Result<Staged<'_>> {
        let last = self.written()?.filter(|last| present.is_some_and(|present| last.is_untouched(present)));
        let has_before = last.is_none();
        if has_before {
            private_file::write(&staged(&self.before), before.unwrap_or_default().as_bytes())?;
        }
        let existed = last.map_or(before.is_some(), |last| last.existed);
        let after_sha256 = sha256(after.as_bytes());
        let written = Written { path: file.to_owned(), server: server.to_owned(), existed, after_sha256 };
        private_file::write(&staged(&self.record), &serde_json::to_vec(&written)?)?;
        Ok(Staged { backup: self, has_before })
    }

    /// What was written last, if anything was.
    pub(crate) fn written(&self) -> io::Result<Option<Written>> {
        match private_file::read(&self.record) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        }
    }

    /// The text that was there before; `None` if there was no file.
    pub(crate) fn before(&self, written: &Written) -> io::Result<Option<String>> {
        if written.existed { read(&self.before) } else { Ok(None) }
    }

    pub(crate) fn forget(&self) -> io::Result<()> {
        fs::remove_file(&self.record)?;
        fs::remove_file(&self.before)
    }
}

impl Staged<'_> {
    /// A crash between the two leaves an old record, of which the file has changed since: one entry is taken out then.
    pub(crate) fn commit(self) -> io::Result<()> {
        let Backup { record, before } = self.backup;
        if self.has_before {
            fs::rename(staged(before), before)?;
        }
        fs::rename(staged(record), record)
    }
}

fn staged(path: &Path) -> PathBuf {
    let end = path.extension().unwrap_or_default().to_string_lossy();
    path.with_extension(format!("{end}-next"))
}

impl Written {
    /// Whether nobody wrote to the file since.
    pub(crate) fn is_untouched(&self, present: &str) -> bool {
        self.after_sha256 == sha256(present.as_bytes())
    }
}

/// A file's text; `None` if there is none.
pub(crate) fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
        Ok(found) if !found.is_file() => Err(io::Error::other("it is not a file")),
        Ok(found) if found.len() > FILE_BYTES_MAX => Err(io::Error::other("it is too large")),
        Ok(_) => fs::read_to_string(path).map(Some),
    }
}

/// Replaces a text by another, or removes the file for `None`; only if `before` is still what is there.
pub(crate) fn replace(path: &Path, before: Option<&str>, after: Option<&str>) -> io::Result<()> {
    if read(path)?.as_deref() != before {
        return Err(io::Error::other("somebody else wrote it meanwhile; nothing was changed"));
    }
    let Some(after) = after else { return fs::remove_file(path) };
    let path = if before.is_some() { fs::canonicalize(path)? } else { path.to_owned() };
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    fs::create_dir_all(folder)?;
    let mode = fs::metadata(&path).map_or(MODE_PRIVATE, |found| found.permissions().mode() & 0o777);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let partial = folder.join(format!(".{name}.bailiwick-{}", std::process::id()));
    let written = write(&partial, after, mode).and_then(|()| fs::rename(&partial, &path));
    if written.is_err() {
        drop(fs::remove_file(&partial));
    }
    written?;
    File::open(folder)?.sync_all()
}

fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE_PRIVATE).open(path)?;
    file.write_all(text.as_bytes())?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()
}

fn sha256(bytes: &[u8]) -> String {
    digest::digest(&digest::SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_keeps_its_mode_and_its_link_and_is_not_written_over_others_work() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real.json"), folder.path().join("link.json"));
        fs::write(&real, "{}").unwrap();
        fs::set_permissions(&real, Permissions::from_mode(0o640)).unwrap();
        symlink(&real, &link).unwrap();
        replace(&link, Some("{}"), Some("{1}")).unwrap();
        assert_eq!(fs::read_to_string(&real).unwrap(), "{1}");
        assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(replace(&link, Some("{}"), Some("{2}")).is_err(), "it changed since it was read");
        assert!(replace(&link, None, Some("{2}")).is_err(), "there is one");
        let fresh = folder.path().join("a/b.json");
        replace(&fresh, None, Some("x")).unwrap();
        assert_eq!(fs::metadata(&fresh).unwrap().permissions().mode() & 0o777, MODE_PRIVATE);
        replace(&fresh, Some("x"), None).unwrap();
        assert_eq!(read(&fresh).unwrap(), None);
    }

    #[test]
    fn what_was_there_is_kept_until_it_is_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let backup = Backup::of(&folder.path().join("backups"), Path::new("/x/y.json"), "shop");
        assert!(backup.written().unwrap().is_none());
        let file = Path::new("/x/y.json");
        let stage = |present: &str, after: &str| backup.stage(file, "shop", (Some(present), Some(present)), after);
        drop(stage("before", "never written").unwrap());
        assert!(backup.written().unwrap().is_none(), "it counts once the file is written");
        stage("before", "after").unwrap().commit().unwrap();
        let written = backup.written().unwrap().unwrap();
        assert!(written.is_untouched("after") && !written.is_untouched("after "));
        assert_eq!(backup.before(&written).unwrap().as_deref(), Some("before"));
        // Again over what we wrote: what was there before all of it stays.
        stage("after", "later").unwrap().commit().unwrap();
        let written = backup.written().unwrap().unwrap();
        assert!(written.is_untouched("later"));
        assert_eq!(backup.before(&written).unwrap().as_deref(), Some("before"));
        // Over what somebody else wrote since, it does not.
        stage("other", "last").unwrap().commit().unwrap();
        let written = backup.written().unwrap().unwrap();
        assert_eq!(backup.before(&written).unwrap().as_deref(), Some("other"));
        backup.forget().unwrap();
        assert!(backup.written().unwrap().is_none());
    }
}

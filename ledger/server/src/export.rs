//! Exports: a log as a folder of files that anybody can check without us (C2SP tlog-tiles).
//!
//! Written: `tile/…`, `tile/entries/…`, `key` (the verifier key) and, last, `checkpoint`: a folder without one is an
//! export that was cut short. Read from the data folder of a ledger, running or not, or from its HTTP listener; only
//! up to the newest published checkpoint. `ExportDir` is the other direction: it lets `ledger-core` verify a folder.
//!
//! Called by the command line. The `key` in an export is for convenience: who verifies must have the key from
//! elsewhere to rely on it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bailiwick_ledger_core::{
    checkpoint::{self, CheckpointError, VerifierKey},
    tile::paths_at,
    verify::ExportReader,
};
use futures::{StreamExt, TryStreamExt, stream};

use self::source::Files;
use crate::store::StoreError;

mod source;

/// Files fetched at once: hides the latency of a network, fits in memory (8 MiB each at most).
const FETCHES_MAX: usize = 8;
/// Largest file of an export: 256 records of 32 KiB with their lengths, rounded up.
const FILE_BYTES_MAX: u64 = 9 * 1024 * 1024;
/// File with the verifier key.
const KEY: &str = "key";
/// File with the signed checkpoint.
const CHECKPOINT: &str = "checkpoint";

/// Where an export is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A ledger's data folder (`data_dir`), or the folder of an embedded Bailiwick that holds one.
    Dir(PathBuf),
    /// A ledger's HTTP listener, such as `http://127.0.0.1:8440`.
    Url(String),
}

/// How far an export is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub files_done: u64,
    pub files_total: u64,
    pub bytes: u64,
}

/// What was exported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Records.
    pub size: u64,
    pub files: u64,
    pub bytes: u64,
    /// The verifier key found at the source.
    pub key: String,
    /// The signed checkpoint.
    pub checkpoint: String,
}

/// Why an export failed. What was written so far has no checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A folder of the log, or its database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The source has no published checkpoint yet.
    #[error("the ledger has not published a checkpoint yet")]
    NothingPublished,
    /// The source lacks a file that its checkpoint implies.
    #[error("the ledger has no `{path}`, although its checkpoint covers it")]
    Missing { path: String },
    /// The source's own key does not fit its checkpoint.
    #[error("the ledger's checkpoint cannot be relied on: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// The ledger cannot be reached.
    #[error("cannot reach {url}: {source}")]
    Unreachable { url: String, source: reqwest::Error },
    /// The ledger answered with an error.
    #[error("{url} answered with status {status}")]
    Status { url: String, status: u16 },
    /// An answer or file larger than any of a log.
    #[error("{what} is larger than a file of a log can be")]
    TooLarge { what: String },
    /// The target holds something already.
    #[error("{0} is not empty; an export needs a folder of its own")]
    NotEmpty(PathBuf),
    /// The target cannot be written.
    #[error("cannot write {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
}

/// Writes everything the newest checkpoint of `source` covers to the folder `out`, which must be absent or empty.
/// # Errors
/// [`ExportError`]; the folder then has no `checkpoint`.
pub async fn export(source: &Source, out: &Path, mut progress: impl FnMut(Progress)) -> Result<Exported, ExportError> {
    if fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(ExportError::NotEmpty(out.to_owned()));
    }
    let files = Arc::new(Files::open(source).await?);
    let (key, note) = files.checkpoint().await?;
    let verifier: VerifierKey = key.trim_end().parse()?;
    let size = checkpoint::open(note.as_bytes(), &[verifier])?.size;
    let total = paths_at(size).count() as u64 + 2;
    let mut at = Progress { files_done: 0, files_total: total, bytes: 0 };
    progress(at);
    let fetched = stream::iter(paths_at(size)).map(|path| {
        let files = Arc::clone(&files);
        async move { Ok::<_, ExportError>((path, files.tile(path, size).await?)) }
    });
    let mut fetched = std::pin::pin!(fetched.buffered(FETCHES_MAX));
    while let Some((path, bytes)) = fetched.try_next().await? {
        at.bytes += write(out, &path.to_string(), &bytes)?;
        at.files_done += 1;
        progress(at);
    }
    for (name, text) in [(KEY, &key), (CHECKPOINT, &note)] {
        at.bytes += write(out, name, text.as_bytes())?;
        at.files_done += 1;
        progress(at);
    }
    Ok(Exported { size, files: total, bytes: at.bytes, key: key.trim_end().to_owned(), checkpoint: note })
}

fn write(out: &Path, name: &str, bytes: &[u8]) -> Result<u64, ExportError> {
    let path = out.join(name);
    let folder = path.parent().unwrap_or(out);
    let written = fs::create_dir_all(folder).and_then(|()| fs::write(&path, bytes));
    written.map_err(|source| ExportError::Write { path, source })?;
    Ok(bytes.len() as u64)
}

/// An exported folder, for `bailiwick_ledger_core::verify`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportDir(PathBuf);

impl ExportDir {
    /// Nothing is read yet.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self(folder.into())
    }

    /// The verifier key that came with the export, if any.
    /// # Errors
    /// When the file cannot be read.
    pub fn key(&self) -> io::Result<Option<String>> {
        let bytes = self.read(KEY)?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).trim_end().to_owned()))
    }
}

impl ExportReader for ExportDir {
    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        let path = self.0.join(path);
        match fs::metadata(&path) {
            Ok(found) if found.len() > FILE_BYTES_MAX => {
                let message = format!("{} is larger than a file of a log can be", path.display());
                Err(io::Error::new(io::ErrorKind::FileTooLarge, message))
            }
            Ok(_) => fs::read(&path).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_there_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(ExportDir::new(folder.path()).read("tile/0/000").unwrap(), None);
        assert_eq!(ExportDir::new(folder.path()).key().unwrap(), None);
    }

    #[tokio::test]
    async fn an_export_does_not_mix_with_other_files() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("x"), "").unwrap();
        let refused = export(&Source::Dir("nowhere".into()), folder.path(), |_| {}).await;
        assert!(matches!(refused, Err(ExportError::NotEmpty(_))), "{refused:?}");
    }

    #[tokio::test]
    async fn a_folder_without_a_ledger_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let refused = export(&Source::Dir(folder.path().into()), &folder.path().join("out"), |_| {}).await;
        assert!(matches!(refused, Err(ExportError::Store(StoreError::Absent(_)))), "{refused:?}");
    }
}

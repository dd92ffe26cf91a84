//! The two places an export can come from, behind one face: a database opened read-only, or a ledger's HTTP listener.
//!
//! Called by `export`. Answers from the network are bounded in size and time and tried again a few times; nothing in
//! them is believed beyond what the caller checks.

use std::{path::Path, time::Duration};

use bailiwick_ledger_core::{checkpoint::NOTE_BYTES_MAX, tile::TilePath};
use reqwest::{Client, StatusCode};

use super::{CHECKPOINT, ExportError, FILE_BYTES_MAX, Source};
use crate::store::{SharedStore, Store, StoreError};

/// Longest wait for a connection.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(5);
/// Longest wait for the next bytes of an answer.
const READ_WAIT_MAX: Duration = Duration::from_secs(30);
/// Attempts per file, and at opening a database.
const ATTEMPTS_MAX: u32 = 4;
/// Pause after the first failed attempt; doubles.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// A verifier key is one short line.
const KEY_BYTES_MAX: u64 = 1024;

/// Gives the files of a log.
pub(super) enum Files {
    Store(SharedStore),
    Http { client: Client, base: String },
}

impl Files {
    pub(super) async fn open(source: &Source) -> Result<Self, ExportError> {
        match source {
            Source::Dir(folder) => {
                let folder = folder.clone();
                let opened = tokio::task::spawn_blocking(move || open_store(&folder)).await;
                Ok(Self::Store(opened.map_err(|_| StoreError::Interrupted)??))
            }
            Source::Url(url) => {
                let client =
                    Client::builder().no_proxy().connect_timeout(CONNECT_WAIT_MAX).read_timeout(READ_WAIT_MAX).build();
                let client = client.map_err(|source| ExportError::Unreachable { url: url.clone(), source })?;
                Ok(Self::Http { client, base: url.trim_end_matches('/').to_owned() })
            }
        }
    }

    /// The verifier key and the newest signed checkpoint.
    pub(super) async fn checkpoint(&self) -> Result<(String, String), ExportError> {
        let (key, note) = match self {
            Self::Store(store) => {
                let read = |store: &Store| Ok((store.verifier_key()?, store.latest_checkpoint()?));
                let (key, newest) = store.run(read).await?;
                (key.map(|key| format!("{key}\n")), newest.map(|(_, note)| note))
            }
            Self::Http { client, base } => {
                let text = |bytes: Option<Vec<u8>>| bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
                let note = get(client, &format!("{base}/{CHECKPOINT}"), NOTE_BYTES_MAX as u64).await?;
                (text(get(client, &format!("{base}/v1/key"), KEY_BYTES_MAX).await?), text(note))
            }
        };
        key.zip(note).ok_or(ExportError::NothingPublished)
    }

    /// One file of the log of `size` leaves.
    pub(super) async fn tile(&self, path: TilePath, size: u64) -> Result<Vec<u8>, ExportError> {
        let found = match self {
            Self::Store(store) => store.run(move |store| store.tile(path, size)).await?,
            Self::Http { client, base } => get(client, &format!("{base}/{path}"), FILE_BYTES_MAX).await?,
        };
        found.ok_or_else(|| ExportError::Missing { path: path.to_string() })
    }
}

/// Accepts a ledger's data folder and the folder of an embedded Bailiwick, which holds one as `ledger`.
fn open_store(folder: &Path) -> Result<SharedStore, StoreError> {
    let candidates = [folder.join("db"), folder.join("ledger").join("db")];
    let found = candidates.into_iter().find(|candidate| candidate.join("CURRENT").is_file());
    let found = found.ok_or_else(|| StoreError::Absent(folder.to_owned()))?;
    let mut opened = Store::open_read_only(&found);
    for _ in 1..ATTEMPTS_MAX {
        // A running ledger may remove a file between our listing and our opening it.
        if opened.is_ok() {
            break;
        }
        std::thread::sleep(RETRY_PAUSE);
        opened = Store::open_read_only(&found);
    }
    Ok(SharedStore::new(found, opened?))
}

/// The body at `url`, `None` if there is none there.
async fn get(client: &Client, url: &str, bytes_max: u64) -> Result<Option<Vec<u8>>, ExportError> {
    let mut pause = RETRY_PAUSE;
    for _ in 1..ATTEMPTS_MAX {
        match get_once(client, url, bytes_max).await {
            Err(ExportError::Unreachable { .. } | ExportError::Status { status: 500.., .. }) => {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            settled => return settled,
        }
    }
    get_once(client, url, bytes_max).await
}

async fn get_once(client: &Client, url: &str, bytes_max: u64) -> Result<Option<Vec<u8>>, ExportError> {
    let unreachable = |source| ExportError::Unreachable { url: url.to_owned(), source };
    let mut answer = client.get(url).send().await.map_err(unreachable)?;
    match answer.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Ok(None),
        status => return Err(ExportError::Status { url: url.to_owned(), status: status.as_u16() }),
    }
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(unreachable)? {
        if (body.len() + chunk.len()) as u64 > bytes_max {
            return Err(ExportError::TooLarge { what: url.to_owned() });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}

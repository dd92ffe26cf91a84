//! One process at a time gets a token: a refresh token that two use ends the consent.
//!
//! Taken by `credentials` around everything that reads, uses and writes what is kept. A lock on a file, which ends with
//! its process, whatever ends that.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    pin::pin,
    time::Duration,
};

use bailiwick_runtime::Shutdown;
use tokio::{sync::oneshot, time::timeout};

use super::file::private_folder;
use crate::fault::Fault;

/// How long nothing is said of waiting: what a renewal takes.
const SILENT: Duration = Duration::from_secs(3);
/// Discovery, a person's five minutes, and keyrings that ask.
const WAIT_MAX: Duration = Duration::from_secs(480);

/// Held until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits until nobody else has it, for longer than a person has to sign in, and says so.
    pub(crate) async fn take(folder: &Path, name: &str, stop: &Shutdown) -> Result<Self, Fault> {
        Self::take_within(folder, name, stop, WAIT_MAX).await
    }

    /// Takes it if nobody has it; `None` if somebody does.
    pub(crate) fn take_free(folder: &Path, name: &str) -> Result<Option<Self>, Fault> {
        private_folder(folder)?;
        let file = open(&folder.join(format!("{name}.lock")))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error.into()),
        }
    }

    async fn take_within(folder: &Path, name: &str, stop: &Shutdown, wait_max: Duration) -> Result<Self, Fault> {
        private_folder(folder)?;
        let path = folder.join(format!("{name}.lock"));
        let (give, taken) = oneshot::channel::<io::Result<File>>();
        // A thread of its own: it may wait for as long as somebody else signs in, and must keep no process from ending.
        std::thread::spawn(move || {
            drop(give.send(open(&path).and_then(|file| file.lock().map(|()| file))));
        });
        let mut taken = pin!(taken);
        let said = async {
            if let Ok(taken) = timeout(SILENT.min(wait_max), taken.as_mut()).await {
                return Ok(taken);
            }
            eprintln!("Waiting for another bridge of yours, which signs in or renews its token for the same URL.");
            timeout(wait_max, taken.as_mut()).await
        };
        // Whoever gives up here leaves the thread: it drops the lock once it has got it.
        let taken = stop.or_stop(said).await.ok_or(Fault::Stopping)?;
        let taken = taken.map_err(|_elapsed| Fault::Keeping("another bridge of yours keeps them busy".to_owned()))?;
        let file = taken.map_err(|_| Fault::Keeping("the lock cannot be taken".to_owned()))??;
        Ok(Self { _file: file })
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn there_is_one_holder_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("connect");
        let stop = Shutdown::new();
        let first = Lock::take(&folder, "x", &stop).await.unwrap();
        let other = Lock::take(&folder, "y", &stop).await.unwrap();
        let mut second = Box::pin(Lock::take(&folder, "x", &stop));
        assert!(second.as_mut().now_or_never().is_none());
        assert!(Lock::take_free(&folder, "x").unwrap().is_none());
        drop((first, other));
        second.await.unwrap();
        assert!(Lock::take_free(&folder, "x").unwrap().is_some());
    }

    #[tokio::test]
    async fn nobody_waits_for_ever_nor_after_a_stop() {
        let root = tempfile::tempdir().unwrap();
        let (folder, stop) = (root.path().join("connect"), Shutdown::new());
        let _first = Lock::take(&folder, "x", &stop).await.unwrap();
        let late = Lock::take_within(&folder, "x", &stop, Duration::from_millis(1)).await;
        assert!(matches!(late, Err(Fault::Keeping(_))), "{late:?}");
        stop.request();
        let stopped = Lock::take(&folder, "x", &stop).await;
        assert!(matches!(stopped, Err(Fault::Stopping)), "{stopped:?}");
    }
}

//! Group commit: one thread that makes what was written durable, for everybody who waits at that moment.
//!
//! `spool` tells it what was written; callers wait in [`SpoolSync::sync_to`]. While one fdatasync runs, later
//! waiters gather and share the next. A failed fdatasync is final for this run: the kernel may have dropped the
//! pages and report success the next time, so nothing written from then on can be called durable, every waiter is
//! told, and `spool` refuses to append.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use tokio::sync::watch;

use super::{
    SpoolError,
    disk::{Disk, DiskFile},
};

/// How far the current epoch is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Records below this sequence number are durable.
    pub(crate) synced: u64,
    /// No later record will ever count as durable in this run.
    pub(crate) failed: bool,
}

/// A cheap handle to wait for durability.
#[derive(Clone, Debug)]
pub(crate) struct SpoolSync {
    shared: Arc<Shared>,
    progress: watch::Receiver<Progress>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Written so far: one past the last sequence number.
    written: u64,
    /// Somebody waits for everything below this.
    wanted: u64,
    dirty: Vec<Dirty>,
    closing: bool,
}

#[derive(Debug)]
struct Dirty {
    file: Arc<dyn DiskFile>,
    created: bool,
}

impl SpoolSync {
    /// Resolves once record `seq` is durable.
    ///
    /// # Errors
    /// [`SpoolError::SyncFailed`] when it cannot become durable in this run.
    pub(crate) async fn sync_to(&self, seq: u64) -> Result<(), SpoolError> {
        self.request(seq);
        let mut progress = self.progress.clone();
        let reached = progress.wait_for(|progress| progress.failed || progress.synced > seq).await;
        match reached {
            Ok(progress) if progress.synced > seq => Ok(()),
            Ok(_) | Err(_) => Err(SpoolError::SyncFailed),
        }
    }

    /// Asks for durability of everything up to `seq` without waiting.
    pub(crate) fn request(&self, seq: u64) {
        let mut state = self.shared.lock();
        state.wanted = state.wanted.max(seq.saturating_add(1));
        drop(state);
        self.shared.wake.notify_one();
    }

    pub(super) fn failed(&self) -> bool {
        self.progress.borrow().failed
    }

    /// Notes that everything below `next` is written and lies in `file` (or earlier files).
    pub(super) fn written(&self, next: u64, file: &Arc<dyn DiskFile>, created: bool) {
        let mut state = self.shared.lock();
        state.written = next;
        match state.dirty.last_mut() {
            Some(last) if Arc::ptr_eq(&last.file, file) => last.created |= created,
            Some(_) | None => state.dirty.push(Dirty { file: Arc::clone(file), created }),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Owns the thread; dropping it ends the thread after what was asked for is durable.
#[derive(Debug)]
pub(super) struct Syncer {
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Syncer {
    pub(super) fn start(disk: Arc<dyn Disk>, dir: PathBuf) -> io::Result<(Self, SpoolSync)> {
        let shared = Arc::new(Shared { state: Mutex::default(), wake: Condvar::new() });
        let (sender, progress) = watch::channel(Progress::default());
        let worker = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("spool-sync".to_owned())
            .spawn(move || run(&worker, disk.as_ref(), &dir, &sender))?;
        Ok((Self { shared: Arc::clone(&shared), thread: Some(thread) }, SpoolSync { shared, progress }))
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn run(shared: &Shared, disk: &dyn Disk, dir: &std::path::Path, progress: &watch::Sender<Progress>) {
    let mut synced = 0;
    loop {
        let mut state = shared.lock();
        while !state.closing && state.wanted.min(state.written) <= synced {
            state = shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.wanted.min(state.written) <= synced {
            return;
        }
        let target = state.written;
        let dirty = std::mem::take(&mut state.dirty);
        drop(state);
        if let Err(error) = sync_all(disk, dir, &dirty) {
            tracing::error!(%error, "spool cannot be made durable; no further record is accepted");
            progress.send_modify(|progress| progress.failed = true);
            return;
        }
        synced = target;
        progress.send_modify(|progress| progress.synced = target);
    }
}

fn sync_all(disk: &dyn Disk, dir: &std::path::Path, dirty: &[Dirty]) -> io::Result<()> {
    for Dirty { file, .. } in dirty {
        file.sync_data()?;
    }
    if dirty.iter().any(|dirty| dirty.created) { disk.sync_dir(dir) } else { Ok(()) }
}

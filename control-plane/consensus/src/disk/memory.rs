//! A disk in memory that keeps the contract of `disk`, tells what would survive a crash, and fails when it is told to.
//!
//! Every call that changes something is a step. The step with the chosen number fails, either without having done
//! anything or after having done it, and every later call fails too: as if the disk were gone. `crash` then gives the
//! disk that the next start finds.

use std::{
    collections::BTreeMap,
    io::{self, Cursor, Read},
    sync::{Arc, Mutex, MutexGuard},
};

use super::{BlobWriter, Disk, Durability, Family, Visit, Write};

/// How a step fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing has happened.
    Failed,
    /// It has happened, and the answer was lost.
    FailedButStored,
}

/// What becomes of writes that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsynced {
    Lost,
    Kept,
}

type Rows = BTreeMap<(Family, Vec<u8>), Vec<u8>>;

#[derive(Clone, Debug, Default)]
struct State {
    live: Rows,
    /// What a crash leaves at least.
    durable: Rows,
    /// Written since the last sync.
    unsynced: Vec<Write>,
    blobs: BTreeMap<String, Arc<Vec<u8>>>,
    steps: u64,
    fault: Option<(u64, Fault)>,
    broken: bool,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryDisk(Arc<Mutex<State>>);

impl MemoryDisk {
    /// Fails at step `step`, counted from now.
    pub(crate) fn fail_at(&self, step: u64, fault: Fault) {
        let mut state = self.state();
        state.fault = Some((state.steps + step, fault));
    }

    /// Whether a step has failed.
    pub(crate) fn failed(&self) -> bool {
        self.state().broken
    }

    /// What a start after a crash at this moment finds. This disk is left as it is.
    pub(crate) fn crash(&self, unsynced: Unsynced) -> Self {
        let state = self.state();
        let rows = match unsynced {
            Unsynced::Lost => state.durable.clone(),
            Unsynced::Kept => state.live.clone(),
        };
        let blobs = state.blobs.clone();
        Self(Arc::new(Mutex::new(State { live: rows.clone(), durable: rows, blobs, ..State::default() })))
    }

    /// Changes a row behind everybody's back.
    pub(crate) fn tamper(&self, family: Family, key: &[u8], value: Option<Vec<u8>>) {
        let mut state = self.state();
        let key = (family, key.to_vec());
        match value {
            Some(value) => drop(state.live.insert(key, value)),
            None => assert!(state.live.remove(&key).is_some(), "no such row"),
        }
    }

    /// All rows of a family.
    pub(crate) fn rows(&self, family: Family) -> Vec<(Vec<u8>, Vec<u8>)> {
        let state = self.state();
        let of = state.live.iter().filter(|((found, _), _)| *found == family);
        of.map(|((_, key), value)| (key.clone(), value.clone())).collect()
    }

    /// Changes a file behind everybody's back.
    pub(crate) fn tamper_blob(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let mut bytes = state.blobs[name].to_vec();
        change(&mut bytes);
        state.blobs.insert(name.to_owned(), Arc::new(bytes));
    }

    /// Nested calls are against the contract, and here they panic.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.try_lock().unwrap()
    }

    /// Takes one step.
    fn step(&self, act: impl FnOnce(&mut State)) -> io::Result<()> {
        let mut state = self.state();
        if state.broken {
            return Err(io::Error::other("the disk is gone"));
        }
        state.steps += 1;
        let fault = state.fault.filter(|(step, _)| *step == state.steps).map(|(_, fault)| fault);
        if fault != Some(Fault::Failed) {
            act(&mut state);
        }
        if fault.is_some() {
            state.broken = true;
            return Err(io::Error::other("the disk has failed"));
        }
        Ok(())
    }
}

impl State {
    fn sync(&mut self) {
        for write in std::mem::take(&mut self.unsynced) {
            take(&mut self.durable, write);
        }
    }
}

fn take(rows: &mut Rows, write: Write) {
    match write {
        Write::Put { family, key, value } => drop(rows.insert((family, key), value)),
        Write::Delete { family, key } => drop(rows.remove(&(family, key))),
        Write::DeleteRange { family, start, end } => {
            rows.retain(|(found, key), _| *found != family || *key < start || *key >= end)
        }
    }
}

impl Disk for MemoryDisk {
    fn get(&self, family: Family, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        Ok(self.state().live.get(&(family, key.to_vec())).cloned())
    }

    fn last(&self, family: Family) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
        Ok(self.rows(family).pop())
    }

    fn scan(&self, family: Family, start: &[u8], visit: &mut Visit<'_>) -> io::Result<()> {
        let state = self.state();
        for ((_, key), value) in
            state.live.range((family, start.to_vec())..).take_while(|((found, _), _)| *found == family)
        {
            if !visit(key, value)? {
                break;
            }
        }
        Ok(())
    }

    fn write(&self, writes: Vec<Write>, durability: Durability) -> io::Result<()> {
        self.step(|state| {
            for write in writes {
                take(&mut state.live, write.clone());
                state.unsynced.push(write);
            }
            if durability == Durability::Synced {
                state.sync();
            }
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.step(State::sync)
    }

    fn blob_create(&self, name: &str) -> io::Result<Box<dyn BlobWriter>> {
        self.step(|_| ())?;
        Ok(Box::new(Blob { disk: self.clone(), name: name.to_owned(), bytes: Vec::new() }))
    }

    fn blob_open(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        let blob = self.state().blobs.get(name).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(Cursor::new(blob.to_vec())))
    }

    fn blob_list(&self) -> io::Result<Vec<String>> {
        Ok(self.state().blobs.keys().cloned().collect())
    }

    fn blob_remove(&self, name: &str) -> io::Result<()> {
        self.step(|state| drop(state.blobs.remove(name)))
    }

    fn inline(&self) -> bool {
        true
    }
}

struct Blob {
    disk: MemoryDisk,
    name: String,
    bytes: Vec<u8>,
}

impl io::Write for Blob {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BlobWriter for Blob {
    fn publish(self: Box<Self>) -> io::Result<()> {
        let Self { disk, name, bytes } = *self;
        disk.step(|state| drop(state.blobs.insert(name, Arc::new(bytes))))
    }
}

//! A simulated disk: rows and files in memory that lose in a crash what a real disk may lose.
//!
//! Writes stand in one log. A crash keeps a prefix of it that includes everything synced; how long a prefix is drawn
//! from the seed. Files exist once they are published. A disk belongs to a machine and outlives each [`Life`] of its
//! node; every life has its own [`LifeDisk`], which refuses all access when the life is over.
//! Faults: slow syncs, writes that fail (with or without having been stored) and a full disk.

use std::{
    collections::BTreeMap,
    io::{self, Cursor, Read},
    ops::Bound,
    sync::{Arc, Mutex},
    time::Duration,
};

use bailiwick_consensus::{BlobWriter, Disk, Durability, Family, Visit, Write};

use crate::{
    life::Life,
    random::Random,
    world::{World, fnv, lock},
};

type Rows = BTreeMap<Family, BTreeMap<Vec<u8>, Vec<u8>>>;

/// The disk of one machine.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    name: u64,
    world: Arc<World>,
    random: Random,
    content: Arc<Mutex<Content>>,
}

#[derive(Debug, Default)]
struct Content {
    /// As the running node sees it.
    rows: Rows,
    /// As it is certain to be after a crash.
    synced: Rows,
    /// What lies between the two, in order.
    unsynced: Vec<Vec<Write>>,
    files: BTreeMap<String, Arc<Vec<u8>>>,
    /// Longest time a sync takes, in milliseconds.
    sync_millis_max: u64,
    /// Writes until the life ends in the middle of one.
    crash_after: Option<u64>,
    failing: bool,
}

/// Syncs of a healthy disk take up to this.
const SYNC_MILLIS: u64 = 4;

impl Machine {
    pub(crate) fn new(world: &Arc<World>, name: u64) -> Self {
        let content = Content { sync_millis_max: SYNC_MILLIS, ..Content::default() };
        let random = world.random(&format!("disk {name}"));
        Self { name, world: world.clone(), random, content: Arc::new(Mutex::new(content)) }
    }

    /// The disk as one life sees it.
    pub(crate) fn of(&self, life: &Arc<Life>) -> Arc<LifeDisk> {
        Arc::new(LifeDisk { machine: self.clone(), life: life.clone() })
    }

    /// What power loss does: of what was not synced only a prefix is left.
    pub(crate) fn crash(&self) {
        let mut content = lock(&self.content);
        let Content { rows, synced, unsynced, .. } = &mut *content;
        let count = unsynced.len() as u64;
        // Often all or nothing, for those are the edges.
        let kept = match self.random.below(3) {
            0 => 0,
            1 => count,
            _ => self.random.below(count + 1),
        };
        for batch in unsynced.drain(..).take(usize::try_from(kept).unwrap_or(0)) {
            apply(synced, &batch);
        }
        rows.clone_from(synced);
        content.crash_after = None;
        drop(content);
        self.world.trace(format_args!("disk {} kept {kept} of {count} unsynced writes", self.name));
    }

    /// What the death of the process alone does: the operating system still writes what it was given.
    pub(crate) fn kill(&self) {
        lock(&self.content).crash_after = None;
    }

    pub(crate) fn slow(&self, sync_millis_max: u64) {
        lock(&self.content).sync_millis_max = sync_millis_max.max(1);
    }

    pub(crate) fn fail(&self, failing: bool) {
        lock(&self.content).failing = failing;
    }

    /// Takes back what [`Machine::crash_after`] asked for.
    pub(crate) fn mend(&self) {
        lock(&self.content).crash_after = None;
    }

    /// The life that uses the disk ends in the middle of the write that many writes from now.
    pub(crate) fn crash_after(&self, writes: u64) {
        lock(&self.content).crash_after = Some(writes);
    }
}

/// A machine's disk as one life of its node sees it.
#[derive(Debug)]
pub(crate) struct LifeDisk {
    machine: Machine,
    life: Arc<Life>,
}

impl LifeDisk {
    fn alive(&self) -> io::Result<()> {
        if self.life.is_over() { Err(io::Error::other("this life is over")) } else { Ok(()) }
    }

    /// What the disk does with the next write: `Err` when it fails, and whether it is stored all the same.
    fn fate(&self, content: &mut Content) -> (bool, io::Result<()>) {
        if let Some(left) = content.crash_after {
            content.crash_after = left.checked_sub(1);
            if left == 0 {
                let stored = self.machine.random.chance(500);
                self.machine.world.trace(format_args!("node {} dies in a write", self.machine.name));
                self.life.end();
                return (stored, Err(io::Error::other("this life ends here")));
            }
        }
        if content.failing {
            let stored = self.machine.random.chance(300);
            self.machine.world.trace(format_args!("disk {} fails (stored: {stored})", self.machine.name));
            return (stored, Err(io::Error::other("input/output error (simulated)")));
        }
        (true, Ok(()))
    }
}

impl Disk for LifeDisk {
    fn get(&self, family: Family, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.alive()?;
        Ok(lock(&self.machine.content).rows.get(&family).and_then(|rows| rows.get(key)).cloned())
    }

    fn last(&self, family: Family) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
        self.alive()?;
        let content = lock(&self.machine.content);
        let row = content.rows.get(&family).and_then(BTreeMap::last_key_value);
        Ok(row.map(|(key, value)| (key.clone(), value.clone())))
    }

    fn scan(&self, family: Family, start: &[u8], visit: &mut Visit<'_>) -> io::Result<()> {
        self.alive()?;
        let mut from = Bound::Included(start.to_vec());
        // Row by row, so a visit may look at the disk too and a long scan copies no more than it shows.
        loop {
            let row = {
                let content = lock(&self.machine.content);
                let row = content.rows.get(&family).and_then(|rows| rows.range((from, Bound::Unbounded)).next());
                row.map(|(key, value)| (key.clone(), value.clone()))
            };
            let Some((key, value)) = row else { return Ok(()) };
            if !visit(&key, &value)? {
                return Ok(());
            }
            from = Bound::Excluded(key);
        }
    }

    fn write(&self, writes: Vec<Write>, durability: Durability) -> io::Result<()> {
        self.alive()?;
        let mut content = lock(&self.machine.content);
        let (stored, result) = self.fate(&mut content);
        let (name, steps, digest) = (self.machine.name, writes.len(), digest(&writes));
        if stored {
            apply(&mut content.rows, &writes);
            content.unsynced.push(writes);
            if durability == Durability::Synced && result.is_ok() {
                let Content { synced, unsynced, .. } = &mut *content;
                unsynced.drain(..).for_each(|batch| apply(synced, &batch));
            }
        }
        drop(content);
        self.machine.world.trace(format_args!("disk {name} {durability:?} {steps} steps {digest:016x}"));
        result
    }

    fn blob_create(&self, name: &str) -> io::Result<Box<dyn BlobWriter>> {
        self.alive()?;
        let disk = Self { machine: self.machine.clone(), life: self.life.clone() };
        Ok(Box::new(File { disk, name: name.to_owned(), bytes: Vec::new() }))
    }

    fn blob_open(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        self.alive()?;
        let file = lock(&self.machine.content).files.get(name).cloned();
        let file = file.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no file {name}")))?;
        Ok(Box::new(Cursor::new(file.as_ref().clone())))
    }

    fn blob_list(&self) -> io::Result<Vec<String>> {
        self.alive()?;
        Ok(lock(&self.machine.content).files.keys().cloned().collect())
    }

    fn blob_remove(&self, name: &str) -> io::Result<()> {
        self.alive()?;
        lock(&self.machine.content).files.remove(name);
        self.machine.world.trace(format_args!("disk {} removes {name}", self.machine.name));
        Ok(())
    }

    fn inline(&self) -> bool {
        true
    }

    fn sync_delay(&self) -> Duration {
        let longest = lock(&self.machine.content).sync_millis_max;
        self.machine.random.millis(0, longest)
    }
}

struct File {
    disk: LifeDisk,
    name: String,
    bytes: Vec<u8>,
}

impl io::Write for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.disk.alive()?;
        self.bytes.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BlobWriter for File {
    fn publish(self: Box<Self>) -> io::Result<()> {
        self.disk.alive()?;
        let Self { disk, name, bytes } = *self;
        let mut content = lock(&disk.machine.content);
        let (stored, result) = disk.fate(&mut content);
        disk.machine.world.trace(format_args!("disk {} file {name}, {} bytes", disk.machine.name, bytes.len()));
        if stored {
            content.files.insert(name, Arc::new(bytes));
        }
        result
    }
}

fn apply(rows: &mut Rows, writes: &[Write]) {
    for write in writes {
        match write {
            Write::Put { family, key, value } => {
                rows.entry(*family).or_default().insert(key.clone(), value.clone());
            }
            Write::Delete { family, key } => {
                rows.entry(*family).or_default().remove(key);
            }
            Write::DeleteRange { family, start, end } => {
                let rows = rows.entry(*family).or_default();
                if start < end {
                    let mut removed = rows.split_off(start);
                    rows.append(&mut removed.split_off(end));
                }
            }
        }
    }
}

fn digest(writes: &[Write]) -> u64 {
    writes.iter().fold(0, |hash, write| {
        let (kind, family, first, second) = match write {
            Write::Put { family, key, value } => (0, family, key.as_slice(), value.as_slice()),
            Write::Delete { family, key } => (1, family, key.as_slice(), [].as_slice()),
            Write::DeleteRange { family, start, end } => (2, family, start.as_slice(), end.as_slice()),
        };
        fnv(fnv(fnv(fnv(hash, &[kind]), family.name().as_bytes()), first), second)
    })
}

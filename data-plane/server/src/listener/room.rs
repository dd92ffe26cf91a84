//! Room that requests or answers share: so many bytes for all, and of the large ones a fair part for each caller.
//!
//! Taken by `body` and `requests`. What is small only counts towards the whole. A caller's large ones together may take
//! up as much as is left for others: one caller alone gets half of the room, two get a third each, and there is always
//! some left for whoever comes next. (That threshold is known from the shared buffers of switches: Choudhury and Hahne,
//! "Dynamic queue length thresholds for shared-memory packet switches".)

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Up to here something is small: as many as there are connections fit a node.
pub(crate) const SMALL_BYTES_MAX: usize = 64 * 1024;

/// Stands for a caller, as long as the process runs.
pub(crate) type CallerKey = u64;

/// There is no room, or too large a part of it is this caller's already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoRoom;

/// See the file's header.
#[derive(Debug)]
pub(crate) struct Room {
    left: AtomicUsize,
    /// What the callers' large ones take up.
    shares: Mutex<HashMap<CallerKey, usize>>,
}

/// A part of the room; given back when dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    room: Arc<Room>,
    caller: CallerKey,
    bytes: usize,
    /// Whether it counts among the caller's.
    is_large: bool,
}

impl Room {
    pub(crate) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(bytes), shares: Mutex::default() })
    }

    /// Nothing yet.
    pub(crate) fn enter(self: &Arc<Self>, caller: CallerKey) -> Taken {
        Taken { room: Arc::clone(self), caller, bytes: 0, is_large: false }
    }

    fn take(&self, bytes: usize) -> Result<usize, NoRoom> {
        let less = |left: usize| left.checked_sub(bytes);
        let before = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        before.map(|before| before - bytes).map_err(|_too_little| NoRoom)
    }

    fn shares(&self) -> MutexGuard<'_, HashMap<CallerKey, usize>> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// So many bytes more.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), NoRoom> {
        let left = self.room.take(bytes)?;
        let total = self.bytes + bytes;
        if total > SMALL_BYTES_MAX {
            let more = if self.is_large { bytes } else { total };
            let mut shares = self.room.shares();
            let share = shares.entry(self.caller).or_default();
            if *share + more > left {
                if *share == 0 {
                    shares.remove(&self.caller);
                }
                drop(shares);
                self.room.left.fetch_add(bytes, Ordering::Relaxed);
                return Err(NoRoom);
            }
            *share += more;
            self.is_large = true;
        }
        self.bytes = total;
        Ok(())
    }

    /// It is another caller's from now on, and counts among theirs.
    pub(crate) fn pass_to(&mut self, caller: CallerKey) -> Result<(), NoRoom> {
        if self.is_large && caller != self.caller {
            let mut shares = self.room.shares();
            let share = shares.get(&caller).copied().unwrap_or_default();
            if share + self.bytes > self.room.left.load(Ordering::Relaxed) {
                return Err(NoRoom);
            }
            give_back(&mut shares, self.caller, self.bytes);
            *shares.entry(caller).or_default() += self.bytes;
        }
        self.caller = caller;
        Ok(())
    }
}

fn give_back(shares: &mut HashMap<CallerKey, usize>, caller: CallerKey, bytes: usize) {
    if let Some(share) = shares.get_mut(&caller) {
        *share = share.saturating_sub(bytes);
        if *share == 0 {
            shares.remove(&caller);
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if self.is_large {
            give_back(&mut self.room.shares(), self.caller, self.bytes);
        }
        self.room.left.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: usize = SMALL_BYTES_MAX + 1;

    fn left(room: &Room) -> usize {
        room.left.load(Ordering::Relaxed)
    }

    fn take(room: &Arc<Room>, caller: CallerKey, bytes: usize) -> Result<Taken, NoRoom> {
        let mut taken = room.enter(caller);
        taken.grow(bytes).map(|()| taken)
    }

    #[test]
    fn what_is_dropped_or_refused_gives_its_room_back() {
        let room = Room::new(10);
        let first = take(&room, 1, 8).unwrap();
        assert_eq!((take(&room, 1, 3).unwrap_err(), left(&room)), (NoRoom, 2));
        drop(first);
        assert_eq!((take(&room, 1, usize::MAX).unwrap_err(), left(&room)), (NoRoom, 10));
    }

    #[test]
    fn one_caller_never_takes_all_the_room_and_another_always_finds_some() {
        let room = Room::new(LARGE * 100);
        let all_of = |caller| std::iter::from_fn(|| take(&room, caller, LARGE).ok()).collect::<Vec<_>>();
        let (first, second) = (all_of(1), all_of(2));
        assert_eq!((first.len(), second.len()), (50, 25), "half, and half of what is left");
        assert!(take(&room, 1, LARGE).is_err() && take(&room, 3, LARGE).is_ok() && take(&room, 1, 100).is_ok());
        drop(first);
        assert!(take(&room, 1, LARGE).is_ok());
        drop(second);
        assert!(room.shares().is_empty() && left(&room) == LARGE * 100);
    }

    #[test]
    fn what_is_passed_on_counts_among_the_other_s_and_within_their_share() {
        let room = Room::new(LARGE * 100);
        let mut all: Vec<_> = (0..60).map_while(|from| take(&room, 100 + from % 2, LARGE).ok()).collect();
        let passed = all.iter_mut().map_while(|taken| taken.pass_to(1).ok()).count();
        assert_eq!((passed, room.shares().get(&1)), (40, Some(&(LARGE * 40))), "no more than is left");
        drop(all);
        assert!(room.shares().is_empty() && left(&room) == LARGE * 100);
        let mut small = take(&room, 2, 100).unwrap();
        small.pass_to(1).unwrap();
        assert!(room.shares().is_empty(), "what is small only counts towards the whole");
        small.grow(LARGE).unwrap();
        assert_eq!(room.shares().get(&1), Some(&(LARGE + 100)), "and grows as the other's");
    }

    #[test]
    fn what_grows_large_counts_as_large_from_then_on() {
        let room = Room::new(LARGE * 10);
        let mut growing = room.enter(1);
        for _ in 0..LARGE {
            growing.grow(1).unwrap();
        }
        assert_eq!(room.shares().get(&1), Some(&LARGE));
        growing.grow(LARGE * 5).unwrap_err();
        growing.grow(LARGE * 4).unwrap();
        assert_eq!((room.shares().get(&1), left(&room)), (Some(&(LARGE * 5)), LARGE * 5));
        drop(growing);
        assert!(room.shares().is_empty() && left(&room) == LARGE * 10);
    }
}

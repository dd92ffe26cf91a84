//! Connections have places, and who may have one when all are taken.
//!
//! `accept` takes a place for each connection, `connection` keeps it. Each place has a [`Control`], by which its
//! connection is asked to finish or told to end, and which says whether it is idle. When all places are taken, a look
//! at them (`fairness`) finds who gives way to the newcomer, or that nobody does; a look takes a while, so it makes
//! room for several and does not happen for every newcomer. At shutdown everybody is asked to finish here.

mod fairness;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::task::AtomicWaker;
use tokio::sync::Notify;

pub(crate) use self::fairness::Origin;
use self::fairness::{Held, who_gives_way};
use super::room::CallerKey;

/// The shortest time between two looks at who gives way: a look at ten thousand places takes half a millisecond.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What a connection is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Asked {
    GoOn,
    /// To take no more requests, and end when those under way are answered.
    Finish,
    End,
}

/// The reins of one connection.
#[derive(Debug)]
pub(super) struct Control {
    asked: AtomicU8,
    driver: AtomicWaker,
    /// Requests under way, and answers that go on.
    busy: AtomicU32,
    /// When the last request began, or the connection: milliseconds of [`Places`].
    last: AtomicU64,
    has_asked: AtomicBool,
    /// Whether requests share the connection (HTTP/2 and 3).
    is_shared: AtomicBool,
    /// Whose request came first; 0 before.
    caller: AtomicU64,
}

/// A request under way, or an answer that goes on.
#[derive(Debug)]
pub(super) struct Busy(Arc<Control>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Release);
    }
}

impl Control {
    fn new(now: u64) -> Self {
        Self {
            asked: AtomicU8::new(0),
            driver: AtomicWaker::new(),
            busy: AtomicU32::new(0),
            last: AtomicU64::new(now),
            has_asked: AtomicBool::new(false),
            is_shared: AtomicBool::new(false),
            caller: AtomicU64::new(0),
        }
    }

    /// A request begins.
    pub(super) fn begin(self: &Arc<Self>, now: u64, is_shared: bool) -> Busy {
        self.busy.fetch_add(1, Ordering::Relaxed);
        self.last.store(now, Ordering::Relaxed);
        self.has_asked.store(true, Ordering::Relaxed);
        if is_shared {
            self.is_shared.store(true, Ordering::Relaxed);
        }
        Busy(Arc::clone(self))
    }

    /// Whose request it is.
    pub(super) fn is_of(&self, caller: CallerKey) {
        if self.caller.load(Ordering::Relaxed) == 0 {
            self.caller.store(caller, Ordering::Relaxed);
        }
    }

    /// Requests share the connection, as is known before the first.
    pub(super) fn share(&self) {
        self.is_shared.store(true, Ordering::Relaxed);
    }

    /// Returns once the connection is asked more than it knows.
    pub(super) async fn asked_beyond(&self, known: Asked) -> Asked {
        std::future::poll_fn(|context| match self.poll_asked(context) {
            asked if asked > known => Poll::Ready(asked),
            _ => Poll::Pending,
        })
        .await
    }

    /// Whether nothing has been under way for so long, at `now`.
    pub(super) fn is_idle_for(&self, wanted: Duration, now: u64) -> bool {
        !self.is_busy() && u128::from(now.saturating_sub(self.last.load(Ordering::Relaxed))) >= wanted.as_millis()
    }

    pub(super) fn is_shared(&self) -> bool {
        self.is_shared.load(Ordering::Relaxed)
    }

    /// What the connection is asked now; whoever drives it is woken when that changes.
    pub(super) fn poll_asked(&self, context: &Context<'_>) -> Asked {
        self.driver.register(context.waker());
        match self.asked.load(Ordering::Acquire) {
            0 => Asked::GoOn,
            1 => Asked::Finish,
            _ => Asked::End,
        }
    }

    /// Asks; what was asked before is never taken back.
    pub(super) fn ask(&self, asked: Asked) {
        let word = match asked {
            Asked::GoOn => 0,
            Asked::Finish => 1,
            Asked::End => 2,
        };
        if self.asked.fetch_max(word, Ordering::AcqRel) < word {
            self.driver.wake();
        }
    }

    /// Runs `future` to its end, or gives `None` if the connection has to end first.
    pub(super) async fn unless_ended<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|context| match self.poll_asked(context) {
            Asked::End => Poll::Ready(None),
            Asked::GoOn | Asked::Finish => future.as_mut().poll(context).map(Some),
        })
        .await
    }

    fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire) > 0
    }
}

/// All places of a listener.
#[derive(Debug)]
pub(crate) struct Places {
    began: Instant,
    places_max: usize,
    table: Mutex<Table>,
    /// Connections that are there, those that have given way included.
    there: AtomicUsize,
    /// Told when a connection is gone.
    gone: Notify,
    is_draining: AtomicBool,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    held: HashMap<u64, (Origin, Arc<Control>)>,
    looked: Option<Instant>,
}

/// One connection's place.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    pub(super) control: Arc<Control>,
}

/// What became of a newcomer.
#[derive(Debug)]
pub(super) struct Arrival {
    /// None: everything is taken, and nobody gives way.
    pub(super) place: Option<Place>,
    /// How many others have given way.
    pub(super) gave_way: usize,
}

impl Places {
    pub(crate) fn new(places_max: usize) -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            places_max,
            table: Mutex::default(),
            there: AtomicUsize::new(0),
            gone: Notify::new(),
            is_draining: AtomicBool::new(false),
        })
    }

    /// Milliseconds since this began.
    pub(super) fn at(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes a place for a connection from there, if there is one or somebody gives way.
    pub(super) fn arrive(self: &Arc<Self>, address: IpAddr, now: Instant) -> Arrival {
        let (origin, mut table) = (Origin::of(address), self.table());
        let mut gave_way = 0;
        if table.held.len() >= self.places_max {
            gave_way = self.make_room(&mut table, origin, now);
            if gave_way == 0 {
                return Arrival { place: None, gave_way };
            }
        }
        let (number, control) = (table.next, Arc::new(Control::new(self.at(now))));
        table.next += 1;
        table.held.insert(number, (origin, Arc::clone(&control)));
        self.there.fetch_add(1, Ordering::Relaxed);
        Arrival { place: Some(Place { places: Arc::clone(self), number, control }), gave_way }
    }

    fn make_room(&self, table: &mut Table, newcomer: Origin, now: Instant) -> usize {
        if table.looked.is_some_and(|looked| now.saturating_duration_since(looked) < LOOK_EVERY) {
            return 0;
        }
        table.looked = Some(now);
        let now = self.at(now);
        let held: Vec<Held> = table
            .held
            .iter()
            .map(|(number, (origin, control))| {
                let idle = (!control.is_busy()).then(|| now.saturating_sub(control.last.load(Ordering::Relaxed)));
                Held { number: *number, origin: *origin, caller: control.caller.load(Ordering::Relaxed), idle }
            })
            .collect();
        let give_way = who_gives_way(&held, newcomer, self.places_max);
        for number in &give_way {
            if let Some((_, control)) = table.held.remove(number) {
                control.ask(Asked::End);
            }
        }
        give_way.len()
    }

    /// Whether more than half of the places are taken.
    pub(super) fn is_crowded(&self) -> bool {
        self.table().held.len() > self.places_max / 2
    }

    /// From now on whoever asks something is told to come back elsewhere.
    pub(super) fn drain(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    /// Asks all that have been idle for so long to end, and all others to finish. Whether there is still one that may
    /// bring a request.
    pub(super) fn see_off(&self, idle_for: Duration, now: Instant) -> bool {
        let (mut may_ask, now) = (false, self.at(now));
        for (_, control) in self.table().held.values() {
            let was_idle_for = now.saturating_sub(control.last.load(Ordering::Relaxed));
            if control.is_busy() || control.is_shared() {
                // Streams that were begun are told apart from new ones by the protocol.
                control.ask(Asked::Finish);
                may_ask |= !control.is_busy();
            } else if u128::from(was_idle_for) < idle_for.as_millis() {
                may_ask = true;
            } else if control.has_asked.load(Ordering::Relaxed) {
                control.ask(Asked::Finish);
                may_ask = true;
            } else {
                control.ask(Asked::End);
            }
        }
        may_ask
    }

    /// Ends whoever is still there.
    pub(super) fn end_all(&self) {
        self.table().held.values().for_each(|(_, control)| control.ask(Asked::End));
    }

    /// Returns once nobody is there.
    pub(super) async fn empty(&self) {
        loop {
            let gone = self.gone.notified();
            if self.there.load(Ordering::Acquire) == 0 {
                return;
            }
            gone.await;
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// The connection is one from there, as whoever passed it on says.
    pub(super) fn is_from(&self, address: IpAddr) {
        if let Some((origin, _)) = self.places.table().held.get_mut(&self.number) {
            *origin = Origin::of(address);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.table().held.remove(&self.number);
        if self.places.there.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.places.gone.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn address(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(0x0a00_0000 + number).into()
    }

    fn is_ended(place: &Place) -> bool {
        place.control.asked.load(Ordering::Acquire) == 2
    }

    #[test]
    fn an_address_that_has_all_places_gives_way_to_another_one_and_gets_no_more() {
        let (places, start) = (Places::new(100), Instant::now());
        let greedy: Vec<Place> = (0..100).filter_map(|_| places.arrive(address(1), start).place).collect();
        let busy: Vec<Busy> = greedy.iter().map(|place| place.control.begin(0, false)).collect();
        assert!(places.arrive(address(1), start + SECOND).place.is_none(), "nobody gives way to its own");
        let arrival = places.arrive(address(2), start + SECOND * 2);
        assert!(arrival.place.is_some() && arrival.gave_way == 1);
        assert_eq!(greedy.iter().filter(|place| is_ended(place)).count(), 1);
        drop((busy, arrival));
        assert!(places.arrive(address(1), start + SECOND * 3).place.is_some());
    }

    #[test]
    fn looks_are_rare_and_make_room_for_several() {
        let (places, start) = (Places::new(1000), Instant::now());
        let held: Vec<Place> = (0..1000).filter_map(|number| places.arrive(address(number), start).place).collect();
        let later = start + SECOND * 5;
        let arrival = places.arrive(address(5000), later);
        assert!(arrival.gave_way > 1 && held.iter().filter(|place| is_ended(place)).count() == arrival.gave_way);
        let next: Vec<_> = (0..arrival.gave_way).map(|_| places.arrive(address(6000), later)).collect();
        assert_eq!(next.iter().filter(|next| next.place.is_some()).count(), arrival.gave_way - 1);
    }

    #[tokio::test]
    async fn those_that_finish_are_asked_by_what_they_do() {
        let (places, start) = (Places::new(10), Instant::now());
        let [silent, idle, busy, shared] =
            [1, 2, 3, 4].map(|number| places.arrive(address(number), start).place.unwrap());
        drop(idle.control.begin(0, false));
        let under_way = busy.control.begin(0, false);
        drop(shared.control.begin(0, true));
        let asked = |place: &Place| place.control.asked.load(Ordering::Acquire);
        let all = || [&silent, &idle, &busy, &shared].map(asked);
        assert!(places.see_off(SECOND, start));
        assert_eq!(all(), [0, 0, 1, 1], "whoever is idle may have sent something");
        assert!(places.see_off(SECOND, start + SECOND));
        assert_eq!(all(), [2, 1, 1, 1]);
        drop((silent, idle, shared));
        assert!(!places.see_off(SECOND, start + SECOND), "who is left brings no more requests");
        drop((under_way, busy));
        places.empty().await;
    }
}

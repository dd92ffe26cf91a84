//! One round: load on one target for a while, by as many callers as wanted, at their own pace or at a given rate.
//!
//! Each thread has a runtime and connections of its own, so callers wait for nobody but the target. All begin together,
//! warm up, and are then measured for the same stretch of time:
//! - throughput is what ended within the stretch, divided by it; so is the processors' time per call;
//! - latency is that of each call that began (closed loop) or was to begin (open loop) within the stretch, however late
//!   it ended. A call that hangs at the end of the round is waited for, not forgotten.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::{
        Barrier, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use hdrhistogram::Histogram;
use tokio::{runtime::Builder, sync::Semaphore, task::LocalSet};

use super::{
    connection::{Connection, Unanswered},
    pacing::{Alarm, Schedule},
    processes::{Sample, Watched},
    target::{CALL_WAIT_MAX, Target},
};

/// After the end of a round, calls that are overdue are still sent for so long; what is left then is counted as unsent.
const CATCH_UP_MAX: Duration = Duration::from_secs(10);
/// Longest latency that the figures tell apart: a call of this length timed out, after waiting to be sent.
const LATENCY_MAX: Duration = Duration::from_secs(120);
/// Three digits: a figure is off by a thousandth at most.
const DIGITS: u8 = 3;
/// Between opening the connections and the first call, so that all threads begin together.
const START_TOGETHER: Duration = Duration::from_millis(5);

/// Ids of calls: no two of a run are the same, for a session may forbid that.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// How much load, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Calls under way at most.
    pub(crate) callers: u32,
    /// Callers that share one connection (HTTP/2).
    pub(crate) streams: u32,
    /// Calls a second; without, every caller goes on as soon as it has its answer.
    pub(crate) rate: Option<f64>,
    pub(crate) threads: u32,
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
}

/// What happened in one round.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    pub(crate) measured: Duration,
    /// Good answers within the stretch.
    pub(crate) ended: u64,
    pub(crate) refused: u64,
    pub(crate) failed: u64,
    /// Calls of an open loop that never got their turn.
    pub(crate) unsent: u64,
    /// The first refusal or failure, in its own words.
    pub(crate) first_trouble: Option<String>,
    /// Nanoseconds.
    pub(crate) latencies: Histogram<u64>,
    /// How late the load generator itself released calls of an open loop, in nanoseconds.
    pub(crate) lateness: Histogram<u64>,
    /// Processor time by watched process, in their order.
    pub(crate) used: Vec<Duration>,
    /// Memory by watched process at the end, in MiB.
    pub(crate) resident_mib: Vec<f64>,
}

/// When the stretch begins and ends.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    start: Instant,
    from: Instant,
    until: Instant,
}

/// What the callers of one thread found.
#[derive(Debug)]
struct Tally {
    ended: u64,
    refused: u64,
    failed: u64,
    unsent: u64,
    first_trouble: Option<String>,
    latencies: Histogram<u64>,
    lateness: Histogram<u64>,
}

/// Calls of an open loop that are due: as many permits as there are calls to begin.
#[derive(Debug)]
struct Due {
    schedule: Schedule,
    permits: Semaphore,
    taken: Cell<u64>,
    all: Cell<u64>,
}

/// One round. Fails if no connection can be opened, or a watched process is gone.
pub(crate) fn run(target: &Target, load: &Load, watched: &[Watched]) -> Result<Round> {
    let threads = load.threads.min(load.callers).max(1);
    let (opened, begun) = (Barrier::new(threads as usize + 1), Barrier::new(threads as usize + 1));
    let stretch: OnceLock<Stretch> = OnceLock::new();
    thread::scope(|scope| {
        let callers: Vec<_> = (0..threads)
            .map(|number| {
                let (opened, begun, stretch) = (&opened, &begun, &stretch);
                let at = move || {
                    opened.wait();
                    begun.wait();
                    stretch.get().copied().context("the round did not begin")
                };
                scope.spawn(move || on_thread(target, load, number, threads, at))
            })
            .collect();
        opened.wait();
        let start = Instant::now() + START_TOGETHER;
        let from = start + load.warm_up;
        let whole = Stretch { start, from, until: from + load.measured };
        let _ = stretch.set(whole);
        begun.wait();
        let sampled = sample_over(whole, watched);
        let mut all = Tally::new()?;
        for caller in callers {
            all.add(caller.join().map_err(|_| anyhow!("a thread of the load generator broke"))??)?;
        }
        let (took, used, resident_mib) = sampled?;
        Ok(all.into_round(took, used, resident_mib))
    })
}

/// Processor time over the stretch, and how long that really was.
fn sample_over(stretch: Stretch, watched: &[Watched]) -> Result<(Duration, Vec<Duration>, Vec<f64>)> {
    let samples = || watched.iter().map(Watched::sample).collect::<Result<Vec<Sample>>>();
    thread::sleep(stretch.from.saturating_duration_since(Instant::now()));
    let (from, before) = (Instant::now(), samples()?);
    thread::sleep(stretch.until.saturating_duration_since(Instant::now()));
    let (until, after) = (Instant::now(), samples()?);
    // Scaled to the stretch, so that sleeping a little too long does not count as work.
    let scale = (stretch.until - stretch.from).as_secs_f64() / (until - from).as_secs_f64().max(f64::EPSILON);
    let used = after.iter().zip(&before).map(|(after, before)| after.since(before).mul_f64(scale)).collect();
    Ok((stretch.until - stretch.from, used, watched.iter().map(Watched::resident_mib).collect()))
}

fn on_thread(
    target: &Target,
    load: &Load,
    number: u32,
    threads: u32,
    begin: impl FnOnce() -> Result<Stretch>,
) -> Result<Tally> {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            // The others wait for every thread.
            let _ = begin();
            return Err(error.into());
        }
    };
    let local = LocalSet::new();
    // The callers of this thread: every one of the first `remainder` threads has one more.
    let callers = load.callers / threads + u32::from(number < load.callers % threads);
    local.block_on(&runtime, async {
        let opened = open(target, callers, load.streams).await;
        // Also without connections: the others wait here.
        let stretch = begin()?;
        let connections = opened?;
        let tally = Rc::new(RefCell::new(Tally::new()?));
        let due = load.rate.map(|rate| Rc::new(Due::new(Schedule::share(stretch.start, rate, number, threads))));
        let mut callers_of_all = tokio::task::JoinSet::new();
        for caller in 0..callers {
            let connection = connections.get((caller / load.streams.max(1)) as usize).context("no connection")?;
            let (connection, tally, due) = (Rc::clone(connection), Rc::clone(&tally), due.clone());
            callers_of_all.spawn_local(async move {
                match due {
                    None => closed_loop(&connection, stretch, &tally).await,
                    Some(due) => open_loop(&connection, stretch, &due, &tally).await,
                }
            });
        }
        if let Some(due) = &due {
            due.release(stretch, callers, &tally).await?;
        }
        while let Some(ended) = callers_of_all.join_next().await {
            ended?;
        }
        if let Some(due) = &due {
            tally.borrow_mut().unsent += due.all.get().saturating_sub(due.taken.get());
        }
        drop(callers_of_all);
        Rc::try_unwrap(tally).map(RefCell::into_inner).map_err(|_| anyhow!("a caller did not end"))
    })
}

async fn open(target: &Target, callers: u32, streams: u32) -> Result<Vec<Rc<Connection>>> {
    let target = Rc::new(target.clone());
    let mut connections = Vec::new();
    for _ in 0..callers.div_ceil(streams.max(1)) {
        let connection = Connection::new(Rc::clone(&target));
        connection.open().await.with_context(|| target.name.clone())?;
        connections.push(Rc::new(connection));
    }
    Ok(connections)
}

async fn closed_loop(connection: &Connection, stretch: Stretch, tally: &RefCell<Tally>) {
    loop {
        let began = Instant::now();
        if began >= stretch.until {
            break;
        }
        let called = connection.call(NEXT_ID.fetch_add(1, Ordering::Relaxed)).await;
        tally.borrow_mut().note(stretch, began, called);
    }
}

async fn open_loop(connection: &Connection, stretch: Stretch, due: &Due, tally: &RefCell<Tally>) {
    while let Some(intended) = due.take().await {
        if Instant::now() > stretch.until + CATCH_UP_MAX {
            tally.borrow_mut().unsent += 1;
            continue;
        }
        let called = connection.call(NEXT_ID.fetch_add(1, Ordering::Relaxed)).await;
        tally.borrow_mut().note(stretch, intended, called);
    }
}

impl Due {
    fn new(schedule: Schedule) -> Self {
        Self { schedule, permits: Semaphore::new(0), taken: Cell::new(0), all: Cell::new(u64::MAX) }
    }

    /// The next call to begin: when it was to. None after the last.
    async fn take(&self) -> Option<Instant> {
        self.permits.acquire().await.ok()?.forget();
        let call = self.taken.get();
        if call >= self.all.get() {
            return None;
        }
        self.taken.set(call + 1);
        Some(self.schedule.start_of(call))
    }

    /// Releases every call when it is due, until the stretch is over; then lets the callers end.
    async fn release(&self, stretch: Stretch, callers: u32, tally: &RefCell<Tally>) -> Result<()> {
        let alarm = Alarm::new()?;
        let mut released = 0;
        loop {
            let now = Instant::now();
            let over = now >= stretch.until;
            let due = self.schedule.due(if over { stretch.until } else { now });
            for call in released..due {
                let late = now.saturating_duration_since(self.schedule.start_of(call));
                tally.borrow_mut().lateness.saturating_record(nanoseconds(late));
            }
            self.permits.add_permits(usize::try_from(due - released)?);
            released = due;
            if over {
                break;
            }
            alarm.wait_until(self.schedule.start_of(released).min(stretch.until)).await?;
        }
        self.all.set(released);
        self.permits.add_permits(callers as usize);
        Ok(())
    }
}

impl Tally {
    fn new() -> Result<Self> {
        let histogram = || Histogram::new_with_bounds(1, nanoseconds(LATENCY_MAX), DIGITS);
        let (latencies, lateness) = (histogram()?, histogram()?);
        Ok(Self { ended: 0, refused: 0, failed: 0, unsent: 0, first_trouble: None, latencies, lateness })
    }

    fn note(&mut self, stretch: Stretch, began: Instant, called: Result<(), Unanswered>) {
        let now = Instant::now();
        match called {
            Ok(()) => {
                if began >= stretch.from && began < stretch.until {
                    self.latencies.saturating_record(nanoseconds(now - began));
                }
                if now >= stretch.from && now < stretch.until {
                    self.ended += 1;
                }
            }
            Err(trouble) => {
                let (count, text) = match trouble {
                    Unanswered::Refused(text) => (&mut self.refused, text),
                    Unanswered::Failed(text) => (&mut self.failed, text),
                };
                *count += 1;
                self.first_trouble.get_or_insert(text);
            }
        }
    }

    fn add(&mut self, other: Self) -> Result<()> {
        self.ended += other.ended;
        self.refused += other.refused;
        self.failed += other.failed;
        self.unsent += other.unsent;
        self.first_trouble = self.first_trouble.take().or(other.first_trouble);
        self.latencies.add(other.latencies)?;
        self.lateness.add(other.lateness)?;
        Ok(())
    }

    fn into_round(self, measured: Duration, used: Vec<Duration>, resident_mib: Vec<f64>) -> Round {
        let Self { ended, refused, failed, unsent, first_trouble, latencies, lateness } = self;
        Round { measured, ended, refused, failed, unsent, first_trouble, latencies, lateness, used, resident_mib }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

const _: () = assert!(CALL_WAIT_MAX.as_secs() + CATCH_UP_MAX.as_secs() < LATENCY_MAX.as_secs());

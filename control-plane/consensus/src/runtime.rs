//! The asynchronous runtime that the Raft library runs its tasks on: tokio, and in a simulation tokio under a [`Host`].
//!
//! A production node has no host: every call goes straight to tokio. The simulation (`tests/simulation`) runs whole
//! clusters on one thread and has to stop one node between any two steps, let it sleep, or take it away, and to draw
//! every random number from one seed. [`hosted`] puts a task under a host; tasks that it starts inherit the host.
//! Invariant: under a host no task of the library runs, and no number is drawn, that the host did not allow.

mod watch;

use std::{
    cell::RefCell,
    fmt::Debug,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use openraft::{AsyncRuntime, OptionalSend};
use openraft_rt_tokio::TokioRuntime;
use rand::{TryRng, rand_core::utils::fill_bytes_via_next_word};

/// What becomes of a task that is about to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It runs.
    Run,
    /// It waits; the host wakes it later.
    Wait,
    /// Its node is gone: it is dropped where it stands and never ends.
    Gone,
}

/// The ground under one simulated node.
pub trait Host: Send + Sync + 'static {
    /// Asked before every step of every task. A host that says [`Turn::Wait`] keeps the waker.
    fn turn(&self, waker: &Waker) -> Turn;
    /// The next random number.
    fn random(&self) -> u64;
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<dyn Host>>> = const { RefCell::new(None) };
}

/// The host of the task that runs now, if it has one.
#[must_use]
pub fn current() -> Option<Arc<dyn Host>> {
    CURRENT.with_borrow(Clone::clone)
}

/// Runs `future`, and all tasks of the library started by it, under `host`.
pub fn hosted<F: Future>(host: Arc<dyn Host>, future: F) -> Hosted<F> {
    Hosted { host, future: Some(Box::pin(future)) }
}

/// A task under a host.
pub struct Hosted<F> {
    host: Arc<dyn Host>,
    future: Option<Pin<Box<F>>>,
}

impl<F> Debug for Hosted<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hosted").finish_non_exhaustive()
    }
}

impl<F: Future> Future for Hosted<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let turn = self.host.turn(context.waker());
        let before = CURRENT.replace(Some(self.host.clone()));
        let polled = match (turn, self.future.as_mut()) {
            (Turn::Run, Some(future)) => future.as_mut().poll(context),
            (Turn::Wait, _) | (Turn::Run, None) => Poll::Pending,
            (Turn::Gone, _) => {
                self.future = None;
                Poll::Pending
            }
        };
        CURRENT.set(before);
        polled
    }
}

/// Tokio, and the host where there is one.
pub(crate) struct NodeRuntime(TokioRuntime);

impl Debug for NodeRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl AsyncRuntime for NodeRuntime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = NodeRandom;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = watch::InOrder;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        match current() {
            Some(host) => TokioRuntime::spawn(hosted(host, future)),
            None => TokioRuntime::spawn(future),
        }
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        NodeRandom(current())
    }

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }

    fn spawn_blocking<F, T>(f: F) -> impl Future<Output = Result<T, io::Error>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        TokioRuntime::spawn_blocking(f)
    }
}

/// The host's random numbers, or the operating system's.
pub(crate) struct NodeRandom(Option<Arc<dyn Host>>);

impl TryRng for NodeRandom {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        // The upper half, as generators are better there.
        self.try_next_u64().map(|word| u32::try_from(word >> 32).unwrap_or(u32::MAX))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        match &self.0 {
            Some(host) => Ok(host.random()),
            None => rand::rng().try_next_u64(),
        }
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        fill_bytes_via_next_word(bytes, || self.try_next_u64())
    }
}

#[cfg(test)]
mod tests {
    use openraft::rt::testing::Suite;

    use super::NodeRuntime;

    #[test]
    fn the_runtime_passes_the_librarys_suite() {
        Suite::<NodeRuntime>::test_all();
    }
}

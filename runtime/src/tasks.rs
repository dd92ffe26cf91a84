//! Supervised tasks: the only place that spawns.
//!
//! Every task has a name and says what its end means. A critical task that ends before shutdown was requested, or
//! any task that panics, takes the whole role down: half a process is worse than none. Waiting for the role's end
//! is waiting for [`Supervisor::ended`]. Work that one waits for and that has to be done all the same is
//! [`Persistent`]: a task only once nobody waits.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use crate::shutdown::Shutdown;

/// What the end of a task means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnEnd {
    /// The role cannot go on without it: its end before shutdown requests shutdown and is a failure.
    Critical,
    /// It may finish whenever it is done (one call, one connection).
    Finish,
}

/// Spawns and counts the tasks of one role.
#[derive(Clone, Debug)]
pub struct Supervisor {
    tracker: TaskTracker,
    shutdown: Shutdown,
    failed: Arc<OnceLock<&'static str>>,
}

/// The task of this name ended when it should not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("task `{0}` ended unexpectedly")]
pub struct TaskFailed(pub &'static str);

impl Supervisor {
    /// A supervisor whose failures request `shutdown`.
    #[must_use]
    pub fn new(shutdown: Shutdown) -> Self {
        Self { tracker: TaskTracker::new(), shutdown, failed: Arc::default() }
    }

    /// The shutdown its tasks should watch.
    #[must_use]
    pub const fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Starts a task.
    pub fn spawn<F>(&self, name: &'static str, on_end: OnEnd, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let end = End { supervisor: self.clone(), name, on_end, is_reached: false };
        self.tracker.spawn(async move {
            task.await;
            end.reached();
        });
    }

    /// Work for whoever waits for it; see [`Persistent`].
    pub fn persist<F>(&self, name: &'static str, work: F) -> Persistent<F>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        Persistent { work: Some(Box::pin(work)), name, supervisor: self.clone() }
    }

    /// Returns once shutdown was requested and every task has ended.
    ///
    /// # Errors
    /// [`TaskFailed`] when a task's end was the cause.
    pub async fn ended(&self) -> Result<(), TaskFailed> {
        self.shutdown.requested().await;
        self.tracker.close();
        self.tracker.wait().await;
        self.failed.get().map_or(Ok(()), |name| Err(TaskFailed(name)))
    }
}

/// Work that is done while it is waited for, and goes on as a task of its own when it is dropped before its end.
pub struct Persistent<F: Future<Output: Send> + Send + 'static> {
    /// Until it is done.
    work: Option<Pin<Box<F>>>,
    name: &'static str,
    supervisor: Supervisor,
}

impl<F: Future<Output: Send> + Send + 'static> Persistent<F> {
    /// Goes on as a task of its own, which does `then` with what comes of it.
    pub fn go_on(mut self, then: impl FnOnce(F::Output) + Send + 'static) {
        if let Some(work) = self.work.take() {
            self.supervisor.spawn(self.name, OnEnd::Finish, async move { then(work.await) });
        }
    }
}

impl<F: Future<Output: Send> + Send + 'static> fmt::Debug for Persistent<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Persistent").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<F: Future<Output: Send> + Send + 'static> Future for Persistent<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Some(work) = &mut self.work else { return Poll::Pending };
        let polled = work.as_mut().poll(context);
        if polled.is_ready() {
            self.work = None;
        }
        polled
    }
}

impl<F: Future<Output: Send> + Send + 'static> Drop for Persistent<F> {
    fn drop(&mut self) {
        // Work that panicked cannot go on, and without a runtime nothing can.
        if let Some(work) = self.work.take().filter(|_| !std::thread::panicking() && Handle::try_current().is_ok()) {
            self.supervisor.spawn(self.name, OnEnd::Finish, async move { drop(work.await) });
        }
    }
}

/// Travels with a task and is dropped when that ends, however it ends.
struct End {
    supervisor: Supervisor,
    name: &'static str,
    on_end: OnEnd,
    /// The task came to its end by itself.
    is_reached: bool,
}

impl End {
    fn reached(mut self) {
        self.is_reached = true;
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let Supervisor { shutdown, failed, .. } = &self.supervisor;
        let is_early = self.is_reached && self.on_end == OnEnd::Critical && !shutdown.is_requested();
        // A task that is neither at its end nor panicking is dropped with its runtime.
        if is_early || (!self.is_reached && std::thread::panicking()) {
            tracing::error!(task = self.name, "task ended unexpectedly; stopping");
            failed.get_or_init(|| self.name);
            shutdown.request();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_critical_task_that_ends_takes_the_role_down() {
        let supervisor = Supervisor::new(Shutdown::new());
        supervisor.spawn("short", OnEnd::Critical, async {});
        assert_eq!(supervisor.ended().await, Err(TaskFailed("short")));
    }

    #[tokio::test]
    async fn a_panic_takes_the_role_down() {
        let supervisor = Supervisor::new(Shutdown::new());
        supervisor.spawn("loud", OnEnd::Finish, async { panic!("on purpose") });
        assert_eq!(supervisor.ended().await, Err(TaskFailed("loud")));
    }

    #[tokio::test]
    async fn work_that_nobody_waits_for_any_more_is_done_all_the_same() {
        let supervisor = Supervisor::new(Shutdown::new());
        let (go_on, gate) = tokio::sync::oneshot::channel();
        let (done, is_done) = tokio::sync::oneshot::channel();
        let mut work = supervisor.persist("work", async move {
            gate.await.unwrap();
            done.send(()).unwrap();
        });
        assert!(futures::poll!(&mut work).is_pending());
        drop(work);
        go_on.send(()).unwrap();
        is_done.await.unwrap();
        assert_eq!(supervisor.persist("more", async { 7 }).await, 7, "whoever waits gets what comes of it");
        let (tell, told) = tokio::sync::oneshot::channel();
        supervisor.persist("aside", async { 8 }).go_on(|number| tell.send(number).unwrap());
        assert_eq!(told.await, Ok(8));
        supervisor.shutdown().request();
        assert_eq!(supervisor.ended().await, Ok(()), "it is waited for like any task");
    }

    #[tokio::test]
    async fn finished_tasks_and_a_requested_stop_are_no_failure() {
        let supervisor = Supervisor::new(Shutdown::new());
        supervisor.spawn("quick", OnEnd::Finish, async {});
        let stop = supervisor.shutdown().clone();
        supervisor.spawn("steady", OnEnd::Critical, async move { stop.requested().await });
        supervisor.shutdown().request();
        assert_eq!(supervisor.ended().await, Ok(()));
    }
}

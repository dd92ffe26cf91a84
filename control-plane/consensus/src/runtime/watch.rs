//! A watched value that wakes those who wait for it in the order in which they began to.
//!
//! Tokio's own picks among its waiters at random, with numbers nobody can seed; in a simulation the same seed would
//! then not give the same run. The value itself is tokio's; only the waking is done here.
//! Invariant: a waiter is in the list before it looks at the value, so a change is seen or wakes it.

use std::{
    fmt,
    future::{Future, poll_fn},
    mem,
    ops::Deref,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Waker},
};

use openraft::{
    OptionalSend, OptionalSync,
    async_runtime::watch::{RecvError, SendError, Watch, WatchReceiver, WatchSender},
};
use tokio::sync::watch;

/// Watched values whose waiters are woken in order.
pub(crate) struct InOrder;

/// Tasks that wait for a change, each once, those that began first before the others.
#[derive(Clone, Default)]
struct Waiting(Arc<Mutex<Vec<Waker>>>);

impl Waiting {
    fn add(&self, context: &Context<'_>) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !waiting.iter().any(|known| known.will_wake(context.waker())) {
            waiting.push(context.waker().clone());
        }
    }

    fn wake(&self) {
        let waiting = mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        waiting.into_iter().for_each(Waker::wake);
    }
}

/// Wakes everybody when it goes: the last sender's end is news too.
#[derive(Clone)]
struct WakeAtEnd(Waiting);

impl Drop for WakeAtEnd {
    fn drop(&mut self) {
        self.0.wake();
    }
}

/// The sending end.
pub(crate) struct Sender<T> {
    // Dropped first, so that whoever is woken by the other field finds it gone.
    value: watch::Sender<T>,
    waiting: WakeAtEnd,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), waiting: self.waiting.clone() }
    }
}

/// The receiving end.
pub(crate) struct Receiver<T> {
    value: watch::Receiver<T>,
    waiting: Waiting,
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), waiting: self.waiting.clone() }
    }
}

/// The value, borrowed.
pub(crate) struct Ref<'a, T>(watch::Ref<'a, T>);

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: fmt::Debug> fmt::Debug for Ref<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.deref().fmt(f)
    }
}

impl Watch for InOrder {
    type Sender<T: OptionalSend + OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = Ref<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (Sender<T>, Receiver<T>) {
        let (sender, receiver) = watch::channel(init);
        let waiting = Waiting::default();
        (Sender { value: sender, waiting: WakeAtEnd(waiting.clone()) }, Receiver { value: receiver, waiting })
    }
}

impl<T: OptionalSend + OptionalSync> WatchSender<InOrder, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        self.value.send(value).map_err(|error| SendError(error.0))?;
        self.waiting.0.wake();
        Ok(())
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        let modified = self.value.send_if_modified(modify);
        if modified {
            self.waiting.0.wake();
        }
        modified
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        Ref(self.value.borrow())
    }

    fn subscribe(&self) -> Receiver<T> {
        Receiver { value: self.value.subscribe(), waiting: self.waiting.0.clone() }
    }
}

impl<T: OptionalSend + OptionalSync> WatchReceiver<InOrder, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        poll_fn(|context| {
            self.waiting.add(context);
            // Dropped after one look, so tokio's list never holds this task.
            pin!(self.value.changed()).poll(context)
        })
        .await
        .map_err(|_| RecvError(()))
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        Ref(self.value.borrow())
    }

    fn borrow_and_update(&mut self) -> Ref<'_, T> {
        Ref(self.value.borrow_and_update())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, Mutex},
        time::Duration,
    };

    use openraft::AsyncRuntime as _;

    use super::*;
    use crate::runtime::NodeRuntime;

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn waiters_wake_in_the_order_in_which_they_began_to_wait() {
        for _ in 0..20 {
            let (sender, receiver) = InOrder::channel(0);
            let woken = Arc::new(Mutex::new(Vec::new()));
            let tasks: Vec<_> = (0..6)
                .map(|number| {
                    let (mut receiver, woken) = (receiver.clone(), woken.clone());
                    NodeRuntime::spawn(async move {
                        while receiver.changed().await.is_ok() {
                            woken.lock().unwrap().push((number, *receiver.borrow_watched()));
                        }
                        woken.lock().unwrap().push((number, -1));
                    })
                })
                .collect();
            tokio::time::sleep(Duration::from_millis(1)).await;
            for value in [1, 2] {
                assert!(sender.send_if_different(value));
                assert!(!sender.send_if_different(value));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            drop(sender);
            for task in tasks {
                task.await.unwrap();
            }
            let expected: Vec<(i32, i32)> =
                [1, 2, -1].into_iter().flat_map(|value| (0..6).map(move |number| (number, value))).collect();
            assert_eq!(*woken.lock().unwrap(), expected);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn no_change_is_missed_between_threads() {
        for _ in 0..50 {
            let (sender, receiver) = InOrder::channel(0_u64);
            let readers: Vec<_> = (0..4)
                .map(|_| {
                    let mut receiver = receiver.clone();
                    NodeRuntime::spawn(async move { receiver.wait_until_ge(&200).await.map(drop) })
                })
                .collect();
            for value in 1..=200 {
                sender.send(value).unwrap();
                if value % 50 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            for reader in readers {
                tokio::time::timeout(Duration::from_secs(20), reader).await.unwrap().unwrap().unwrap();
            }
        }
    }
}

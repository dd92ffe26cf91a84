//! The embedded transport: bounded channels between tasks of one process.
//!
//! A publish waits while the consumer's queue is full, so a slow consumer slows its publishers instead of growing.
//! Listeners that fall behind miss broadcasts, as they would on a network.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{broadcast, mpsc};

use super::{Message, PUBLISH_WAIT_MAX, StreamError};

/// Messages waiting for a consumer: a few batches per publisher; more would only hide a slow consumer.
const CONSUMER_QUEUE_MESSAGES_MAX: usize = 256;
/// Broadcasts kept for a listener that is behind.
const LISTENER_QUEUE_MESSAGES_MAX: usize = 1024;

/// Where publishers and consumers of one process meet.
#[derive(Debug, Default)]
pub(super) struct Hub {
    consumers: Mutex<Vec<Route>>,
    listeners: Mutex<Vec<(String, broadcast::Sender<Bytes>)>>,
}

#[derive(Clone, Debug)]
struct Route {
    filters: Vec<String>,
    queue: mpsc::Sender<Message>,
}

#[derive(Debug)]
pub(super) struct Consumer(mpsc::Receiver<Message>);

impl Consumer {
    pub(super) async fn next(&mut self) -> Option<Message> {
        self.0.recv().await
    }
}

#[derive(Debug)]
pub(super) struct Listener(broadcast::Receiver<Bytes>);

impl Listener {
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        loop {
            match self.0.recv().await {
                Ok(payload) => return Some(payload),
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "listener fell behind; broadcasts were missed");
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

impl Hub {
    pub(super) async fn publish(&self, subject: &str, payload: Bytes) -> Result<(), StreamError> {
        let unavailable = || StreamError::Unavailable(subject.to_owned());
        let routes: Vec<Route> = {
            let mut consumers = lock(&self.consumers);
            consumers.retain(|route| !route.queue.is_closed());
            consumers
                .iter()
                .filter(|route| route.filters.iter().any(|filter| matches(filter, subject)))
                .cloned()
                .collect()
        };
        if routes.is_empty() {
            return Err(unavailable());
        }
        for route in routes {
            let message = Message { subject: subject.to_owned(), payload: payload.clone(), ack: None };
            let sent = tokio::time::timeout(PUBLISH_WAIT_MAX, route.queue.send(message)).await;
            sent.map_err(|_| unavailable())?.map_err(|_| unavailable())?;
        }
        Ok(())
    }

    pub(super) fn consume(&self, filters: &[&str]) -> Consumer {
        let (queue, messages) = mpsc::channel(CONSUMER_QUEUE_MESSAGES_MAX);
        let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
        lock(&self.consumers).push(Route { filters, queue });
        Consumer(messages)
    }

    pub(super) fn broadcast(&self, subject: &str, payload: &Bytes) {
        let mut listeners = lock(&self.listeners);
        listeners.retain(|(_, sender)| sender.receiver_count() > 0);
        for (_, sender) in listeners.iter().filter(|(name, _)| name == subject) {
            // The receiver may have gone since; then there is nobody to tell.
            drop(sender.send(payload.clone()));
        }
    }

    pub(super) fn listen(&self, subject: &str) -> Listener {
        let mut listeners = lock(&self.listeners);
        if let Some((_, sender)) = listeners.iter().find(|(name, _)| name == subject) {
            return Listener(sender.subscribe());
        }
        let (sender, receiver) = broadcast::channel(LISTENER_QUEUE_MESSAGES_MAX);
        listeners.push((subject.to_owned(), sender));
        Listener(receiver)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// NATS subject matching for exact filters and a trailing `>`.
fn matches(filter: &str, subject: &str) -> bool {
    match filter.strip_suffix('>') {
        Some(prefix) => subject.len() > prefix.len() && subject.starts_with(prefix),
        None => filter == subject,
    }
}

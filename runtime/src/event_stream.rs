//! The event stream: how records get from those who write them to those who keep them.
//!
//! Two transports with one contract: in-process channels (the embedded default) and NATS JetStream. It is transport,
//! never the durability boundary: publishers keep what they sent until the receiver says that it is safe, and
//! receivers drop repeats. So both transports may lose or repeat a message; neither changes one.
//!
//! - `publish` / `consume`: at least once towards one durable consumer, in order per publisher while nothing fails.
//! - `broadcast` / `listen`, `follow`: at most once, to whoever listens now.

mod in_process;
mod nats;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

pub use nats::{NatsOptions, StreamSpec};

/// Longest wait for a publish to be accepted; then the publisher keeps the message and tries again.
pub const PUBLISH_WAIT_MAX: Duration = Duration::from_secs(5);

/// Pause before listening again after the server went away.
const LISTEN_PAUSE: Duration = Duration::from_millis(500);

/// The stream could not take or give a message now. The caller keeps what it has and tries again.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// Nobody takes this subject at the moment.
    #[error("the event stream takes no messages for `{0}` at the moment")]
    Unavailable(String),
    /// The server refused or did not answer.
    #[error("event stream: {what}: {detail}")]
    Nats {
        /// What was tried.
        what: &'static str,
        /// The client library's words.
        detail: String,
    },
    /// The server is not fit for use.
    #[error("the NATS server at {url} cannot be used: {why}")]
    Unfit {
        /// The server.
        url: String,
        /// What it lacks.
        why: String,
    },
}

/// One message to a durable consumer.
pub struct Message {
    /// Where it was published.
    pub subject: String,
    /// What was published.
    pub payload: Bytes,
    ack: Option<async_nats::jetstream::message::Acker>,
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Message").field("subject", &self.subject).field("bytes", &self.payload.len()).finish()
    }
}

impl Message {
    /// Says that the message is safe and need not come again.
    pub async fn ack(self) {
        if let Some(acker) = self.ack
            && let Err(error) = acker.ack().await
        {
            tracing::debug!(%error, "acknowledgement failed; the message will come again");
        }
    }
}

/// A durable consumer; one task reads it.
#[derive(Debug)]
pub struct Consumer(ConsumerKind);

#[derive(Debug)]
enum ConsumerKind {
    InProcess(in_process::Consumer),
    Nats(Box<nats::Consumer>),
}

impl Consumer {
    /// The next message; waits through outages. `None` once the stream is closed for good.
    pub async fn next(&mut self) -> Option<Message> {
        match &mut self.0 {
            ConsumerKind::InProcess(consumer) => consumer.next().await,
            ConsumerKind::Nats(consumer) => consumer.next().await,
        }
    }
}

/// Hears broadcasts on one subject from now on.
#[derive(Debug)]
pub struct Listener(ListenerKind);

#[derive(Debug)]
enum ListenerKind {
    InProcess(in_process::Listener),
    Nats(Box<async_nats::Subscriber>),
}

impl Listener {
    /// The next broadcast. `None` once the stream is closed for good.
    pub async fn next(&mut self) -> Option<Bytes> {
        match &mut self.0 {
            ListenerKind::InProcess(listener) => listener.next().await,
            ListenerKind::Nats(subscriber) => {
                use futures::StreamExt;
                subscriber.next().await.map(|message| message.payload)
            }
        }
    }
}

/// A handle on the stream: cheap to clone.
#[derive(Clone, Debug)]
pub struct EventStream(Kind);

#[derive(Clone, Debug)]
enum Kind {
    InProcess(Arc<in_process::Hub>),
    Nats(Arc<nats::Connection>),
}

impl EventStream {
    /// Channels inside this process.
    #[must_use]
    pub fn in_process() -> Self {
        Self(Kind::InProcess(Arc::default()))
    }

    /// A NATS server with JetStream; creates the stream `spec` there, or checks the one that exists.
    ///
    /// # Errors
    /// [`StreamError::Unfit`] when the server is too old or changed the configuration, [`StreamError::Nats`] when
    /// it cannot be reached.
    pub async fn nats(options: NatsOptions, spec: StreamSpec) -> Result<Self, StreamError> {
        Ok(Self(Kind::Nats(Arc::new(nats::Connection::open(options, spec).await?))))
    }

    /// Hands over a message. Repeats with the same id may be dropped by the stream.
    ///
    /// # Errors
    /// [`StreamError`] when it was not accepted within [`PUBLISH_WAIT_MAX`]; it may have arrived all the same.
    pub async fn publish(&self, subject: &str, message_id: &str, payload: Bytes) -> Result<(), StreamError> {
        match &self.0 {
            Kind::InProcess(hub) => hub.publish(subject, payload).await,
            Kind::Nats(connection) => connection.publish(subject, message_id, payload).await,
        }
    }

    /// The messages of all subjects matching `filters` (exact, or ending in `.>`), under a durable name: after a
    /// restart the consumer goes on where it had acknowledged.
    ///
    /// # Errors
    /// [`StreamError`] when the consumer cannot be made.
    pub async fn consume(&self, filters: &[&str], durable: &str) -> Result<Consumer, StreamError> {
        Ok(Consumer(match &self.0 {
            Kind::InProcess(hub) => ConsumerKind::InProcess(hub.consume(filters)),
            Kind::Nats(connection) => {
                ConsumerKind::Nats(Box::new(nats::Connection::consume(connection, filters, durable).await?))
            }
        }))
    }

    /// Tells whoever listens now.
    ///
    /// # Errors
    /// [`StreamError`] when the server is away.
    pub async fn broadcast(&self, subject: &str, payload: Bytes) -> Result<(), StreamError> {
        match &self.0 {
            Kind::InProcess(hub) => hub.broadcast(subject, &payload),
            Kind::Nats(connection) => connection.broadcast(subject, payload).await?,
        }
        Ok(())
    }

    /// Hears what is broadcast on exactly this subject from now on.
    ///
    /// # Errors
    /// [`StreamError`] when the server is away.
    pub async fn listen(&self, subject: &str) -> Result<Listener, StreamError> {
        Ok(Listener(match &self.0 {
            Kind::InProcess(hub) => ListenerKind::InProcess(hub.listen(subject)),
            Kind::Nats(connection) => ListenerKind::Nats(Box::new(connection.listen(subject).await?)),
        }))
    }

    /// Hands all that is broadcast on exactly this subject to `take`, for ever; what is said while the server is away is
    /// missed.
    pub async fn follow(&self, subject: &str, take: impl FnMut(&Bytes)) {
        self.follow_from(subject, || {}, take).await;
    }

    /// As [`Self::follow`]; `begun` is called each time from when on nothing is missed.
    pub async fn follow_from(&self, subject: &str, begun: impl Fn(), mut take: impl FnMut(&Bytes)) {
        loop {
            match self.listen(subject).await {
                Ok(mut listener) => {
                    begun();
                    while let Some(message) = listener.next().await {
                        take(&message);
                    }
                }
                Err(error) => tracing::warn!(%error, subject, "cannot hear of what is broadcast; trying again"),
            }
            tokio::time::sleep(LISTEN_PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests;

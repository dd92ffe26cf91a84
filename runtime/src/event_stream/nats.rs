//! The NATS JetStream transport.
//!
//! The stream is made with file storage, discard-new, and deletes and purges denied; what its one consumer acknowledged
//! is dropped, or a stream that once was full would take nothing until its messages age. Its configuration is read
//! back: older servers drop unknown fields silently, so the version and what was really stored are both checked.
//! Connection loss is waited through by the client library; publishes in between fail and are repeated by callers. A
//! server that comes back without its data gets the stream anew, from whoever consumes.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull},
    message::PublishMessage,
    stream::{self, DiscardPolicy, RetentionPolicy, StorageType},
};
use bytes::Bytes;
use futures::StreamExt;
use serde::Deserialize;
use tokio_util::sync::ReusableBoxFuture;

use super::{Message, PUBLISH_WAIT_MAX, StreamError};

/// Oldest server that keeps every field of the stream configuration we rely on.
const SERVER_VERSION_MIN: (u32, u32) = (2, 12);
/// Unacknowledged messages in flight to one consumer.
const ACK_PENDING_MAX: i64 = 1024;
/// After this long without acknowledgement a message comes again.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// The server drops repeats of a message id seen within this window.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// Pause before a consumer that failed is made again.
const RECONSUME_PAUSE: Duration = Duration::from_millis(500);

/// Where the server is and how much it may keep.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NatsOptions {
    /// E.g. `nats://127.0.0.1:4222`.
    pub url: String,
    /// Copies of each message; more than one needs a NATS cluster.
    #[serde(default = "one")]
    pub replicas: usize,
    /// Bound on the stream's size in bytes; when it is reached publishers keep their records.
    #[serde(default = "eight_gib")]
    pub stream_bytes_max: i64,
}

const fn one() -> usize {
    1
}

const fn eight_gib() -> i64 {
    8 * 1024 * 1024 * 1024
}

/// The stream that carries the messages.
#[derive(Clone, Debug)]
pub struct StreamSpec {
    /// Its name.
    pub name: String,
    /// The subjects it captures.
    pub subjects: Vec<String>,
    /// Largest message in bytes.
    pub message_bytes_max: i32,
    /// How long messages are kept.
    pub age_max: Duration,
}

/// A connection and the stream on it.
#[derive(Debug)]
pub(super) struct Connection {
    client: async_nats::Client,
    context: jetstream::Context,
    url: String,
    stream: stream::Config,
}

fn nats_error(what: &'static str) -> impl Fn(&dyn std::error::Error) -> StreamError {
    move |error| StreamError::Nats { what, detail: error.to_string() }
}

impl Connection {
    pub(super) async fn open(options: NatsOptions, spec: StreamSpec) -> Result<Self, StreamError> {
        let unfit = |why: String| StreamError::Unfit { url: options.url.clone(), why };
        let client = async_nats::ConnectOptions::new()
            .name("bailiwick")
            .connection_timeout(PUBLISH_WAIT_MAX)
            .connect(options.url.as_str())
            .await
            .map_err(|error| nats_error("connect")(&error))?;
        let version = client.server_info().version.clone();
        if parse_version(&version).is_none_or(|found| found < SERVER_VERSION_MIN) {
            let (major, minor) = SERVER_VERSION_MIN;
            return Err(unfit(format!("version {version} is too old; {major}.{minor} or newer is needed")));
        }
        let context = jetstream::new(client.clone());
        let stream = stream_config(&options, &spec);
        let connection = Self { client, context, url: options.url, stream };
        connection.make_stream().await?;
        Ok(connection)
    }

    /// Creates the stream, or checks the one that exists.
    async fn make_stream(&self) -> Result<(), StreamError> {
        let made = self.context.create_or_update_stream(self.stream.clone()).await;
        let info = made.map_err(|error| nats_error("create the stream")(&error))?;
        let Some(field) = difference(&self.stream, &info.config) else { return Ok(()) };
        let why = format!("it stored another `{field}` for stream {} than was asked for", self.stream.name);
        Err(StreamError::Unfit { url: self.url.clone(), why })
    }

    pub(super) async fn publish(&self, subject: &str, message_id: &str, payload: Bytes) -> Result<(), StreamError> {
        let message = PublishMessage::build().payload(payload).message_id(message_id);
        let sent = async {
            let pending = self.context.send_publish(subject.to_owned(), message).await;
            pending.map_err(|error| nats_error("publish")(&error))?.await.map_err(|error| nats_error("publish")(&error))
        };
        match tokio::time::timeout(PUBLISH_WAIT_MAX, sent).await {
            Ok(done) => done.map(drop),
            Err(_) => Err(StreamError::Nats { what: "publish", detail: "no answer in time".to_owned() }),
        }
    }

    pub(super) async fn broadcast(&self, subject: &str, payload: Bytes) -> Result<(), StreamError> {
        // While the server is away the client keeps what is told, up to a bound, and then waits.
        match tokio::time::timeout(PUBLISH_WAIT_MAX, self.client.publish(subject.to_owned(), payload)).await {
            Ok(published) => published.map_err(|error| nats_error("broadcast")(&error)),
            Err(_) => Err(StreamError::Nats { what: "broadcast", detail: "not taken in time".to_owned() }),
        }
    }

    pub(super) async fn listen(&self, subject: &str) -> Result<async_nats::Subscriber, StreamError> {
        let subscriber = self.client.subscribe(subject.to_owned()).await;
        let subscriber = subscriber.map_err(|error| nats_error("subscribe")(&error))?;
        self.client.flush().await.map_err(|error| nats_error("subscribe")(&error))?;
        Ok(subscriber)
    }

    pub(super) async fn consume(this: &Arc<Self>, filters: &[&str], durable: &str) -> Result<Consumer, StreamError> {
        let filters: Vec<String> = filters.iter().map(|filter| (*filter).to_owned()).collect();
        let messages = this.messages(&filters, durable).await?;
        let state = State::Pulling(Box::new(messages));
        Ok(Consumer { connection: Arc::clone(this), filters, durable: durable.to_owned(), state })
    }

    async fn messages(&self, filters: &[String], durable: &str) -> Result<pull::Stream, StreamError> {
        let config = pull::Config {
            durable_name: Some(durable.to_owned()),
            filter_subjects: filters.to_vec(),
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_ack_pending: ACK_PENDING_MAX,
            ..pull::Config::default()
        };
        self.make_stream().await?;
        let stream = self.context.get_stream(&self.stream.name).await;
        let stream = stream.map_err(|error| nats_error("find the stream")(&error))?;
        let consumer: PullConsumer = stream
            .get_or_create_consumer(durable, config)
            .await
            .map_err(|error| nats_error("create the consumer")(&error))?;
        consumer.messages().await.map_err(|error| nats_error("consume")(&error))
    }
}

/// Pulls messages; makes itself again when the server forgot it. A wait that is given up loses nothing, not even the
/// progress of making it again.
pub(super) struct Consumer {
    connection: Arc<Connection>,
    filters: Vec<String>,
    durable: String,
    state: State,
}

enum State {
    Pulling(Box<pull::Stream>),
    /// After a pause.
    Connecting(ReusableBoxFuture<'static, Result<pull::Stream, StreamError>>),
}

impl std::fmt::Debug for Consumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consumer").field("durable", &self.durable).field("filters", &self.filters).finish()
    }
}

impl Consumer {
    pub(super) async fn next(&mut self) -> Option<Message> {
        loop {
            match &mut self.state {
                State::Pulling(messages) => match messages.next().await {
                    Some(Ok(message)) => {
                        let (message, acker) = message.split();
                        let subject = message.subject.to_string();
                        return Some(Message { subject, payload: message.payload, ack: Some(acker) });
                    }
                    Some(Err(error)) => {
                        tracing::warn!(%error, "consumer interrupted; making it again");
                        self.state = self.connect();
                    }
                    None => self.state = self.connect(),
                },
                State::Connecting(made) => match made.await {
                    Ok(messages) => self.state = State::Pulling(Box::new(messages)),
                    Err(error) => {
                        tracing::warn!(%error, "cannot consume; trying again");
                        self.state = self.connect();
                    }
                },
            }
        }
    }

    fn connect(&self) -> State {
        let (connection, filters, durable) = (Arc::clone(&self.connection), self.filters.clone(), self.durable.clone());
        State::Connecting(ReusableBoxFuture::new(async move {
            tokio::time::sleep(RECONSUME_PAUSE).await;
            connection.messages(&filters, &durable).await
        }))
    }
}

fn stream_config(options: &NatsOptions, spec: &StreamSpec) -> stream::Config {
    stream::Config {
        name: spec.name.clone(),
        subjects: spec.subjects.clone(),
        storage: StorageType::File,
        retention: RetentionPolicy::WorkQueue,
        discard: DiscardPolicy::New,
        max_bytes: options.stream_bytes_max,
        max_age: spec.age_max,
        max_message_size: spec.message_bytes_max,
        num_replicas: options.replicas,
        duplicate_window: DUPLICATE_WINDOW,
        deny_delete: true,
        deny_purge: true,
        ..stream::Config::default()
    }
}

/// The first field that the server stored otherwise than asked.
fn difference(wanted: &stream::Config, stored: &stream::Config) -> Option<&'static str> {
    let checks = [
        ("subjects", wanted.subjects == stored.subjects),
        ("storage", wanted.storage == stored.storage),
        ("retention", wanted.retention == stored.retention),
        ("discard", wanted.discard == stored.discard),
        ("max_bytes", wanted.max_bytes == stored.max_bytes),
        ("max_age", wanted.max_age == stored.max_age),
        ("max_msg_size", wanted.max_message_size == stored.max_message_size),
        ("num_replicas", wanted.num_replicas == stored.num_replicas),
        ("duplicate_window", wanted.duplicate_window == stored.duplicate_window),
        ("deny_delete", stored.deny_delete),
        ("deny_purge", stored.deny_purge),
    ];
    checks.into_iter().find(|(_, same)| !same).map(|(field, _)| field)
}

fn parse_version(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_versions_are_compared_as_numbers() {
        assert_eq!(parse_version("2.15.1"), Some((2, 15)));
        assert!(parse_version("2.9.10") < Some(SERVER_VERSION_MIN));
        assert_eq!(parse_version("next"), None);
    }
}

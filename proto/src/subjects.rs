//! Subjects on the event stream (`bailiwick.v1.…`). Region and node are single subject tokens.

/// Every record subject of every region; what the ledger consumes.
pub const RECORDS: &str = "bailiwick.v1.record.>";
/// Control-plane events, as records.
pub const CONTROL: &str = "bailiwick.v1.control";
/// Where data planes bring each other what clients answered: sealed, and whoever waits for it takes it.
pub const ANSWERS: &str = "bailiwick.v1.answers";
/// Where data planes tell each other what legacy sessions subscribe to: sealed, and whoever has the session's stream
/// takes it.
pub const SUBSCRIPTIONS: &str = "bailiwick.v1.subscriptions";
/// Where data planes tell each other from which level on legacy clients want logs: sealed.
pub const LEVELS: &str = "bailiwick.v1.levels";
/// Where data planes tell each other which proofs of possession were used: sealed.
pub const USED_PROOFS: &str = "bailiwick.v1.proofs";
/// The only region so far.
pub const DEFAULT_REGION: &str = "local";
/// The node name under which control-plane events are chained (epoch 0).
pub const CONTROL_NODE: &str = "control-plane";

/// Where a node publishes its records.
#[must_use]
pub fn record(region: &str, node: &str) -> String {
    format!("bailiwick.v1.record.{region}.{node}")
}

/// Where the ledger says what is stored and what a published checkpoint covers.
#[must_use]
pub fn checkpoint(region: &str) -> String {
    format!("bailiwick.v1.checkpoint.{region}")
}

/// Where the ledger asks a node to send records again.
#[must_use]
pub fn replay(node: &str) -> String {
    format!("bailiwick.v1.replay.{node}")
}

/// The message id that lets the stream drop repeats.
#[must_use]
pub fn message_id(node: &str, epoch: u64, first_seq: u64) -> String {
    format!("{node}.{epoch}.{first_seq}")
}

/// Largest message on the stream in bytes.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Largest sum of records in one batch: leaves room for the batch's own framing below [`MESSAGE_BYTES_MAX`].
pub const BATCH_BYTES_MAX: usize = 60 * 1024;
/// The JetStream stream that carries records.
pub const STREAM_NAME: &str = "BAILIWICK_RECORDS";

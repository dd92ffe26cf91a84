//! What the ledger says: stored, published, send again.
//!
//! Called by `recorder::start`; each follower is one task that decodes messages of one subject and hands them to the
//! recorder's owner. Notices may be lost: each covers all before it, and the owner asks again by sending again. A
//! message that does not decode, or speaks of another node, is dropped.

use std::time::Duration;

use bailiwick_proto::v1::{LedgerNotice, ReplayRequest, ledger_notice};
use bailiwick_runtime::event_stream::EventStream;
use bytes::Bytes;
use prost::Message;
use tokio::sync::mpsc;

use super::{Input, Reader};

/// Pause before listening again after the stream went away.
const LISTEN_PAUSE: Duration = Duration::from_millis(500);

/// How far the ledger says it is with one epoch of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// In the ledger's own synced storage, up to and with this record.
    Stored { epoch: u64, seq: u64 },
    /// Covered by a published checkpoint, up to and with this record.
    Published { epoch: u64, seq: u64 },
    /// Wanted again, from this record on.
    Replay { epoch: u64, from: u64 },
}

/// Follows `subject` until the owner is gone.
pub(crate) async fn follow(
    stream: EventStream,
    subject: String,
    decode: impl Fn(&Bytes) -> Vec<Notice> + Send,
    inputs: mpsc::Sender<Input>,
) {
    loop {
        match stream.listen(&subject).await {
            Ok(mut listener) => loop {
                let heard = tokio::select! {
                    heard = listener.next() => heard,
                    () = inputs.closed() => return,
                };
                let Some(message) = heard else { break };
                for notice in decode(&message) {
                    if inputs.send(Input::Notice(notice)).await.is_err() {
                        return;
                    }
                }
            },
            Err(error) => tracing::warn!(%error, subject, "cannot listen to the ledger; trying again"),
        }
        tokio::select! {
            () = tokio::time::sleep(LISTEN_PAUSE) => {}
            () = inputs.closed() => return,
        }
    }
}

/// Notices about `node` in a message on the checkpoint subject; each tells what the ledger reads, whomever it is about.
pub(crate) fn ledger_notices(node: &str, message: &[u8], reader: &Reader) -> Vec<Notice> {
    let about_node = |cursor: &bailiwick_proto::v1::Cursor| cursor.node == node;
    let Ok(LedgerNotice { notice, kinds }) = LedgerNotice::decode(message) else { return Vec::new() };
    reader.heard(kinds);
    match notice {
        Some(ledger_notice::Notice::Stored(stored)) => {
            let cursors = stored.cursors.into_iter().filter(about_node);
            cursors.map(|cursor| Notice::Stored { epoch: cursor.epoch, seq: cursor.seq }).collect()
        }
        Some(ledger_notice::Notice::Published(published)) => {
            let cursors = published.cursors.into_iter().filter(about_node);
            cursors.map(|cursor| Notice::Published { epoch: cursor.epoch, seq: cursor.seq }).collect()
        }
        None => Vec::new(),
    }
}

/// A request on this node's replay subject.
pub(crate) fn replay_request(node: &str, message: &[u8]) -> Vec<Notice> {
    match ReplayRequest::decode(message) {
        Ok(request) if request.node == node => {
            vec![Notice::Replay { epoch: request.epoch, from: request.from_seq }]
        }
        Ok(_) | Err(_) => Vec::new(),
    }
}

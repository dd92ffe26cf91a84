//! Towards the ledger: publishing from the spool, sending again, freeing what is covered.
//!
//! Part of `recorder::owner`, which calls this between writes. What to send next is `shipping`'s business; here the
//! records are read from the spool, wrapped into batches and handed to the event stream, a bounded number at a time.
//! A message costs the same whether it holds one record or forty, so records wait for a moment for others to come
//! along, unless a call waits for the ledger to store one of them.
//! The stream taking a batch means nothing for the spool: only the ledger's notices do.

use std::{ops::Range, time::Duration};

use bailiwick_proto::{subjects, v1::RecordBatch};
use bytes::Bytes;
use futures::FutureExt;
use prost::Message;
use tokio::time::Instant;

use super::{Owner, STALL_MIN};
use crate::recorder::{notices::Notice, shipping::Job};

/// Bytes of records in one message: below the stream's 64 KiB with room for the envelope.
const BATCH_BYTES_MAX: usize = 48 * 1024;
/// Batches handed to the stream and not yet accepted.
const BATCHES_IN_FLIGHT_MAX: usize = 8;
/// Pause after the stream refused a batch.
const PUBLISH_PAUSE: Duration = Duration::from_millis(500);

/// Records wait so long for others before they are sent. Short against what the ledger takes to seal them.
const GATHER: Duration = Duration::from_millis(10);

/// When records that could be sent are sent.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    /// When the oldest of them has waited long enough.
    until: Option<Instant>,
    /// One past the last record whose storing a call waits for.
    awaited: u64,
}

impl Gathering {
    /// There is one more record to send.
    pub(super) fn goes_on(&mut self) {
        self.until.get_or_insert_with(|| Instant::now() + GATHER);
    }

    /// A call waits for this record to be stored.
    pub(super) fn is_awaited(&mut self, seq: u64) {
        self.awaited = seq.saturating_add(1);
    }

    /// Nothing is waited for any more.
    pub(super) fn is_over(&mut self) {
        self.awaited = u64::MAX;
    }
}

/// A batch of an epoch that the stream has taken or refused.
#[derive(Debug)]
pub(super) struct Published {
    epoch: u64,
    range: Range<u64>,
    taken: bool,
}

impl Owner {
    pub(super) fn notice(&mut self, notice: Notice) {
        let news = match notice {
            Notice::Replay { epoch, from } => {
                self.shipping.replay(epoch, from);
                return;
            }
            Notice::Stored { epoch, seq } => self.shipping.stored(epoch, seq),
            Notice::Published { epoch, seq } => {
                let news = self.shipping.published(epoch, seq);
                if news {
                    self.free(epoch, seq);
                }
                news
            }
        };
        if let Notice::Stored { epoch, seq } | Notice::Published { epoch, seq } = notice
            && epoch == self.epoch
        {
            let next = seq.saturating_add(1).min(self.chain.next_seq());
            self.stored.send_if_modified(|stored| std::mem::replace(stored, next.max(*stored)) < next);
        }
        if news {
            self.last_progress = Instant::now();
            self.stall = STALL_MIN;
        }
    }

    /// Intents stay until their outcome is recorded, so that a crash still finds them open.
    fn free(&mut self, epoch: u64, through: u64) {
        let open = self.open_intents.first().filter(|_| epoch == self.epoch);
        let through = match open {
            Some(0) => return,
            Some(first) => through.min(first - 1),
            None => through,
        };
        if let Err(error) = self.spool.free(epoch, through) {
            tracing::warn!(%error, "covered records cannot be removed from the spool");
        }
        if epoch != self.epoch {
            self.shipping.retire(epoch);
        }
        self.show();
    }

    /// Sends what is to be sent by now; until when the rest waits for other records, if it does.
    pub(super) fn publish_due(&mut self) -> Option<Instant> {
        while self.in_flight.len() < BATCHES_IN_FLIGHT_MAX && Instant::now() >= self.publish_after {
            let Some(job) = self.shipping.next_job() else {
                self.gathering.until = None;
                return None;
            };
            let wait = self.gathering.until.filter(|until| Instant::now() < *until);
            if wait.is_some() && !self.is_worth_it(&job) {
                return wait;
            }
            match self.spool.read(job.epoch, job.from, BATCH_BYTES_MAX) {
                Ok(records) if records.is_empty() => {
                    let next = self.spool.first_held(job.epoch, job.from).unwrap_or(job.to);
                    self.shipping.took(&job, next.max(job.from + 1));
                }
                Ok(records) => self.publish(&job, records),
                Err(error) => {
                    tracing::error!(%error, "records cannot be read from the spool; trying again");
                    self.publish_after = Instant::now() + PUBLISH_PAUSE;
                }
            }
        }
        None
    }

    /// Whether a job is worth a message at once: it fills one, somebody waits for it, or it is of the past.
    fn is_worth_it(&self, job: &Job) -> bool {
        let is_past = job.again || job.epoch != self.epoch;
        let is_awaited = job.from < self.gathering.awaited;
        is_past || is_awaited || self.spool.bytes_from(job.epoch, job.from) >= BATCH_BYTES_MAX as u64
    }

    fn publish(&mut self, job: &Job, mut records: Vec<Bytes>) {
        records.truncate(usize::try_from(job.to - job.from).unwrap_or(usize::MAX));
        let (epoch, range) = (job.epoch, job.from..job.from + records.len() as u64);
        let mut message_id = subjects::message_id(&self.node, epoch, job.from);
        if job.again || epoch != self.epoch {
            // The stream drops repeats of an id, but this batch may hold more than the one sent under it before.
            self.repeats += 1;
            message_id = format!("{message_id}.again.{}.{}", self.epoch, self.repeats);
        }
        let batch = RecordBatch {
            node: self.node.clone(),
            epoch,
            first_seq: job.from,
            records: records.iter().map(|record| record.to_vec()).collect(),
        };
        let payload = Bytes::from(batch.encode_to_vec());
        self.shipping.took(job, range.end);
        // What is left came later: it waits for others of its own.
        self.gathering.until = None;
        self.gathering.goes_on();
        let (stream, subject) = (self.stream.clone(), self.subject.clone());
        let publish = async move {
            let published = stream.publish(&subject, &message_id, payload).await;
            if let Err(error) = &published {
                tracing::debug!(%error, "the event stream did not take a batch");
            }
            Published { epoch, range, taken: published.is_ok() }
        };
        self.in_flight.push(publish.boxed());
    }

    pub(super) fn published(&mut self, published: Published) {
        let Published { epoch, range, taken } = published;
        if !taken {
            self.metrics.publish_failures.inc();
            self.shipping.send_again(epoch, range);
            self.publish_after = Instant::now() + PUBLISH_PAUSE;
        }
    }
}

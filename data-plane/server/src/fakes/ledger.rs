//! A ledger that keeps what arrives in memory and says at once that it is stored and published.

use std::sync::{Arc, Mutex};

use bailiwick_ledger_core::record::{Kind, Record};
use bailiwick_proto::{
    subjects,
    v1::{Cursor, LedgerNotice, Published, RecordBatch, Stored, ledger_notice::Notice},
};
use bailiwick_runtime::{EventStream, OnEnd, Shutdown, Supervisor};
use prost::Message as _;

#[derive(Debug)]
pub(crate) struct FakeLedger {
    records: Arc<Mutex<Vec<Record>>>,
    stop: Shutdown,
}

impl Drop for FakeLedger {
    fn drop(&mut self) {
        self.stop.request();
    }
}

impl FakeLedger {
    pub(crate) async fn start(stream: &EventStream) -> Self {
        let records: Arc<Mutex<Vec<Record>>> = Arc::default();
        let mut consumer = stream.consume(&[subjects::RECORDS], "ledger").await.unwrap();
        let (kept, stream, stop) = (Arc::clone(&records), stream.clone(), Shutdown::new());
        let stopped = stop.clone();
        Supervisor::new(stop.clone()).spawn("fake-ledger", OnEnd::Finish, async move {
            while let Some(Some(message)) = stopped.or_stop(Box::pin(consumer.next())).await {
                let batch = RecordBatch::decode(message.payload.clone()).unwrap();
                let last = batch.first_seq + batch.records.len() as u64 - 1;
                for bytes in &batch.records {
                    let record = Record::parse(bytes).unwrap();
                    let mut kept = kept.lock().unwrap();
                    if !kept.iter().any(|known| (known.epoch, known.seq) == (record.epoch, record.seq)) {
                        kept.push(record);
                    }
                }
                let cursors = vec![Cursor { node: batch.node, epoch: batch.epoch, seq: last }];
                let published = Published { checkpoint: String::new(), cursors: cursors.clone() };
                for notice in [Notice::Stored(Stored { cursors }), Notice::Published(published)] {
                    let notice = LedgerNotice { notice: Some(notice), kinds: Kind::known() }.encode_to_vec();
                    stream.broadcast(&subjects::checkpoint(subjects::DEFAULT_REGION), notice.into()).await.unwrap();
                }
                message.ack().await;
            }
        });
        Self { records, stop }
    }

    pub(crate) fn of_kind(&self, kind: Kind) -> Vec<Record> {
        self.records.lock().unwrap().iter().filter(|record| record.kind == kind).cloned().collect()
    }

    /// The records that carry this request id, in order.
    pub(crate) fn of_request(&self, request_id: &str) -> Vec<Record> {
        let records = self.records.lock().unwrap();
        records.iter().filter(|record| record.request_id.as_deref() == Some(request_id)).cloned().collect()
    }
}

//! Streams of one session at nodes that share keys and an event stream, and nothing else.

use bailiwick_proto::v1;
use bailiwick_runtime::event_stream::Listener as Heard;
use futures::{FutureExt as _, channel::mpsc::TryRecvError as Received};
use tokio::time::Instant;

use super::*;
use crate::fakes::world::claims;

const SESSION: SessionKey = [7; 32];

fn caller() -> Arc<Caller> {
    Arc::new(Caller::from_claims(&claims(), "finance").unwrap())
}

fn node(stream: &EventStream) -> Arc<Listeners> {
    let state = Arc::new(ConfigState::new(Duration::from_secs(60)));
    let keys = [v1::SealingKey { id: "k".into(), key: vec![1; 32] }];
    state.set_sealing_keys(bailiwick_data_plane_core::sealed::SealingKeys::new(&keys).unwrap());
    Listeners::new(state, stream.clone())
}

async fn told(stream: &EventStream) -> Heard {
    stream.listen(subjects::SUBSCRIPTIONS).await.unwrap()
}

fn place(node: &Arc<Listeners>) -> Place {
    node.place(&caller(), Some(SESSION)).unwrap()
}

/// A newer stream of the session took its place.
fn is_over(place: &mut Place) -> bool {
    place.notes.as_mut().unwrap().try_recv() == Err(Received::Closed)
}

#[tokio::test]
async fn a_client_is_answered_once_all_nodes_were_told_so_what_it_asks_for_then_is_newer() {
    let stream = EventStream::in_process();
    let (here, there, mut heard) = (node(&stream), node(&stream), told(&stream).await);
    let mut older = place(&here);
    let mut answered = Box::pin(older.tell());
    assert!((&mut answered).now_or_never().is_none(), "nobody has heard of it yet");
    let note = heard.next().await.unwrap();
    there.brought(&note);
    here.brought(&note);
    answered.await;
    let mut newer = place(&there);
    let mut answered = Box::pin(newer.tell());
    assert!((&mut answered).now_or_never().is_none());
    let note = heard.next().await.unwrap();
    for node in [&here, &there] {
        node.brought(&note);
    }
    answered.await;
    assert_eq!((is_over(&mut older), is_over(&mut newer)), (true, false));
}

#[tokio::test]
async fn of_two_streams_asked_for_at_once_one_is_left_whichever_is_heard_of_first() {
    for first in [0, 1] {
        let stream = EventStream::in_process();
        let (nodes, mut heard) = ([node(&stream), node(&stream)], told(&stream).await);
        let [mut one, mut other] = [place(&nodes[0]), place(&nodes[1])];
        let mut notes = Vec::new();
        let mut telling = [Box::pin(one.tell()), Box::pin(other.tell())];
        for answered in &mut telling {
            assert!(answered.now_or_never().is_none());
            notes.push(heard.next().await.unwrap());
        }
        for (note, node) in [first, 1 - first].iter().flat_map(|at| nodes.iter().map(|node| (&notes[*at], node))) {
            node.brought(note);
        }
        for answered in telling {
            answered.await;
        }
        assert_eq!([is_over(&mut one), is_over(&mut other)], [first == 0, first == 1]);
    }
}

#[tokio::test]
async fn a_stream_that_was_replaced_before_anybody_heard_of_it_is_not_told_of() {
    let stream = EventStream::in_process();
    let (here, mut heard) = (node(&stream), told(&stream).await);
    let (mut older, mut newer) = (place(&here), place(&here));
    let mut answered = Box::pin(newer.tell());
    assert!((&mut answered).now_or_never().is_none());
    older.tell().await;
    here.brought(&heard.next().await.unwrap());
    answered.await;
    assert!(heard.next().now_or_never().is_none());
    assert_eq!((is_over(&mut older), is_over(&mut newer)), (true, false));
}

#[tokio::test(start_paused = true)]
async fn without_an_event_stream_a_client_waits_only_so_long_and_a_newer_stream_still_counts() {
    let (lost, stream) = (EventStream::in_process(), EventStream::in_process());
    let (here, there, mut heard) = (node(&lost), node(&stream), told(&stream).await);
    let (mut older, began) = (place(&here), Instant::now());
    older.tell().await;
    assert_eq!(began.elapsed(), BACK_WAIT_MAX);
    let mut newer = place(&there);
    newer.tell().await;
    here.brought(&heard.next().await.unwrap());
    assert_eq!((is_over(&mut older), is_over(&mut newer)), (true, false));
}

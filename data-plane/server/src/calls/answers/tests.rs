//! Answers between nodes that share keys and a stream, and nothing else.

use std::time::Duration;

use bailiwick_proto::{
    mcp::{Answered, RequestId, raw},
    v1,
};
use bailiwick_runtime::{OnEnd, Shutdown, Supervisor};
use serde_json::json;

use super::*;
use crate::fakes::world::claims;

fn caller() -> Caller {
    Caller::from_claims(&claims(), "finance").unwrap()
}

fn node(stream: &EventStream, key: u8) -> Arc<Answers> {
    let state = Arc::new(ConfigState::new(Duration::from_secs(60)));
    let keys = [v1::SealingKey { id: "k".into(), key: vec![key; 32] }];
    state.set_sealing_keys(bailiwick_data_plane_core::sealed::SealingKeys::new(&keys).unwrap());
    Answers::new(state, stream.clone())
}

fn answer(waiter: u64) -> Answer {
    Answer { waiter, id: RequestId::from(3), answered: Answered::Result(raw(&json!({"action": "accept"}))) }
}

/// The answer is there, or nothing comes.
async fn taken(waiter: &mut Waiter) -> Option<Answer> {
    tokio::time::timeout(Duration::from_millis(200), waiter.answers.recv()).await.ok().flatten()
}

#[tokio::test]
async fn an_answer_given_to_one_node_reaches_the_call_that_waits_at_another() {
    let stream = EventStream::in_process();
    let (here, there) = (node(&stream, 1), node(&stream, 1));
    let following = Supervisor::new(Shutdown::new());
    following.spawn("answers", OnEnd::Finish, Arc::clone(&here).follow());
    let mut waiter = here.wait(&caller()).unwrap();
    let brought = async {
        // Whoever listens later than it is said hears nothing: so it is said until it is heard.
        loop {
            there.bring(&caller(), answer(waiter.number)).await.unwrap();
            if let Some(answer) = taken(&mut waiter).await {
                break answer;
            }
        }
    };
    let brought = tokio::time::timeout(Duration::from_secs(20), brought).await.unwrap();
    assert_eq!(brought.id, RequestId::from(3));
    let Answered::Result(result) = brought.answered else { panic!("an error") };
    assert_eq!(result.get(), r#"{"action":"accept"}"#);
}

#[tokio::test]
async fn an_answer_to_a_call_here_takes_no_detour() {
    let here = node(&EventStream::in_process(), 1);
    let mut waiter = here.wait(&caller()).unwrap();
    here.bring(&caller(), answer(waiter.number)).await.unwrap();
    assert!(taken(&mut waiter).await.is_some());
    let number = waiter.number;
    drop(waiter);
    assert!(here.lock().get(&number).is_none(), "a call that has ended waits for nothing");
}

#[tokio::test]
async fn nobody_answers_for_somebody_else_nor_without_the_keys() {
    let stream = EventStream::in_process();
    let (here, stranger) = (node(&stream, 1), node(&stream, 2));
    let mut waiter = here.wait(&caller()).unwrap();
    let eve = Caller { user: "eve@example.com".into(), ..caller() };
    assert_eq!(here.bring(&eve, answer(waiter.number)).await, Err(NotBrought::Unknown));
    for (keys, by) in [(&stranger, caller()), (&here, eve)] {
        let keys = keys.state.sealing_keys();
        let sealed = answer(waiter.number).seal(&keys, &by, unix_seconds(), random().unwrap()).unwrap();
        here.brought(&Bytes::from(sealed));
    }
    here.brought(&Bytes::from_static(b"\xff"));
    here.brought(&Bytes::from(format!("{:016x}.n2.AAAA", waiter.number)));
    assert!(taken(&mut waiter).await.is_none());
}

#[tokio::test]
async fn a_call_is_given_no_more_than_it_has_room_for() {
    let here = node(&EventStream::in_process(), 1);
    let waiter = here.wait(&caller()).unwrap();
    for _ in 0..WAITING_MAX {
        here.bring(&caller(), answer(waiter.number)).await.unwrap();
    }
    assert_eq!(here.bring(&caller(), answer(waiter.number)).await, Err(NotBrought::Unknown));
}

#[tokio::test]
async fn one_caller_cannot_fill_the_stream_with_answers_nobody_waits_for() {
    let here = node(&EventStream::in_process(), 1);
    let long = Answered::Result(raw(&json!({"text": "x".repeat(400 * 1024)})));
    let long = Answer { answered: long, ..answer(7) };
    let mut brought = 0;
    while here.bring(&caller(), long.clone()).await.is_ok() {
        brought += 1;
        assert!(brought * 400 * 1024 <= TOLD_BYTES_PER_SECOND * 10, "there is no end to it");
    }
    assert!(brought > 0);
}

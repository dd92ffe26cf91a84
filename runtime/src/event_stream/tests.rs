//! The contract of the stream, on the in-process transport. The same claims run against a real NATS server in
//! `tests/`.

use super::*;

#[tokio::test]
async fn a_consumer_gets_what_matches_in_order() {
    let stream = EventStream::in_process();
    let mut consumer = stream.consume(&["a.>", "b"], "one").await.unwrap();
    for (subject, payload) in [("a.x", "1"), ("b", "2"), ("a.y.z", "3")] {
        stream.publish(subject, payload, Bytes::from(payload)).await.unwrap();
    }
    for expected in ["1", "2", "3"] {
        assert_eq!(consumer.next().await.unwrap().payload, expected);
    }
}

#[tokio::test]
async fn a_publish_that_nobody_takes_is_an_error() {
    let stream = EventStream::in_process();
    assert!(stream.publish("a", "1", Bytes::new()).await.is_err());
    let consumer = stream.consume(&["a"], "one").await.unwrap();
    assert!(stream.publish("b", "1", Bytes::new()).await.is_err());
    drop(consumer);
    assert!(stream.publish("a", "2", Bytes::new()).await.is_err());
}

#[tokio::test]
async fn broadcasts_reach_everyone_who_listens_and_nobody_else() {
    let stream = EventStream::in_process();
    stream.broadcast("n", Bytes::from("early")).await.unwrap();
    let (mut one, mut two) = (stream.listen("n").await.unwrap(), stream.listen("n").await.unwrap());
    let mut other = stream.listen("m").await.unwrap();
    stream.broadcast("n", Bytes::from("now")).await.unwrap();
    stream.broadcast("m", Bytes::from("else")).await.unwrap();
    assert_eq!(one.next().await.unwrap(), "now");
    assert_eq!(two.next().await.unwrap(), "now");
    assert_eq!(other.next().await.unwrap(), "else");
}

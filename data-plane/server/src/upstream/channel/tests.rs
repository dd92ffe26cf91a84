//! One channel without a server: what leaves, what comes back, and what is learnt when it breaks.

use std::time::Duration;

use bailiwick_proto::Reason;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    session::{Known, Session},
    *,
};
use crate::upstream::exchange::Bounds;

const BOUNDS: Bounds = Bounds { timeout: Duration::from_secs(30), bytes_max: 1024 };

fn question<'a>(id: &'a RequestId, gate: Option<&'a Gate>) -> Question<'a> {
    let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#).into();
    Question { id, body, gate, context: None, heard: None }
}

fn said(outgoing: &Outgoing) -> Value {
    serde_json::from_slice(&outgoing.body).unwrap()
}

fn answer(id: &Value, result: &Value) -> Vec<u8> {
    json!({"jsonrpc": "2.0", "id": id, "result": result}).to_string().into_bytes()
}

/// Takes the next message as a writer would.
async fn written(channel: &Channel, outgoing: &mut mpsc::Receiver<Outgoing>) -> Value {
    loop {
        let message = outgoing.recv().await.unwrap();
        if channel.leaves(&message) {
            return said(&message);
        }
    }
}

#[tokio::test]
async fn when_a_channel_breaks_only_what_had_left_may_have_happened() {
    let (channel, mut outgoing) = Channel::open(1, false);
    let (one, other) = (RequestId::from(1), RequestId::from(2));
    let fault = UpstreamFault::Unreachable("it ended".to_owned());
    let (left, kept, ()) =
        tokio::join!(channel.ask(question(&one, None), None), channel.ask(question(&other, None), None), async {
            assert_eq!(written(&channel, &mut outgoing).await["id"], 1);
            channel.broke(fault.clone());
        });
    assert_eq!(left.unwrap_err(), fault);
    assert_eq!(kept.unwrap_err(), UpstreamFault::SessionGone);
    let later = channel.ask(question(&one, None), None).await;
    assert_eq!(later.unwrap_err(), UpstreamFault::SessionGone);
    assert!(!channel.is_open() && channel.listen().is_none());
}

#[tokio::test]
async fn a_server_is_told_of_what_is_given_up_once_it_has_left() {
    let (channel, mut outgoing) = Channel::open(1, false);
    let id = RequestId::from(7);
    let unsent = timeout(Duration::ZERO, channel.ask(question(&id, None), None)).await;
    assert!(unsent.is_err());
    let unsent = outgoing.recv().await.unwrap();
    assert!(!channel.leaves(&unsent), "nobody waits for it");
    let (late, _) = tokio::join!(
        channel.ask(question(&id, None), Some(Duration::from_millis(20))),
        written(&channel, &mut outgoing)
    );
    assert_eq!(late.unwrap_err(), UpstreamFault::Timeout(20));
    let told = said(&outgoing.recv().await.unwrap());
    assert_eq!((&told["method"], &told["params"]["requestId"]), (&json!("notifications/cancelled"), &json!(7)));
    channel.take(&answer(&json!(7), &json!({}))).await.unwrap();
    assert_eq!(channel.answered(), 0, "an answer that nobody waits for is nobody's");
}

#[tokio::test]
async fn a_gate_is_asked_when_a_call_could_leave() {
    let (channel, mut outgoing) = Channel::open(1, false);
    let (id, gate) = (RequestId::from(1), Gate::new(|| Some(Reason::ConfigStale)));
    let (withheld, _) = tokio::join!(channel.ask(question(&id, Some(&gate)), None), async {
        let message = outgoing.recv().await.unwrap();
        assert!(!channel.leaves(&message));
    });
    assert_eq!(withheld.unwrap_err(), UpstreamFault::Withheld(Reason::ConfigStale));
}

#[tokio::test(start_paused = true)]
async fn who_does_not_hear_what_is_said_beside_its_answer_holds_others_up_once() {
    let (channel, mut outgoing) = Channel::open(1, false);
    let (slow, quick) = (RequestId::from(1), RequestId::from(2));
    let (heard, mut deaf) = mpsc::channel(1);
    let asked = Question { heard: Some((Sort::Call, &heard)), ..question(&slow, None) };
    let log = br#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}"#;
    let began = tokio::time::Instant::now();
    let (slow, quick, ()) = tokio::join!(channel.ask(asked, None), channel.ask(question(&quick, None), None), async {
        written(&channel, &mut outgoing).await;
        written(&channel, &mut outgoing).await;
        for _ in 0..100 {
            channel.take(log).await.unwrap();
        }
        channel.take(&answer(&json!(2), &json!({}))).await.unwrap();
        channel.take(&answer(&json!(1), &json!({}))).await.unwrap();
    });
    assert!(slow.is_ok() && quick.is_ok());
    assert!(began.elapsed() < 2 * SLOW_MAX, "{:?}", began.elapsed());
    assert!(deaf.try_recv().is_ok() && deaf.try_recv().is_err(), "the rest is missed");
}

#[tokio::test]
async fn a_server_that_asks_and_takes_no_answers_is_given_up() {
    let (channel, _outgoing) = Channel::open(1, false);
    let mut broken = None;
    for id in 0..=OUT_MAX {
        let ping = json!({"jsonrpc": "2.0", "id": id, "method": "ping"}).to_string();
        broken = channel.take(ping.as_bytes()).await.err();
    }
    assert!(matches!(broken, Some(UpstreamFault::Invalid(_))), "{broken:?}");
}

/// Opens a session with a server that does this with each message.
async fn opened(known: Known, server: impl Fn(&Value) -> Vec<Value>) -> (Result<Session, UpstreamFault>, Vec<String>) {
    let (channel, mut outgoing) = Channel::open(1, false);
    let (mut methods, serving) = (Vec::new(), channel.clone());
    let serve = async {
        loop {
            let message = written(&serving, &mut outgoing).await;
            methods.push(message["method"].as_str().unwrap_or_default().to_owned());
            for answer in server(&message) {
                serving.take(answer.to_string().as_bytes()).await.unwrap();
            }
        }
    };
    let session = tokio::select! {
        session = Session::open(channel, known, None, None, BOUNDS) => session,
        () = serve => unreachable!("the queue never ends"),
    };
    (session, methods)
}

fn result(message: &Value, result: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": message["id"], "result": result})
}

fn unknown(message: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32601, "message": "?"}})
}

fn greeted(message: &Value, version: &str) -> Value {
    result(message, json!({"protocolVersion": version, "capabilities": {"logging": {}}, "serverInfo": {}}))
}

#[tokio::test(start_paused = true)]
async fn a_server_is_understood_in_its_era_whatever_it_does_with_what_it_does_not_know() {
    let modern = |message: &Value| match message["method"].as_str() {
        Some("server/discover") => {
            vec![result(message, json!({"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}))]
        }
        _ => vec![unknown(message)],
    };
    let (session, methods) = opened(Known::Nothing, modern).await;
    assert!(session.unwrap().era().is_modern());
    assert_eq!(methods, ["server/discover"]);

    let old = |version: &'static str| {
        move |message: &Value| match message["method"].as_str() {
            Some("initialize") => vec![greeted(message, version)],
            Some("notifications/initialized") => Vec::new(),
            _ => vec![unknown(message)],
        }
    };
    for version in ["2024-11-05", "2025-03-26", "2025-11-25"] {
        let (session, methods) = opened(Known::Nothing, old(version)).await;
        let session = session.unwrap();
        assert_eq!((session.era(), session.logs()), (Era::Legacy(version), true));
        assert_eq!(methods[..2], ["server/discover", "initialize"]);
        let (session, methods) = opened(Known::Legacy, old(version)).await;
        assert_eq!((session.unwrap().era(), &methods[0]), (Era::Legacy(version), &"initialize".to_owned()));
    }

    let deaf = |message: &Value| match message["method"].as_str() {
        Some("initialize") => vec![greeted(message, "2025-11-25")],
        _ => Vec::new(),
    };
    let (session, _) = opened(Known::Nothing, deaf).await;
    assert!(!session.unwrap().era().is_modern());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_greet_is_not_waited_for_for_ever() {
    let (session, _) = opened(Known::Nothing, |_| Vec::new()).await;
    assert_eq!(session.unwrap_err(), UpstreamFault::Timeout(30_000));
    let strange = |message: &Value| vec![greeted(message, "1999-01-01")];
    let (session, _) = opened(Known::Legacy, strange).await;
    assert!(matches!(session.unwrap_err(), UpstreamFault::Invalid(_)));
}

//! Streams that end early, what a legacy server says beside its answers, and the end of its sessions.

use bailiwick_data_plane_core::relay::Level;
use bailiwick_proto::mcp::{Incoming, method};
use bailiwick_runtime::Shutdown;
use tokio::sync::mpsc;

use super::*;
use crate::fakes::eventually;

/// Jane with a client that can be asked.
fn asked(agent: &str) -> Principal {
    Principal::Caller { user: "jane".into(), agent: agent.into(), capabilities: Some(r#"{"elicitation":{}}"#.into()) }
}

/// One call, and what is heard beside its answer.
async fn call_as(
    upstream: &Upstream,
    server: &Server,
    principal: &Principal,
    heard: &mpsc::Sender<Heard>,
) -> Result<(Response, u64), UpstreamFault> {
    let gate = Gate::new(|| None);
    let (permitted, id) = (call("{}"), upstream.next_id());
    let aside = Aside { gate: Some(&gate), heard: Some(heard), ..Aside::default() };
    upstream.call(server, principal, &permitted, &id, aside).await
}

fn methods(fake: &FakeServer, method: &str) -> usize {
    fake.seen(method).len()
}

#[tokio::test]
async fn an_answer_in_pieces_is_read_to_its_end_and_the_call_sent_once() {
    let (fake, upstream) = (FakeServer::start(Speaks::Legacy).await, upstream());
    let (heard, mut hearing) = mpsc::channel(16);
    fake.set(Mode::InPieces(3));
    let started = Instant::now();
    let (answer, _) = call_as(&upstream, &server(&fake.url), &principal("jane"), &heard).await.unwrap();
    assert!(matches!(answer, Response::Result(_)), "{answer:?}");
    assert!(started.elapsed() >= Duration::from_millis(3 * 120), "as long as the server says");
    let asked: Vec<_> = fake.seen("GET").iter().map(|seen| seen.headers["last-event-id"].clone()).collect();
    assert_eq!(asked, ["e-1", "e-2", "e-3"]);
    let session = &fake.seen("tools/call")[0].headers["mcp-session-id"];
    assert!(fake.seen("GET").iter().all(|seen| seen.headers["mcp-session-id"] == session));
    assert!(fake.seen("GET").iter().all(|seen| seen.headers["mcp-protocol-version"] == "2025-11-25"));
    assert_eq!(methods(&fake, "tools/call"), 1);
    for _ in 0..3 {
        assert!(matches!(hearing.recv().await.unwrap().message, Incoming::Notification(_)));
    }
}

#[tokio::test]
async fn a_stream_that_ends_early_and_says_nothing_of_a_rest_is_a_fault() {
    let (fake, upstream) = (FakeServer::start(Speaks::Legacy).await, upstream());
    for text in ["retry: 1\ndata:\n\n", "id: e-9\ndata: unfinished", "id: \ndata:\n\n"] {
        fake.set(Mode::Ends(text));
        let fault = ask(&upstream, &fake.url).await.unwrap_err();
        assert_eq!(fault.reason().as_str(), "upstream_invalid", "{text:?} {fault}");
    }
    assert_eq!(methods(&fake, "GET"), 0);
}

#[tokio::test]
async fn a_rest_that_does_not_come_ends_the_call_and_never_repeats_it() {
    // The server forgets the session, refuses, or is in trouble for good.
    for status in [404, 405, 503] {
        let (fake, upstream) = (FakeServer::start(Speaks::Legacy).await, upstream());
        ask(&upstream, &fake.url).await.unwrap();
        fake.set(Mode::Ends("id: e-1\nretry: 1\ndata:\n\n"));
        let (called, ()) = tokio::join!(ask(&upstream, &fake.url), async {
            eventually("called", || methods(&fake, "tools/call") == 2).await;
            fake.set_trouble(Some(status));
        });
        assert_eq!(called.unwrap_err().reason().as_str(), "upstream_invalid", "{status}");
        assert_eq!(methods(&fake, "tools/call"), 2, "{status}");
        assert_eq!(methods(&fake, "GET"), if status == 503 { 4 } else { 1 }, "{status}");
    }
}

#[tokio::test]
async fn a_modern_servers_stream_is_never_gone_on_with() {
    let (fake, upstream) = (FakeServer::start(Speaks::Modern).await, upstream());
    fake.set(Mode::InPieces(1));
    assert_eq!(ask(&upstream, &fake.url).await.unwrap_err().reason().as_str(), "upstream_invalid");
    assert_eq!(methods(&fake, "GET"), 0);
}

#[tokio::test]
async fn what_a_server_asks_beside_its_answer_goes_to_the_call_that_is_under_way() {
    let (fake, upstream) = (FakeServer::start(Speaks::Legacy).await, upstream());
    fake.give_streams();
    fake.set(Mode::AsksBeside);
    let (heard, mut hearing) = mpsc::channel(16);
    let (server, principal) = (server(&fake.url), asked("coder"));
    let (called, ()) = tokio::join!(call_as(&upstream, &server, &principal, &heard), async {
        let Heard { session, message, .. } = hearing.recv().await.unwrap();
        let Incoming::Request(request) = message else { panic!("no request: {message:?}") };
        assert_eq!(request.method, method::ELICIT);
        let body = mcp::result_body(&request.id, &mcp::raw_object([]));
        upstream.answer((&server, &principal), (body, None), session.as_ref()).await.unwrap();
    });
    assert!(matches!(called.unwrap().0, Response::Result(_)));
    assert_eq!((fake.streams(), methods(&fake, "GET")), (1, 1), "kept for the next call");
    fake.set(Mode::Good);
    call_as(&upstream, &server, &principal, &heard).await.unwrap();
    assert_eq!(methods(&fake, "GET"), 1);
}

#[tokio::test]
async fn what_belongs_to_no_one_call_is_answered_here() {
    let (fake, upstream) = (FakeServer::start(Speaks::Legacy).await, upstream());
    fake.give_streams();
    fake.set(Mode::Hang);
    let (heard, mut hearing) = mpsc::channel(16);
    let (server, principal) = (server(&fake.url), asked("coder"));
    let asks = |id: &str, method: &str| {
        fake.say(&format!("data: {}\n\n", json!({"jsonrpc": "2.0", "id": id, "method": method, "params": {}})));
    };
    let (one, other) =
        (call_as(&upstream, &server, &principal, &heard), call_as(&upstream, &server, &principal, &heard));
    let said = async {
        eventually("both are under way", || methods(&fake, "tools/call") == 2).await;
        for (id, method, is_result) in [("q-1", method::ELICIT, false), ("q-2", method::PING, true)] {
            asks(id, method);
            eventually("answered", || fake.told().is_some_and(|told| told["id"] == id)).await;
            assert_eq!(fake.told().unwrap().get("result").is_some(), is_result, "{method}");
        }
    };
    tokio::select! {
        _ = one => panic!("answered"),
        _ = other => panic!("answered"),
        () = said => {}
    }
    assert!(hearing.try_recv().is_err());
    // Nobody waits any more, and the stream is still there.
    asks("q-3", method::ELICIT);
    eventually("answered", || fake.told().is_some_and(|told| told["id"] == "q-3")).await;
    assert_eq!(fake.told().unwrap()["error"]["code"], -32601);
}

#[tokio::test]
async fn a_server_without_such_a_stream_is_asked_for_one_once_a_session() {
    let (fake, upstream) = (FakeServer::start(Speaks::Legacy).await, upstream());
    let (heard, _hearing) = mpsc::channel(16);
    for _ in 0..3 {
        call_as(&upstream, &server(&fake.url), &asked("coder"), &heard).await.unwrap();
    }
    assert_eq!(methods(&fake, "GET"), 1);
    call_as(&upstream, &server(&fake.url), &principal("jane"), &heard).await.unwrap();
    assert_eq!(methods(&fake, "GET"), 1, "a client that cannot be asked needs none");
}

#[tokio::test]
async fn a_stream_that_breaks_is_opened_again_while_a_call_is_under_way_and_let_go_when_the_node_stops() {
    let stop = Shutdown::new();
    let supervisor = Supervisor::new(stop.clone());
    let upstream = Upstream::new(loopback(), &supervisor, Means::default()).unwrap();
    let fake = FakeServer::start(Speaks::Legacy).await;
    fake.give_streams();
    fake.set(Mode::Hang);
    let (heard, _hearing) = mpsc::channel(16);
    let (server, principal) = (server(&fake.url), asked("coder"));
    tokio::select! {
        _ = call_as(&upstream, &server, &principal, &heard) => panic!("answered"),
        () = async {
            eventually("called", || methods(&fake, "tools/call") == 1).await;
            fake.say("id: s-1\ndata:\n\n");
            fake.say("");
            eventually("opened again", || methods(&fake, "GET") == 2 && fake.streams() == 1).await;
            assert_eq!(fake.seen("GET")[1].headers["last-event-id"], "s-1");
            stop.request();
        } => {}
    }
    eventually("let go", || fake.streams() == 0).await;
    upstream.close().await;
    supervisor.ended().await.unwrap();
}

#[tokio::test]
async fn a_stream_that_floods_is_given_up_and_the_call_goes_on() {
    let (fake, upstream) = (FakeServer::start(Speaks::Legacy).await, upstream());
    fake.give_streams();
    fake.set(Mode::AsksBeside);
    let (heard, mut hearing) = mpsc::channel(16);
    let (server, principal) = (server(&fake.url), asked("coder"));
    let (called, ()) = tokio::join!(call_as(&upstream, &server, &principal, &heard), async {
        let Heard { session, .. } = hearing.recv().await.unwrap();
        fake.say(&"data:\n\n".repeat(10_001));
        eventually("given up, and opened anew", || methods(&fake, "GET") == 2).await;
        let body = mcp::result_body(&RequestId::Text("q-1".into()), &mcp::raw_object([]));
        upstream.answer((&server, &principal), (body, None), session.as_ref()).await.unwrap();
    });
    assert!(matches!(called.unwrap().0, Response::Result(_)));
}

#[tokio::test]
async fn the_level_of_a_log_is_told_in_every_session_that_comes_after() {
    let (fake, upstream) = (FakeServer::start(Speaks::Legacy).await, upstream());
    let (server, principal) = (server(&fake.url), asked("coder"));
    assert!(!upstream.want_level(&server, &principal, Level::Error), "no session is open that has to be told");
    let (heard, _hearing) = mpsc::channel(16);
    call_as(&upstream, &server, &principal, &heard).await.unwrap();
    let levels = || -> Vec<_> {
        fake.seen("logging/setLevel").iter().map(|seen| seen.body["params"]["level"].clone()).collect()
    };
    assert_eq!(levels(), ["error"]);
    assert!(
        !upstream.want_level(&server, &principal, Level::Error)
            && upstream.want_level(&server, &principal, Level::Debug)
    );
    upstream.set_level(&server, &principal, Level::Notice).await.unwrap();
    fake.forget_sessions();
    call_as(&upstream, &server, &principal, &heard).await.unwrap();
    assert_eq!(levels(), ["error", "notice", "notice"]);
    ask(&upstream, &fake.url).await.unwrap();
    assert_eq!(levels().len(), 3, "another client's level is its own");
}

#[tokio::test]
async fn sessions_are_given_back_when_the_node_stops_and_a_server_that_hangs_does_not_keep_it() {
    let (fake, hanging, upstream) =
        (FakeServer::start(Speaks::Legacy).await, FakeServer::start(Speaks::Legacy).await, upstream());
    for user in ["jane", "max"] {
        ask_as(&upstream, &server(&fake.url), user).await.unwrap();
    }
    ask(&upstream, &hanging.url).await.unwrap();
    hanging.hold_handshakes(true);
    upstream.close().await;
    let closed: std::collections::BTreeSet<_> =
        fake.seen("DELETE").iter().map(|seen| seen.headers["mcp-session-id"].to_str().unwrap().to_owned()).collect();
    assert_eq!(closed.len(), 2);
    assert!(upstream.table.all().iter().all(|known| known.peers().is_empty()));
}

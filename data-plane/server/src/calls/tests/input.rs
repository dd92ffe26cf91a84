//! What a server wants to know before it answers reaches the client in the words of the client's era, and the answer
//! finds its way back, whichever node it comes to.

use bailiwick_data_plane_core::{
    edge::{PermittedCall, Retry},
    sealed::{
        answer::Answer,
        ask::Ask,
        request_state::{RequestState, Subject},
    },
};
use bailiwick_proto::mcp::{Answered, VERSION_2025_11_25, method, raw};
use bailiwick_runtime::OnEnd;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::*;

const LEGACY: Era = Era::Legacy(VERSION_2025_11_25);

impl Scene {
    /// A call of a client that can be asked.
    fn asking(&self, era: Era) -> (Asked, PermittedCall) {
        let (asked, mut permitted) = self.decide("query_data");
        permitted.call.era = era;
        permitted.call.capabilities = Some(raw(&json!({"elicitation": {}})));
        (asked, permitted)
    }

    /// The same call again, with what the client brings back.
    fn again(&self, state: &str, responses: Option<&Value>) -> (Asked, PermittedCall) {
        let (asked, mut permitted) = self.asking(Era::Modern);
        let subject = Subject { server: "finance", method: method::TOOLS_CALL, salient: [0; 32] };
        let keys = self.calls.state.sealing_keys();
        let state = RequestState::open(&keys, &asked.caller, &subject, state, unix_seconds()).unwrap();
        permitted.call.retry = Retry { responses: responses.map(raw), state: Some(state), salient: [0; 32] };
        (asked, permitted)
    }

    async fn take(&self, (asked, permitted): (Asked, PermittedCall)) -> Value {
        let reply = self.carry((asked, permitted)).await;
        serde_json::from_slice(&reply.body.unwrap()).unwrap()
    }
}

fn told(reply: &Value) -> &Value {
    &reply["result"]["structuredContent"]
}

fn given() -> Value {
    json!({"action": "accept", "content": {"name": "jane", "n": 1.5}})
}

/// How servers ask: in the answer to the call, in either era, or on a legacy session's own stream.
const WAYS: [(Speaks, Mode); 3] =
    [(Speaks::Legacy, Mode::Asks), (Speaks::Modern, Mode::Asks), (Speaks::Legacy, Mode::AsksBeside)];

#[tokio::test]
async fn a_legacy_client_is_asked_on_its_stream_whatever_the_server_speaks() {
    for (speaks, mode) in WAYS {
        let dir = tempfile::tempdir().unwrap();
        let scene = Scene::on(dir.path(), speaks, &EventStream::in_process()).await;
        scene.server.give_streams();
        scene.server.set(mode);
        let (asked, permitted) = scene.asking(LEGACY);
        let (caller, (outlet, mut before)) = (asked.caller.clone(), mpsc::channel(16));
        let carried = scene.calls.carry(asked, Arc::new(permitted), Shutdown::new(), Outlet(outlet));
        let (reply, ()) = tokio::join!(Box::pin(carried), async {
            let question: Value = serde_json::from_slice(&before.recv().await.unwrap()).unwrap();
            assert_eq!(
                (&question["method"], &question["params"]["message"]),
                (&json!("elicitation/create"), &json!("who?"))
            );
            let keys = scene.calls.state.sealing_keys();
            let id = question["id"].as_str().unwrap();
            let Ask { id, waiter, .. } = Ask::open(&keys, &caller, id, unix_seconds()).unwrap();
            let answer = Answer { waiter, id, answered: Answered::Result(raw(&given())) };
            scene.calls.answers.bring(&caller, answer).await.unwrap();
        });
        let reply: Value = serde_json::from_slice(&reply.body.unwrap()).unwrap();
        assert_eq!(told(&reply), &given(), "{speaks:?} {reply}");
    }
}

#[tokio::test]
async fn a_modern_client_is_asked_with_a_result_whatever_the_server_speaks() {
    for (speaks, mode) in WAYS {
        let dir = tempfile::tempdir().unwrap();
        let scene = Scene::on(dir.path(), speaks, &EventStream::in_process()).await;
        scene.server.give_streams();
        scene.server.set(mode);
        let wish = scene.take(scene.asking(Era::Modern)).await;
        assert_eq!(wish["result"]["resultType"], "input_required", "{speaks:?} {wish}");
        let requests = wish["result"]["inputRequests"].as_object().unwrap();
        let (key, request) = requests.iter().next().unwrap();
        assert_eq!((&request["method"], &request["params"]["message"]), (&json!("elicitation/create"), &json!("who?")));
        let state = wish["result"]["requestState"].as_str().unwrap();
        assert!(!state.contains("st-1"), "a server's own state is sealed");
        let reply = scene.take(scene.again(state, Some(&json!({key: given()})))).await;
        assert_eq!(told(&reply), &given(), "{speaks:?} {reply}");
    }
}

/// Two nodes that share keys and a stream; the call is kept by the first.
async fn two_nodes(dir: &Path) -> (Scene, Scene, String) {
    let stream = EventStream::in_process();
    ["one", "other"].iter().for_each(|node| std::fs::create_dir(dir.join(node)).unwrap());
    let one = Scene::on(&dir.join("one"), Speaks::Legacy, &stream).await;
    let other = Scene::on(&dir.join("other"), Speaks::Legacy, &stream).await;
    for scene in [&one, &other] {
        scene.calls.supervisor.spawn("answers", OnEnd::Finish, Arc::clone(&scene.calls.answers).follow());
    }
    one.server.set(Mode::Asks);
    let wish = one.take(one.asking(Era::Modern)).await;
    let state = wish["result"]["requestState"].as_str().unwrap().to_owned();
    (one, other, state)
}

#[tokio::test]
async fn a_kept_call_goes_on_when_the_input_comes_to_another_node() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other, state) = two_nodes(dir.path()).await;
    let again = other.take(other.again(&state, None)).await;
    assert_eq!(again["result"]["resultType"], "input_required", "what is missing is asked for again: {again}");
    let state = again["result"]["requestState"].as_str().unwrap();
    let reply = other.take(other.again(state, Some(&json!({"1": given()})))).await;
    assert_eq!(told(&reply), &given(), "{reply}");
    assert_eq!((one.forwarded(), other.forwarded()), (1, 0), "the server was called once");
    let late = other.take(other.again(state, Some(&json!({"1": given()})))).await;
    assert_eq!(late["error"]["data"]["reason"], "input_lost", "{late}");
}

#[tokio::test]
async fn a_kept_call_is_given_up_when_its_consent_is_revoked() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other, state) = two_nodes(dir.path()).await;
    let again = other.again(&state, Some(&json!({"1": given()})));
    one.deny("consent/c-1");
    eventually("cancelled", || !one.server.seen("notifications/cancelled").is_empty()).await;
    let reply = other.take(again).await;
    assert_eq!(reply["error"]["data"]["reason"], "input_lost", "{reply}");
}

#[tokio::test]
async fn a_client_that_cannot_be_asked_never_is() {
    for (speaks, era, reason) in [
        (Speaks::Modern, LEGACY, Some(Reason::UpstreamInvalid)),
        (Speaks::Modern, Era::Modern, Some(Reason::UpstreamInvalid)),
        (Speaks::Legacy, LEGACY, None),
        (Speaks::Legacy, Era::Modern, None),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let scene = Scene::on(dir.path(), speaks, &EventStream::in_process()).await;
        scene.server.set(Mode::Asks);
        let (asked, mut permitted) = scene.asking(era);
        permitted.call.capabilities = None;
        let reply = scene.carry((asked, permitted)).await;
        // A legacy server is told so, and answers as it can.
        assert_eq!(reply.reason, reason, "{speaks:?} {era:?}");
    }
}

#[tokio::test]
async fn a_kept_call_does_not_keep_a_node_from_stopping() {
    let dir = tempfile::tempdir().unwrap();
    let (one, _other, _state) = two_nodes(dir.path()).await;
    one.calls.supervisor.shutdown().request();
    eventually("cancelled", || !one.server.seen("notifications/cancelled").is_empty()).await;
}

#[tokio::test]
async fn nobody_has_calls_kept_without_end() {
    let dir = tempfile::tempdir().unwrap();
    let scene = Scene::on(dir.path(), Speaks::Legacy, &EventStream::in_process()).await;
    scene.server.set(Mode::Asks);
    for _ in 0..parking::KEPT_OF_ONE_MAX {
        let wish = scene.take(scene.asking(Era::Modern)).await;
        assert_eq!(wish["result"]["resultType"], "input_required", "{wish}");
    }
    let refused = scene.take(scene.asking(Era::Modern)).await;
    assert_eq!(refused["error"]["data"]["reason"], "node_overloaded", "{refused}");
    eventually("cancelled", || !scene.server.seen("notifications/cancelled").is_empty()).await;
    scene.deny("consent/c-1");
    eventually("given up", || scene.calls.kept.is_empty()).await;
}

#[tokio::test]
async fn for_somebody_without_authority_no_server_is_asked_anything() {
    let dir = tempfile::tempdir().unwrap();
    let scene = Scene::on(dir.path(), Speaks::Legacy, &EventStream::in_process()).await;
    let (asked, _) = scene.asking(LEGACY);
    scene.deny("consent/c-1");
    let id = bailiwick_proto::mcp::RequestId::from(1);
    let level = bailiwick_data_plane_core::relay::Level::Debug;
    let level = bailiwick_data_plane_core::edge::SetLevel { id, level, capabilities: None };
    let reply = scene.calls.set_level(&asked, "finance", &level).await;
    assert_eq!(reply.reason, Some(Reason::ConsentRevoked));
    assert!(scene.server.seen("server/discover").is_empty() && scene.server.seen("initialize").is_empty());
}

//! Streams of changes from client to server, in both eras on either side.

use std::collections::{BTreeSet, VecDeque};

use bailiwick_runtime::served_certificate::CertificateFiles;
use reqwest::ClientBuilder;

use super::*;
use crate::{
    fakes::teller::{SUBSCRIPTION, Teller},
    listening::STREAMS_OF_ONE_MAX,
};

const PERMIT_EVERYTHING: &str = "permit (principal, action, resource);";
/// How long an event is waited for: so many turns of so long. What stops this process for seconds stops the node too,
/// and costs one turn; one long wait would be over before the node had run again.
const EVENT_WAIT_TURN: Duration = Duration::from_millis(100);
const EVENT_WAIT_TURNS: usize = 100;

/// The events of one response, as they come.
struct Events {
    response: Response,
    text: String,
    ready: VecDeque<String>,
    last_id: Option<String>,
    /// The last message, for whoever reads why a test failed.
    last: String,
}

impl Events {
    fn of(response: Response) -> Self {
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, text: String::new(), ready: VecDeque::new(), last_id: None, last: String::new() }
    }

    /// The next message; `None` when the stream is over.
    async fn next(&mut self) -> Option<Value> {
        loop {
            while let Some(event) = self.ready.pop_front() {
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
                self.last_id = field("id:").map(str::to_owned).or(self.last_id.take());
                if let Some(data) = field("data:").filter(|data| !data.is_empty()) {
                    data.clone_into(&mut self.last);
                    return Some(serde_json::from_str(data).unwrap());
                }
            }
            let chunk = self.chunk().await?;
            self.text += &chunk;
            while let Some((event, rest)) = self.text.split_once("\n\n") {
                self.ready.push_back(event.to_owned());
                self.text = rest.to_owned();
            }
        }
    }

    /// What comes next of the response, in whole characters; `None` at its end.
    async fn chunk(&mut self) -> Option<String> {
        for _ in 0..EVENT_WAIT_TURNS {
            if let Ok(chunk) = tokio::time::timeout(EVENT_WAIT_TURN, self.response.chunk()).await {
                return Some(String::from_utf8(chunk.unwrap()?.to_vec()).unwrap());
            }
        }
        panic!("no event in time after {:?}", self.last);
    }

    async fn method(&mut self) -> String {
        self.next().await.expect("a message")["method"].as_str().unwrap().to_owned()
    }
}

async fn world(teller: &Teller) -> World {
    World::with(Speaks::Modern, |_| entries(&teller.url, PERMIT_EVERYTHING, true), true).await
}

impl World {
    async fn listen(&self, notifications: &Value) -> Events {
        let request = self.modern("subscriptions/listen", None, &format!(r#""notifications":{notifications}"#));
        Events::of(request.send().await.unwrap())
    }

    fn legacy(&self, session: Option<&str>, method: &str, params: &Value) -> RequestBuilder {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
        let request = self.post(body).bearer_auth(token(&claims()));
        session.into_iter().fold(request, |request, session| request.header("mcp-session-id", session))
    }

    async fn initialize(&self) -> String {
        let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}});
        let opened = self.legacy(None, "initialize", &params).send().await.unwrap();
        opened.headers()["mcp-session-id"].to_str().unwrap().to_owned()
    }

    fn get(&self, session: &str) -> RequestBuilder {
        let request = Client::new().get(format!("{}/mcp/finance", self.node.url)).bearer_auth(token(&claims()));
        request.header("accept", "text/event-stream").header("mcp-session-id", session)
    }
}

#[tokio::test]
async fn a_modern_client_hears_what_it_asked_for_from_servers_of_both_eras() {
    for is_modern in [true, false] {
        let teller = Teller::start(is_modern).await;
        let world = world(&teller).await;
        let asked = json!({"promptsListChanged": true, "resourceSubscriptions": ["file:///a"]});
        let mut events = world.listen(&asked).await;
        let first = events.next().await.unwrap();
        assert_eq!(first["method"], "notifications/subscriptions/acknowledged", "{is_modern}");
        assert_eq!(first["params"]["notifications"], asked);
        let subscribed = || teller.state.subscribed.lock().unwrap().values().any(|uris| uris.contains("file:///a"));
        eventually("subscribed", subscribed).await;
        for method in ["notifications/resources/list_changed", "notifications/tools/list_changed"] {
            teller.tell(method, &json!({}));
        }
        teller.updated("file:///b");
        teller.updated("file:///a");
        teller.tell("notifications/prompts/list_changed", &json!({}));
        let updated = events.next().await.unwrap();
        assert_eq!(updated["method"], "notifications/resources/updated");
        assert_eq!(updated["params"], json!({"uri": "file:///a", "_meta": {SUBSCRIPTION: 7}}));
        assert_eq!(events.method().await, "notifications/prompts/list_changed");
    }
}

#[tokio::test]
async fn a_legacy_client_hears_changes_and_goes_on_where_it_was() {
    for is_modern in [true, false] {
        let teller = Teller::start(is_modern).await;
        let world = world(&teller).await;
        let session = world.initialize().await;
        let mut events = Events::of(world.get(&session).send().await.unwrap());
        let uri = json!({"uri": "file:///a"});
        let subscribed = world.legacy(Some(&session), "resources/subscribe", &uri).send().await.unwrap();
        assert_eq!(json_of(subscribed).await.1["result"], json!({}));
        let known = || teller.state.subscribed.lock().unwrap().values().any(|uris| uris.contains("file:///a"));
        eventually("subscribed", known).await;
        teller.tell("notifications/resources/list_changed", &json!({}));
        assert_eq!(events.method().await, "notifications/resources/list_changed");
        teller.updated("file:///a");
        assert_eq!(events.next().await.unwrap()["params"], uri);
        let last_id = events.last_id.clone().unwrap();
        drop(events);
        eventually("the old stream is let go", || teller.heard_by() == 0).await;
        let again = world.get(&session).header("last-event-id", &last_id).send().await.unwrap();
        let mut events = Events::of(again);
        assert_eq!(events.next().await.unwrap()["params"], uri, "it may have changed meanwhile");
        let ended = world.legacy(Some(&session), "resources/unsubscribe", &uri).send().await.unwrap();
        assert_eq!(json_of(ended).await.1["result"], json!({}));
    }
}

#[tokio::test]
async fn a_stream_hears_what_the_consent_leads_to_and_ends_when_that_changes() {
    let teller = Teller::start(true).await;
    let world = world(&teller).await;
    let asked = json!({"promptsListChanged": true, "resourceSubscriptions": ["file:///a"]});
    let consented = async |consent: Entry| {
        let revision = world.control.change(consent, true).await;
        eventually("configured", || world.control.acknowledged(revision)).await;
    };
    consented(narrowed(&["finance/query_data"])).await;
    let mut events = world.listen(&asked).await;
    let first = events.next().await.unwrap();
    assert_eq!(first["params"]["notifications"], asked, "the server has a listed tool");
    assert_eq!(teller.heard_by(), 1, "what is acknowledged is heard already");
    teller.tell("notifications/prompts/list_changed", &json!({}));
    assert_eq!(events.method().await, "notifications/prompts/list_changed");
    consented(narrowed(&["hr/list_people"])).await;
    while events.next().await.is_some() {}
    eventually("the server is let go", || teller.heard_by() == 0).await;
    let mut events = world.listen(&asked).await;
    let first = events.next().await.unwrap();
    assert_eq!(first["params"]["notifications"].get("resourceSubscriptions"), None, "{first}");
    while events.next().await.is_some() {}
    assert_eq!(teller.heard_by(), 0, "nobody can tell it anything");
}

#[tokio::test]
async fn two_listeners_of_one_caller_both_hear_and_the_second_gives_its_session_back() {
    let teller = Teller::start(false).await;
    let world = world(&teller).await;
    let asked = json!({"promptsListChanged": true});
    let mut first = world.listen(&asked).await;
    first.next().await.unwrap();
    let mut second = world.listen(&asked).await;
    second.next().await.unwrap();
    eventually("two streams", || teller.heard_by() == 2).await;
    teller.tell("notifications/prompts/list_changed", &json!({}));
    for events in [&mut first, &mut second] {
        assert_eq!(events.method().await, "notifications/prompts/list_changed");
    }
    drop(second);
    eventually("given back", || teller.state.closed.lock().unwrap().len() == 1).await;
    drop(first);
    eventually("let go", || teller.heard_by() == 0).await;
    assert_eq!(teller.state.closed.lock().unwrap().len(), 1, "the session that calls are made in stays");
}

#[tokio::test]
async fn a_newer_stream_of_a_session_takes_the_place_of_the_older() {
    let teller = Teller::start(true).await;
    let world = world(&teller).await;
    let session = world.initialize().await;
    let mut older = Events::of(world.get(&session).send().await.unwrap());
    let mut newer = Events::of(world.get(&session).send().await.unwrap());
    assert_eq!(older.next().await, None);
    eventually("one stream is left", || teller.heard_by() == 1).await;
    teller.tell("notifications/prompts/list_changed", &json!({}));
    assert_eq!(newer.method().await, "notifications/prompts/list_changed");
}

#[tokio::test]
async fn a_newer_stream_at_another_node_takes_the_place_of_the_older_too() {
    let teller = Teller::start(true).await;
    let world = world(&teller).await;
    let other = Node::start(&world.control.url, world.node.stream.clone()).await;
    eventually("ready", || other.running.as_ref().unwrap().is_ready()).await;
    let session = world.initialize().await;
    let at = |url: &str| {
        let request = Client::new().get(format!("{url}/mcp/finance")).bearer_auth(token(&claims()));
        request.header("accept", "text/event-stream").header("mcp-session-id", &session).send()
    };
    let mut older = Events::of(at(&world.node.url).await.unwrap());
    eventually("heard", || teller.heard_by() == 1).await;
    let mut newer = Events::of(at(&other.url).await.unwrap());
    assert_eq!(older.next().await, None);
    eventually("one stream is left", || teller.heard_by() == 1).await;
    teller.tell("notifications/prompts/list_changed", &json!({}));
    assert_eq!(newer.method().await, "notifications/prompts/list_changed");
    let mut newest = Events::of(at(&world.node.url).await.unwrap());
    assert_eq!(newer.next().await, None);
    eventually("one stream is left", || teller.heard_by() == 1).await;
    teller.tell("notifications/prompts/list_changed", &json!({}));
    assert_eq!(newest.method().await, "notifications/prompts/list_changed");
}

#[tokio::test]
async fn a_subscription_made_at_another_node_counts_before_and_after_the_client_listens() {
    let teller = Teller::start(false).await;
    let world = world(&teller).await;
    let other = Node::start(&world.control.url, world.node.stream.clone()).await;
    eventually("ready", || other.running.as_ref().unwrap().is_ready()).await;
    let session = world.initialize().await;
    let at_other = |method: &str, uri: &str| {
        let url = format!("{}/mcp/finance", other.url);
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": {"uri": uri}}).to_string();
        let request = Client::new().post(url).bearer_auth(token(&claims())).header("mcp-session-id", &session);
        let request = request.header("content-type", "application/json");
        request.header("accept", "application/json, text/event-stream").body(body).send()
    };
    for uri in ["file:///gone", "file:///before"] {
        assert_eq!(json_of(at_other("resources/subscribe", uri).await.unwrap()).await.1["result"], json!({}));
    }
    at_other("resources/unsubscribe", "file:///gone").await.unwrap();
    let mut events = Events::of(world.get(&session).send().await.unwrap());
    at_other("resources/subscribe", "file:///after").await.unwrap();
    let wished = BTreeSet::from(["file:///after".to_owned(), "file:///before".to_owned()]);
    eventually("subscribed", || teller.state.subscribed.lock().unwrap().values().any(|uris| *uris == wished)).await;
    for uri in ["file:///gone", "file:///before", "file:///after"] {
        teller.updated(uri);
    }
    for uri in ["file:///after", "file:///before"] {
        assert!(wished.contains(events.next().await.unwrap()["params"]["uri"].as_str().unwrap()), "{uri}");
    }
}

#[tokio::test]
async fn a_broken_stream_of_a_server_is_opened_again_and_counts_as_a_change() {
    for is_modern in [true, false] {
        let teller = Teller::start(is_modern).await;
        let world = world(&teller).await;
        let mut events = world.listen(&json!({"promptsListChanged": true})).await;
        events.next().await.unwrap();
        eventually("heard", || teller.heard_by() == 1).await;
        teller.break_streams();
        assert_eq!(events.method().await, "notifications/prompts/list_changed");
    }
}

#[tokio::test]
async fn what_the_control_plane_changes_is_told_and_what_it_takes_away_ends_the_stream() {
    let teller = Teller::start(true).await;
    let world = world(&teller).await;
    let mut events = world.listen(&json!({"toolsListChanged": true})).await;
    events.next().await.unwrap();
    world.control.change(policy(PERMIT_READS), true).await;
    assert_eq!(events.method().await, "notifications/tools/list_changed");
    world.control.deny(consent(true)).await;
    let farewell = events.next().await.unwrap();
    assert_eq!((&farewell["id"], &farewell["result"]["resultType"]), (&json!(7), &json!("complete")));
    assert_eq!(farewell["result"]["_meta"][SUBSCRIPTION], 7);
    assert_eq!(events.next().await, None);
    eventually("the server's stream is closed", || teller.heard_by() == 0).await;
}

#[tokio::test]
async fn what_may_not_be_read_is_not_listened_to() {
    let teller = Teller::start(true).await;
    let world = World::with(Speaks::Modern, |_| entries(&teller.url, PERMIT_ALL, true), true).await;
    let asked = json!({"toolsListChanged": true, "resourceSubscriptions": ["file:///a"]});
    let mut events = world.listen(&asked).await;
    assert_eq!(events.next().await.unwrap()["params"]["notifications"], json!({"toolsListChanged": true}));
    let session = world.initialize().await;
    let uri = json!({"uri": "file:///a"});
    let refused = json_of(world.legacy(Some(&session), "resources/subscribe", &uri).send().await.unwrap()).await;
    assert_eq!(refusal(&refused.1).1, "policy_denied");
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_nothing_and_one_that_opens_too_many_is_refused() {
    let teller = Teller::start(true).await;
    let world = world(&teller).await;
    let asked = json!({"toolsListChanged": true});
    let mut all = Vec::new();
    for _ in 0..STREAMS_OF_ONE_MAX {
        let mut events = world.listen(&asked).await;
        events.next().await.unwrap();
        all.push(events);
    }
    let request = world.modern("subscriptions/listen", None, &format!(r#""notifications":{asked}"#));
    let (_, body) = json_of(request.send().await.unwrap()).await;
    assert_eq!(refusal(&body).1, "node_overloaded");
    drop(all);
    eventually("all is let go", || teller.heard_by() == 0).await;
    let mut events = world.listen(&asked).await;
    assert_eq!(events.method().await, "notifications/subscriptions/acknowledged");
}

#[tokio::test]
async fn only_a_session_that_opens_gets_a_legacy_stream() {
    let teller = Teller::start(false).await;
    let world = world(&teller).await;
    assert_eq!(world.get("s2.forged").send().await.unwrap().status(), 404);
    let session = world.initialize().await;
    assert_eq!(world.get(&session).send().await.unwrap().status(), 200);
    let url = format!("{}/mcp/finance", world.node.url);
    let json_only = Client::new().get(&url).bearer_auth(token(&claims())).header("mcp-session-id", &session);
    assert_eq!(json_only.header("accept", "application/json").send().await.unwrap().status(), 406);
    assert_eq!(Client::new().get(&url).header("mcp-session-id", &session).send().await.unwrap().status(), 401);
    let no_session = Client::new().get(&url).bearer_auth(token(&claims())).header("accept", "text/event-stream");
    assert_eq!(no_session.send().await.unwrap().status(), 405);
}

#[tokio::test]
async fn a_stream_over_http1_is_the_last_answer_on_its_connection_and_both_ends_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let files = CertificateFiles { certificate: folder.path().join("tls.crt"), key: folder.path().join("tls.key") };
    let certificate = listener::certify(&files);
    let teller = Teller::start(true).await;
    let control = FakeControlPlane::start(entries(&teller.url, PERMIT_EVERYTHING, true)).await;
    let secure = |config| DataPlaneConfig { tls: Some(files), ..config };
    let mut node = Node::start_as(&control.url, EventStream::in_process(), secure).await;
    eventually("ready", || node.running.as_ref().unwrap().is_ready()).await;
    let url = format!("https://localhost:{}/mcp/finance", node.running.as_ref().unwrap().mcp_addr.port());
    let client = |builder: ClientBuilder| builder.no_proxy().tls_certs_only([certificate.clone()]).build().unwrap();
    let mut streams = Vec::new();
    for (client, is_last) in [(client(Client::builder().http1_only()), true), (client(Client::builder()), false)] {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize",
            "params": {"protocolVersion": "2025-11-25", "capabilities": {}}});
        let opened = client.post(&url).bearer_auth(token(&claims())).header("content-type", "application/json");
        let opened = opened.header("accept", "application/json, text/event-stream").body(body.to_string());
        let opened = opened.send().await.unwrap();
        let session = opened.headers()["mcp-session-id"].to_str().unwrap().to_owned();
        let get = client.get(&url).bearer_auth(token(&claims())).header("accept", "text/event-stream");
        let stream = get.header("mcp-session-id", &session).send().await.unwrap();
        assert_eq!(stream.headers().get("connection").is_some_and(|said| said == "close"), is_last);
        streams.push(Events::of(stream));
    }
    eventually("heard", || teller.heard_by() == 2).await;
    teller.tell("notifications/prompts/list_changed", &json!({}));
    for stream in &mut streams {
        assert_eq!(stream.method().await, "notifications/prompts/list_changed");
    }
    node.stop().await;
    for mut stream in streams {
        assert_eq!(stream.next().await, None);
    }
}

#[tokio::test]
async fn a_node_that_stops_ends_its_streams() {
    let teller = Teller::start(true).await;
    let mut world = world(&teller).await;
    let mut events = world.listen(&json!({"toolsListChanged": true})).await;
    events.next().await.unwrap();
    let began = Instant::now();
    let (farewell, ()) = tokio::join!(events.next(), world.node.stop());
    assert_eq!(farewell.unwrap()["result"]["resultType"], "complete");
    assert!(began.elapsed() < Duration::from_secs(3), "nobody waits for a listener to be done");
}

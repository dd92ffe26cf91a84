//! A consent that is narrowed to tools at a whole node: what is refused is on record and reaches no server, a server
//! none of whose tools it lists is not asked anything for its caller, and a change of it counts at once.

use bailiwick_proto::v1::{Tool, VirtualServer, resource::Resource};

use super::*;
use crate::fakes::world::entry;

async fn consented(world: &World, consent: Entry) {
    let revision = world.control.change(consent, true).await;
    eventually("configured", || world.control.acknowledged(revision)).await;
}

async fn listed(world: &World) -> Vec<Value> {
    let (_, body) = json_of(world.modern("tools/list", None, "").send().await.unwrap()).await;
    body["result"]["tools"].as_array().unwrap().iter().map(|tool| tool["name"].clone()).collect()
}

#[tokio::test]
async fn a_tool_that_the_consent_does_not_list_is_refused_on_record_until_it_does() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    assert_eq!(listed(&world).await.len(), 3, "what was permitted before is no answer after");
    consented(&world, narrowed(&["finance/query_data"])).await;
    assert_eq!(listed(&world).await, ["query_data"]);
    let (status, body) = json_of(world.call("create_charge").send().await.unwrap()).await;
    let (code, reason, request_id) = refusal(&body);
    assert_eq!((status, code, reason), (200, 403, "consent_tool_not_listed"));
    assert_eq!(body["error"]["data"]["consent"], "c-1");
    let records = world.records(request_id).await;
    let record = records.last().unwrap();
    let decision = record.decision.as_ref().unwrap();
    assert_eq!((records.len(), record.kind, decision.effect), (1, Kind::CallDenied, Effect::Deny));
    assert_eq!(decision.reason.as_deref(), Some("consent_tool_not_listed"));
    assert!(decision.policies.is_empty(), "no policy was asked");
    assert_eq!(
        (record.consent.as_deref(), record.server.as_deref(), record.tool.as_deref()),
        (Some("c-1"), Some("finance"), Some("create_charge"))
    );
    assert!(json_of(world.call("query_data").send().await.unwrap()).await.1["result"].is_object());
    consented(&world, narrowed(&["finance/create_charge"])).await;
    assert_eq!(listed(&world).await, ["create_charge"]);
    assert!(json_of(world.call("create_charge").send().await.unwrap()).await.1["result"].is_object());
    let (_, body) = json_of(world.call("query_data").send().await.unwrap()).await;
    assert_eq!(refusal(&body).1, "consent_tool_not_listed");
    consented(&world, consent(false)).await;
    assert_eq!(listed(&world).await.len(), 3);
    let called: Vec<_> =
        world.server.seen("tools/call").iter().map(|seen| seen.body["params"]["name"].clone()).collect();
    assert_eq!(called, ["query_data", "create_charge"]);
}

/// How often a server was asked each of the things that it may be asked without a call.
fn asked(server: &FakeServer) -> [usize; 4] {
    ["initialize", "prompts/list", "resources/list", "logging/setLevel"].map(|method| server.seen(method).len())
}

#[tokio::test]
async fn a_server_none_of_whose_tools_is_listed_is_asked_nothing() {
    let hr = FakeServer::start(Speaks::Legacy).await;
    let world = World::with(
        Speaks::Legacy,
        |url| {
            let mut all = entries(url, "permit (principal, action, resource);", true);
            all.retain(|entry| entry.key != "virtual_server/finance");
            let servers = vec!["finance".into(), "hr".into()];
            let (name, naming) = ("finance".into(), "prefixed".into());
            let listed = VirtualServer { name, servers, naming, ..VirtualServer::default() };
            let server = Server { name: "hr".into(), url: hr.url.clone(), timeout_ms: 1500, ..Server::default() };
            let tool = Tool { server: "hr".into(), name: "list_people".into(), ..Tool::default() };
            all.extend([
                entry("virtual_server/finance", Resource::VirtualServer(listed)),
                entry("server/hr", Resource::Server(server)),
                entry("tool/hr/list_people", Resource::Tool(tool)),
            ]);
            all
        },
        false,
    )
    .await;
    // What the node asks for itself is over then.
    eventually("looked at", || [&hr, &world.server].iter().all(|server| server.seen("tools/list").len() >= 2)).await;
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}});
    let legacy = |session: Option<&str>, method: &str, params: &Value| {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
        let request = world.post(body).bearer_auth(token(&claims()));
        session.into_iter().fold(request, |request, session| request.header("mcp-session-id", session))
    };
    let ask_everything = async || {
        let opened = legacy(None, "initialize", &params).send().await.unwrap();
        let session = opened.headers()["mcp-session-id"].to_str().unwrap().to_owned();
        for method in ["prompts/list", "resources/list", "logging/setLevel"] {
            let answer = legacy(Some(&session), method, &json!({"level": "info"})).send().await.unwrap();
            assert_eq!(answer.status(), 200, "{method}");
        }
    };
    let before = asked(&hr);
    consented(&world, narrowed(&["finance/query_data"])).await;
    ask_everything().await;
    assert_eq!(asked(&hr), before);
    assert!(!asked(&world.server).contains(&0), "the other one is: {:?}", asked(&world.server));
    consented(&world, consent(false)).await;
    ask_everything().await;
    let grown = asked(&hr).into_iter().zip(before).all(|(now, before)| now > before);
    assert!(grown, "{:?} after {before:?}", asked(&hr));
}

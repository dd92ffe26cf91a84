//! Lists of several servers: all are asked at the same time, and one that does not answer hides no other.

use std::sync::Arc;

use axum::{Json, Router, extract::State, routing::post};
use bailiwick_proto::v1::{VirtualServer, resource::Resource};
use bailiwick_runtime::{OnEnd, Supervisor};
use tokio::{net::TcpListener, sync::Barrier};

use super::*;
use crate::fakes::world::entry;

/// How long the dead server is waited for; the others have as long as they like.
const SHORT_MS: u64 = 300;

/// A modern server with one prompt, which it shows once all that share the barrier are asked.
async fn with_a_prompt(together: &Arc<Barrier>, stop: &Shutdown) -> String {
    async fn answer(State(together): State<Arc<Barrier>>, Json(message): Json<Value>) -> Json<Value> {
        let result = match message["method"].as_str().unwrap() {
            "server/discover" => json!({"supportedVersions": ["2026-07-28"], "capabilities": {"prompts": {}}}),
            _ => {
                together.wait().await;
                json!({"resultType": "complete", "prompts": [{"name": "p"}]})
            }
        };
        Json(json!({"jsonrpc": "2.0", "id": message["id"], "result": result}))
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/mcp", listener.local_addr().unwrap());
    let app = Router::new().route("/mcp", post(answer)).with_state(Arc::clone(together));
    let stopped = stop.clone();
    Supervisor::new(stop.clone()).spawn("prompts", OnEnd::Finish, async move {
        stopped.or_stop(axum::serve(listener, app).into_future()).await;
    });
    url
}

fn server(name: &str, url: &str, timeout_ms: u64) -> Entry {
    let server = Server { name: name.into(), url: url.into(), timeout_ms, ..Server::default() };
    entry(&format!("server/{name}"), Resource::Server(server))
}

#[tokio::test]
async fn servers_are_asked_at_the_same_time_and_a_dead_one_costs_its_own_time_only() {
    let (together, stop) = (Arc::new(Barrier::new(2)), Shutdown::new());
    let (one, two) = (with_a_prompt(&together, &stop).await, with_a_prompt(&together, &stop).await);
    // Takes connections and never says a word.
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead_url = format!("http://{}/mcp", dead.local_addr().unwrap());
    let names = ["dead", "finance", "one", "two"].map(str::to_owned).to_vec();
    let listed =
        VirtualServer { name: "finance".into(), servers: names, naming: "prefixed".into(), ..VirtualServer::default() };
    let permit = "permit (principal, action, resource);";
    let world = World::with(
        Speaks::Modern,
        |url| {
            let all = entries(url, permit, true).into_iter();
            let mut all: Vec<Entry> = all.filter(|entry| entry.key != "virtual_server/finance").collect();
            all.extend([server("one", &one, 60_000), server("two", &two, 60_000), server("dead", &dead_url, SHORT_MS)]);
            all.push(entry("virtual_server/finance", Resource::VirtualServer(listed)));
            all
        },
        false,
    )
    .await;
    let (status, body) = json_of(world.modern("prompts/list", None, "").send().await.unwrap()).await;
    let prompts: Vec<&str> =
        body["result"]["prompts"].as_array().unwrap().iter().map(|prompt| prompt["name"].as_str().unwrap()).collect();
    assert_eq!((status, prompts), (200, vec!["one__p", "two__p"]), "{body}");
    assert_eq!(body["result"]["_meta"]["bailiwick/serversLeftOut"], 1, "the one without prompts is not missing");

    let (status, body) = json_of(world.modern("server/discover", None, "").send().await.unwrap()).await;
    assert_eq!((status, &body["result"]["capabilities"]["prompts"]), (200, &json!({})));
    let metrics = format!("http://{}/metrics", world.node.running.as_ref().unwrap().ops_addr);
    let metrics = Client::new().get(metrics).send().await.unwrap().text().await.unwrap();
    let left_out = r#"bailiwick_data_plane_servers_left_out_total{reason="upstream_timeout"} 2"#;
    assert!(metrics.contains(left_out), "{metrics}");
    stop.request();
}

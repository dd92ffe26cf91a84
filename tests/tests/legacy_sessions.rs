//! Sessions with legacy servers, with real processes and a real event stream: what a server says beside its answers, what
//! a client says at one node and means at all, and the end.

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{
    Deployment, Events, McpClient, ScriptedServer, Shape, eventually,
    manifests::JANE,
    scripted::{Reply, tool},
};
use serde_json::json;

/// The change that listeners are told of.
const CHANGED: &str = "notifications/prompts/list_changed";

/// Two data planes in front of a legacy server, and one legacy client's session at each.
struct Scene {
    deployment: Deployment,
    server: ScriptedServer,
    clients: [McpClient; 2],
}

async fn scene() -> Result<Scene> {
    let server = ScriptedServer::start(vec![tool("read", "retrieval")]).await?;
    server.offer_more();
    let deployment = Deployment::start(Shape::Processes).await?;
    deployment.apply(&(server.manifests("old", "plain") + JANE))?;
    let token = deployment.token("old", "destructive")?;
    let [one, other] = deployment.mcp.as_slice() else { anyhow::bail!("two data planes") };
    let mut client = McpClient::new(one, "old", &token);
    for node in [one, other] {
        let at = client.at(node);
        eventually("the token works", async || {
            at.modern("tools/list", json!({})).await.ok().filter(|answer| !answer.tools().is_empty())
        })
        .await
        .with_context(|| deployment.log())?;
    }
    client.initialize_with(json!({"elicitation": {}})).await?;
    let clients = [client.clone(), client.at(other)];
    Ok(Scene { deployment, server, clients })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_legacy_client_says_once_counts_at_all_nodes_and_its_servers_sessions_are_given_back() -> Result<()> {
    let Scene { mut deployment, server, clients: [client, other] } = scene().await?;
    let answer = other.legacy("tools/call", json!({"name": "read", "arguments": {"n": 1}})).await?;
    ensure!(answer.body["result"]["structuredContent"]["n"] == 1, "{}", answer.text);
    let set = client.legacy("logging/setLevel", json!({"level": "warning"})).await?;
    ensure!(set.body["result"] == json!({}), "{}", set.text);
    eventually("both nodes' sessions are told", async || (server.levels() == ["warning"; 2]).then_some(())).await?;
    let mut older = Events::legacy(&client, None).await?;
    let mut newer = Events::legacy(&other, None).await?;
    ensure!(older.next().await?.is_none(), "nothing may be told on two streams of a session");
    // It is not known when the server is heard.
    let tells = eventually("the newer one tells", async || {
        server.tell_changed(CHANGED, &json!({}));
        None::<()>
    });
    tokio::select! {
        told = newer.message() => ensure!(told?["method"] == CHANGED, "the newer one tells"),
        silent = tells => silent?,
    }
    drop(newer);

    server.forget_sessions();
    other.legacy("tools/call", json!({"name": "read", "arguments": {}})).await?;
    ensure!(server.levels() == ["warning"; 3], "a session that is opened anew: {:?}", server.levels());
    ensure!(server.sessions() > 0);
    deployment.stop()?;
    ensure!(server.sessions() == 0, "{} sessions are left", server.sessions());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_legacy_server_asks_beside_its_answer_reaches_the_client_whose_call_is_under_way() -> Result<()> {
    let Scene { deployment, server, clients: [client, other] } = scene().await?;
    server.reply(Reply::Held);
    let call = json!({"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": {"name": "read", "arguments": {}}});
    let asked = async {
        let session = other.session.clone().unwrap_or_default();
        let mut events = Events::of(other.post(call.to_string()).header("mcp-session-id", session)).await?;
        let question = events.message().await?;
        ensure!(question["method"] == "elicitation/create", "{question}");
        // Its answer may come to any node.
        let given = json!({"action": "accept", "content": {"who": "jane"}});
        let told = json!({"jsonrpc": "2.0", "id": question["id"], "result": given});
        let taken = client.post(told.to_string()).header("mcp-session-id", client.session.clone().unwrap_or_default());
        ensure!(taken.send().await?.status() == 202);
        eventually("answered", async || (server.answered()["result"] == given).then_some(())).await?;
        server.release();
        let answer = events.message().await?;
        ensure!(answer["id"] == 5 && answer["result"]["structuredContent"] == json!({}), "{answer}");
        anyhow::Ok(())
    };
    let asks = async {
        eventually("under way", async || (server.underway() == 1).then_some(())).await?;
        ensure!(server.streams() == 1, "the session's stream is open before the call is sent");
        let question =
            json!({"jsonrpc": "2.0", "id": "q-9", "method": "elicitation/create", "params": {"message": "?"}});
        server.tell(&format!("data: {question}\n\n"));
        anyhow::Ok(())
    };
    tokio::try_join!(asked, asks).map(|_| ()).with_context(|| deployment.log())
}

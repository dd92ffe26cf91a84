//! What clients bring back sealed, in the wrong hands: whoever else brings it, changed or in another's place, it is not
//! known, and what is known still counts afterwards.

use anyhow::{Context, Result, bail, ensure};
use bailiwick_tests::{
    Events, McpClient, Reply, eventually,
    mcp::{MODERN, modern_meta},
    scripted::tool,
};
use serde_json::{Value, json};

use super::{JANE, World, agent, client_of, people};

/// Somebody who waits for an answer, and everything that was sealed for them.
struct Sealed {
    /// In the legacy era.
    client: McpClient,
    envelopes: [(&'static str, String); 4],
    /// The stream of the call that waits for the answer to the question.
    waiting: Events,
}

const SESSION: usize = 0;
const QUESTION: usize = 3;
const ANSWER: &str = "jane's own answer";

/// Gets one of each kind: session, cursor, request state, question.
async fn sealed_for(world: &World, modern: &McpClient) -> Result<Sealed> {
    let mut client = modern.clone();
    client.initialize_with(json!({"elicitation": {}})).await?;
    let session = client.session.clone().context("session")?;
    let page = modern.modern("prompts/list", json!({})).await?;
    let cursor = page.body["result"]["nextCursor"].as_str().with_context(|| page.text.clone())?.to_owned();
    world.server.reply_once(Reply::Asks);
    let wish = repeat(modern, None).await?;
    let state = wish["result"]["requestState"].as_str().with_context(|| wish.to_string())?.to_owned();
    world.server.reply_once(Reply::Asks);
    let body = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "read"}});
    let mut waiting = Events::of(client.post(body.to_string()).header("mcp-session-id", &session)).await?;
    let question = waiting.message().await?;
    let question = question["id"].as_str().with_context(|| question.to_string())?.to_owned();
    let envelopes = [("session", session), ("cursor", cursor), ("state", state), ("question", question)];
    Ok(Sealed { client, envelopes, waiting })
}

/// A modern call, maybe with what it was asked for.
async fn repeat(client: &McpClient, state: Option<&str>) -> Result<Value> {
    let mut meta = modern_meta();
    meta["io.modelcontextprotocol/clientCapabilities"] = json!({"elicitation": {}});
    let mut params = json!({"name": "read", "_meta": meta});
    if let Some(state) = state {
        params["requestState"] = json!(state);
        params["inputResponses"] = json!({"1": {"action": "accept", "content": {"from": "whoever"}}});
    }
    let body = json!({"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": params});
    let headers = [("mcp-protocol-version", MODERN), ("mcp-method", "tools/call"), ("mcp-name", "read")];
    Ok(client.raw(body.to_string(), &headers).await?.body)
}

/// Whether an envelope is taken as this kind from this client, whose own session is good.
async fn is_taken(client: &McpClient, kind: usize, text: &str) -> Result<bool> {
    let in_session = |session: &str| McpClient { session: Some(session.to_owned()), ..client.clone() };
    Ok(match kind {
        0 => {
            let answer = in_session(text).legacy("tools/list", json!({})).await?;
            ensure!([200, 400, 404].contains(&answer.status.as_u16()), "{}", answer.text);
            answer.status == 200
        }
        1 => {
            let answer = client.modern("prompts/list", json!({"cursor": text})).await?;
            ensure!(answer.body.get("result").is_some() || answer.code() == Some(-32602), "{}", answer.text);
            answer.body.get("result").is_some()
        }
        2 => {
            let body = repeat(client, Some(text)).await?;
            ensure!(body.get("result").is_some() || body["error"]["code"] == -32602, "{body}");
            body.get("result").is_some()
        }
        QUESTION => {
            let body =
                json!({"jsonrpc": "2.0", "id": text, "result": {"action": "accept", "content": {"by": "whoever"}}});
            let answer =
                client.post(body.to_string()).header("mcp-session-id", client.session.as_deref().unwrap_or(""));
            let status = answer.send().await?.status();
            ensure!(status == 202 || status == 400, "{status}");
            status == 202
        }
        other => bail!("no such kind: {other}"),
    })
}

/// The same text with something wrong.
fn forgeries(text: &str, others: &[(&'static str, String)]) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for place in [0, 1, 2, 3, 10, text.len() / 2, text.len() - 2] {
        let other = if text.as_bytes()[place] == b'A' { "B" } else { "A" };
        let changed =
            format!("{}{other}{}", text.get(..place).unwrap_or_default(), text.get(place + 1..).unwrap_or_default());
        all.push((format!("changed at {place}"), changed));
    }
    let (word, body) = text.split_once('.').unwrap_or(("", text));
    all.push(("cut".into(), text.get(..text.len() - 4).unwrap_or_default().to_owned()));
    all.push(("longer".into(), format!("{text}AAAA")));
    all.push(("twice".into(), format!("{text}{text}")));
    all.push(("of another version".into(), format!("{}1.{body}", word.get(..1).unwrap_or_default())));
    all.push(("without a word".into(), body.to_owned()));
    all.push(("empty".into(), format!("{word}.")));
    all.push(("endless".into(), format!("{word}.{}", "A".repeat(3_500))));
    for (kind, other) in others.iter().filter(|(_, other)| other != text) {
        let (_, body) = other.split_once('.').unwrap_or(("", other));
        all.push((format!("a {kind}"), other.clone()));
        all.push((format!("a {kind} called otherwise"), format!("{word}.{body}")));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sealed_for_somebody_is_nothing_in_anybody_elses_hands() -> Result<()> {
    let world = World::start(vec![tool("read", "retrieval")]).await?;
    world.server.offer_more();
    let max = "max@example.com";
    world.deployment.apply(&people(&[max]))?;
    world.deployment.apply(&format!(
        "---\napiVersion: bailiwick/v1\nkind: Agent\nmetadata: {{name: second}}\nspec: {{owner: {JANE}, project: p, ceiling: destructive}}\n\
         ---\napiVersion: bailiwick/v1\nkind: VirtualServer\nmetadata: {{name: twin}}\nspec: {{naming: plain, servers: [{{server: shop}}]}}\n"
    ))?;
    let own = client_of(&world.deployment, (JANE, &agent(JANE)), "shop").await?;
    let mut sealed = sealed_for(&world, &own).await?;
    let mut wrong = Vec::new();
    // In other hands.
    for (who, agent, server) in
        [(max, agent(max), "shop"), (JANE, "second".to_owned(), "shop"), (JANE, agent(JANE), "twin")]
    {
        let mut other = client_of(&world.deployment, (who, &agent), server).await?;
        other.initialize_with(json!({"elicitation": {}})).await?;
        for (kind, (name, text)) in sealed.envelopes.iter().enumerate() {
            if is_taken(&other, kind, text).await? {
                wrong.push(format!("the {name} is taken from {who} through {agent} at {server}"));
            }
        }
    }
    // Changed, and in another's place.
    for (kind, (name, text)) in sealed.envelopes.iter().enumerate() {
        for (how, forged) in forgeries(text, &sealed.envelopes) {
            if is_taken(&sealed.client, kind, &forged).await? {
                wrong.push(format!("a {name} is taken that is {how}: {forged:.80}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "{wrong:#?}");
    // None of it used anything up.
    let answer = json!({"action": "accept", "content": {"by": ANSWER}});
    let question = sealed.envelopes[QUESTION].1.clone();
    let body = json!({"jsonrpc": "2.0", "id": question, "result": answer}).to_string();
    let session = sealed.envelopes[SESSION].1.clone();
    let taken = sealed.client.raw(body, &[("mcp-session-id", &session)]).await?;
    ensure!(taken.status == 202, "{}", taken.text);
    let result = sealed.waiting.message().await?;
    ensure!(result["result"]["structuredContent"] == answer, "{result}");
    for kind in [0, 1, 2] {
        let (name, text) = &sealed.envelopes[kind];
        ensure!(is_taken(&sealed.client, kind, text).await?, "the {name} is not taken from whom it was made for");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_id_brings_back_subscriptions_to_whom_it_was_given_and_to_nobody_else() -> Result<()> {
    let world = World::start(vec![tool("read", "retrieval")]).await?;
    world.server.offer_more();
    let max = "max@example.com";
    world.deployment.apply(&people(&[max]))?;
    let mut jane = client_of(&world.deployment, (JANE, &agent(JANE)), "shop").await?;
    let mut other = client_of(&world.deployment, (max, &agent(max)), "shop").await?;
    jane.initialize().await?;
    other.initialize().await?;
    let uri = json!({"uri": "note:///1"});
    let subscribed = jane.legacy("resources/subscribe", uri.clone()).await?;
    ensure!(subscribed.body.get("result").is_some(), "{}", subscribed.text);
    let mut stream = Events::legacy(&jane, None).await?;
    eventually("the server is asked", async || (!world.server.subscribed().is_empty()).then_some(())).await?;
    world.server.tell_changed("notifications/resources/updated", &uri);
    ensure!(stream.message().await?["params"] == uri);
    let id = stream.last_id.clone().context("an event without an id")?;
    drop(stream);
    let first_told = async |client: &McpClient, id: &str| -> Result<Value> {
        eventually("the stream before is let go", async || (world.server.streams() == 0).then_some(())).await?;
        let mut stream = Events::legacy(client, Some(id)).await?;
        eventually("the server is heard", async || (world.server.streams() == 1).then_some(())).await?;
        world.server.tell_changed("notifications/prompts/list_changed", &json!({}));
        Ok(stream.message().await?["method"].clone())
    };
    let session = jane.session.clone().context("session")?;
    let (forgeries, asked) = (forgeries(&id, &[("session", session)]), world.server.subscribed().len());
    for (client, how, id) in std::iter::once((&other, "of somebody else".to_owned(), id.clone()))
        .chain(forgeries.into_iter().map(|(how, forged)| (&jane, how, forged)))
    {
        let told = first_told(client, &id).await.with_context(|| how.clone())?;
        ensure!(told == "notifications/prompts/list_changed", "an event id that is {how}: {told}");
    }
    ensure!(world.server.subscribed().len() == asked, "a forged event id subscribed to something");
    ensure!(first_told(&jane, &id).await? == "notifications/resources/updated", "her own is not taken");
    Ok(())
}

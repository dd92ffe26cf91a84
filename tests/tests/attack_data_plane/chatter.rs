//! Servers that say what they may not, too much of it, or never come to an end: in both eras on both sides, each ends
//! in an answer or a named refusal, and the next call works.

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{
    Answer, Events, McpClient, ScriptedServer, eventually,
    scripted::{End, Reply, tool},
};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};

use super::{ANSWER_WAIT_MAX, World, agent, client_of, people, servers::answer};

/// What the gateway passes on for one request at most (`docs/reference/mcp.md`).
const TOLD_MAX: usize = 1_000;
/// The servers' time limit in these tests.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The messages of an answer, in whichever form it came.
pub(super) fn messages(answer: &Answer) -> Vec<Value> {
    if !answer.body.is_null() {
        return vec![answer.body.clone()];
    }
    let data = answer.text.lines().filter_map(|line| line.strip_prefix("data: "));
    data.filter_map(|data| serde_json::from_str(data).ok()).collect()
}

/// What became of a call.
#[derive(Debug)]
struct Came {
    /// Everything before the answer.
    told: Vec<Value>,
    last: Value,
}

impl Came {
    fn reason(&self) -> &str {
        self.last.pointer("/error/data/reason").and_then(Value::as_str).unwrap_or_default()
    }
}

/// A client of either era that reads.
#[derive(Clone)]
struct Reader(McpClient);

impl Reader {
    async fn read(&self) -> Result<Came> {
        let params = json!({"name": "read", "arguments": {"n": 1}});
        let asked = async {
            match self.0.session.is_some() {
                true => self.0.legacy("tools/call", params).await,
                false => self.0.modern("tools/call", params).await,
            }
        };
        let answer = tokio::time::timeout(ANSWER_WAIT_MAX, asked).await.context("the call hangs")??;
        let mut told = messages(&answer);
        let last = told.pop().with_context(|| format!("no answer: {}", answer.text))?;
        Ok(Came { told, last })
    }

    async fn reads(&self) -> Result<()> {
        let came = self.read().await?;
        ensure!(came.last["result"]["structuredContent"]["n"] == 1, "a good call fails: {came:?}");
        Ok(())
    }
}

/// What a server says to a call, what its caller gets (a reason, or nothing for a result), and from which servers it is
/// taken so.
struct Case {
    what: &'static str,
    says: Reply,
    reason: &'static str,
    eras: &'static [bool],
}

const BOTH: &[bool] = &[false, true];
const LEGACY: &[bool] = &[false];
const NEW: &[bool] = &[true];

fn note(method: &str, params: &Value) -> String {
    format!("data: {}\n\n", json!({"jsonrpc": "2.0", "method": method, "params": params}))
}

fn cases() -> Vec<Case> {
    let good = || format!("data: {}\n\n", answer(r#"{"content":[],"structuredContent":{"n":1}}"#));
    let case = |what, says, reason, eras| Case { what, says, reason, eras };
    let says = |events: Vec<String>| Reply::Says(events, End::Done);
    let json = |body: &str| Reply::ok("application/json", body.to_owned());
    let line = |id: &str| format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[]}}}}"#);
    let asks = note("sampling/createMessage", &json!({"messages": []})).replace("\"method\"", "\"id\":7,\"method\"");
    let log = note("notifications/message", &json!({"level": "error", "data": "x"}));
    vec![
        case("another id", json(&line("\"other\"")), "upstream_invalid", BOTH),
        case("its id as text", json(&line("\"$ID\"")), "upstream_invalid", BOTH),
        case("a null id", json(&line("null")), "upstream_invalid", BOTH),
        case("no id", json(r#"{"jsonrpc":"2.0","result":{"content":[]}}"#), "upstream_invalid", BOTH),
        case(
            "another id before its own",
            says(vec![format!("data: {}\n\n", line("4711")), good()]),
            "upstream_invalid",
            BOTH,
        ),
        case("two answers", says(vec![good(), good()]), "", BOTH),
        case(
            "a request as its answer",
            json(r#"{"jsonrpc":"2.0","id":$ID,"method":"ping"}"#),
            "upstream_invalid",
            BOTH,
        ),
        // Whoever may not ask is answered or cut; nobody is asked.
        case("a request of a modern server", says(vec![asks.clone(), good()]), "upstream_invalid", NEW),
        case("a request that was not declared", says(vec![asks, good()]), "", LEGACY),
        case(
            "cancels what it was asked",
            says(vec![note("notifications/cancelled", &json!({"requestId": 1})), good()]),
            "",
            BOTH,
        ),
        case(
            "progress of somebody else",
            says(vec![note("notifications/progress", &json!({"progressToken": "x", "progress": 1})), good()]),
            "",
            BOTH,
        ),
        case("a flood with an end", says([vec![log.clone(); TOLD_MAX * 3 / 2], vec![good()]].concat()), "", BOTH),
        case("a flood", Reply::Floods(log.clone()), "too_much", BOTH),
        case("a flood of comments", Reply::Floods(": x\n".into()), "too_much", BOTH),
        case("an event without an end", Reply::Floods("data: x\n".into()), "too_much", BOTH),
        case("a line without an end", Reply::Floods("data: x".into()), "too_much", BOTH),
        case("silence", Reply::Says(vec![": here\n\n".into()], End::Never), "upstream_timeout", BOTH),
        case(
            "half an event, then silence",
            Reply::Says(vec!["data: {\"js".into()], End::Never),
            "upstream_timeout",
            BOTH,
        ),
        case("notes, then silence", Reply::Says(vec![log.clone()], End::Never), "upstream_timeout", BOTH),
        case("half an event", Reply::Says(vec!["data: {\"jsonrpc\"".into()], End::Done), "upstream_invalid", BOTH),
        case("dies in an event", Reply::Says(vec!["data: {\"jsonrpc\"".into()], End::Breaks), "upstream_invalid", BOTH),
        case("dies after a note", Reply::Says(vec![log], End::Breaks), "upstream_invalid", BOTH),
        case("no answer", says(vec![]), "upstream_invalid", BOTH),
        case("no message", says(vec!["data: [1]\n\n".into(), good()]), "upstream_invalid", BOTH),
        case("repeated keys", says(vec!["data: {\"id\":1,\"id\":2}\n\n".into(), good()]), "upstream_invalid", BOTH),
        case("never answers", Reply::Held, "upstream_timeout", BOTH),
    ]
}

/// Jane as a client of both eras.
async fn readers(client: &McpClient) -> Result<[Reader; 2]> {
    let mut legacy = client.clone();
    legacy.initialize().await?;
    Ok([Reader(client.clone()), Reader(legacy)])
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_server_says_its_caller_gets_an_answer_or_a_reason() -> Result<()> {
    let world = World::start(vec![tool("read", "retrieval")]).await?;
    world.deployment.apply(&impatient(&world.server, "shop"))?;
    let readers = readers(&world.client).await?;
    let (mut wrong, mut calls) = (Vec::new(), 0);
    for modern in [false, true] {
        world.server.speak_modern(modern);
        eventually("the server is met in its era", async || readers[0].reads().await.ok()).await?;
        for (case, reader) in cases().iter().flat_map(|case| readers.iter().map(move |reader| (case, reader))) {
            if !case.eras.contains(&modern) {
                continue;
            }
            let Case { what, says, reason, .. } = case;
            let between = format!("{what}: {modern} server, legacy client: {}", reader.0.session.is_some());
            world.server.reply_once(says.clone());
            let began = Instant::now();
            let came = reader.read().await.with_context(|| between.clone())?;
            let is_right = match *reason {
                "" => came.last["result"]["structuredContent"]["n"] == 1,
                // Whichever of the two it comes to first.
                "too_much" => ["upstream_too_large", "upstream_timeout"].contains(&came.reason()),
                reason => came.reason() == reason,
            };
            let in_time = began.elapsed() < TIMEOUT + ANSWER_WAIT_MAX / 4;
            let nobody_asked = came.told.iter().all(|told| told.get("id").is_none());
            if !is_right || !in_time || !nobody_asked || came.told.len() > TOLD_MAX {
                let Came { told, last } = came;
                wrong.push(format!("{between}: {:?}, {} told, {last:.300}", began.elapsed(), told.len()));
            }
            calls += 1;
            reader.reads().await.with_context(|| format!("after {between}"))?;
        }
    }
    ensure!(wrong.is_empty(), "{wrong:#?}");
    ensure!(calls > 80, "only {calls} calls");
    world.server.release();
    eventually("every stream is let go", async || (world.server.streams() == 0).then_some(())).await?;
    records_are_right(&world).await
}

/// The server's manifests with a time limit.
fn impatient(server: &ScriptedServer, name: &str) -> String {
    let url = server.url();
    let seconds = TIMEOUT.as_secs();
    format!(
        "---\napiVersion: bailiwick/v1\nkind: Server\nmetadata: {{name: {name}}}\nspec: {{endpoint: {{url: \"{url}\"}}, timeout: {seconds}s}}\n"
    )
}

/// Every intent has its outcome, and the log verifies.
async fn records_are_right(world: &World) -> Result<()> {
    let deployment = &world.deployment;
    let out = deployment.data().join("export");
    let path = out.to_str().context("path")?.to_owned();
    eventually("all is published, and right", async || {
        drop(std::fs::remove_dir_all(&out));
        deployment.cli_ok(&["ledger", "export", &deployment.ledger, &path]).ok()?;
        let said = deployment.cli_ok(&["ledger", "verify", &path, "-o", "json"]).ok()?;
        let report: Value = serde_json::from_str(&said).ok()?;
        let of = |kind: &str| report["kinds"][kind].as_u64().unwrap_or_default();
        (of("call.intent") > 80 && of("call.intent") == of("call.outcome")).then_some(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_asks_without_end_is_cut_and_one_that_floods_leaves_others_served() -> Result<()> {
    let world = World::start(vec![tool("read", "retrieval")]).await?;
    let asks =
        |id: usize| json!({"jsonrpc": "2.0", "id": id, "method": "elicitation/create", "params": {"message": "who?"}});
    let questions = (0..100).map(|id| format!("data: {}\n\n", asks(id))).collect();
    world.server.reply_once(Reply::Says(questions, End::Never));
    let mut client = world.client.clone();
    client.initialize_with(json!({"elicitation": {}})).await?;
    let came = Reader(client).read().await?;
    ensure!(
        came.reason() == "upstream_invalid" && came.told.len() == 32,
        "{} questions: {}",
        came.told.len(),
        came.last
    );

    // One caller's server floods; another's calls go on, and do not wait for it.
    let (ann, other) = ("ann@example.com", ScriptedServer::start(vec![tool("read", "retrieval")]).await?);
    world
        .deployment
        .apply(&(other.manifests("quiet", "plain") + &people(&[ann]) + &impatient(&world.server, "shop")))?;
    let ann = client_of(&world.deployment, (ann, &agent(ann)), "quiet").await?;
    world.server.reply(Reply::Floods("data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\"}\n\n".into()));
    let flooded = Reader(world.client.clone());
    let floods = futures::future::join_all((0..8).map(|_| flooded.read()));
    let (floods, slowest) = tokio::join!(floods, async {
        let mut slowest = Duration::ZERO;
        for _ in 0..50 {
            let began = Instant::now();
            ensure!(ann.call("read", json!({})).await?.body.get("result").is_some(), "a call beside a flood fails");
            slowest = slowest.max(began.elapsed());
        }
        Ok(slowest)
    });
    for flood in floods {
        ensure!(["upstream_too_large", "upstream_timeout"].contains(&flood?.reason()));
    }
    let slowest = slowest?;
    println!("beside eight floods the slowest of 50 calls took {slowest:?}");
    ensure!(slowest < ANSWER_WAIT_MAX / 4, "{slowest:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_outlives_whatever_a_server_says_on_its_stream() -> Result<()> {
    let world = World::start(vec![tool("read", "retrieval")]).await?;
    world.server.offer_more();
    for modern in [false, true] {
        world.server.speak_modern(modern);
        eventually("the server is met in its era", async || world.read().await.ok()).await?;
        let asked = json!({"promptsListChanged": true, "resourceSubscriptions": ["note:///1"]});
        let mut stream = Events::modern(&world.client, &asked).await?;
        let first = stream.message().await?;
        ensure!(first["params"]["notifications"] == asked, "{modern}: {first}");
        let strays = [
            ": nothing\n\n".to_owned(),
            "data: no JSON\n\n".to_owned(),
            "data: {\"a\":1,\"a\":2}\n\n".to_owned(),
            "data: [{}]\n\n".to_owned(),
            "data: {\"jsonrpc\":\"2.0\",\"id\":\"other\",\"result\":{}}\n\n".to_owned(),
            "data: {\"jsonrpc\":\"2.0\",\"id\":5,\"method\":\"sampling/createMessage\",\"params\":{}}\n\n".to_owned(),
            note("notifications/resources/updated", &json!({"uri": "note:///2"})),
            note("notifications/resources/updated", &json!({"uri": 7})),
            note("notifications/tools/list_changed", &json!({})),
            note("notifications/tasks", &json!({"taskId": "1"})),
            note("notifications/progress", &json!({"progressToken": 1, "progress": 1})),
            note("notifications/subscriptions/acknowledged", &json!({"notifications": {"toolsListChanged": true}})),
        ];
        strays.iter().for_each(|stray| world.server.tell(stray));
        world.server.tell_changed("notifications/resources/updated", &json!({"uri": "note:///1"}));
        let told = stream.message().await?;
        ensure!(told["params"]["uri"] == "note:///1", "{modern}: {told}");
        // A flood is told once in a quarter of a second.
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(1) {
            (0..200).for_each(|_| world.server.tell_changed("notifications/prompts/list_changed", &json!({})));
            tokio::task::yield_now().await;
        }
        world.read().await.context("beside a flood")?;
        world.server.tell_changed("notifications/resources/updated", &json!({"uri": "note:///1"}));
        let mut told = 0;
        while stream.message().await?["method"] == "notifications/prompts/list_changed" {
            told += 1;
        }
        let most = usize::try_from(began.elapsed().as_millis() / 250)? + 2;
        ensure!((1..=most).contains(&told), "{told} of a flood were told, at most {most} should be");
        drop(stream);
        eventually("the server's stream is let go", async || (world.server.streams() == 0).then_some(())).await?;
    }
    Ok(())
}

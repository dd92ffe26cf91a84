//! Decisions on record: each that was told is in the ledger, provably; what was refused leaves nothing there.

use std::fs;

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{Answer, Deployment, Shape, both, deployment::kill, eventually};
use serde_json::{Value, json};

use super::{AGENT, JANE, SECRET, SERVICE, World, asks, verdict};

const KIND: &str = "decision.evaluated";

/// Records of one request in the order in which they were decided, once there are as many.
async fn of_request(deployment: &Deployment, id: &str, count: usize) -> Result<Vec<Value>> {
    eventually(&format!("{count} decisions of {id} on record"), async || {
        let mut found = deployment.audit(&["--kind", KIND, "--request-id", id]).ok()?;
        found.reverse();
        (found.len() == count).then_some(found)
    })
    .await
}

fn id_of(decision: &Value) -> Result<String> {
    Ok(decision["context"]["request_id"].as_str().with_context(|| format!("no request id: {decision}"))?.to_owned())
}

/// What `ledger verify` says of an export, once it is as the test wants it.
async fn verified(deployment: &Deployment, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let out = deployment.data().join("export").display().to_string();
    eventually("a valid export with all of it", async || {
        drop(fs::remove_dir_all(&out));
        deployment.cli_ok(&["ledger", "export", &deployment.ledger, &out]).ok()?;
        let report = deployment.cli_ok(&["ledger", "verify", &out, "-o", "json"]).ok()?;
        serde_json::from_str(&report).ok().filter(|report| wanted(report))
    })
    .await
}

async fn each_decision_is_on_record_with_who_asked_and_what_decided(shape: Shape) -> Result<()> {
    let world = World::start(shape).await?;
    let (_, consent) = world.consent("transactional").await?;
    let (deployment, service) = (&world.deployment, &world.services[0]);
    let mut question = asks("read");
    question["context"] = json!({"note": "hunter2", "arguments": {"card": "4111"}});
    let permitted = service.one(&question).await?;
    ensure!(verdict(&permitted.body) == "permit", "{}", permitted.text);
    let denied = service.one(&asks("erase")).await?;
    let mut batch = asks("charge");
    batch["evaluations"] = json!([{}, {"resource": asks("none")["resource"]}, 7]);
    let several = service.several(&batch).await?;

    let permit = &of_request(deployment, &id_of(&permitted.body)?, 1).await?[0];
    for (field, expected) in [
        ("decision_client", SERVICE),
        ("user", JANE),
        ("agent", AGENT),
        ("owner", JANE),
        ("project", "billing"),
        ("consent", &consent),
        ("server", "shop"),
        ("tool", "read"),
        ("tier", "retrieval"),
        ("virtual_server", "shop"),
    ] {
        ensure!(permit[field] == expected, "{field}: {permit}");
    }
    let context = &permitted.body["context"];
    ensure!(permit["decision"]["effect"] == "permit" && permit["rev"] == context["revision"], "{permit}");
    let (age, bytes) = (context["config_age_ms"].to_string(), question.to_string().len().to_string());
    ensure!(permit["rev_age_ms"] == age && permit["args"]["bytes"] == bytes, "{permit}");
    let policies = permit["decision"]["policies"].as_array().context("policies")?;
    ensure!(policies.len() == 1 && policies[0]["name"] == "shop" && policies[0]["version"].is_string(), "{permit}");
    ensure!(permit["args"]["summary"] == "object: 4 members (4 objects)", "{permit}");
    for absent in ["binding", "session", "outcome", "intent"] {
        ensure!(permit.get(absent).is_none(), "{absent}: {permit}");
    }
    ensure!(!permit.to_string().contains("hunter2") && !permit.to_string().contains("4111"), "{permit}");

    let id = id_of(&denied.body)?;
    let deny = &of_request(deployment, &id, 1).await?[0];
    ensure!(deny["decision"]["reason"] == "consent_level_exceeded" && deny["tier"] == "destructive", "{deny}");

    let answers = several.body["evaluations"].as_array().context("a list")?;
    let records = of_request(deployment, &id_of(&answers[0])?, 3).await?;
    for (answer, record) in answers.iter().zip(&records) {
        let on_record = record["decision"]["reason"].as_str().unwrap_or("permit");
        ensure!(verdict(answer) == on_record, "{answer} {record}");
        ensure!(record["args"] == records[0]["args"], "one body, one commitment");
    }
    ensure!(records[1]["decision"]["reason"] == "tool_unknown" && records[1].get("tool").is_none(), "{}", records[1]);
    ensure!(records[2]["decision"]["reason"] == "question_malformed" && records[2].get("user").is_none(), "malformed");

    let found = deployment.audit(&["--decision-client", SERVICE, "--decision", "deny", "--tool", "erase"])?;
    ensure!(found.iter().any(|record| record == deny), "{found:?}");
    ensure!(deployment.audit(&["--decision-client", "nobody"])?.is_empty(), "another service's");
    let table = deployment.cli_ok(&["audit", "query", "--request-id", &id])?;
    ensure!(table.contains("told billing (consent_level_exceeded)"), "{table}");
    let told = deployment.cli_ok(&["explain", &id])?;
    for line in ["shop/erase (destructive) on shop: asked by billing, told that it is refused", "asked by  billing"] {
        ensure!(told.contains(line), "{told}");
    }
    let told: Value = serde_json::from_str(&deployment.cli_ok(&["explain", &id, "-o", "json"])?)?;
    ensure!(told["calls"] == json!([]) && told["evaluations"][0]["who"]["decision_client"] == SERVICE, "{told}");
    let csv = deployment.cli_ok(&["audit", "export", "--decision-client", SERVICE])?;
    ensure!(csv.lines().next().is_some_and(|headers| headers.ends_with(",decision_client")), "{csv}");
    ensure!(csv.lines().skip(1).all(|line| line.ends_with(",billing")) && csv.contains(&id), "{csv}");
    let report = verified(deployment, |report| report["kinds"][KIND].as_u64() >= Some(5)).await?;
    ensure!(report["result"] == "VALID", "{report}");
    Ok(())
}

async fn refusals_of_requests_leave_no_record(shape: Shape) -> Result<()> {
    let world = World::start(shape).await?;
    world.consent("destructive").await?;
    let (deployment, service) = (&world.deployment, &world.services[0]);
    let first = service.one(&asks("read")).await?;
    of_request(deployment, &id_of(&first.body)?, 1).await?;
    for _ in 0..50 {
        for secret in ["", "wrong"] {
            ensure!(service.with_secret(secret).one(&asks("read")).await?.status == 401, "a stranger");
        }
        ensure!(service.one(&json!({})).await?.status == 400, "no question");
        let broken = service.post("/access/v1/evaluations").body("{");
        ensure!(Answer::to(broken).await?.status == 400, "no JSON");
    }
    let last = service.one(&asks("read")).await?;
    let of = of_request(deployment, &id_of(&last.body)?, 1).await?;
    let from = of_request(deployment, &id_of(&first.body)?, 1).await?;
    let seq = |record: &Value| record["seq"].as_str().and_then(|seq| seq.parse::<u64>().ok()).context("a seq");
    let (from, to) = (seq(&from[0])?, seq(&of[0])?);
    let all = deployment.audit(&["--limit", "1000"])?;
    let node = &of[0]["node"];
    let between: Vec<_> = all
        .iter()
        .filter(|record| record["node"] == *node && seq(record).is_ok_and(|seq| from < seq && seq < to))
        .filter(|record| record["kind"] != "node.head")
        .collect();
    ensure!(between.is_empty(), "{between:?}");
    let text = serde_json::to_string(&all)?;
    ensure!(!text.contains(SECRET), "the secret is on record");
    Ok(())
}

both! {
    each_decision_is_on_record_with_who_asked_and_what_decided
    refusals_of_requests_leave_no_record
}

mod nodes {
    use super::*;

    /// Told while no ledger answers, and the node dies the moment after: its next run hands it over.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_decision_that_was_told_survives_its_node() -> Result<()> {
        let World { mut deployment, services, _server } = World::start(Shape::Processes).await?;
        for node in deployment.role("ledger") {
            kill(node.pid, "KILL");
        }
        let told = services[0].one(&asks("read")).await?;
        deployment.kill();
        ensure!(told.status == 200, "{}", told.text);
        deployment.start_again().await?;
        let id = id_of(&told.body)?;
        let record = &of_request(&deployment, &id, 1).await?[0];
        ensure!(record["decision"]["reason"].as_str().unwrap_or("permit") == verdict(&told.body), "{record}");
        let report = verified(&deployment, |report| report["kinds"][KIND].as_u64() >= Some(1)).await?;
        ensure!(report["result"] == "VALID", "{report}");
        Ok(())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn without_room_for_the_record_there_is_no_decision_and_calls_have_more_room() -> Result<()> {
        let spool = ("BAILIWICK_DATA_PLANE__SPOOL_BYTES_MAX", "1048576");
        let mut world = World::start_with(Shape::Processes, &[spool]).await?;
        let (clients, _) = world.consent("destructive").await?;
        for node in world.deployment.role("ledger") {
            kill(node.pid, "KILL");
        }
        let mut batch = asks("read");
        batch["evaluations"] = vec![json!({}); 20].into();
        let (mut told, mut refused) = (Vec::new(), None);
        for _ in 0..1_000 {
            let answer = world.services[0].several(&batch).await?;
            match answer.status.as_u16() {
                200 => told.push(id_of(&answer.body["evaluations"][0])?),
                _ => {
                    refused = Some(answer);
                    break;
                }
            }
        }
        let refused = refused.context("a spool of 1 MiB never filled")?;
        ensure!(refused.status == 503 && refused.body["error"] == "spool_pressure", "{}", refused.text);
        ensure!(
            refused.headers.contains_key("retry-after") && !refused.text.contains("\"decision\""),
            "{}",
            refused.text
        );
        ensure!(!told.is_empty(), "nothing was told without a ledger");
        let call = async || clients[0].call("read", json!({})).await;
        ensure!(call().await?.body.get("result").is_some(), "questions of a service stop calls");
        ensure!(world.services[0].one(&asks("read")).await?.status == 503, "one question");

        world.deployment.start_again().await?;
        world.until(&asks("read"), "permit").await?;
        for id in told.iter().take(3).chain(told.last()) {
            of_request(&world.deployment, id, 20).await?;
        }
        let count = told.len() as u64 * 20;
        let report = verified(&world.deployment, |report| report["kinds"][KIND].as_u64() >= Some(count)).await?;
        ensure!(report["result"] == "VALID", "{report}");
        Ok(())
    }
}

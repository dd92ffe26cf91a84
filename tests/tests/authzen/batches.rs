//! Several questions at once: their order, their defaults, and when it is enough.

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{Shape, both};
use serde_json::{Value, json};

use super::{AGENT, JANE, World, verdict};

/// The specification's examples of defaults, with our words: subject and action for all, one of them otherwise.
fn about(tools: &[&str], semantic: Option<&str>) -> Value {
    let resource =
        |tool: &&str| json!({"resource": {"type": "tool", "id": tool, "properties": {"virtual_server": "shop"}}});
    let mut body = json!({
        "subject": {"type": "user", "id": JANE, "properties": {"agent": AGENT}},
        "action": {"name": "tools/call"},
        "context": {"time": "2024-05-31T15:22-07:00"},
        "evaluations": tools.iter().map(resource).collect::<Vec<_>>(),
    });
    if let Some(semantic) = semantic {
        body["options"] = json!({"evaluations_semantic": semantic, "another_option": "value"});
    }
    body
}

fn verdicts(answer: &Value) -> Vec<&str> {
    answer["evaluations"].as_array().map(|all| all.iter().map(verdict).collect()).unwrap_or_default()
}

async fn each_semantic_ends_where_it_says(shape: Shape) -> Result<()> {
    let world = World::start(shape).await?;
    world.consent("transactional").await?;
    let above = "consent_level_exceeded";
    for (semantic, tools, expected) in [
        (None, ["read", "erase", "charge"], vec!["permit", above, "permit"]),
        (Some("execute_all"), ["erase", "nothing", "read"], vec![above, "tool_unknown", "permit"]),
        (Some("deny_on_first_deny"), ["read", "erase", "charge"], vec!["permit", above]),
        (Some("deny_on_first_deny"), ["read", "charge", "read"], vec!["permit", "permit", "permit"]),
        (Some("permit_on_first_permit"), ["erase", "charge", "read"], vec![above, "permit"]),
        (Some("permit_on_first_permit"), ["read", "erase", "charge"], vec!["permit"]),
    ] {
        for service in &world.services {
            let answer = service.several(&about(&tools, semantic)).await?;
            ensure!(answer.status == 200 && verdicts(&answer.body) == expected, "{semantic:?}: {}", answer.text);
            ensure!(answer.body.get("decision").is_none(), "several have no decision together");
        }
    }
    Ok(())
}

async fn a_question_that_cannot_be_read_is_denied_and_the_others_are_answered(shape: Shape) -> Result<()> {
    let world = World::start(shape).await?;
    world.consent("destructive").await?;
    let service = &world.services[0];
    let mut body = about(&["read", "erase"], None);
    let evaluations = body["evaluations"].as_array_mut().context("a list")?;
    evaluations.insert(1, json!({}));
    evaluations.push(json!({"resource": "read"}));
    evaluations.push(json!(7));
    let answer = service.several(&body).await?;
    let bad = "question_malformed";
    ensure!(answer.status == 200 && verdicts(&answer.body) == ["permit", bad, "permit", bad, bad], "{}", answer.text);
    // Without a list, and with an empty one, it is one question.
    for evaluations in [None, Some(json!([]))] {
        let mut body = super::asks("read");
        evaluations.into_iter().for_each(|list| body["evaluations"] = list);
        let answer = service.several(&body).await?;
        ensure!(answer.status == 200 && verdict(&answer.body) == "permit", "{}", answer.text);
    }
    let mut nothing = about(&[], None);
    nothing["evaluations"] = json!([]);
    ensure!(service.several(&nothing).await?.status == 400, "no question at all");
    let unknown = service.several(&about(&["read"], Some("permit_all"))).await?;
    ensure!(unknown.status == 400, "{}", unknown.text);
    Ok(())
}

both! {
    each_semantic_ends_where_it_says
    a_question_that_cannot_be_read_is_denied_and_the_others_are_answered
}

//! `agent list`: the inventory of agents, and which of them nobody answers for or nobody uses.
//!
//! One read of the control plane says all but the calls; those only the ledger knows, which is asked about a bounded
//! number of agents, each once. Without a token nobody calls, so an agent whose last token ran out long ago is dormant
//! whatever the ledger says; it decides only where tokens are still good. Where it could not be asked, an agent is not
//! called dormant, and people are told how many there are of those.

use bailiwick_proto::v1::GetRequest;
use futures::{StreamExt as _, stream};
use jiff::{Span, Timestamp};
use serde_json::{Map, Value, json};

use crate::{
    admin::{admin, connect},
    args::AgentListArgs,
    failure::Failure,
    ledger_client,
    output::{print_list, table, text},
};

/// Agents that the ledger is asked about: more than people read.
const ASKED_MAX: usize = 200;
/// How many at once.
const AT_ONCE_MAX: usize = 8;
/// Records of an agent that are looked at for its last call.
const RECORDS_MAX: usize = 5;

pub(crate) async fn list(urls: &str, args: AgentListArgs) -> Result<(), Failure> {
    let request = GetRequest { kind: "Agent".to_owned(), name: String::new() };
    let mut control_planes = connect(urls).await?;
    let asked = control_planes.ask(request, async |channel, asked| admin(channel).get(asked).await);
    let items = asked.await?.items;
    let agents = items.iter().map(|item| serde_json::from_str(item).map(|item: Value| row(&item)));
    let mut agents = agents.collect::<Result<Vec<_>, _>>().map_err(Failure::refused)?;
    let is_wanted = |agent: &Value| {
        let is_theirs = args.owner.as_ref().is_none_or(|owner| text(agent, "owner") == *owner);
        is_theirs && (!args.orphaned || agent.get("orphaned") == Some(&Value::Bool(true)))
    };
    agents.retain(is_wanted);
    let horizon = args.dormant.map(horizon).transpose()?;
    if let Some(horizon) = horizon {
        agents.retain(|agent| without_calls(agent, horizon) != Some(false));
    }
    let unasked = add_calls(&args.ledger, &mut agents, horizon).await;
    if let Some(horizon) = horizon {
        let unsure = agents.iter().filter(|agent| is_dormant(agent, horizon).is_none()).count();
        agents.retain(|agent| is_dormant(agent, horizon) == Some(true));
        agents
            .iter_mut()
            .filter_map(Value::as_object_mut)
            .for_each(|agent| drop(agent.insert("dormant".into(), true.into())));
        if unsure > 0 && unasked.is_some() {
            eprintln!("warning: {unsure} agents have tokens that are still good; whether they call is not known");
        }
    }
    if let Some(why) = unasked {
        eprintln!("warning: {why}");
    }
    print_list(args.output, agents, people);
    Ok(())
}

/// Before this an agent must have been left alone to be dormant.
fn horizon(days: u32) -> Result<Timestamp, Failure> {
    let hours = Span::new().try_hours(i64::from(days) * 24).map_err(Failure::refused)?;
    Timestamp::now().checked_sub(hours).map_err(Failure::refused)
}

/// One agent, without the layers of a manifest.
fn row(item: &Value) -> Value {
    let mut row = Map::new();
    row.insert("name".to_owned(), text(item, "metadata.name").into());
    for key in ["owner", "successor", "project", "ceiling", "review_by"] {
        let value = item.pointer(&format!("/spec/{key}"));
        value.into_iter().for_each(|value| drop(row.insert(key.to_owned(), value.clone())));
    }
    let named = ["owner_state", "orphaned", "state", "clients", "created_at", "last_token_at", "tokens_until"];
    for key in named.into_iter().chain(["conditions"]) {
        let value = item.pointer(&format!("/status/{key}"));
        value.into_iter().for_each(|value| drop(row.insert(key.to_owned(), value.clone())));
    }
    Value::Object(row)
}

/// Adds the last call of each, as far as the ledger is asked; why it was not, or not about all.
async fn add_calls(ledger: &str, agents: &mut [Value], horizon: Option<Timestamp>) -> Option<String> {
    // Where tokens alone decide, nobody waits for the rest.
    let is_open = |agent: &Value| horizon.is_none_or(|horizon| without_calls(agent, horizon).is_none());
    let (open, settled): (Vec<_>, Vec<_>) = agents.iter_mut().partition(|agent| is_open(agent));
    let count = open.len() + settled.len();
    let mut asked = stream::iter(open.into_iter().chain(settled).take(ASKED_MAX))
        .map(|agent| async {
            let call = last_call(ledger, &text(agent, "name")).await;
            call.map(|call| (agent, call))
        })
        .buffered(AT_ONCE_MAX);
    while let Some(answer) = asked.next().await {
        match answer {
            Ok((agent, call)) => {
                agent
                    .as_object_mut()
                    .into_iter()
                    .for_each(|agent| drop(agent.insert("last_call_at".into(), call.clone())));
            }
            Err(failure) => return Some(format!("last calls are not known: {failure}")),
        }
    }
    (count > ASKED_MAX).then(|| format!("the ledger was asked about {ASKED_MAX} of {count} agents"))
}

/// When an agent last called, or was refused; null where it never did.
async fn last_call(ledger: &str, agent: &str) -> Result<Value, Failure> {
    let query = [("agent", agent.to_owned()), ("limit", RECORDS_MAX.to_string())];
    let answer = ledger_client::get(ledger, "/v1/records", &query).await?;
    let records = answer.get("items").and_then(Value::as_array).into_iter().flatten();
    let mut calls = records.filter(|record| text(record, "kind").starts_with("call."));
    Ok(calls.next().and_then(|call| call.get("ts")).cloned().unwrap_or(Value::Null))
}

fn time(agent: &Value, key: &str) -> Option<Timestamp> {
    agent.get(key)?.as_str()?.parse().ok()
}

/// Whether an agent is dormant as far as one can tell without its calls; `None`: they decide.
fn without_calls(agent: &Value, horizon: Timestamp) -> Option<bool> {
    let is_later = |key: &str| time(agent, key).is_some_and(|time| time >= horizon);
    if is_later("created_at") || is_later("last_token_at") {
        return Some(false);
    }
    (!is_later("tokens_until")).then_some(true)
}

/// Whether an agent is dormant; `None`: nobody knows.
fn is_dormant(agent: &Value, horizon: Timestamp) -> Option<bool> {
    without_calls(agent, horizon).or_else(|| match agent.get("last_call_at")? {
        Value::Null => Some(true),
        _call => Some(time(agent, "last_call_at")? < horizon),
    })
}

fn people(agents: &[Value]) -> String {
    if agents.is_empty() {
        return "none".to_owned();
    }
    let headers = ["NAME", "OWNER", "PROJECT", "STATE", "CEILING", "CLIENTS", "LAST TOKEN", "LAST CALL", "NOTES"];
    let row = |agent: &Value| {
        let said = |key: &str| text(agent, key);
        let conditions = agent.get("conditions").and_then(Value::as_array).into_iter().flatten();
        let mut notes: Vec<String> = conditions.map(|condition| text(condition, "type")).collect();
        if agent.get("orphaned") == Some(&json!(true)) && !notes.iter().any(|note| note == "ownerless") {
            notes.push("orphaned".to_owned());
        }
        if agent.get("dormant") == Some(&json!(true)) {
            notes.push("dormant".to_owned());
        }
        let call = match agent.get("last_call_at") {
            Some(Value::Null) => "never".to_owned(),
            Some(_) => said("last_call_at"),
            None => "?".to_owned(),
        };
        let token = if agent.get("last_token_at").is_some() { said("last_token_at") } else { "never".to_owned() };
        let [name, owner, project, state, ceiling, clients] =
            ["name", "owner", "project", "state", "ceiling", "clients"].map(said);
        vec![name, owner, project, state, ceiling, clients, token, call, notes.join(", ")]
    };
    table(&headers, &agents.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HORIZON: &str = "2026-11-01T00:00:00Z";
    const BEFORE: &str = "2026-10-01T00:00:00Z";
    const AFTER: &str = "2026-11-10T00:00:00Z";

    fn agent(parts: &[(&str, Value)]) -> Value {
        let mut agent = json!({"name": "a", "created_at": BEFORE});
        parts.iter().for_each(|(key, value)| agent[*key] = value.clone());
        agent
    }

    #[test]
    fn an_agent_is_dormant_when_neither_tokens_nor_calls_speak_for_it() {
        let (before, after) = (|| json!(BEFORE), || json!(AFTER));
        for (parts, expected) in [
            (vec![], Some(true)),
            (vec![("created_at", after())], Some(false)),
            (vec![("last_token_at", after()), ("tokens_until", after())], Some(false)),
            (vec![("last_token_at", before()), ("tokens_until", before())], Some(true)),
            // Calls cannot be later than the tokens they need.
            (vec![("last_token_at", before()), ("tokens_until", before()), ("last_call_at", before())], Some(true)),
            // A token of a month that may still be used.
            (vec![("last_token_at", before()), ("tokens_until", after())], None),
            (vec![("last_token_at", before()), ("tokens_until", after()), ("last_call_at", after())], Some(false)),
            (vec![("last_token_at", before()), ("tokens_until", after()), ("last_call_at", before())], Some(true)),
            (vec![("last_token_at", before()), ("tokens_until", after()), ("last_call_at", Value::Null)], Some(true)),
            (vec![("last_token_at", before()), ("tokens_until", after()), ("last_call_at", json!("?"))], None),
        ] {
            assert_eq!(is_dormant(&agent(&parts), HORIZON.parse().unwrap()), expected, "{parts:?}");
        }
    }

    #[test]
    fn people_see_what_is_known_and_what_is_not() {
        let item = json!({
            "metadata": {"name": "coder"},
            "spec": {"owner": "jane@example.com", "project": "platform", "ceiling": "retrieval"},
            "status": {
                "state": "active", "orphaned": true, "clients": ["cli", "ide"], "last_token_at": BEFORE,
                "conditions": [{"type": "review_due", "message": "m"}],
            },
        });
        let mut row = row(&item);
        assert!(row.get("spec").is_none() && row["clients"] == json!(["cli", "ide"]));
        let shown = people(std::slice::from_ref(&row));
        for part in ["coder", "jane@example.com", BEFORE, "?", "review_due, orphaned"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        row["last_call_at"] = Value::Null;
        row["dormant"] = true.into();
        let shown = people(&[row]);
        assert!(shown.contains("never") && shown.contains("dormant") && !shown.contains('?'), "{shown}");
        assert_eq!(people(&[]), "none");
    }
}

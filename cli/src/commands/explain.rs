//! `explain`: who said that this agent could do that.
//!
//! For one call, or each decision of a request in which a service asked for some, from the ledger alone: who called, or
//! who asked about whom, what was decided and by what, and the consent it rested on, with who granted it, why, and whether it was taken back; and where other agents handed on what it is for, the consents it
//! came of, back to the person's. The control plane forgets ended consents; the ledger does not. What is not found is
//! said. Absent: the proof that the records are in the log (`ledger verify`).

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::{
    args::ExplainArgs,
    failure::Failure,
    ledger_client,
    output::{print, text},
};

/// A decision for a service.
const EVALUATED: &str = "decision.evaluated";
/// Records in one answer; the ledger gives no more.
const PAGE_RECORDS: usize = 1000;
/// Pages that are looked through for a consent's events: ten million changes of the control plane.
const PAGES_MAX: usize = 200;
/// Consents that one came of: more agents never act one for the other.
const PARENTS_MAX: usize = 3;
/// No consent lasts longer than 30 days; clocks of nodes may differ.
const CONSENT_DAYS_MAX: i64 = 31;

/// What the ledger has of a consent.
#[derive(Clone, Default)]
struct Evidence {
    /// Its events, newest first, as records.
    events: Vec<Value>,
    /// Whether older changes remain that were not looked through.
    is_cut: bool,
    /// The same of those it came of, each with its id, the nearest first.
    parents: Vec<(String, Evidence)>,
}

impl Evidence {
    fn first(&self, word: &str) -> Option<&Value> {
        self.events.iter().rev().find(|event| text(event, "control.type") == word)
    }
}

pub(crate) async fn run(args: ExplainArgs) -> Result<(), Failure> {
    let query = [("request_id", args.request_id.clone()), ("limit", PAGE_RECORDS.to_string())];
    let records = items(ledger_client::get(&args.ledger, "/v1/records", &query).await?);
    let calls: Vec<&Value> = records.iter().rev().filter(|record| is_decision(record)).collect();
    if calls.is_empty() {
        return Err(Failure::Refused(nothing(&args, &records)));
    }
    let (mut explained, mut evaluated) = (Vec::new(), Vec::new());
    // Decisions of one request mostly rest on one consent.
    let mut known = BTreeMap::from([(String::new(), Evidence::default())]);
    for call in calls {
        let consent = text(call, "consent");
        let evidence = match known.get(&consent) {
            Some(evidence) => evidence.clone(),
            None => with_parents(&args.ledger, &consent, &text(call, "ts")).await?,
        };
        let id = text(call, "request_id");
        let ended = |record: &&Value| text(record, "kind") == "call.outcome" && text(record, "request_id") == id;
        let told = explain(call, records.iter().find(ended), &evidence);
        if text(call, "kind") == EVALUATED {
            evaluated.push(told)
        } else {
            explained.push(told)
        }
        known.insert(consent, evidence);
    }
    let answer = json!({"request_id": args.request_id, "calls": explained, "evaluations": evaluated});
    let all = explained.iter().chain(&evaluated);
    print(args.output, &answer, || all.map(people).collect::<Vec<_>>().join("\n\n"));
    Ok(())
}

fn is_decision(record: &Value) -> bool {
    matches!(text(record, "kind").as_str(), "call.intent" | "call.denied" | EVALUATED)
}

fn nothing(args: &ExplainArgs, records: &[Value]) -> String {
    let ExplainArgs { request_id, ledger, .. } = args;
    let changed = records.iter().find(|record| text(record, "kind") == "control.event").map(|record| {
        let [what, actor, ts] = ["control.type", "control.actor", "ts"].map(|path| plain(&text(record, path)));
        format!("; a change of the control plane has it: {what} by {actor} at {ts}")
    });
    let advice = "records arrive some moments after their call";
    let changed = changed.unwrap_or_else(|| format!("; {advice}"));
    format!("the ledger at {ledger} has no call with the request id {}, nor a decision{changed}", plain(request_id))
}

fn items(mut answer: Value) -> Vec<Value> {
    match answer.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    }
}

/// A consent's events, and those of what it came of.
async fn with_parents(ledger: &str, consent: &str, called: &str) -> Result<Evidence, Failure> {
    let parent = |one: &Evidence| one.first("consent_granted").map(|granted| text(granted, "control.parent"));
    let own = evidence(ledger, consent, called).await?;
    let (mut parents, mut next) = (Vec::new(), parent(&own));
    while let Some(id) = next.filter(|id| !id.is_empty() && parents.len() < PARENTS_MAX) {
        let found = evidence(ledger, &id, called).await?;
        next = parent(&found);
        parents.push((id, found));
    }
    Ok(Evidence { parents, ..own })
}

/// A consent's events from its grant until now.
async fn evidence(ledger: &str, consent: &str, called: &str) -> Result<Evidence, Failure> {
    let mut query = vec![
        ("kind", "control.event".to_owned()),
        ("consent", consent.to_owned()),
        ("limit", PAGE_RECORDS.to_string()),
    ];
    query.extend(days_before(called).map(|since| ("since", since)));
    let mut found = Evidence::default();
    let mut before = None::<String>;
    for _ in 0..PAGES_MAX {
        let page = before.take().map(|index| ("before", index));
        let query: Vec<_> = query.iter().cloned().chain(page).collect();
        let answer = ledger_client::get(ledger, "/v1/records", &query).await?;
        before = answer.get("next").map(|_| text(&answer, "next"));
        found.events.extend(items(answer));
        // Nothing of a consent is older than its grant.
        if before.is_none() || found.first("consent_granted").is_some() {
            return Ok(found);
        }
    }
    Ok(Evidence { is_cut: true, ..found })
}

fn days_before(ts: &str) -> Option<String> {
    let span = jiff::SignedDuration::from_hours(24 * CONSENT_DAYS_MAX);
    Some(ts.parse::<jiff::Timestamp>().ok()?.checked_sub(span).ok()?.to_string())
}

fn explain(call: &Value, outcome: Option<&Value>, evidence: &Evidence) -> Value {
    let fields =
        ["decision_client", "user", "agent", "earlier_agents", "owner", "project", "client", "session", "binding"];
    let records: Vec<&Value> = [Some(call), outcome].into_iter().flatten().filter_map(|one| one.get("index")).collect();
    let state = [("revision", "rev"), ("revision_age_ms", "rev_age_ms"), ("rollout", "rollout")];
    let used = ["virtual_server", "server", "tool", "tool_hash", "tier"];
    json!({
        "time": text(call, "ts"),
        "records": records,
        "who": members(call, &fields),
        "what": merged(members(call, &used), [("method", call.pointer("/trace/method"))]),
        "decision": merged(
            call.get("decision").and_then(Value::as_object).cloned().unwrap_or_default(),
            state.map(|(name, field)| (name, call.get(field))),
        ),
        "outcome": outcome.and_then(|outcome| outcome.get("outcome")),
        "consent": call.get("consent").map(|id| consent(id, evidence)),
        "came_of": evidence.parents.iter().map(|(id, found)| consent(&json!(id), found)).collect::<Vec<_>>(),
        "not_found": not_found(call, outcome, evidence),
    })
}

fn members(record: &Value, names: &[&str]) -> Map<String, Value> {
    names.iter().filter_map(|name| Some(((*name).to_owned(), record.get(*name)?.clone()))).collect()
}

fn merged<'a>(
    mut members: Map<String, Value>,
    more: impl IntoIterator<Item = (&'static str, Option<&'a Value>)>,
) -> Map<String, Value> {
    members.extend(more.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.clone()))));
    members
}

fn consent(id: &Value, evidence: &Evidence) -> Value {
    let event = |word: &str, names: &[&str]| {
        let found = evidence.first(word)?;
        let of_event = members(found.get("control")?, names);
        let more = [
            ("time", found.get("ts")),
            ("by", found.pointer("/control/actor")),
            ("revision", found.pointer("/control/revision")),
            ("record", found.get("index")),
        ];
        Some(merged(of_event, more))
    };
    let terms = [
        "user",
        "agent",
        "client",
        "virtual_server",
        "level",
        "tools",
        "reason",
        "provider",
        "expires_at",
        "parent",
        "earlier_agents",
    ];
    let mut granted = event("consent_granted", &terms);
    if let Some(granted) = &mut granted {
        let seconds = granted.get("expires_at").and_then(Value::as_str).and_then(|text| text.parse().ok());
        let expires = seconds.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
        granted.insert("expires_at".into(), expires.map(|time| time.to_string()).into());
    }
    json!({
        "id": id,
        "granted": granted,
        "code_issued": event("code_issued", &["challenge", "redirect_uri"]),
        "code_redeemed": event("code_redeemed", &["level", "jti", "session"]),
        "revoked": event("consent_revoked", &["reason", "by_client", "session_ended"]),
    })
}

fn not_found(call: &Value, outcome: Option<&Value>, evidence: &Evidence) -> Vec<String> {
    let mut missing = Vec::new();
    if text(call, "kind") == "call.intent" && outcome.is_none() {
        missing.push("how the call ended: no outcome is in the ledger, or not yet".to_owned());
    }
    match call.get("consent") {
        None => missing.push("a consent: the record names none".to_owned()),
        Some(_) if evidence.first("consent_granted").is_none() => {
            let looked = if evidence.is_cut { "among the latest ten million changes" } else { "in the ledger" };
            missing.push(format!("who granted the consent: no consent_granted for it is {looked}"));
        }
        Some(_) => {}
    }
    let unknown = evidence.parents.iter().filter(|(_, found)| found.first("consent_granted").is_none());
    missing.extend(unknown.map(|(id, _)| format!("who granted {}, of which it came", plain(id))));
    missing
}

/// A call in some lines.
fn people(call: &Value) -> String {
    let at = |path: &str| plain(&text(call, path));
    let mut lines = vec![headline(call)];
    let mut line = |name: &str, rest: &str| lines.push(format!("  {name:<10}{rest}"));
    let user = at("who.user");
    let [agent, owner, client] = ["agent", "owner", "client"].map(|name| match at(&format!("who.{name}")) {
        unnamed if unnamed.is_empty() => "unknown".to_owned(),
        named => named,
    });
    match user.as_str() {
        "" if at("who.decision_client").is_empty() => line("who", "nobody who proved who they are"),
        "" => line("who", "nobody whom the node knew"),
        _ => line("who", &format!("{user}, through {agent} (owner {owner}) and client {client}")),
    }
    match at("who.decision_client").as_str() {
        "" => {}
        service => line("asked by", service),
    }
    match at("who.binding").as_str() {
        "" | "not_required" => {}
        word => line("binding", word),
    }
    let earlier = call.pointer("/who/earlier_agents").and_then(Value::as_array).into_iter().flatten();
    for agent in earlier {
        line("", &format!("for {}, which handed it on", plain(agent.as_str().unwrap_or_default())));
    }
    line("decided", &decided(call));
    tell(&mut line, "consent", call.get("consent").unwrap_or(&Value::Null));
    for consent in call.get("came_of").and_then(Value::as_array).into_iter().flatten() {
        tell(&mut line, "came of", consent);
    }
    for missing in call.get("not_found").and_then(Value::as_array).into_iter().flatten() {
        line("not found", missing.as_str().unwrap_or_default());
    }
    lines.join("\n")
}

/// A consent in some lines, under this name.
fn tell(line: &mut impl FnMut(&str, &str), name: &str, consent: &Value) {
    if !consent.is_object() {
        return;
    }
    let is_there = |path: &str| consent.get(path).is_some_and(Value::is_object);
    line(name, &plain(&text(consent, "id")));
    if is_there("granted") {
        let of = |name: &str| plain(&text(consent, &format!("granted.{name}")));
        line("granted", &format!("at {} by {}, until {}", of("time"), of("by"), of("expires_at")));
        line("", &format!("to {} through {}, on behalf of {}", of("agent"), of("client"), of("user")));
        let tools = Some(of("tools")).filter(|tools| !tools.is_empty());
        let tools = tools.map_or_else(|| "all tools".to_owned(), |tools| format!("only {tools}"));
        line("", &format!("for {}, up to {}, {tools}", of("virtual_server"), of("level")));
        line("why", &format!("\"{}\"", of("reason")));
        if !of("provider").is_empty() {
            line("", &format!("with identity provider {}", of("provider")));
        }
    }
    if is_there("code_issued") {
        let of = |name: &str| plain(&text(consent, &format!("code_issued.{name}")));
        line("evidence", &format!("code sent to {}, challenge {}", of("redirect_uri"), of("challenge")));
    }
    if is_there("code_redeemed") {
        line("", &format!("code redeemed at {}", plain(&text(consent, "code_redeemed.time"))));
    }
    if is_there("revoked") {
        let of = |name: &str| plain(&text(consent, &format!("revoked.{name}")));
        line("ended", &format!("at {} by {}: \"{}\"", of("time"), of("by"), of("reason")));
    } else if is_there("granted") {
        line("ended", "not taken back");
    }
}

/// When, what, and how it ended.
fn headline(call: &Value) -> String {
    let at = |path: &str| plain(&text(call, path));
    let [method, server, tool] = ["method", "server", "tool"].map(|name| at(&format!("what.{name}")));
    let used: Vec<String> = [server, tool].into_iter().filter(|name| !name.is_empty()).collect();
    let place = match at("what.virtual_server") {
        place if place.is_empty() => place,
        place => format!("on {place}"),
    };
    let tier = match at("what.tier") {
        tier if tier.is_empty() => tier,
        tier => format!("({tier})"),
    };
    let ended = match (at("decision.effect").as_str(), at("outcome.status").as_str()) {
        (effect, _) if !at("who.decision_client").is_empty() => {
            let answer = if effect == "permit" { "permitted" } else { "refused" };
            format!("asked by {}, told that it is {answer}", at("who.decision_client"))
        }
        ("permit", "") => "permitted".to_owned(),
        ("permit", status) => format!("permitted, ended {status}"),
        _ => "refused".to_owned(),
    };
    let parts = [method, used.join("/"), tier, place].into_iter().filter(|part| !part.is_empty());
    format!("{}  {}: {ended}", at("time"), parts.collect::<Vec<_>>().join(" "))
}

/// The effect, why, and by which policies at which revision.
fn decided(call: &Value) -> String {
    let at = |path: &str| plain(&text(call, path));
    let policies = call.pointer("/decision/policies").and_then(Value::as_array).into_iter().flatten();
    let policies: Vec<String> = policies
        .map(|policy| format!("{} of revision {}", plain(&text(policy, "name")), plain(&text(policy, "version"))))
        .collect();
    let reason = Some(at("decision.reason")).filter(|reason| !reason.is_empty());
    let why = match (reason, policies.as_slice()) {
        (None, []) => String::new(),
        (None, policies) => format!(" by policy {}", policies.join(", ")),
        (Some(reason), []) => format!(", {reason}"),
        (Some(reason), policies) => format!(", {reason}, by policy {}", policies.join(", ")),
    };
    match at("decision.revision") {
        revision if revision.is_empty() => format!("{}{why}", at("decision.effect")),
        revision => format!("{}{why}; the configuration was of revision {revision}", at("decision.effect")),
    }
}

/// On one line, and nothing that a terminal acts upon.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests;

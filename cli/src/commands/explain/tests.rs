//! Calls as the ledger has them become what people read.

use super::*;

fn call() -> Value {
    json!({
        "index": "9", "kind": "call.intent", "request_id": "r-1", "ts": "2026-11-21T00:00:10.000000Z",
        "user": "jane@example.com", "agent": "assistant", "owner": "joe@example.com", "project": "shop",
        "client": "editor", "session": "s-1", "consent": "c-1", "binding": "not_required", "rev": "31",
        "virtual_server": "shop", "server": "plain", "tool": "charge", "tier": "transactional",
        "decision": {"effect": "permit", "policies": [{"name": "buyers", "version": "12"}]},
        "trace": {"method": "tools/call"},
    })
}

fn event(index: u32, mut control: Value) -> Value {
    control["revision"] = "7".into();
    let ts = "2026-11-21T00:00:01.000000Z";
    json!({"index": index.to_string(), "kind": "control.event", "ts": ts, "control": control})
}

fn granted() -> Value {
    event(
        2,
        json!({
            "type": "consent_granted", "actor": "user:jane@example.com", "consent": "c-1",
            "user": "jane@example.com",
            "agent": "assistant", "client": "editor", "virtual_server": "shop", "level": "transactional",
            "tools": ["plain/charge"], "reason": "OPS-12\u{1b}[2J", "expires_at": "1795222800",
        }),
    )
}

fn evidence(mut newest_first: Vec<Value>) -> Evidence {
    newest_first.push(granted());
    Evidence { events: newest_first, ..Evidence::default() }
}

#[test]
fn a_permitted_call_is_traced_to_who_granted_its_consent() {
    let code = json!({"type": "code_issued", "challenge": "E9-x", "redirect_uri": "http://127.0.0.1:3000/cb"});
    let revoked = json!({"type": "consent_revoked", "actor": "admin", "reason": "left the company"});
    let outcome = json!({"index": "10", "kind": "call.outcome", "request_id": "r-1", "outcome": {"status": "ok"}});
    let evidence = evidence(vec![event(12, revoked), event(3, code)]);
    let explained = explain(&call(), Some(&outcome), &evidence);
    assert_eq!(explained["records"], json!(["9", "10"]));
    assert_eq!(explained["consent"]["granted"]["by"], "user:jane@example.com");
    assert_eq!(explained["consent"]["granted"]["record"], "2");
    assert_eq!(explained["not_found"], json!([]));
    let expected = "2026-11-21T00:00:10.000000Z  tools/call plain/charge (transactional) on shop: permitted, ended ok
  who       jane@example.com, through assistant (owner joe@example.com) and client editor
  decided   permit by policy buyers of revision 12; the configuration was of revision 31
  consent   c-1
  granted   at 2026-11-21T00:00:01.000000Z by user:jane@example.com, until 2026-11-21T01:00:00Z
            to assistant through editor, on behalf of jane@example.com
            for shop, up to transactional, only plain/charge
  why       \"OPS-12 [2J\"
  evidence  code sent to http://127.0.0.1:3000/cb, challenge E9-x
  ended     at 2026-11-21T00:00:01.000000Z by admin: \"left the company\"";
    assert_eq!(people(&explained), expected);
}

#[test]
fn what_was_handed_on_is_traced_back_to_the_person() {
    let mut call = call();
    call["earlier_agents"] = json!(["planner"]);
    let mut own = granted();
    own["control"]["parent"] = "c-0".into();
    let mut above = granted();
    above["control"]["agent"] = "planner".into();
    let revoked = event(4, json!({"type": "consent_revoked", "actor": "admin", "reason": "left"}));
    let parent = Evidence { events: vec![revoked, above], ..Evidence::default() };
    let parents = vec![("c-0".to_owned(), parent), ("c-x".to_owned(), Evidence::default())];
    let explained = explain(&call, None, &Evidence { events: vec![own], parents, ..Evidence::default() });
    assert_eq!(
        (&explained["consent"]["granted"]["parent"], &explained["came_of"][0]["id"]),
        (&json!("c-0"), &json!("c-0"))
    );
    let told = people(&explained);
    for line in [
        "            for planner, which handed it on\n",
        "  came of   c-0\n  granted   at ",
        "            to planner through editor",
        "  ended     at 2026-11-21T00:00:01.000000Z by admin: \"left\"\n",
        "  not found who granted c-x, of which it came",
    ] {
        assert!(told.contains(line), "{line} is not in:\n{told}");
    }
}

#[test]
fn a_refused_call_says_why_and_that_its_consent_stands() {
    let mut call = call();
    call["kind"] = "call.denied".into();
    call["decision"] = json!({"effect": "deny", "reason": "policy_denied", "policies": []});
    let told = people(&explain(&call, None, &evidence(Vec::new())));
    assert!(told.contains(": refused\n"), "{told}");
    assert!(told.contains("decided   deny, policy_denied; the configuration was of revision 31\n"), "{told}");
    assert!(told.ends_with("ended     not taken back"), "{told}");
}

#[test]
fn a_decision_says_which_service_was_told_what() {
    let mut asked = call();
    asked["kind"] = "decision.evaluated".into();
    asked["decision_client"] = "billing".into();
    assert!(is_decision(&asked) && !is_decision(&json!({"kind": "call.outcome"})));
    let told = people(&explain(&asked, None, &evidence(Vec::new())));
    let headline = "tools/call plain/charge (transactional) on shop: asked by billing, told that it is permitted\n";
    assert!(told.contains(headline), "{told}");
    assert!(told.contains("\n  asked by  billing\n"), "{told}");
    assert!(!told.contains("not found"), "no outcome is missed: {told}");
    asked["decision"] = json!({"effect": "deny", "reason": "user_unknown", "policies": []});
    for name in ["agent", "owner"] {
        asked.as_object_mut().unwrap().remove(name);
    }
    let told = people(&explain(&asked, None, &Evidence::default()));
    assert!(told.contains("through unknown (owner unknown) and client editor\n"), "{told}");
    for name in ["user", "consent"] {
        asked.as_object_mut().unwrap().remove(name);
    }
    let told = people(&explain(&asked, None, &Evidence::default()));
    assert!(told.contains("told that it is refused\n  who       nobody whom the node knew\n"), "{told}");
}

#[test]
fn what_is_not_there_is_said() {
    let told = people(&explain(&call(), None, &Evidence::default()));
    assert!(told.contains("not found how the call ended"), "{told}");
    assert!(told.contains("not found who granted the consent: no consent_granted for it is in the ledger"), "{told}");
    assert!(!told.contains("ended     "), "{told}");
    let cut = Evidence { is_cut: true, ..Evidence::default() };
    assert!(people(&explain(&call(), None, &cut)).contains("ten million"), "{told}");
    let stranger = json!({"kind": "call.denied", "ts": "t", "decision": {"effect": "deny", "reason": "token_invalid"}});
    let explained = explain(&stranger, None, &Evidence::default());
    assert_eq!(explained["consent"], Value::Null);
    let told = people(&explained);
    assert!(told.contains("nobody who proved who they are"), "{told}");
    assert!(told.contains("not found a consent: the record names none"), "{told}");
}

#[test]
fn evidence_is_looked_for_as_far_back_as_a_consent_can_last() {
    assert_eq!(days_before("2026-11-21T00:00:10.000000Z").as_deref(), Some("2026-10-21T00:00:10Z"));
    assert_eq!(days_before("t"), None);
}

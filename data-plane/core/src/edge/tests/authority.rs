//! What refusals for want of authority say: the consent that is why, the scope that would do.

use bailiwick_proto::{Tier, v1::resource::Resource as Kind};

use super::*;
use crate::{
    fixture::{self, agent, consent, entry, narrowed},
    sealed::task::Task,
};

/// `tools/call` in both eras.
fn called(client: &Client, tool: &str) -> [HttpReply; 2] {
    let params = format!(r#""name":"{tool}""#);
    [client.modern("tools/call", &params, Some(tool)), client.legacy("tools/call", &params)]
}

fn with_consent(change: impl FnOnce(&mut v1::Consent)) -> Client {
    let mut changed = consent();
    change(&mut changed);
    let config = world().with(entry("consent/c-1", Kind::Consent(changed))).config();
    Client { config, ..client() }
}

#[test]
fn a_refusal_by_consent_names_the_consent_and_no_other_does() {
    let without = Client { config: world().without("consent/c-1").config(), ..client() };
    let low = Client { config: world().with(entry("agent/coder", agent("retrieval", true))).config(), ..client() };
    let unpermitted = Client { config: world().without("policy/finance").config(), ..client() };
    for (client, reason, named) in [
        (without, "consent_missing", true),
        (with_consent(|consent| consent.client = "other".into()), "consent_missing", true),
        (with_consent(|consent| consent.revoked = true), "consent_revoked", true),
        (with_consent(|consent| consent.expires_at = NOW), "consent_expired", true),
        (with_consent(|consent| consent.level = "retrieval".into()), "consent_level_exceeded", true),
        (with_consent(|consent| *consent = narrowed(&["finance/query_data"])), "consent_tool_not_listed", true),
        (low, "ceiling_exceeded", false),
        (unpermitted, "policy_denied", false),
    ] {
        for reply in called(&client, "create_charge") {
            let mut expected = json!({"reason": reason, "requestId": "r-1", "policies": []});
            if named {
                expected["consent"] = "c-1".into();
            }
            assert_eq!((reply.status, &json_of(&reply)["error"]["data"]), (200, &expected));
            assert_eq!(reply.scope_needed, None);
        }
    }
}

#[test]
fn a_subscription_that_the_consent_does_not_cover_names_it() {
    let reply = with_consent(|consent| consent.revoked = true).legacy("resources/subscribe", r#""uri":"file:///a""#);
    let data = json!({"reason": "consent_revoked", "requestId": "r-1", "policies": [], "consent": "c-1"});
    assert_eq!(json_of(&reply)["error"]["data"], data);
}

#[test]
fn where_more_scope_would_do_the_refusal_is_http_403_and_names_it() {
    let narrow = Caller { scope_level: Tier::Retrieval, ..caller() };
    for (tool, needed) in [("create_charge", Tier::Transactional), ("drop_ledger", Tier::Destructive)] {
        for reply in called(&Client { caller: narrow.clone(), ..client() }, tool) {
            assert_eq!(refusal(&reply), (403, 403, Some("scope_insufficient".into())));
            let scope = bailiwick_proto::scope::Scopes::of_level(needed);
            assert_eq!(reply.scope_needed, Some(ScopeNeeded { virtual_server: "finance".into(), scope }));
        }
    }
}

#[test]
fn looking_at_a_task_needs_the_scope_of_its_tool() {
    let narrow = Client { caller: Caller { scope_level: Tier::Retrieval, ..caller() }, ..client() };
    let (server, tool) = ("finance".into(), "create_charge".into());
    let task = Task { server, tool, id: "own-1".into(), lasts_seconds: None };
    let id = task.seal(&narrow.keys, &narrow.caller, NOW, [4; 24]).unwrap();
    let meta = MODERN_META.replace(
        r#""io.modelcontextprotocol/clientCapabilities":{}"#,
        r#""io.modelcontextprotocol/clientCapabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}}}"#,
    );
    for rpc_method in ["tasks/get", "tasks/cancel"] {
        let headers = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", rpc_method), ("Mcp-Name", &id)];
        let params = format!(r#""taskId":"{id}",{meta}"#);
        let reply = narrow.reply(&headers, &legacy_body(rpc_method, &params));
        assert_eq!(refusal(&reply), (403, 403, Some("scope_insufficient".into())), "{rpc_method}");
        assert_eq!(reply.scope_needed.unwrap().scope.level(), Some(Tier::Transactional));
    }
}

#[test]
fn both_eras_list_what_the_scope_reaches() {
    for (scope_level, expected) in [
        (Tier::Retrieval, vec!["by_region", "query_data"]),
        (Tier::Transactional, vec!["by_region", "create_charge", "query_data"]),
        (Tier::Destructive, vec!["by_region", "create_charge", "drop_ledger", "query_data"]),
    ] {
        let client = Client { caller: Caller { scope_level, ..caller() }, ..client() };
        for reply in [client.modern("tools/list", "", None), client.legacy("tools/list", "")] {
            assert_eq!(listed(&reply), expected, "{scope_level}");
        }
    }
}

#[test]
fn searching_finds_what_the_scope_reaches() {
    let searched = fixture::finance_with(|listed| listed.tools = "search".into());
    let config = world().with(searched).config();
    let client = Client { config, caller: Caller { scope_level: Tier::Retrieval, ..caller() }, ..client() };
    let found = client.modern("tools/call", r#""name":"search_tools","arguments":{}"#, Some("search_tools"));
    let body = json_of(&found);
    let found = body["result"]["structuredContent"]["tools"].as_array().unwrap();
    let names: Vec<_> = found.iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["by_region", "query_data"]);
}

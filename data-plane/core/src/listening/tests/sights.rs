//! What a client sees, and when it need not be looked at again: who was told "the same" would have seen the same.

use bailiwick_proto::v1::{self, resource::Resource as Kind};

use crate::{
    catalogue::Catalogue,
    config::Config,
    fixture::{self, NOW, World, caller, consent, definition, entry, policy, tool, tool_entry, user, world},
    listening::{Change, Hearer, Sight},
};

fn hearer<'a>(config: &'a Config, caller: &'a crate::Caller, tasks: &'a crate::listening::Tasks) -> Hearer<'a> {
    Hearer { config, caller, virtual_server: "finance", now_unix: NOW, tasks, capabilities: None }
}

/// Whether a client is said to see the same after a change, and what it saw before and sees now.
fn after(changed: &v1::Entry) -> (bool, Sight, Sight) {
    let (mut catalogue, caller, tasks) = (Catalogue::new(), caller(), Default::default());
    world().apply(&mut catalogue, 7);
    let before = catalogue.config();
    let whole: World = world().with(changed.clone());
    let change = v1::EntryChange { key: changed.key.clone(), value: Some(changed.value.clone()) };
    catalogue.delta(&v1::Delta { from: 7, to: 8, changes: vec![change], digest: whole.digest() }).unwrap();
    let now = catalogue.config();
    let hearer_now = hearer(&now, &caller, &tasks);
    (hearer_now.sees_as_under(&before), hearer(&before, &caller, &tasks).sight(), hearer_now.sight())
}

#[test]
fn what_changes_for_others_only_makes_nobody_look() {
    let of_another = v1::Consent { id: "c-2".into(), user: "max@example.com".into(), ..consent() };
    let other = v1::User { name: "max@example.com".into(), groups: Vec::new(), active: true };
    for changed in [
        entry("consent/c-2", Kind::Consent(of_another)),
        entry("user/max@example.com", Kind::User(other)),
        entry("user/jane@example.com", user(true)),
    ] {
        let (same, before, now) = after(&changed);
        assert!(same && before == now, "{}", changed.key);
    }
}

#[test]
fn whoever_may_see_something_else_looks() {
    let lower = v1::Consent { level: "retrieval".into(), ..consent() };
    let narrowed = fixture::narrowed(&["finance/query_data"]);
    let elsewhere = v1::User { name: "jane@example.com".into(), groups: Vec::new(), active: true };
    for changed in [
        entry("consent/c-1", Kind::Consent(lower)),
        entry("consent/c-1", Kind::Consent(narrowed)),
        entry("user/jane@example.com", Kind::User(elsewhere)),
        entry("user/jane@example.com", user(false)),
        entry("agent/coder", fixture::agent("retrieval", true)),
        policy("finance", 4, "forbid (principal, action, resource);"),
        tool_entry(tool("finance", &definition("one_more"), "retrieval")),
    ] {
        let (same, before, now) = after(&changed);
        assert!(!same && before != now, "{}", changed.key);
    }
}

#[test]
fn of_a_server_that_the_consent_does_not_lead_to_nothing_is_heard() {
    let consent = v1::Consent { virtual_server: "all".into(), ..fixture::narrowed(&["hr/list_people"]) };
    let permit = policy("finance", 4, "permit (principal, action, resource);");
    let config = world().with(entry("consent/c-1", Kind::Consent(consent))).with(permit).config();
    let caller = crate::Caller { virtual_server: "all".into(), ..caller() };
    let tasks = Default::default();
    let hearer = Hearer { virtual_server: "all", ..hearer(&config, &caller, &tasks) };
    let changes = [Change::Tools, Change::Prompts, Change::Resources, Change::Updated("file:///a".into())];
    for change in changes {
        assert_eq!(hearer.heard("finance", change.clone()), None, "{change:?}");
        assert!(hearer.heard("hr", change.clone()).is_some(), "{change:?}");
    }
    let wishes = crate::listening::Wishes {
        uris: ["mcp+finance+file:///a", "mcp+hr+file:///a"].map(str::to_owned).into(),
        ..crate::listening::Wishes::lists()
    };
    assert_eq!(hearer.permitted(&wishes).uris, ["mcp+hr+file:///a".to_owned()].into());
}

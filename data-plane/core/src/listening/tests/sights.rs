//! What a client sees, and when it need not be looked at again: who was told "the same" would have seen the same.

use bailiwick_proto::v1::{self, resource::Resource as Kind};

use crate::{
    catalogue::Catalogue,
    config::Config,
    fixture::{self, NOW, World, caller, consent, definition, entry, policy, tool, tool_entry, user, world},
    listening::{Hearer, Sight},
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
    let elsewhere = v1::User { name: "jane@example.com".into(), groups: Vec::new(), active: true };
    for changed in [
        entry("consent/c-1", Kind::Consent(lower)),
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

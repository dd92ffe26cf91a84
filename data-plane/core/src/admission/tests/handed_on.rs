//! Consents that came through other agents: who hands work on must be able to do it, now as then.

use bailiwick_proto::{
    Reason,
    v1::{self, resource::Resource as Kind},
};

use super::{ask, with_consent};
use crate::fixture::{World, entry};

/// An agent of this name, of a person.
fn earlier(name: &str, owner: &str, ceiling: &str, active: bool) -> v1::Entry {
    let (named, ceiling) = (name.to_owned(), ceiling.to_owned());
    let agent = v1::Agent { name: named, owner: owner.into(), project: "p".into(), ceiling, active };
    entry(&format!("agent/{name}"), Kind::Agent(agent))
}

#[test]
fn whoever_it_came_through_must_be_able_to_do_it_too() {
    let handed = with_consent(|consent| consent.earlier_agents = vec!["planner".into(), "assistant".into()]);
    let joe = v1::User { name: "joe@example.com".into(), groups: Vec::new(), active: false };
    let joe = handed.clone().with(entry("user/joe@example.com", Kind::User(joe)));
    let jane = "jane@example.com";
    let both = |world: World, planner, assistant| world.with(planner).with(assistant);
    let active = |name: &str, ceiling: &str| earlier(name, jane, ceiling, true);
    for (world, tool, expected) in [
        (handed.clone(), "query_data", Some(Reason::AgentInactive)),
        (
            both(handed.clone(), active("planner", "destructive"), active("assistant", "destructive")),
            "drop_ledger",
            None,
        ),
        (
            both(handed.clone(), active("planner", "destructive"), earlier("assistant", jane, "destructive", false)),
            "query_data",
            Some(Reason::AgentInactive),
        ),
        (
            both(handed.clone(), active("planner", "transactional"), active("assistant", "destructive")),
            "drop_ledger",
            Some(Reason::CeilingExceeded),
        ),
        (
            both(handed.clone(), active("planner", "destructive"), active("assistant", "retrieval")),
            "create_charge",
            Some(Reason::CeilingExceeded),
        ),
        (both(handed, active("planner", "destructive"), active("assistant", "retrieval")), "query_data", None),
        (
            both(joe, active("planner", "destructive"), earlier("assistant", "joe@example.com", "destructive", true)),
            "query_data",
            Some(Reason::AgentInactive),
        ),
    ] {
        let decision = ask(&world, tool);
        assert_eq!(decision.reason, expected, "{tool}");
        assert_eq!(*decision.earlier_agents, ["planner".to_owned(), "assistant".to_owned()]);
    }
}

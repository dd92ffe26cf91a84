//! The inventory of agents: whose they are, who may act as them, and when they last got a token.

use bailiwick_control_plane_core::{
    Command, Kind, Rejection,
    agent::inventory::{Activity, describe},
    show,
};
use serde_json::Value;

use crate::world::{START_MICROS, World, document, wish};

const AGENT: &str = "coding-assistant";

/// What is said of an agent, from all that ever happened.
fn said(world: &World, agent: &str) -> Value {
    let (mut state, mut activity) = (bailiwick_control_plane_core::State::default(), Activity::default());
    for (revision, events) in &world.changes {
        events.iter().for_each(|event| bailiwick_control_plane_core::evolve(&mut state, event, *revision));
        activity.see(&state, events);
    }
    assert_eq!(state, world.state);
    let mut all = show::all(&state, Kind::Agent, START_MICROS / 1_000_000 + world.seconds);
    describe(&mut all, &state, &activity);
    let found = all.into_iter().find(|item| item["metadata"]["name"] == agent);
    found.map(|mut item| item["status"].take()).unwrap()
}

#[test]
fn the_last_token_is_known_long_after_its_consent_is_forgotten() {
    let mut world = World::example();
    assert!(said(&world, AGENT).get("last_token_at").is_none());
    assert_eq!(said(&world, AGENT)["created_at"], "2026-11-21T00:00:00Z");
    world.seconds = 3_600;
    world.run(Command::IssueToken(wish())).unwrap();
    let first = said(&world, AGENT);
    assert_eq!(first["last_token_at"], "2026-11-21T01:00:00Z");
    let other = document("Agent", "other", "{owner: jane@example.com, project: platform, ceiling: destructive}");
    world.apply(&other).unwrap();
    world.seconds = 90 * 24 * 3_600;
    for _ in 0..3 {
        let wish = bailiwick_control_plane_core::command::IssueToken { agent: "other".into(), ..wish() };
        world.run(Command::IssueToken(wish)).unwrap();
    }
    assert!(world.state.consents.values().all(|consent| consent.granted.agent == "other"), "forgotten");
    let now = said(&world, AGENT);
    assert_eq!((&now["last_token_at"], &now["tokens_until"]), (&first["last_token_at"], &first["tokens_until"]));
    assert_eq!(said(&world, "other")["last_token_at"], "2027-02-19T00:00:00Z");
}

#[test]
fn an_agent_of_the_same_name_that_comes_later_begins_anew() {
    let mut world = World::example();
    world.run(Command::IssueToken(wish())).unwrap();
    world.delete(&[(Kind::Agent, AGENT)]).unwrap();
    world.seconds = 60;
    world.apply(&document("Agent", AGENT, "{owner: jane@example.com, project: platform}")).unwrap();
    let status = said(&world, AGENT);
    assert!(status.get("last_token_at").is_none(), "{status}");
    assert_eq!(status["created_at"], "2026-11-21T00:01:00Z");
    world.seconds = 120;
    world.apply(&document("Agent", AGENT, "{owner: jane@example.com, project: other}")).unwrap();
    assert_eq!(said(&world, AGENT)["created_at"], "2026-11-21T00:01:00Z", "changed is not created");
}

#[test]
fn nobody_answers_for_an_agent_whose_owner_is_gone_unless_somebody_follows() {
    let mut world = World::example();
    let clients = format!("{{agent: {AGENT}, auth: client_secret, secret_sha256: \"{}\"}}", "a".repeat(64));
    world.apply(&(document("Client", "editor", &clients) + &document("User", "eve@example.com", "{}"))).unwrap();
    let status = said(&world, AGENT);
    assert_eq!((&status["owner_state"], &status["orphaned"]), (&"active".into(), &false.into()));
    assert_eq!(status["clients"], serde_json::json!(["editor"]));
    let left = |more: &str| document("User", "jane@example.com", &format!("{{groups: [finance]{more}}}"));
    world.apply(&left(", active: false")).unwrap();
    let status = said(&world, AGENT);
    assert_eq!((&status["owner_state"], &status["orphaned"]), (&"inactive".into(), &true.into()));
    assert!(matches!(world.delete(&[(Kind::User, "jane@example.com")]), Err(Rejection::InUse(_))));
}

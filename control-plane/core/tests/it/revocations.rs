//! Revocations: what each takes away, that repeating one is harmless, and what receipts say.

use std::collections::BTreeSet;

use bailiwick_control_plane_core::{
    Answer, Change, Command, Decision, Kind, Rejection,
    command::IssueToken,
    node::NODES_MAX,
    receipt::{Enforcement, NODES_PER_PART_MAX, RecordReceipt, Since},
    recorded,
    rejection::Class,
    revocation::{REVOKED_AT_ONCE_MAX, Revoke, Revoked, Target},
};
use bailiwick_ledger_core::record::RECORD_BYTES_MAX;
use bailiwick_proto::{denial::narrows, v1::EntryChange};

use crate::world::{EXAMPLE, START_MICROS, World, document, types, wish};

const JANE: &str = "jane@example.com";

fn revoke(kind: &str, name: &str) -> Command {
    let target = Target::from_words(kind, name.into()).unwrap();
    Command::Revoke(Revoke { target, reason: "left".into() })
}

fn revoked(decision: Decision) -> Revoked {
    let Answer::Revoked(revoked) = decision.answer else { panic!("{:?}", decision.answer) };
    revoked
}

/// "revoked Consent c-2" and so on.
fn taken(revoked: &Revoked) -> Vec<String> {
    revoked.changes.iter().map(|one| format!("{} {}", one.action.as_str(), one.resource)).collect()
}

fn receipt(world: &World, nodes: Vec<Enforcement>) -> RecordReceipt {
    RecordReceipt {
        denied_through: world.state.revision,
        committed_at: START_MICROS + 2_000,
        nodes,
        request_id: "r-of-revoke".into(),
    }
}

fn nodes(count: usize) -> Vec<Enforcement> {
    let node = |n: usize| Enforcement { name: format!("{n:x>63}"), since: Since::AcknowledgedAt(u64::MAX) };
    (0..count).map(node).collect()
}

pub(crate) fn one_of_each(world: &mut World) {
    world.apply(EXAMPLE).unwrap();
    for target in ["consent", "user"] {
        let Answer::Granted(grant) = world.run(Command::IssueToken(wish())).unwrap().answer else { panic!("no grant") };
        world.run(revoke(target, if target == "user" { JANE } else { &grant.consent })).unwrap();
    }
    let silent = Enforcement { name: "dp-2".into(), since: Since::Deadline(1_795_219_203_080_000) };
    let heard = Enforcement { name: "dp-1".into(), since: Since::AcknowledgedAt(1_795_219_200_004_000) };
    let wish = receipt(world, vec![silent, heard]);
    world.run(Command::RecordReceipt(wish)).unwrap();
}

/// Two agents of Jane, each with two consents; ids ascend in the order of granting.
fn two_agents() -> (World, Vec<String>) {
    let mut world = World::example();
    world.apply(&document("Agent", "other", &format!("{{owner: {JANE}, project: p, ceiling: destructive}}"))).unwrap();
    let mut ids = Vec::new();
    for agent in ["coding-assistant", "coding-assistant", "other", "other"] {
        let wish = IssueToken { agent: agent.into(), ..wish() };
        let Answer::Granted(grant) = world.run(Command::IssueToken(wish)).unwrap().answer else { panic!("no grant") };
        ids.push(grant.consent);
    }
    (world, ids)
}

#[test]
fn each_kind_of_revocation_takes_away_what_it_names_and_nothing_else() {
    let (all, ids) = two_agents();
    let session = all.state.consents.get(&ids[1]).unwrap().token.as_ref().unwrap().session.clone();
    let table: &[(&str, &str, &[usize], Option<&str>)] = &[
        ("consent", &ids[0], &[0], None),
        ("session", &session, &[1], None),
        ("client", "bailiwick-admin", &[0, 1, 2, 3], None),
        ("agent", "other", &[2, 3], Some("deactivated Agent other")),
        ("user", JANE, &[0, 1, 2, 3], Some("deactivated User jane@example.com")),
    ];
    for (kind, name, consents, deactivated) in table {
        let (mut world, _) = two_agents();
        let done = revoked(world.run(revoke(kind, name)).unwrap());
        let expected = deactivated.iter().map(|line| (*line).to_owned());
        let expected = expected.chain(consents.iter().map(|n| format!("revoked Consent {}", ids[*n])));
        assert_eq!(taken(&done), expected.collect::<Vec<_>>(), "{kind}");
        assert_eq!((done.more, done.since), (false, None));
        for (n, id) in ids.iter().enumerate() {
            let status = &world.show(Kind::Consent, id)["status"];
            let expected = if consents.contains(&n) { "revoked" } else { "live" };
            assert_eq!(status["state"], expected, "{kind}: {id}");
            assert_eq!(status.get("revoked_reason").is_some_and(|reason| reason == "left"), consents.contains(&n));
        }
    }
}

#[test]
fn a_deactivation_comes_first_keeps_all_else_and_says_why() {
    let (mut world, _) = two_agents();
    let decision = world.run(revoke("user", JANE)).unwrap();
    assert_eq!(types(&decision)[..2], ["user_applied", "consent_revoked"]);
    let Change::UserApplied(applied) = &decision.events[0].change else { panic!("{:?}", decision.events[0]) };
    assert!(!applied.spec.active && applied.spec.groups.contains("finance"));
    assert_eq!(recorded(&decision.events[0], 1).unwrap()["reason"], "left");
    let agent = world.run(revoke("agent", "other")).unwrap();
    assert_eq!(types(&agent), ["agent_applied"], "its consents went with their user");
    assert_eq!(world.show(Kind::Agent, "other")["spec"]["owner"], JANE);
}

#[test]
fn all_that_is_taken_away_travels_as_denials() {
    for (kind, name) in [("consent", "c-3"), ("session", "s-3"), ("agent", "other"), ("user", JANE)] {
        let (mut world, _) = two_agents();
        let before = world.entries.clone();
        world.run(revoke(kind, name)).unwrap();
        let after: Vec<_> = world.entries.iter().map(|(key, value)| (key.to_owned(), value.to_vec())).collect();
        let changed: Vec<_> = after
            .into_iter()
            .filter(|(key, value)| before.get(key).is_none_or(|old| old != value.as_slice()))
            .collect();
        assert!(!changed.is_empty(), "{kind}");
        for (key, value) in changed {
            assert!(narrows(&EntryChange { key: key.clone(), value: Some(value) }), "{kind}: {key}");
        }
    }
}

#[test]
fn a_repeated_revocation_changes_nothing_and_says_since_when() {
    for (kind, name) in [("consent", "c-3"), ("session", "s-3"), ("agent", "other"), ("user", JANE)] {
        let (mut world, _) = two_agents();
        let context = world.context();
        world.run_as(revoke(kind, name), &context).unwrap();
        let revision = world.state.revision;
        world.apply(&document("User", "later", "{}")).unwrap();
        let same = world.run_as(revoke(kind, name), &context).unwrap();
        assert_eq!((same.events.len(), same.repeated), (0, Some(revision)), "{kind}");
        let other = world.run(revoke(kind, name)).unwrap();
        assert_eq!((other.events.len(), other.repeated), (0, None), "{kind}");
        for again in [same, other] {
            assert_eq!(revoked(again), Revoked { since: Some(revision), ..Revoked::default() }, "{kind}");
        }
    }
}

#[test]
fn a_request_id_that_was_used_for_something_else_hides_no_revocation() {
    let (mut world, _) = two_agents();
    let context = world.context();
    world.run_as(Command::IssueToken(wish()), &context).unwrap();
    for (kind, name) in [("user", JANE), ("agent", "other"), ("consent", "c-3")] {
        let decision = world.run_as(revoke(kind, name), &context).unwrap();
        assert_eq!(decision.events.len(), 0);
        assert!(revoked(decision).more, "{kind}: whoever asks is told to go on");
    }
}

#[test]
fn who_is_activated_again_has_to_be_allowed_again() {
    let (mut world, ids) = two_agents();
    world.run(revoke("user", JANE)).unwrap();
    assert!(matches!(world.run(Command::IssueToken(wish())), Err(Rejection::Inactive(_))));
    world.apply(&document("User", JANE, "{groups: [finance]}")).unwrap();
    assert_eq!(world.show(Kind::Consent, &ids[0])["status"]["state"], "revoked");
    world.run(Command::IssueToken(wish())).unwrap();
}

#[test]
fn more_consents_than_fit_one_change_go_in_several_after_the_deactivation() {
    let mut world = World::example();
    // As a world of so many would be checked whole after each.
    let mut state = world.state.clone();
    for _ in 0..REVOKED_AT_ONCE_MAX + 3 {
        let context = world.context();
        let decision = bailiwick_control_plane_core::decide(&state, Command::IssueToken(wish()), &context).unwrap();
        let revision = state.revision + 1;
        decision.events.iter().for_each(|event| bailiwick_control_plane_core::evolve(&mut state, event, revision));
    }
    let mut rounds = Vec::new();
    loop {
        let mut context = world.context();
        context.request_id.clear();
        let decision = bailiwick_control_plane_core::decide(&state, revoke("user", JANE), &context).unwrap();
        let revision = state.revision + 1;
        decision.events.iter().for_each(|event| bailiwick_control_plane_core::evolve(&mut state, event, revision));
        rounds.push(decision.events.len());
        assert!(!state.users.get(JANE).unwrap().spec.active);
        if !revoked(decision).more {
            break;
        }
    }
    assert_eq!(rounds, [REVOKED_AT_ONCE_MAX + 1, 3]);
    assert!(state.consents.values().all(|consent| consent.revoked.is_some()));
}

#[test]
fn what_is_not_there_cannot_be_revoked() {
    let (mut world, _) = two_agents();
    for kind in ["user", "agent", "session", "consent"] {
        let rejection = world.run(revoke(kind, "nobody")).unwrap_err();
        assert_eq!(rejection.class(), Class::NotFound, "{kind}");
        assert!(rejection.to_string().contains("nobody"), "{rejection}");
    }
    let target = Target::Consent("c-3".into());
    let long = Command::Revoke(Revoke { target, reason: "x".repeat(1_025) });
    assert_eq!(world.run(long).unwrap_err().class(), Class::Invalid);
    assert_eq!(Target::from_words("server", "finance".into()), None);
}

#[test]
fn a_consent_that_has_expired_here_is_revoked_when_it_is_named() {
    let (mut world, ids) = two_agents();
    world.seconds = 601;
    assert_eq!(taken(&revoked(world.run(revoke("consent", &ids[0])).unwrap())).len(), 1);
    assert_eq!(
        types(&world.run(revoke("agent", "other")).unwrap()),
        ["agent_applied"],
        "the others ended by themselves"
    );
}

#[test]
fn a_receipt_names_every_node_once_in_parts_that_fit_a_record() {
    let mut world = World::example();
    let wish = receipt(&world, nodes(2 * NODES_PER_PART_MAX + 1));
    let decision = world.run(Command::RecordReceipt(wish)).unwrap();
    let mut named = BTreeSet::new();
    for (n, event) in decision.events.iter().enumerate() {
        let recorded = recorded(event, u64::MAX).unwrap();
        assert!(recorded.to_string().len() < RECORD_BYTES_MAX - 1_024, "{}", recorded.to_string().len());
        assert_eq!((&recorded["part"], &recorded["parts"]), (&(n + 1).to_string().into(), &"3".into()));
        assert_eq!(recorded["request_id"], "r-of-revoke");
        let Change::RevocationReceipted(part) = &event.change else { panic!("{event:?}") };
        assert!(part.nodes.iter().all(|node| named.insert(node.name.clone())));
    }
    assert_eq!(named.len(), 2 * NODES_PER_PART_MAX + 1);
    let nobody = receipt(&world, Vec::new());
    assert_eq!(
        world.run(Command::RecordReceipt(nobody)).unwrap().events.len(),
        1,
        "that nobody was there is said, too"
    );
}

#[test]
fn a_receipt_of_what_cannot_be_is_refused() {
    let mut world = World::example();
    let good = receipt(&world, nodes(1));
    let bad = [
        RecordReceipt { denied_through: world.state.revision + 1, ..good.clone() },
        RecordReceipt { nodes: vec![Enforcement { name: "a/b".into(), since: Since::Deadline(1) }], ..good.clone() },
        RecordReceipt { request_id: "a b".into(), ..good.clone() },
        RecordReceipt { nodes: nodes(NODES_MAX + 1), ..good.clone() },
    ];
    for wish in bad {
        world.run(Command::RecordReceipt(wish)).unwrap_err();
    }
    world.run(Command::RecordReceipt(good)).unwrap();
}

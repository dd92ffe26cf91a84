//! Members and join tokens: who gets in, under which name and id, and who may be removed.

use std::collections::BTreeSet;

use bailiwick_control_plane_core::{
    Answer, Command, Decision, Rejection,
    join_token::{CreateJoinToken, JOIN_TOKENS_MAX, LIFETIME_SECONDS},
    member::{Enrol, FoundCluster, IDS_LEFT_OUT, RemoveMember, RenewMember, Role, VOTERS_MAX},
    rejection::Class,
};

use crate::world::World;

fn founding() -> FoundCluster {
    FoundCluster {
        cluster_id: "0123456789abcdef0123456789abcdef".into(),
        incarnation: "0000000000000001".into(),
        name: "cp-1".into(),
        public_key: vec![1; 91],
        peer: "10.0.0.1:8432".into(),
        api: "https://10.0.0.1:8431".into(),
    }
}

fn found(world: &mut World) -> Result<Decision, Rejection> {
    world.run(Command::FoundCluster(founding()))
}

fn secret_hash(id: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.iter_mut().zip(id.bytes()).for_each(|(to, from)| *to = from);
    hash
}

fn token(world: &mut World, id: &str, role: Role, name: &str) -> Result<Decision, Rejection> {
    let wish = CreateJoinToken {
        id: id.into(),
        secret_hash: secret_hash(id),
        role,
        learner: id.starts_with("learner"),
        name: name.into(),
    };
    world.run(Command::CreateJoinToken(wish))
}

fn wish(id: &str, role: Role, name: &str) -> Enrol {
    let (peer, api) = match role {
        Role::ControlPlane => ("10.0.0.2:8432".into(), "https://10.0.0.2:8431".into()),
        Role::DataPlane | Role::Ledger | Role::Admin => Default::default(),
    };
    let public_key = name.bytes().cycle().take(91).collect();
    Enrol { token: id.into(), secret_hash: secret_hash(id), role, name: name.into(), public_key, peer, api }
}

fn enrol(world: &mut World, id: &str, role: Role, name: &str) -> Result<Decision, Rejection> {
    world.run(Command::Enrol(wish(id, role, name)))
}

fn moves(world: &mut World, name: &str, peer: &str) -> Result<Decision, Rejection> {
    let public_key = wish("", Role::Ledger, name).public_key;
    let (name, peer) = (name.into(), peer.into());
    world.run(Command::RenewMember(RenewMember {
        role: Role::ControlPlane,
        name,
        public_key,
        peer,
        api: String::new(),
    }))
}

fn remove(world: &mut World, who: &str, force: bool, answering: &[u64]) -> Result<Decision, Rejection> {
    let answering = answering.iter().copied().collect::<BTreeSet<_>>();
    world.run(Command::RemoveMember(RemoveMember { member: who.into(), force, answering }))
}

/// One event of every kind that concerns members.
pub(crate) fn one_of_each(world: &mut World) {
    found(world).unwrap();
    joined(world, "cp-2").unwrap();
    moves(world, "cp-2", "10.0.0.9:8432").unwrap();
    remove(world, "cp-2", false, &[1]).unwrap();
}

/// A cluster of `count` voting control planes, `cp-1` to `cp-<count>`.
fn cluster(count: usize) -> World {
    let mut world = World::default();
    found(&mut world).unwrap();
    for number in 2..=count {
        joined(&mut world, &format!("cp-{number}")).unwrap();
    }
    world
}

fn joined(world: &mut World, name: &str) -> Result<u64, Rejection> {
    token(world, &format!("t-{name}"), Role::ControlPlane, "")?;
    match enrol(world, &format!("t-{name}"), Role::ControlPlane, name)?.answer {
        Answer::Member { node_id } => Ok(node_id),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_join_token_is_good_once_for_ten_minutes() {
    let mut world = cluster(1);
    token(&mut world, "t", Role::DataPlane, "").unwrap();
    enrol(&mut world, "t", Role::DataPlane, "dp-1").unwrap();
    assert_eq!(enrol(&mut world, "t", Role::DataPlane, "dp-2").unwrap_err(), Rejection::JoinTokenInvalid);
    token(&mut world, "u", Role::DataPlane, "").unwrap();
    world.seconds += LIFETIME_SECONDS - 1;
    let mut forged = wish("u", Role::DataPlane, "dp-2");
    forged.secret_hash[31] ^= 1;
    assert_eq!(world.run(Command::Enrol(forged)).unwrap_err(), Rejection::JoinTokenInvalid);
    world.seconds += 1;
    assert_eq!(enrol(&mut world, "u", Role::DataPlane, "dp-2").unwrap_err(), Rejection::JoinTokenInvalid);
    token(&mut world, "v", Role::DataPlane, "").unwrap();
    assert_eq!(world.state.join_tokens.keys().collect::<Vec<_>>(), ["v"], "expired tokens are forgotten");
}

#[test]
fn a_join_token_is_bound_to_a_role_and_maybe_to_a_name() {
    let mut world = cluster(1);
    token(&mut world, "t", Role::Ledger, "ledger-1").unwrap();
    for (role, name) in [(Role::Admin, "ledger-1"), (Role::ControlPlane, "ledger-1"), (Role::Ledger, "ledger-2")] {
        let rejection = enrol(&mut world, "t", role, name).unwrap_err();
        assert!(matches!(rejection, Rejection::JoinTokenForOther { .. }), "{rejection}");
        assert_eq!(rejection.class(), Class::Forbidden);
    }
    enrol(&mut world, "t", Role::Ledger, "ledger-1").unwrap();
}

#[test]
fn an_enrolment_whose_answer_was_lost_may_be_asked_again() {
    let mut world = cluster(1);
    token(&mut world, "t", Role::ControlPlane, "").unwrap();
    let first = enrol(&mut world, "t", Role::ControlPlane, "cp-2").unwrap();
    let again = enrol(&mut world, "t", Role::ControlPlane, "cp-2").unwrap();
    assert_eq!((again.answer, again.events.len()), (first.answer, 0));
    let mut other_key = wish("t", Role::ControlPlane, "cp-2");
    other_key.public_key = vec![9; 91];
    assert_eq!(world.run(Command::Enrol(other_key)).unwrap_err(), Rejection::JoinTokenInvalid);
}

#[test]
fn a_name_is_taken_over_only_with_a_token_made_for_it_and_a_control_planes_never() {
    let mut world = cluster(2);
    for role in [Role::DataPlane, Role::ControlPlane] {
        let name = if role == Role::DataPlane { "dp-1" } else { "cp-2" };
        if role == Role::DataPlane {
            token(&mut world, "first", role, "").unwrap();
            enrol(&mut world, "first", role, name).unwrap();
        }
        token(&mut world, &format!("any-{name}"), role, "").unwrap();
        token(&mut world, &format!("for-{name}"), role, name).unwrap();
        let taken = Rejection::MemberNameTaken { name: name.into() };
        assert_eq!(enrol(&mut world, &format!("any-{name}"), role, name).unwrap_err(), taken);
        let replaced = enrol(&mut world, &format!("for-{name}"), role, name);
        assert_eq!(replaced.is_ok(), role == Role::DataPlane, "{replaced:?}");
    }
    token(&mut world, "t", Role::Ledger, "dp-1").unwrap();
    enrol(&mut world, "t", Role::Ledger, "dp-1").unwrap_err();
}

#[test]
fn node_ids_are_never_given_twice() {
    let mut world = cluster(3);
    remove(&mut world, "cp-3", false, &[1, 2]).unwrap();
    assert_eq!(joined(&mut world, "cp-3").unwrap(), 4);
    remove(&mut world, "4", false, &[1, 2]).unwrap();
    assert_eq!(joined(&mut world, "cp-4").unwrap(), 5);
    let anew = FoundCluster { incarnation: "0000000000000002".into(), ..founding() };
    let Answer::Member { node_id } = world.run(Command::FoundCluster(anew)).unwrap().answer else { unreachable!() };
    assert_eq!(node_id, 5 + IDS_LEFT_OUT, "ids may have been given after the backup was made");
    assert_eq!(world.state.members.keys().collect::<Vec<_>>(), ["cp-1"], "the others of the former life are gone");
    assert_eq!(joined(&mut world, "cp-2").unwrap(), node_id + 1);
}

#[test]
fn a_cluster_is_founded_once_in_each_life() {
    let mut world = cluster(1);
    assert_eq!(found(&mut world).unwrap_err(), Rejection::ClusterFounded);
    let other = FoundCluster { cluster_id: "ff".into(), incarnation: "02".into(), ..founding() };
    assert_eq!(world.run(Command::FoundCluster(other)).unwrap_err(), Rejection::ClusterFounded);
}

#[test]
fn a_voter_is_not_removed_when_no_majority_would_answer_unless_forced() {
    let mut world = cluster(3);
    let lost = remove(&mut world, "cp-1", false, &[1, 2]).unwrap_err();
    assert_eq!(lost, Rejection::MajorityLost { member: "cp-1".into(), voters: 2, answering: 1 });
    remove(&mut world, "cp-3", false, &[1, 2]).unwrap();
    remove(&mut world, "cp-2", true, &[]).unwrap();
    for force in [false, true] {
        let last = remove(&mut world, "1", force, &[1]).unwrap_err();
        assert_eq!(last, Rejection::LastVoter { member: "cp-1".into() });
    }
    assert_eq!(remove(&mut world, "cp-9", true, &[]).unwrap_err(), Rejection::MemberUnknown("cp-9".into()));
}

#[test]
fn a_learner_may_go_whoever_answers_and_never_votes() {
    let mut world = cluster(1);
    token(&mut world, "learner", Role::ControlPlane, "").unwrap();
    enrol(&mut world, "learner", Role::ControlPlane, "far").unwrap();
    assert!(!world.state.members.get("far").unwrap().voter);
    remove(&mut world, "far", false, &[]).unwrap();
    assert!(token(&mut world, "learner-dp", Role::DataPlane, "").is_err(), "only control planes vote at all");
}

#[test]
fn a_member_renews_with_its_own_key_only_and_moves_when_it_says_so() {
    let mut world = cluster(2);
    assert_eq!(moves(&mut world, "cp-2", "").unwrap().events, []);
    assert_eq!(moves(&mut world, "cp-2", "10.0.0.7:1").unwrap().events.len(), 1);
    assert_eq!(world.state.members.get("cp-2").unwrap().peer, "10.0.0.7:1");
    assert_eq!(world.state.members.get("cp-2").unwrap().api, "https://10.0.0.2:8431");
    let differs = Rejection::MemberKeyDiffers { name: "cp-1".into() };
    assert_eq!(moves(&mut world, "cp-1", "10.0.0.7:1").unwrap_err(), differs);
    remove(&mut world, "cp-2", false, &[1]).unwrap();
    assert_eq!(moves(&mut world, "cp-2", "").unwrap_err(), Rejection::MemberUnknown("cp-2".into()));
    assert!(moves(&mut world, "cp-1", "nowhere").is_err());
}

#[test]
fn names_and_addresses_that_could_be_mistaken_are_refused() {
    let mut world = cluster(1);
    for name in ["7", "CP", "", "control-plane", "a b"] {
        let id = format!("t{}", name.len());
        token(&mut world, &id, Role::ControlPlane, "").unwrap_or_default();
        assert_eq!(enrol(&mut world, &id, Role::ControlPlane, name).unwrap_err().class(), Class::Invalid, "{name}");
    }
    for (peer, api) in [("h", "https://h:1"), (":1", "https://h:1"), ("h:0", "https://h:1"), ("h:1", "ftp://h")] {
        let wish = Enrol { peer: peer.into(), api: api.into(), ..wish("t0", Role::ControlPlane, "cp-2") };
        assert_eq!(world.run(Command::Enrol(wish)).unwrap_err().class(), Class::Invalid, "{peer} {api}");
    }
}

#[test]
fn voters_and_unused_tokens_are_bounded() {
    let mut world = cluster(VOTERS_MAX);
    assert!(matches!(joined(&mut world, "cp-8").unwrap_err(), Rejection::TooMany { max: VOTERS_MAX, .. }));
    let room = JOIN_TOKENS_MAX - world.state.join_tokens.len();
    for number in 0..room {
        token(&mut world, &format!("n{number}"), Role::Admin, "").unwrap();
    }
    assert!(matches!(token(&mut world, "more", Role::Admin, "").unwrap_err(), Rejection::TooMany { .. }));
    world.seconds += LIFETIME_SECONDS;
    token(&mut world, "more", Role::Admin, "").unwrap();
}

#[test]
fn a_repeated_request_for_a_token_gives_the_same_token_or_says_that_it_cannot() {
    let mut world = cluster(1);
    let wish = |id: &str| {
        let (id, name) = (id.to_owned(), String::new());
        let secret_hash = secret_hash(&id);
        Command::CreateJoinToken(CreateJoinToken { id, secret_hash, role: Role::Ledger, learner: false, name })
    };
    let context = world.context();
    let first = world.run_as(wish("a"), &context).unwrap();
    let again = world.run_as(wish("a"), &context).unwrap();
    assert_eq!((first.answer, 0), (again.answer, again.events.len()));
    assert_eq!(world.run_as(wish("b"), &context).unwrap_err(), Rejection::JoinTokenShown);
}

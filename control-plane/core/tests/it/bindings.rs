//! Grants whose tokens are bound to a key: who may redeem and refresh, and what is never taken away.

use bailiwick_control_plane_core::{
    Change, Command, Decision, Rejection, Wish,
    binding::{Bound, BoundWish, NotBound},
    consent::GiveUp,
    key_rotation::{KEPT_SECONDS, KeyKind, KeyWish, RotateSeal, TOKEN_BINDING, in_use, overdue, seal_keys},
};

use crate::{
    authorizations::{allow, ask, example, grant_of, redeem_of, refresh_of},
    key_rotations::seal,
    world::{START_MICROS, World, types, wish},
};

const ONE: &str = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I";
const OTHER: &str = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";
const START: u64 = START_MICROS / 1_000_000;

fn key(jkt: &str) -> Bound {
    Bound::Key { jkt: jkt.into() }
}

/// Of a client that is known by its name alone.
fn bound(bound: &Bound, of: Wish) -> Wish {
    Wish::Bound(BoundWish { bound: bound.clone(), proved: false, of: Box::new(of) })
}

fn redeem(world: &mut World, to: Option<&Bound>) -> Result<Decision, Rejection> {
    let wish = Wish::RedeemCode(redeem_of("c-1"));
    ask(world, to.map_or_else(|| wish.clone(), |to| bound(to, wish.clone())))
}

fn refresh(world: &mut World, generation: u64, to: Option<&Bound>, proved: bool) -> Result<Decision, Rejection> {
    let wish = Wish::Refresh(refresh_of("c-1", generation));
    let of = |to: &Bound| Wish::Bound(BoundWish { bound: to.clone(), proved, of: Box::new(wish.clone()) });
    ask(world, to.map_or_else(|| wish.clone(), of))
}

fn known(world: &World) -> Option<&Bound> {
    world.state.consents.get("c-1").unwrap().bound.as_ref()
}

pub(crate) fn one_of_each(world: &mut World) {
    for (id, before, at_once) in [("b2", "b1", false), ("b3", "b2", true)] {
        rotate(world, id, before, at_once).unwrap();
    }
    world.apply(crate::world::EXAMPLE).unwrap();
    world.apply(&crate::authorizations::client("")).unwrap();
    ask(world, bound(&key(ONE), Wish::GrantConsent(grant_of("c-bound")))).unwrap();
    ask(world, Wish::GiveUp(GiveUp { client: "editor".into(), consent: "c-bound".into() })).unwrap();
}

fn rotate(world: &mut World, id: &str, before: &str, at_once: bool) -> Result<Decision, Rejection> {
    let edition = seal(world, TOKEN_BINDING);
    let rotate = RotateSeal { key: id.into(), replaces: before.into(), edition, at_once, reason: "OPS-3".into() };
    world.run(Command::Keys(KeyWish::RotateBinding(rotate)))
}

#[test]
fn a_code_that_is_bound_to_a_key_is_redeemed_by_who_shows_that_key_and_by_nobody_else() {
    let mut world = example();
    let decision = ask(&mut world, bound(&key(ONE), Wish::GrantConsent(grant_of("c-1")))).unwrap();
    assert_eq!(types(&decision), ["consent_granted", "code_issued", "grant_bound"]);
    for other in [None, Some(&key(OTHER)), Some(&Bound::Envelope)] {
        assert_eq!(redeem(&mut world, other).unwrap_err(), NotBound::OtherKey.into());
    }
    let confidential = BoundWish { bound: key(OTHER), proved: true, of: Box::new(Wish::RedeemCode(redeem_of("c-1"))) };
    assert_eq!(ask(&mut world, Wish::Bound(confidential)).unwrap_err(), NotBound::OtherKey.into(), "whoever it is");
    assert_eq!(types(&redeem(&mut world, Some(&key(ONE))).unwrap()), ["code_redeemed"], "it was bound before");
    assert_eq!(known(&world), Some(&key(ONE)));
}

#[test]
fn the_first_bound_token_binds_the_grant() {
    for to in [key(ONE), Bound::Envelope] {
        let mut world = example();
        allow(&mut world, "c-1");
        assert_eq!(types(&redeem(&mut world, Some(&to)).unwrap()), ["code_redeemed", "grant_bound"]);
        assert_eq!(known(&world), Some(&to));
    }
    let mut world = example();
    allow(&mut world, "c-1");
    assert_eq!(types(&redeem(&mut world, None).unwrap()), ["code_redeemed"]);
    assert_eq!(known(&world), None);
    assert_eq!(types(&refresh(&mut world, 1, None, false).unwrap()), ["token_refreshed"], "as before");
    let later = refresh(&mut world, 2, Some(&Bound::Envelope), false).unwrap();
    assert_eq!(types(&later), ["token_refreshed", "grant_bound"], "a client that has learnt to");
    assert_eq!(refresh(&mut world, 3, None, false).unwrap_err(), NotBound::Needed.into(), "no way back");
}

#[test]
fn a_refresh_token_of_a_client_without_a_proof_is_bound_to_its_key() {
    let mut world = example();
    allow(&mut world, "c-1");
    redeem(&mut world, Some(&key(ONE))).unwrap();
    for other in [None, Some(&key(OTHER)), Some(&Bound::Envelope)] {
        assert_eq!(refresh(&mut world, 1, other, false).unwrap_err(), NotBound::OtherKey.into());
    }
    assert_eq!(types(&refresh(&mut world, 1, Some(&key(ONE)), false).unwrap()), ["token_refreshed"]);
    world.seconds = 60;
    assert_eq!(refresh(&mut world, 2, Some(&key(OTHER)), false).unwrap_err(), NotBound::OtherKey.into());
    assert!(world.state.consents.get("c-1").unwrap().revoked.is_none(), "the present one without the key ends nothing");
    refresh(&mut world, 1, Some(&key(ONE)), false).unwrap();
    assert!(world.state.consents.get("c-1").unwrap().revoked.is_some(), "an earlier one means that there are copies");
}

#[test]
fn a_thief_who_binds_a_grant_to_a_key_of_its_own_loses_it_when_the_client_comes() {
    for (before, thief) in
        [(None, key(OTHER)), (None, Bound::Certificate { x5t: OTHER.into() }), (Some(Bound::Envelope), key(OTHER))]
    {
        let mut world = example();
        allow(&mut world, "c-1");
        redeem(&mut world, before.as_ref()).unwrap();
        refresh(&mut world, 1, Some(&thief), false).unwrap();
        assert_eq!(known(&world), Some(&thief));
        world.seconds = 60;
        refresh(&mut world, 1, before.as_ref(), false).unwrap();
        assert!(world.state.consents.get("c-1").unwrap().revoked.is_some(), "{before:?} {thief:?}");
    }
}

#[test]
fn a_client_that_proves_who_it_is_may_change_keys_and_never_do_without() {
    let mut world = example();
    allow(&mut world, "c-1");
    redeem(&mut world, Some(&key(ONE))).unwrap();
    assert_eq!(refresh(&mut world, 1, None, true).unwrap_err(), NotBound::OtherKey.into());
    assert_eq!(refresh(&mut world, 1, None, false).unwrap_err(), NotBound::OtherKey.into());
    let changed = refresh(&mut world, 1, Some(&key(OTHER)), true).unwrap();
    assert_eq!(types(&changed), ["token_refreshed", "grant_bound"]);
    assert_eq!(
        types(&refresh(&mut world, 2, Some(&Bound::Envelope), true).unwrap()),
        ["token_refreshed", "grant_bound"]
    );
    assert_eq!(known(&world), Some(&Bound::Envelope));
}

#[test]
fn only_thumbprints_and_only_these_wishes_are_bound() {
    let mut world = example();
    for jkt in ["", "x", &format!("{ONE}="), &ONE.replace('0', "+"), &"A".repeat(44)] {
        let refused = ask(&mut world, bound(&key(jkt), Wish::GrantConsent(grant_of("c-1")))).unwrap_err();
        assert!(matches!(refused, Rejection::Malformed { .. }), "{jkt}: {refused}");
    }
    let nested = bound(&key(ONE), bound(&key(ONE), Wish::GrantConsent(grant_of("c-1"))));
    assert!(matches!(ask(&mut world, nested).unwrap_err(), Rejection::Malformed { .. }));
    let other = bound(&key(ONE), Wish::GiveUp(GiveUp { client: "editor".into(), consent: "c-1".into() }));
    assert!(matches!(ask(&mut world, other).unwrap_err(), Rejection::Malformed { .. }));
    assert!(world.state.consents.get("c-1").is_none());
}

/// As nodes tell it one another.
#[test]
fn a_bound_wish_is_read_as_it_was_written() {
    for to in [key(ONE), Bound::Envelope] {
        let wish = bound(&to, Wish::RedeemCode(redeem_of("c-1")));
        let text = serde_json::to_string(&wish).unwrap();
        assert_eq!(serde_json::from_str::<Wish>(&text).unwrap(), wish, "{text}");
    }
}

#[test]
fn a_key_that_sealed_bindings_is_kept_until_the_last_of_its_tokens_has_ended() {
    let mut world = World::example();
    let mut longest = wish();
    longest.ttl_seconds = 3_600;
    world.run(Command::IssueToken(longest)).unwrap();
    assert_eq!(types(&rotate(&mut world, "b2", "b1", false).unwrap()), ["binding_key_rotated"]);
    let keys = seal_keys(&world.state, KeyKind::TokenBinding).unwrap();
    let until = START + 3_600 + KEPT_SECONDS;
    assert_eq!((in_use(keys).unwrap().0, keys["b1"].replaced.unwrap().until), ("b2", until));
    assert_eq!(overdue(&world.state, until - 1), []);
    world.seconds = until - START;
    assert_eq!(overdue(&world.state, until), [KeyWish::Retire { kind: KeyKind::TokenBinding, key: "b1".into() }]);
    for wish in overdue(&world.state, until) {
        assert_eq!(types(&world.run(Command::Keys(wish)).unwrap()), ["binding_key_retired"]);
    }
    let stays = KeyWish::Retire { kind: KeyKind::TokenBinding, key: "b2".into() };
    assert!(world.run(Command::Keys(stays)).is_err(), "the one in use");
    let at_once = rotate(&mut world, "b3", "b2", true).unwrap();
    assert_eq!(types(&at_once), ["binding_key_rotated", "binding_key_retired"]);
    assert!(matches!(&at_once.events[1].change, Change::BindingKeyRetired(retired) if retired.key == "b2"));
    assert!(world.state.authorization_keys.is_empty(), "the other kind has its own");
}

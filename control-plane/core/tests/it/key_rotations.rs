//! Rotation of the token signing key and of the authorization key: what counts until when, and what may not happen.

use bailiwick_control_plane_core::{
    Change, Command, Decision, Rejection, Wish,
    consent::{Revoked, TOKEN_LIFETIME_SECONDS_MAX},
    decide,
    key_rotation::{
        AUTHORIZATION, AUTHORIZATION_KEYS_MAX, KEPT_SECONDS, KeyKind, KeyWish, KeysStay, RotateSeal, RotateToken,
        SEALED_SECONDS_MAX, THE_KEY, TOKEN_SIGNING, is_due, overdue, sealer, signer, with_refresh_tokens, with_tokens,
    },
    secret::{SealSecret, name},
    standing,
    state::Changed,
    token_key::{TOKEN_KEYS_MAX, TokenKey},
};

use crate::{
    authorizations::{allow, ask, example, redeem_of},
    world::{START_MICROS, World, wish},
};

const MASTER: &str = "00112233445566aa";
const START: u64 = START_MICROS / 1_000_000;
const DAY: u64 = 24 * 3_600;

fn key(kid: &str) -> TokenKey {
    TokenKey { kid: kid.into(), alg: "EdDSA".into(), jwk: r#"{"crv":"Ed25519","kty":"OKP","x":"AA"}"#.into() }
}

/// Seals another edition; which.
pub(crate) fn seal(world: &mut World, column: &str) -> u64 {
    let known = world.state.secrets.get(&name(column, THE_KEY)).map_or(0, |known| known.edition);
    let edition = known + 1;
    let (nonce, sealed) = (format!("{edition:024x}"), "00ff".repeat(24));
    let (column, key, master) = (column.into(), THE_KEY.into(), MASTER.into());
    world.run(Command::SealSecret(SealSecret { column, key, edition, master, nonce, sealed })).unwrap();
    edition
}

fn rotate_token(world: &mut World, kid: &str, at_once: bool) -> Result<Decision, Rejection> {
    let edition = seal(world, TOKEN_SIGNING);
    let rotate = RotateToken { key: key(kid), edition, at_once, reason: "OPS-1".into() };
    world.run(Command::Keys(KeyWish::RotateToken(rotate)))
}

fn rotate_authorization(world: &mut World, id: &str, before: &str, at_once: bool) -> Result<Decision, Rejection> {
    let edition = seal(world, AUTHORIZATION);
    let (key, replaces, reason) = (id.into(), before.into(), "OPS-2".into());
    let rotate = RotateSeal { key, replaces, edition, at_once, reason };
    world.run(Command::Keys(KeyWish::RotateAuthorization(rotate)))
}

fn retire(world: &mut World, kind: KeyKind, key: &str) -> Result<Decision, Rejection> {
    world.run(Command::Keys(KeyWish::Retire { kind, key: key.into() }))
}

fn types(decision: &Decision) -> Vec<&'static str> {
    decision.events.iter().map(|event| event.change.type_word()).collect()
}

fn token_until(world: &World, kid: &str) -> Option<u64> {
    world.state.token_keys[kid].replaced.map(|replaced| replaced.until)
}

pub(crate) fn one_of_each(world: &mut World) {
    rotate_token(world, "k2", false).unwrap();
    rotate_token(world, "k3", true).unwrap();
    rotate_authorization(world, "a2", "a1", false).unwrap();
    rotate_authorization(world, "a3", "a2", true).unwrap();
}

/// With a key that signs.
fn world() -> World {
    let mut world = World::example();
    seal(&mut world, TOKEN_SIGNING);
    world.run(Command::RegisterTokenKey(key("k1"))).unwrap();
    seal(&mut world, AUTHORIZATION);
    world
}

#[test]
fn a_replaced_token_key_verifies_until_the_last_of_its_tokens_has_ended() {
    let mut world = world();
    assert_eq!(signer(&world.state).unwrap().key.kid, "k1");
    let mut wish = wish();
    wish.ttl_seconds = 20 * DAY;
    world.run(Command::IssueToken(wish)).unwrap();
    let decision = rotate_token(&mut world, "k2", false).unwrap();
    assert_eq!(types(&decision), ["token_key_registered", "token_key_rotated"]);
    assert_eq!(signer(&world.state).unwrap().key.kid, "k2");
    let until = START + 20 * DAY + KEPT_SECONDS;
    assert_eq!((token_until(&world, "k1"), token_until(&world, "k2")), (Some(until), None));
    assert!(world.entries.get("token_key/k1").is_some() && world.entries.get("token_key/k2").is_some());

    assert_eq!(overdue(&world.state, until - 1), []);
    let early = retire(&mut world, KeyKind::TokenSigning, "k1").unwrap_err();
    assert_eq!(early, KeysStay::StillCounts { key: "k1".into(), until }.into());
    world.seconds = until - START;
    let now = overdue(&world.state, until);
    assert_eq!(now, [KeyWish::Retire { kind: KeyKind::TokenSigning, key: "k1".into() }]);
    assert_eq!(types(&retire(&mut world, KeyKind::TokenSigning, "k1").unwrap()), ["token_key_retired"]);
    assert!(world.entries.get("token_key/k1").is_none(), "data planes hear of it");
    assert_eq!(retire(&mut world, KeyKind::TokenSigning, "k1").unwrap().events, [], "asked again");
}

#[test]
fn without_tokens_a_replaced_key_is_kept_for_late_nodes_alone_and_never_longer_than_the_longest_token() {
    let mut world = world();
    rotate_token(&mut world, "k2", false).unwrap();
    assert_eq!(token_until(&world, "k1"), Some(START + KEPT_SECONDS));
    let mut longest = wish();
    longest.ttl_seconds = TOKEN_LIFETIME_SECONDS_MAX;
    world.run(Command::IssueToken(longest)).unwrap();
    rotate_token(&mut world, "k3", false).unwrap();
    assert_eq!(token_until(&world, "k2"), Some(START + TOKEN_LIFETIME_SECONDS_MAX + KEPT_SECONDS));
    assert_eq!(token_until(&world, "k1"), Some(START + KEPT_SECONDS), "what was said before stays");
}

#[test]
fn tokens_before_and_after_the_last_one_of_a_consent_are_counted_up_to_its_end() {
    let mut world = world();
    let mut wish = wish();
    wish.ttl_seconds = 20;
    world.run(Command::IssueToken(wish)).unwrap();
    rotate_token(&mut world, "k2", false).unwrap();
    assert_eq!(token_until(&world, "k1"), Some(START + 20 + KEPT_SECONDS), "the consent's own end bounds it");

    let mut world = example();
    seal(&mut world, TOKEN_SIGNING);
    world.run(Command::RegisterTokenKey(key("k1"))).unwrap();
    allow(&mut world, "c-1");
    ask(&mut world, Wish::RedeemCode(redeem_of("c-1"))).unwrap();
    world.seconds = 500;
    rotate_token(&mut world, "k2", false).unwrap();
    let longest = START + 500 + standing::TOKEN_LIFETIME_SECONDS_MAX;
    assert_eq!(token_until(&world, "k1"), Some(longest + KEPT_SECONDS), "it may be signed for as long as any");
}

#[test]
fn the_key_in_use_is_never_retired() {
    let mut world = world();
    let refused = |key: &str| Rejection::from(KeysStay::InUse { key: key.into() });
    assert_eq!(retire(&mut world, KeyKind::TokenSigning, "k1").unwrap_err(), refused("k1"));
    rotate_authorization(&mut world, "a2", "a1", false).unwrap();
    assert_eq!(retire(&mut world, KeyKind::Authorization, "a2").unwrap_err(), refused("a2"));
    assert_eq!(retire(&mut world, KeyKind::TokenSigning, "stranger").unwrap().events, []);
}

#[test]
fn at_once_nothing_of_the_keys_before_counts() {
    let mut world = world();
    rotate_token(&mut world, "k2", false).unwrap();
    let decision = rotate_token(&mut world, "k3", true).unwrap();
    let expected = ["token_key_registered", "token_key_rotated", "token_key_retired", "token_key_retired"];
    assert_eq!(types(&decision), expected);
    assert_eq!(world.state.token_keys.keys().collect::<Vec<_>>(), ["k3"]);
    assert!(world.entries.get("token_key/k1").is_none() && world.entries.get("token_key/k2").is_none());
    rotate_authorization(&mut world, "a2", "a1", false).unwrap();
    rotate_authorization(&mut world, "a3", "a2", true).unwrap();
    assert_eq!(world.state.authorization_keys.keys().collect::<Vec<_>>(), ["a3"]);
    assert_eq!(sealer(&world.state).unwrap().0, "a3");
}

#[test]
fn a_key_that_is_not_what_is_sealed_is_never_in_use() {
    let mut world = world();
    let edition = seal(&mut world, TOKEN_SIGNING);
    seal(&mut world, TOKEN_SIGNING);
    let rotate = |edition| RotateToken { key: key("k2"), edition, at_once: true, reason: String::new() };
    for edition in [edition, 0, edition + 2] {
        let refused = world.run(Command::Keys(KeyWish::RotateToken(rotate(edition)))).unwrap_err();
        assert_eq!(refused, KeysStay::NotSealed { column: TOKEN_SIGNING }.into());
    }
    assert_eq!(signer(&world.state).unwrap().key.kid, "k1");
    // Nor one that takes the place of a key that is not in use.
    rotate_authorization(&mut world, "a2", "a1", false).unwrap();
    let refused = rotate_authorization(&mut world, "a3", "a1", false).unwrap_err();
    assert_eq!(refused, KeysStay::NotSealed { column: AUTHORIZATION }.into());
    assert!(rotate_authorization(&mut world, "a2", "a2", false).is_err());
}

#[test]
fn the_key_in_use_is_not_sealed_away_by_somebody_who_does_not_know_of_it() {
    let mut world = world();
    rotate_token(&mut world, "k2", false).unwrap();
    let edition = world.state.secrets[&name(TOKEN_SIGNING, THE_KEY)].edition + 1;
    let (nonce, sealed) = ("0".repeat(24), "00ff".repeat(24));
    let (column, key, master) = (TOKEN_SIGNING.to_owned(), THE_KEY.to_owned(), MASTER.into());
    let sealing = SealSecret { column, key, edition, master, nonce, sealed };
    let mut ask = |kind, in_use: Option<&str>, sealing: &SealSecret| {
        let (in_use, sealing) = (in_use.map(str::to_owned), sealing.clone());
        world.run(Command::Keys(KeyWish::Seal { kind, in_use, sealing }))
    };
    for in_use in [Some("k1"), None] {
        let refused = ask(KeyKind::TokenSigning, in_use, &sealing).unwrap_err();
        assert_eq!(refused, KeysStay::NotSealed { column: TOKEN_SIGNING }.into());
    }
    let elsewhere = SealSecret { key: "2".into(), ..sealing.clone() };
    assert!(ask(KeyKind::TokenSigning, Some("k2"), &elsewhere).is_err());
    assert!(ask(KeyKind::Authorization, None, &sealing).is_err());
    assert_eq!(types(&ask(KeyKind::TokenSigning, Some("k2"), &sealing).unwrap()), ["secret_sealed"]);
}

#[test]
fn a_request_is_carried_out_once() {
    let mut world = world();
    let (edition, mut context) = (seal(&mut world, TOKEN_SIGNING), world.context());
    context.request_id = "r-rotation".into();
    let rotate = |kid: &str| RotateToken { key: key(kid), edition, at_once: false, reason: String::new() };
    let first = world.run_as(Command::Keys(KeyWish::RotateToken(rotate("k2"))), &context).unwrap();
    assert_eq!(first.repeated, None);
    let again = world.run_as(Command::Keys(KeyWish::RotateToken(rotate("k3"))), &context).unwrap();
    assert_eq!((again.repeated, again.events.len()), (Some(world.state.revision), 0));
    assert_eq!(signer(&world.state).unwrap().key.kid, "k2");
    let taken = rotate_token(&mut world, "k1", false).unwrap_err();
    assert_eq!(taken, Rejection::TokenKeyConflict("k1".into()), "a key comes once");
}

#[test]
fn there_is_room_for_so_many_keys_and_at_once_makes_it() {
    let mut world = world();
    for number in 2..=TOKEN_KEYS_MAX {
        rotate_token(&mut world, &format!("k{number}"), false).unwrap();
    }
    assert!(matches!(rotate_token(&mut world, "more", false), Err(Rejection::TooMany { .. })));
    rotate_token(&mut world, "more", true).unwrap();
    assert_eq!(world.state.token_keys.len(), 1);

    let mut ids = vec!["a1".to_owned()];
    for number in 2..=AUTHORIZATION_KEYS_MAX {
        let id = format!("a{number}");
        rotate_authorization(&mut world, &id, &ids[number - 2], false).unwrap();
        ids.push(id);
    }
    let until = START + SEALED_SECONDS_MAX + KEPT_SECONDS;
    let kept = KeysStay::Kept { max: AUTHORIZATION_KEYS_MAX, until };
    assert_eq!(rotate_authorization(&mut world, "a4", &ids[2], false).unwrap_err(), kept.clone().into());
    assert!(kept.to_string().contains("--at-once"));
    world.seconds = until - START;
    for wish in overdue(&world.state, until) {
        world.run(Command::Keys(wish)).unwrap();
    }
    rotate_authorization(&mut world, "a4", &ids[2], false).unwrap();
}

#[test]
fn a_key_that_sealed_refresh_tokens_opens_until_the_last_of_their_consents_has_ended() {
    let mut world = example();
    let edition = seal(&mut world, AUTHORIZATION);
    let end = START + 20 * DAY;
    // When the key that seals now would be retired, if consents lasted so long.
    let until = |world: &mut World, revoked: bool| {
        let mut state = world.state.clone();
        let consent = state.consents.get_mut("c-1").unwrap();
        consent.granted.expires_at = end;
        let revocation =
            Revoked { reason: String::new(), changed: Changed::default(), by_client: false, session_ended: false };
        consent.revoked = revoked.then_some(revocation);
        let (key, replaces, reason) = ("a2".into(), "a1".into(), String::new());
        let rotate = RotateSeal { key, replaces, edition, at_once: false, reason };
        let wish = Command::Keys(KeyWish::RotateAuthorization(rotate));
        let decision = decide(&state, wish, &world.context()).unwrap();
        match &decision.events[0].change {
            Change::AuthorizationKeyRotated(rotated) => rotated.until,
            other => panic!("{other:?}"),
        }
    };
    allow(&mut world, "c-1");
    assert_eq!(until(&mut world, false), end + KEPT_SECONDS, "its code may still be redeemed");
    assert_eq!((with_tokens(&world.state, START), with_refresh_tokens(&world.state, START)), (0, 0));
    ask(&mut world, Wish::RedeemCode(redeem_of("c-1"))).unwrap();
    assert_eq!(until(&mut world, false), end + KEPT_SECONDS);
    assert_eq!((with_tokens(&world.state, START), with_refresh_tokens(&world.state, START)), (1, 1));
    assert_eq!(with_tokens(&world.state, START + DAY), 0, "it has ended");
    let sessions = START + SEALED_SECONDS_MAX + KEPT_SECONDS;
    assert_eq!(until(&mut world, true), sessions, "browsers' sessions are counted all the same");
}

#[test]
fn a_key_is_due_once_it_is_as_old_as_it_may_be() {
    let world = world();
    let after = |seconds: u64| START_MICROS + seconds * 1_000_000;
    assert!(!is_due(&world.state, after(90 * DAY - 1), 90) && is_due(&world.state, after(90 * DAY), 90));
    assert!(!is_due(&world.state, after(9_000 * DAY), 0), "0: never");
    assert!(!is_due(&World::default().state, after(9_000 * DAY), 1), "there is none yet");
}

#[test]
fn only_public_keys_and_bounded_reasons_are_taken() {
    let mut world = world();
    let edition = seal(&mut world, TOKEN_SIGNING);
    let private = TokenKey { jwk: r#"{"kty":"OKP","d":"secret"}"#.into(), ..key("k2") };
    for (key, reason) in [(private, String::new()), (key("k2"), "x".repeat(2_000))] {
        let rotate = RotateToken { key, edition, at_once: false, reason };
        let refused = world.run(Command::Keys(KeyWish::RotateToken(rotate))).unwrap_err();
        assert!(matches!(refused, Rejection::Malformed { .. }), "{refused}");
    }
}

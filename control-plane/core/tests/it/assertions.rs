//! Clients, identity providers, and what becomes of the assertions of these.

use bailiwick_control_plane_core::{
    Answer, Command, Context, Decision, Exchanged, Fulfilled, Kind, Rejection, Wish,
    assertion::{Use, UseAssertion},
    headless::UseCredentials,
    revocation::{Revoke, Target},
    standing::{CONSENT_SECONDS, TOKEN_LIFETIME_SECONDS_MAX},
};
use bailiwick_proto::Tier;

use crate::world::{START_MICROS, World, document, lines, types};

const HASH: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
const CLIENT: &str = "agent-at-gw";
const PROVIDER: &str = "acme";

fn client(more: &str) -> String {
    document(
        "Client",
        CLIENT,
        &format!("{{agent: coding-assistant, auth: client_secret, secret_sha256: {HASH}{more}}}"),
    )
}

fn provider(more: &str) -> String {
    let assertions = "assertions: {virtual_servers: [finance]}";
    document("IdentityProvider", PROVIDER, &format!("{{issuer: \"https://acme.example\", {assertions}{more}}}"))
}

/// With a client and a provider.
fn example() -> World {
    let mut world = World::example();
    world.apply(&format!("{}{}", client(""), provider(""))).unwrap();
    world
}

fn used(number: u64, world: &World) -> Use {
    Use { key: format!("{number:064x}"), until: START_MICROS / 1_000_000 + world.seconds + 300 }
}

fn wish(number: u64, world: &World) -> UseAssertion {
    UseAssertion {
        provider: PROVIDER.into(),
        uses: vec![used(number, world)],
        said_at: None,
        user: "jane@example.com".into(),
        client: CLIENT.into(),
        virtual_server: "finance".into(),
        granted: Tier::Transactional,
        wanted: Tier::Transactional,
    }
}

/// As the server asks: under no request id, so that nothing is answered twice.
fn exchange(world: &mut World, wish: UseAssertion) -> Result<Decision, Rejection> {
    let context = Context { request_id: String::new(), actor: "client:agent-at-gw".into(), ..world.context() };
    world.run_as(Command::Wish(Wish::UseAssertion(wish)), &context)
}

/// The assertion of this number.
fn exchange_one(world: &mut World, number: u64) -> Result<Decision, Rejection> {
    let wish = wish(number, world);
    exchange(world, wish)
}

fn exchanged(decision: &Decision) -> &Exchanged {
    match &decision.answer {
        Answer::Fulfilled(Fulfilled::Token(exchanged)) => exchanged,
        other => panic!("{other:?}"),
    }
}

/// All events of this part.
pub(crate) fn one_of_each(world: &mut World) {
    world.apply(crate::world::EXAMPLE).unwrap();
    world.apply(&format!("{}{}", client(""), provider(""))).unwrap();
    let wish = wish(1, world);
    exchange(world, wish).unwrap();
    world.delete(&[(Kind::Client, CLIENT), (Kind::IdentityProvider, PROVIDER)]).unwrap();
}

#[test]
fn an_assertion_gives_a_token_under_a_consent_that_serves_the_next_ones_too() {
    let mut world = example();
    let first = exchange_one(&mut world, 1).unwrap();
    assert_eq!(types(&first), ["consent_granted", "assertion_used"]);
    let Exchanged { grant, level, .. } = exchanged(&first).clone();
    assert_eq!(
        (grant.user.as_str(), grant.agent.as_str(), level),
        ("jane@example.com", "coding-assistant", Tier::Transactional)
    );
    assert_eq!(grant.expires_at - grant.issued_at, TOKEN_LIFETIME_SECONDS_MAX);
    world.seconds += 60;
    let second = exchange_one(&mut world, 2).unwrap();
    assert_eq!(types(&second), ["assertion_used"]);
    let again = exchanged(&second).grant.clone();
    assert_eq!((&again.consent, &again.session), (&grant.consent, &grant.session));
    assert_ne!(again.jti, grant.jti);
    // What is left of the consent would not do for a whole token.
    world.seconds += CONSENT_SECONDS - 300;
    let later = exchange_one(&mut world, 3).unwrap();
    assert_eq!(types(&later), ["consent_granted", "assertion_used"]);
}

#[test]
fn an_assertion_is_used_once_whoever_asks_and_for_as_long_as_it_could_be() {
    let mut world = example();
    exchange_one(&mut world, 1).unwrap();
    let first = wish(1, &world);
    for _ in 0..3 {
        assert_eq!(exchange(&mut world, first.clone()).unwrap_err(), Rejection::AssertionUsed);
        world.seconds += 149;
    }
    // The client's own word counts as well.
    let both = UseAssertion { uses: vec![used(7, &world), used(1, &world)], ..wish(7, &world) };
    assert_eq!(exchange(&mut world, both).unwrap_err(), Rejection::AssertionUsed);
    exchange_one(&mut world, 7).unwrap();
}

#[test]
fn uses_are_forgotten_once_nobody_could_repeat_them() {
    let mut world = example();
    for number in 0..40 {
        exchange_one(&mut world, number).unwrap();
    }
    let held =
        |world: &World| serde_json::to_value(&world.state.assertions).unwrap()["used"].as_object().unwrap().len();
    assert_eq!(held(&world), 40);
    world.seconds += 3_600;
    for number in 100..103 {
        exchange_one(&mut world, number).unwrap();
    }
    assert_eq!(held(&world), 3);
}

#[test]
fn a_token_says_no_more_than_provider_client_agent_and_request_allow() {
    let cases = [
        ("", "", Tier::Destructive, Tier::Destructive, Tier::Destructive),
        ("", "", Tier::Retrieval, Tier::Destructive, Tier::Retrieval),
        ("", "", Tier::Destructive, Tier::Retrieval, Tier::Retrieval),
        (", ceiling: transactional", "", Tier::Destructive, Tier::Destructive, Tier::Transactional),
        ("", "transactional", Tier::Destructive, Tier::Destructive, Tier::Transactional),
    ];
    for (more, ceiling, granted, wanted, level) in cases {
        let mut world = example();
        world.apply(&client(more)).unwrap();
        if !ceiling.is_empty() {
            let spec = format!("{{owner: jane@example.com, project: platform, ceiling: {ceiling}}}");
            world.apply(&document("Agent", "coding-assistant", &spec)).unwrap();
        }
        let wish = UseAssertion { granted, wanted, ..wish(1, &world) };
        let decision = exchange(&mut world, wish).unwrap();
        assert_eq!(exchanged(&decision).level, level, "{more} {ceiling}");
        assert!(exchanged(&decision).grant.level >= level);
    }
}

#[test]
fn what_the_provider_grants_no_longer_ends_what_it_granted_before() {
    let mut world = example();
    let first = exchange_one(&mut world, 1).unwrap();
    let before = exchanged(&first).grant.consent.clone();
    let narrower = UseAssertion { granted: Tier::Retrieval, ..wish(2, &world) };
    let second = exchange(&mut world, narrower).unwrap();
    assert_eq!(types(&second), ["consent_revoked", "consent_granted", "assertion_used"]);
    assert!(world.state.consents.get(&before).unwrap().revoked.is_some());
    assert_eq!(exchanged(&second).level, Tier::Retrieval);
    // More than before: what was given stays good for what it said.
    let wider = exchange_one(&mut world, 3).unwrap();
    assert_eq!(types(&wider), ["consent_granted", "assertion_used"]);
    assert!(world.state.consents.get(&exchanged(&second).grant.consent).unwrap().revoked.is_none());
}

#[test]
fn what_was_revoked_here_does_not_come_back_with_the_next_assertion() {
    for target in [Target::Consent, Target::Session] {
        let mut world = example();
        let first = exchange_one(&mut world, 1).unwrap();
        let grant = exchanged(&first).grant.clone();
        let name = if matches!(target(String::new()), Target::Consent(_)) { &grant.consent } else { &grant.session };
        world.run(Command::Revoke(Revoke { target: target(name.clone()), reason: "stolen".into() })).unwrap();
        let held = Rejection::ConsentHeld { consent: grant.consent.clone() };
        for number in 2..4 {
            assert_eq!(exchange_one(&mut world, number).unwrap_err(), held);
            world.seconds += CONSENT_SECONDS;
        }
    }
}

#[test]
fn whoever_does_not_exist_or_is_not_active_gets_nothing() {
    type Change = fn(&mut World, &mut UseAssertion);
    let cases: &[(&str, Change)] = &[
        ("User jane@example.com is not active", |world, _| {
            world.apply(&document("User", "jane@example.com", "{active: false}")).unwrap();
        }),
        ("not found: User bob@example.com", |_, wish| wish.user = "bob@example.com".into()),
        ("not found: Client other", |_, wish| wish.client = "other".into()),
        ("not found: IdentityProvider other", |_, wish| wish.provider = "other".into()),
        ("IdentityProvider acme is not active", |_, wish| wish.virtual_server = "other".into()),
        ("Client agent-at-gw is not active", |world, _| drop(world.apply(&client(", active: false")).unwrap())),
        ("IdentityProvider acme is not active", |world, _| drop(world.apply(&provider(", active: false")).unwrap())),
        ("Agent coding-assistant is not active", |world, _| {
            let spec = "{owner: jane@example.com, project: platform, ceiling: destructive, active: false}";
            world.apply(&document("Agent", "coding-assistant", spec)).unwrap();
        }),
        ("User boss@example.com is not active", |world, _| {
            let owner = document("User", "boss@example.com", "{active: false}");
            let spec = "{owner: boss@example.com, project: platform, ceiling: destructive}";
            world.apply(&format!("{owner}{}", document("Agent", "coding-assistant", spec))).unwrap();
        }),
    ];
    for (said, change) in cases {
        let mut world = example();
        let mut wish = wish(1, &world);
        change(&mut world, &mut wish);
        let before = world.state.clone();
        assert_eq!(exchange(&mut world, wish).unwrap_err().to_string(), *said);
        assert_eq!(world.state, before);
    }
}

#[test]
fn manifests_of_clients_and_providers_are_checked() {
    let of = |spec: &str| document("Client", "c", spec);
    let acme = |spec: &str| document("IdentityProvider", "p", spec);
    let cases = [
        (of("{agent: nobody, auth: client_secret, secret_sha256: HASH}"), "spec.agent"),
        (of("{agent: coding-assistant, auth: client_secret}"), "spec.secret_sha256"),
        (of("{agent: coding-assistant, auth: client_secret, secret_sha256: hunter2}"), "spec.secret_sha256"),
        (of("{agent: coding-assistant, auth: private_key_jwt}"), "spec.jwks"),
        (of("{agent: coding-assistant, auth: private_key_jwt, jwks: '{\"keys\":[{\"d\":\"x\"}]}'}"), "spec.jwks"),
        (of("{agent: coding-assistant, auth: maybe}"), "spec.auth"),
        (of("{agent: coding-assistant, auth: none}"), "spec.redirect_uris"),
        (of("{agent: coding-assistant, auth: none, redirect_uris: [\"http://x.example/\"]}"), "spec.redirect_uris"),
        (of("{auth: none, redirect_uris: [\"https://x.example/\"]}"), "spec.agent"),
        (of("{agent: a, self_registered: true, auth: none, redirect_uris: [\"https://x.example/\"]}"), "spec.agent"),
        (of("{agent: coding-assistant, auth: client_secret, secret_sha256: HASH, title: \"\"}"), "spec.title"),
        (
            document(
                "Client",
                "bailiwick-admin",
                "{agent: coding-assistant, auth: client_secret, secret_sha256: HASH}",
            ),
            "metadata.name",
        ),
        (acme("{issuer: \"ftp://x\"}"), "spec.issuer"),
        (acme("{issuer: \"https://acme.example\"}"), "spec.issuer"),
        (acme("{issuer: \"https://x\", algorithms: [HS256]}"), "spec.algorithms"),
        (acme("{issuer: \"https://x\", networks: [\"10.0.0.0/33\"]}"), "spec.networks[0]"),
        (acme("{issuer: \"https://x\", assertions: {virtual_servers: [nope]}}"), "spec.assertions.virtual_servers"),
        (
            acme("{issuer: \"https://x\", assertions: {virtual_servers: [finance], lifetime_max: 11m}}"),
            "spec.assertions.lifetime_max",
        ),
    ];
    for (yaml, key) in cases {
        let mut world = example();
        let problems = match world.apply(&yaml.replace("HASH", HASH)) {
            Err(Rejection::Invalid(problems)) => problems,
            other => panic!("{yaml}: {other:?}"),
        };
        assert!(problems.iter().any(|problem| problem.key.starts_with(key)), "{yaml}: {:?}", lines(&problems));
    }
}

#[test]
fn what_clients_and_providers_name_is_not_deleted_below_them() {
    let mut world = example();
    for (kind, name) in [(Kind::VirtualServer, "finance"), (Kind::Agent, "coding-assistant")] {
        assert!(matches!(world.delete(&[(kind, name)]), Err(Rejection::InUse(_))), "{name}");
    }
    let consent = exchanged(&exchange_one(&mut world, 1).unwrap()).grant.consent.clone();
    world.delete(&[(Kind::IdentityProvider, PROVIDER)]).unwrap();
    assert!(world.state.consents.get(&consent).unwrap().revoked.is_some(), "its consents go with it");
}

/// Of a headless client.
fn credentials(world: &mut World, number: u64, wanted: Option<Tier>) -> Result<Decision, Rejection> {
    let uses = vec![used(number, world)];
    let wish = UseCredentials { client: "nightly".into(), uses, virtual_server: "finance".into(), wanted };
    let context = Context { request_id: String::new(), actor: "client:nightly".into(), ..world.context() };
    world.run_as(Command::Wish(Wish::UseCredentials(wish)), &context)
}

fn headless(more: &str) -> String {
    let jwks = r#"jwks: '{"keys":[{"kty":"OKP"}]}'"#;
    document("Client", "nightly", &format!("{{agent: coding-assistant, auth: private_key_jwt, {jwks}{more}}}"))
}

#[test]
fn a_headless_client_acts_for_its_agents_owner_where_its_manifest_says() {
    let mut world = World::example();
    world.apply(&headless("")).unwrap();
    assert!(matches!(credentials(&mut world, 1, None).unwrap_err(), Rejection::NotHeadless { .. }));
    world.apply(&headless(", headless: {virtual_servers: [finance]}, ceiling: transactional")).unwrap();
    let first = credentials(&mut world, 1, None).unwrap();
    assert_eq!(types(&first), ["consent_granted", "assertion_used"]);
    let Exchanged { grant, level, refresh } = exchanged(&first).clone();
    assert_eq!(
        (grant.user.as_str(), grant.client.as_str(), level),
        ("jane@example.com", "nightly", Tier::Transactional)
    );
    assert_eq!(refresh, None, "it signs again");
    assert_eq!(credentials(&mut world, 1, None).unwrap_err(), Rejection::AssertionUsed);
    let second = credentials(&mut world, 2, Some(Tier::Retrieval)).unwrap();
    assert_eq!((types(&second), exchanged(&second).level), (vec!["assertion_used"], Tier::Retrieval));
    // What is taken back does not come again by itself, and whoever answers for the agent must be there.
    world.run(Command::Revoke(Revoke { target: Target::Client("nightly".into()), reason: "leaked".into() })).unwrap();
    assert!(matches!(credentials(&mut world, 3, None).unwrap_err(), Rejection::ConsentHeld { .. }));
    world.apply(&document("User", "jane@example.com", "{active: false}")).unwrap();
    assert!(matches!(credentials(&mut world, 4, None).unwrap_err(), Rejection::Inactive(_)));
    for bad in [", headless: {virtual_servers: [nope]}", ", headless: {virtual_servers: []}"] {
        assert!(world.apply(&headless(bad)).is_err(), "{bad}");
    }
}

//! Workloads: what manifests may say of them, and what becomes of a platform's word about one.

use bailiwick_control_plane_core::{
    Answer, Change, Command, Context, Decision, Exchanged, Fulfilled, Kind, Rejection, Wish,
    headless::UseCredentials,
    resource::WorkloadSpec,
    revocation::{Revoke, Target},
    standing::{CONSENT_SECONDS, TOKEN_LIFETIME_SECONDS_MAX},
    workload::{UseWorkload, client_of, provider_of},
};
use bailiwick_proto::Tier;

use crate::world::{START_MICROS, World, document, lines, types};

const CLIENT: &str = "report-writer";
const KUBERNETES: &str = "k8s";
const SUBJECT: &str = "system:serviceaccount:agents:report-writer";
const SPIFFE_ID: &str = "spiffe://acme.example/ns/agents/sa/report-writer";
const HEADLESS: &str = ", headless: {virtual_servers: [finance]}, ceiling: transactional";
const REQUIRE: &str = r#"require: {"/kubernetes.io/namespace": agents}"#;

fn platform(name: &str, workloads: &str) -> String {
    let spec = format!("{{issuer: \"https://{name}.example\", workloads: {workloads}}}");
    document("IdentityProvider", name, &spec)
}

fn client(name: &str, workload: &str, more: &str) -> String {
    document("Client", name, &format!("{{agent: coding-assistant, auth: workload, workload: {{{workload}}}{more}}}"))
}

fn of_kubernetes(more: &str) -> String {
    client(CLIENT, &format!("provider: {KUBERNETES}, subject: \"{SUBJECT}\", {REQUIRE}"), more)
}

fn example() -> World {
    let mut world = World::example();
    world.apply(&(platform(KUBERNETES, "{}") + &of_kubernetes(HEADLESS))).unwrap();
    world
}

fn wish(world: &World) -> UseWorkload {
    let require = [("/kubernetes.io/namespace".to_owned(), "agents".to_owned())].into();
    UseWorkload {
        client: CLIENT.into(),
        workload: WorkloadSpec { provider: KUBERNETES.into(), subject: SUBJECT.into(), require },
        until: START_MICROS / 1_000_000 + world.seconds + 3_600,
        virtual_server: "finance".into(),
        wanted: None,
    }
}

fn ask(world: &mut World, wish: Wish) -> Result<Decision, Rejection> {
    let context = Context { request_id: String::new(), actor: "client:report-writer".into(), ..world.context() };
    world.run_as(Command::Wish(wish), &context)
}

fn used(world: &mut World) -> Result<Decision, Rejection> {
    let wish = wish(world);
    ask(world, Wish::UseWorkload(wish))
}

fn exchanged(decision: &Decision) -> &Exchanged {
    match &decision.answer {
        Answer::Fulfilled(Fulfilled::Token(exchanged)) => exchanged,
        other => panic!("{other:?}"),
    }
}

/// What this part adds to events: the subject.
pub(crate) fn a_token(world: &mut World) {
    world.apply(crate::world::EXAMPLE).unwrap();
    world.apply(&(platform(KUBERNETES, "{}") + &of_kubernetes(HEADLESS))).unwrap();
    used(world).unwrap();
    world.delete(&[(Kind::Client, CLIENT), (Kind::IdentityProvider, KUBERNETES)]).unwrap();
}

#[test]
fn a_workload_acts_for_its_agents_owner_and_is_on_record_with_who_spoke_for_it() {
    let mut world = example();
    let first = used(&mut world).unwrap();
    assert_eq!(types(&first), ["consent_granted", "assertion_used"]);
    let Exchanged { grant, level, refresh } = exchanged(&first).clone();
    assert_eq!((grant.user.as_str(), grant.agent.as_str()), ("jane@example.com", "coding-assistant"));
    assert_eq!((grant.client.as_str(), level, refresh), (CLIENT, Tier::Transactional, None));
    assert_eq!(grant.expires_at - grant.issued_at, TOKEN_LIFETIME_SECONDS_MAX);
    let Change::AssertionUsed(event) = &first.events[1].change else { panic!("{:?}", first.events) };
    assert_eq!((event.provider.as_str(), event.subject.as_str()), (KUBERNETES, SUBJECT));
    assert!(event.uses.is_empty(), "a platform hands out the same one again");
    let consent = world.state.consents.get(&grant.consent).unwrap();
    assert_eq!(consent.granted.provider, KUBERNETES);
    assert!(consent.granted.reason.contains("headless use"), "{}", consent.granted.reason);
    // The same word again, for less.
    let again = UseWorkload { wanted: Some(Tier::Retrieval), ..wish(&world) };
    let second = ask(&mut world, Wish::UseWorkload(again)).unwrap();
    assert_eq!((types(&second), exchanged(&second).level), (vec!["assertion_used"], Tier::Retrieval));
    assert_eq!(exchanged(&second).grant.consent, grant.consent);
    world.seconds += CONSENT_SECONDS;
    assert_eq!(types(&used(&mut world).unwrap()), ["consent_granted", "assertion_used"]);
}

#[test]
fn no_token_outlives_the_word_it_rests_on() {
    let mut world = example();
    let now = START_MICROS / 1_000_000;
    for (left, expected) in [(1, 1), (599, 599), (601, 600), (86_400, 600)] {
        let wish = UseWorkload { until: now + left, ..wish(&world) };
        let grant = exchanged(&ask(&mut world, Wish::UseWorkload(wish)).unwrap()).grant.clone();
        assert_eq!(grant.expires_at - grant.issued_at, expected, "{left} s left");
    }
    let wish = UseWorkload { until: now, ..wish(&world) };
    assert!(matches!(ask(&mut world, Wish::UseWorkload(wish)), Err(Rejection::Malformed { .. })));
}

#[test]
fn what_the_manifests_say_now_counts_and_not_what_they_said_when_the_word_was_verified() {
    let other = Rejection::NotItsWorkload { client: CLIENT.into() };
    let mut world = example();
    let early = wish(&world);
    let moved = SUBJECT.replace("agents", "elsewhere");
    let cases = [
        client(CLIENT, &format!("provider: {KUBERNETES}, subject: \"{moved}\", {REQUIRE}"), HEADLESS),
        client(CLIENT, &format!("provider: {KUBERNETES}, subject: \"{SUBJECT}\""), HEADLESS),
        format!("{}{}", platform("other", "{}"), of_kubernetes(HEADLESS).replace("provider: k8s", "provider: other")),
    ];
    for yaml in cases {
        world.apply(&yaml).unwrap();
        assert_eq!(ask(&mut world, Wish::UseWorkload(early.clone())).unwrap_err(), other, "{yaml}");
        world.apply(&of_kubernetes(HEADLESS)).unwrap();
        used(&mut world).unwrap();
    }
    let provider = |more: &str| {
        document("IdentityProvider", KUBERNETES, &format!("{{issuer: \"https://{KUBERNETES}.example\"{more}}}"))
    };
    for more in ["", ", workloads: {}, active: false", ", workloads: {trust_domain: acme.example}"] {
        world.apply(&provider(more)).unwrap();
        assert!(matches!(used(&mut world).unwrap_err(), Rejection::Inactive(_)), "{more}");
        world.apply(&provider(", workloads: {}")).unwrap();
        used(&mut world).unwrap();
    }
    world.apply(&of_kubernetes("")).unwrap();
    assert!(matches!(used(&mut world).unwrap_err(), Rejection::NotHeadless { .. }));
    world.apply(&of_kubernetes(&format!("{HEADLESS}, active: false"))).unwrap();
    assert!(matches!(used(&mut world).unwrap_err(), Rejection::Inactive(_)));
}

#[test]
fn who_is_a_workload_gets_nothing_without_its_platforms_word() {
    let mut world = example();
    let credentials = |client: &str| {
        let (client, virtual_server) = (client.into(), "finance".into());
        Wish::UseCredentials(UseCredentials { client, uses: vec![], virtual_server, wanted: None })
    };
    let refused = ask(&mut world, credentials(CLIENT)).unwrap_err();
    assert_eq!(refused, Rejection::NotItsWorkload { client: CLIENT.into() });
    // Nor does the word make another client of it.
    let jwks = r#"jwks: '{"keys":[{"kty":"OKP"}]}'"#;
    let nightly = format!("{{agent: coding-assistant, auth: private_key_jwt, {jwks}{HEADLESS}}}");
    world.apply(&document("Client", "nightly", &nightly)).unwrap();
    let wish = UseWorkload { client: "nightly".into(), ..wish(&world) };
    let refused = ask(&mut world, Wish::UseWorkload(wish)).unwrap_err();
    assert_eq!(refused, Rejection::NotItsWorkload { client: "nightly".into() });
}

#[test]
fn what_is_taken_back_does_not_come_again_with_the_platforms_next_word() {
    let mut world = example();
    let consent = exchanged(&used(&mut world).unwrap()).grant.consent.clone();
    world.run(Command::Revoke(Revoke { target: Target::Client(CLIENT.into()), reason: "leaked".into() })).unwrap();
    assert_eq!(used(&mut world).unwrap_err(), Rejection::ConsentHeld { consent });
}

#[test]
fn a_workload_is_found_by_its_trust_domain_or_else_by_who_issued_its_word() {
    let mut world = example();
    let spiffe = client("of-spiffe", &format!("provider: spire, subject: \"{SPIFFE_ID}\""), HEADLESS);
    world.apply(&(platform("spire", "{trust_domain: acme.example}") + &spiffe + &platform("idp", "{}"))).unwrap();
    let issuer = |name: &str| format!("https://{name}.example");
    let cases = [
        (Some("k8s"), SUBJECT, Some("k8s")),
        (Some("idp"), SUBJECT, Some("idp")),
        (None, SUBJECT, None),
        (None, SPIFFE_ID, Some("spire")),
        (Some("spire"), SPIFFE_ID, Some("spire")),
        // Who signed it has to be looked at; a provider of another place has no word about it.
        (Some("k8s"), SPIFFE_ID, Some("spire")),
        (Some("spire"), SUBJECT, None),
        (Some("k8s"), "spiffe://other.example/ns/agents", None),
        (None, "spiffe://acme.example.evil/ns/agents", None),
        (Some("nobody"), SUBJECT, None),
    ];
    for (iss, subject, expected) in cases {
        let iss = iss.map(issuer);
        let found = provider_of(&world.state, iss.as_deref(), subject).map(|(name, _)| name);
        assert_eq!(found, expected, "{iss:?} {subject}");
    }
    let found = |provider, subject| client_of(&world.state, provider, subject).map(|(name, _)| name);
    assert_eq!(found(KUBERNETES, SUBJECT), Some(CLIENT));
    assert_eq!(found("spire", SPIFFE_ID), Some("of-spiffe"));
    assert_eq!((found("spire", SUBJECT), found("idp", SUBJECT)), (None, None));
}

#[test]
fn what_is_wrong_with_a_workloads_manifest_is_said_at_its_key() {
    let workload = |text: &str| client("c", text, "");
    let provider = |text: &str| platform("p", text);
    let plain = |more: &str| document("Client", "c", &format!("{{agent: coding-assistant, auth: {more}}}"));
    let cases = [
        (workload("provider: nope, subject: a"), "spec.workload.provider", "does not exist"),
        (workload("provider: k9s, subject: a"), "spec.workload.provider", "did you mean \"k8s\""),
        (workload("provider: \"K 8\", subject: a"), "spec.workload.provider", ""),
        (workload("provider: plain, subject: a"), "spec.workload.provider", "no `workloads`"),
        (workload("provider: k8s, subject: \"\""), "spec.workload.subject", "1 to 1024"),
        (workload("provider: k8s, subject: \"spiffe://a\""), "spec.workload.subject", "SPIFFE ID"),
        (workload(&format!("provider: k8s, subject: \"{SPIFFE_ID}\"")), "spec.workload.subject", "no `workloads.trust"),
        (workload("provider: spire, subject: \"spiffe://b/c\""), "spec.workload.subject", "spiffe://acme.example/"),
        (workload(&format!("provider: spire, subject: \"{SUBJECT}\"")), "spec.workload.subject", "trust domain"),
        (workload(&format!("provider: k8s, subject: \"{SUBJECT}\"")), "spec.workload.subject", "Client report-writer"),
        (workload("provider: k8s, subject: a, require: {namespace: b}"), "spec.workload.require", "JSON Pointer"),
        (workload("provider: k8s, subject: a, require: {/a: \"\"}"), "spec.workload.require", "1 to 256"),
        (plain("workload"), "spec.workload", "missing"),
        (plain("none, workload: {provider: k8s, subject: a}"), "spec.workload", "auth: workload"),
        (client("c", "provider: k8s, subject: a", ", jwks: '{\"keys\":[]}'"), "spec.jwks", "private_key_jwt"),
        (client("c", "provider: k8s, subject: a", ", secret_sha256: ab"), "spec.secret_sha256", "client_secret"),
        (provider("{trust_domain: \"spiffe://acme.example\"}"), "spec.workloads.trust_domain", "without"),
        (provider("{trust_domain: acme.example}"), "spec.workloads.trust_domain", "IdentityProvider spire"),
        (provider("{lifetime_max: 25h}"), "spec.workloads.lifetime_max", "24h"),
        (provider("{jwks: '{}'}"), "spec.workloads.jwks", "Key Set"),
        (provider("{jwks: '{\"keys\":[{\"d\":\"x\"}]}'}"), "spec.workloads.jwks", "public"),
    ];
    for (yaml, key, why) in cases {
        let mut world = example();
        let others = platform("spire", "{trust_domain: acme.example}")
            + &document("IdentityProvider", "plain", "{issuer: \"https://plain.example\"}");
        world.apply(&others).unwrap();
        let problems = match world.apply(&yaml) {
            Err(Rejection::Invalid(problems)) => problems,
            other => panic!("{yaml}: {other:?}"),
        };
        let is_it = problems.iter().any(|problem| problem.key == key && problem.message.contains(why));
        assert!(is_it, "{yaml}: {:?}", lines(&problems));
    }
}

#[test]
fn a_provider_that_speaks_for_a_client_stays() {
    let mut world = example();
    assert!(matches!(world.delete(&[(Kind::IdentityProvider, KUBERNETES)]), Err(Rejection::InUse(_))));
    used(&mut world).unwrap();
    world.delete(&[(Kind::IdentityProvider, KUBERNETES), (Kind::Client, CLIENT)]).unwrap();
    assert!(world.state.consents.values().all(|consent| consent.revoked.is_some()), "their consents go with them");
}

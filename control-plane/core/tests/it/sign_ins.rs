//! Signing in at identity providers: what manifests may say of it, whose secrets these are, and what follows from what
//! a provider says of somebody.

use std::collections::BTreeSet;

use bailiwick_control_plane_core::{
    Command, Context, Decision, Rejection, Spec, Wish,
    credential::{Audience, PROVIDER_SECRETS_MAX, is_set, used_by},
    resource::ProviderAuth,
    sign_in::SignIn,
};

use crate::world::{World, document, lines, parse, types};

const JANE: &str = "jane@example.com";
const SIGN_IN: &str = "{client_id: gateway, auth: client_secret, secret: acme-secret}";

fn provider(more: &str) -> String {
    document("IdentityProvider", "acme", &format!("{{issuer: \"https://acme.example\"{more}}}"))
}

fn set(world: &mut World, name: &str, audience: Audience) -> Result<Decision, Rejection> {
    world.run(Command::SetCredential { name: name.into(), audience })
}

/// At which people sign in, and which decides who they are.
fn example(people: &str) -> World {
    let mut world = World::example();
    set(&mut world, "acme-secret", Audience::IdentityProvider).unwrap();
    world.apply(&provider(&format!(", sign_in: {SIGN_IN}, people: {people}"))).unwrap();
    world
}

fn sign_in(world: &mut World, user: &str, groups: Option<&[&str]>, may_join: bool) -> Result<Decision, Rejection> {
    let groups = groups.map(|groups| groups.iter().map(ToString::to_string).collect());
    let wish =
        SignIn { user: user.into(), provider: "acme".into(), groups, may_join, session: "b-1".into(), said_at: None };
    let context = Context { request_id: String::new(), actor: "identity-provider:acme".into(), ..world.context() };
    world.run_as(Command::Wish(Wish::SignIn(wish)), &context)
}

fn groups(world: &World, user: &str) -> Vec<String> {
    world.state.users.get(user).unwrap().spec.groups.iter().cloned().collect()
}

/// What came with signing in at providers: the same kinds of event, with more in them.
pub(crate) fn at_a_provider(world: &mut World) {
    world.apply(crate::world::EXAMPLE).unwrap();
    set(world, "acme-secret", Audience::IdentityProvider).unwrap();
    let people = "{user: email, domains: [example.com], require: {hd: example.com}, join: true, \
                  groups: {claim: groups, map: {\"id-1\": finance}}}";
    world.apply(&provider(&format!(", sign_in: {SIGN_IN}, people: {people}"))).unwrap();
    sign_in(world, "new@example.com", Some(&["finance"]), true).unwrap();
}

#[test]
fn what_a_manifest_leaves_out_of_a_sign_in_is_what_providers_usually_have() {
    let manifests = parse(&provider(", sign_in: {client_id: gateway, auth: none}")).unwrap();
    let Spec::IdentityProvider(spec) = &manifests[0].spec else { unreachable!() };
    let sign_in = spec.sign_in.as_ref().unwrap();
    assert_eq!((sign_in.auth, sign_in.title.as_deref(), spec.secret()), (ProviderAuth::None, None, None));
    assert!(sign_in.scopes.iter().eq(["email", "openid", "profile"]));
    assert_eq!((spec.people.user.as_str(), spec.people.join, spec.people.groups.is_none()), ("sub", false, true));
    // What was written before there was any of this is recorded as it was then.
    let manifests = parse(&provider("")).unwrap();
    let Spec::IdentityProvider(spec) = &manifests[0].spec else { unreachable!() };
    let written = serde_json::to_value(spec).unwrap();
    let then = serde_json::json!({
        "issuer": "https://acme.example", "algorithms": ["RS256", "ES256"], "people": {"user": "sub"}, "active": true,
    });
    assert_eq!(written, then);
}

#[test]
fn manifests_of_sign_ins_are_checked() {
    let sign_in = |more: &str| provider(&format!(", sign_in: {{client_id: gateway, {more}}}"));
    let people = |more: &str| provider(&format!(", people: {{{more}}}"));
    let cases = [
        (provider(", sign_in: {auth: none}"), "spec.sign_in.client_id"),
        (provider(", sign_in: {client_id: \"\", auth: none}"), "spec.sign_in.client_id"),
        (provider(", sign_in: {client_id: \"a\\nb\", auth: none}"), "spec.sign_in.client_id"),
        (sign_in("auth: basic"), "spec.sign_in.auth"),
        (sign_in("auth: client_secret"), "spec.sign_in.secret"),
        (sign_in("auth: client_secret, secret: \"A B\""), "spec.sign_in.secret"),
        (sign_in("auth: client_secret, secret: unset"), "spec.sign_in.secret"),
        (sign_in("auth: client_secret, secret: for-servers"), "spec.sign_in.secret"),
        (sign_in("auth: none, secret: acme-secret"), "spec.sign_in.secret"),
        (sign_in("auth: private_key_jwt, secret: acme-secret"), "spec.sign_in.secret"),
        (sign_in("auth: none, scopes: [email]"), "spec.sign_in.scopes"),
        (sign_in("auth: none, scopes: [openid, \"a b\"]"), "spec.sign_in.scopes"),
        (sign_in("auth: none, title: \"a\\nb\""), "spec.sign_in.title"),
        (sign_in("auth: none, authorization_url: \"http://acme.example/auth\""), "spec.sign_in.authorization_url"),
        (sign_in("auth: none, authorization_url: \"javascript:alert(1)\""), "spec.sign_in.authorization_url"),
        (sign_in("auth: none, token_url: \"https://acme.example/#x\""), "spec.sign_in.token_url"),
        (people("user: \"\""), "spec.people.user"),
        (people("domains: [\"@acme.example\"]"), "spec.people.domains"),
        (people("require: {hd: \"\"}"), "spec.people.require"),
        (people("groups: {claim: \"a b\"}"), "spec.people.groups.claim"),
        (people("groups: {claim: groups, map: {}}"), "spec.people.groups.map"),
        (people("groups: {claim: groups, map: {a: \"b c\"}}"), "spec.people.groups.map"),
        (people("groups: {claim: groups, map: {\"\": b}}"), "spec.people.groups.map"),
    ];
    for (yaml, key) in cases {
        let mut world = World::example();
        set(&mut world, "acme-secret", Audience::IdentityProvider).unwrap();
        set(&mut world, "for-servers", Audience::Servers).unwrap();
        let problems = match world.apply(&yaml) {
            Err(Rejection::Invalid(problems)) => problems,
            other => panic!("{yaml}: {other:?}"),
        };
        assert!(problems.iter().any(|problem| problem.key.starts_with(key)), "{yaml}: {:?}", lines(&problems));
    }
    example("{user: email}");
    let plain = document(
        "IdentityProvider",
        "near",
        "{issuer: \"http://10.0.0.1\", networks: [\"10.0.0.0/8\"], sign_in: {client_id: g, auth: none, \
         token_url: \"http://10.0.0.2/token\"}}",
    );
    World::example().apply(&plain).unwrap();
}

#[test]
fn a_secret_is_for_servers_or_for_identity_providers_and_never_for_both() {
    let mut world = example("{}");
    assert!(is_set(&world.state, "acme-secret", Audience::IdentityProvider));
    assert!(!is_set(&world.state, "acme-secret", Audience::Servers));
    let users = used_by(&world.state, "acme-secret", Audience::IdentityProvider);
    assert_eq!(users.iter().map(ToString::to_string).collect::<Vec<_>>(), ["IdentityProvider acme"]);
    assert!(used_by(&world.state, "acme-secret", Audience::Servers).is_empty());
    let taken = set(&mut world, "acme-secret", Audience::Servers).unwrap_err();
    assert_eq!(
        taken.to_string(),
        "secret \"acme-secret\" is for identity-provider; delete it first, or take another name"
    );
    let shown = "{endpoint: {url: \"https://s.example/\"}, credential: {secret: acme-secret}}";
    let Err(Rejection::Invalid(problems)) = world.apply(&document("Server", "s", shown)) else { panic!("accepted") };
    assert!(problems[0].message.contains("no secret \"acme-secret\" is set"), "{:?}", lines(&problems));
    world.run(Command::DeleteCredential { name: "acme-secret".into() }).unwrap();
    set(&mut world, "acme-secret", Audience::Servers).unwrap();
    for number in 0..PROVIDER_SECRETS_MAX {
        set(&mut world, &format!("k{number}"), Audience::IdentityProvider).unwrap();
    }
    let full = set(&mut world, "more", Audience::IdentityProvider);
    assert!(matches!(full, Err(Rejection::TooMany { what: "secrets for identity providers", .. })));
    set(&mut world, "more", Audience::Servers).unwrap();
}

#[test]
fn a_secret_for_servers_is_recorded_as_it_always_was() {
    let mut world = World::default();
    set(&mut world, "key", Audience::Servers).unwrap();
    set(&mut world, "other", Audience::IdentityProvider).unwrap();
    let recorded: Vec<_> = world.events.iter().map(|event| serde_json::to_value(event).unwrap()).collect();
    assert!(recorded[0].get("audience").is_none());
    assert_eq!(recorded[1]["audience"], "identity_provider");
}

#[test]
fn what_a_provider_says_of_groups_counts_from_the_sign_in_on() {
    let mut world = example("{user: email, groups: {claim: groups}}");
    assert_eq!(types(&sign_in(&mut world, JANE, None, false).unwrap()), ["person_signed_in"]);
    let moved = sign_in(&mut world, JANE, Some(&["auditors"]), false).unwrap();
    assert_eq!(types(&moved), ["user_applied", "person_signed_in"]);
    assert_eq!(groups(&world, JANE), ["auditors"]);
    assert_eq!(types(&sign_in(&mut world, JANE, Some(&["auditors"]), false).unwrap()), ["person_signed_in"]);
    sign_in(&mut world, JANE, Some(&[]), false).unwrap();
    assert_eq!(groups(&world, JANE), [""; 0]);
}

#[test]
fn who_is_not_known_joins_only_where_the_manifest_says_so_now() {
    let mut world = example("{user: email}");
    let stranger = "new@example.com";
    assert!(matches!(sign_in(&mut world, stranger, None, false), Err(Rejection::NotFound(_))));
    // A node may not have heard yet that nobody joins any more.
    assert!(matches!(sign_in(&mut world, stranger, None, true), Err(Rejection::NotFound(_))));
    world.apply(&provider(&format!(", sign_in: {SIGN_IN}, people: {{user: email, join: true}}"))).unwrap();
    let joined = sign_in(&mut world, stranger, Some(&["finance"]), true).unwrap();
    assert_eq!(types(&joined), ["user_applied", "person_signed_in"]);
    assert_eq!(groups(&world, stranger), ["finance"]);
    world.apply(&document("User", stranger, "{active: false}")).unwrap();
    let again = sign_in(&mut world, "New@Example.com", Some(&["finance"]), true);
    assert!(matches!(again, Err(Rejection::Inactive(_))), "who left joins again under other letters: {again:?}");
}

#[test]
fn nobody_signs_in_at_a_provider_that_is_disabled_or_has_no_sign_in() {
    for more in [format!(", active: false, sign_in: {SIGN_IN}"), String::new()] {
        let mut world = example("{}");
        world.apply(&provider(&more)).unwrap();
        assert!(matches!(sign_in(&mut world, JANE, None, false), Err(Rejection::Inactive(_))), "{more}");
    }
    let mut world = example("{}");
    let inactive = "{groups: [finance], active: false}";
    world.apply(&document("User", JANE, inactive)).unwrap();
    assert!(matches!(sign_in(&mut world, JANE, Some(&["finance"]), true), Err(Rejection::Inactive(_))));
    assert_eq!(world.state.users.get(JANE).unwrap().spec.groups, BTreeSet::from(["finance".to_owned()]));
}

//! Work that one agent hands on to another: who may, how far it reaches, and that it ends with what it came of.

mod endings;
mod held;

use std::collections::BTreeSet;

use bailiwick_control_plane_core::{
    Answer, Command, Context, Decision, Exchanged, FreshIds, Fulfilled, Kind, Rejection, Wish,
    agent::life::SetAgentState,
    assertion::Use,
    authorization::{GrantConsent, RedeemCode},
    consent::GiveUp,
    exchange::{ACT_DEPTH_MAX, ExchangeToken, NotHandedOn, Subject},
    resource::AgentState,
    revocation::{Revoke, Target},
    standing::{CONSENT_SECONDS, TOKEN_LIFETIME_SECONDS_MAX},
};
use bailiwick_proto::Tier;

use crate::world::{START_MICROS, World, document, lines, types};

const USER: &str = "jane@example.com";
const HASH: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
const REDIRECT: &str = "http://127.0.0.1:3000/cb";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
/// Of Jane's consent, to which everything here goes back.
const ROOT: &str = "c-root";

fn agent(name: &str, more: &str) -> String {
    document("Agent", name, &format!("{{owner: {USER}, project: of-{name}, ceiling: destructive{more}}}"))
}

/// The client of an agent, which takes over from others.
fn client(agent: &str, takes_over: &str, more: &str) -> String {
    let exchange =
        if takes_over.is_empty() { String::new() } else { format!(", exchange: {{agents: [{takes_over}]}}") };
    let spec = format!("{{agent: {agent}, auth: client_secret, secret_sha256: {HASH}{exchange}{more}}}");
    document("Client", &format!("{agent}-client"), &spec)
}

/// Jane has allowed `first` something for an hour; `second` takes over from it, `third` from that, and so on.
fn example() -> World {
    example_with(Tier::Destructive, &[], "")
}

fn example_with(level: Tier, tools: &[&str], first: &str) -> World {
    let mut world = World::example();
    let names = ["first", "second", "third", "fourth", "fifth"];
    let mut yaml: String = names.iter().map(|name| agent(name, if *name == "first" { first } else { "" })).collect();
    yaml += &client("first", "fifth", &format!(", redirect_uris: [\"{REDIRECT}\"]"));
    yaml.extend(names.windows(2).map(|pair| client(pair[1], pair[0], "")));
    world.apply(&yaml).unwrap();
    grant(&mut world, ROOT, level, tools);
    world
}

fn grant(world: &mut World, consent: &str, level: Tier, tools: &[&str]) {
    ask(world, Wish::GrantConsent(grant_of(consent, level, tools))).unwrap();
    ask(world, Wish::RedeemCode(redeem(consent))).unwrap();
}

fn grant_of(consent: &str, level: Tier, tools: &[&str]) -> GrantConsent {
    GrantConsent {
        consent: consent.into(),
        user: USER.into(),
        provider: String::new(),
        session_since: None,
        client: "first-client".into(),
        agent: "first".into(),
        virtual_server: "finance".into(),
        level,
        tools: tools.iter().map(|tool| (*tool).to_owned()).collect(),
        lifetime_seconds: 3_600,
        reason: "OPS-12".into(),
        wanted: Tier::Destructive,
        redirect_uri: REDIRECT.into(),
        challenge: CHALLENGE.into(),
    }
}

fn redeem(consent: &str) -> RedeemCode {
    RedeemCode {
        consent: consent.into(),
        client: "first-client".into(),
        uses: Vec::new(),
        redirect_uri: None,
        challenge: CHALLENGE.into(),
        virtual_server: None,
    }
}

/// As the server asks: under no request id.
fn ask(world: &mut World, wish: Wish) -> Result<Decision, Rejection> {
    let context = Context { request_id: String::new(), actor: "client:x".into(), ..world.context() };
    world.run_as(Command::Wish(wish), &context)
}

/// A token of a consent as it would be shown now, good for all that its consent is.
fn subject(world: &World, consent: &str) -> Subject {
    let known = world.state.consents.get(consent).unwrap();
    Subject {
        consent: consent.into(),
        user: known.granted.user.clone(),
        agent: known.granted.agent.clone(),
        client: known.granted.client.clone(),
        virtual_server: known.granted.virtual_server.clone(),
        level: known.granted.level,
        expires_at: known.token.as_ref().unwrap().expires_at,
    }
}

fn wish(world: &World, agent: &str, from: &str) -> ExchangeToken {
    let client = format!("{agent}-client");
    ExchangeToken { client, uses: Vec::new(), subject: subject(world, from), wanted: None }
}

fn exchange(world: &mut World, agent: &str, from: &str) -> Result<Decision, Rejection> {
    let wish = wish(world, agent, from);
    ask(world, Wish::Exchange(wish))
}

/// The consent that an agent gets of another.
fn hand_on(world: &mut World, agent: &str, from: &str) -> String {
    token(&exchange(world, agent, from).unwrap()).grant.consent.clone()
}

fn token(decision: &Decision) -> &Exchanged {
    match &decision.answer {
        Answer::Fulfilled(Fulfilled::Token(exchanged)) => exchanged,
        other => panic!("{other:?}"),
    }
}

/// Jane's consent is handed on to `second`, from there to `third`, and besides to `fourth` of `third`.
fn handed_on() -> (World, Vec<String>) {
    let mut world = example();
    let second = hand_on(&mut world, "second", ROOT);
    let third = hand_on(&mut world, "third", &second);
    let fourth = hand_on(&mut world, "fourth", &third);
    (world, vec![second, third, fourth])
}

fn revoked(world: &World) -> BTreeSet<String> {
    let revoked = world.state.consents.iter().filter(|(_, one)| one.revoked.is_some());
    revoked.map(|(id, _)| id.clone()).collect()
}

/// What is done, in words and to the world.
type Case = (&'static str, fn(&mut World));

/// All events of this part.
pub(crate) fn one_of_each(world: &mut World) {
    world.apply(crate::world::EXAMPLE).unwrap();
    let clients = client("first", "", &format!(", redirect_uris: [\"{REDIRECT}\"]")) + &client("second", "first", "");
    world.apply(&format!("{}{}{clients}", agent("first", ""), agent("second", ""))).unwrap();
    // Under names of their own, whatever happened before.
    let named = |world: &mut World, name: &str, wish: Wish| {
        let of = |kind: &str| format!("{kind}-{name}");
        let ids = FreshIds { consent: of("c"), session: of("s"), token: of("t") };
        let context = Context { request_id: String::new(), actor: "client:x".into(), ids, ..world.context() };
        world.run_as(Command::Wish(wish), &context).unwrap();
    };
    named(world, "first", Wish::GrantConsent(grant_of("c-handed", Tier::Transactional, &[])));
    named(world, "first", Wish::RedeemCode(redeem("c-handed")));
    let used = Use { key: format!("{:064x}", 99), until: START_MICROS / 1_000_000 + world.seconds + 300 };
    let wish = ExchangeToken { uses: vec![used], ..wish(world, "second", "c-handed") };
    named(world, "second", Wish::Exchange(wish));
    world.delete(&[(Kind::Consent, "c-handed")]).unwrap();
}

#[test]
fn an_agent_gets_a_token_of_its_own_for_that_of_another() {
    let mut world = example();
    let decision = exchange(&mut world, "second", ROOT).unwrap();
    assert_eq!(types(&decision), ["consent_granted", "token_exchanged"]);
    let Exchanged { grant, level, refresh } = token(&decision).clone();
    assert_eq!((grant.user.as_str(), grant.agent.as_str(), grant.client.as_str()), (USER, "second", "second-client"));
    assert_eq!((grant.project.as_str(), grant.earlier_agents.as_slice()), ("of-second", &["first".to_owned()][..]));
    assert_eq!((level, refresh), (Tier::Destructive, None));
    let root = world.state.consents.get(ROOT).unwrap().token.clone().unwrap();
    assert_eq!((&grant.session, grant.expires_at), (&root.session, root.expires_at));
    assert_ne!(grant.jti, root.jti);
    let status = &world.show(Kind::Consent, &grant.consent)["status"];
    assert_eq!((&status["parent"], &status["earlier_agents"]), (&ROOT.into(), &serde_json::json!(["first"])));
    assert_eq!(status["reason"], "handed on by Agent first, under consent c-root");
}

#[test]
fn one_consent_serves_all_exchanges_of_a_client_for_one_consent() {
    let mut world = example();
    let first = hand_on(&mut world, "second", ROOT);
    world.seconds += 60;
    let again = exchange(&mut world, "second", ROOT).unwrap();
    assert_eq!((types(&again), token(&again).grant.consent.clone()), (vec!["token_exchanged"], first.clone()));
    assert_ne!(token(&again).grant.jti, first);
    grant(&mut world, "c-other", Tier::Destructive, &[]);
    assert_ne!(hand_on(&mut world, "second", "c-other"), first, "another consent, another session");
    // What a client gave up, it may have again; what was revoked here, not.
    let own = world.state.consents.get(&first).unwrap().granted.client.clone();
    ask(&mut world, Wish::GiveUp(GiveUp { client: own, consent: first.clone() })).unwrap();
    let second = hand_on(&mut world, "second", ROOT);
    assert_ne!(second, first);
    revoke(&mut world, Target::Consent(second));
    assert!(matches!(exchange(&mut world, "second", ROOT).unwrap_err(), Rejection::ConsentHeld { .. }));
    assert!(!revoked(&world).contains(ROOT), "the one who handed on keeps what they have");
}

#[test]
fn nobody_takes_over_whose_manifest_does_not_say_so() {
    let mut world = example();
    let refused = |agent: &str, from: &str| {
        Rejection::from(NotHandedOn::NotTakenOver { client: format!("{agent}-client"), agent: from.into() })
    };
    assert_eq!(exchange(&mut world, "third", ROOT).unwrap_err(), refused("third", "first"));
    assert_eq!(exchange(&mut world, "first", ROOT).unwrap_err(), refused("first", "first"), "nor from itself");
    assert!(matches!(exchange(&mut world, "sixth", ROOT).unwrap_err(), Rejection::NotFound(_)));
    // It takes away as it gives.
    let second = hand_on(&mut world, "second", ROOT);
    world.apply(&client("second", "third", "")).unwrap();
    assert_eq!(exchange(&mut world, "second", ROOT).unwrap_err(), refused("second", "first"));
    assert_eq!(world.show(Kind::Consent, &second)["status"]["state"], "live");
}

#[test]
fn manifests_of_clients_that_take_over_are_checked() {
    let public =
        format!("{{agent: second, auth: none, redirect_uris: [\"{REDIRECT}\"], exchange: {{agents: [first]}}}}");
    let many: Vec<_> = (0..65).map(|number| format!("a{number}")).collect();
    for (yaml, key) in [
        (client("second", "second", ""), "spec.exchange.agents"),
        (client("second", "nobody", ""), "spec.exchange.agents"),
        (client("second", "\"not a name\"", ""), "spec.exchange.agents"),
        (client("second", &many.join(", "), ""), "spec.exchange.agents"),
        (client("second", "", ", exchange: {agents: []}"), "spec.exchange.agents"),
        (document("Client", "public", &public), "spec.exchange"),
    ] {
        let Err(Rejection::Invalid(problems)) = example().apply(&yaml) else { panic!("{yaml}") };
        assert!(problems.iter().any(|problem| problem.key == key), "{yaml}: {:?}", lines(&problems));
    }
    let mut world = example();
    assert!(matches!(
        world.delete(&[(Kind::Agent, "first"), (Kind::Client, "first-client")]),
        Err(Rejection::InUse(_))
    ));
}

#[test]
fn a_token_that_is_handed_on_must_be_one_of_a_consent_that_counts() {
    let mut world = example();
    let good = wish(&world, "second", ROOT);
    let changes: [fn(&mut Subject); 6] = [
        |subject| subject.consent = "c-no".into(),
        |subject| subject.user = "eve@example.com".into(),
        |subject| subject.client = "second-client".into(),
        |subject| subject.virtual_server = "hr".into(),
        |subject| subject.expires_at = START_MICROS / 1_000_000,
        // Of an agent that the client does take over from, but which is not that of the consent.
        |subject| (subject.agent, subject.consent) = ("first".into(), "c-second".into()),
    ];
    world.apply(&document("User", "eve@example.com", "{}")).unwrap();
    for change in changes {
        let mut wish = good.clone();
        change(&mut wish.subject);
        assert_eq!(ask(&mut world, Wish::Exchange(wish)).unwrap_err(), NotHandedOn::TokenUnknown.into());
    }
    world.seconds += TOKEN_LIFETIME_SECONDS_MAX;
    assert_eq!(ask(&mut world, Wish::Exchange(good)).unwrap_err(), NotHandedOn::TokenUnknown.into());
}

#[test]
fn four_agents_act_one_for_the_other_and_no_fifth() {
    let (mut world, handed) = handed_on();
    let last = world.state.consents.get(&handed[2]).unwrap().granted.clone();
    assert_eq!(last.earlier_agents, ["third", "second", "first"]);
    assert_eq!(last.earlier_agents.len() + 1, ACT_DEPTH_MAX);
    assert_eq!(exchange(&mut world, "fifth", &handed[2]).unwrap_err(), NotHandedOn::TooManyActors.into());
    // Nor do two hand it to and fro for ever.
    world.apply(&client("first", "second", "")).unwrap();
    let mut consent = hand_on(&mut world, "second", ROOT);
    for agent in ["first", "second"] {
        consent = hand_on(&mut world, agent, &consent);
    }
    assert_eq!(exchange(&mut world, "first", &consent).unwrap_err(), NotHandedOn::TooManyActors.into());
}

#[test]
fn what_is_handed_on_reaches_no_further_than_what_it_came_of() {
    use Tier::{Destructive, Retrieval, Transactional};
    // Consent, ceilings of the agent that hands on and of the one that takes over, token shown, scope asked for.
    for (consent, from, to, shown, wanted, level) in [
        (Destructive, "destructive", "destructive", Destructive, None, Destructive),
        (Transactional, "destructive", "destructive", Transactional, Some(Destructive), Transactional),
        (Destructive, "transactional", "destructive", Destructive, None, Transactional),
        (Destructive, "destructive", "retrieval", Destructive, None, Retrieval),
        (Destructive, "destructive", "destructive", Retrieval, Some(Destructive), Retrieval),
        (Destructive, "destructive", "destructive", Destructive, Some(Retrieval), Retrieval),
    ] {
        let mut world = example_with(consent, &["finance/query_data"], "");
        let spec = |ceiling: &str| format!("{{owner: {USER}, project: p, ceiling: {ceiling}}}");
        world.apply(&(document("Agent", "first", &spec(from)) + &document("Agent", "second", &spec(to)))).unwrap();
        let mut wish = ExchangeToken { wanted, ..wish(&world, "second", ROOT) };
        wish.subject.level = shown;
        let decision = ask(&mut world, Wish::Exchange(wish)).unwrap();
        assert_eq!(token(&decision).level, level, "{consent} {from} {to} {shown} {wanted:?}");
        let granted = &world.state.consents.get(&token(&decision).grant.consent).unwrap().granted;
        assert_eq!(granted.tools, ["finance/query_data".to_owned()].into());
    }
}

#[test]
fn the_ceiling_of_everybody_it_came_through_counts_and_narrows_what_stands() {
    let (mut world, handed) = handed_on();
    let spec = format!("{{owner: {USER}, project: p, ceiling: retrieval}}");
    world.apply(&document("Agent", "first", &spec)).unwrap();
    let decision = exchange(&mut world, "third", &handed[0]).unwrap();
    assert_eq!(token(&decision).level, Tier::Retrieval);
    // The wider one ends, and with it what came of that.
    assert_eq!(types(&decision), ["consent_revoked", "consent_granted", "token_exchanged", "consent_revoked"]);
    assert_eq!(revoked(&world), handed[1..].iter().cloned().collect());
}

#[test]
fn nothing_is_handed_on_by_who_may_not_act_nor_to_them() {
    let cases: &[Case] = &[
        ("the agent that takes over", |world| {
            let wish = SetAgentState { agent: "third".into(), state: AgentState::Paused, reason: String::new() };
            world.run(Command::SetAgentState(wish)).unwrap();
        }),
        ("the agent that hands on", |world| {
            let wish = SetAgentState { agent: "second".into(), state: AgentState::Paused, reason: String::new() };
            world.run(Command::SetAgentState(wish)).unwrap();
        }),
        ("the first agent", |world| {
            let wish = SetAgentState { agent: "first".into(), state: AgentState::Paused, reason: String::new() };
            world.run(Command::SetAgentState(wish)).unwrap();
        }),
        ("a review that is due", |world| {
            world.apply(&agent("first", ", review_by: 2026-11-20")).unwrap();
        }),
        ("the client that takes over", |world| {
            world.apply(&client("third", "second", ", active: false")).unwrap();
        }),
        ("the first client", |world| {
            world.apply(&client("first", "fifth", ", active: false")).unwrap();
        }),
        ("the owner", |world| {
            world.apply(&document("User", "joe@example.com", "{active: false}")).unwrap();
            let spec = "{owner: joe@example.com, project: p, ceiling: destructive}";
            world.apply(&document("Agent", "second", spec)).unwrap();
        }),
        ("the person", |world| {
            world.apply(&document("User", USER, "{active: false}")).unwrap();
        }),
    ];
    for (who, change) in cases {
        let mut world = example();
        let second = hand_on(&mut world, "second", ROOT);
        hand_on(&mut world, "third", &second);
        change(&mut world);
        let refused = exchange(&mut world, "third", &second).unwrap_err();
        let fits = matches!(refused, Rejection::Inactive(_) | Rejection::ReviewDue { .. } | Rejection::Exchange(_));
        assert!(fits, "{who}: {refused}");
    }
}

#[test]
fn what_is_handed_on_ends_no_later_than_the_token_and_the_consent_it_came_of() {
    let mut world = example();
    world.seconds += 200;
    let early = token(&exchange(&mut world, "second", ROOT).unwrap()).grant.clone();
    assert_eq!(early.expires_at - early.issued_at, TOKEN_LIFETIME_SECONDS_MAX - 200, "with the token that is shown");
    let ends = |world: &World, consent: &str| world.state.consents.get(consent).unwrap().granted.expires_at;
    assert_eq!(ends(&world, &early.consent), ends(&world, ROOT));
    assert!(ends(&world, ROOT) < START_MICROS / 1_000_000 + CONSENT_SECONDS);
    // However long a token says that it is good: no longer than its consent, and than any of ours.
    let long = |world: &World| {
        let mut wish = wish(world, "second", ROOT);
        wish.subject.expires_at += 100_000;
        Wish::Exchange(wish)
    };
    let wish = long(&world);
    let usual = token(&ask(&mut world, wish).unwrap()).grant.clone();
    assert_eq!(usual.expires_at - usual.issued_at, TOKEN_LIFETIME_SECONDS_MAX);
    world.seconds += 3_300;
    let wish = long(&world);
    let last = token(&ask(&mut world, wish).unwrap()).grant.clone();
    assert_eq!((last.expires_at, &last.consent), (ends(&world, ROOT), &early.consent), "the same consent to the end");
}

fn revoke(world: &mut World, target: Target) -> Vec<String> {
    let decision = world.run(Command::Revoke(Revoke { target, reason: "left".into() })).unwrap();
    let Answer::Revoked(revoked) = decision.answer else { panic!("{:?}", decision.answer) };
    assert!(!revoked.more);
    revoked.changes.iter().map(|one| format!("{} {}", one.action.as_str(), one.resource)).collect()
}

//! Authorization by people: sign-in, consents, codes, refresh tokens, clients that registered themselves.

use std::collections::BTreeSet;

use bailiwick_control_plane_core::{
    Answer, Command, Context, Decision, Exchanged, Fulfilled, Kind, Rejection, State, Wish,
    agent::life::SetAgentState,
    authorization::{CODE_SECONDS, DeclineConsent, GrantConsent, RedeemCode},
    client::{RegisterClient, SELF_REGISTERED_MAX, agents_of},
    consent::{CONSENTS_MAX, ENDED_CONSENT_KEPT_SECONDS, GiveUp, KEPT_OF_ONE_MAX, TakeBack},
    decide,
    refresh::{GRACE_SECONDS, Refresh},
    resource::{AgentState, ClientAuth, ClientSpec},
    revocation::{Revoke, Target},
    sign_in::SignIn,
};
use bailiwick_proto::Tier;

use crate::world::{World, document, types};

const USER: &str = "jane@example.com";
const CLIENT: &str = "editor";
const AGENT: &str = "coding-assistant";
const REDIRECT: &str = "http://127.0.0.1:3000/cb";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

/// With a client that people may be asked for.
pub(crate) fn example() -> World {
    let mut world = World::example();
    world.apply(&client("")).unwrap();
    world
}

pub(crate) fn client(more: &str) -> String {
    let spec = format!("{{agent: {AGENT}, auth: none, redirect_uris: [\"{REDIRECT}\"]{more}}}");
    document("Client", CLIENT, &spec)
}

fn agent(more: &str) -> String {
    let spec = format!("{{owner: {USER}, project: platform, ceiling: destructive{more}}}");
    document("Agent", AGENT, &spec)
}

pub(crate) fn grant_of(consent: &str) -> GrantConsent {
    GrantConsent {
        consent: consent.into(),
        user: USER.into(),
        provider: String::new(),
        session_since: None,
        client: CLIENT.into(),
        agent: AGENT.into(),
        virtual_server: "finance".into(),
        level: Tier::Transactional,
        tools: BTreeSet::new(),
        lifetime_seconds: 3_600,
        reason: "OPS-12".into(),
        wanted: Tier::Transactional,
        redirect_uri: REDIRECT.into(),
        challenge: CHALLENGE.into(),
    }
}

pub(crate) fn redeem_of(consent: &str) -> RedeemCode {
    RedeemCode {
        consent: consent.into(),
        client: CLIENT.into(),
        uses: Vec::new(),
        redirect_uri: Some(REDIRECT.into()),
        challenge: CHALLENGE.into(),
        virtual_server: Some("finance".into()),
    }
}

pub(crate) fn refresh_of(consent: &str, generation: u64) -> Refresh {
    Refresh {
        consent: consent.into(),
        generation,
        client: CLIENT.into(),
        uses: Vec::new(),
        wanted: None,
        virtual_server: None,
    }
}

/// As the server asks: under no request id.
pub(crate) fn ask(world: &mut World, wish: Wish) -> Result<Decision, Rejection> {
    let context = Context { request_id: String::new(), actor: format!("user:{USER}"), ..world.context() };
    world.run_as(Command::Wish(wish), &context)
}

fn fulfilled(decision: &Decision) -> &Fulfilled {
    match &decision.answer {
        Answer::Fulfilled(fulfilled) => fulfilled,
        other => panic!("{other:?}"),
    }
}

fn token(decision: &Decision) -> &Exchanged {
    match fulfilled(decision) {
        Fulfilled::Token(exchanged) => exchanged,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn allow(world: &mut World, consent: &str) -> Decision {
    ask(world, Wish::GrantConsent(grant_of(consent))).unwrap()
}

/// With a consent whose code was redeemed.
fn redeemed() -> World {
    let mut world = example();
    allow(&mut world, "c-x");
    ask(&mut world, Wish::RedeemCode(redeem_of("c-x"))).unwrap();
    world
}

/// All events of this part.
pub(crate) fn one_of_each(world: &mut World) {
    world.apply(crate::world::EXAMPLE).unwrap();
    world.apply(&client("")).unwrap();
    let (user, session) = (USER.into(), "b-1".into());
    let session = SignIn { user, provider: String::new(), groups: None, may_join: false, session, said_at: None };
    ask(world, Wish::SignIn(session)).unwrap();
    let declined = DeclineConsent {
        user: USER.into(),
        provider: String::new(),
        client: CLIENT.into(),
        virtual_server: "finance".into(),
        reason: "unknown program".into(),
    };
    ask(world, Wish::DeclineConsent(declined)).unwrap();
    ask(world, Wish::GrantConsent(grant_of("c-lived"))).unwrap();
    ask(world, Wish::RedeemCode(redeem_of("c-lived"))).unwrap();
    ask(world, Wish::Refresh(refresh_of("c-lived", 1))).unwrap();
    let given_up = GiveUp { client: CLIENT.into(), consent: "c-lived".into() };
    ask(world, Wish::GiveUp(given_up)).unwrap();
    world.delete(&[(Kind::Client, CLIENT)]).unwrap();
}

#[test]
fn a_person_allows_and_the_client_redeems_once() {
    let mut world = example();
    let allowed = allow(&mut world, "c-x");
    assert_eq!(types(&allowed), ["consent_granted", "code_issued"]);
    assert_eq!(fulfilled(&allowed), &Fulfilled::Consent("c-x".into()));
    let decision = ask(&mut world, Wish::RedeemCode(redeem_of("c-x"))).unwrap();
    assert_eq!(types(&decision), ["code_redeemed"]);
    let Exchanged { grant, level, refresh } = token(&decision).clone();
    assert_eq!((grant.user.as_str(), grant.agent.as_str(), grant.client.as_str()), (USER, AGENT, CLIENT));
    assert_eq!((level, refresh), (Tier::Transactional, Some(1)));
    assert_eq!(grant.expires_at - grant.issued_at, 600);

    let again = ask(&mut world, Wish::RedeemCode(redeem_of("c-x"))).unwrap();
    assert_eq!(types(&again), ["consent_revoked"], "whoever has a copy of the code ends what it gave");
    assert!(matches!(fulfilled(&again), Fulfilled::Refused(_)));
    let third = ask(&mut world, Wish::RedeemCode(redeem_of("c-x")));
    assert_eq!(third.unwrap_err(), Rejection::CodeUnknown);
    let refreshed = ask(&mut world, Wish::Refresh(refresh_of("c-x", 1)));
    assert_eq!(refreshed.unwrap_err(), Rejection::RefreshUnknown);
}

#[test]
fn a_code_is_good_for_its_client_place_and_verifier_and_for_a_minute() {
    let mut world = example();
    world
        .apply(&document(
            "Client",
            "other",
            &format!("{{agent: {AGENT}, auth: none, redirect_uris: [\"{REDIRECT}\"]}}"),
        ))
        .unwrap();
    allow(&mut world, "c-x");
    for wrong in [
        RedeemCode { client: "other".into(), ..redeem_of("c-x") },
        RedeemCode { consent: "c-y".into(), ..redeem_of("c-x") },
        RedeemCode { challenge: CHALLENGE.replace('E', "F"), ..redeem_of("c-x") },
        RedeemCode { redirect_uri: Some("http://127.0.0.1:3001/cb".into()), ..redeem_of("c-x") },
        RedeemCode { virtual_server: Some("other".into()), ..redeem_of("c-x") },
    ] {
        let refused = ask(&mut world, Wish::RedeemCode(wrong.clone())).unwrap_err();
        assert_eq!(refused, Rejection::CodeUnknown, "{wrong:?}");
    }
    world.seconds += CODE_SECONDS - 1;
    let bare = RedeemCode { redirect_uri: None, virtual_server: None, ..redeem_of("c-x") };
    ask(&mut world, Wish::RedeemCode(bare)).unwrap();
    allow(&mut world, "c-z");
    world.seconds += CODE_SECONDS;
    let late = ask(&mut world, Wish::RedeemCode(redeem_of("c-z")));
    assert_eq!(late.unwrap_err(), Rejection::CodeUnknown);
}

#[test]
fn an_answer_that_is_sent_twice_grants_once() {
    let mut world = example();
    allow(&mut world, "c-x");
    let again = ask(&mut world, Wish::GrantConsent(grant_of("c-x")));
    assert_eq!(again.unwrap_err(), Rejection::AnsweredBefore);
    assert_eq!(world.state.consents.len(), 1);
}

#[test]
fn people_allow_no_more_than_there_is() {
    let mut world = example();
    let refused = |world: &mut World, wish: GrantConsent| ask(world, Wish::GrantConsent(wish)).unwrap_err();
    let listed = |tools: &[&str]| tools.iter().map(|tool| (*tool).to_owned()).collect::<BTreeSet<_>>();
    world.apply(&agent(", ceiling: retrieval").replace("ceiling: destructive, ", "")).unwrap();
    let above = refused(&mut world, grant_of("c-1"));
    assert!(matches!(above, Rejection::LevelAboveCeiling { .. }), "{above}");
    world.apply(&agent("")).unwrap();
    for tools in [listed(&["finance/none"]), listed(&["other/query_data"]), listed(&["query_data"]), listed(&["/"])] {
        let unknown = refused(&mut world, GrantConsent { tools: tools.clone(), ..grant_of("c-1") });
        assert!(matches!(unknown, Rejection::ToolUnknown { .. }), "{tools:?}: {unknown}");
    }
    let long: BTreeSet<String> = (0..200).map(|number| format!("finance/{number:0>120}")).collect();
    let huge = refused(&mut world, GrantConsent { tools: long, ..grant_of("c-1") });
    assert!(matches!(huge, Rejection::Malformed { .. }), "a record of the ledger has no room for it: {huge}");
    // A tool above the level is not part of what is allowed.
    let low = GrantConsent { tools: listed(&["finance/transfer"]), level: Tier::Retrieval, ..grant_of("c-1") };
    assert!(matches!(refused(&mut world, low), Rejection::ToolUnknown { .. }));
    for lifetime_seconds in [0, 59, 30 * 86_400 + 1] {
        let wish = GrantConsent { lifetime_seconds, ..grant_of("c-1") };
        assert!(matches!(refused(&mut world, wish), Rejection::LifetimeOutOfBounds { .. }));
    }
    for wrong in [
        GrantConsent { challenge: "plain".into(), ..grant_of("c-1") },
        GrantConsent { redirect_uri: "javascript:alert(1)".into(), ..grant_of("c-1") },
        GrantConsent { consent: "c.1".into(), ..grant_of("c-1") },
        GrantConsent { consent: "c~1".into(), ..grant_of("c-1") },
        GrantConsent { reason: "a\u{7}".into(), ..grant_of("c-1") },
    ] {
        assert!(matches!(refused(&mut world, wrong.clone()), Rejection::Malformed { .. }), "{wrong:?}");
    }
    let provider = refused(&mut world, GrantConsent { provider: "acme".into(), ..grant_of("c-1") });
    assert!(matches!(provider, Rejection::Inactive(_)), "{provider}");
    assert!(world.state.consents.is_empty());
}

#[test]
fn a_consent_lists_tools_and_data_planes_that_know_no_lists_leave_it_out() {
    use bailiwick_proto::v1::{self, resource::Resource};
    use prost::Message as _;
    let mut world = example();
    let tools: BTreeSet<String> = ["finance/query_data".to_owned()].into();
    ask(&mut world, Wish::GrantConsent(GrantConsent { tools, ..grant_of("c-x") })).unwrap();
    let bytes = world.entries.get("consent/c-x").unwrap();
    let Some(Resource::Consent(entry)) = v1::Resource::decode(bytes).unwrap().resource else { panic!("no consent") };
    assert_eq!((entry.level.as_str(), entry.listed_level.as_str()), ("", "transactional"));
    assert_eq!(entry.tools, ["finance/query_data"]);
}

#[test]
fn one_person_does_not_take_everybodys_room() {
    let mut world = example();
    allow(&mut world, "c-x");
    let mut state = world.state.clone();
    let one = state.consents.get("c-x").unwrap().clone();
    for number in 1..KEPT_OF_ONE_MAX {
        state.consents.insert(format!("c-x{number}"), one.clone());
    }
    let mut asked = |state: &State, seconds| {
        world.seconds += seconds;
        decide(state, Command::Wish(Wish::GrantConsent(grant_of("c-more"))), &world.context())
    };
    let more = asked(&state, 0).unwrap_err();
    assert!(matches!(more, Rejection::TooMany { .. }), "{more}");
    assert!(asked(&state, 3_600).is_err(), "what has ended is kept for a while");
    asked(&state, ENDED_CONSENT_KEPT_SECONDS + 1).unwrap();
}

#[test]
fn a_full_house_makes_room_as_consents_end() {
    let mut world = example();
    allow(&mut world, "c-x");
    let mut state = world.state.clone();
    let one = state.consents.get("c-x").unwrap().clone();
    for number in 1..CONSENTS_MAX {
        let mut other = one.clone();
        other.granted.user = format!("user-{number}");
        state.consents.insert(format!("c-x{number}"), other);
        state.consent_expiries.insert((one.granted.expires_at, format!("c-x{number}")), ());
    }
    let mut asked = |seconds| {
        world.seconds += seconds;
        decide(&state, Command::Wish(Wish::GrantConsent(grant_of("c-more"))), &world.context())
    };
    assert!(matches!(asked(0).unwrap_err(), Rejection::TooMany { .. }));
    asked(3_600 + ENDED_CONSENT_KEPT_SECONDS + 1).unwrap();
}

#[test]
fn a_used_code_ends_its_consent_only_for_whom_it_was_made() {
    let mut world = redeemed();
    let found = RedeemCode { challenge: CHALLENGE.replace('E', "F"), ..redeem_of("c-x") };
    assert_eq!(ask(&mut world, Wish::RedeemCode(found)).unwrap_err(), Rejection::CodeUnknown);
    assert!(world.state.consents.get("c-x").unwrap().revoked.is_none(), "it stood in some log");
}

#[test]
fn what_a_client_gave_up_is_taken_away_from_it_all_the_same() {
    let mut world = redeemed();
    ask(&mut world, Wish::GiveUp(GiveUp { client: CLIENT.into(), consent: "c-x".into() })).unwrap();
    for target in [Target::Consent("c-x".into()), Target::Client(CLIENT.into())] {
        let revoke = Command::Revoke(Revoke { target, reason: "leaked".into() });
        let context = world.context();
        let decision = decide(&world.state, revoke, &context).unwrap();
        assert_eq!(types(&decision), ["consent_revoked"]);
    }
}

#[test]
fn a_refresh_token_is_good_once_and_an_old_one_ends_the_consent() {
    let mut world = redeemed();
    for generation in 1..4 {
        world.seconds += 60;
        let decision = ask(&mut world, Wish::Refresh(refresh_of("c-x", generation))).unwrap();
        assert_eq!(types(&decision), ["token_refreshed"]);
        assert_eq!(token(&decision).refresh, Some(generation + 1));
    }
    let other = Refresh { client: "other".into(), ..refresh_of("c-x", 4) };
    assert_eq!(ask(&mut world, Wish::Refresh(other)).unwrap_err(), Rejection::RefreshUnknown);
    let later = ask(&mut world, Wish::Refresh(refresh_of("c-x", 5)));
    assert_eq!(later.unwrap_err(), Rejection::RefreshUnknown, "of a state that a backup undid");
    world.seconds += GRACE_SECONDS;
    let stolen = ask(&mut world, Wish::Refresh(refresh_of("c-x", 3))).unwrap();
    assert_eq!(types(&stolen), ["consent_revoked"]);
    assert!(matches!(fulfilled(&stolen), Fulfilled::Refused(_)));
    let present = ask(&mut world, Wish::Refresh(refresh_of("c-x", 4)));
    assert_eq!(present.unwrap_err(), Rejection::RefreshUnknown, "nobody goes on");
}

#[test]
fn a_client_whose_answer_was_lost_gets_the_present_generation_once_more_for_a_moment() {
    let mut world = redeemed();
    world.seconds += 60;
    let first = ask(&mut world, Wish::Refresh(refresh_of("c-x", 1))).unwrap();
    for _ in 0..3 {
        world.seconds += GRACE_SECONDS / 5;
        let again = ask(&mut world, Wish::Refresh(refresh_of("c-x", 1))).unwrap();
        assert_eq!(token(&again).refresh, token(&first).refresh);
        assert_ne!(token(&again).grant.jti, token(&first).grant.jti);
    }
    // What is given again does not make the moment longer.
    world.seconds += GRACE_SECONDS / 2;
    let late = ask(&mut world, Wish::Refresh(refresh_of("c-x", 1))).unwrap();
    assert_eq!(types(&late), ["consent_revoked"]);
}

#[test]
fn nobody_gets_the_next_token_who_may_not_act_any_more() {
    type Change = fn(&mut World);
    let changes: [(&str, Change); 5] = [
        ("user", |world| drop(world.apply(&document("User", USER, "{active: false}")).unwrap())),
        ("agent", |world| drop(world.apply(&agent(", active: false")).unwrap())),
        ("client", |world| drop(world.apply(&client(", active: false")).unwrap())),
        ("gone", |world| drop(world.delete(&[(Kind::Client, CLIENT)]).unwrap())),
        ("time", |world| world.seconds += 3_600),
    ];
    for (what, change) in changes {
        let mut world = redeemed();
        change(&mut world);
        assert!(ask(&mut world, Wish::Refresh(refresh_of("c-x", 1))).is_err(), "{what}");
    }
    // A lower ceiling lowers the next token.
    let mut world = redeemed();
    world.apply(&agent(", ceiling: retrieval").replace("ceiling: destructive, ", "")).unwrap();
    let lower = ask(&mut world, Wish::Refresh(refresh_of("c-x", 1))).unwrap();
    assert_eq!(token(&lower).level, Tier::Retrieval);
}

#[test]
fn consents_are_given_up_by_their_client_and_taken_back_by_their_person_alone() {
    let mut world = redeemed();
    allow(&mut world, "c-y");
    let give_up = |client: &str| Wish::GiveUp(GiveUp { client: client.into(), consent: "c-x".into() });
    assert_eq!(fulfilled(&ask(&mut world, give_up("other")).unwrap()), &Fulfilled::Ended(0));
    let own = ask(&mut world, give_up(CLIENT)).unwrap();
    assert_eq!((types(&own), fulfilled(&own)), (vec!["consent_revoked"], &Fulfilled::Ended(1)));
    assert_eq!(fulfilled(&ask(&mut world, give_up(CLIENT)).unwrap()), &Fulfilled::Ended(0));

    let consents: BTreeSet<String> = ["c-x", "c-y", "c-none"].map(str::to_owned).into();
    let take_back = |user: &str| {
        Wish::TakeBack(TakeBack { user: user.into(), consents: consents.clone(), reason: "not needed".into() })
    };
    assert_eq!(fulfilled(&ask(&mut world, take_back("max@example.com")).unwrap()), &Fulfilled::Ended(0));
    assert_eq!(
        fulfilled(&ask(&mut world, take_back(USER)).unwrap()),
        &Fulfilled::Ended(2),
        "also what was given up: it is held"
    );
    assert!(world.state.consents.values().all(|consent| consent.revoked.is_some()));
}

fn registration(name: &str) -> RegisterClient {
    let spec = ClientSpec {
        title: Some("Some editor".into()),
        agent: None,
        auth: ClientAuth::None,
        redirect_uris: [REDIRECT.to_owned()].into(),
        secret_sha256: None,
        jwks: None,
        ceiling: None,
        headless: None,
        exchange: None,
        workload: None,
        certificate: None,
        binding: None,
        self_registered: true,
        active: true,
    };
    RegisterClient { name: name.into(), spec }
}

#[test]
fn a_client_that_registered_itself_acts_as_agents_that_take_it() {
    let mut world = example();
    ask(&mut world, Wish::RegisterClient(registration("r-1"))).unwrap();
    assert_eq!(agents_of(&world.state, "r-1"), Vec::<String>::new());
    let wish = || Wish::GrantConsent(GrantConsent { client: "r-1".into(), ..grant_of("c-r") });
    assert!(matches!(ask(&mut world, wish()).unwrap_err(), Rejection::NotItsAgent { .. }));
    world.apply(&agent(", clients: {self_registered: true}")).unwrap();
    assert_eq!(agents_of(&world.state, "r-1"), [AGENT]);
    ask(&mut world, wish()).unwrap();

    let same = ask(&mut world, Wish::RegisterClient(registration("r-1")));
    assert!(same.is_err(), "nobody takes another's name");
    let owned = RegisterClient {
        spec: ClientSpec { agent: Some(AGENT.into()), ..registration("r-2").spec },
        ..registration("r-2")
    };
    assert!(ask(&mut world, Wish::RegisterClient(owned)).is_err(), "nobody chooses an agent for themselves");
    let plain = RegisterClient {
        spec: ClientSpec { self_registered: false, ..registration("r-2").spec },
        ..registration("r-2")
    };
    assert!(ask(&mut world, Wish::RegisterClient(plain)).is_err());
}

#[test]
fn clients_that_nobody_consented_to_make_room_after_an_hour() {
    let mut world = example();
    world.apply(&agent(", clients: {self_registered: true}")).unwrap();
    ask(&mut world, Wish::RegisterClient(registration("r-0"))).unwrap();
    let one = world.state.clients.get("r-0").unwrap().clone();
    for number in 1..SELF_REGISTERED_MAX {
        world.state.clients.insert(format!("r-{number}"), one.clone());
    }
    let used = GrantConsent { client: "r-0".into(), ..grant_of("c-r") };
    ask(&mut world, Wish::GrantConsent(used)).unwrap();
    let full = ask(&mut world, Wish::RegisterClient(registration("r-more"))).unwrap_err();
    assert!(matches!(full, Rejection::TooMany { .. }), "{full}");
    world.seconds += 3_601;
    ask(&mut world, Wish::RegisterClient(registration("r-more"))).unwrap();
    assert!(world.state.clients.contains_key("r-0") && world.state.clients.contains_key("r-more"));
    assert!(!world.state.clients.contains_key("r-1"));
}

#[test]
fn a_client_that_a_document_describes_acts_as_agents_that_name_it() {
    let url = "https://editor.example/client.json";
    let mut world = example();
    let wish = || Wish::GrantConsent(GrantConsent { client: url.into(), ..grant_of("c-d") });
    assert!(ask(&mut world, wish()).is_err());
    world.apply(&agent(&format!(", clients: {{described_at: [\"{url}\"]}}"))).unwrap();
    assert_eq!(agents_of(&world.state, url), [AGENT]);
    ask(&mut world, wish()).unwrap();
    for bad in
        ["https://editor.example/", "http://editor.example/c", "https://editor.example/a/../c", "https://u@e.example/c"]
    {
        assert!(world.apply(&agent(&format!(", clients: {{described_at: [\"{bad}\"]}}"))).is_err(), "{bad}");
    }
}

fn set(world: &mut World, state: AgentState) -> Result<Decision, Rejection> {
    let wish = SetAgentState { agent: AGENT.into(), state, reason: "because".into() };
    world.run(Command::SetAgentState(wish))
}

#[test]
fn a_paused_agent_goes_on_where_it_was_and_a_retired_one_never() {
    let mut world = redeemed();
    let shown = |world: &World| world.show(Kind::Agent, AGENT)["status"]["state"].as_str().unwrap().to_owned();
    set(&mut world, AgentState::Paused).unwrap();
    assert_eq!(shown(&world), "paused");
    let paused = ask(&mut world, Wish::Refresh(refresh_of("c-x", 1))).unwrap_err();
    assert!(matches!(paused, Rejection::Inactive(_)), "{paused}");
    assert!(world.run(Command::IssueToken(crate::world::wish())).is_err());
    assert!(set(&mut world, AgentState::Paused).unwrap().events.is_empty(), "it is so already");
    set(&mut world, AgentState::Active).unwrap();
    assert_eq!(shown(&world), "active");
    ask(&mut world, Wish::Refresh(refresh_of("c-x", 1))).unwrap();
    set(&mut world, AgentState::Retired).unwrap();
    let again = set(&mut world, AgentState::Active).unwrap_err();
    assert!(matches!(again, Rejection::Retired { .. }), "{again}");
    let Err(Rejection::Invalid(problems)) = world.apply(&agent("")) else { panic!("a manifest brings it back") };
    assert!(problems[0].message.contains("for ever"), "{problems:?}");
    world.apply(&agent(", state: retired")).unwrap();
}

#[test]
fn data_planes_see_an_agent_act_only_while_it_does() {
    use bailiwick_proto::v1::{self, resource::Resource};
    use prost::Message as _;
    let acts = |world: &World| match v1::Resource::decode(world.entries.get(&format!("agent/{AGENT}")).unwrap()) {
        Ok(v1::Resource { resource: Some(Resource::Agent(agent)) }) => agent.active,
        other => panic!("{other:?}"),
    };
    let mut world = example();
    for (state, expected) in [("requested", false), ("active", true), ("paused", false), ("retired", false)] {
        world.apply(&agent(&format!(", state: {state}"))).unwrap();
        assert_eq!(acts(&world), expected, "{state}");
    }
}

#[test]
fn an_agent_that_nobody_has_looked_at_again_gets_no_tokens() {
    let mut world = redeemed();
    world.apply(&agent(", review_by: \"2026-11-21\"")).unwrap();
    ask(&mut world, Wish::Refresh(refresh_of("c-x", 1))).unwrap();
    world.apply(&agent(", review_by: \"2026-11-20\"")).unwrap();
    let due = ask(&mut world, Wish::Refresh(refresh_of("c-x", 2))).unwrap_err();
    assert!(matches!(due, Rejection::ReviewDue { .. }), "{due}");
    assert!(ask(&mut world, Wish::GrantConsent(grant_of("c-z"))).is_err());
    assert!(world.run(Command::IssueToken(crate::world::wish())).is_err());
    let conditions = world.show(Kind::Agent, AGENT)["status"]["conditions"].to_string();
    assert!(conditions.contains("review_due"), "{conditions}");
    for bad in ["tomorrow", "2026-13-01", "2026-1-1", "20261101"] {
        assert!(world.apply(&agent(&format!(", review_by: \"{bad}\""))).is_err(), "{bad}");
    }
}

//! Signals: what each has for an effect, that it has it once, and what it cannot do.

mod groups;
mod memory;

use std::collections::BTreeSet;

use bailiwick_control_plane_core::{
    Answer, Change, Command, Context, Decision, Fulfilled, Kind, Rejection, Spec, Wish,
    assertion::{Use, UseAssertion},
    decide, evolve, recorded,
    resource::{SignalEffect, SignalKind},
    revocation::{REVOKED_AT_ONCE_MAX, Revoke, Revoked, Target, sessions},
    sign_in::SignIn,
    signal::{Delivery, SignalOutcome, TakeSignal, Taken, clip},
};
use bailiwick_proto::Tier;
use serde_json::json;

use crate::world::{EXAMPLE, START_MICROS, World, document, lines, parse, types, wish};

const JANE: &str = "jane@example.com";
const HASH: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
const START: u64 = START_MICROS / 1_000_000;

fn provider(signals: &str) -> String {
    let people = "people: {user: email, groups: {claim: groups}}, assertions: {virtual_servers: [finance]}, \
                  sign_in: {client_id: gateway, auth: none}";
    let issuer = "issuer: \"https://acme.example\"";
    document("IdentityProvider", "acme", &format!("{{{issuer}, {people}, signals: {{{signals}}}}}"))
}

fn pushed(more: &str) -> String {
    format!("audience: \"https://gw.example\", push: {{secrets_sha256: [{HASH}]}}{more}")
}

fn example_with(more: &str) -> World {
    let mut world = World::example();
    world.apply(&provider(&pushed(more))).unwrap();
    // What comes later is not granted in the second in which something happens.
    world.seconds = 10_000;
    world
}

fn example() -> World {
    example_with("")
}

/// The signal of this number, about Jane, of something that happens now.
fn signal(world: &World, number: u64, event: SignalKind) -> TakeSignal {
    let now = START + world.seconds;
    TakeSignal {
        provider: "acme".into(),
        delivery: Delivery::Push,
        used: Use { key: format!("{number:064x}"), until: now + 7 * 24 * 3_600 },
        jti: format!("jti-{number}"),
        event,
        subject: format!("email {JANE}"),
        user: (!event.is_of_stream()).then(|| JANE.into()),
        happened_at: now,
        is_worse: true,
        groups: None,
        claims: BTreeSet::new(),
        reason: "signed out everywhere".into(),
        state: String::new(),
    }
}

fn take(world: &mut World, wish: TakeSignal) -> Result<Decision, Rejection> {
    let context = Context { request_id: String::new(), actor: "identity-provider:acme".into(), ..world.context() };
    world.run_as(Command::Wish(Wish::TakeSignal(wish)), &context)
}

fn taken(decision: &Decision) -> Taken {
    let Answer::Fulfilled(Fulfilled::Signal(taken)) = decision.answer else { panic!("{:?}", decision.answer) };
    taken
}

fn outcome(decision: &Decision) -> SignalOutcome {
    taken(decision).outcome
}

fn token(world: &mut World) -> String {
    let Answer::Granted(grant) = world.run(Command::IssueToken(wish())).unwrap().answer else { panic!("no grant") };
    grant.consent
}

fn is_live(world: &World, consent: &str) -> bool {
    world.show(Kind::Consent, consent)["status"]["state"] == "live"
}

/// One change of every kind that signals lead to.
pub(crate) fn one_of_each(world: &mut World) {
    world.apply(EXAMPLE).unwrap();
    world
        .apply(&provider(&pushed(", events: {session-revoked: end_sessions, token-claims-change: update_groups}")))
        .unwrap();
    token(world);
    let now = START + world.seconds;
    let first = TakeSignal { delivery: Delivery::Poll, ..signal(world, 1, SignalKind::SessionRevoked) };
    take(world, first).unwrap();
    let groups = Some(BTreeSet::from(["finance".to_owned(), "audit".to_owned()]));
    let claims = BTreeSet::from(["department".to_owned()]);
    let moved = TakeSignal { groups, claims, is_worse: false, ..signal(world, 2, SignalKind::TokenClaimsChange) };
    take(world, moved).unwrap();
    let unknown = TakeSignal {
        user: Some("nobody@example.com".into()),
        happened_at: now - 5,
        ..signal(world, 3, SignalKind::SessionRevoked)
    };
    take(world, unknown).unwrap();
    let revoke = Revoke { target: Target::UserSessions(JANE.into()), reason: "lost a laptop".into() };
    world.seconds += 10;
    world.run(Command::Revoke(revoke)).unwrap();
}

#[test]
fn each_signal_has_the_effect_that_the_manifest_says() {
    use SignalKind::*;
    use SignalOutcome::*;
    let all = "events: {session-revoked: record, assurance-level-change: end_sessions, session-established: record, \
               risk-level-change: end_sessions, account-disabled: end_sessions}";
    for (more, event, is_worse, expected, live) in [
        ("", SessionRevoked, true, SessionsEnded, false),
        ("", CredentialChange, true, SessionsEnded, false),
        ("", CredentialChange, false, Recorded, true),
        ("", CredentialCompromise, true, SessionsEnded, false),
        ("", DeviceComplianceChange, true, SessionsEnded, false),
        ("", DeviceComplianceChange, false, Recorded, true),
        ("", AssuranceLevelChange, true, Recorded, true),
        ("", RiskLevelChange, true, Recorded, true),
        ("", TokenClaimsChange, false, Recorded, true),
        ("", TokenClaimsChange, true, SessionsEnded, false),
        ("", AccountDisabled, true, Deactivated, false),
        ("", AccountPurged, true, Deactivated, false),
        ("", AccountEnabled, true, Ignored, true),
        ("", SessionEstablished, true, Ignored, true),
        ("", SessionPresented, true, Ignored, true),
        ("", Verification, true, Recorded, true),
        ("", StreamUpdated, true, Recorded, true),
        (all, SessionRevoked, true, Recorded, true),
        (all, CredentialChange, true, Ignored, true),
        (all, AssuranceLevelChange, true, SessionsEnded, false),
        (all, AssuranceLevelChange, false, Recorded, true),
        (all, RiskLevelChange, true, SessionsEnded, false),
        (all, SessionEstablished, true, Recorded, true),
        (all, AccountDisabled, true, SessionsEnded, false),
        (all, Verification, true, Recorded, true),
    ] {
        let mut world = example_with(&if more.is_empty() { String::new() } else { format!(", {more}") });
        let consent = token(&mut world);
        let wish = TakeSignal { is_worse, ..signal(&world, 1, event) };
        let decision = take(&mut world, wish).unwrap();
        assert_eq!(outcome(&decision), expected, "{event:?} of {more}");
        assert_eq!(is_live(&world, &consent), live, "{event:?} of {more}");
        assert_eq!(world.state.users.get(JANE).unwrap().spec.active, expected != Deactivated, "{event:?}");
        match (expected, types(&decision).first()) {
            (Ignored, first) => assert_eq!(first, None),
            (_, first) => assert_eq!(first, Some(&"signal_received"), "{event:?}"),
        }
        if let Some(Change::SignalReceived(received)) = decision.events.first().map(|event| &event.change) {
            assert_eq!((received.transmitter.as_str(), received.jti.as_str()), ("https://acme.example", "jti-1"));
            assert_eq!((received.outcome, received.user.is_empty()), (expected, event.is_of_stream()));
            let recorded = recorded(&decision.events[0], 9).unwrap();
            assert_eq!(
                (&recorded["event"], &recorded["happened_at"]),
                (&json!(event.as_str()), &json!((START + 10_000).to_string()))
            );
        }
    }
}

#[test]
fn a_signal_counts_once_and_what_comes_after_it_stays() {
    let mut world = example();
    let before = token(&mut world);
    let first = signal(&world, 1, SignalKind::SessionRevoked);
    assert_eq!(outcome(&take(&mut world, first.clone()).unwrap()), SignalOutcome::SessionsEnded);
    assert!(!is_live(&world, &before));
    // In the very second in which it was taken.
    let after = token(&mut world);
    for delivery in [Delivery::Push, Delivery::Poll] {
        let again = take(&mut world, TakeSignal { delivery, ..first.clone() }).unwrap();
        assert_eq!((taken(&again), types(&again)), (Taken { outcome: SignalOutcome::Repeated, more: false }, vec![]));
    }
    assert!(is_live(&world, &after));
    // It is forgotten once it would be too old to be taken at all.
    world.seconds += 7 * 24 * 3_600 + 601;
    let other = signal(&world, 2, SignalKind::Verification);
    take(&mut world, other).unwrap();
    assert_eq!(outcome(&take(&mut world, first).unwrap()), SignalOutcome::SessionsEnded);
}

#[test]
fn what_was_granted_after_the_event_stays() {
    let mut world = example();
    let before = token(&mut world);
    world.seconds += 120;
    let after = token(&mut world);
    let late = TakeSignal { happened_at: START + 10_000, ..signal(&world, 1, SignalKind::SessionRevoked) };
    let decision = take(&mut world, late).unwrap();
    assert_eq!(types(&decision), ["signal_received", "sessions_ended", "consent_revoked"]);
    assert_eq!((is_live(&world, &before), is_live(&world, &after)), (false, true));
    // One from the future, or from a clock that counts in milliseconds, ends what there is now and nothing later.
    let future = TakeSignal { happened_at: (START + 10_000) * 1_000, ..signal(&world, 2, SignalKind::SessionRevoked) };
    take(&mut world, future.clone()).unwrap();
    assert!(!is_live(&world, &after));
    world.seconds += 5;
    let later = token(&mut world);
    assert_eq!(outcome(&take(&mut world, future).unwrap()), SignalOutcome::Repeated);
    assert!(is_live(&world, &later));
}

#[test]
fn whoever_is_not_known_is_recorded_and_nobody_else_is_touched() {
    let mut world = example();
    let consent = token(&mut world);
    for (number, user) in [(1, Some("nobody@example.com")), (2, None)] {
        let wish = TakeSignal { user: user.map(str::to_owned), ..signal(&world, number, SignalKind::AccountPurged) };
        let decision = take(&mut world, wish).unwrap();
        assert_eq!((outcome(&decision), types(&decision)), (SignalOutcome::SubjectUnknown, vec!["signal_received"]));
    }
    assert!(is_live(&world, &consent));
    // The case of an address does not save anybody.
    let other = TakeSignal { user: Some("Jane@Example.COM".into()), ..signal(&world, 3, SignalKind::SessionRevoked) };
    assert_eq!(outcome(&take(&mut world, other).unwrap()), SignalOutcome::SessionsEnded);
    assert!(!is_live(&world, &consent));
}

#[test]
fn groups_change_at_once_and_with_them_the_browsers_session() {
    let mut world = example();
    let since = world.state.revision;
    assert!(sessions::counts(&world.state, JANE, since));
    let moved = |world: &World, number, groups: &[&str]| TakeSignal {
        groups: Some(groups.iter().map(ToString::to_string).collect()),
        is_worse: false,
        ..signal(world, number, SignalKind::TokenClaimsChange)
    };
    let same = moved(&world, 1, &["finance"]);
    assert_eq!(outcome(&take(&mut world, same).unwrap()), SignalOutcome::GroupsUnchanged);
    assert!(sessions::counts(&world.state, JANE, since));
    let other = moved(&world, 2, &["audit"]);
    let decision = take(&mut world, other).unwrap();
    assert_eq!(types(&decision), ["signal_received", "user_applied"]);
    assert_eq!(outcome(&decision), SignalOutcome::GroupsChanged);
    assert!(world.state.users.get(JANE).unwrap().spec.groups.iter().eq(["audit"]));
    assert!(!sessions::counts(&world.state, JANE, since));
}

#[test]
fn a_persons_thousands_of_consents_end_in_several_changes_and_a_repetition_goes_on() {
    let mut world = example();
    // As a world of so many would be checked whole after each.
    let mut state = world.state.clone();
    let mut run = |world: &mut World, command: Command| {
        let context = Context { request_id: String::new(), ..world.context() };
        let decision = decide(&state, command, &context).unwrap();
        let revision = state.revision + 1;
        decision.events.iter().for_each(|event| evolve(&mut state, event, revision));
        decision
    };
    for _ in 0..REVOKED_AT_ONCE_MAX + 7 {
        run(&mut world, Command::IssueToken(wish()));
    }
    let signal = signal(&world, 1, SignalKind::SessionRevoked);
    let take = || Command::Wish(Wish::TakeSignal(signal.clone()));
    let first = run(&mut world, take());
    assert_eq!(taken(&first), Taken { outcome: SignalOutcome::SessionsEnded, more: true });
    assert_eq!(first.events.len(), REVOKED_AT_ONCE_MAX + 2);
    world.seconds += 1;
    run(&mut world, Command::IssueToken(wish()));
    let second = run(&mut world, take());
    assert_eq!(taken(&second), Taken { outcome: SignalOutcome::Repeated, more: false });
    assert_eq!((second.events.len(), types(&second)[0]), (7, "consent_revoked"));
    assert!(run(&mut world, take()).events.is_empty());
    assert_eq!(state.consents.values().filter(|one| one.revoked.is_none()).count(), 1);
}

#[test]
fn sessions_that_ended_hold_nobody_back_but_whose_word_is_older() {
    let mut world = example();
    let client = format!("{{agent: coding-assistant, auth: client_secret, secret_sha256: {HASH}}}");
    world.apply(&document("Client", "agent-at-gw", &client)).unwrap();
    let mut number = 100;
    let mut exchange = |world: &mut World, said_at: Option<u64>| {
        number += 1;
        let until = START + world.seconds + 300;
        let wish = UseAssertion {
            provider: "acme".into(),
            uses: vec![Use { key: format!("{number:064x}"), until }],
            said_at,
            user: JANE.into(),
            client: "agent-at-gw".into(),
            virtual_server: "finance".into(),
            granted: Tier::Transactional,
            wanted: Tier::Transactional,
        };
        let context = Context { request_id: String::new(), actor: "client:agent-at-gw".into(), ..world.context() };
        world.run_as(Command::Wish(Wish::UseAssertion(wish)), &context)
    };
    let sign_in = |world: &mut World, said_at: Option<u64>| {
        let (user, provider, session) = (JANE.to_owned(), "acme".to_owned(), "b-1".to_owned());
        let wish = SignIn { user, provider, groups: None, may_join: false, session, said_at };
        let context = Context { request_id: String::new(), ..world.context() };
        world.run_as(Command::Wish(Wish::SignIn(wish)), &context)
    };
    let happened = START + world.seconds;
    exchange(&mut world, Some(happened)).unwrap();
    sign_in(&mut world, Some(happened)).unwrap();
    let since = world.state.revision;
    let wish = signal(&world, 1, SignalKind::SessionRevoked);
    take(&mut world, wish).unwrap();
    assert!(!sessions::counts(&world.state, JANE, since));
    world.seconds += 20;
    for said_at in [Some(happened), Some(happened - 1), None] {
        assert!(matches!(exchange(&mut world, said_at), Err(Rejection::SessionsEnded(_))), "{said_at:?}");
        assert!(matches!(sign_in(&mut world, said_at), Err(Rejection::SessionsEnded(_))), "{said_at:?}");
    }
    exchange(&mut world, Some(happened + 1)).unwrap();
    sign_in(&mut world, Some(happened + 1)).unwrap();
    assert!(sessions::counts(&world.state, JANE, world.state.revision));
    // An administrator's revocation holds, also of what had ended with a session.
    world.run(Command::Revoke(Revoke { target: Target::Client("agent-at-gw".into()), reason: "gone".into() })).unwrap();
    assert!(matches!(exchange(&mut world, Some(happened + 5)), Err(Rejection::ConsentHeld { .. })));
}

#[test]
fn a_leaver_who_comes_back_is_not_deactivated_by_the_same_signal() {
    let mut world = example();
    let wish = signal(&world, 1, SignalKind::AccountDisabled);
    take(&mut world, wish.clone()).unwrap();
    assert!(!world.state.users.get(JANE).unwrap().spec.active);
    world.seconds += 60;
    world.apply(&document("User", JANE, "{groups: [finance]}")).unwrap();
    world.apply(EXAMPLE).unwrap();
    let consent = token(&mut world);
    assert_eq!(outcome(&take(&mut world, wish).unwrap()), SignalOutcome::Repeated);
    assert!(world.state.users.get(JANE).unwrap().spec.active && is_live(&world, &consent));
}

#[test]
fn administrators_end_sessions_without_deactivating() {
    let mut world = example();
    let consent = token(&mut world);
    let since = world.state.revision;
    let revoke = || {
        Command::Revoke(Revoke {
            target: Target::from_words("user-sessions", JANE.into()).unwrap(),
            reason: "lost".into(),
        })
    };
    let decision = world.run(revoke()).unwrap();
    assert_eq!(types(&decision), ["sessions_ended", "consent_revoked"]);
    let Answer::Revoked(Revoked { changes, more, since: None }) = decision.answer else { panic!("{decision:?}") };
    let shown: Vec<_> = changes.iter().map(|one| format!("{} {}", one.action.as_str(), one.resource)).collect();
    assert_eq!(
        (shown, more),
        (vec![format!("sessions ended User {JANE}"), format!("revoked Consent {consent}")], false)
    );
    assert!(!sessions::counts(&world.state, JANE, since) && world.state.users.get(JANE).unwrap().spec.active);
    // Somebody may have signed in since, within the same second.
    let at = world.state.revision;
    let again = world.run(revoke()).unwrap();
    assert_eq!(types(&again), ["sessions_ended"]);
    assert!(!sessions::counts(&world.state, JANE, at));
    let nobody = Command::Revoke(Revoke { target: Target::UserSessions("nobody".into()), reason: String::new() });
    assert!(matches!(world.run(nobody), Err(Rejection::NotFound(_))));
}

#[test]
fn only_a_provider_that_says_so_is_heard_and_only_what_is_bounded() {
    let mut world = example();
    let good = signal(&world, 1, SignalKind::SessionRevoked);
    let elsewhere = TakeSignal { provider: "other".into(), ..good.clone() };
    assert!(matches!(take(&mut world, elsewhere), Err(Rejection::Inactive(_))));
    for bad in [
        TakeSignal { used: Use { key: "x".into(), until: 1 }, ..good.clone() },
        TakeSignal { jti: "j".repeat(1_025), ..good.clone() },
        TakeSignal { subject: "a\nb".into(), ..good.clone() },
        TakeSignal { reason: "r".repeat(257), ..good.clone() },
        TakeSignal { user: Some("two words".into()), ..good.clone() },
        TakeSignal { groups: Some((0..300).map(|n| format!("g{n}")).collect()), ..good.clone() },
        TakeSignal { claims: (0..20).map(|n| format!("c{n}")).collect(), ..good.clone() },
    ] {
        assert!(matches!(take(&mut world, bad), Err(Rejection::Malformed { .. })));
    }
    world.apply(&document("IdentityProvider", "acme", "{issuer: \"https://acme.example\"}")).unwrap();
    assert!(matches!(take(&mut world, good.clone()), Err(Rejection::Inactive(_))));
    world.apply(&provider(&pushed(""))).unwrap();
    assert_eq!(outcome(&take(&mut world, good).unwrap()), SignalOutcome::SessionsEnded);
}

#[test]
fn the_longest_signal_fits_a_record_and_tells_what_came() {
    let mut world = example();
    let consent = token(&mut world);
    let wish = TakeSignal {
        jti: "𝄞".repeat(256),
        subject: "𝄞".repeat(64),
        claims: (0..16).map(|n| clip(&format!("{n:02}{}", "\"".repeat(300)), 256)).collect(),
        reason: "\\".repeat(256),
        ..signal(&world, 1, SignalKind::SessionRevoked)
    };
    let decision = take(&mut world, wish).unwrap();
    assert!(decision.events.iter().all(|event| recorded(event, u64::MAX).unwrap().to_string().len() < 31 * 1_024));
    let reason = world.show(Kind::Consent, &consent)["status"]["revoked_reason"].as_str().unwrap().to_owned();
    assert!(
        reason.starts_with("signal session-revoked of identity provider acme, 𝄞") && reason.len() <= 1_024,
        "{reason}"
    );
}

#[test]
fn what_a_manifest_leaves_out_is_what_is_usual() {
    let manifests = parse(&provider(&pushed(""))).unwrap();
    let Spec::IdentityProvider(spec) = &manifests[0].spec else { unreachable!() };
    let signals = spec.signals.as_ref().unwrap();
    assert_eq!((signals.issuer(&spec.issuer), signals.age_seconds_max()), ("https://acme.example", 7 * 24 * 3_600));
    assert_eq!(signals.effect_of(SignalKind::SessionRevoked), Some(SignalEffect::EndSessions));
    assert_eq!(
        serde_json::to_value(signals).unwrap(),
        json!({
            "audience": "https://gw.example", "algorithms": ["RS256", "ES256"], "push": {"secrets_sha256": [HASH]},
        })
    );
    for kind in SignalKind::ALL {
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
    }
    let caep = "https://schemas.openid.net/secevent/caep/event-type";
    let risc = "https://schemas.openid.net/secevent/risc/event-type";
    for (uri, kind) in [
        (format!("{caep}/session-revoked"), Some(SignalKind::SessionRevoked)),
        (format!("{risc}/sessions-revoked"), Some(SignalKind::SessionRevoked)),
        (format!("{risc}/account-disabled"), Some(SignalKind::AccountDisabled)),
        (format!("{caep}/account-disabled"), None),
        (format!("{caep}/session-revoked/"), None),
        ("https://schemas.openid.net/secevent/ssf/event-type/verification".into(), Some(SignalKind::Verification)),
        ("session-revoked".into(), None),
    ] {
        assert_eq!(SignalKind::of_uri(&uri), kind, "{uri}");
    }
}

#[test]
fn manifests_of_signals_are_checked() {
    let poll = "audience: a, poll: {url: \"https://acme.example/poll\", secret: acme-poll}";
    let cases = [
        ("push: {secrets_sha256: []}, audience: a".to_owned(), "spec.signals.push.secrets_sha256"),
        ("push: {secrets_sha256: [abc]}, audience: a".to_owned(), "spec.signals.push.secrets_sha256"),
        (format!("push: {{secrets_sha256: [{HASH}]}}"), "spec.signals.audience"),
        ("audience: a".to_owned(), "spec.signals"),
        (pushed(", issuer: \"http://acme.example\""), ""),
        (pushed(", jwks_url: \"http://acme.example/keys\""), "spec.signals.jwks_url"),
        (pushed(", algorithms: []"), "spec.signals.algorithms"),
        (pushed(", algorithms: [HS256]"), "spec.signals.algorithms"),
        (pushed(", age_max: \"31d\""), "spec.signals.age_max"),
        (pushed(", age_max: \"59s\""), "spec.signals.age_max"),
        (pushed(", age_max: \"24h\""), ""),
        (pushed(", events: {session-revoked: deactivate}"), "spec.signals.events.session-revoked"),
        (pushed(", events: {session-revoked: update_groups}"), "spec.signals.events.session-revoked"),
        (pushed(", events: {verification: record}"), "spec.signals.events.verification"),
        (pushed(", events: {something-else: record}"), "spec.signals.events"),
        (poll.replace("https://acme", "http://acme"), "spec.signals.poll.url"),
        (poll.replace("acme-poll", "Not A Name"), "spec.signals.poll.secret"),
        (poll.to_owned(), ""),
        ("audience: a, stream: {secret: acme-api}".to_owned(), ""),
        (pushed(", stream: {secret: acme-api, push_secret: acme-push}"), ""),
        (pushed(", stream: {secret: \"Not A Name\"}"), "spec.signals.stream.secret"),
        (pushed(", stream: {secret: acme-api, push_secret: \"\"}"), "spec.signals.stream.push_secret"),
        (format!("{poll}, stream: {{secret: acme-api, push_secret: acme-push}}"), "spec.signals.stream.push_secret"),
    ];
    for (signals, key) in cases {
        let found = match parse(&provider(&signals)) {
            Ok(_) => String::new(),
            Err(problems) => lines(&problems).join("\n"),
        };
        assert!(if key.is_empty() { found.is_empty() } else { found.contains(key) }, "{signals}: {found}");
    }
    let mut world = World::example();
    let Err(Rejection::Invalid(problems)) = world.apply(&provider(poll)) else { panic!("applied") };
    let found = lines(&problems).join("\n");
    let stream = "audience: a, stream: {secret: acme-api}";
    let Err(Rejection::Invalid(unsealed)) = world.apply(&provider(stream)) else { panic!("applied") };
    let unsealed = lines(&unsealed).join("\n");
    assert!(unsealed.contains("bailiwick secret set acme-api --for identity-provider"), "{unsealed}");
    assert!(found.contains("spec.signals.poll.secret") && found.contains("bailiwick secret set acme-poll"), "{found}");
}

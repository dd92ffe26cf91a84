//! What was handed on ends with what it came of, within what one change may hold, and never exceeds it.

use std::collections::BTreeSet;

use bailiwick_control_plane_core::{
    Event,
    consent::{ConsentGranted, ENDED_CONSENT_KEPT_SECONDS, TakeBack},
    evolve,
    handed_on::DESCENDANTS_MAX,
    refresh::Refresh,
    revocation::REVOKED_AT_ONCE_MAX,
    view,
};
use bailiwick_proto::{denial::narrows, v1::EntryChange};
use proptest::{collection::vec, prelude::*};

use super::*;

fn event(granted: ConsentGranted) -> Event {
    Event { actor: "a".into(), request_id: String::new(), time: START_MICROS, change: granted.into() }
}

#[test]
fn whatever_ends_a_consent_ends_all_that_came_of_it_in_the_same_change() {
    let endings: &[Case] = &[
        ("consent", |world| drop(revoke(world, Target::Consent(ROOT.into())))),
        ("session", |world| {
            let session = world.state.consents.get(ROOT).unwrap().token.as_ref().unwrap().session.clone();
            revoke(world, Target::Session(session));
        }),
        ("client", |world| drop(revoke(world, Target::Client("first-client".into())))),
        ("agent", |world| drop(revoke(world, Target::Agent("first".into())))),
        ("user", |world| drop(revoke(world, Target::User(USER.into())))),
        ("deletion", |world| drop(world.delete(&[(Kind::Consent, ROOT)]).unwrap())),
        ("deletion of the client", |world| drop(world.delete(&[(Kind::Client, "first-client")]).unwrap())),
        ("giving up", |world| {
            let wish = GiveUp { client: "first-client".into(), consent: ROOT.into() };
            let ended = ask(world, Wish::GiveUp(wish)).unwrap().answer;
            assert_eq!(ended, Answer::Fulfilled(Fulfilled::Ended(4)));
        }),
        ("taking back", |world| {
            let wish = TakeBack { user: USER.into(), consents: [ROOT.to_owned()].into(), reason: String::new() };
            let ended = ask(world, Wish::TakeBack(wish)).unwrap().answer;
            assert_eq!(ended, Answer::Fulfilled(Fulfilled::Ended(4)));
        }),
        ("a code that comes twice", |world| drop(ask(world, Wish::RedeemCode(redeem(ROOT))).unwrap())),
        ("a refresh token that comes twice", |world| {
            for _ in 0..2 {
                let (consent, client) = (ROOT.to_owned(), "first-client".to_owned());
                let wish = Refresh { consent, generation: 1, client, uses: vec![], wanted: None, virtual_server: None };
                ask(world, Wish::Refresh(wish)).unwrap();
                world.seconds += 60;
            }
        }),
    ];
    for (how, end) in endings {
        let (mut world, handed) = handed_on();
        let (before, entries) = (world.changes.len(), world.entries.clone());
        end(&mut world);
        let all: BTreeSet<String> = handed.iter().cloned().chain([ROOT.to_owned()]).collect();
        assert_eq!(revoked(&world), all, "{how}");
        let ending = world.changes[before..]
            .iter()
            .filter(|(_, events)| events.iter().any(|event| event.change.type_word() == "consent_revoked"));
        assert_eq!(ending.count(), 1, "{how}");
        for id in all {
            let key = format!("consent/{id}");
            let value = world.entries.get(&key).unwrap().to_vec();
            assert_ne!(entries.get(&key), Some(value.as_slice()), "{how}: {id}");
            assert!(narrows(&EntryChange { key, value: Some(value) }), "{how}: {id} travels as a denial");
        }
    }
}

#[test]
fn the_answer_to_a_revocation_names_what_ended_with_it_and_why() {
    let (mut world, handed) = handed_on();
    let taken = revoke(&mut world, Target::Consent(ROOT.into()));
    let expected = [ROOT.to_owned()].into_iter().chain(handed.clone());
    assert_eq!(taken, expected.map(|id| format!("revoked Consent {id}")).collect::<Vec<_>>());
    let why = |id: &str| world.show(Kind::Consent, id)["status"]["revoked_reason"].clone();
    assert_eq!(why(ROOT), "left");
    assert_eq!(why(&handed[1]), format!("it came of consent {}, which has ended", handed[0]));
    // The middle of a chain ends alone with what is below it.
    let (mut world, handed) = handed_on();
    revoke(&mut world, Target::Agent("second".into()));
    assert_eq!(revoked(&world), handed.into_iter().collect());
}

#[test]
fn a_revocation_stays_within_what_one_change_may_hold_and_comes_to_its_end() {
    let mut world = example();
    let mut ids: Vec<String> = (0..REVOKED_AT_ONCE_MAX / 2).map(|number| format!("c-many-{number:04}")).collect();
    let second = hand_on(&mut world, "second", ROOT);
    // As they would be after as many grants.
    let of = |world: &World, id: &str| world.state.consents.get(id).unwrap().clone();
    let (root, child) = (of(&world, ROOT), of(&world, &second));
    for id in &ids {
        let mut root = root.clone();
        root.granted.consent = id.clone();
        evolve(&mut world.state, &event(root.granted), 1);
        let mut child = child.clone();
        child.granted.consent = format!("{id}-child");
        child.granted.parent = Some(id.clone());
        evolve(&mut world.state, &event(child.granted), 1);
    }
    world.entries = view::entries(&world.state);
    ids.push(ROOT.into());
    let (mut rounds, mut ended) = (Vec::new(), 0);
    loop {
        let wish = Revoke { target: Target::Client("first-client".into()), reason: String::new() };
        let decision = world.run(Command::Revoke(wish)).unwrap();
        let Answer::Revoked(revoked) = decision.answer else { panic!("{:?}", decision.answer) };
        assert_eq!(revoked.changes.len(), decision.events.len());
        ended += decision.events.len();
        rounds.push(decision.events.len());
        if !revoked.more {
            break;
        }
    }
    assert_eq!((ended, rounds), (2 * ids.len(), vec![REVOKED_AT_ONCE_MAX, 2]));
}

#[test]
fn one_consent_is_not_handed_on_to_ever_more() {
    let mut world = example();
    let clients: String = (0..=DESCENDANTS_MAX)
        .map(|number| {
            let spec =
                format!("{{agent: second, auth: client_secret, secret_sha256: {HASH}, exchange: {{agents: [first]}}}}");
            document("Client", &format!("c{number}-client"), &spec)
        })
        .collect();
    world.apply(&clients).unwrap();
    for number in 0..DESCENDANTS_MAX {
        hand_on(&mut world, &format!("c{number}"), ROOT);
    }
    let more = exchange(&mut world, &format!("c{DESCENDANTS_MAX}"), ROOT).unwrap_err();
    assert!(matches!(more, Rejection::TooMany { max: DESCENDANTS_MAX, .. }), "{more}");
    exchange(&mut world, "c0", ROOT).unwrap();
    // Who has one gets the next, where less is granted now.
    let narrowed = format!(
        "{{agent: second, auth: client_secret, secret_sha256: {HASH}, exchange: {{agents: [first]}}, ceiling: retrieval}}"
    );
    world.apply(&document("Client", "c1-client", &narrowed)).unwrap();
    exchange(&mut world, "c1", ROOT).unwrap();
    let given_up = world.state.consents.iter().find(|(_, one)| one.granted.client == "c0-client").unwrap().0.clone();
    ask(&mut world, Wish::GiveUp(GiveUp { client: "c0-client".into(), consent: given_up })).unwrap();
    exchange(&mut world, &format!("c{DESCENDANTS_MAX}"), ROOT).unwrap();
}

#[test]
fn what_was_handed_on_is_forgotten_with_all_that_leads_to_it() {
    let (mut world, handed) = handed_on();
    assert_eq!(world.state.handed_on.len(), 3);
    world.seconds += ENDED_CONSENT_KEPT_SECONDS + 7_200;
    grant(&mut world, "c-later", Tier::Retrieval, &[]);
    assert!(handed.iter().all(|id| !world.state.consents.contains_key(id)));
    assert!(world.state.handed_on.is_empty() && !world.state.consents.contains_key(ROOT));
    assert_eq!(serde_json::to_value(&world.state.assertions).unwrap()["standing"], serde_json::json!({}));
}

#[derive(Clone, Debug)]
enum Step {
    Exchange { agent: usize, from: usize, shown: Tier, wanted: Option<Tier> },
    Ceiling(usize, Tier),
    Revoke(usize),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let tier = || prop::sample::select(Tier::ALL.to_vec());
    vec(
        prop_oneof![
            6 => (1_usize..5, 0_usize..8, tier(), prop::option::of(tier()))
                .prop_map(|(agent, from, shown, wanted)| Step::Exchange { agent, from, shown, wanted }),
            1 => (0_usize..5, tier()).prop_map(|(agent, tier)| Step::Ceiling(agent, tier)),
            1 => (1_usize..8).prop_map(Step::Revoke),
            1 => (1_u64..400).prop_map(Step::Wait),
        ],
        1..40,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn nothing_handed_on_exceeds_what_it_came_of_nor_outlives_it(steps in steps(), level in 0_usize..3) {
        const NAMES: [&str; 5] = ["first", "second", "third", "fourth", "fifth"];
        let mut world = example_with(Tier::ALL[level], &["finance/query_data"], "");
        let mut consents = vec![ROOT.to_owned()];
        for step in steps {
            match step {
                Step::Exchange { agent, from, shown, wanted } => {
                    let mut wish = wish(&world, NAMES[agent], &consents[from % consents.len()]);
                    wish.subject.level = shown.min(wish.subject.level);
                    let (subject, wish) = (wish.subject.clone(), ExchangeToken { wanted, ..wish });
                    let Ok(decision) = ask(&mut world, Wish::Exchange(wish)) else { continue };
                    let Exchanged { grant, level, .. } = token(&decision);
                    prop_assert!(*level <= subject.level && grant.expires_at <= subject.expires_at);
                    prop_assert!(wanted.is_none_or(|wanted| *level <= wanted));
                    if !consents.contains(&grant.consent) {
                        consents.push(grant.consent.clone());
                    }
                }
                Step::Ceiling(agent, tier) => {
                    let spec = format!("{{owner: {USER}, project: p, ceiling: {}}}", tier.as_str());
                    world.apply(&document("Agent", NAMES[agent], &spec)).unwrap();
                }
                Step::Revoke(number) => {
                    let id = consents[number % consents.len()].clone();
                    revoke(&mut world, Target::Consent(id));
                }
                Step::Wait(seconds) => world.seconds += seconds,
            }
            for child in world.state.consents.values() {
                let Some(parent) = &child.granted.parent else { continue };
                let parent = world.state.consents.get(parent).unwrap();
                let (of, by) = (&child.granted, &parent.granted);
                prop_assert!(of.level <= by.level && of.expires_at <= by.expires_at && of.tools == by.tools);
                prop_assert_eq!((&of.user, &of.virtual_server), (&by.user, &by.virtual_server));
                // What expired some time ago is not worth revoking.
                let is_over = START_MICROS / 1_000_000 + world.seconds > of.expires_at;
                prop_assert!(parent.revoked.is_none() || child.revoked.is_some() || is_over, "a parent ends alone");
                prop_assert!(of.earlier_agents.len() < ACT_DEPTH_MAX);
                prop_assert_eq!(&of.earlier_agents[1..], &by.earlier_agents[..]);
            }
        }
    }
}

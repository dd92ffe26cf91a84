//! What was taken back of what agents hand on stays so, whatever else they come with; and nobody else pays for it.

use bailiwick_control_plane_core::{
    Command, Context, Rejection, Wish,
    authorization::GrantConsent,
    consent::{ENDED_CONSENT_KEPT_SECONDS, GiveUp, KEPT_OF_ONE_MAX},
    decide, evolve,
    exchange::ExchangeToken,
    revocation::Target,
};
use bailiwick_proto::Tier;

use super::{ROOT, ask, client, example, exchange, grant, grant_of, hand_on, redeem, revoke, token, wish};
use crate::world::World;

const DAY: u64 = 24 * 3_600;

fn is_held(world: &mut World, agent: &str, from: &str) {
    let refused = exchange(world, agent, from).unwrap_err();
    assert!(matches!(refused, Rejection::ConsentHeld { .. }), "{agent} {from}: {refused}");
}

#[test]
fn what_was_revoked_alone_does_not_come_back_by_way_of_another_consent_until_a_person_allows_anew() {
    let mut world = example();
    grant(&mut world, "c-other", Tier::Destructive, &[]);
    grant(&mut world, "c-third", Tier::Destructive, &[]);
    let by_other = hand_on(&mut world, "second", "c-other");
    let taken = hand_on(&mut world, "second", ROOT);
    revoke(&mut world, Target::Consent(taken));
    is_held(&mut world, "second", ROOT);
    is_held(&mut world, "second", "c-third");
    assert_eq!(hand_on(&mut world, "second", "c-other"), by_other, "what stands goes on");
    // Nor by way of an agent in between.
    world.apply(&(client("fifth", "first", "") + &client("second", "first, fifth", ""))).unwrap();
    let between = hand_on(&mut world, "fifth", "c-third");
    is_held(&mut world, "second", &between);
    grant(&mut world, "c-anew", Tier::Destructive, &[]);
    hand_on(&mut world, "second", "c-anew");
    hand_on(&mut world, "second", "c-third");
    is_held(&mut world, "second", ROOT);
}

#[test]
fn what_ended_with_what_it_came_of_holds_nobody_back() {
    for end in [Target::Consent(ROOT.into()), Target::Client("first-client".into())] {
        let mut world = example();
        hand_on(&mut world, "second", ROOT);
        revoke(&mut world, end);
        assert!(world.state.taken_back.is_empty());
        grant(&mut world, "c-other", Tier::Destructive, &[]);
        hand_on(&mut world, "second", "c-other");
    }
}

#[test]
fn what_was_revoked_is_remembered_for_as_long_as_there_is_something_to_take_over() {
    let mut world = example();
    let long = GrantConsent { lifetime_seconds: 30 * DAY, ..grant_of("c-long", Tier::Destructive, &[]) };
    ask(&mut world, Wish::GrantConsent(long)).unwrap();
    ask(&mut world, Wish::RedeemCode(redeem("c-long"))).unwrap();
    let taken = hand_on(&mut world, "second", "c-long");
    revoke(&mut world, Target::Consent(taken.clone()));
    let of_long = |world: &World| {
        let mut wish = wish(world, "second", "c-long");
        wish.subject.expires_at += 100 * DAY;
        Wish::Exchange(ExchangeToken { ..wish })
    };
    world.seconds += ENDED_CONSENT_KEPT_SECONDS + 2 * DAY;
    grant(&mut world, "c-other", Tier::Destructive, &[]);
    assert!(!world.state.consents.contains_key(ROOT), "others are forgotten");
    let wish = of_long(&world);
    assert_eq!(ask(&mut world, wish).unwrap_err(), Rejection::ConsentHeld { consent: taken.clone() });
    world.seconds += 30 * DAY;
    grant(&mut world, "c-last", Tier::Destructive, &[]);
    assert!(!world.state.consents.contains_key(&taken) && world.state.taken_back.is_empty());
}

#[test]
fn a_client_that_takes_over_and_gives_up_for_ever_harms_nobody_but_itself() {
    let mut world = example();
    let exchange = Wish::Exchange(wish(&world, "second", ROOT));
    // Without the world's own checks, which look at all of it each time.
    let mut state = world.state.clone();
    let mut ask = |wish: Wish| {
        let context = Context { request_id: String::new(), actor: "client:x".into(), ..world.context() };
        let decision = decide(&state, Command::Wish(wish), &context)?;
        let revision = state.revision + 1;
        decision.events.iter().for_each(|event| evolve(&mut state, event, revision));
        Ok(decision)
    };
    for _ in 0..KEPT_OF_ONE_MAX {
        let consent = token(&ask(exchange.clone()).unwrap()).grant.consent.clone();
        ask(Wish::GiveUp(GiveUp { client: "second-client".into(), consent })).unwrap();
    }
    assert!(matches!(ask(exchange), Err(Rejection::TooMany { max: KEPT_OF_ONE_MAX, .. })));
    ask(Wish::GrantConsent(grant_of("c-other", Tier::Destructive, &[]))).unwrap();
}

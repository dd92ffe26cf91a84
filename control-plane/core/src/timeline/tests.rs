//! What makes an entry and what it says, what filters and pages leave, and what falls out.
//!
//! Over a log that is folded as the server folds it.

use std::collections::BTreeSet;

use super::*;
use crate::{
    consent::TokenIssued,
    evolve,
    refresh::TokenRefreshed,
    refusal::{Endpoint, Refusal, RequestRefused},
    standing::AssertionUsed,
};

const JANE: &str = "jane@example.com";
const START_SECONDS: u64 = 1_795_219_200;

/// A log as the server folds it.
#[derive(Default)]
struct Log {
    state: State,
    timeline: Timeline,
}

impl Log {
    fn change(&mut self, changes: impl IntoIterator<Item = (&'static str, Change)>) {
        let revision = self.state.revision + 1;
        let event = |(actor, change): (&str, Change)| Event {
            actor: actor.into(),
            request_id: String::new(),
            time: (START_SECONDS + revision) * 1_000_000,
            change,
        };
        let events: Vec<Event> = changes.into_iter().map(event).collect();
        self.timeline.see(&self.state, &events, revision);
        events.iter().for_each(|event| evolve(&mut self.state, event, revision));
    }

    /// Jane allows something: what `decide_grant` makes of it.
    fn allow(&mut self, consent: &str) {
        self.change([
            ("user:jane@example.com", granted(consent).into()),
            ("user:jane@example.com", code(consent).into()),
        ]);
    }

    fn revoke(&mut self, consent: &str, actor: &'static str, reason: &str) {
        let (consent, reason) = (consent.into(), reason.into());
        let revoked = ConsentRevoked { consent, reason, by_client: false, session_ended: false };
        self.change([(actor, revoked.into())]);
    }

    fn all(&self) -> Vec<Entry> {
        let found = self.timeline.newest(&Filter::default(), None, usize::MAX);
        found.iter().map(|one| Entry::clone(one)).collect()
    }

    fn consents(&self, filter: Filter) -> Vec<String> {
        self.timeline.newest(&filter, None, usize::MAX).iter().map(|one| one.consent.clone()).collect()
    }
}

fn granted(consent: &str) -> ConsentGranted {
    ConsentGranted {
        parent: Some("c-0".into()),
        earlier_agents: vec!["planner".into()],
        consent: consent.into(),
        user: JANE.into(),
        agent: "assistant".into(),
        virtual_server: "shop".into(),
        level: Tier::Transactional,
        expires_at: START_SECONDS + 3_600,
        reason: "OPS-12".into(),
        client: "editor".into(),
        provider: "okta".into(),
        tools: BTreeSet::from(["shop/charge".to_owned()]),
    }
}

fn code(consent: &str) -> CodeIssued {
    CodeIssued {
        consent: consent.into(),
        challenge: "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM".into(),
        redirect_uri: "http://127.0.0.1:3000/cb".into(),
        wanted: Tier::Destructive,
        expires_at: START_SECONDS + 60,
    }
}

fn redeemed(consent: &str) -> CodeRedeemed {
    CodeRedeemed {
        consent: consent.into(),
        uses: Vec::new(),
        level: Tier::Retrieval,
        jti: "t".into(),
        session: "s".into(),
        project: "p".into(),
        issued_at: START_SECONDS,
        expires_at: START_SECONDS + 600,
    }
}

fn declined(user: &str) -> ConsentDeclined {
    ConsentDeclined {
        user: user.into(),
        client: "stranger".into(),
        virtual_server: "shop".into(),
        provider: String::new(),
        reason: "not mine".into(),
    }
}

#[test]
fn each_entry_says_all_of_its_consent() {
    let mut log = Log::default();
    log.allow("c-1");
    log.change([("client:editor", redeemed("c-1").into())]);
    log.revoke("c-1", "admin", "the authorization code was presented again");
    log.change([("user:joe@example.com", declined("joe@example.com").into())]);
    let of_consent = |place: (u64, u32), outcome, actor: &str| Entry {
        place: Place { revision: place.0, number: place.1 },
        time: (START_SECONDS + place.0) * 1_000_000,
        outcome,
        user: JANE.into(),
        agent: "assistant".into(),
        client: "editor".into(),
        virtual_server: "shop".into(),
        level: Some(Tier::Transactional),
        tools: vec!["shop/charge".into()],
        consent: "c-1".into(),
        actor: actor.into(),
        reason: "OPS-12".into(),
        provider: "okta".into(),
        expires_at: Some(START_SECONDS + 3_600),
        evidence: Some(Evidence {
            challenge: "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM".into(),
            redirect_uri: "http://127.0.0.1:3000/cb".into(),
        }),
        parent: "c-0".into(),
        refused: None,
    };
    let refusal = Entry {
        place: Place { revision: 4, number: 0 },
        time: (START_SECONDS + 4) * 1_000_000,
        outcome: Outcome::Declined,
        user: "joe@example.com".into(),
        client: "stranger".into(),
        virtual_server: "shop".into(),
        actor: "user:joe@example.com".into(),
        reason: "not mine".into(),
        ..nothing()
    };
    let reason = "the authorization code was presented again".to_owned();
    let expected = [
        refusal,
        Entry { reason, ..of_consent((3, 0), Outcome::Revoked, "admin") },
        Entry { level: Some(Tier::Retrieval), ..of_consent((2, 0), Outcome::Redeemed, "client:editor") },
        of_consent((1, 0), Outcome::Granted, "user:jane@example.com"),
    ];
    assert_eq!(log.all(), expected);
}

#[test]
fn what_rests_on_a_consent_that_is_here_makes_no_entry() {
    let mut log = Log::default();
    let CodeRedeemed { consent, uses, level, jti, session, project, issued_at, expires_at } = redeemed("c-1");
    let issued = TokenIssued {
        consent: consent.clone(),
        jti: jti.clone(),
        session: session.clone(),
        project: project.clone(),
        issued_at,
        expires_at,
    };
    let used = AssertionUsed {
        provider: "okta".into(),
        subject: String::new(),
        uses: uses.clone(),
        user: JANE.into(),
        agent: "assistant".into(),
        client: "editor".into(),
        virtual_server: "shop".into(),
        consent: consent.clone(),
        level,
        jti: jti.clone(),
        session: session.clone(),
        project: project.clone(),
        issued_at,
        expires_at,
    };
    let refreshed =
        TokenRefreshed { consent, generation: 2, uses, level, jti, session, project, issued_at, expires_at };
    log.change([("admin", granted("c-1").into()), ("admin", issued.into())]);
    log.change([("client:editor", used.into())]);
    log.change([("client:editor", refreshed.into())]);
    let seen: Vec<_> = log.all().into_iter().map(|one| (one.outcome, one.actor, one.evidence)).collect();
    assert_eq!(seen, [(Outcome::Granted, "admin".to_owned(), None)]);
}

#[test]
fn a_consent_that_was_replaced_in_one_change_is_told_in_its_order() {
    let mut log = Log::default();
    log.allow("c-1");
    let ended = |consent: &str, reason: &str| {
        let (consent, reason) = (consent.into(), reason.into());
        ConsentRevoked { consent, reason, by_client: false, session_ended: false }
    };
    let (narrowed, at_once) = (ended("c-1", "less"), ended("c-2", "gone"));
    log.change([("a", narrowed.into()), ("a", granted("c-2").into()), ("a", at_once.into())]);
    let seen: Vec<_> =
        log.all().into_iter().map(|one| (one.place.to_string(), one.consent, one.reason, one.user)).collect();
    let jane = |place: &str, consent: &str, reason: &str| (place.into(), consent.into(), reason.into(), JANE.into());
    let expected = [
        jane("2-2", "c-2", "gone"),
        jane("2-1", "c-2", "OPS-12"),
        jane("2-0", "c-1", "less"),
        jane("1-0", "c-1", "OPS-12"),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn a_consent_that_nobody_knows_is_told_by_its_name() {
    let mut log = Log::default();
    log.revoke("c-lost", "admin", "to be sure");
    log.change([("client:editor", code("c-lost").into())]);
    let only = Entry {
        place: Place { revision: 1, number: 0 },
        time: (START_SECONDS + 1) * 1_000_000,
        outcome: Outcome::Revoked,
        consent: "c-lost".into(),
        actor: "admin".into(),
        reason: "to be sure".into(),
        ..nothing()
    };
    assert_eq!(log.all(), [only]);
}

#[test]
fn filters_leave_what_fits_all_of_them() {
    let mut log = Log::default();
    log.allow("c-1");
    log.allow("c-2");
    log.revoke("c-1", "admin", "x");
    log.change([("user:joe@example.com", declined("joe@example.com").into())]);
    let check = |filter: Filter, consents: &[&str]| assert_eq!(log.consents(filter.clone()), consents, "{filter:?}");
    let text = |text: &str| Some(text.to_owned());
    let time = |revision: u64| Some((START_SECONDS + revision) * 1_000_000);
    let all = Filter::default;
    check(all(), &["", "c-1", "c-2", "c-1"]);
    check(Filter { outcome: Some(Outcome::Granted), ..all() }, &["c-2", "c-1"]);
    check(Filter { outcome: Some(Outcome::Redeemed), ..all() }, &[]);
    check(Filter { client: text("stranger"), ..all() }, &[""]);
    check(Filter { subject: text("assistant"), ..all() }, &["c-1", "c-2", "c-1"]);
    check(Filter { subject: text("joe@example.com"), ..all() }, &[""]);
    check(Filter { user: text("assistant"), ..all() }, &[]);
    check(Filter { user: text(JANE), outcome: Some(Outcome::Revoked), ..all() }, &["c-1"]);
    check(Filter { since: time(2), until: time(4), ..all() }, &["c-1", "c-2"]);
}

#[test]
fn pages_go_on_where_the_one_before_ended() {
    let mut log = Log::default();
    log.change(["c-1", "c-2", "c-3"].map(|consent| ("admin", granted(consent).into())));
    log.allow("c-4");
    let page = |before: Option<Place>| {
        let found = log.timeline.newest(&Filter::default(), before, 2);
        found.iter().map(|one| (one.place.to_string(), one.consent.clone())).collect::<Vec<_>>()
    };
    let own = |place: &str, consent: &str| (place.to_owned(), consent.to_owned());
    assert_eq!(page(None), [own("2-0", "c-4"), own("1-2", "c-3")]);
    assert_eq!(page(Some("1-2".parse().unwrap())), [own("1-1", "c-2"), own("1-0", "c-1")]);
    assert_eq!(page(Some("1-0".parse().unwrap())), []);
    for wrong in ["", "1", "1-", "-1", "1-x", "1-2-3", "99999999999999999999-0"] {
        assert_eq!(wrong.parse::<Place>(), Err(NotOne), "{wrong}");
    }
}

fn refused(kind: Refusal, count: u64) -> RequestRefused {
    let (first, last) = (START_SECONDS * 1_000_000, START_SECONDS * 1_000_000 + 5);
    RequestRefused { refusal: kind, count, first, last, node: "cp-1".into() }
}

fn reused_code() -> Refusal {
    Refusal {
        endpoint: Endpoint::Token,
        grant: "authorization_code".into(),
        client: "thief".into(),
        claimed: true,
        consent: "c-1".into(),
        error: "invalid_grant".into(),
        why: "the authorization code was presented again".into(),
        ..Refusal::default()
    }
}

#[test]
fn a_refusal_is_told_to_the_person_whose_consent_was_to_be_used() {
    let mut log = Log::default();
    log.allow("c-1");
    log.change([("node:cp-1", refused(reused_code(), 3).into())]);
    let told = Refused {
        endpoint: Endpoint::Token,
        grant: "authorization_code".into(),
        error: "invalid_grant".into(),
        claimed: true,
        count: 3,
        first: START_SECONDS * 1_000_000,
    };
    let expected = Entry {
        place: Place { revision: 2, number: 0 },
        time: START_SECONDS * 1_000_000 + 5,
        outcome: Outcome::Refused,
        user: JANE.into(),
        agent: "assistant".into(),
        client: "thief".into(),
        virtual_server: "shop".into(),
        consent: "c-1".into(),
        actor: "node:cp-1".into(),
        reason: "the authorization code was presented again".into(),
        provider: "okta".into(),
        refused: Some(Box::new(told)),
        ..nothing()
    };
    let of_jane = Filter { user: Some(JANE.into()), outcome: Some(Outcome::Refused), ..Filter::default() };
    let found = log.timeline.newest(&of_jane, None, 9);
    assert_eq!(found.iter().map(|one| Entry::clone(one)).collect::<Vec<_>>(), [expected]);
    assert_eq!(log.all().len(), 2);
}

#[test]
fn refusals_stand_in_their_place_and_push_nothing_else_out() {
    let mut log = Log::default();
    log.change([("node:cp-1", refused(reused_code(), 1).into()), ("admin", granted("c-1").into())]);
    let anybody = || Refusal { client: String::new(), claimed: false, consent: String::new(), ..reused_code() };
    for _ in 0..REFUSALS_MAX {
        log.change([("node:cp-1", refused(anybody(), 1).into())]);
    }
    log.allow("c-2");
    let seen = |before: Option<&str>, limit| {
        let found = log.timeline.newest(&Filter::default(), before.map(|text| text.parse().unwrap()), limit);
        found.iter().map(|one| (one.place.to_string(), one.outcome)).collect::<Vec<_>>()
    };
    let last = REFUSALS_MAX + 1;
    let own = |place: String, outcome| (place, outcome);
    let newest = [own(format!("{}-0", last + 1), Outcome::Granted), own(format!("{last}-0"), Outcome::Refused)];
    assert_eq!(seen(None, 2), newest);
    assert_eq!(seen(Some("2-0"), 9), [own("1-1".into(), Outcome::Granted)], "the refusal of that change fell out");
    assert_eq!(log.timeline.fallen_out(), (0, 1));
    assert_eq!(log.all().len(), REFUSALS_MAX + 2);
}

#[test]
fn ordinary_entries_all_fit() {
    let mut log = Log::default();
    log.allow("c-00112233445566778899aabbccddeeff");
    let bytes = log.all()[0].bytes();
    assert!((300..=700).contains(&bytes), "{bytes}");
    assert!(ENTRIES_MAX * bytes < BYTES_MAX, "{bytes}");
}

//! Leavers with thousands of consents, on a consensus of one: all of them end, whoever stops on the way.

use std::{future::Future, sync::Arc};

use bailiwick_consensus::{Alone, Birth, Consensus, LogLength, Member, Options, RocksDisk, Timers};
use bailiwick_control_plane_core::{
    Fulfilled,
    assertion::Use,
    command::IssueToken,
    manifest,
    provisioning::wish::{Outcome, PersonWritten, Provision},
    resource::SignalKind,
    signal::{Delivery, SignalOutcome, TakeSignal},
};
use bailiwick_proto::v1::DecideRequest;
use bailiwick_runtime::metrics::Registry;
use futures::future::join_all;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::{
    clock,
    config_stream::feed::Feed,
    decisions::decide,
    domain::{Projection, Shared, run_writer},
    metrics::Metrics,
};

const JANE: &str = "jane@example.com";
const CONSENTS: usize = 2_500;

fn document(kind: &str, name: &str, spec: &serde_json::Value) -> String {
    let document = json!({"apiVersion": "bailiwick/v1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    format!("{document}\n---\n")
}

fn manifests() -> String {
    let hash = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let signals = json!({"audience": "https://gw.example", "push": {"secrets_sha256": [hash]}});
    let provider = json!({"issuer": "https://acme.example", "people": {"user": "email"}, "signals": signals});
    let endpoint = json!({"url": "http://127.0.0.1:9801/mcp"});
    let agent = json!({"owner": JANE, "project": "platform", "ceiling": "destructive"});
    [
        document("Server", "finance", &json!({"endpoint": endpoint})),
        document("VirtualServer", "finance", &json!({"naming": "plain", "servers": [{"server": "finance"}]})),
        document("User", JANE, &json!({})),
        document("Agent", "assistant", &agent),
        document("IdentityProvider", "acme", &provider),
    ]
    .concat()
}

fn caller() -> Caller {
    Caller { actor: "test".into(), request_id: String::new() }
}

/// Jane with thousands of consents, for a test.
async fn with_jane<F: Future<Output = ()>>(test: impl FnOnce(Domain) -> F) {
    let folder = TempDir::new().unwrap();
    let shared = Shared::default();
    let options = Options {
        disk: Arc::new(RocksDisk::open(folder.path()).unwrap()),
        birth: Birth { cluster_id: "0".repeat(32), incarnation: "0".repeat(16), node_id: 1 },
        transport: Arc::new(Alone),
        applier: Box::new(Projection::new(shared.clone(), Arc::new(Feed::new()))),
        timers: Timers::default(),
        log_length: LogLength::default(),
    };
    let consensus = Consensus::open(options).await.unwrap();
    consensus.initialize(Member::default()).await.unwrap();
    consensus.ready(Duration::from_secs(10)).await.unwrap();
    let (domain, mailbox) = Domain::new(consensus.clone(), shared.clone());
    let writer = run_writer(mailbox, consensus.clone(), shared, Metrics::register(&Registry::new()));
    let work = async {
        let manifests = manifest::parse(&[("test.yaml".to_owned(), manifests())]).unwrap();
        let command = Command::Apply { manifests, discovered: std::collections::BTreeMap::new() };
        domain.write(command, caller()).await.unwrap();
        let wish = IssueToken {
            user: JANE.into(),
            agent: "assistant".into(),
            virtual_server: "finance".into(),
            level: None,
            ttl_seconds: 86_400,
            reason: String::new(),
            client: "cli".into(),
        };
        for _ in 0..CONSENTS / 125 {
            let writes = (0..125).map(|_| domain.write(Command::IssueToken(wish.clone()), caller()));
            join_all(writes).await.into_iter().for_each(|written| drop(written.unwrap()));
        }
        assert_eq!(standing(&domain), CONSENTS);
        test(domain.clone()).await;
    };
    tokio::select! {
        () = work => {}
        () = writer => panic!("the writer ended"),
    }
    consensus.shutdown().await;
}

fn standing(domain: &Domain) -> usize {
    let now = domain.now_micros() / 1_000_000;
    domain.read(|state| state.consents.values().filter(|one| one.is_live(now)).count())
}

/// Waits, by the state alone.
async fn until(domain: &Domain, is_so: impl Fn(usize) -> bool) {
    while !is_so(standing(domain)) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The first change of a signal that says that Jane left; nothing more, as if its node had died then.
async fn signalled(domain: &Domain) {
    let now = u64::try_from(clock::now_seconds()).unwrap();
    let wish = TakeSignal {
        provider: "acme".into(),
        delivery: Delivery::Push,
        used: Use { key: "0".repeat(64), until: now + 1_000 },
        jti: "jti-1".into(),
        event: SignalKind::AccountDisabled,
        subject: format!("email {JANE}"),
        user: Some(JANE.into()),
        happened_at: now,
        is_worse: true,
        groups: None,
        claims: BTreeSet::new(),
        reason: String::new(),
        state: String::new(),
    };
    let written = domain.write(Command::Wish(Wish::TakeSignal(wish)), caller()).await.unwrap();
    let Answer::Fulfilled(Fulfilled::Signal(taken)) = written.answer else { panic!("no signal") };
    assert!(taken.more && taken.outcome == SignalOutcome::Deactivated);
    assert_eq!(standing(domain), CONSENTS - REVOKED_AT_ONCE_MAX);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_consents_of_a_leaver_end_without_another_word() {
    with_jane(async |domain: Domain| {
        let stop = Shutdown::new();
        let ending = async {
            // It looks before, as a leader does, and again once somebody left.
            signalled(&domain).await;
            until(&domain, |standing| standing == 0).await;
            stop.request();
        };
        tokio::join!(see_off(&domain, "cp-1", &stop), ending);
        assert!(domain.read(|state| !state.users.get(JANE).unwrap().spec.active));
        assert!(domain.read(|state| leaver::all_unfinished(state, 0).is_empty()));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_leader_goes_on_where_one_stopped() {
    with_jane(async |domain: Domain| {
        signalled(&domain).await;
        let stop = Shutdown::new();
        // The lead is lost with the first change: the duty is dropped wherever it is.
        tokio::select! {
            () = see_off(&domain, "cp-1", &stop) => panic!("it ends at shutdown alone"),
            () = until(&domain, |standing| standing < CONSENTS - REVOKED_AT_ONCE_MAX) => {}
        }
        tokio::select! {
            () = see_off(&domain, "cp-2", &stop) => panic!("it ends at shutdown alone"),
            () = until(&domain, |standing| standing == 0) => {}
        }
    })
    .await;
}

fn provision(operations: Vec<Operation>) -> DecideRequest {
    let wish = Wish::Provision(Provision { operations, faults_max: None, reserved: BTreeSet::new() });
    DecideRequest { wish: serde_json::to_vec(&wish).unwrap(), actor: "scim:okta".into() }
}

/// What a wish came to; an error if it was refused as a whole.
async fn decided(domain: &Domain, operations: Vec<Operation>) -> Result<Vec<Outcome>, String> {
    let answer = decide(domain, &BTreeSet::new(), provision(operations)).await.unwrap();
    if answer.fulfilled.is_empty() {
        return Err(answer.refused);
    }
    let Fulfilled::Provisioned(outcomes) = serde_json::from_slice(&answer.fulfilled).unwrap() else { panic!("what?") };
    Ok(outcomes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bulk_that_brings_somebody_back_too_early_is_refused_and_its_retry_finds_nothing_of_before() {
    with_jane(async |domain: Domain| {
        let person =
            |active| PersonWritten { user_name: JANE.into(), external_id: String::new(), active, profile: "{}".into() };
        let other = PersonWritten { user_name: "bob@example.com".into(), ..person(true) };
        let comes = Operation::CreatePerson { id: "p-1".into(), person: person(true) };
        assert!(decided(&domain, vec![comes]).await.unwrap().iter().all(|one| matches!(one, Outcome::Done(_))));
        // She leaves, and the node that was to end the rest dies.
        let leaves = Operation::ReplacePerson { id: "p-1".into(), version: None, person: person(false) };
        let wish = Provision { operations: vec![leaves], faults_max: None, reserved: BTreeSet::new() };
        domain.write(Command::Wish(Wish::Provision(wish)), caller()).await.unwrap();
        assert_eq!(standing(&domain), CONSENTS - REVOKED_AT_ONCE_MAX);
        // One change cannot end the rest and let her in: all of the request is refused, and what is left is ended.
        let back = vec![
            Operation::CreatePerson { id: "p-2".into(), person: other },
            Operation::ReplacePerson { id: "p-1".into(), version: None, person: person(true) },
        ];
        let refused = decided(&domain, back.clone()).await.unwrap_err();
        assert!(refused.contains(JANE), "{refused}");
        assert_eq!(standing(&domain), 0);
        assert!(domain.read(|state| !state.users.get(JANE).unwrap().spec.active));
        assert!(domain.read(|state| !state.users.contains_key("bob@example.com")));
        let outcomes = decided(&domain, back).await.unwrap();
        assert!(matches!(outcomes[..], [Outcome::Done(_), Outcome::Done(_)]), "{outcomes:?}");
        assert!(domain.read(|state| state.users.get(JANE).unwrap().spec.active));
        assert_eq!(standing(&domain), 0, "nothing of before is left to her");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_that_are_reserved_at_the_leader_are_so_whichever_node_was_asked() {
    with_jane(async |domain: Domain| {
        for (reserved, is_made) in [(BTreeSet::from(["auditors".to_owned()]), false), (BTreeSet::new(), true)] {
            let members = BTreeSet::new();
            let (id, display, external_id) = ("g-1".to_owned(), "auditors".to_owned(), String::new());
            let operation = Operation::CreateGroup { id, display, external_id, members };
            let answer = decide(&domain, &reserved, provision(vec![operation])).await.unwrap();
            let done: Fulfilled = serde_json::from_slice(&answer.fulfilled).unwrap();
            let Fulfilled::Provisioned(outcomes) = done else { panic!("what?") };
            assert_eq!(matches!(outcomes[..], [Outcome::Done(_)]), is_made, "{outcomes:?}");
        }
    })
    .await;
}

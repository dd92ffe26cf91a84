//! The writer beside another proposer, as a leader that was faster would be.

use std::sync::Arc;

use bailiwick_control_plane_core::{Event, event::Change, token_key::Issuer};
use bailiwick_runtime::metrics::Registry;
use futures::future::join_all;
use tempfile::TempDir;

use super::*;
use crate::{config_stream::feed::Feed, metrics::Metrics};
use bailiwick_consensus::{Alone, Birth, LogLength, Member, Options, Outcome, Proposal, RocksDisk, Timers};

fn issuer(n: u64) -> Issuer {
    Issuer { issuer: format!("http://127.0.0.1:{n}"), mcp_url: "http://127.0.0.1/mcp".into() }
}

fn caller(request_id: &str) -> Caller {
    Caller { actor: "test".into(), request_id: request_id.into() }
}

/// Proposes until it is taken, without the writer knowing.
async fn intrude(consensus: &Consensus, shared: &Shared, n: u64) -> u64 {
    let change = Change::IssuerSet(issuer(n));
    let event = Event { actor: "intruder".into(), request_id: format!("i-{n}"), time: n, change };
    let events = vec![serde_json::to_vec(&event).unwrap()];
    loop {
        let proposal =
            Proposal { expected_version: shared.read().version, events: events.clone(), ..Proposal::default() };
        let placed = consensus.propose(vec![proposal]).await.unwrap()[0];
        if placed.outcome == Outcome::Applied {
            return placed.revision;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_never_meets_another_state_than_its_own() {
    let folder = TempDir::new().unwrap();
    let shared = Shared::default();
    let projection = Projection::new(shared.clone(), Arc::new(Feed::new()));
    let options = Options {
        disk: Arc::new(RocksDisk::open(folder.path()).unwrap()),
        birth: Birth { cluster_id: "0".repeat(32), incarnation: "0".repeat(16), node_id: 1 },
        transport: Arc::new(Alone),
        applier: Box::new(projection),
        timers: Timers::default(),
        log_length: LogLength::default(),
    };
    let consensus = Consensus::open(options).await.unwrap();
    consensus.initialize(Member::default()).await.unwrap();
    consensus.ready(Duration::from_secs(10)).await.unwrap();
    let (domain, mailbox) = Domain::new(consensus.clone(), shared.clone());
    let metrics = Metrics::register(&Registry::new());
    let writer = run_writer(mailbox, consensus.clone(), shared.clone(), metrics);

    let work = async {
        let ids: Vec<String> = (0..20_u64).map(|n| format!("w-{n}")).collect();
        let writes = join_all(
            (0..20_u64).zip(&ids).map(|(n, id)| domain.write(Command::SetIssuer(issuer(1_000 + n)), caller(id))),
        );
        let intrusions = join_all((0..10).map(|n| intrude(&consensus, &shared, n)));
        let (written, intruded) = futures::join!(writes, intrusions);
        let mut revisions = intruded;
        for result in written {
            match result {
                Ok(written) => revisions.push(written.revision),
                // Decided several times, each time too late: nothing happened.
                Err(error) => assert!(matches!(error, WriteError::Busy), "{error}"),
            }
        }
        let count = revisions.len();
        revisions.sort_unstable();
        revisions.dedup();
        assert_eq!(revisions.len(), count, "no two changes share a revision");
        assert_eq!(shared.read().version, u64::try_from(count).unwrap(), "what was answered is what happened");

        // A repeat answers with the first time's revision, whoever else wrote since.
        let first = domain.write(Command::SetIssuer(issuer(5_000)), caller("again")).await.unwrap();
        intrude(&consensus, &shared, 77).await;
        let second = domain.write(Command::SetIssuer(issuer(5_000)), caller("again")).await.unwrap();
        assert_eq!(second.revision, first.revision);
    };
    tokio::select! {
        () = work => {}
        () = writer => panic!("the writer ended"),
    }
    drop(domain);
    consensus.shutdown().await;
}

//! The order of recording and releasing, on a disk and a clock that the test controls.

use std::{path::Path, sync::atomic::Ordering, time::Duration};

use bailiwick_data_plane_core::{edge::Call, sealed::SealingKeys};
use bailiwick_proto::{
    Tier, config_digest,
    mcp::{self, Era},
    v1,
};
use bailiwick_runtime::{EventStream, metrics::Registry, ops::Readiness};
use prost::Message as _;

use super::*;
use crate::{
    fakes::{
        eventually, loopback,
        server::{FakeServer, Mode, Speaks},
        world::{PERMIT_ALL, claims, entries, now_unix},
    },
    recorder::{self, Recovery, Start},
    spool::{
        Spool,
        fault_disk::{FaultDisk, Faults},
    },
    upstream::Means,
};

mod input;
mod levels;

struct Scene {
    calls: Calls,
    faults: Arc<Faults>,
    server: FakeServer,
}

impl Scene {
    async fn new(dir: &Path) -> Self {
        Self::on(dir, Speaks::Modern, &EventStream::in_process()).await
    }

    async fn on(dir: &Path, speaks: Speaks, stream: &EventStream) -> Self {
        let server = FakeServer::start(speaks).await;
        let disk = FaultDisk::default();
        let faults = Arc::clone(&disk.0);
        let (spool, recovered) = Spool::open(Arc::new(disk), dir, 16 * 1024 * 1024).unwrap();
        let (supervisor, metrics) = (Supervisor::new(Shutdown::new()), Arc::new(Metrics::new(&Registry::new())));
        let start = Start {
            node: "dp-1".into(),
            region: "local".into(),
            epoch: 7,
            signer: bailiwick_ledger_core::key::NodeSigner::from_seed(&[7; 32]).unwrap(),
            spool,
            recovered,
            recovery: Recovery::default(),
            reader: Arc::new(recorder::Reader::open(dir.join("ledger-kinds"))),
            stream: EventStream::in_process(),
            metrics: Arc::clone(&metrics),
            readiness: Readiness::new(),
        };
        let state = Arc::new(ConfigState::new(Duration::from_secs(3600)));
        let keys = [v1::SealingKey { id: "k".into(), key: vec![1; 32] }];
        state.set_sealing_keys(SealingKeys::new(&keys).unwrap());
        let entries = entries(&server.url, PERMIT_ALL, true);
        let digest = config_digest::of_entries(&entries).to_vec();
        let snapshot = v1::Snapshot { revision: 100, entries, last: true, digest };
        state.snapshot(snapshot).unwrap();
        let lane = state.lane_opened(100);
        state.grant(lane, tokio::time::Instant::now(), Duration::from_secs(60)).unwrap();
        let upstream = Arc::new(Upstream::new(loopback(), &supervisor, Means::default()).unwrap());
        let calls = Calls {
            levels: Levels::new(Arc::clone(&state), stream.clone(), Arc::clone(&upstream), supervisor.clone()),
            answers: Answers::new(Arc::clone(&state), stream.clone()),
            kept: Arc::default(),
            listeners: crate::listening::Listeners::new(Arc::clone(&state), stream.clone()),
            state,
            recorder: recorder::Recorder::start(start, &supervisor).unwrap(),
            upstream,
            commitments: CommitmentKey::load(&dir.join("keys/commitment.key"), &crate::tests::master_keys()).unwrap(),
            metrics,
            supervisor,
        };
        Self { calls, faults, server }
    }

    async fn call(&self, tool: &str) -> HttpReply {
        self.carry(self.decide(tool)).await
    }

    fn decide(&self, tool: &str) -> (Asked, PermittedCall) {
        let config = self.calls.state.config().unwrap();
        let caller = Arc::new(Caller::from_claims(&claims(), "finance").unwrap());
        let decision = admit(
            &config,
            &caller,
            bailiwick_data_plane_core::ToolRef { virtual_server: "finance", name: tool },
            now_unix(),
        );
        let call = Call {
            id: mcp::RequestId::from(1),
            era: Era::Modern,
            virtual_server: "finance".into(),
            name: tool.into(),
            arguments: None,
            meta: None,
            client_name: None,
            client_version: None,
            capabilities: None,
            method: mcp::method::TOOLS_CALL,
            completion: None,
            task: None,
            retry: bailiwick_data_plane_core::edge::Retry::default(),
            trace_id: None,
            unrecognised_params: Vec::new(),
        };
        let permitted = PermittedCall { call, found: decision.found.clone().unwrap(), decision };
        let request_id = "r-1".to_owned();
        (
            Asked { config, caller, request_id, config_age_ms: 0, arrived: Instant::now(), cause: Cause::default() },
            permitted,
        )
    }

    async fn carry(&self, (asked, permitted): (Asked, PermittedCall)) -> HttpReply {
        Box::pin(self.calls.carry(
            asked,
            Arc::new(permitted),
            Shutdown::new(),
            Outlet(tokio::sync::mpsc::channel(16).0),
        ))
        .await
    }

    /// The lease from now on.
    fn lease(&self, length: Duration) {
        let lane = self.calls.state.lane_opened(100);
        self.calls.state.grant(lane, tokio::time::Instant::now(), length).unwrap();
    }

    /// Denies an entry by the lane.
    fn deny(&self, key: &str) {
        let changes = vec![v1::EntryChange { key: key.into(), value: None }];
        self.calls.state.deny(&v1::Denials { revision: 101, changes, ..v1::Denials::default() }).unwrap();
    }

    fn forwarded(&self) -> usize {
        self.server.seen("tools/call").len()
    }
}

#[tokio::test]
async fn what_cannot_be_recorded_before_is_not_forwarded() {
    let dir = tempfile::tempdir().unwrap();
    let scene = Scene::new(dir.path()).await;
    scene.faults.out_of_space.store(true, Ordering::SeqCst);
    for tool in ["query_data", "create_charge"] {
        assert_eq!(scene.call(tool).await.reason, Some(Reason::SpoolFull));
    }
    scene.faults.out_of_space.store(false, Ordering::SeqCst);
    assert_eq!(scene.call("query_data").await.reason, None, "room again");
    scene.faults.sync_fails.store(true, Ordering::SeqCst);
    assert_eq!(scene.call("create_charge").await.reason, Some(Reason::SpoolFull), "written is not enough");
    assert_eq!(scene.forwarded(), 1);
}

#[tokio::test]
async fn a_result_whose_outcome_cannot_be_recorded_is_not_released() {
    let dir = tempfile::tempdir().unwrap();
    let scene = Scene::new(dir.path()).await;
    scene.server.set(Mode::Slow(Duration::from_millis(200)));
    let (reply, ()) = tokio::join!(scene.call("create_charge"), async {
        eventually("forwarded", || scene.forwarded() == 1).await;
        scene.faults.out_of_space.store(true, Ordering::SeqCst);
    });
    assert_eq!(reply.reason, Some(Reason::SpoolFull));
    let body = String::from_utf8(reply.body.unwrap()).unwrap();
    assert!(body.contains("spool_full") && !body.contains("structuredContent"), "{body}");
}

#[tokio::test]
async fn without_a_lease_only_reading_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let scene = Scene::new(dir.path()).await;
    scene.lease(Duration::ZERO);
    assert_eq!(scene.call("create_charge").await.reason, Some(Reason::ConfigStale));
    assert_eq!(scene.call("query_data").await.reason, None);
    assert_eq!(scene.forwarded(), 1);
}

#[tokio::test]
async fn a_call_under_way_is_cut_when_its_consent_is_revoked() {
    let dir = tempfile::tempdir().unwrap();
    let scene = Scene::new(dir.path()).await;
    scene.server.set(Mode::Hang);
    let (reply, ()) = tokio::join!(scene.call("create_charge"), async {
        eventually("forwarded", || scene.forwarded() == 1).await;
        scene.deny("consent/c-1");
    });
    assert_eq!(reply.reason, Some(Reason::ConsentRevoked));
    let body: serde_json::Value = serde_json::from_slice(&reply.body.unwrap()).unwrap();
    assert_eq!(body["error"]["data"]["consent"], "c-1");
    assert_eq!(scene.forwarded(), 1);
}

#[tokio::test]
async fn what_was_denied_after_the_decision_is_not_forwarded() {
    for (denied, reason) in
        [("tool/finance/query_data", Reason::ToolQuarantined), ("consent/c-1", Reason::ConsentRevoked)]
    {
        let dir = tempfile::tempdir().unwrap();
        let scene = Scene::new(dir.path()).await;
        let decided = scene.decide("query_data");
        scene.deny(denied);
        assert_eq!((scene.carry(decided).await.reason, scene.forwarded()), (Some(reason), 0));
    }
}

#[tokio::test]
async fn a_tool_that_became_more_harmful_than_the_token_reaches_is_not_forwarded() {
    let dir = tempfile::tempdir().unwrap();
    let scene = Scene::new(dir.path()).await;
    let (mut asked, permitted) = scene.decide("query_data");
    asked.caller = Arc::new(Caller { scope_level: Tier::Retrieval, ..asked.caller.as_ref().clone() });
    let mut entries = entries(&scene.server.url, PERMIT_ALL, true);
    let entry = entries.iter_mut().find(|entry| entry.key == "tool/finance/query_data").unwrap();
    let mut resource = v1::Resource::decode(entry.value.as_slice()).unwrap();
    let Some(v1::resource::Resource::Tool(tool)) = &mut resource.resource else { panic!("{resource:?}") };
    tool.tier = "transactional".into();
    entry.value = resource.encode_to_vec();
    let digest = config_digest::of_entries(&entries).to_vec();
    scene.calls.state.snapshot(v1::Snapshot { revision: 101, entries, last: true, digest }).unwrap();
    let reply = scene.carry((asked, permitted)).await;
    assert_eq!((reply.reason, reply.status, scene.forwarded()), (Some(Reason::ScopeInsufficient), 403, 0));
    assert_eq!(reply.scope_needed.unwrap().scope, Scopes::of_level(Tier::Transactional));
}

#[tokio::test]
async fn a_lease_that_runs_out_while_a_server_is_reached_keeps_the_call_back() {
    let dir = tempfile::tempdir().unwrap();
    let scene = Scene::new(dir.path()).await;
    scene.server.hold_handshakes(true);
    let (reply, ()) = tokio::join!(scene.call("create_charge"), async {
        eventually("reached", || !scene.server.seen("server/discover").is_empty()).await;
        scene.lease(Duration::ZERO);
        scene.server.hold_handshakes(false);
    });
    assert_eq!((reply.reason, scene.forwarded()), (Some(Reason::ConfigStale), 0));
}

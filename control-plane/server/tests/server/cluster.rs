//! Three control planes in this process, over real QUIC and TLS: joining, forwarding, leaving, restarting, restoring.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use bailiwick_control_plane::{ControlPlaneConfig, Running, init, restore, serve};
use bailiwick_enrolment::{EnrolError, Store, Wish, enrol};
use bailiwick_proto::v1::{
    self, admin_client::AdminClient, cluster_client::ClusterClient, config_client::ConfigClient,
    internal_client::InternalClient,
};
use bailiwick_runtime::{
    EventStream, Identity, MasterKeyConfig, MasterKeys, Shutdown,
    connect::Targets,
    identity::{Expect, Role, Word},
};
use tempfile::TempDir;
use tokio::time::Instant;
use tonic::{Code, Status, transport::Channel};

use crate::support::{Lane, WAIT_MAX, file, register_with, statement, user};

fn master_key() -> MasterKeyConfig {
    MasterKeyConfig { key: Some("0123".repeat(16)), ..MasterKeyConfig::default() }
}

/// A control plane that may be stopped and started again.
pub(crate) struct Node {
    pub(crate) config: ControlPlaneConfig,
    life: Option<(Running, Shutdown)>,
    pub(crate) channel: Channel,
}

impl Node {
    pub(crate) async fn start(mut config: ControlPlaneConfig) -> Self {
        let shutdown = Shutdown::new();
        let running = serve(config.clone(), EventStream::in_process(), shutdown.clone()).await.unwrap();
        (config.listen, config.peer_listen) = (running.grpc_addr, running.peer_addr);
        (config.join_token, config.found) = (None, false);
        let channel = Channel::from_shared(format!("http://{}", running.grpc_addr)).unwrap().connect_lazy();
        Self { config, life: Some((running, shutdown)), channel }
    }

    fn name(&self) -> &str {
        &self.config.node
    }

    pub(crate) fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel.clone())
    }

    /// Where its HTTP is.
    pub(crate) fn http(&self) -> SocketAddr {
        self.life.as_ref().unwrap().0.http_addr
    }

    pub(crate) fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel.clone())
    }

    pub(crate) async fn stop(&mut self) {
        let (running, shutdown) = self.life.take().unwrap();
        shutdown.request();
        tokio::time::timeout(WAIT_MAX, running.stopped()).await.unwrap().unwrap();
    }

    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        *self = Self::start(self.config.clone()).await;
    }

    pub(crate) async fn members(&self) -> Vec<v1::Member> {
        self.cluster().members(v1::MembersRequest {}).await.map_or_else(|_| Vec::new(), |list| list.into_inner().items)
    }

    pub(crate) async fn join_token(&self, role: &str, name: &str) -> String {
        let request = v1::CreateJoinTokenRequest {
            role: role.into(),
            name: name.into(),
            ..v1::CreateJoinTokenRequest::default()
        };
        self.cluster().create_join_token(request).await.unwrap().into_inner().token
    }

    /// Waits until these control planes, and no others, vote.
    pub(crate) async fn until_voters(&self, names: &[&str]) {
        eventually("the voters are as wanted", async || {
            let members = self.members().await;
            let of = members.iter().filter(|one| one.role == "control-plane");
            let voting: Vec<&str> =
                of.clone().filter(|one| one.membership == "voter").map(|one| one.name.as_str()).collect();
            (voting == names && of.count() == names.len()).then_some(())
        })
        .await;
    }
}

pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let until = Instant::now() + WAIT_MAX;
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(Instant::now() < until, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) fn config(folder: &Path, name: &str) -> ControlPlaneConfig {
    let mut config = ControlPlaneConfig::embedded(folder.join(name));
    (config.node, config.master_key, config.found) = (name.to_owned(), master_key(), false);
    let port = free_port();
    (config.listen, config.peer_listen) = (([127, 0, 0, 1], port).into(), ([127, 0, 0, 1], port).into());
    config
}

/// A port, free over TCP and UDP, below those that Linux gives to outgoing connections, so that it is still free when a
/// node comes back to it.
fn free_port() -> u16 {
    use std::hash::{BuildHasher, RandomState};
    loop {
        let port = 10_000 + u16::try_from(RandomState::new().hash_one(()) % 20_000).unwrap();
        let address = ("127.0.0.1", port);
        if std::net::TcpListener::bind(address).is_ok() && std::net::UdpSocket::bind(address).is_ok() {
            return port;
        }
    }
}

async fn joined(folder: &Path, name: &str, by: &Node) -> Node {
    let mut config = config(folder, name);
    config.join_token = Some(by.join_token("control-plane", "").await);
    config.join = vec![format!("https://{}", by.config.listen)];
    Node::start(config).await
}

pub(crate) async fn three(folder: &Path) -> [Node; 3] {
    let first = Node::start(ControlPlaneConfig { found: true, ..config(folder, "cp-1") }).await;
    let second = joined(folder, "cp-2", &first).await;
    let third = joined(folder, "cp-3", &second).await;
    first.until_voters(&["cp-1", "cp-2", "cp-3"]).await;
    [first, second, third]
}

pub(crate) fn apply(name: &str, request_id: &str) -> v1::ApplyRequest {
    v1::ApplyRequest { files: vec![file(&user(name))], request_id: request_id.into(), dry_run: false }
}

pub(crate) async fn users(node: &Node) -> usize {
    let request = v1::GetRequest { kind: "User".into(), name: String::new() };
    node.admin().get(request).await.unwrap().into_inner().items.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn any_node_takes_writes_shows_what_others_took_and_says_who_leads() {
    let folder = TempDir::new().unwrap();
    let nodes = three(folder.path()).await;
    for (number, node) in nodes.iter().enumerate() {
        let answer = node.admin().apply(apply(&format!("u{number}"), &format!("r{number}"))).await.unwrap();
        let leader = answer.metadata().get("bailiwick-leader").unwrap().to_str().unwrap().to_owned();
        assert!(nodes.iter().any(|node| node.name() == leader), "{leader}");
        assert_eq!(answer.into_inner().problems, []);
        for other in &nodes {
            assert_eq!(users(other).await, number + 1, "{} is behind", other.name());
        }
    }
    // The same request at another node happens once.
    let first = nodes[0].admin().apply(apply("again", "same")).await.unwrap().into_inner();
    let again = nodes[1].admin().apply(apply("again", "same")).await.unwrap().into_inner();
    assert_eq!(first.revision, again.revision);
    let members = nodes[2].members().await;
    assert_eq!(members.iter().filter(|one| one.leader).count(), 1);
    assert!(members.iter().all(|one| one.reachable && one.master_keys.len() == 1), "{members:?}");
    for mut node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_token_lets_one_node_in_and_no_second() {
    let folder = TempDir::new().unwrap();
    let first = Node::start(ControlPlaneConfig { found: true, ..config(folder.path(), "cp-1") }).await;
    let token = first.join_token("data-plane", "").await;
    let join = |name: &str, role: Role| {
        let store = Store::new(folder.path().join(name), MasterKeys::load(&master_key()).unwrap());
        let wish = Wish {
            role,
            name: name.to_owned(),
            urls: vec![format!("https://{}", first.config.listen)],
            token: Some(token.parse().unwrap()),
            peer_address: String::new(),
            api_address: String::new(),
            version: String::new(),
        };
        async move { enrol(&store, &wish, &Identity::default()).await }
    };
    assert!(matches!(join("l-1", Role::Ledger).await, Err(EnrolError::OtherRole(_))));
    join("dp-1", Role::DataPlane).await.unwrap();
    assert!(matches!(join("dp-2", Role::DataPlane).await, Err(EnrolError::Refused(_))));
    let names: Vec<String> = first.members().await.into_iter().map(|one| one.name).collect();
    assert_eq!(names, ["cp-1", "dp-1"]);
    // An empty directory becomes nothing by itself.
    let alone = serve(config(folder.path(), "cp-9"), EventStream::in_process(), Shutdown::new()).await;
    assert!(alone.unwrap_err().to_string().contains("cluster init"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_node_ends_and_another_takes_its_place() {
    let folder = TempDir::new().unwrap();
    let [first, second, mut third] = three(folder.path()).await;
    let request = v1::RemoveMemberRequest { member: "cp-3".into(), ..v1::RemoveMemberRequest::default() };
    second.cluster().remove(request).await.unwrap();
    first.until_voters(&["cp-1", "cp-2"]).await;
    let (running, _) = third.life.take().unwrap();
    let ended = tokio::time::timeout(WAIT_MAX, running.stopped()).await.unwrap().unwrap_err();
    assert!(ended.to_string().contains("removed"), "{ended}");
    // Nor may it come back.
    let shutdown = Shutdown::new();
    if let Ok(running) = serve(third.config.clone(), EventStream::in_process(), shutdown.clone()).await {
        tokio::time::timeout(WAIT_MAX, running.stopped()).await.unwrap().unwrap_err();
    }
    let fourth = joined(folder.path(), "cp-4", &second).await;
    first.until_voters(&["cp-1", "cp-2", "cp-4"]).await;
    let ids: Vec<u64> = fourth.members().await.iter().map(|one| one.node_id).collect();
    assert_eq!(ids, [1, 2, 4], "an id is never given twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_removed_hands_over_first() {
    let folder = TempDir::new().unwrap();
    let [first, second, _third] = three(folder.path()).await;
    let leader = first.members().await.into_iter().find(|one| one.leader).unwrap().name;
    let request = v1::RemoveMemberRequest { member: leader.clone(), ..v1::RemoveMemberRequest::default() };
    let asked = if leader == "cp-1" { &second } else { &first };
    asked.cluster().remove(request).await.unwrap();
    let left: Vec<&str> = ["cp-1", "cp-2", "cp-3"].into_iter().filter(|name| *name != leader).collect();
    asked.until_voters(&left).await;
    asked.admin().apply(apply("after", "after")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_write_fails_while_one_node_after_the_other_restarts() {
    let folder = TempDir::new().unwrap();
    let mut nodes = three(folder.path()).await;
    let channels: Vec<Channel> = nodes.iter().map(|node| node.channel.clone()).collect();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let writing = async {
        let mut written = 0_usize;
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            let request = apply(&format!("w{written}"), &format!("w{written}"));
            write(&channels, request).await.unwrap();
            written += 1;
        }
        written
    };
    let restarting = async {
        for node in &mut nodes {
            node.restart().await;
            node.until_voters(&["cp-1", "cp-2", "cp-3"]).await;
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    let (written, ()) = tokio::join!(writing, restarting);
    assert!(written > 10, "{written}");
    for node in &nodes {
        assert_eq!(users(node).await, written);
    }
}

/// A client as `bailiwick` is one: the next node, and the same request id, while there is no answer.
pub(crate) async fn write(channels: &[Channel], request: v1::ApplyRequest) -> Result<v1::ApplyResponse, Status> {
    let mut last = Status::unknown("");
    for attempt in 0..100 {
        let mut client = AdminClient::new(channels[attempt % channels.len()].clone());
        match client.apply(request.clone()).await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) => last = status,
        }
        let repeatable = [Code::Unavailable, Code::DeadlineExceeded, Code::Unknown, Code::Cancelled];
        if !repeatable.contains(&last.code()) {
            return Err(last);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(last)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_opens_what_its_role_may_and_nothing_else() {
    let folder = TempDir::new().unwrap();
    let [first, second, _third] = three(folder.path()).await;
    let token = first.join_token("data-plane", "dp-1").await;
    let (store, identity) =
        (Store::new(folder.path().join("dp-1"), MasterKeys::load(&master_key()).unwrap()), Identity::default());
    let url = format!("https://{}", second.config.listen);
    let wish = Wish {
        role: Role::DataPlane,
        name: "dp-1".to_owned(),
        urls: vec![url.clone()],
        token: Some(token.parse().unwrap()),
        peer_address: String::new(),
        api_address: String::new(),
        version: String::new(),
    };
    let member = enrol(&store, &wish, &identity).await.unwrap();
    let tls = identity.client_config(&[b"h2"], Expect::role(Role::ControlPlane)).unwrap();
    let channel = Targets::parse(&[&url]).unwrap().channel(Some(Arc::new(tls)));
    let register = |node: &str| v1::RegisterNodeRequest {
        node: node.to_owned(),
        public_key: vec![7; 32],
        role: "data-plane".to_owned(),
    };
    let mut config = ConfigClient::new(channel.clone());
    let epoch = config.register_node(register("dp-1")).await.unwrap().into_inner().epoch;
    // A run that it may begin later, alone; once it has, the one before is not served any more.
    let reserve = |node: &str, run: u64| v1::ReserveEpochRequest { node: node.into(), run, public_key: vec![8; 32] };
    let reserved = config.reserve_epoch(reserve("dp-1", epoch)).await.unwrap().into_inner().epoch;
    assert!(reserved > epoch);
    assert_eq!(config.reserve_epoch(reserve("dp-1", 1)).await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(config.reserve_epoch(reserve("dp-2", epoch)).await.unwrap_err().code(), Code::PermissionDenied);
    let begin = |node: &str, key: u8| v1::BeginReservedRequest {
        node: node.into(),
        public_key: vec![key; 32],
        epoch: reserved,
    };
    assert_eq!(config.begin_reserved(begin("dp-1", 9)).await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(config.begin_reserved(begin("dp-2", 8)).await.unwrap_err().code(), Code::PermissionDenied);
    config.begin_reserved(begin("dp-1", 8)).await.unwrap();
    assert_eq!(Lane::open(&config, "dp-1", epoch).await.err().unwrap().code(), Code::FailedPrecondition);
    let epoch = reserved;
    let said = statement(&config, "dp-1", epoch).await;
    let word = Word { certificate: said.certificate.clone(), signature: said.signature.clone() };
    let message = bailiwick_proto::statement::message(&member.id.cluster, &said);
    identity.believe(&word, &message, Role::ControlPlane, said.time / 1_000_000).unwrap();
    let mut lane = Lane::open(&config, "dp-1", epoch).await.unwrap();
    lane.ask(0, Vec::new()).await;
    lane.lease().await;
    let other = register_with(&ConfigClient::new(first.channel.clone()), "dp-2", "data-plane").await;
    assert_eq!(Lane::open(&config, "dp-2", other).await.err().unwrap().code(), Code::PermissionDenied);
    assert_eq!(config.register_node(register("dp-2")).await.unwrap_err().code(), Code::PermissionDenied);
    let denied = AdminClient::new(channel.clone()).status(v1::StatusRequest {}).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    let denied = InternalClient::new(channel.clone()).describe(v1::DescribeRequest::default()).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);

    // Without a certificate, only enrolment is open.
    let pin = bailiwick_runtime::identity::fingerprint(&member.authority);
    let tls = Identity::default().pinned_client_config(&[b"h2"], pin).unwrap();
    let nobody = Targets::parse(&[&url]).unwrap().channel(Some(Arc::new(tls)));
    let denied = ConfigClient::new(nobody).register_node(register("dp-1")).await.unwrap_err();
    assert_eq!(denied.code(), Code::Unauthenticated);

    // Who claims to hand a request on must be a control plane.
    let mut forged = tonic::Request::new(v1::StatusRequest {});
    forged.metadata_mut().insert("bailiwick-caller", "loopback".parse().unwrap());
    let denied = AdminClient::new(channel.clone()).status(forged).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);

    // Once removed, the certificate opens nothing, though it has most of an hour left, and what is open ends.
    let request = v1::RemoveMemberRequest { member: "dp-1".into(), ..v1::RemoveMemberRequest::default() };
    first.cluster().remove(request).await.unwrap();
    let denied = ConfigClient::new(channel).register_node(register("dp-1")).await.unwrap_err();
    assert_eq!(denied.code(), Code::Unauthenticated);
    lane.ask(0, Vec::new()).await;
    assert_eq!(lane.next().await.unwrap_err().code(), Code::FailedPrecondition, "nothing is leased to it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_restored_begins_a_new_life_and_refuses_the_old_one() {
    let folder = TempDir::new().unwrap();
    let mut nodes = three(folder.path()).await;
    nodes[1].admin().apply(apply("kept", "kept")).await.unwrap();
    let mut chunks = nodes[2].cluster().backup(v1::BackupRequest {}).await.unwrap().into_inner();
    let mut backup = Vec::new();
    while let Some(chunk) = chunks.message().await.unwrap() {
        backup.extend(chunk.data);
    }
    let path = folder.path().join("b.bwb");
    std::fs::write(&path, &backup).unwrap();
    for node in &mut nodes {
        node.stop().await;
    }
    let mut anew = config(folder.path(), "cp-new");
    (anew.listen, anew.peer_listen) = (nodes[0].config.listen, nodes[0].config.peer_listen);
    let (begun, summary) = restore(&path, &anew).await.unwrap();
    assert!(begun.node_id > 1_000 && summary.revision > 0, "{begun:?}");
    assert!(restore(&path, &anew).await.is_err(), "a directory that belongs to a cluster stays as it is");
    assert!(init(&anew).await.is_err());
    let restored = Node::start(anew).await;
    assert_eq!(users(&restored).await, 1);
    restored.until_voters(&["cp-new"]).await;
    restored.admin().apply(apply("more", "more")).await.unwrap();
    let joining = joined(folder.path(), "cp-next", &restored).await;
    restored.until_voters(&["cp-new", "cp-next"]).await;
    assert_eq!(users(&joining).await, 2);
    // A node of the former life finds nobody to follow.
    nodes[1] = Node::start(nodes[1].config.clone()).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(nodes[1].admin().status(v1::StatusRequest {}).await.unwrap_err().code(), Code::Unavailable);
    let mut rotten = backup;
    let middle = rotten.len() / 2;
    rotten[middle] ^= 1;
    std::fs::write(&path, rotten).unwrap();
    assert!(restore(&path, &config(folder.path(), "cp-x")).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_begun_offline_is_served_afterwards() {
    let folder = TempDir::new().unwrap();
    let wanted = config(folder.path(), "cp-1");
    let nowhere = ControlPlaneConfig { peer_listen: ([127, 0, 0, 1], 0).into(), ..wanted.clone() };
    assert!(init(&nowhere).await.unwrap_err().to_string().contains("peer_listen"), "ports must be named");
    let begun = init(&wanted).await.unwrap();
    assert_eq!((begun.node_id, begun.fingerprint.len(), begun.cluster_id.len()), (1, 64, 32));
    let node = Node::start(wanted).await;
    node.until_voters(&["cp-1"]).await;
    assert!(node.join_token("ledger", "").await.starts_with("bwj1.ledger."));
}

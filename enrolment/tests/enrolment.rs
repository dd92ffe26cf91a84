//! A newcomer and a control plane that only enrols, over real sockets, with a clock that the tests move.
#![expect(clippy::unwrap_used, reason = "a test that panics fails, as it should")]

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bailiwick_enrolment::{
    EnrolError, JoinToken, Joining, Membership, Store, Urls, Wish, enrol, enrol_message, join, keep, renew,
    renew_message,
};
use bailiwick_proto::v1::{
    self, EnrolRequest, EnrolResponse, RenewRequest, RenewResponse,
    enrolment_server::{Enrolment, EnrolmentServer},
};
use bailiwick_runtime::{
    Identity, MasterKeyConfig, MasterKeys, Shutdown, Supervisor,
    authority::{Authority, CERTIFICATE_SECONDS},
    connect::Targets,
    identity::{NodeKey, Role, SpiffeId, fingerprint, verify_proof},
    private_file, tls,
};
use rustls::{pki_types::UnixTime, time_provider::TimeProvider};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, transport::Server};

const CLUSTER: &str = "00ff";
const WAIT_MAX: Duration = Duration::from_secs(20);

#[derive(Clone, Debug)]
struct Clock(Arc<AtomicU64>);

impl Clock {
    fn forward(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::Relaxed);
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.load(Ordering::Relaxed))))
    }
}

/// Enrols everybody whose proof is right, under the name it says, or always under another one.
#[derive(Clone)]
struct Enroller {
    authority: Arc<Authority>,
    identity: Identity,
    certify_as: Option<&'static str>,
    /// How often each method was called.
    calls: Arc<Mutex<(u32, u32)>>,
}

impl Enroller {
    fn certificate(&self, role: &str, name: &str, public_key: &[u8]) -> Vec<u8> {
        let role = Role::from_word(role).unwrap();
        let node_id = (role == Role::ControlPlane).then_some(7);
        let name = self.certify_as.unwrap_or(name).to_owned();
        let id = SpiffeId { cluster: CLUSTER.to_owned(), role, node_id, name };
        self.authority.issue(&id, public_key, self.identity.now()).unwrap()
    }
}

#[tonic::async_trait]
impl Enrolment for Enroller {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<EnrolResponse>, Status> {
        self.calls.lock().unwrap().0 += 1;
        let request = request.into_inner();
        assert!(verify_proof(&request.public_key, &enrol_message(&request.token), &request.proof));
        if request.name == "refused" {
            return Err(Status::permission_denied("the join token is not known"));
        }
        let node_id = if request.role == "control-plane" { 7 } else { 0 };
        let member = v1::MemberAddress { node_id: 1, name: "cp-1".into(), ..Default::default() };
        Ok(Response::new(EnrolResponse {
            certificate: self.certificate(&request.role, &request.name, &request.public_key),
            authority: self.authority.certificate().to_vec(),
            cluster_id: CLUSTER.to_owned(),
            node_id,
            incarnation: "1".to_owned(),
            members: vec![member],
        }))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        self.calls.lock().unwrap().1 += 1;
        let request = request.into_inner();
        let message =
            renew_message(&request.role, &request.name, request.time, [&request.peer_address, &request.api_address]);
        assert!(verify_proof(&request.public_key, &message, &request.proof));
        Ok(Response::new(RenewResponse {
            certificate: self.certificate(&request.role, &request.name, &request.public_key),
            authority: self.authority.certificate().to_vec(),
            members: Vec::new(),
        }))
    }
}

struct World {
    clock: Clock,
    enroller: Enroller,
    address: SocketAddr,
    supervisor: Supervisor,
    folder: tempfile::TempDir,
    master: MasterKeyConfig,
}

impl World {
    async fn start(certify_as: Option<&'static str>) -> Self {
        let clock = Clock(Arc::new(AtomicU64::new(Identity::default().now())));
        let (key, identity) = (NodeKey::generate().unwrap(), Identity::new(Arc::new(clock.clone())));
        let certificate = Authority::create(CLUSTER, &key, identity.now()).unwrap();
        let authority = Arc::new(Authority::open(&certificate, &key).unwrap());
        let enroller = Enroller { authority, identity, certify_as, calls: Arc::default() };
        certify_server(&enroller);
        let (supervisor, listener) =
            (Supervisor::new(Shutdown::new()), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let address = listener.local_addr().unwrap();
        let incoming = tls::incoming(listener, &enroller.identity, true, &supervisor).unwrap();
        let serving = Server::builder().add_service(EnrolmentServer::new(enroller.clone()));
        supervisor.spawn("server", bailiwick_runtime::OnEnd::Finish, async move {
            serving.serve_with_incoming(incoming).await.unwrap();
        });
        let folder = tempfile::tempdir().unwrap();
        let master = MasterKeyConfig::ensure_file(&folder.path().join("master.key")).unwrap();
        Self { clock, enroller, address, supervisor, folder, master }
    }

    fn store(&self) -> Store {
        Store::new(self.folder.path().join("data/keys"), MasterKeys::load(&self.master).unwrap())
    }

    fn identity(&self) -> Identity {
        Identity::new(Arc::new(self.clock.clone()))
    }

    fn token(&self, role: Role) -> JoinToken {
        let fingerprint = fingerprint(self.enroller.authority.certificate());
        JoinToken::new(role, "j-1", &"ab".repeat(32), fingerprint).unwrap()
    }

    fn wish(&self, name: &str, token: Option<JoinToken>) -> Wish {
        Wish {
            role: Role::DataPlane,
            name: name.to_owned(),
            urls: vec![format!("https://{}", self.address)],
            token,
            peer_address: String::new(),
            api_address: String::new(),
            version: "1".to_owned(),
        }
    }

    async fn enrol(&self, name: &str, token: Option<JoinToken>) -> Result<Membership, EnrolError> {
        enrol(&self.store(), &self.wish(name, token), &self.identity()).await
    }

    fn targets(&self) -> Targets {
        Targets::parse(&[format!("https://{}", self.address)]).unwrap()
    }

    fn calls(&self) -> (u32, u32) {
        *self.enroller.calls.lock().unwrap()
    }
}

fn certify_server(enroller: &Enroller) {
    let key = NodeKey::generate().unwrap();
    let id = "spiffe://00ff.bailiwick/control-plane/1/cp-1".parse().unwrap();
    let certificate = enroller.authority.issue(&id, key.public_key(), enroller.identity.now()).unwrap();
    enroller.identity.install(&certificate, enroller.authority.certificate(), &key).unwrap();
}

#[tokio::test]
async fn a_token_makes_a_member_once_and_the_membership_is_remembered() {
    let world = World::start(None).await;
    let membership = world.enrol("dp-1", Some(world.token(Role::DataPlane))).await.unwrap();
    assert_eq!(membership.id.to_string(), "spiffe://00ff.bailiwick/data-plane/dp-1");
    assert_eq!(membership.members.len(), 1);
    let again = world.identity();
    assert_eq!(enrol(&world.store(), &world.wish("dp-1", None), &again).await.unwrap(), membership);
    assert_eq!((again.id().unwrap(), world.calls()), (membership.id, (1, 0)));
    let error = world.enrol("dp-2", None).await.unwrap_err().to_string();
    assert!(error.contains("dp-1") && error.contains("dp-2"), "{error}");
}

#[tokio::test]
async fn with_the_wrong_fingerprint_nothing_is_sent() {
    let world = World::start(None).await;
    let token = JoinToken::new(Role::DataPlane, "j-1", &"ab".repeat(32), [7; 32]).unwrap();
    let error = tokio::time::timeout(WAIT_MAX, world.enrol("dp-1", Some(token))).await.unwrap().unwrap_err();
    assert!(matches!(error, EnrolError::Impostor(_)), "{error}");
    assert!(!error.to_string().contains("abab"));
    assert_eq!(world.calls(), (0, 0));
}

#[tokio::test]
async fn a_refusal_is_final_and_the_rest_is_refused_here() {
    let world = World::start(None).await;
    let refused = world.enrol("refused", Some(world.token(Role::DataPlane))).await.unwrap_err();
    assert!(matches!(refused, EnrolError::Refused(_)), "{refused}");
    let other = world.enrol("dp-1", Some(world.token(Role::Ledger))).await.unwrap_err();
    assert!(matches!(other, EnrolError::OtherRole("ledger")), "{other}");
    let none = world.enrol("dp-1", None).await.unwrap_err().to_string();
    assert!(none.contains("bailiwick cluster join-token --role data-plane"), "{none}");
    let mut plain = world.wish("dp-1", Some(world.token(Role::DataPlane)));
    plain.urls = vec![format!("http://{}", world.address)];
    assert!(matches!(enrol(&world.store(), &plain, &world.identity()).await, Err(EnrolError::NotTls)));
    assert_eq!(world.calls(), (1, 0), "a token is never sent in clear or for another role");
}

#[tokio::test]
async fn a_certificate_for_somebody_else_is_not_taken() {
    let world = World::start(Some("dp-9")).await;
    let error = world.enrol("dp-1", Some(world.token(Role::DataPlane))).await.unwrap_err();
    assert!(matches!(error, EnrolError::WrongAnswer), "{error}");
    assert_eq!(world.store().membership().unwrap(), None);
}

#[tokio::test]
async fn a_certificate_is_renewed_at_half_of_its_life_and_after_it_has_expired() {
    let world = World::start(None).await;
    let identity = world.identity();
    let wish = world.wish("dp-1", Some(world.token(Role::DataPlane)));
    let membership = enrol(&world.store(), &wish, &identity).await.unwrap();
    let (first, mut changes) = (identity.validity().unwrap(), identity.changes());
    let keeping = keep(
        world.store(),
        membership.clone(),
        identity.clone(),
        world.targets(),
        Vec::new(),
        "1".to_owned(),
        world.supervisor.shutdown().clone(),
    );
    world.supervisor.spawn("keep", bailiwick_runtime::OnEnd::Finish, keeping);
    changes.mark_unchanged();
    world.clock.forward(first.half_life() - identity.now());
    tokio::time::timeout(WAIT_MAX, changes.changed()).await.unwrap().unwrap();
    let second = identity.validity().unwrap();
    assert!(second.not_after > first.not_after);
    assert_eq!(world.calls(), (1, 1));
    world.clock.forward(2 * CERTIFICATE_SECONDS);
    certify_server(&world.enroller);
    tokio::time::timeout(WAIT_MAX, changes.changed()).await.unwrap().unwrap();
    assert!(identity.validity().unwrap().not_before > second.not_after);
    world.supervisor.shutdown().request();
    world.supervisor.ended().await.unwrap();
    // What is kept is the renewed one.
    assert_eq!(world.store().membership().unwrap().unwrap().certificate, identity.certificate().unwrap());
}

#[tokio::test]
async fn a_renewal_by_another_authority_is_not_taken() {
    let (ours, theirs) = (World::start(None).await, World::start(None).await);
    let identity = ours.identity();
    let wish = ours.wish("dp-1", Some(ours.token(Role::DataPlane)));
    let membership = enrol(&ours.store(), &wish, &identity).await.unwrap();
    let key = ours.store().key().unwrap();
    let error = renew(&membership, &key, &identity, &theirs.targets(), "1").await.unwrap_err();
    assert!(matches!(error, EnrolError::Unreachable(_)), "{error}");
    assert_eq!(theirs.calls(), (0, 0));
    assert_eq!(identity.certificate().unwrap(), membership.certificate);
}

#[tokio::test]
async fn sealed_files_follow_a_new_master_key_without_a_restart() {
    let world = World::start(None).await;
    let file = world.folder.path().join("data/keys/other.key");
    let before = MasterKeys::load(&world.master).unwrap();
    bailiwick_runtime::sealed_file::write(&file, &before, b"secret").unwrap();
    let joining = Joining {
        role: Role::DataPlane,
        name: "dp-1".to_owned(),
        urls: Urls::Many(vec![format!("https://{}", world.address)]),
        join_token: Some(world.token(Role::DataPlane).expose().to_string().into()),
        join_token_file: None,
        keys: world.folder.path().join("data/keys"),
        master_keys: before,
        sealed_files: vec![file.clone()],
        version: "1".to_owned(),
    };
    assert!(!format!("{joining:?}").contains("abab"));
    join(joining, &world.supervisor).await.unwrap();
    let path = world.folder.path().join("master.key");
    let old = private_file::read(&path).unwrap();
    let both = [b"00112233445566778899aabbccddeeff".repeat(2), b"\n".to_vec(), old].concat();
    private_file::write(&path, &both).unwrap();
    let only_new = "00112233445566778899aabbccddeeff".repeat(2);
    let new = MasterKeys::load(&MasterKeyConfig { key: Some(only_new), ..Default::default() }).unwrap();
    let followed = async {
        while bailiwick_runtime::sealed_file::read(&file, &new).is_err()
            || Store::new(world.folder.path().join("data/keys"), new.clone()).membership().is_err()
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(WAIT_MAX, followed).await.unwrap_or_else(|_| panic!("the files stay under the old key"));
    world.supervisor.shutdown().request();
    world.supervisor.ended().await.unwrap();
}

#[test]
fn plain_http_is_only_for_this_machine() {
    for good in ["http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1", "https://cp.example:8431,https://b:1"] {
        assert_eq!(Urls::from(good).check(), Ok(()), "{good}");
    }
    for bad in ["http://10.0.0.1:1", "http://cp.example:1", "https://a:1,http://b:1", "", "nowhere"] {
        assert!(Urls::from(bad).check().is_err(), "{bad}");
    }
}

//! Redeeming tokens and renewing, with a clock that the tests move.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bailiwick_consensus::{Alone, Birth, Consensus, LogLength, Member, Options, RocksDisk, Timers};
use bailiwick_control_plane_core::{
    join_token::{CreateJoinToken, LIFETIME_SECONDS},
    member::{FoundCluster, RemoveMember, Role},
};
use bailiwick_runtime::{MasterKeyConfig, MasterKeys, identity::NodeKey, metrics::Registry};
use rustls::pki_types::CertificateDer;
use tonic::Code;

use super::*;
use crate::{
    clock::Surroundings,
    config_stream::feed::Feed,
    domain::{Projection, Shared, run_writer},
    metrics::Metrics,
    vault::Vault,
};

/// The system's time, moved.
#[derive(Clone, Debug, Default)]
struct Later(Arc<AtomicU64>);

impl Surroundings for Later {
    fn now_micros(&self) -> u64 {
        clock::now_micros() + self.0.load(Ordering::Relaxed)
    }

    fn random(&self) -> Result<[u8; 16], aws_lc_rs::error::Unspecified> {
        clock::random()
    }
}

struct World {
    service: EnrolmentService,
    later: Later,
}

async fn in_a_cluster(work: impl AsyncFnOnce(&World)) {
    let folder = tempfile::tempdir().unwrap();
    let (shared, later) = (Shared::default(), Later::default());
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
    consensus.ready(std::time::Duration::from_secs(10)).await.unwrap();
    let (domain, mailbox) = Domain::within(consensus.clone(), shared.clone(), Arc::new(later.clone()));
    let writer = run_writer(mailbox, consensus.clone(), shared, Metrics::register(&Registry::new()));
    let all = async {
        let wish = FoundCluster {
            cluster_id: "0".repeat(32),
            incarnation: "0".repeat(16),
            name: "cp-1".into(),
            public_key: NodeKey::generate().unwrap().public_key().to_vec(),
            peer: "h:1".into(),
            api: "https://h:2".into(),
        };
        domain.write(Command::FoundCluster(wish), admin()).await.unwrap();
        let config = MasterKeyConfig { key: Some("0123".repeat(16)), ..MasterKeyConfig::default() };
        let vault = Vault::new(MasterKeys::load(&config).unwrap(), Vec::new());
        vault.create_missing(&domain).await.unwrap();
        let world = World { service: EnrolmentService { domain: domain.clone(), keys: vault.keys() }, later };
        work(&world).await;
    };
    tokio::select! {
        () = all => {}
        () = writer => panic!("the writer ended"),
    }
    drop(domain);
    consensus.shutdown().await;
}

fn admin() -> Caller {
    Caller { actor: "admin".into(), request_id: String::new() }
}

impl World {
    async fn token(&self, id: &str, role: identity::Role, name: &str) -> JoinToken {
        let fingerprint = self.service.keys.authority_fingerprint().unwrap();
        let secret = bailiwick_enrolment::fresh_secret().unwrap();
        let token = JoinToken::new(role, id, &secret, fingerprint).unwrap();
        let wish = CreateJoinToken {
            id: id.to_owned(),
            secret_hash: token.secret_hash(),
            role: Role::from_word(role.as_str()).unwrap(),
            learner: false,
            name: name.to_owned(),
        };
        self.service.domain.write(Command::CreateJoinToken(wish), admin()).await.unwrap();
        token
    }

    async fn enrol(&self, request: v1::EnrolRequest) -> Result<v1::EnrolResponse, Code> {
        self.service.enrol(Request::new(request)).await.map(Response::into_inner).map_err(|status| status.code())
    }

    async fn renew(&self, request: v1::RenewRequest) -> Result<v1::RenewResponse, Code> {
        self.service.renew(Request::new(request)).await.map(Response::into_inner).map_err(|status| status.code())
    }
}

fn request(token: &JoinToken, role: &str, name: &str, key: &NodeKey) -> v1::EnrolRequest {
    let text = token.expose();
    v1::EnrolRequest {
        token: text.to_string(),
        role: role.to_owned(),
        name: name.to_owned(),
        public_key: key.public_key().to_vec(),
        proof: key.sign(&enrol_message(&text)).unwrap(),
        ..v1::EnrolRequest::default()
    }
}

fn renewal(role: &str, name: &str, key: &NodeKey, time: u64) -> v1::RenewRequest {
    v1::RenewRequest {
        role: role.to_owned(),
        name: name.to_owned(),
        public_key: key.public_key().to_vec(),
        time,
        proof: key.sign(&renew_message(role, name, time, ["", ""])).unwrap(),
        ..v1::RenewRequest::default()
    }
}

fn millis() -> u64 {
    clock::now_micros() / 1_000
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_once_for_its_role_and_name_and_for_ten_minutes() {
    in_a_cluster(async |world| {
        let (key, other) = (NodeKey::generate().unwrap(), NodeKey::generate().unwrap());
        let token = world.token("j-1", identity::Role::DataPlane, "dp-1").await;
        for (role, name) in [("ledger", "dp-1"), ("control-plane", "dp-1"), ("admin", "dp-1"), ("data-plane", "dp-2")] {
            let refused = world.enrol(request(&token, role, name, &key)).await.unwrap_err();
            assert!(matches!(refused, Code::PermissionDenied | Code::InvalidArgument), "{role} {name} {refused:?}");
        }
        let enrolled = world.enrol(request(&token, "data-plane", "dp-1", &key)).await.unwrap();
        let (id, validity, public) = identity::read(&CertificateDer::from(enrolled.certificate)).unwrap();
        assert_eq!(id.to_string(), format!("spiffe://{}.bailiwick/data-plane/dp-1", "0".repeat(32)));
        assert_eq!((public, validity.not_after - validity.not_before), (key.public_key().to_vec(), 3_900));
        assert_eq!((enrolled.node_id, enrolled.members.len()), (0, 1));
        world
            .enrol(request(&token, "data-plane", "dp-1", &key))
            .await
            .expect("the answer was lost; the same key again");
        let reused = world.enrol(request(&token, "data-plane", "dp-1", &other)).await;
        assert_eq!(reused.unwrap_err(), Code::PermissionDenied);

        let late = world.token("j-2", identity::Role::Ledger, "").await;
        world.later.0.store(LIFETIME_SECONDS * MICROS + MICROS, Ordering::Relaxed);
        assert_eq!(world.enrol(request(&late, "ledger", "l", &key)).await.unwrap_err(), Code::PermissionDenied);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guessed_secret_a_stolen_request_and_another_clusters_token_are_refused() {
    in_a_cluster(async |world| {
        let (key, thief) = (NodeKey::generate().unwrap(), NodeKey::generate().unwrap());
        let token = world.token("j-1", identity::Role::DataPlane, "").await;
        let guess = JoinToken::new(token.role, "j-1", &"ab".repeat(32), token.fingerprint).unwrap();
        let denied = [
            request(&guess, "data-plane", "dp-1", &key),
            // Somebody saw the request and puts another key into it.
            v1::EnrolRequest { public_key: thief.public_key().to_vec(), ..request(&token, "data-plane", "dp-1", &key) },
            v1::EnrolRequest { proof: key.sign(b"x").unwrap(), ..request(&token, "data-plane", "dp-1", &key) },
            request(&JoinToken::new(token.role, "j-1", &"ab".repeat(32), [1; 32]).unwrap(), "data-plane", "dp-1", &key),
        ];
        for request in denied {
            assert_eq!(world.enrol(request).await.unwrap_err(), Code::PermissionDenied);
        }
        let good = request(&token, "data-plane", "dp-1", &key);
        for malformed in [
            v1::EnrolRequest { token: "bwj1.x".into(), ..good.clone() },
            v1::EnrolRequest { name: "n".repeat(600), ..good.clone() },
            v1::EnrolRequest { version: "a\nb".into(), ..good.clone() },
            v1::EnrolRequest { role: "root".into(), ..good.clone() },
        ] {
            assert_eq!(world.enrol(malformed).await.unwrap_err(), Code::InvalidArgument);
        }
        world.enrol(good).await.expect("none of that used the token up");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_member_with_its_own_key_gets_a_renewal_and_a_removed_one_gets_none() {
    in_a_cluster(async |world| {
        let (key, other) = (NodeKey::generate().unwrap(), NodeKey::generate().unwrap());
        let token = world.token("j-1", identity::Role::DataPlane, "").await;
        world.enrol(request(&token, "data-plane", "dp-1", &key)).await.unwrap();
        let renewed = world.renew(renewal("data-plane", "dp-1", &key, millis())).await.unwrap();
        let (id, _, public) = identity::read(&CertificateDer::from(renewed.certificate)).unwrap();
        assert_eq!((id.name.as_str(), public), ("dp-1", key.public_key().to_vec()));
        assert_eq!(fingerprint(&renewed.authority), token.fingerprint);
        let stale = millis() - 6 * 60 * 1_000;
        let signed_for_other =
            v1::RenewRequest { name: "dp-2".into(), ..renewal("data-plane", "dp-1", &key, millis()) };
        for (request, code) in [
            (renewal("data-plane", "dp-1", &key, stale), Code::PermissionDenied),
            (renewal("data-plane", "dp-1", &key, stale + 12 * 60 * 1_000), Code::PermissionDenied),
            (renewal("data-plane", "dp-1", &other, millis()), Code::PermissionDenied),
            (renewal("ledger", "dp-1", &key, millis()), Code::NotFound),
            (renewal("data-plane", "dp-2", &key, millis()), Code::NotFound),
            (signed_for_other, Code::PermissionDenied),
        ] {
            assert_eq!(world.renew(request).await.unwrap_err(), code);
        }
        let gone = RemoveMember { member: "dp-1".into(), force: false, answering: [1].into() };
        world.service.domain.write(Command::RemoveMember(gone), admin()).await.unwrap();
        let refused = world.renew(renewal("data-plane", "dp-1", &key, millis())).await;
        assert_eq!(refused.unwrap_err(), Code::NotFound);
    })
    .await;
}

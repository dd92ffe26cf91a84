//! TLS between members, over pipes in memory, with a clock that the test moves.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustls::pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::authority::{Authority, CERTIFICATE_SECONDS, SKEW_SECONDS};

const NOW: u64 = 1_800_000_000;

#[derive(Clone, Debug)]
struct Clock(Arc<AtomicU64>);

impl Clock {
    fn new() -> Self {
        Self(Arc::new(AtomicU64::new(NOW)))
    }

    fn forward(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::Relaxed);
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.load(Ordering::Relaxed))))
    }
}

struct World {
    clock: Clock,
    authority: Authority,
    cluster: &'static str,
}

impl World {
    fn new(cluster: &'static str, clock: &Clock) -> Self {
        let key = NodeKey::generate().unwrap();
        let certificate = Authority::create(cluster, &key, NOW).unwrap();
        Self { clock: clock.clone(), authority: Authority::open(&certificate, &key).unwrap(), cluster }
    }

    fn id(&self, role: Role, name: &str) -> SpiffeId {
        let node_id = (role == Role::ControlPlane).then_some(3);
        SpiffeId { cluster: self.cluster.to_owned(), role, node_id, name: name.to_owned() }
    }

    fn member(&self, role: Role, name: &str) -> (Identity, NodeKey) {
        let (identity, key) = (Identity::new(Arc::new(self.clock.clone())), NodeKey::generate().unwrap());
        self.renew(&identity, &key, &self.id(role, name));
        (identity, key)
    }

    fn renew(&self, identity: &Identity, key: &NodeKey, id: &SpiffeId) {
        let certificate = self.authority.issue(id, key.public_key(), identity.now()).unwrap();
        identity.install(&certificate, self.authority.certificate(), key).unwrap();
    }
}

/// Whether both ends finish a handshake and see a byte of each other.
async fn meet(server: ServerConfig, client: ClientConfig) -> Result<Option<SpiffeId>, String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (near, far) = tokio::io::duplex(64 * 1024);
    let name = ServerName::try_from(SERVER_NAME).unwrap();
    let serving = async {
        let mut tls = TlsAcceptor::from(Arc::new(server)).accept(far).await.map_err(|error| error.to_string())?;
        tls.write_all(b"x").await.map_err(|error| error.to_string())?;
        tls.flush().await.map_err(|error| error.to_string())?;
        Ok(tls.get_ref().1.peer_certificates().map(|chain| read(&chain[0]).unwrap().0))
    };
    let asking = async {
        let mut tls =
            TlsConnector::from(Arc::new(client)).connect(name, near).await.map_err(|error| error.to_string())?;
        tls.read_u8().await.map_err(|error| error.to_string())
    };
    let (served, asked): (Result<_, String>, Result<_, String>) = tokio::join!(serving, asking);
    asked?;
    served
}

fn h2(identity: &Identity, anonymous: bool) -> ServerConfig {
    identity.server_config(&[b"h2"], anonymous).unwrap()
}

fn to(identity: &Identity, expect: Expect) -> ClientConfig {
    identity.client_config(&[b"h2"], expect).unwrap()
}

#[tokio::test]
async fn members_of_a_cluster_know_each_other_and_nobody_needs_a_host_name() {
    let world = World::new("aa", &Clock::new());
    let (cp, _) = world.member(Role::ControlPlane, "cp-3");
    let (dp, _) = world.member(Role::DataPlane, "dp-1");
    let met = meet(h2(&cp, false), to(&dp, Expect::control_plane(3))).await.unwrap();
    assert_eq!(met, Some(world.id(Role::DataPlane, "dp-1")));
}

#[tokio::test]
async fn another_role_id_or_name_than_expected_is_refused() {
    let world = World::new("aa", &Clock::new());
    let (cp, _) = world.member(Role::ControlPlane, "cp-3");
    let (dp, _) = world.member(Role::DataPlane, "dp-1");
    let named = Expect { name: Some("cp-4".to_owned()), ..Expect::role(Role::ControlPlane) };
    for expect in [Expect::role(Role::Ledger), Expect::control_plane(4), named] {
        assert!(meet(h2(&cp, false), to(&dp, expect.clone())).await.is_err(), "{expect:?}");
    }
    let (impostor, _) = world.member(Role::DataPlane, "cp-3");
    assert!(meet(h2(&impostor, false), to(&dp, Expect::role(Role::ControlPlane))).await.is_err());
}

#[tokio::test]
async fn a_certificate_of_another_cluster_is_refused_on_both_sides() {
    let clock = Clock::new();
    let (ours, theirs) = (World::new("aa", &clock), World::new("aa", &clock));
    let (cp, _) = ours.member(Role::ControlPlane, "cp-3");
    let (stranger, _) = theirs.member(Role::ControlPlane, "cp-3");
    assert!(meet(h2(&cp, false), to(&stranger, Expect::control_plane(3))).await.is_err());
    // One that would believe anybody is still not believed.
    let pin = fingerprint(ours.authority.certificate());
    let mut gullible = stranger.pinned_client_config(&[b"h2"], pin).unwrap();
    gullible.client_auth_cert_resolver = Arc::new(Resolver(stranger.clone()));
    assert!(meet(h2(&cp, true), gullible).await.is_err());
    // The same authority with another trust domain, as a restored cluster under a new name would have.
    let renamed = World { clock, authority: ours.authority, cluster: "bb" };
    let (other, _) = renamed.member(Role::DataPlane, "dp-1");
    assert!(meet(h2(&cp, true), to(&other, Expect::control_plane(3))).await.is_err());
}

#[tokio::test]
async fn an_expired_certificate_is_refused_and_a_renewed_one_works_without_a_new_configuration() {
    let clock = Clock::new();
    let world = World::new("aa", &clock);
    let (cp, cp_key) = world.member(Role::ControlPlane, "cp-3");
    let (dp, dp_key) = world.member(Role::DataPlane, "dp-1");
    let (server, client) = (h2(&cp, false), to(&dp, Expect::control_plane(3)));
    meet(server.clone(), client.clone()).await.unwrap();
    clock.forward(CERTIFICATE_SECONDS + 1);
    assert!(meet(server.clone(), client.clone()).await.is_err(), "the server's has expired");
    world.renew(&cp, &cp_key, &world.id(Role::ControlPlane, "cp-3"));
    assert!(meet(server.clone(), client.clone()).await.is_err(), "the client's has expired");
    let validity = dp.validity().unwrap();
    assert!(validity.is_due(cp.now()) && !validity.is_due(NOW) && validity.is_due(NOW - SKEW_SECONDS - 1));
    world.renew(&dp, &dp_key, &world.id(Role::DataPlane, "dp-1"));
    meet(server, client).await.unwrap();
}

#[tokio::test]
async fn a_clock_a_little_behind_does_no_harm_and_one_far_behind_is_refused() {
    let clock = Clock::new();
    let world = World::new("aa", &clock);
    let (cp, _) = world.member(Role::ControlPlane, "cp-3");
    for (behind, good) in [(SKEW_SECONDS - 1, true), (SKEW_SECONDS + 1, false)] {
        let late = Clock(Arc::new(AtomicU64::new(NOW - behind)));
        let (dp, key) = (Identity::new(Arc::new(late)), NodeKey::generate().unwrap());
        let certificate = world.authority.issue(&world.id(Role::DataPlane, "dp"), key.public_key(), NOW).unwrap();
        dp.install(&certificate, world.authority.certificate(), &key).unwrap();
        assert_eq!(meet(h2(&cp, false), to(&dp, Expect::control_plane(3))).await.is_ok(), good, "{behind}");
    }
}

#[tokio::test]
async fn a_newcomer_believes_only_the_pinned_authority_and_is_nobody_itself() {
    let clock = Clock::new();
    let (ours, theirs) = (World::new("aa", &clock), World::new("aa", &clock));
    let (cp, _) = ours.member(Role::ControlPlane, "cp-3");
    let newcomer = Identity::new(Arc::new(clock));
    let pinned =
        |world: &World| newcomer.pinned_client_config(&[b"h2"], fingerprint(world.authority.certificate())).unwrap();
    assert_eq!(meet(h2(&cp, true), pinned(&ours)).await.unwrap(), None);
    assert!(meet(h2(&cp, false), pinned(&ours)).await.is_err(), "members only");
    assert!(meet(h2(&cp, true), pinned(&theirs)).await.is_err());
    let (dp, _) = ours.member(Role::DataPlane, "dp-1");
    assert!(meet(h2(&dp, true), pinned(&ours)).await.is_err(), "no data plane gets a token");
    // Nor does it help to show the right authority beside a certificate it did not sign.
    let (fake, fake_key) = theirs.member(Role::ControlPlane, "cp-3");
    let mut server = h2(&fake, true);
    let key = fake.0.provider.key_provider.load_private_key(PrivatePkcs8KeyDer::from(fake_key.pkcs8().to_vec()).into());
    let leaf = CertificateDer::from(fake.certificate().unwrap());
    let chain = vec![leaf, CertificateDer::from(ours.authority.certificate().to_vec())];
    server.cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(CertifiedKey::new(chain, key.unwrap())));
    assert!(meet(server, pinned(&ours)).await.is_err());
}

#[tokio::test]
async fn nobody_can_be_met_before_a_certificate_is_installed() {
    let clock = Clock::new();
    let world = World::new("aa", &clock);
    let (cp, _) = world.member(Role::ControlPlane, "cp-3");
    let nobody = Identity::new(Arc::new(clock));
    assert!(meet(h2(&nobody, true), to(&cp, Expect::role(Role::ControlPlane))).await.is_err());
    assert!(meet(h2(&cp, true), to(&nobody, Expect::role(Role::ControlPlane))).await.is_err());
}

#[test]
fn a_certificate_for_another_key_or_of_another_authority_is_not_installed() {
    let clock = Clock::new();
    let (ours, theirs) = (World::new("aa", &clock), World::new("aa", &clock));
    let (identity, key) = (Identity::new(Arc::new(clock)), NodeKey::generate().unwrap());
    let certificate = ours.authority.issue(&ours.id(Role::Ledger, "l"), key.public_key(), NOW).unwrap();
    let other = NodeKey::generate().unwrap();
    let authority = ours.authority.certificate();
    assert!(matches!(identity.install(&certificate, authority, &other), Err(IdentityError::OtherKey)));
    let wrong = identity.install(&certificate, theirs.authority.certificate(), &key);
    assert!(matches!(wrong, Err(IdentityError::Chain(_))));
    assert!(matches!(identity.install(b"junk", authority, &key), Err(IdentityError::Certificate(_))));
    assert_eq!(identity.id(), None);
    identity.install(&certificate, authority, &key).unwrap();
    assert_eq!(identity.id(), Some(ours.id(Role::Ledger, "l")));
}

#[test]
fn an_authority_certifies_only_sound_names_and_p256_keys_with_a_serial_of_its_own() {
    let world = World::new("aa", &Clock::new());
    let (id, key) = (world.id(Role::Ledger, "l"), NodeKey::generate().unwrap());
    let serial = || {
        let der = world.authority.issue(&id, key.public_key(), NOW).unwrap();
        x509_parser::parse_x509_certificate(&der).unwrap().1.raw_serial().to_vec()
    };
    assert!(serial().len() == 16 && serial() != serial());
    let unsound = SpiffeId { name: "a/b".to_owned(), ..id.clone() };
    assert!(world.authority.issue(&unsound, key.public_key(), NOW).is_err());
    assert!(world.authority.issue(&id, b"junk", NOW).is_err());
    assert!(world.authority.issue(&id, &key.public_key()[1..], NOW).is_err());
}

#[test]
fn a_proof_counts_for_its_key_and_message_alone_and_no_key_is_printed() {
    let (key, other) = (NodeKey::generate().unwrap(), NodeKey::generate().unwrap());
    let proof = key.sign(b"message").unwrap();
    assert!(verify_proof(key.public_key(), b"message", &proof));
    assert!(!verify_proof(other.public_key(), b"message", &proof));
    assert!(!verify_proof(key.public_key(), b"massage", &proof));
    assert!(!verify_proof(&key.public_key()[26..], b"message", &proof), "one form of a public key, no other");
    assert_eq!(NodeKey::from_pkcs8(key.pkcs8()).unwrap().public_key(), key.public_key());
    let world = World::new("aa", &Clock::new());
    assert_eq!(format!("{key:?} {:?}", world.authority), "NodeKey(…) Authority(…)");
}

#[test]
fn a_word_is_believed_of_a_member_in_its_role_at_a_time_its_certificate_counted() {
    let clock = Clock::new();
    let (ours, theirs) = (World::new("aa", &clock), World::new("aa", &clock));
    let foreign = World::new("bb", &clock);
    let (cp, _) = ours.member(Role::ControlPlane, "cp-1");
    let (dp, _) = ours.member(Role::DataPlane, "dp-1");
    let word = cp.sign(b"so it is").unwrap();
    let believe = |word: &Word, said: &[u8], role, at| dp.believe(word, said, role, at);
    let signer = believe(&word, b"so it is", Role::ControlPlane, NOW).unwrap();
    assert_eq!((signer.role, signer.name.as_str()), (Role::ControlPlane, "cp-1"));
    assert_eq!(believe(&word, b"so it was", Role::ControlPlane, NOW), Err(NotBelieved::Signature));
    assert_eq!(believe(&word, b"so it is", Role::Admin, NOW), Err(NotBelieved::Stranger));
    for at in [NOW - 3_600, NOW + 2 * 3_600] {
        assert_eq!(believe(&word, b"so it is", Role::ControlPlane, at), Err(NotBelieved::Chain), "{at}");
    }
    let of = |world: &World| world.member(Role::ControlPlane, "cp-1").0.sign(b"so it is").unwrap();
    assert_eq!(believe(&of(&theirs), b"so it is", Role::ControlPlane, NOW), Err(NotBelieved::Chain));
    assert_eq!(believe(&of(&foreign), b"so it is", Role::ControlPlane, NOW), Err(NotBelieved::Stranger));
    assert_eq!(
        believe(&dp.sign(b"so it is").unwrap(), b"so it is", Role::ControlPlane, NOW),
        Err(NotBelieved::Stranger)
    );
    let mixed = Word { certificate: word.certificate.clone(), ..dp.sign(b"so it is").unwrap() };
    assert_eq!(believe(&mixed, b"so it is", Role::ControlPlane, NOW), Err(NotBelieved::Signature));
    let junk = Word { certificate: vec![1], ..word.clone() };
    assert_eq!(believe(&junk, b"so it is", Role::ControlPlane, NOW), Err(NotBelieved::Certificate));
    let nobody = Identity::new(Arc::new(clock));
    assert!(nobody.sign(b"x").is_none());
    assert_eq!(nobody.believe(&word, b"so it is", Role::ControlPlane, NOW), Err(NotBelieved::Nobody));
}

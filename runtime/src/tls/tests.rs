//! The listener with real sockets on loopback.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_stream::StreamExt;

use tower::Service;

use super::*;
use crate::{
    Shutdown,
    authority::Authority,
    connect::{Connector, Targets},
    identity::{Expect, NodeKey, SpiffeId},
};

struct Bench {
    authority: Authority,
    identity: Identity,
    supervisor: Supervisor,
}

fn bench() -> Bench {
    let (key, now) = (NodeKey::generate().unwrap(), Identity::default().now());
    let authority = Authority::open(&Authority::create("aa", &key, now).unwrap(), &key).unwrap();
    let identity = member(&authority, Role::ControlPlane, Some(1), "cp-1");
    Bench { authority, identity, supervisor: Supervisor::new(Shutdown::new()) }
}

fn member(authority: &Authority, role: Role, node_id: Option<u64>, name: &str) -> Identity {
    let (identity, key) = (Identity::default(), NodeKey::generate().unwrap());
    let id = SpiffeId { cluster: "aa".to_owned(), role, node_id, name: name.to_owned() };
    let certificate = authority.issue(&id, key.public_key(), identity.now()).unwrap();
    identity.install(&certificate, authority.certificate(), &key).unwrap();
    identity
}

async fn listening(bench: &Bench, plaintext: bool) -> (Incoming, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    (incoming(listener, &bench.identity, plaintext, &bench.supervisor).unwrap(), addr)
}

fn connector(url: String, tls: Option<rustls::ClientConfig>) -> Connector {
    Connector { targets: Targets::parse(&[url]).unwrap(), tls: tls.map(Arc::new) }
}

#[tokio::test]
async fn each_connection_says_who_is_at_the_other_end() {
    let bench = bench();
    let (mut incoming, addr) = listening(&bench, true).await;
    let dp = member(&bench.authority, Role::DataPlane, None, "dp-1");
    let tls = dp.client_config(&[b"h2"], Expect::role(Role::ControlPlane)).unwrap();
    let pin = crate::identity::fingerprint(bench.authority.certificate());
    let anonymous = Identity::default().pinned_client_config(&[b"h2"], pin).unwrap();
    let named = PeerIdentity::Node { role: Role::DataPlane, name: "dp-1".to_owned(), node_id: None };
    for (scheme, tls, expected) in [
        ("http", None, PeerIdentity::Loopback),
        ("https", Some(tls), named),
        ("https", Some(anonymous), PeerIdentity::Anonymous),
    ] {
        let mut connector = connector(format!("{scheme}://{addr}"), tls);
        let mut near = Service::call(&mut connector, "http://x".parse().unwrap()).await.unwrap().into_inner();
        near.write_all(b"hello").await.unwrap();
        near.flush().await.unwrap();
        let mut far = incoming.next().await.unwrap().unwrap();
        let mut heard = [0; 5];
        far.read_exact(&mut heard).await.unwrap();
        assert_eq!((&heard, far.connect_info()), (b"hello", expected));
        far.write_all(b"x").await.unwrap();
        far.flush().await.unwrap();
        assert_eq!(near.read_u8().await.unwrap(), b'x');
    }
}

#[tokio::test]
async fn a_connection_ends_with_the_certificate_it_was_opened_with() {
    let bench = bench();
    let (mut incoming, addr) = listening(&bench, true).await;
    // A member whose clock is behind the listener's: its certificate has a second left there.
    let (dp, key) = (Identity::default(), NodeKey::generate().unwrap());
    let id = SpiffeId { cluster: "aa".to_owned(), role: Role::DataPlane, node_id: None, name: "dp-1".to_owned() };
    let almost_over = dp.now() - crate::authority::CERTIFICATE_SECONDS + 2;
    let certificate = bench.authority.issue(&id, key.public_key(), almost_over).unwrap();
    dp.install(&certificate, bench.authority.certificate(), &key).unwrap();
    let tls = dp.client_config(&[b"h2"], Expect::role(Role::ControlPlane)).unwrap();
    let mut connector = connector(format!("https://{addr}"), Some(tls));
    let _near = Service::call(&mut connector, "http://x".parse().unwrap()).await.unwrap();
    let mut far = incoming.next().await.unwrap().unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(10), far.read_u8()).await.unwrap();
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
}

#[tokio::test]
async fn plain_text_is_refused_where_the_configuration_says_so() {
    let bench = bench();
    let (_incoming, addr) = listening(&bench, false).await;
    let mut near = TcpStream::connect(addr).await.unwrap();
    near.write_all(b"PRI * HTTP/2.0").await.unwrap();
    assert!(near.read_u8().await.is_err());
}

#[tokio::test]
async fn a_silent_connection_holds_up_nobody_and_a_stop_ends_it() {
    let bench = bench();
    let (mut incoming, addr) = listening(&bench, true).await;
    let _silent = TcpStream::connect(addr).await.unwrap();
    let mut near = TcpStream::connect(addr).await.unwrap();
    near.write_all(b"x").await.unwrap();
    assert_eq!(*incoming.next().await.unwrap().unwrap().peer(), PeerIdentity::Loopback);
    bench.supervisor.shutdown().request();
    bench.supervisor.ended().await.unwrap();
    assert!(incoming.next().await.is_none());
}

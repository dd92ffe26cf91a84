//! Attacks on a cluster of control planes by whoever reaches its ports but is no member of it.
//!
//! Certificates of another authority, calls without one, headers that claim to be somebody, guessed tokens, floods of
//! connections that say nothing and of packets that mean nothing. All of it gets nowhere: the cluster keeps its leader,
//! goes on taking writes, and its memory stays bounded.

#![expect(clippy::indexing_slicing, reason = "a test that panics fails, as it should")]

use std::{fs, net::UdpSocket, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use bailiwick_enrolment::{JoinToken, enrol_message, fresh_secret};
use bailiwick_proto::v1::{
    self, admin_client::AdminClient, cluster_client::ClusterClient, config_client::ConfigClient,
    enrolment_client::EnrolmentClient, internal_client::InternalClient,
};
use bailiwick_runtime::{
    authority::Authority,
    connect::Targets,
    identity::{Identity, NodeKey, Role, SpiffeId},
};
use bailiwick_tests::{Deployment, Shape};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
};
use serde_json::Value;
use tokio::{net::TcpStream, task::JoinSet};
use tonic::{Code, Request, transport::Channel};

/// More than a listener admits at a time.
const SILENT: usize = 700;
/// More than a node lets arrive at a time.
const ARRIVING: usize = 300;
const PACKETS: usize = 20_000;
const GUESSES: usize = 300;
/// A control plane with next to no state stays far below this, floods included (debug builds as well).
const MEMORY_MIB_MAX: u64 = 512;

struct Cluster {
    deployment: Deployment,
    leader: String,
    token: JoinToken,
    cluster_id: String,
}

async fn cluster() -> Result<Cluster> {
    let deployment = Deployment::start(Shape::Cluster).await?;
    let leader = deployment.leader().await?;
    let made: Value =
        serde_json::from_str(&deployment.cli_ok(&["cluster", "join-token", "data-plane", "-o", "json"])?)?;
    let token: JoinToken = made["token"].as_str().context("no token")?.parse()?;
    let members: Value = serde_json::from_str(&deployment.cli_ok(&["cluster", "members", "-o", "json"])?)?;
    let cluster_id = members["cluster_id"].as_str().context("no cluster id")?.to_owned();
    Ok(Cluster { deployment, leader, token, cluster_id })
}

impl Cluster {
    fn address(&self, listener: &str) -> Result<String> {
        let listen = self.deployment.node(&self.leader)?.listen;
        Ok(listen.get(listener).and_then(Value::as_str).with_context(|| format!("no {listener}"))?.to_owned())
    }

    /// Over TLS, as whoever `tls` makes of the caller.
    fn channel(&self, tls: ClientConfig) -> Result<Channel> {
        let targets = Targets::parse(&[format!("https://{}", self.address("grpc")?)])?;
        Ok(targets.channel(Some(Arc::new(tls))))
    }

    /// Nothing has happened: the leader leads, takes writes, and all nodes hold the same and little memory.
    async fn goes_on(&self, name: &str) -> Result<()> {
        let user = format!("apiVersion: bailiwick/v1\nkind: User\nmetadata: {{name: {name}}}\nspec: {{groups: [g]}}\n");
        self.deployment.apply(&user)?;
        let leader = self.deployment.leader().await?;
        ensure!(leader == self.leader, "{name}: {leader} leads instead of {}", self.leader);
        for node in self.deployment.role("control-plane") {
            let status = fs::read_to_string(format!("/proc/{}/status", node.pid))?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
            let mib = line.trim().trim_end_matches(" kB").parse::<u64>()? / 1024;
            ensure!(mib < MEMORY_MIB_MAX, "{name}: {} holds {mib} MiB", node.name);
            println!("{name}: {} holds {mib} MiB", node.name);
        }
        self.deployment.logs_agree().await
    }
}

fn code<T: std::fmt::Debug>(answer: Result<T, tonic::Status>) -> Code {
    answer.map_or_else(|status| status.code(), |_| Code::Ok)
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_no_member_gets_nothing_but_the_door() -> Result<()> {
    let cluster = cluster().await?;
    let stranger = Identity::default().pinned_client_config(&[b"h2"], cluster.token.fingerprint)?;
    let channel = cluster.channel(stranger)?;
    let mut admin = AdminClient::new(channel.clone());
    let mut of_cluster = ClusterClient::new(channel.clone());
    let mut internal = InternalClient::new(channel.clone());
    let mut config = ConfigClient::new(channel.clone());
    ensure!(code(admin.status(v1::StatusRequest {}).await) == Code::Unauthenticated);
    ensure!(code(admin.issue_token(v1::IssueTokenRequest::default()).await) == Code::Unauthenticated);
    ensure!(code(of_cluster.create_join_token(v1::CreateJoinTokenRequest::default()).await) == Code::Unauthenticated);
    ensure!(code(of_cluster.backup(v1::BackupRequest {}).await) == Code::Unauthenticated);
    ensure!(code(internal.describe(v1::DescribeRequest::default()).await) == Code::Unauthenticated);
    ensure!(code(config.register_node(v1::RegisterNodeRequest::default()).await) == Code::Unauthenticated);

    // Claiming to be somebody counts from control planes alone: not from strangers, nor from this machine.
    let local = Targets::parse(&[cluster.deployment.admin_of(&cluster.leader)?])?.channel(None);
    for channel in [channel.clone(), local.clone()] {
        for claim in ["loopback", "admin/root", "control-plane/control-plane-1"] {
            let mut request = Request::new(v1::StatusRequest {});
            request.metadata_mut().insert("bailiwick-caller", claim.parse()?);
            let refused = code(AdminClient::new(channel.clone()).status(request).await);
            ensure!(refused == Code::PermissionDenied, "{claim}: {refused:?}");
        }
    }
    // What only control planes ask of each other is not even for this machine.
    ensure!(code(InternalClient::new(local).describe(v1::DescribeRequest::default()).await) == Code::PermissionDenied);

    // A request larger than any that is right is not held in memory.
    let large = v1::EnrolRequest { token: "x".repeat(1 << 20), ..v1::EnrolRequest::default() };
    ensure!(code(EnrolmentClient::new(channel).enrol(large).await) == Code::ResourceExhausted);
    cluster.goes_on("door").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_authority_opens_neither_port() -> Result<()> {
    let cluster = cluster().await?;
    let (authority_key, key, now) = (NodeKey::generate()?, NodeKey::generate()?, Identity::default().now());
    let foreign = Authority::open(&Authority::create(&cluster.cluster_id, &authority_key, now)?, &authority_key)?;
    for (role, node_id, name) in
        [(Role::ControlPlane, Some(1), "control-plane-1"), (Role::Admin, None, "root"), (Role::DataPlane, None, "d")]
    {
        let id = SpiffeId { cluster: cluster.cluster_id.clone(), role, node_id, name: name.to_owned() };
        for issued in [now, now - 7_200] {
            let chain = vec![foreign.issue(&id, key.public_key(), issued)?, foreign.certificate().to_vec()];
            let channel = cluster.channel(forged(&chain, &key, b"h2")?)?;
            let answer = code(AdminClient::new(channel).status(v1::StatusRequest {}).await);
            ensure!(answer != Code::Ok && answer != Code::PermissionDenied, "{id}: {answer:?}");
            ensure!(!dials(&cluster.address("peer")?, forged(&chain, &key, b"bailiwick-peer/1")?).await?, "{id}");
        }
    }
    cluster.goes_on("forged").await
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_join_tokens_lets_nobody_in_and_keeps_nobody_out() -> Result<()> {
    let cluster = cluster().await?;
    let stranger = Identity::default().pinned_client_config(&[b"h2"], cluster.token.fingerprint)?;
    let channel = cluster.channel(stranger)?;
    let key = NodeKey::generate()?;
    let mut guesses = JoinSet::new();
    for _ in 0..GUESSES {
        let token = JoinToken::new(Role::DataPlane, &cluster.token.id, &fresh_secret()?, cluster.token.fingerprint)?;
        let token = token.expose().to_string();
        let request = v1::EnrolRequest {
            role: "data-plane".to_owned(),
            name: "intruder".to_owned(),
            public_key: key.public_key().to_vec(),
            proof: key.sign(&enrol_message(&token))?,
            token,
            ..v1::EnrolRequest::default()
        };
        let mut client = EnrolmentClient::new(channel.clone());
        guesses.spawn(async move { code(client.enrol(request).await) });
    }
    cluster.goes_on("meanwhile").await?;
    while let Some(guess) = guesses.join_next().await {
        let guess = guess?;
        // `Unavailable`: too many at the door at once.
        ensure!(guess == Code::PermissionDenied || guess == Code::Unavailable, "{guess:?}");
    }
    // The token itself is still good.
    let token = cluster.token.expose().to_string();
    let request = v1::EnrolRequest {
        role: "data-plane".to_owned(),
        name: "honest".to_owned(),
        public_key: key.public_key().to_vec(),
        proof: key.sign(&enrol_message(&token))?,
        token,
        ..v1::EnrolRequest::default()
    };
    EnrolmentClient::new(channel).enrol(request).await?;
    cluster.goes_on("guessed").await
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_silence_and_of_noise_change_no_leader_and_fill_no_memory() -> Result<()> {
    let cluster = cluster().await?;
    // Connections that say nothing, and some that begin a handshake and stop.
    let (grpc, mut silent) = (cluster.address("grpc")?, Vec::new());
    for n in 0..SILENT {
        let mut connection = TcpStream::connect(&grpc).await?;
        if n % 2 == 0 {
            tokio::io::AsyncWriteExt::write_all(&mut connection, &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).await?;
        }
        silent.push(connection);
    }
    let members = cluster.deployment.members_at(&cluster.leader);
    ensure!(members.is_ok(), "silent connections keep others out: {members:?}");
    cluster.goes_on("silence").await?;
    drop(silent);

    // Packets that mean nothing: random ones, and ones that look like the first of a connection.
    let peer = cluster.address("peer")?;
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    for n in 0..PACKETS {
        let mut packet = vec![0_u8; 1_200];
        aws_lc_rs_fill(&mut packet)?;
        if n % 2 == 0 {
            packet[..6].copy_from_slice(&[0xc0, 0, 0, 0, 1, 8]);
        }
        // A full queue of the system is the flood's loss.
        drop(socket.send_to(&packet, &peer));
    }
    cluster.goes_on("noise").await?;

    // Connections without a certificate that counts, many at a time.
    let mut arriving = JoinSet::new();
    for _ in 0..ARRIVING {
        let (peer, tls) = (peer.clone(), Identity::default().pinned_client_config(&[b"bailiwick-peer/1"], [0; 32])?);
        arriving.spawn(async move { dials(&peer, tls).await });
    }
    while let Some(dialled) = arriving.join_next().await {
        ensure!(!dialled??, "somebody without a certificate is a peer");
    }
    cluster.goes_on("arrivals").await
}

/// Whether a QUIC connection to a peer port comes about and lets a stream be opened and answered.
async fn dials(peer: &str, tls: ClientConfig) -> Result<bool> {
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls)?;
    let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse()?)?;
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
    let talk = async {
        let connection = endpoint.connect(peer.parse()?, "bailiwick")?.await?;
        let (mut send, mut receive) = connection.open_bi().await?;
        send.write_all(b"\x0a\x00").await?;
        send.finish()?;
        let answer = receive.read_to_end(4_096).await?;
        Ok::<_, anyhow::Error>(!answer.is_empty())
    };
    Ok(tokio::time::timeout(Duration::from_secs(10), talk).await.is_ok_and(|talked| talked.unwrap_or(false)))
}

/// TLS as the holder of any certificate, to any server.
fn forged(chain: &[Vec<u8>], key: &NodeKey, alpn: &[u8]) -> Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let chain = chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
    let key = PrivateKeyDer::Pkcs8(key.pkcs8().to_vec().into());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(config)
}

fn aws_lc_rs_fill(bytes: &mut [u8]) -> Result<()> {
    let provider = aws_lc_rs::default_provider();
    provider.secure_random.fill(bytes).map_err(|_| anyhow::anyhow!("no randomness"))
}

/// An attacker does not care who answers.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

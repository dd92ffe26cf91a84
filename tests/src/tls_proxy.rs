//! A proxy that ends TLS in front of a control plane, asks its clients for certificates, and tells which one it saw
//! (RFC 9440). It replaces what a client wrote into that header, as an operator's proxy must.
//!
//! It verifies that the client holds the key, and nothing else of the certificate. One request per connection, over
//! HTTP/1.1.

use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, aws_lc_rs::default_provider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use crate::certificates::Trusted;

const HEAD_BYTES_MAX: usize = 64 * 1024;

/// See the file's header; stopped when dropped.
#[derive(Debug)]
pub struct TlsProxy {
    /// Where it is reached; no final slash.
    pub url: String,
    /// What its clients trust.
    pub trusted: Trusted,
    server: Arc<OnceLock<String>>,
    _task: JoinSet<()>,
}

impl TlsProxy {
    /// On a free port; it serves once it knows in front of whom it is.
    ///
    /// # Errors
    /// No port is free, or no certificate can be made.
    pub async fn bind() -> Result<Self> {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec!["127.0.0.1".to_owned()])?;
        let provider = Arc::new(default_provider());
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(Arc::new(Anybody(provider)))
            .with_single_cert(vec![cert.der().clone()], key)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("https://{}", listener.local_addr()?);
        let (server, mut task) = (Arc::new(OnceLock::new()), JoinSet::new());
        let towards = Arc::clone(&server);
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (acceptor, towards) = (acceptor.clone(), Arc::clone(&towards));
                connections.spawn(async move { drop(Box::pin(pass(client, &acceptor, &towards)).await) });
            }
        });
        Ok(Self { url, trusted: Trusted { certificate: cert.der().clone() }, server, _task: task })
    }

    /// Passes on to the server of this URL from now on.
    ///
    /// # Errors
    /// The URL has no host and port, or there is a server already.
    pub fn towards(&self, url: &str) -> Result<()> {
        let server = url.strip_prefix("http://").context("no http URL")?.to_owned();
        ensure!(self.server.set(server).is_ok(), "there is one already");
        Ok(())
    }
}

async fn pass(client: TcpStream, acceptor: &TlsAcceptor, server: &OnceLock<String>) -> Result<()> {
    let mut client = acceptor.accept(client).await?;
    let shown = client.get_ref().1.peer_certificates().and_then(<[_]>::first).map(|der| STANDARD.encode(der));
    let mut read = Vec::new();
    let end = loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        ensure!(read.len() < HEAD_BYTES_MAX && client.read_buf(&mut read).await? > 0, "no head");
    };
    let (head, rest) = read.split_at(end);
    let told = shown.map(|encoded| format!("client-cert: :{encoded}:\r\n")).unwrap_or_default();
    let mut lines: Vec<&str> = std::str::from_utf8(head)?.split("\r\n").collect();
    lines.retain(|line| !is_its_own(line));
    let head = format!("{}\r\n{told}connection: close", lines.join("\r\n"));
    let mut server = TcpStream::connect(server.get().context("in front of nobody")?).await?;
    server.write_all(head.as_bytes()).await?;
    server.write_all(rest).await?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

/// A header that the proxy alone writes.
fn is_its_own(line: &str) -> bool {
    let name = line.split_once(':').map_or("", |(name, _)| name);
    ["client-cert", "client-cert-chain", "connection"].iter().any(|own| own.eq_ignore_ascii_case(name))
}

#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ClientCertVerifier for Anybody {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

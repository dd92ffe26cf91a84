//! A look at a node's TLS listener from outside: which certificate it shows, and what its clock says.
//!
//! Whatever certificate is shown is taken, because it is what is to be looked at; nothing is sent but a request that
//! every listener answers, and nothing that comes back is believed beyond the report. Needs no certificate itself.

use std::{io, sync::Arc, time::Duration};

use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::clock::{self, Skew};

/// Longest look at one node.
const LOOK_WAIT_MAX: Duration = Duration::from_secs(4);
/// Members have no host names; any will do.
const ANY_NAME: &str = "bailiwick";

/// What was seen.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) certificate: CertificateDer<'static>,
    /// Absent where the answer had no date.
    pub(crate) skew: Option<Skew>,
}

/// Looks at the listener at `address` (`host:port`).
pub(crate) async fn look(address: &str) -> io::Result<Seen> {
    let looked = tokio::time::timeout(LOOK_WAIT_MAX, Box::pin(connect(address))).await;
    looked.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn connect(address: &str) -> io::Result<Seen> {
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from(ANY_NAME).map_err(io::Error::other)?;
    let connection = TlsConnector::from(Arc::new(config()?)).connect(name, tcp).await?;
    let shown = connection.get_ref().1.peer_certificates().and_then(<[_]>::first).cloned();
    let certificate = shown.ok_or_else(|| io::Error::other("no certificate was shown"))?;
    Ok(Seen { certificate, skew: ask_time(connection).await })
}

/// The date of an answer to a request that nobody serves.
async fn ask_time(connection: TlsStream<TcpStream>) -> Option<Skew> {
    let io = TokioIo::new(connection);
    let (mut sender, driver) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.ok()?;
    let request = http::Request::get(format!("https://{ANY_NAME}/")).body(String::new()).ok()?;
    let asked = async {
        let sent = clock::now_millis();
        let answer = sender.send_request(request).await.ok()?;
        let received = clock::now_millis();
        let date = clock::date_millis(answer.headers().get("date")?.to_str().ok()?)?;
        Some(Skew::of(date, sent, received))
    };
    tokio::select! {
        skew = asked => skew,
        _ = driver => None,
    }
}

fn config() -> io::Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).map_err(io::Error::other)?;
    let verifier = Arc::new(Anyone(provider));
    let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.enable_sni = false;
    Ok(config)
}

/// Takes any certificate whose key signed the handshake.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("only TLS 1.3".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

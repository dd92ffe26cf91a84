//! A client over HTTP/3: one QUIC connection, and requests of [`McpClient`](crate::McpClient) on it.
//!
//! What it sends is what the same request would be over TCP. It trusts one certificate, may show one of its own, and is
//! in no hurry: an answer is read when the test says so. Specification: RFC 9114.

use std::{fmt, net::Ipv4Addr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use bytes::{Buf, Bytes};
use h3::client::{RequestStream, SendRequest};
use http::{HeaderMap, StatusCode};
use quinn::{ClientConfig, Connection, Endpoint, crypto::rustls::QuicClientConfig};
use reqwest::{RequestBuilder, Url};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use serde_json::Value;
use tokio::{task::JoinHandle, time::timeout};

use crate::{certificates::Trusted, mcp::Answer};

/// Longest wait for anything from a node.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// See the file's header. The connection ends when this is dropped.
pub struct Http3Client {
    /// Of QUIC.
    pub connection: Connection,
    requests: SendRequest<h3_quinn::OpenStreams, Bytes>,
    driver: JoinHandle<()>,
}

/// A certificate of a client's own, and its key.
#[derive(Debug)]
pub struct ClientCertificate {
    /// In DER.
    pub certificate: CertificateDer<'static>,
    /// In DER.
    pub key: PrivateKeyDer<'static>,
}

/// A request that was sent. Dropped before its answer is whole, its client is no longer interested.
pub struct Answering(RequestStream<h3_quinn::BidiStream<Bytes>, Bytes>);

impl Http3Client {
    /// Connects to the port that `url` names, over UDP.
    ///
    /// # Errors
    /// When nobody answers there, or shows another certificate.
    pub async fn connect(url: &str, trusted: &Trusted) -> Result<Self> {
        Self::connect_showing(url, trusted, None).await
    }

    /// The same, showing a certificate.
    ///
    /// # Errors
    /// As of [`Self::connect`].
    #[expect(clippy::disallowed_methods, reason = "tests have no supervisor; the task ends with the client's value")]
    pub async fn connect_showing(url: &str, trusted: &Trusted, own: Option<&ClientCertificate>) -> Result<Self> {
        let port = Url::parse(url)?.port().context("no port")?;
        let mut endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into())?;
        let mut tls = tls(trusted, own)?;
        tls.alpn_protocols = vec![b"h3".to_vec()];
        endpoint.set_default_client_config(ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?)));
        let connecting = endpoint.connect((Ipv4Addr::LOCALHOST, port).into(), "127.0.0.1")?;
        let connection = timeout(WAIT_MAX, connecting).await.context("no handshake")??;
        let (mut driver, requests) = h3::client::new(h3_quinn::Connection::new(connection.clone())).await?;
        let driver = tokio::spawn(async move { drop(driver.wait_idle().await) });
        Ok(Self { connection, requests, driver })
    }

    /// Sends a request.
    ///
    /// # Errors
    /// When it cannot be sent, or may not be any more.
    pub async fn send(&self, request: RequestBuilder) -> Result<Answering> {
        let request = request.build()?;
        let body = request.body().and_then(reqwest::Body::as_bytes).map(Bytes::copy_from_slice).unwrap_or_default();
        let mut head = http::Request::builder().method(request.method()).uri(request.url().as_str()).body(())?;
        head.headers_mut().clone_from(request.headers());
        let mut stream = self.requests.clone().send_request(head).await?;
        // A request that is refused by its head needs no body.
        drop(stream.send_data(body).await);
        drop(stream.finish().await);
        Ok(Answering(stream))
    }

    /// Sends a request; its whole answer.
    ///
    /// # Errors
    /// When none comes.
    pub async fn ask(&self, request: RequestBuilder) -> Result<Answer> {
        self.send(request).await?.whole().await
    }
}

impl fmt::Debug for Http3Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http3Client").field("connection", &self.connection).finish_non_exhaustive()
    }
}

impl fmt::Debug for Answering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answering").finish_non_exhaustive()
    }
}

impl Drop for Http3Client {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Answering {
    /// Status and headers.
    ///
    /// # Errors
    /// When they do not come.
    pub async fn head(&mut self) -> Result<(StatusCode, HeaderMap)> {
        let head = timeout(WAIT_MAX, self.0.recv_response()).await.context("no answer comes")??;
        Ok((head.status(), head.headers().clone()))
    }

    /// The next part of the body, `None` at its end; after [`Self::head`].
    ///
    /// # Errors
    /// When nothing comes, or the stream breaks.
    pub async fn part(&mut self) -> Result<Option<String>> {
        let part = timeout(WAIT_MAX, self.0.recv_data()).await.context("no data comes")??;
        let text = part.map(|mut data| String::from_utf8(data.copy_to_bytes(data.remaining()).into()));
        Ok(text.transpose()?)
    }

    /// All of it.
    ///
    /// # Errors
    /// When it does not come, or is no text.
    pub async fn whole(mut self) -> Result<Answer> {
        let (status, headers) = self.head().await?;
        let mut text = String::new();
        while let Some(part) = self.part().await? {
            text.push_str(&part);
        }
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Ok(Answer { status, headers, text, body })
    }

    /// Nobody waits for the rest any more.
    pub fn give_up(self) {
        // Its stream is stopped with it.
        drop(self);
    }
}

/// TLS 1.3 of a client that trusts this, and shows a certificate of its own where it has one.
///
/// # Errors
/// When a certificate is none, or is not the key's.
pub fn tls(trusted: &Trusted, own: Option<&ClientCertificate>) -> Result<rustls::ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.certificate.clone())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider);
    let tls = tls.with_protocol_versions(&[&rustls::version::TLS13])?;
    let tls = tls.with_root_certificates(roots);
    Ok(match own {
        Some(own) => tls.with_client_auth_cert(vec![own.certificate.clone()], own.key.clone_key())?,
        None => tls.with_no_client_auth(),
    })
}

//! On which terms connections are served: what the operator says of TLS and of balancers.
//!
//! Made at start by `role` from the configuration; followed by `connection`. The certificate is looked at for as long
//! as the listener serves, and shown as it is at the time of each handshake.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::Arc,
};

use bailiwick_proto::address::Network;
use bailiwick_runtime::{
    Shutdown,
    listen::{self, BindError},
    served_certificate::{self, CertificateError, Look, ServedCertificate},
};

use http::HeaderValue;

use super::quic;
use crate::{config::DataPlaneConfig, metrics::Metrics};

/// What is spoken within TLS, the better first.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// How long clients remember that HTTP/3 is spoken: no longer than an operator waits after turning it off.
const REMEMBERED_SECONDS: u32 = 3_600;

/// See the file's header.
#[derive(Clone, Debug, Default)]
pub(crate) struct Terms {
    pub(super) certificate: Option<ServedCertificate>,
    /// Connections are TLS.
    pub(super) tls: Option<Arc<rustls::ServerConfig>>,
    /// Whoever connects from there says for whom.
    pub(super) balancers: Vec<Network>,
    /// HTTP/3 is spoken too.
    pub(super) quic: Option<quinn::ServerConfig>,
    /// At which socket.
    pub(super) udp: Option<Arc<UdpSocket>>,
    /// What clients are told of that.
    pub(super) alternative: Option<HeaderValue>,
}

impl Terms {
    /// Reads the certificate; waits for the disk.
    pub(crate) fn of(config: &DataPlaneConfig) -> Result<Self, CertificateError> {
        let certificate = config.tls.clone().map(ServedCertificate::load).transpose()?;
        let asks_clients = config.client_certificates;
        let config_of = |served: &ServedCertificate| served.server_config(&ALPN, rustls::ALL_VERSIONS, asks_clients);
        let tls = certificate.as_ref().map(config_of).transpose()?;
        let quic = match certificate.as_ref().filter(|_| config.http3) {
            Some(served) => {
                let tls = served.server_config(&[quic::ALPN], &[&rustls::version::TLS13], asks_clients)?;
                let unfit = |error| CertificateError::Unfit(rustls::Error::General(format!("{error}")));
                Some(quic::server_config(tls).map_err(unfit)?)
            }
            None => None,
        };
        let (tls, balancers) = (tls.map(Arc::new), config.balancers());
        Ok(Self { certificate, tls, balancers, quic, udp: None, alternative: None })
    }

    /// The same, with a socket for HTTP/3 at the port where TCP is accepted, if that is spoken.
    pub(crate) fn at(mut self, tcp: SocketAddr) -> Result<Self, BindError> {
        if self.quic.is_some() {
            self.udp = Some(Arc::new(listen::udp("HTTP/3", "data_plane.listen", tcp)?));
            let told = format!("h3=\":{}\"; ma={REMEMBERED_SECONDS}", tcp.port());
            self.alternative = HeaderValue::try_from(told).ok();
        }
        Ok(self)
    }
}

/// Looks at the certificate's files until `stop` is requested.
pub(super) async fn follow(certificate: ServedCertificate, metrics: Arc<Metrics>, stop: Shutdown) {
    let shown = certificate.clone();
    metrics.certificate_not_after.set(shown.not_after());
    let told = move |look: &Look| match look {
        Look::Same => {}
        Look::Renewed => {
            tracing::info!(not_after = shown.not_after(), "clients see another certificate from now on");
            metrics.certificate_not_after.set(shown.not_after());
            metrics.certificates_renewed.inc();
        }
        Look::Bad(error) => {
            tracing::warn!(%error, "the files of the certificate cannot be used; the one before goes on");
            metrics.certificates_refused.inc();
        }
    };
    served_certificate::follow(certificate, stop, told).await;
}

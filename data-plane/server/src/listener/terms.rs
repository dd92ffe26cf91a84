//! On which terms connections are served: what the operator says of TLS and of balancers.
//!
//! Made at start by `role` from the configuration; followed by `connection`. The certificate is looked at for as long as
//! the listener serves, and shown as it is at the time of each handshake.

use std::sync::Arc;

use bailiwick_proto::address::Network;
use bailiwick_runtime::{
    Shutdown,
    served_certificate::{self, CertificateError, Look, ServedCertificate},
};

use crate::{config::DataPlaneConfig, metrics::Metrics};

/// What is spoken within TLS, the better first.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// See the file's header.
#[derive(Clone, Debug, Default)]
pub(crate) struct Terms {
    pub(super) certificate: Option<ServedCertificate>,
    /// Connections are TLS.
    pub(super) tls: Option<Arc<rustls::ServerConfig>>,
    /// Whoever connects from there says for whom.
    pub(super) balancers: Vec<Network>,
}

impl Terms {
    /// Reads the certificate; waits for the disk.
    pub(crate) fn of(config: &DataPlaneConfig) -> Result<Self, CertificateError> {
        let certificate = config.tls.clone().map(ServedCertificate::load).transpose()?;
        let tls = certificate.as_ref().map(|served| served.server_config(&ALPN, rustls::ALL_VERSIONS)).transpose()?;
        Ok(Self { certificate, tls: tls.map(Arc::new), balancers: config.balancers() })
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

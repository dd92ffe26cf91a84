//! HTTPS targets: the certificate is checked, against the system's or those that are named.
//!
//! Only with the feature `tls`; without, a build needs no cryptographic library and measures plain HTTP.

use std::path::Path;

use anyhow::Result;

use super::target::Http;

#[cfg(feature = "tls")]
pub(crate) use with_tls::Secure;
#[cfg(not(feature = "tls"))]
pub(crate) use without_tls::Secure;

/// How to reach a host over TLS. `ca` holds certificates in PEM that are trusted instead of the system's.
pub(crate) fn secure(host: &str, http: Http, ca: Option<&Path>) -> Result<Secure> {
    Secure::new(host, http, ca)
}

#[cfg(feature = "tls")]
mod with_tls {
    use std::{fmt, path::Path, sync::Arc};

    use anyhow::{Context as _, Result};
    use rustls::{
        ClientConfig, RootCertStore,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    };
    use tokio::net::TcpStream;
    use tokio_rustls::{TlsConnector, client::TlsStream};

    use super::Http;

    #[derive(Clone)]
    pub(crate) struct Secure {
        connector: TlsConnector,
        name: ServerName<'static>,
    }

    impl fmt::Debug for Secure {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_tuple("Secure").field(&self.name).finish()
        }
    }

    impl Secure {
        pub(super) fn new(host: &str, http: Http, ca: Option<&Path>) -> Result<Self> {
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            let name = ServerName::try_from(host).context("the host's name cannot be in a certificate")?;
            let mut roots = RootCertStore::empty();
            match ca {
                Some(path) => {
                    for certificate in CertificateDer::pem_file_iter(path).context("--ca cannot be read")? {
                        roots.add(certificate.context("--ca cannot be read")?)?;
                    }
                }
                None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
            }
            let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
            let builder = builder.with_safe_default_protocol_versions()?;
            let mut config = builder.with_root_certificates(roots).with_no_client_auth();
            config.alpn_protocols = match http {
                Http::One => vec![b"http/1.1".to_vec()],
                Http::Two => vec![b"h2".to_vec()],
            };
            Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
        }

        pub(crate) async fn connect(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>> {
            self.connector.connect(self.name.clone(), stream).await.context("TLS")
        }
    }
}

#[cfg(not(feature = "tls"))]
mod without_tls {
    use std::path::Path;

    use anyhow::{Result, bail};
    use tokio::net::TcpStream;

    use super::Http;

    /// There is none.
    #[derive(Clone, Debug)]
    pub(crate) enum Secure {}

    impl Secure {
        pub(super) fn new(_: &str, _: Http, _: Option<&Path>) -> Result<Self> {
            bail!("this program was built without TLS: build it with the feature `tls`")
        }

        pub(crate) async fn connect(&self, _: TcpStream) -> Result<TcpStream> {
            match *self {}
        }
    }
}

//! A listener's certificate, as an operator keeps it: two files, written anew when it is renewed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use reqwest::Certificate;
use rustls::pki_types::CertificateDer;

/// The files of a certificate for this machine.
#[derive(Clone, Debug)]
pub struct ServedCertificate {
    certificate: PathBuf,
    key: PathBuf,
}

/// What a client trusts: one certificate and nothing else.
#[derive(Clone, Debug)]
pub struct Trusted {
    /// In DER.
    pub certificate: CertificateDer<'static>,
}

impl ServedCertificate {
    /// The files of this folder; [`Self::renew`] writes them.
    #[must_use]
    pub fn in_folder(folder: &Path) -> Self {
        Self { certificate: folder.join("tls.crt"), key: folder.join("tls.key") }
    }

    /// Writes a new pair; what to trust from now on.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn renew(&self) -> Result<Trusted> {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec!["127.0.0.1".to_owned()])?;
        fs::write(&self.certificate, cert.pem())?;
        fs::write(&self.key, signing_key.serialize_pem())?;
        Ok(Trusted { certificate: cert.der().clone() })
    }

    /// The environment of data planes that serve HTTP/1.1, HTTP/2 and HTTP/3 with it.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, String); 3] {
        [
            ("BAILIWICK_DATA_PLANE__TLS__CERTIFICATE", self.certificate.display().to_string()),
            ("BAILIWICK_DATA_PLANE__TLS__KEY", self.key.display().to_string()),
            ("BAILIWICK_DATA_PLANE__HTTP3", "true".to_owned()),
        ]
    }
}

impl Trusted {
    /// A client over TCP.
    ///
    /// # Errors
    /// When the certificate is none.
    pub fn over_tcp(&self) -> Result<reqwest::ClientBuilder> {
        let certificate = Certificate::from_der(&self.certificate)?;
        Ok(reqwest::Client::builder().no_proxy().tls_certs_only([certificate]))
    }
}

//! The certificate a listener shows to strangers: read from two files, and read anew when they change.
//!
//! Used by listeners that end TLS for clients who are no members of the cluster; members' own certificates are
//! `identity`. Whoever renews the files (a person, certbot, cert-manager) need not tell anybody: [`follow`] looks at
//! them now and then. Connections that exist go on as they are. What cannot be used never replaces what can: a pair
//! whose parts do not fit is looked at once more, since two files are rarely written at once, and then told.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use rustls::{
    ServerConfig, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use serde::Deserialize;
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

use crate::{client_certificate::AnyCertificate, shutdown::Shutdown};

/// How often the files are looked at: a renewed certificate has days before the old one ends.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Longest file that is read: a chain has a few certificates of some KiB.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Where certificate and key are, both as PEM.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    /// The certificate, and after it those between it and an authority that clients know.
    pub certificate: PathBuf,
    /// Its private key: PKCS#8, SEC1 or PKCS#1.
    pub key: PathBuf,
}

/// The files hold nothing that can be shown.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("{path} cannot be read: {source}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not PEM with at least one certificate.
    #[error("{0} holds no certificate as PEM")]
    NoCertificate(PathBuf),
    /// Not PEM with a private key.
    #[error("{0} holds no private key as PEM")]
    NoKey(PathBuf),
    /// The key is of no use, or belongs to another certificate.
    #[error("certificate and key cannot be used together: {0}")]
    Unfit(#[from] rustls::Error),
}

/// See the file's header; cheap to clone, shared by all clones.
#[derive(Clone)]
pub struct ServedCertificate(Arc<Inner>);

struct Inner {
    files: CertificateFiles,
    current: ArcSwap<Shown>,
}

struct Shown {
    certified: Arc<CertifiedKey>,
    fingerprint: [u8; 32],
    not_after: i64,
}

/// What a look at the files found.
#[derive(Debug)]
pub enum Look {
    /// What is shown already.
    Same,
    /// Another certificate, which is shown from now on.
    Renewed,
    /// Nothing that can be shown; the one before goes on.
    Bad(CertificateError),
}

impl ServedCertificate {
    /// Reads both files; waits for the disk.
    ///
    /// # Errors
    /// [`CertificateError`] when they are no pair.
    pub fn load(files: CertificateFiles) -> Result<Self, CertificateError> {
        let shown = read(&files, None)?.ok_or_else(|| CertificateError::NoCertificate(files.certificate.clone()))?;
        Ok(Self(Arc::new(Inner { files, current: ArcSwap::from_pointee(shown) })))
    }

    /// Looks at the files once more; waits for the disk.
    #[must_use]
    pub fn look(&self) -> Look {
        let known = self.0.current.load().fingerprint;
        match read(&self.0.files, Some(known)) {
            Ok(None) => Look::Same,
            Ok(Some(shown)) => {
                self.0.current.store(Arc::new(shown));
                Look::Renewed
            }
            Err(error) => Look::Bad(error),
        }
    }

    /// When what is shown ends, Unix seconds.
    #[must_use]
    pub fn not_after(&self) -> i64 {
        self.0.current.load().not_after
    }

    /// For a listener that speaks these protocols, by ALPN, over these versions of TLS. Nothing is taken before the
    /// handshake has ended: what is sent so early can be sent again by others. With `asks_clients`, they may show a
    /// certificate of their own (`client_certificate`).
    ///
    /// # Errors
    /// When TLS refuses the pieces.
    pub fn server_config(
        &self,
        alpn: &[&[u8]],
        versions: &[&'static SupportedProtocolVersion],
        asks_clients: bool,
    ) -> Result<ServerConfig, CertificateError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions)?;
        let builder = match asks_clients {
            true => builder.with_client_cert_verifier(Arc::new(AnyCertificate::new(provider))),
            false => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(self.clone()));
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        config.max_early_data_size = 0;
        Ok(config)
    }
}

/// Looks at the files until `stop` is requested. `told` hears of what was renewed, and once of each pair that is bad.
pub async fn follow(served: ServedCertificate, stop: Shutdown, told: impl Fn(&Look) + Send) {
    let mut bad_before = None;
    while stop.or_stop(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
        let looking = served.clone();
        let Ok(look) = tokio::task::spawn_blocking(move || looking.look()).await else { return };
        match &look {
            Look::Same => bad_before = None,
            Look::Renewed => {
                bad_before = None;
                told(&look);
            }
            Look::Bad(error) => {
                let (what, times) = (error.to_string(), 1);
                let times = match &bad_before {
                    Some((known, times)) if *known == what => times + 1,
                    _ => times,
                };
                if times == 2 {
                    told(&look);
                }
                bad_before = Some((what, times));
            }
        }
    }
}

/// What the files hold, unless it is what is known.
fn read(files: &CertificateFiles, known: Option<[u8; 32]>) -> Result<Option<Shown>, CertificateError> {
    let (certificate, key) = (bytes(&files.certificate)?, bytes(&files.key)?);
    let mut both = Zeroizing::new(digest(&SHA256, &certificate).as_ref().to_vec());
    both.extend_from_slice(digest(&SHA256, &key).as_ref());
    let fingerprint = <[u8; 32]>::try_from(digest(&SHA256, &both).as_ref()).unwrap_or_default();
    if known == Some(fingerprint) {
        return Ok(None);
    }
    let none = || CertificateError::NoCertificate(files.certificate.clone());
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&certificate).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty()).ok_or_else(none)?;
    let not_after = chain.first().and_then(not_after).ok_or_else(none)?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|_| CertificateError::NoKey(files.key.clone()))?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let certified = Arc::new(CertifiedKey::from_der(chain, key, &provider)?);
    Ok(Some(Shown { certified, fingerprint, not_after }))
}

fn bytes(path: &Path) -> Result<Zeroizing<Vec<u8>>, CertificateError> {
    let read = || {
        let mut bytes = Zeroizing::new(Vec::new());
        io::Read::read_to_end(&mut io::Read::take(std::fs::File::open(path)?, FILE_BYTES_MAX), &mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|source| CertificateError::Unreadable { path: path.to_owned(), source })
}

fn not_after(leaf: &CertificateDer<'_>) -> Option<i64> {
    let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(leaf).ok()?;
    Some(parsed.validity().not_after.timestamp())
}

impl ResolvesServerCert for ServedCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.current.load().certified))
    }
}

impl fmt::Debug for ServedCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServedCertificate").field("files", &self.0.files).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey as Made, generate_simple_self_signed};

    use super::*;

    fn make(folder: &Path) -> CertificateFiles {
        let files = CertificateFiles { certificate: folder.join("tls.crt"), key: folder.join("tls.key") };
        renew(&files, (true, true));
        files
    }

    fn renew(files: &CertificateFiles, (certificate, key): (bool, bool)) {
        let Made { cert, signing_key } = generate_simple_self_signed(vec!["gateway.example".to_owned()]).unwrap();
        if certificate {
            std::fs::write(&files.certificate, cert.pem()).unwrap();
        }
        if key {
            std::fs::write(&files.key, signing_key.serialize_pem()).unwrap();
        }
    }

    fn shown(served: &ServedCertificate) -> Vec<u8> {
        served.0.current.load().certified.cert[0].to_vec()
    }

    #[test]
    fn a_renewed_pair_is_shown_and_a_bad_one_never_is() {
        let folder = tempfile::tempdir().unwrap();
        let files = make(folder.path());
        let served = ServedCertificate::load(files.clone()).unwrap();
        let first = shown(&served);
        assert!(matches!(served.look(), Look::Same) && served.not_after() > 0);
        renew(&files, (true, false));
        assert!(matches!(served.look(), Look::Bad(CertificateError::Unfit(_))), "half of a pair");
        for text in ["", "-----BEGIN CERTIFICATE-----\n", "no PEM"] {
            std::fs::write(&files.certificate, text).unwrap();
            assert!(matches!(served.look(), Look::Bad(CertificateError::NoCertificate(_))), "{text}");
        }
        std::fs::remove_file(&files.certificate).unwrap();
        assert!(matches!(served.look(), Look::Bad(CertificateError::Unreadable { .. })));
        assert_eq!(shown(&served), first);
        renew(&files, (true, true));
        assert!(matches!(served.look(), Look::Renewed) && shown(&served) != first);
        assert!(matches!(served.look(), Look::Same));
    }

    #[test]
    fn what_is_no_pair_is_refused_at_the_start_and_no_key_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let files = make(folder.path());
        std::fs::write(&files.key, "secret text").unwrap();
        let error = ServedCertificate::load(files.clone()).unwrap_err();
        assert!(matches!(error, CertificateError::NoKey(_)) && !error.to_string().contains("secret"));
        renew(&files, (false, true));
        assert!(matches!(ServedCertificate::load(files), Err(CertificateError::Unfit(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pair_that_stays_bad_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let files = make(folder.path());
        let (served, stop) = (ServedCertificate::load(files.clone()).unwrap(), Shutdown::new());
        let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let following = follow(served, stop.clone(), move |look| {
            assert!(told.send(matches!(look, Look::Bad(_))).is_ok());
        });
        let seeing = async {
            std::fs::write(&files.key, "bad").unwrap();
            assert_eq!(heard.recv().await, Some(true));
            tokio::time::sleep(LOOK_EVERY * 10).await;
            renew(&files, (true, true));
            assert_eq!(heard.recv().await, Some(false), "told once, then renewed");
            stop.request();
        };
        tokio::join!(following, seeing);
    }
}

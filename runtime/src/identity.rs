//! Who a process is to the others of its cluster: a key of its own, a short-lived certificate, and whom it believes.
//!
//! One [`Identity`] per process, cheap to clone. Listeners and connectors are made from it once; [`Identity::install`]
//! puts a renewed certificate into all of them without a restart. Names are SPIFFE ids (`spiffe`), not host names: a
//! verifier checks chain, time, use and id (`verify`). TLS 1.3 only, aws-lc-rs only; no session is ever resumed, as a
//! resumed one would skip those checks. Absent: issuing certificates (`authority`), fetching them (`enrolment`).

mod key;
mod spiffe;
mod verify;
mod word;

use std::{fmt, sync::Arc};

use arc_swap::ArcSwapOption;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::{ResolvesClientCert, Resumption},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime},
    server::{
        ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier, danger::ClientCertVerifier,
    },
    sign::CertifiedKey,
    time_provider::{DefaultTimeProvider, TimeProvider},
};
use tokio::sync::watch;
use x509_parser::{extensions::GeneralName, prelude::FromDer};

pub(crate) use self::key::is_p256;
pub use self::{
    key::{NodeKey, verify_proof},
    spiffe::{Role, SpiffeId},
    verify::{Expect, fingerprint},
    word::{NotBelieved, Word},
};

/// The name clients send and nobody looks at: members are known by their SPIFFE ids.
pub const SERVER_NAME: &str = "bailiwick";

/// A certificate or key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Not DER, or not what members have.
    #[error("not a usable certificate: {0}")]
    Certificate(&'static str),
    /// Certificate and key are not a pair.
    #[error("the certificate is for another key")]
    OtherKey,
    /// Not signed by the authority that came with it.
    #[error("the certificate is not signed by its authority: {0}")]
    Chain(rustls::Error),
    /// Not a private key as members have.
    #[error("not a P-256 private key in PKCS#8")]
    Key,
    /// TLS refuses the pieces.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// Who this process is; nobody until a certificate is installed. Clones share it. Prints no key.
#[derive(Clone)]
pub struct Identity(Arc<Inner>);

struct Inner {
    current: ArcSwapOption<Current>,
    changes: watch::Sender<u64>,
    provider: Arc<CryptoProvider>,
    time: Arc<dyn TimeProvider>,
}

/// What is installed.
#[derive(Debug)]
struct Current {
    id: SpiffeId,
    certified: Arc<CertifiedKey>,
    authority: CertificateDer<'static>,
    roots: RootCertStore,
    clients: Arc<dyn ClientCertVerifier>,
    validity: Validity,
}

/// From when to when a certificate counts, Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// First second.
    pub not_before: u64,
    /// Last second.
    pub not_after: u64,
}

impl Validity {
    /// When half of its life is over.
    #[must_use]
    pub const fn half_life(self) -> u64 {
        self.not_before + self.not_after.saturating_sub(self.not_before) / 2
    }

    /// Whether to renew: half of its life is over, or the clock was set back to before it began.
    #[must_use]
    pub const fn is_due(self, now: u64) -> bool {
        now >= self.half_life() || now < self.not_before
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.id().map(|id| id.to_string())).finish()
    }
}

impl Default for Identity {
    fn default() -> Self {
        Self::new(Arc::new(DefaultTimeProvider))
    }
}

impl Identity {
    /// Nobody yet; certificates are checked against the time that `time` tells.
    #[must_use]
    pub fn new(time: Arc<dyn TimeProvider>) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        Self(Arc::new(Inner { current: ArcSwapOption::empty(), changes: watch::Sender::new(0), provider, time }))
    }

    /// Becomes who `certificate` says; every listener and connector made from this identity goes on with it.
    ///
    /// An expired certificate is installed too: it is renewed with the key it is for.
    ///
    /// # Errors
    /// [`IdentityError`]; then who it was before stays.
    pub fn install(&self, certificate: &[u8], authority: &[u8], key: &NodeKey) -> Result<SpiffeId, IdentityError> {
        let leaf = CertificateDer::from(certificate.to_vec());
        let authority = CertificateDer::from(authority.to_vec());
        let (id, validity, spki) = read(&leaf)?;
        if spki != key.public_key() {
            return Err(IdentityError::OtherKey);
        }
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone())?;
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(validity.not_before));
        verify::chain(&leaf, &roots, at, &self.0.provider).map_err(IdentityError::Chain)?;
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.pkcs8().to_vec()));
        let signing = self.0.provider.key_provider.load_private_key(private)?;
        let certified = Arc::new(CertifiedKey::new(vec![leaf, authority.clone()], signing));
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), self.provider());
        let clients = builder.allow_unauthenticated().build();
        let clients = clients.map_err(|_| IdentityError::Certificate("the authority cannot be trusted"))?;
        let current = Current { id: id.clone(), certified, authority, roots, clients, validity };
        self.0.current.store(Some(Arc::new(current)));
        self.0.changes.send_modify(|changes| *changes += 1);
        Ok(id)
    }

    /// Who this is.
    #[must_use]
    pub fn id(&self) -> Option<SpiffeId> {
        self.0.current.load().as_ref().map(|current| current.id.clone())
    }

    /// How long that holds.
    #[must_use]
    pub fn validity(&self) -> Option<Validity> {
        self.0.current.load().as_ref().map(|current| current.validity)
    }

    /// DER of this cluster's authority.
    #[must_use]
    pub fn authority(&self) -> Option<Vec<u8>> {
        self.0.current.load().as_ref().map(|current| current.authority.to_vec())
    }

    /// DER of the certificate.
    #[must_use]
    pub fn certificate(&self) -> Option<Vec<u8>> {
        let current = self.0.current.load();
        current.as_ref().and_then(|current| current.certified.cert.first()).map(|leaf| leaf.to_vec())
    }

    /// Changes each time a certificate is installed.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Unix seconds, as certificates are checked.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.0.time.current_time().map_or(0, |now| now.as_secs())
    }

    /// For a listener. A client without a certificate is let in if `anonymous`, as nobody in particular; one with a
    /// certificate must be of this cluster. While nobody is installed, every handshake fails.
    ///
    /// # Errors
    /// [`IdentityError::Tls`].
    pub fn server_config(&self, alpn: &[&[u8]], anonymous: bool) -> Result<ServerConfig, IdentityError> {
        let verifier = Arc::new(verify::Clients { identity: self.clone(), anonymous });
        let mut config = ServerConfig::builder_with_details(self.provider(), Arc::clone(&self.0.time))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(Resolver(self.clone())));
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// For connections as this identity to a member of this cluster that is as `expect` says.
    ///
    /// # Errors
    /// [`IdentityError::Tls`].
    pub fn client_config(&self, alpn: &[&[u8]], expect: Expect) -> Result<ClientConfig, IdentityError> {
        let verifier = Arc::new(verify::Servers { identity: self.clone(), expect });
        let config = ClientConfig::builder_with_details(self.provider(), Arc::clone(&self.0.time))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::new(Resolver(self.clone())));
        Ok(finished(config, alpn))
    }

    /// For connections as nobody to a control plane whose authority has this fingerprint: all that a newcomer knows.
    ///
    /// # Errors
    /// [`IdentityError::Tls`].
    pub fn pinned_client_config(&self, alpn: &[&[u8]], pin: [u8; 32]) -> Result<ClientConfig, IdentityError> {
        let verifier = Arc::new(verify::Pinned { provider: self.provider(), pin });
        let config = ClientConfig::builder_with_details(self.provider(), Arc::clone(&self.0.time))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        Ok(finished(config, alpn))
    }

    fn provider(&self) -> Arc<CryptoProvider> {
        Arc::clone(&self.0.provider)
    }
}

fn finished(mut config: ClientConfig, alpn: &[&[u8]]) -> ClientConfig {
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config
}

/// Who a certificate is for, how long, and its public key (SubjectPublicKeyInfo, DER).
///
/// # Errors
/// [`IdentityError::Certificate`] unless it has exactly one URI, a SPIFFE id.
pub fn read(certificate: &CertificateDer<'_>) -> Result<(SpiffeId, Validity, Vec<u8>), IdentityError> {
    let malformed = IdentityError::Certificate;
    let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(certificate)
        .map_err(|_| malformed("it is not an X.509 certificate"))?;
    let names = parsed.subject_alternative_name().ok().flatten();
    let names = names.ok_or_else(|| malformed("it names nobody"))?;
    let [GeneralName::URI(uri)] = names.value.general_names.as_slice() else {
        return Err(malformed("it must have one name, a SPIFFE id"));
    };
    let id = uri.parse().map_err(|_| malformed("its name is no SPIFFE id of a member"))?;
    let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
    let validity =
        Validity { not_before: seconds(parsed.validity().not_before), not_after: seconds(parsed.validity().not_after) };
    Ok((id, validity, parsed.public_key().raw.to_vec()))
}

/// Gives both ends the certificate of the moment.
#[derive(Debug)]
struct Resolver(Identity);

impl Resolver {
    fn current(&self) -> Option<Arc<CertifiedKey>> {
        self.0.0.current.load().as_ref().map(|current| Arc::clone(&current.certified))
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current()
    }
}

impl ResolvesClientCert for Resolver {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.current()
    }

    fn has_certs(&self) -> bool {
        self.0.0.current.load().is_some()
    }
}

#[cfg(test)]
mod tests;

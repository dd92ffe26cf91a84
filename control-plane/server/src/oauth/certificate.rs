//! Clients that prove who they are by the certificate of their connection (mTLS, RFC 8705 §2): one of an authority that
//! the operator believes for this, with the client's name in it, or one that is the client's own.
//!
//! Called by `client` with what the proxy told (`http::client_certificate`): that the client holds the key is the
//! proxy's word, all else is looked at here. Invariants: a certificate of an authority counts only with a chain to that
//! authority, within its time and for clients (RFC 5280 §6, by webpki); one of the client's own only byte for byte, and
//! within its time; a name is compared whole. Absent: revocation lists: who lost a key takes the client out of force,
//! or the certificate out of its manifest.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use axum::http::Extensions;
use bailiwick_control_plane_core::resource::{
    ClientAuth, ClientSpec,
    client_auth::{CertificateName, DistinguishedName, certificates_in},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{
    pki_types::{CertificateDer, UnixTime},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _, time::ASN1Time, x509::X509Name,
};

use super::{
    client::{Authenticated, NO_PROOF},
    error::OAuthError,
};
use crate::{
    clock,
    config::ControlPlaneConfig,
    error::ControlPlaneError,
    http::client_certificate::{ShownCertificate, header::Certificate},
    outbound::read_authorities,
};

/// Which certificates of clients count on this node, and for what; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ClientCertificates {
    are_told: bool,
    /// Believes certificates of the operator's authorities; there are none where absent.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    url: Option<Arc<str>>,
}

/// Why a certificate proves nothing; for the log alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NotIts {
    /// No authority is believed here.
    NoAuthorities,
    /// It cannot be read.
    Unreadable,
    /// No authority that is believed here has signed it, or not for this, or not for now.
    Untrusted,
    /// It is not good yet, or not any more.
    Time,
    /// It is another's.
    Other,
    /// The manifest does not say which is the client's.
    Manifest,
}

impl ClientCertificates {
    /// As the operator wants it.
    ///
    /// # Errors
    /// The authorities cannot be read.
    pub(crate) fn of(config: &ControlPlaneConfig) -> Result<Self, ControlPlaneError> {
        let verifier = config.http_client_ca_file.as_deref().map(|file| {
            let unusable = |why: String| ControlPlaneError::ClientAuthorities(why);
            let roots = read_authorities(file).map_err(|error| unusable(error.to_string()))?;
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.build().map_err(|error| unusable(error.to_string()))
        });
        Ok(Self {
            are_told: config.http_client_certificates,
            verifier: verifier.transpose()?,
            url: config.http_mtls_url.as_deref().map(Arc::from),
        })
    }

    /// Whether proxies tell which certificate a client has shown.
    pub(crate) const fn are_told(&self) -> bool {
        self.are_told
    }

    /// How clients can prove who they are by one (RFC 8705 §2).
    pub(super) fn methods(&self) -> impl Iterator<Item = &'static str> {
        let of_authority = self.verifier.is_some().then_some("tls_client_auth");
        let own = self.are_told.then_some("self_signed_tls_client_auth");
        of_authority.into_iter().chain(own)
    }

    /// Where clients show them, if not at the issuer.
    pub(super) fn url(&self) -> Option<&str> {
        self.url.as_deref()
    }

    fn check(&self, spec: &ClientSpec, shown: &Certificate, now: Duration) -> Result<(), NotIts> {
        match spec.auth {
            ClientAuth::TlsClientAuth => {
                let verifier = self.verifier.as_ref().ok_or(NotIts::NoAuthorities)?;
                let chain: Vec<_> = shown.chain.iter().map(|der| CertificateDer::from_slice(der)).collect();
                let verified = verifier.verify_client_cert(
                    &CertificateDer::from_slice(&shown.der),
                    &chain,
                    UnixTime::since_unix_epoch(now),
                );
                verified.map_err(|_| NotIts::Untrusted)?;
                let name = spec.certificate.as_ref().and_then(|certificate| certificate.name());
                let is_its = has(&parsed(shown)?, &name.ok_or(NotIts::Manifest)?);
                if is_its { Ok(()) } else { Err(NotIts::Other) }
            }
            ClientAuth::SelfSignedTlsClientAuth if !is_listed(spec, shown) => Err(NotIts::Other),
            ClientAuth::SelfSignedTlsClientAuth => {
                let now = ASN1Time::from_timestamp(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
                let now = now.map_err(|_| NotIts::Time)?;
                if parsed(shown)?.validity().is_valid_at(now) { Ok(()) } else { Err(NotIts::Time) }
            }
            ClientAuth::ClientSecret | ClientAuth::PrivateKeyJwt | ClientAuth::Workload | ClientAuth::None => {
                Err(NotIts::Manifest)
            }
        }
    }
}

/// That the certificate which is shown is the client's.
pub(super) fn authenticate(
    services: &super::Services,
    spec: &ClientSpec,
    name: String,
    extensions: &Extensions,
) -> Result<Authenticated, OAuthError> {
    let shown = extensions.get().and_then(|ShownCertificate(shown)| shown.as_ref());
    let shown = shown.ok_or(OAuthError::client(NO_PROOF, false))?;
    let now = Duration::from_micros(clock::now_micros());
    services.certificates.check(spec, shown, now).map_err(|why| {
        tracing::info!(client = %name, ?why, "a client's certificate is refused");
        OAuthError::client(NO_PROOF, false)
    })?;
    let demands = spec.binding;
    Ok(Authenticated { name, used: None, is_public: false, by_certificate: true, workload: None, demands })
}

fn parsed(shown: &Certificate) -> Result<X509Certificate<'_>, NotIts> {
    let (rest, parsed) = X509Certificate::from_der(&shown.der).map_err(|_| NotIts::Unreadable)?;
    if rest.is_empty() { Ok(parsed) } else { Err(NotIts::Unreadable) }
}

fn is_listed(spec: &ClientSpec, shown: &Certificate) -> bool {
    let hash = hex::encode(digest(&SHA256, &shown.der));
    let is_named = spec.certificate.as_ref().is_some_and(|certificate| certificate.sha256.contains(&hash));
    let is_it = |encoded: &String| STANDARD.decode(encoded).is_ok_and(|der| der == shown.der);
    is_named || spec.jwks.as_deref().and_then(certificates_in).is_some_and(|all| all.iter().any(is_it))
}

/// Whether a certificate has a name. What cannot be read of it is no name.
fn has(certificate: &X509Certificate<'_>, name: &CertificateName<'_>) -> bool {
    if let CertificateName::Subject(wanted) = name {
        return subject(certificate.subject()).as_ref() == Some(wanted);
    }
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return false };
    names.value.general_names.iter().any(|known| match (name, known) {
        (CertificateName::Dns(wanted), GeneralName::DNSName(known)) => wanted.eq_ignore_ascii_case(known),
        (CertificateName::Uri(wanted), GeneralName::URI(known)) => wanted == known,
        (CertificateName::Email(wanted), GeneralName::RFC822Name(known)) => wanted == known,
        (CertificateName::Ip(wanted), GeneralName::IPAddress(known)) => match wanted {
            std::net::IpAddr::V4(wanted) => wanted.octets() == **known,
            std::net::IpAddr::V6(wanted) => wanted.octets() == **known,
        },
        _ => false,
    })
}

fn subject(name: &X509Name<'_>) -> Option<DistinguishedName> {
    let parts = name.iter_rdn().map(|part| {
        let attributes = part.iter();
        let read = attributes.map(|one| Some((one.attr_type().to_id_string(), one.as_str().ok()?.to_owned())));
        read.collect::<Option<Vec<_>>>()
    });
    DistinguishedName::of_parts(parts.collect::<Option<Vec<_>>>()?)
}

#[cfg(test)]
mod tests;

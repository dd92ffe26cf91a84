//! Who is believed: the certificate must chain to this cluster's authority, count now, be meant for this use, and hold
//! the SPIFFE id that is expected. Host names play no part.
//!
//! [`Clients`] and [`Servers`] look at the identity of the moment, so they live as long as the process. [`Pinned`] is
//! for newcomers, who know only the authority's fingerprint: the server has to show the authority with its own
//! certificate, and only the hash of that decides whom it may be signed by.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ParsedCertificate,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use super::{Identity, Role, SpiffeId, read};

/// Whom a client wants to reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expect {
    /// What it must be.
    pub role: Role,
    /// Which of them; absent: any.
    pub node_id: Option<u64>,
    /// Its name; absent: any.
    pub name: Option<String>,
}

impl Expect {
    /// Any member of that role.
    #[must_use]
    pub const fn role(role: Role) -> Self {
        Self { role, node_id: None, name: None }
    }

    /// The control plane of that id.
    #[must_use]
    pub const fn control_plane(node_id: u64) -> Self {
        Self { role: Role::ControlPlane, node_id: Some(node_id), name: None }
    }

    fn is_met_by(&self, id: &SpiffeId) -> bool {
        id.role == self.role
            && self.node_id.is_none_or(|expected| id.node_id == Some(expected))
            && self.name.as_ref().is_none_or(|expected| id.name == *expected)
    }
}

/// SHA-256 of an authority's certificate: what a join token pins.
#[must_use]
pub fn fingerprint(authority: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.iter_mut().zip(digest(&SHA256, authority).as_ref()).for_each(|(to, from)| *to = *from);
    hash
}

/// Chain, time, and use as a server.
pub(super) fn chain(
    leaf: &CertificateDer<'_>,
    roots: &RootCertStore,
    now: UnixTime,
    provider: &CryptoProvider,
) -> Result<(), Error> {
    let parsed = ParsedCertificate::try_from(leaf)?;
    let algorithms = provider.signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(&parsed, roots, &[], now, algorithms)
}

fn identified(leaf: &CertificateDer<'_>) -> Result<SpiffeId, Error> {
    read(leaf).map(|(id, _, _)| id).map_err(|_| CertificateError::ApplicationVerificationFailure.into())
}

const fn stranger() -> Error {
    Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
}

/// Nobody is installed yet, so nobody can be believed.
fn nobody() -> Error {
    Error::General("this node has no certificate yet".to_owned())
}

/// What a listener believes.
#[derive(Debug)]
pub(super) struct Clients {
    pub(super) identity: Identity,
    pub(super) anonymous: bool,
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        !self.anonymous
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let current = self.identity.0.current.load();
        let current = current.as_ref().ok_or_else(nobody)?;
        let verified = current.clients.verify_client_cert(leaf, &[], now)?;
        if identified(leaf)?.cluster == current.id.cluster { Ok(verified) } else { Err(stranger()) }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls12(message, leaf, signed, &self.identity.0.provider)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls13(message, leaf, signed, &self.identity.0.provider)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.identity.0.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// What a member believes of whom it connects to.
#[derive(Debug)]
pub(super) struct Servers {
    pub(super) identity: Identity,
    pub(super) expect: Expect,
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let current = self.identity.0.current.load();
        let current = current.as_ref().ok_or_else(nobody)?;
        chain(leaf, &current.roots, now, &self.identity.0.provider)?;
        let id = identified(leaf)?;
        if id.cluster == current.id.cluster && self.expect.is_met_by(&id) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(stranger())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls12(message, leaf, signed, &self.identity.0.provider)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls13(message, leaf, signed, &self.identity.0.provider)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.identity.0.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// What a newcomer believes: a control plane whose authority has this fingerprint.
#[derive(Debug)]
pub(super) struct Pinned {
    pub(super) provider: Arc<CryptoProvider>,
    pub(super) pin: [u8; 32],
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let authority =
            intermediates.iter().find(|shown| fingerprint(shown) == self.pin).ok_or(CertificateError::UnknownIssuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        chain(leaf, &roots, now, &self.provider)?;
        if identified(leaf)?.role == Role::ControlPlane { Ok(ServerCertVerified::assertion()) } else { Err(stranger()) }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls12(message, leaf, signed, &self.provider)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls13(message, leaf, signed, &self.provider)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn tls12(
    message: &[u8],
    leaf: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    provider: &CryptoProvider,
) -> Result<HandshakeSignatureValid, Error> {
    verify_tls12_signature(message, leaf, signed, &provider.signature_verification_algorithms)
}

fn tls13(
    message: &[u8],
    leaf: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    provider: &CryptoProvider,
) -> Result<HandshakeSignatureValid, Error> {
    verify_tls13_signature(message, leaf, signed, &provider.signature_verification_algorithms)
}

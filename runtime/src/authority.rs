//! A certificate authority of one cluster: P-256, one level, certificates of one hour.
//!
//! Control planes keep its key sealed and sign with it; what may be signed for whom is theirs to decide. Short lives
//! take the place of revocation lists. Time is an argument. Absent: keeping the key (`control-plane/server`), checking
//! certificates (`identity`).

use std::fmt;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;

use crate::identity::{NodeKey, SpiffeId, is_p256};

/// How long a member's certificate counts.
pub const CERTIFICATE_SECONDS: u64 = 60 * 60;
/// Certificates begin this long ago, for members whose clocks are behind.
pub const SKEW_SECONDS: u64 = 5 * 60;
/// An authority lasts as long as its cluster.
const AUTHORITY_SECONDS: u64 = 30 * 365 * 24 * 60 * 60;
/// RFC 5280 §4.1.2.2 allows 20 bytes; these are unguessable.
const SERIAL_BYTES: usize = 16;

/// What keeps a certificate from being made.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The authority's certificate or key is damaged, or not a pair.
    #[error("the authority's certificate and key cannot be used")]
    Unusable,
    /// Nobody could be called that.
    #[error("no member can have the name {0}")]
    Name(String),
    /// Only P-256 keys are certified.
    #[error("the public key is not a P-256 key")]
    PublicKey,
    /// The library refuses.
    #[error("the certificate cannot be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The system gives no randomness.
    #[error("the system gives no randomness")]
    Randomness,
}

/// An authority, ready to sign. Prints nothing of its key.
pub struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority(…)")
    }
}

impl Authority {
    /// A new authority's certificate (DER) for a key of its own.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn create(cluster: &str, key: &NodeKey, now_seconds: u64) -> Result<Vec<u8>, AuthorityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = called(&format!("Bailiwick {cluster}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(serial()?);
        params.not_before = moment(now_seconds.saturating_sub(SKEW_SECONDS));
        params.not_after = moment(now_seconds.saturating_add(AUTHORITY_SECONDS));
        Ok(params.self_signed(&pair(key)?)?.der().to_vec())
    }

    /// The authority of this certificate and key.
    ///
    /// # Errors
    /// [`AuthorityError::Unusable`].
    pub fn open(certificate: &[u8], key: &NodeKey) -> Result<Self, AuthorityError> {
        let certificate = CertificateDer::from(certificate.to_vec());
        let of = x509_parser::parse_x509_certificate(&certificate).map_err(|_| AuthorityError::Unusable)?.1;
        if of.public_key().raw != key.public_key() {
            return Err(AuthorityError::Unusable);
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, pair(key)?).map_err(|_| AuthorityError::Unusable)?;
        Ok(Self { certificate, issuer })
    }

    /// DER.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// A certificate (DER) that whoever holds the private half of `public_key` is `id`, from now for an hour.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn issue(&self, id: &SpiffeId, public_key: &[u8], now_seconds: u64) -> Result<Vec<u8>, AuthorityError> {
        if !id.is_sound() {
            return Err(AuthorityError::Name(id.to_string()));
        }
        if !is_p256(public_key) {
            return Err(AuthorityError::PublicKey);
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = called(&id.name);
        params.subject_alt_names = vec![SanType::URI(id.to_string().try_into()?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial()?);
        params.not_before = moment(now_seconds.saturating_sub(SKEW_SECONDS));
        params.not_after = moment(now_seconds.saturating_add(CERTIFICATE_SECONDS));
        let public_key = SubjectPublicKeyInfo::from_der(public_key)?;
        Ok(params.signed_by(&public_key, &self.issuer)?.der().to_vec())
    }
}

fn called(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn pair(key: &NodeKey) -> Result<KeyPair, AuthorityError> {
    let der = PrivatePkcs8KeyDer::from(key.pkcs8());
    KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256).map_err(|_| AuthorityError::Unusable)
}

fn serial() -> Result<SerialNumber, AuthorityError> {
    let mut bytes = [0_u8; SERIAL_BYTES];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| AuthorityError::Randomness)?;
    // Positive, and never zero or shorter than it looks.
    if let Some(first) = bytes.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    Ok(SerialNumber::from_slice(&bytes))
}

fn moment(seconds: u64) -> OffsetDateTime {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

//! The headers in which a proxy tells a client's certificate, and those between it and an authority (RFC 9440).
//!
//! Called by `client_certificate` where the proxy is believed. Invariants: what is read is bounded and is what stands
//! there once; two `Client-Cert` are none, as one of them need not be the proxy's. A chain that cannot be read is no
//! chain. All of it is in a request's head, which `connection` bounds: it is what fits there in base64. Absent: whether
//! anything in it is so; a chain is no more than a hint.

use aws_lc_rs::digest::{SHA256, digest};
use axum::http::HeaderMap;
use bailiwick_token::Thumbprint;
use base64::{Engine as _, engine::general_purpose::STANDARD};

/// RFC 9440 §2.2 and §2.3.
const HEADER: &str = "client-cert";
const CHAIN_HEADER: &str = "client-cert-chain";
/// First byte of a DER sequence, which a certificate is.
const DER_SEQUENCE: u8 = 0x30;
/// Largest certificate that is read: those of the largest keys in use, post-quantum ones too. A head has room for two of
/// them.
pub(crate) const CERTIFICATE_BYTES_MAX: usize = 10 * 1024;
/// Most certificates of a chain that are read: so many and the client's have room where each has 2 KiB.
pub(crate) const CHAIN_MAX: usize = 8;

/// A certificate, as told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Certificate {
    /// In DER; nothing of it is known but its first byte.
    pub(crate) der: Vec<u8>,
    pub(crate) thumbprint: Thumbprint,
    /// Those said to lead to an authority, each in DER, in the order in which they were told.
    pub(crate) chain: Vec<Vec<u8>>,
}

/// What the headers of a request tell.
pub(crate) fn read(headers: &HeaderMap) -> Option<Certificate> {
    let mut values = headers.get_all(HEADER).iter();
    let value = values.next().filter(|_| values.next().is_none())?.to_str().ok()?;
    let der = certificate(value)?;
    let thumbprint = digest(&SHA256, &der).as_ref().try_into().ok().map(Thumbprint)?;
    Some(Certificate { der, thumbprint, chain: chain(headers).unwrap_or_default() })
}

/// A list of byte sequences, over any number of lines (RFC 9651 §3.1).
fn chain(headers: &HeaderMap) -> Option<Vec<Vec<u8>>> {
    let lines = headers.get_all(CHAIN_HEADER).iter().map(|line| line.to_str().ok());
    let lines = lines.collect::<Option<Vec<_>>>()?;
    let told: Vec<&str> = lines.into_iter().flat_map(|line| line.split(',')).take(CHAIN_MAX + 1).collect();
    if told.len() > CHAIN_MAX { None } else { told.into_iter().map(certificate).collect() }
}

/// Of a byte sequence (RFC 9651 §3.3.5).
fn certificate(value: &str) -> Option<Vec<u8>> {
    let encoded = value.trim_matches([' ', '\t']).strip_prefix(':')?.strip_suffix(':')?;
    let der = STANDARD.decode(encoded).ok()?;
    (der.len() <= CERTIFICATE_BYTES_MAX && der.first() == Some(&DER_SEQUENCE)).then_some(der)
}

//! How OAuth clients prove who they are, and what their manifests say for that: a secret's hash, public keys, or which
//! certificate is theirs (RFC 8705 §2).
//!
//! Called by `identity` (faults) and by the server, which looks at what a client presents. Invariants: a client has one
//! way and what that way needs, nothing of another; a name in a certificate is compared whole, there are no patterns.
//! Absent: certificates themselves, their chains and times (server).

mod distinguished_name;

use std::{collections::BTreeSet, net::IpAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::distinguished_name::{Attribute, DistinguishedName};
use super::{
    checks::{Fault, clip},
    identity::{ClientSpec, KEY_SET_BYTES_MAX, is_key_set},
};

/// Most certificates of one client: the present one and its successor, on a few machines.
const CERTIFICATES_MAX: usize = 16;
/// Longest name in a certificate that is compared.
const NAME_BYTES_MAX: usize = 1_024;

/// How a client proves who it is (RFC 6749 §2.3, RFC 7523 §2.2, RFC 8705 §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    /// By a secret, in the header or in the body.
    ClientSecret,
    /// By a JWT it signs.
    PrivateKeyJwt,
    /// By a JWT that its platform signs: Kubernetes, SPIFFE.
    Workload,
    /// By a TLS certificate of an authority that is believed for this, with a name that is the client's.
    TlsClientAuth,
    /// By a TLS certificate that is the client's own, whoever signed it.
    SelfSignedTlsClientAuth,
    /// Not at all: a program on people's machines, which can keep no secret. It can only ask people.
    None,
}

impl ClientAuth {
    /// By the certificate of its connection, and by nothing in its request.
    #[must_use]
    pub const fn is_by_certificate(self) -> bool {
        match self {
            Self::TlsClientAuth | Self::SelfSignedTlsClientAuth => true,
            Self::ClientSecret | Self::PrivateKeyJwt | Self::Workload | Self::None => false,
        }
    }
}

/// Which certificates are a client's: those with one name, or those that are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificateSpec {
    /// Its subject, as RFC 4514 writes it, e.g. "CN=reports,O=Acme" (`tls_client_auth_subject_dn`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject_dn: Option<String>,
    /// A host name among its alternative names (`tls_client_auth_san_dns`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub san_dns: Option<String>,
    /// A URI among them, byte for byte, e.g. a SPIFFE ID (`tls_client_auth_san_uri`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub san_uri: Option<String>,
    /// An address among them (`tls_client_auth_san_ip`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub san_ip: Option<String>,
    /// A mail address among them, byte for byte (`tls_client_auth_san_email`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub san_email: Option<String>,
    /// SHA-256 of each certificate (DER), in hexadecimal; for `self_signed_tls_client_auth`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub sha256: BTreeSet<String>,
}

/// The name that a client's certificates have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateName<'a> {
    /// As subject.
    Subject(DistinguishedName),
    /// As one of the alternative names.
    Dns(&'a str),
    /// As one of them.
    Uri(&'a str),
    /// As one of them.
    Ip(IpAddr),
    /// As one of them.
    Email(&'a str),
}

impl CertificateSpec {
    /// The one name; none where there is none, are several, or it cannot be one.
    #[must_use]
    pub fn name(&self) -> Option<CertificateName<'_>> {
        match self.named().as_slice() {
            [(key, text)] if !text.is_empty() && text.len() <= NAME_BYTES_MAX => name(key, text),
            _ => None,
        }
    }

    fn named(&self) -> Vec<(&'static str, &str)> {
        let all = [
            ("subject_dn", &self.subject_dn),
            ("san_dns", &self.san_dns),
            ("san_uri", &self.san_uri),
            ("san_ip", &self.san_ip),
            ("san_email", &self.san_email),
        ];
        all.into_iter().filter_map(|(key, text)| Some((key, text.as_deref()?))).collect()
    }
}

fn name<'a>(key: &str, text: &'a str) -> Option<CertificateName<'a>> {
    let is_visible = text.chars().all(|c| c.is_ascii_graphic());
    match key {
        "subject_dn" => DistinguishedName::parse(text).map(CertificateName::Subject),
        "san_dns" => is_host(text).then_some(CertificateName::Dns(text)),
        "san_uri" => (is_visible && text.contains(':')).then_some(CertificateName::Uri(text)),
        "san_ip" => text.parse().ok().map(CertificateName::Ip),
        _ => (is_visible && text.split('@').count() == 2).then_some(CertificateName::Email(text)),
    }
}

/// No pattern: one that stands in a certificate is many hosts' name.
fn is_host(text: &str) -> bool {
    let is_label = |label: &str| {
        let fits = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        fits && !label.is_empty() && label.len() <= 63 && !label.starts_with('-') && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

/// What is wrong with what a client is to prove itself by.
pub(super) fn faults(client: &ClientSpec) -> Vec<Fault> {
    let all = [of_secret(client), of_keys(client), of_certificate(client)];
    let mut faults: Vec<_> = all.into_iter().flatten().collect();
    if client.auth == ClientAuth::None && client.redirect_uris.is_empty() && faults.is_empty() {
        let message = "missing; a client without a secret can only ask people, and is told the answer there";
        faults.push(Fault::new("spec.redirect_uris", message));
    }
    faults
}

fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn of_secret(client: &ClientSpec) -> Option<Fault> {
    let message = match (client.auth, client.secret_sha256.as_deref()) {
        (ClientAuth::ClientSecret, None) => "missing; `bailiwick client new-secret` makes a secret and this hash of it",
        (ClientAuth::ClientSecret, Some(hash)) if !is_hash(hash) => "must be 64 lower-case hexadecimal digits",
        (ClientAuth::ClientSecret, Some(_)) => return None,
        (_, Some(_)) => "is for auth: client_secret",
        (_, None) => return None,
    };
    Some(Fault::new("spec.secret_sha256", message))
}

fn of_keys(client: &ClientSpec) -> Option<Fault> {
    let message = match (client.auth, client.jwks.as_deref()) {
        (ClientAuth::PrivateKeyJwt, None) => "missing; write the client's public keys".to_owned(),
        (ClientAuth::PrivateKeyJwt, Some(keys)) if !is_key_set(keys) => {
            format!("must be a JSON Web Key Set of at most {KEY_SET_BYTES_MAX} bytes")
        }
        (ClientAuth::SelfSignedTlsClientAuth, Some(keys)) if certificates_in(keys).is_none() => {
            format!("must be a JSON Web Key Set of 1 to {CERTIFICATES_MAX} keys, each with its certificate (x5c)")
        }
        (ClientAuth::PrivateKeyJwt | ClientAuth::SelfSignedTlsClientAuth, _) | (_, None) => return None,
        (_, Some(_)) => "is for auth: private_key_jwt".to_owned(),
    };
    Some(Fault::new("spec.jwks", message))
}

fn of_certificate(client: &ClientSpec) -> Option<Fault> {
    let fault = |message: &str| Some(Fault::new("spec.certificate", message));
    match (client.auth, &client.certificate) {
        (auth, _) if auth.is_by_certificate() && client.self_registered => {
            Some(Fault::new("spec.auth", "by a certificate is for registered clients"))
        }
        (ClientAuth::TlsClientAuth, None) => fault("missing; which name has the client's certificate?"),
        (ClientAuth::TlsClientAuth, Some(spec)) => of_name(spec),
        (ClientAuth::SelfSignedTlsClientAuth, None) if client.jwks.is_none() => {
            fault("missing; write sha256 of the client's certificates, or a jwks with them (x5c)")
        }
        (ClientAuth::SelfSignedTlsClientAuth, Some(_)) if client.jwks.is_some() => {
            fault("stands without `jwks`, which has the certificates already")
        }
        (ClientAuth::SelfSignedTlsClientAuth, Some(spec)) => of_list(spec),
        (_, Some(_)) if !client.auth.is_by_certificate() => {
            fault("is for auth: tls_client_auth or self_signed_tls_client_auth")
        }
        _ => None,
    }
}

fn of_name(spec: &CertificateSpec) -> Option<Fault> {
    if !spec.sha256.is_empty() {
        return Some(Fault::new("spec.certificate.sha256", "is for auth: self_signed_tls_client_auth"));
    }
    match spec.named().as_slice() {
        [(key, text)] if spec.name().is_none() => {
            let message = format!("\"{}\" cannot be such a name of a certificate", clip(text));
            Some(Fault::new(format!("spec.certificate.{key}"), message))
        }
        [_] => None,
        _ => Some(Fault::new(
            "spec.certificate",
            "must say exactly one of subject_dn, san_dns, san_uri, san_ip and san_email",
        )),
    }
}

fn of_list(spec: &CertificateSpec) -> Option<Fault> {
    if let Some((key, _)) = spec.named().first() {
        let message = "is for auth: tls_client_auth; whoever signs a certificate writes any name into it";
        return Some(Fault::new(format!("spec.certificate.{key}"), message));
    }
    let fits = (1..=CERTIFICATES_MAX).contains(&spec.sha256.len()) && spec.sha256.iter().all(|text| is_hash(text));
    let message = format!("must be 1 to {CERTIFICATES_MAX} times 64 lower-case hexadecimal digits");
    (!fits).then(|| Fault::new("spec.certificate.sha256", message))
}

/// The certificates of a key set, in base64 as they stand there: the first of each key's `x5c` (RFC 7517 §4.7). None
/// where a key has none, or there are too many.
#[must_use]
pub fn certificates_in(jwks: &str) -> Option<Vec<String>> {
    if !is_key_set(jwks) {
        return None;
    }
    let set = serde_json::from_str::<Value>(jwks).ok()?;
    let keys = set.get("keys")?.as_array().filter(|keys| keys.len() <= CERTIFICATES_MAX)?;
    let first = |key: &Value| Some(key.get("x5c")?.as_array()?.first()?.as_str()?.to_owned());
    keys.iter().map(first).collect::<Option<Vec<_>>>().filter(|all| all.iter().all(|text| !text.is_empty()))
}

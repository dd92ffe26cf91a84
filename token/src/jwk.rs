//! Public keys as JSON Web Keys: how they are written, read and named.
//!
//! Written by the control plane into its JWKS, read by data planes. Only Ed25519 (RFC 8037) and P-256 (RFC 7518 §6.2)
//! exist here; a key with private parts is refused. A key's id is its RFC 7638 thumbprint.

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::key::KeyError;

/// Signature algorithms of access tokens (RFC 7518 §3.1, RFC 8037 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Algorithm {
    /// Ed25519: the default; the same claims always give the same token.
    #[serde(rename = "EdDSA")]
    EdDsa,
    /// ECDSA with P-256 and SHA-256, for verifiers without Ed25519.
    #[serde(rename = "ES256")]
    Es256,
}

impl Algorithm {
    /// The word in headers and JWKs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
        }
    }

    pub(crate) const fn curve(self) -> (&'static str, &'static str) {
        match self {
            Self::EdDsa => ("OKP", "Ed25519"),
            Self::Es256 => ("EC", "P-256"),
        }
    }
}

impl std::str::FromStr for Algorithm {
    type Err = KeyError;
    fn from_str(word: &str) -> Result<Self, KeyError> {
        [Self::EdDsa, Self::Es256].into_iter().find(|alg| alg.as_str() == word).ok_or(KeyError::Algorithm)
    }
}

/// A public key as a JWK; serialises to the JSON that stands in a JWKS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PublicJwk {
    /// Key type: `OKP` or `EC`.
    pub kty: String,
    /// Curve: `Ed25519` or `P-256`.
    pub crv: String,
    /// The key (Ed25519) or its first coordinate (P-256), base64url.
    pub x: String,
    /// The second coordinate (P-256 only), base64url.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub y: Option<String>,
    /// Algorithm.
    pub alg: Algorithm,
    /// Use: always `sig`.
    #[serde(rename = "use")]
    pub usage: &'static str,
    /// Key id: the thumbprint.
    pub kid: String,
}

impl PublicJwk {
    /// The JWK of raw public key bytes: 32 bytes of Ed25519, or an uncompressed point of P-256 (65 bytes).
    pub(crate) fn from_raw(alg: Algorithm, raw: &[u8]) -> Result<Self, KeyError> {
        let (x, y) = match (alg, raw) {
            (Algorithm::EdDsa, raw) if raw.len() == 32 => (raw, None),
            (Algorithm::Es256, [4, point @ ..]) if point.len() == 64 => {
                let (x, y) = point.split_at_checked(32).ok_or(KeyError::Public)?;
                (x, Some(y))
            }
            _ => return Err(KeyError::Public),
        };
        let (kty, crv) = alg.curve();
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), y.map(|y| URL_SAFE_NO_PAD.encode(y)));
        let kid = thumbprint(kty, crv, &x, y.as_deref());
        Ok(Self { kty: kty.into(), crv: crv.into(), x, y, alg, usage: "sig", kid })
    }

    /// The JWK as compact JSON.
    ///
    /// # Errors
    /// Never in practice: serialising this struct cannot fail, but the caller need not rely on it.
    pub fn to_json(&self) -> Result<String, KeyError> {
        serde_json::to_string(self).map_err(|_| KeyError::Jwk)
    }
}

/// What is read of a JWK; other members are ignored (RFC 7517 §4), except those of private keys.
#[derive(Deserialize)]
struct WireJwk {
    kty: String,
    crv: String,
    x: String,
    y: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    kid: Option<String>,
    d: Option<serde::de::IgnoredAny>,
}

/// The raw public key of a JWK that must be of algorithm `alg` and, where it says so itself, of id `kid`.
pub(crate) fn raw_public_key(kid: &str, alg: Algorithm, json: &str) -> Result<Vec<u8>, KeyError> {
    let jwk: WireJwk = serde_json::from_str(json).map_err(|_| KeyError::Jwk)?;
    let says_otherwise = |said: Option<&str>, wanted: &str| said.is_some_and(|said| said != wanted);
    if jwk.d.is_some() {
        return Err(KeyError::PrivateJwk);
    }
    if (jwk.kty.as_str(), jwk.crv.as_str()) != alg.curve() || says_otherwise(jwk.alg.as_deref(), alg.as_str()) {
        return Err(KeyError::Algorithm);
    }
    if says_otherwise(jwk.usage.as_deref(), "sig") || says_otherwise(jwk.kid.as_deref(), kid) {
        return Err(KeyError::Jwk);
    }
    let coordinate = |text: &str| {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| KeyError::Public)?;
        if bytes.len() == 32 { Ok(bytes) } else { Err(KeyError::Public) }
    };
    let x = coordinate(&jwk.x)?;
    match (alg, jwk.y) {
        (Algorithm::EdDsa, None) => Ok(x),
        (Algorithm::Es256, Some(y)) => Ok([vec![4], x, coordinate(&y)?].concat()),
        (Algorithm::EdDsa, Some(_)) | (Algorithm::Es256, None) => Err(KeyError::Public),
    }
}

/// RFC 7638 §3: SHA-256 of the required members in lexicographic order, without white space.
fn thumbprint(kty: &str, crv: &str, x: &str, y: Option<&str>) -> String {
    let y = y.map(|y| format!(r#","y":"{y}""#)).unwrap_or_default();
    let members = format!(r#"{{"crv":"{crv}","kty":"{kty}","x":"{x}"{y}}}"#);
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, members.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thumbprint_is_the_one_of_rfc_8037_appendix_a_3() {
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        assert_eq!(thumbprint("OKP", "Ed25519", x, None), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    #[test]
    fn keys_that_are_not_what_they_should_be_are_refused() {
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        let good = format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}"}}"#);
        assert_eq!(raw_public_key("k", Algorithm::EdDsa, &good).unwrap().len(), 32);
        let cases = [
            (format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}","d":"{x}"}}"#), KeyError::PrivateJwk),
            (format!(r#"{{"kty":"OKP","crv":"X25519","x":"{x}"}}"#), KeyError::Algorithm),
            (format!(r#"{{"kty":"oct","crv":"Ed25519","x":"{x}"}}"#), KeyError::Algorithm),
            (format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}","alg":"HS256"}}"#), KeyError::Algorithm),
            (format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}","kid":"other"}}"#), KeyError::Jwk),
            (format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}","use":"enc"}}"#), KeyError::Jwk),
            (format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}","y":"{x}"}}"#), KeyError::Public),
            (r#"{"kty":"OKP","crv":"Ed25519","x":"AAAA"}"#.to_owned(), KeyError::Public),
            ("{}".to_owned(), KeyError::Jwk),
            ("".to_owned(), KeyError::Jwk),
        ];
        for (json, error) in cases {
            assert_eq!(raw_public_key("k", Algorithm::EdDsa, &json), Err(error), "{json}");
        }
        assert_eq!(raw_public_key("k", Algorithm::Es256, &good), Err(KeyError::Algorithm));
    }
}

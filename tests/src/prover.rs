//! A client's key and the proofs of it (DPoP, RFC 9449 §4): honest ones, and whatever else a header and claims can say.
//!
//! Used against the token endpoint and data planes. Its own code on purpose: what it signs is checked by another.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use aws_lc_rs::{
    digest, rand,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// A key, ready to sign proofs.
#[derive(Debug)]
pub struct Prover {
    pair: Ed25519KeyPair,
}

impl Prover {
    /// With a fresh key.
    ///
    /// # Errors
    /// When none can be made.
    pub fn new() -> Result<Self> {
        Ok(Self { pair: Ed25519KeyPair::generate().context("no key")? })
    }

    /// The public half.
    #[must_use]
    pub fn jwk(&self) -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "x": b64(self.pair.public_key())})
    }

    /// Its thumbprint (RFC 7638).
    #[must_use]
    pub fn jkt(&self) -> String {
        let members = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, b64(self.pair.public_key()));
        b64(digest::digest(&digest::SHA256, members.as_bytes()))
    }

    /// The claims of a proof for a request, made now.
    ///
    /// # Errors
    /// When there is no clock or randomness.
    pub fn claims(method: &str, url: &str, nonce: Option<&str>) -> Result<Value> {
        let mut jti = [0; 16];
        rand::fill(&mut jti).context("no randomness")?;
        let mut claims = json!({"jti": hex::encode(jti), "htm": method, "htu": url, "iat": now()?});
        if let (Some(nonce), Some(claims)) = (nonce, claims.as_object_mut()) {
            claims.insert("nonce".to_owned(), nonce.into());
        }
        Ok(claims)
    }

    /// An honest proof.
    ///
    /// # Errors
    /// As [`Self::claims`].
    pub fn proof(&self, method: &str, url: &str, nonce: Option<&str>) -> Result<String> {
        Ok(self.sign(&self.header(), &Self::claims(method, url, nonce)?))
    }

    /// The header of an honest proof.
    #[must_use]
    pub fn header(&self) -> Value {
        json!({"typ": "dpop+jwt", "alg": "EdDSA", "jwk": self.jwk()})
    }

    /// Anything, signed.
    #[must_use]
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
        let signature = self.pair.sign(message.as_bytes());
        format!("{message}.{}", b64(signature))
    }
}

/// Seconds since the Unix epoch.
///
/// # Errors
/// When the clock stands before it.
pub fn now() -> Result<i64> {
    Ok(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?)
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

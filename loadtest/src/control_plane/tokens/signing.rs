//! Keys of the load tester: what clients and a company's provider sign, and how fast one core signs.
//!
//! Used by `world` and `provider`. The keys live as long as one run. Specifications: RFC 7515, RFC 7517, RFC 8037.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use aws_lc_rs::{
    digest,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::control_plane::figures::count;

const KID: &str = "bench";
/// Signatures between two looks at the clock.
const SIGNED_AT_ONCE: usize = 100;

/// A key pair.
#[derive(Debug)]
pub(super) enum Key {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair, SystemRandom),
}

impl Key {
    pub(super) fn ed25519() -> Result<Self> {
        Ok(Self::Ed25519(Ed25519KeyPair::generate()?))
    }

    pub(super) fn p256() -> Result<Self> {
        Ok(Self::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?, SystemRandom::new()))
    }

    /// The public key, alone in a set.
    pub(super) fn jwks(&self) -> Result<String> {
        let key = match self {
            Self::Ed25519(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": KID, "x": encoded(pair.public_key())})
            }
            Self::P256(pair, _) => {
                // Uncompressed: a byte that says so, and two coordinates.
                let point = pair.public_key().as_ref().get(1..).context("a public key")?;
                let (x, y) = point.split_at_checked(point.len() / 2).context("a public key")?;
                json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": KID, "x": encoded(x), "y": encoded(y)})
            }
        };
        Ok(json!({"keys": [key]}).to_string())
    }

    /// A signed JWT of a type.
    pub(super) fn jwt(&self, typ: &str, claims: &Value) -> Result<String> {
        let alg = match self {
            Self::Ed25519(_) => "EdDSA",
            Self::P256(..) => "ES256",
        };
        let header = json!({"alg": alg, "typ": typ, "kid": KID});
        let mut jwt = format!("{}.{}", encoded(header.to_string()), encoded(claims.to_string()));
        let signature = self.sign(jwt.as_bytes())?;
        jwt.push('.');
        jwt.push_str(&encoded(signature));
        Ok(jwt)
    }

    /// Signatures a second on one core.
    pub(super) fn signatures_per_second(&self, time: Duration) -> Result<f64> {
        let (began, mut signed) = (Instant::now(), 0);
        while began.elapsed() < time {
            for _ in 0..SIGNED_AT_ONCE {
                std::hint::black_box(self.sign(std::hint::black_box(&[7; 400]))?);
            }
            signed += SIGNED_AT_ONCE;
        }
        Ok(count(signed) / began.elapsed().as_secs_f64())
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        Ok(match self {
            Self::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Self::P256(pair, random) => pair.sign(random, message)?.as_ref().to_vec(),
        })
    }
}

/// Base64url without padding.
pub(super) fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// What [`encoded`] made.
pub(super) fn decoded(text: &str) -> Result<Vec<u8>> {
    Ok(URL_SAFE_NO_PAD.decode(text)?)
}

/// SHA-256.
pub(super) fn hashed(text: &str) -> digest::Digest {
    digest::digest(&digest::SHA256, text.as_bytes())
}

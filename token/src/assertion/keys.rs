//! The public keys of one stranger, read from a JWK Set, each for the algorithms it fits and no other.
//!
//! Read by the control plane from an issuer's or a client's JWKS; used by `verify`. A set may hold keys for other
//! things: a key of an unknown kind, for another use, or out of bounds is skipped (RFC 7517 §5). A set that holds
//! private members is refused whole: whoever published it has lost the key. A set without a usable key is not an error:
//! it is what an issuer publishes that has withdrawn its keys, and refuses every assertion.

use std::{fmt, ops::RangeInclusive, str::FromStr};

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA256, RsaPublicKeyComponents,
};
use bailiwick_proto::mcp::check_json;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::{
    AssertionError,
    envelope::{Envelope, HEADER_TEXT_BYTES_MAX, is_plain},
};

/// Largest JWK Set that is read, in bytes: large providers have some 20 KiB, with certificates.
pub const JWKS_BYTES_MAX: usize = 128 * 1024;
/// Most keys in a set: providers have two to a dozen.
pub const JWKS_KEYS_MAX: usize = 64;
/// Most keys tried for one assertion that names none: what a stranger can make us compute.
pub const KEYS_TRIED_MAX: usize = 8;
/// Sizes of RSA moduli that are accepted, in bits.
pub const RSA_BITS: RangeInclusive<usize> = 2048..=8192;

/// Smallest and largest RSA public exponent: FIPS 186-5 §5.1 wants more than 2^16; real keys have 65537.
const RSA_EXPONENT: RangeInclusive<u32> = 65_537..=u32::MAX;
/// Members that only private or symmetric keys have (RFC 7518 §6, RFC 8037 §2, and `priv` of the newer kinds).
const PRIVATE_MEMBERS: [&str; 9] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"];

/// Signature algorithms of assertions (RFC 7518 §3.1, RFC 8037 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AssertionAlgorithm {
    /// RSA, PKCS #1 v1.5, SHA-256.
    Rs256,
    /// RSA, PSS, SHA-256.
    Ps256,
    /// ECDSA, P-256, SHA-256.
    Es256,
    /// ECDSA, P-384, SHA-384.
    Es384,
    /// Ed25519.
    EdDsa,
}

impl AssertionAlgorithm {
    /// Every algorithm.
    pub const ALL: [Self; 5] = [Self::Rs256, Self::Ps256, Self::Es256, Self::Es384, Self::EdDsa];

    /// The word in headers, JWKs and metadata.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Ps256 => "PS256",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }
}

/// Reads the word; `Ed25519` (RFC 9864 §2.2) is another word for the one curve that `EdDSA` means here.
impl FromStr for AssertionAlgorithm {
    type Err = AssertionError;
    fn from_str(word: &str) -> Result<Self, AssertionError> {
        let known = Self::ALL.into_iter().find(|alg| alg.as_str() == word);
        known.or((word == "Ed25519").then_some(Self::EdDsa)).ok_or(AssertionError::Algorithm)
    }
}

/// Why a JWK Set is refused whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// Longer than [`JWKS_BYTES_MAX`].
    #[error("the key set is longer than {JWKS_BYTES_MAX} bytes")]
    TooLong,
    /// Not a JSON object with a list `keys` of objects, or JSON with more than one reading.
    #[error("the key set is not a JSON Web Key Set")]
    Malformed,
    /// More than [`JWKS_KEYS_MAX`].
    #[error("the key set holds more than {JWKS_KEYS_MAX} keys")]
    TooMany,
    /// A private or symmetric key where public ones belong.
    #[error("the key set holds a private or symmetric key")]
    Private,
    /// Two keys of one id for one algorithm.
    #[error("two keys of the set share one id")]
    Duplicate,
}

struct Key {
    kid: Option<String>,
    alg: AssertionAlgorithm,
    key: ParsedPublicKey,
}

/// The keys of one issuer or client, and the algorithms it may use.
pub struct AssertionKeys {
    allowed: Vec<AssertionAlgorithm>,
    keys: Vec<Key>,
    skipped: usize,
}

impl fmt::Debug for AssertionKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| (&key.kid, key.alg))).finish()
    }
}

impl AssertionKeys {
    /// Reads a JWK Set as fetched. A key serves its `alg` if it says one, else those of `allowed` that its kind fits.
    ///
    /// # Errors
    /// When the set is out of bounds, not a JWK Set, names two keys alike, or holds private members.
    pub fn from_jwks(json: &[u8], allowed: &[AssertionAlgorithm]) -> Result<Self, KeySetError> {
        Self::read(json, allowed, &["sig"])
    }

    /// The same of a SPIFFE bundle (SPIFFE Trust Domain and Bundle §4), where keys for JWTs are said to be `jwt-svid`.
    ///
    /// # Errors
    /// As [`Self::from_jwks`].
    pub fn from_bundle(json: &[u8], allowed: &[AssertionAlgorithm]) -> Result<Self, KeySetError> {
        Self::read(json, allowed, &["sig", "jwt-svid"])
    }

    fn read(json: &[u8], allowed: &[AssertionAlgorithm], uses: &[&str]) -> Result<Self, KeySetError> {
        if json.len() > JWKS_BYTES_MAX {
            return Err(KeySetError::TooLong);
        }
        let text = check_json(json).map_err(|_| KeySetError::Malformed)?;
        let mut set: Map<String, Value> = serde_json::from_str(text).map_err(|_| KeySetError::Malformed)?;
        let Some(Value::Array(jwks)) = set.remove("keys") else { return Err(KeySetError::Malformed) };
        if jwks.len() > JWKS_KEYS_MAX {
            return Err(KeySetError::TooMany);
        }
        let mut read = Self { allowed: allowed.to_vec(), keys: Vec::new(), skipped: 0 };
        for jwk in &jwks {
            read.add(jwk.as_object().ok_or(KeySetError::Malformed)?, uses)?;
        }
        Ok(read)
    }

    /// Are there no usable keys? Then every assertion is refused.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// How many keys of the set were skipped: of an unknown kind, for another use or algorithm, or out of bounds.
    #[must_use]
    pub const fn skipped(&self) -> usize {
        self.skipped
    }

    /// Is there a key of this id? If not, the issuer may have published it since the set was fetched.
    #[must_use]
    pub fn has_kid(&self, kid: &str) -> bool {
        self.keys.iter().any(|key| key.kid.as_deref() == Some(kid))
    }

    fn add(&mut self, jwk: &Map<String, Value>, uses: &[&str]) -> Result<(), KeySetError> {
        if is_private(jwk) {
            return Err(KeySetError::Private);
        }
        let kid = jwk.get("kid").map(|kid| kid.as_str().filter(|kid| is_plain(kid, HEADER_TEXT_BYTES_MAX)));
        if kid == Some(None) || !is_for_signatures(jwk, uses) {
            self.skipped += 1;
            return Ok(());
        }
        let kid = kid.flatten().map(str::to_owned);
        let before = self.keys.len();
        for alg in algorithms_of(jwk).into_iter().filter(|alg| self.allowed.contains(alg)) {
            let Some(key) = public_key(jwk, alg) else { continue };
            if kid.is_some() && self.keys.iter().any(|known| known.kid == kid && known.alg == alg) {
                return Err(KeySetError::Duplicate);
            }
            self.keys.push(Key { kid: kid.clone(), alg, key });
        }
        self.skipped += usize::from(self.keys.len() == before);
        Ok(())
    }

    /// Verifies the signature with the key the assertion names, or if it names none with each of its algorithm.
    pub(super) fn check(&self, envelope: &Envelope<'_>) -> Result<(), AssertionError> {
        let alg = envelope.header.alg;
        if !self.allowed.contains(&alg) {
            return Err(AssertionError::Algorithm);
        }
        let kid = envelope.header.kid.as_deref();
        if kid.is_some_and(|kid| !self.has_kid(kid)) {
            return Err(AssertionError::UnknownKey);
        }
        let named = self.keys.iter().filter(|key| kid.is_none() || key.kid.as_deref() == kid);
        let mut fitting = named.filter(|key| key.alg == alg).take(KEYS_TRIED_MAX).peekable();
        if fitting.peek().is_none() {
            return Err(if kid.is_some() { AssertionError::Algorithm } else { AssertionError::UnknownKey });
        }
        let holds = |key: &Key| key.key.verify_sig(envelope.signed, &envelope.signature).is_ok();
        if fitting.any(holds) { Ok(()) } else { Err(AssertionError::Signature) }
    }
}

/// Has the key a member that only private and symmetric keys have?
fn is_private(jwk: &Map<String, Value>) -> bool {
    PRIVATE_MEMBERS.iter().any(|member| jwk.contains_key(*member))
}

/// The one public key of a JWK, for this algorithm, within the bounds of [`AssertionKeys`].
pub(crate) fn one_public_key(
    jwk: &Map<String, Value>,
    alg: AssertionAlgorithm,
) -> Result<Option<ParsedPublicKey>, KeySetError> {
    if is_private(jwk) {
        return Err(KeySetError::Private);
    }
    let fits = is_for_signatures(jwk, &["sig"]) && algorithms_of(jwk).contains(&alg);
    Ok(if fits { public_key(jwk, alg) } else { None })
}

fn is_for_signatures(jwk: &Map<String, Value>, uses: &[&str]) -> bool {
    let usage = jwk.get("use").is_none_or(|usage| uses.iter().any(|one| usage == one));
    let operations =
        jwk.get("key_ops").is_none_or(|ops| ops.as_array().is_some_and(|ops| ops.contains(&"verify".into())));
    usage && operations
}

/// The algorithms that fit the key's kind, or of them the one that it says it is for.
fn algorithms_of(jwk: &Map<String, Value>) -> Vec<AssertionAlgorithm> {
    use AssertionAlgorithm::{EdDsa, Es256, Es384, Ps256, Rs256};
    let member = |name: &str| jwk.get(name).and_then(Value::as_str);
    let mut fitting = match (member("kty"), member("crv")) {
        (Some("RSA"), None) => vec![Rs256, Ps256],
        (Some("EC"), Some("P-256")) => vec![Es256],
        (Some("EC"), Some("P-384")) => vec![Es384],
        (Some("OKP"), Some("Ed25519")) => vec![EdDsa],
        _ => Vec::new(),
    };
    if let Some(stated) = jwk.get("alg") {
        let stated = stated.as_str().and_then(|word| word.parse().ok());
        fitting.retain(|alg| Some(*alg) == stated);
    }
    fitting
}

/// The key's material, if it is within bounds and, for curves, a point on its curve.
fn public_key(jwk: &Map<String, Value>, alg: AssertionAlgorithm) -> Option<ParsedPublicKey> {
    let bytes = |name: &str| URL_SAFE_NO_PAD.decode(jwk.get(name)?.as_str()?).ok();
    let coordinate = |name: &str, length: usize| bytes(name).filter(|bytes| bytes.len() == length);
    let point = |length| Some([vec![4], coordinate("x", length)?, coordinate("y", length)?].concat());
    match alg {
        AssertionAlgorithm::Rs256 | AssertionAlgorithm::Ps256 => rsa_key(&bytes("n")?, &bytes("e")?, alg),
        AssertionAlgorithm::Es256 => ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point(32)?).ok(),
        AssertionAlgorithm::Es384 => ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point(48)?).ok(),
        AssertionAlgorithm::EdDsa => ParsedPublicKey::new(&ED25519, coordinate("x", 32)?).ok(),
    }
}

/// Big-endian; leading zeros (RFC 7518 §2) are refused by the library.
fn rsa_key(n: &[u8], e: &[u8], alg: AssertionAlgorithm) -> Option<ParsedPublicKey> {
    let bits = n.len() * 8 - n.first()?.leading_zeros() as usize;
    let mut exponent = [0; 4];
    exponent.get_mut(4_usize.checked_sub(e.len())?..)?.copy_from_slice(e);
    let exponent = u32::from_be_bytes(exponent);
    if !RSA_BITS.contains(&bits) || !RSA_EXPONENT.contains(&exponent) || exponent % 2 == 0 {
        return None;
    }
    let scheme = if alg == AssertionAlgorithm::Ps256 { &RSA_PSS_2048_8192_SHA256 } else { &RSA_PKCS1_2048_8192_SHA256 };
    RsaPublicKeyComponents { n, e }.to_parsed_public_key(scheme).ok()
}

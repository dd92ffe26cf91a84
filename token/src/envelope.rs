//! The JWS compact form, taken apart strictly: three parts, canonical base64url, a header that holds nothing else.
//!
//! Called by `verify` before any signature is checked, so this code meets bytes of anybody. A header with an unknown
//! or repeated member (`crit`, `jwk`, `jku`, `x5c`, …) is refused: nothing in a token may choose how it is verified.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Type of an access token (RFC 9068 §2.1).
const TYPE: &str = "at+jwt";
/// Bytes of an Ed25519 or a P-256 fixed-length signature.
const SIGNATURE_BYTES: usize = 64;

/// The JOSE header of our tokens: these three members and no other.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Header {
    pub(crate) alg: String,
    pub(crate) kid: String,
    typ: String,
}

impl Header {
    /// That of an access token.
    pub(crate) fn new(alg: &str, kid: &str) -> Self {
        Self::of(TYPE, alg, kid)
    }

    /// That of something else that we sign.
    pub(crate) fn of(typ: &str, alg: &str, kid: &str) -> Self {
        Self { alg: alg.into(), kid: kid.into(), typ: typ.into() }
    }
}

/// A token taken apart; nothing in it is to be believed yet.
pub(crate) struct Envelope<'a> {
    pub(crate) header: Header,
    /// What was signed: header and claims as received, with the dot between them.
    pub(crate) signed: &'a [u8],
    claims: &'a str,
    pub(crate) signature: [u8; SIGNATURE_BYTES],
}

/// The token is not of the form we mint.
#[derive(Debug)]
pub(crate) struct NotAToken;

impl<'a> Envelope<'a> {
    /// Takes a token apart.
    pub(crate) fn open(token: &'a str) -> Result<Self, NotAToken> {
        Self::open_as(token, TYPE)
    }

    /// Takes something of another type apart.
    pub(crate) fn open_as(token: &'a str, typ: &str) -> Result<Self, NotAToken> {
        let (signed, signature) = token.rsplit_once('.').ok_or(NotAToken)?;
        let (header, claims) = signed.split_once('.').ok_or(NotAToken)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| NotAToken)?;
        let header: Header = json_object(header)?;
        if header.typ != typ {
            return Err(NotAToken);
        }
        let signature = signature.try_into().map_err(|_| NotAToken)?;
        Ok(Self { header, signed: signed.as_bytes(), claims, signature })
    }

    /// The claims. Call only after the signature has been verified.
    pub(crate) fn claims<T: DeserializeOwned>(&self) -> Result<T, NotAToken> {
        json_object(self.claims)
    }
}

/// Reads base64url of one JSON object. Serde would take an array for a struct too; we do not.
fn json_object<T: DeserializeOwned>(part: &str) -> Result<T, NotAToken> {
    let json = URL_SAFE_NO_PAD.decode(part).map_err(|_| NotAToken)?;
    if json.first() != Some(&b'{') {
        return Err(NotAToken);
    }
    serde_json::from_slice(&json).map_err(|_| NotAToken)
}

//! The JWS compact form of an assertion, taken apart before anything in it is believed.
//!
//! Called by `peek` and `verify` with bytes of anybody. Three parts of canonical base64url, and JSON objects in which
//! no member stands twice, at any depth. The header may hold `alg`, `typ` and `kid`, and `x5t` and `x5t#S256`, which
//! identity providers send beside `kid` and which are ignored: no certificate is looked for. Every other member is
//! refused, known (`crit`, `jwk`, `jku`, `x5c`, `x5u`, `zip`, `b64`, `cty`, …) or not: it could change what verifying
//! means. So a nested JWT (`cty: JWT`) and a JWE are refused too.

use bailiwick_proto::mcp::check_json;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::{ASSERTION_BYTES_MAX, AssertionAlgorithm, AssertionError};

/// Longest `typ`, `kid` and certificate thumbprint, in bytes: key ids are hashes, UUIDs or dates in practice.
pub(super) const HEADER_TEXT_BYTES_MAX: usize = 256;

/// What is taken from a JOSE header.
pub(super) struct Header {
    pub(super) alg: AssertionAlgorithm,
    pub(super) typ: Option<String>,
    pub(super) kid: Option<String>,
}

/// An assertion taken apart; nothing in it is to be believed yet.
pub(super) struct Envelope<'a> {
    pub(super) header: Header,
    /// What was signed: header and claims as received, with the dot between them.
    pub(super) signed: &'a [u8],
    pub(super) signature: Vec<u8>,
    claims: &'a str,
}

impl<'a> Envelope<'a> {
    /// Takes an assertion apart and reads its header.
    pub(super) fn open(jwt: &'a str) -> Result<Self, AssertionError> {
        if jwt.len() > ASSERTION_BYTES_MAX {
            return Err(AssertionError::TooLong);
        }
        let Parts { header, signed, claims, signature } = Parts::of(jwt)?;
        Ok(Self { header: Header::read(json_object(header)?)?, signed: signed.as_bytes(), signature, claims })
    }

    /// The claims. Before the signature has been verified they are anybody's.
    pub(super) fn claims(&self) -> Result<Map<String, Value>, AssertionError> {
        json_object(self.claims)
    }
}

/// The three parts of a compact JWS of anybody, of which only the signature is decoded. Size is the caller's to bound.
pub(crate) struct Parts<'a> {
    pub(crate) header: &'a str,
    pub(crate) claims: &'a str,
    /// Header and claims as received, with the dot between them.
    pub(crate) signed: &'a str,
    pub(crate) signature: Vec<u8>,
}

impl<'a> Parts<'a> {
    pub(crate) fn of(jwt: &'a str) -> Result<Self, AssertionError> {
        let (signed, signature) = jwt.rsplit_once('.').ok_or(AssertionError::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(AssertionError::Malformed)?;
        if claims.contains('.') {
            return Err(AssertionError::Malformed);
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| AssertionError::Malformed)?;
        Ok(Self { header, claims, signed, signature })
    }
}

impl Header {
    fn read(members: Map<String, Value>) -> Result<Self, AssertionError> {
        let (mut alg, mut typ, mut kid) = (None, None, None);
        for (name, value) in members {
            let Value::String(text) = value else { return Err(AssertionError::Header) };
            if !is_plain(&text, HEADER_TEXT_BYTES_MAX) {
                return Err(AssertionError::Header);
            }
            match name.as_str() {
                "alg" => alg = Some(text.parse()?),
                "typ" => typ = Some(text),
                "kid" => kid = Some(text),
                "x5t" | "x5t#S256" => {}
                _ => return Err(AssertionError::Header),
            }
        }
        Ok(Self { alg: alg.ok_or(AssertionError::Header)?, typ, kid })
    }
}

/// Is it a text that can stand in a log line and in memory: not empty, bounded in bytes, no control characters?
pub(crate) fn is_plain(text: &str, bytes_max: usize) -> bool {
    !text.is_empty() && text.len() <= bytes_max && !text.contains(char::is_control)
}

/// Reads base64url of one JSON object. The depth is bounded by [`check_json`].
pub(crate) fn json_object(part: &str) -> Result<Map<String, Value>, AssertionError> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| AssertionError::Malformed)?;
    let text = check_json(&bytes).map_err(|_| AssertionError::Malformed)?;
    serde_json::from_str(text).map_err(|_| AssertionError::Malformed)
}

//! The signed context of a request to a server: on whose behalf it is made, what was decided, and of which bytes.
//!
//! Data planes sign ([`ContextKey::sign`]) each time they send what was decided for a caller; services verify, with the
//! libraries in `docs/downstream/` or with [`verify`], which says the same. A JWT in JWS compact form, signed
//! with Ed25519, with header `{alg, kid, typ: "bailiwick-context+jwt"}`.
//!
//! Invariants: keys and type are others than those of access tokens, so that neither passes for the other; one
//! audience, one body, one target, a minute; nothing of the caller's token is in it; time is an argument.
//! Deliberately absent: which servers are shown one (`data-plane/server`), where the public halves are (control plane).
//! Specifications: RFC 7515, 7519, 8037, 8725.

use std::borrow::Cow;

use aws_lc_rs::digest::{SHA256, digest as sha};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::{
    envelope::{Envelope, Header},
    jwk::{Algorithm, PublicJwk},
    key::{KeyError, SigningKey},
    verify::{CLOCK_SKEW_SECONDS, TOKEN_BYTES_MAX, VerifyingKeys},
};

/// Type of a context, in its header: nothing else that we sign has it.
pub const TYPE: &str = "bailiwick-context+jwt";
/// The HTTP header it stands in.
pub const HEADER: &str = "bailiwick-context";
/// How long one counts, in seconds: so long a request may wait on its way.
pub const LIFETIME_SECONDS: i64 = 60;
/// Longest context: with other headers it has to fit what servers take, 8 KiB with the strictest of them.
pub const CONTEXT_BYTES_MAX: usize = 6 * 1024;
/// Most policies named in one; the record of the call has all.
pub const POLICIES_MAX: usize = 8;
/// Longest name of a prompt, or URI of a resource, that is repeated in one: the body has them anyway.
pub const NAME_BYTES_MAX: usize = 512;

/// What is said. Times are seconds since the Unix epoch, digests SHA-256 in base64url without padding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextClaims<'a> {
    /// Issuer: URL of the authorization server.
    pub iss: Cow<'a, str>,
    /// Audience: URL of the server, as its manifest has it.
    pub aud: Cow<'a, str>,
    /// Issued at.
    pub iat: i64,
    /// Expires at: the first second in which it no longer counts.
    pub exp: i64,
    /// Of this one sending: the request's id, and a number.
    pub jti: Cow<'a, str>,
    /// Subject: name of the human.
    pub sub: Cow<'a, str>,
    /// Name of the agent acting for them.
    pub agent: Cow<'a, str>,
    /// The agents through which the consent came, the latest first.
    #[serde(default, skip_serializing_if = "<[String]>::is_empty")]
    pub earlier_agents: Cow<'a, [String]>,
    /// OAuth client the agent acts through.
    pub client_id: Cow<'a, str>,
    /// Project of the agent.
    pub project: Cow<'a, str>,
    /// The consent it happens under.
    pub consent: Cow<'a, str>,
    /// Sign-in the consent was used in.
    pub session: Cow<'a, str>,
    /// The virtual server that was called on.
    pub virtual_server: Cow<'a, str>,
    /// Name of the server.
    pub server: Cow<'a, str>,
    /// MCP's method, e.g. `tools/call`.
    pub method: Cow<'a, str>,
    /// The tool's own name; of a task, that of the tool it came of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<Cow<'a, str>>,
    /// The prompt's own name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<Cow<'a, str>>,
    /// The resource's own URI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<Cow<'a, str>>,
    /// How much harm it can do: `retrieval`, `transactional`, `destructive`.
    pub tier: Cow<'a, str>,
    /// What was decided.
    pub decision: ContextDecision<'a>,
    /// The revision of the configuration that it was decided with.
    pub revision: u64,
    /// That configuration's digest, in hex.
    pub digest: Cow<'a, str>,
    /// The request's id, as it is on record.
    pub request_id: Cow<'a, str>,
    /// Whether the caller's token was bound to a key, and proved: a record's word.
    pub binding: Cow<'a, str>,
    /// The HTTP method.
    pub htm: Cow<'a, str>,
    /// Digest of path and query, as they are sent.
    pub target: Cow<'a, str>,
    /// Digest of the body, as it is sent.
    pub body: Cow<'a, str>,
}

/// That the call is permitted, and by what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextDecision<'a> {
    /// Always `permit`: nothing else is forwarded.
    pub effect: Cow<'a, str>,
    /// At most [`POLICIES_MAX`] of those that permit it.
    pub policies: Vec<ContextPolicy<'a>>,
}

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextPolicy<'a> {
    /// Its name.
    pub name: Cow<'a, str>,
    /// Which text of it.
    pub version: u64,
}

/// A key that signs contexts, ready. Cannot be printed.
#[derive(Debug)]
pub struct ContextKey {
    key: SigningKey,
    public: PublicJwk,
    /// Encoded, with its dot.
    header: String,
}

/// Why a context is not believed, or cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContextError {
    /// Not a context of the form we sign.
    #[error("not a signed context")]
    Malformed,
    /// Unknown key, or a signature that does not verify.
    #[error("the signature does not verify with a known key")]
    Signature,
    /// From another issuer.
    #[error("the context is from another issuer")]
    Issuer,
    /// For another service.
    #[error("the context is for another service")]
    Audience,
    /// Expired, or from the future.
    #[error("the context does not count now")]
    Time,
    /// Another method, target or body.
    #[error("the context is of another request")]
    Request,
    /// Longer than servers take.
    #[error("the context would be longer than {CONTEXT_BYTES_MAX} bytes")]
    TooLong,
    /// The key could not sign.
    #[error("the context cannot be signed")]
    Key,
}

/// What a context must say to be believed.
#[derive(Clone, Copy, Debug)]
pub struct ExpectContext<'a> {
    /// The only issuer.
    pub issuer: &'a str,
    /// The service's URL, as the gateway knows it.
    pub audience: &'a str,
    /// The HTTP method of the request it came with.
    pub htm: &'a str,
    /// Path and query of that request.
    pub target: &'a str,
    /// Its body.
    pub body: &'a [u8],
}

/// SHA-256 in base64url without padding.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(sha(&SHA256, bytes))
}

impl ContextKey {
    /// The key of a seed of 32 bytes, under this name.
    ///
    /// # Errors
    /// When the bytes are no such seed.
    pub fn from_seed(kid: String, seed: &[u8]) -> Result<Self, KeyError> {
        let key = SigningKey::from_ed25519_seed(seed.try_into().map_err(|_| KeyError::Private)?)?;
        let header = Header::of(TYPE, Algorithm::EdDsa.as_str(), &kid);
        let header = serde_json::to_vec(&header).map_err(|_| KeyError::Jwk)?;
        let public = PublicJwk { kid, ..key.public_jwk().clone() };
        Ok(Self { header: URL_SAFE_NO_PAD.encode(header) + ".", key, public })
    }

    /// The public half.
    #[must_use]
    pub const fn public_jwk(&self) -> &PublicJwk {
        &self.public
    }

    /// The context, as it stands in its header.
    ///
    /// # Errors
    /// When it would be longer than [`CONTEXT_BYTES_MAX`], or the key cannot sign.
    pub fn sign(&self, claims: &ContextClaims<'_>) -> Result<String, ContextError> {
        let claims = serde_json::to_vec(claims).map_err(|_| ContextError::Malformed)?;
        let mut context = String::with_capacity(self.header.len() + claims.len() * 4 / 3 + 96);
        context.push_str(&self.header);
        URL_SAFE_NO_PAD.encode_string(claims, &mut context);
        let signature = self.key.sign(context.as_bytes()).map_err(|_| ContextError::Key)?;
        context.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut context);
        if context.len() > CONTEXT_BYTES_MAX { Err(ContextError::TooLong) } else { Ok(context) }
    }
}

/// Verifies a context as received, at `now_unix` seconds since the epoch, with keys that sign nothing but contexts.
///
/// # Errors
/// The first that fails of: size, form, key, signature, issuer, audience, time, and the request it came with.
pub fn verify(
    keys: &VerifyingKeys,
    context: &str,
    expect: &ExpectContext<'_>,
    now_unix: i64,
) -> Result<ContextClaims<'static>, ContextError> {
    if context.len() > CONTEXT_BYTES_MAX.min(TOKEN_BYTES_MAX) {
        return Err(ContextError::Malformed);
    }
    let envelope = Envelope::open_as(context, TYPE).map_err(|_| ContextError::Malformed)?;
    keys.check_signature(&envelope).map_err(|_| ContextError::Signature)?;
    let claims: ContextClaims<'static> = envelope.claims().map_err(|_| ContextError::Malformed)?;
    if claims.iss != expect.issuer {
        return Err(ContextError::Issuer);
    }
    if claims.aud != expect.audience {
        return Err(ContextError::Audience);
    }
    let (latest, earliest) = (now_unix.saturating_add(CLOCK_SKEW_SECONDS), now_unix.saturating_sub(CLOCK_SKEW_SECONDS));
    if claims.exp <= earliest || claims.iat > latest || claims.exp.saturating_sub(claims.iat) > LIFETIME_SECONDS {
        return Err(ContextError::Time);
    }
    let is_of_request = claims.htm == expect.htm
        && claims.target == digest(expect.target.as_bytes())
        && claims.body == digest(expect.body);
    if is_of_request { Ok(claims) } else { Err(ContextError::Request) }
}

#[cfg(test)]
mod tests;

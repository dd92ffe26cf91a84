//! What a token is bound to, and what a request has to show for it.
//!
//! Called by `auth` when a token is verified, by `endpoint::asking` before a request's body is read, and by `endpoint`
//! once it is there. A token is bound by a key sealed into it, by the thumbprint of a key (DPoP) or of a certificate
//! (mTLS), or not at all. Invariants: a bound token without its proof is refused, and so is one that is presented as if
//! it were bound in another way; of a proof all is looked at before anything is read that a request's head tells, and what
//! it says of the body once that is there, byte for byte as it came. Deliberately absent: that each counts once
//! (`proofs`, `replay`).
//! Specifications: `docs/security/binding.md`; RFC 9449 §4.3 and §7, RFC 8705 §3, RFC 7800 §3.

use std::{net::SocketAddr, sync::Arc};

use arc_swap::ArcSwapOption;
use bailiwick_data_plane_core::sealed::{SealingKeys, proof_nonce::ProofNonce, used_proofs::PROOF_ID_BYTES};
use bailiwick_proto::{Reason, v1};
use bailiwick_token::{
    Claims, Confirmation, Thumbprint,
    binding::{BindingError, BindingKey, BindingSeal},
    dpop::{DPOP_BYTES_MAX, DpopError, DpopProof, DpopRequest, is_of_body},
    proof::{PROOF_HEADER, Proof, Proven},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderName, header};
use serde::Deserialize;

use super::{
    Authentic,
    replay::{PERSON_BYTES, PersonKey, ProofId},
};

/// The header of a DPoP proof (RFC 9449 §4.1).
pub(crate) const DPOP: HeaderName = HeaderName::from_static("dpop");
const PROOF: HeaderName = HeaderName::from_static(PROOF_HEADER);
/// How old a proof may be when its request's head is there, and how far a client's clock ahead.
pub(super) const PROOF_AGE_MS_MAX: u64 = 60_000;
const PROOF_AHEAD_MS_MAX: u64 = 10_000;
/// How far the clock of the node that gave a nonce out may be ahead.
const NONCE_AHEAD_MS_MAX: u64 = 5_000;

/// The keys that binding keys are sealed under in tokens: as the config stream says, or was kept on disk.
#[derive(Debug, Default)]
pub(crate) struct BindingKeys(ArcSwapOption<BindingSeal>);

impl BindingKeys {
    /// Takes what came; what cannot be used leaves the older ones in place.
    pub(crate) fn replace(&self, keys: &[v1::SealingKey]) {
        // A control plane of the version before says nothing of them.
        if keys.is_empty() {
            return;
        }
        match BindingSeal::new(keys.iter().map(|key| key.key.as_slice())) {
            // The same ones come with every stream: what was opened with them stays open.
            Ok(seal) if self.load().is_some_and(|held| format!("{held:?}") == format!("{seal:?}")) => {}
            Ok(seal) => self.0.store(Some(Arc::new(seal))),
            Err(error) => tracing::error!(%error, "the keys of bound tokens cannot be used; the older ones stay"),
        }
    }

    pub(super) fn load(&self) -> Option<Arc<BindingSeal>> {
        self.0.load_full()
    }
}

/// What whoever presents a token has to hold.
#[derive(Clone, Debug)]
pub(crate) enum Possession {
    /// The token alone.
    Nothing,
    /// The key that was given out beside it.
    Key(Arc<BindingKey>),
    /// The key of this thumbprint.
    Dpop(Thumbprint),
    /// The key of the certificate of this thumbprint.
    Certificate(Thumbprint),
}

impl Possession {
    /// What verified claims say; or why that cannot be told here.
    pub(super) fn of(claims: &Claims, seal: Option<&BindingSeal>) -> Result<Self, Reason> {
        let is_sealed = claims.binding.is_some() || claims.binding_alg.is_some();
        match (&claims.cnf, is_sealed) {
            (None, false) => Ok(Self::Nothing),
            (Some(Confirmation::Key(thumbprint)), false) => Ok(Self::Dpop(*thumbprint)),
            (Some(Confirmation::Certificate(thumbprint)), false) => Ok(Self::Certificate(*thumbprint)),
            (Some(_), true) => Err(Reason::ProofInvalid),
            (None, true) => match seal.map(|seal| seal.open(claims)) {
                Some(Ok(Some(key))) => Ok(Self::Key(Arc::new(key))),
                // No keys have come yet.
                None => Err(Reason::ConfigStale),
                Some(Err(BindingError::KeyUnknown)) => Err(Reason::TokenSignature),
                Some(Ok(None) | Err(_)) => Err(Reason::ProofInvalid),
            },
        }
    }

    /// Whether the token is presented in the scheme for what it is bound to (RFC 9449 §7.2).
    pub(super) fn fits(&self, scheme: Scheme) -> Result<(), Unproven> {
        match (self, scheme) {
            (Self::Dpop(_), Scheme::Dpop) => Ok(()),
            (Self::Dpop(_), Scheme::Bearer) => Err(Unproven::of_dpop(Reason::ProofMissing, DpopFault::Token)),
            (_, Scheme::Bearer) => Ok(()),
            (_, Scheme::Dpop) => Err(Unproven::of_dpop(Reason::ProofInvalid, DpopFault::Token)),
        }
    }
}

/// How a token is presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// RFC 6750.
    Bearer,
    /// RFC 9449.
    Dpop,
}

/// The one token of a request.
pub(super) fn credentials(headers: &HeaderMap) -> Result<(Scheme, &str), Reason> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or(Reason::TokenMissing)?;
    if values.next().is_some() {
        return Err(Reason::TokenMalformed);
    }
    let (scheme, token) = value.to_str().ok().and_then(|value| value.split_once(' ')).ok_or(Reason::TokenMissing)?;
    let token = token.trim_matches(' ');
    let scheme = match scheme {
        _ if token.is_empty() => return Err(Reason::TokenMissing),
        bearer if bearer.eq_ignore_ascii_case("bearer") => Scheme::Bearer,
        dpop if dpop.eq_ignore_ascii_case("dpop") => Scheme::Dpop,
        _ => return Err(Reason::TokenMissing),
    };
    Ok((scheme, token))
}

/// Whether a client presents its token by DPoP, or means to.
pub(crate) fn speaks_dpop(headers: &HeaderMap) -> bool {
    headers.contains_key(DPOP) || matches!(credentials(headers), Ok((Scheme::Dpop, _)))
}

/// A request does not show what its token is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unproven {
    pub(crate) reason: Reason,
    /// What a client that speaks DPoP is told.
    pub(crate) dpop: Option<DpopFault>,
}

/// The words of RFC 9449 §7.1 and §9.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DpopFault {
    Token,
    Proof,
    Nonce,
}

impl DpopFault {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Token => "invalid_token",
            Self::Proof => "invalid_dpop_proof",
            Self::Nonce => "use_dpop_nonce",
        }
    }
}

impl Unproven {
    pub(super) const fn of_dpop(reason: Reason, fault: DpopFault) -> Self {
        Self { reason, dpop: Some(fault) }
    }

    pub(super) const fn nonce() -> Self {
        Self::of_dpop(Reason::ProofStale, DpopFault::Nonce)
    }

    pub(super) const fn replayed() -> Self {
        Self::of_dpop(Reason::ProofReplayed, DpopFault::Proof)
    }
}

impl From<Reason> for Unproven {
    fn from(reason: Reason) -> Self {
        Self { reason, dpop: None }
    }
}

/// What is left to be looked at once the body is there.
#[derive(Clone, Debug)]
pub(crate) enum Pending {
    /// All has been shown.
    Nothing,
    /// The tag, which is over the body too.
    Tag { key: Arc<BindingKey>, proof: Proof, id: ProofId },
    /// The signature has been verified. What it says of the body, if anything; and the time of its nonce.
    Dpop { content_digest: Option<[u8; 32]>, unix_ms: u64, id: ProofId },
}

impl Pending {
    /// Whether the sender holds what the token is bound to, as far as one request can tell.
    pub(crate) const fn is_proven(&self) -> bool {
        match self {
            Self::Nothing | Self::Dpop { .. } => true,
            Self::Tag { .. } => false,
        }
    }
}

/// The head of a request as it came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SentHead<'a> {
    pub(crate) method: &'a str,
    pub(crate) headers: &'a HeaderMap,
    /// The certificate that the client has shown.
    pub(crate) certificate: Option<Thumbprint>,
    /// Where this node listens, if only this machine reaches it there.
    pub(crate) own: Option<SocketAddr>,
}

/// What shows that a request's sender holds what its token is bound to, as far as a request's head tells.
pub(super) fn look(
    authentic: &Authentic,
    sent: &SentHead<'_>,
    keys: &SealingKeys,
    now_ms: u64,
) -> Result<Pending, Unproven> {
    match authentic.possession() {
        Possession::Nothing => Ok(Pending::Nothing),
        Possession::Key(key) => {
            let proof = Proof::parse(one(sent.headers, &PROOF, &DPOP)?).ok_or(Reason::ProofInvalid)?;
            let (oldest, latest) = (now_ms.saturating_sub(PROOF_AGE_MS_MAX), now_ms.saturating_add(PROOF_AHEAD_MS_MAX));
            if !(oldest..=latest).contains(&proof.unix_ms) {
                return Err(Reason::ProofStale.into());
            }
            let id = id_of(authentic.person(), &[authentic.token().as_bytes(), &proof.nonce]);
            Ok(Pending::Tag { key: Arc::clone(key), proof, id })
        }
        Possession::Dpop(thumbprint) => {
            let of_proof = |reason| Unproven::of_dpop(reason, DpopFault::Proof);
            let proof = one(sent.headers, &DPOP, &PROOF).map_err(of_proof)?;
            if proof.len() > DPOP_BYTES_MAX {
                return Err(of_proof(Reason::ProofInvalid));
            }
            let said = said_nonce(proof).ok_or(of_proof(Reason::ProofInvalid))?.ok_or(Unproven::nonce())?;
            let nonce = open_nonce(keys, &said, now_ms).ok_or(Unproven::nonce())?;
            let proof = sent.dpop_proof(proof, thumbprint, authentic, now_ms).map_err(|error| match error {
                DpopError::Stale | DpopError::Future => of_proof(Reason::ProofStale),
                _ => of_proof(Reason::ProofInvalid),
            })?;
            if proof.nonce != Some(said) {
                return Err(of_proof(Reason::ProofInvalid));
            }
            let id = id_of(authentic.person(), &[&thumbprint.0, proof.jti.as_bytes()]);
            Ok(Pending::Dpop { content_digest: proof.content_digest, unix_ms: nonce.unix_ms, id })
        }
        Possession::Certificate(thumbprint) => match sent.certificate {
            Some(shown) if shown == *thumbprint => Ok(Pending::Nothing),
            Some(_) => Err(Reason::ProofInvalid.into()),
            None => Err(Reason::ProofMissing.into()),
        },
    }
}

/// Whose proof, by which key, and which one: nobody else can use it up before them.
fn id_of(person: &PersonKey, which: &[&[u8]]) -> ProofId {
    let mut id = [0; PROOF_ID_BYTES];
    let (whose, rest) = id.split_at_mut(PERSON_BYTES);
    whose.copy_from_slice(person);
    rest.iter_mut().zip(sha256(which)).for_each(|(place, byte)| *place = byte);
    id
}

/// Stands for a person, whatever tokens they have.
pub(super) fn person_key(user: &str) -> PersonKey {
    sha256(&[b"bailiwick-person-v1\n", user.as_bytes()]).first_chunk().copied().unwrap_or_default()
}

/// The one value of a header, where there is none of the other one.
fn one<'h>(headers: &'h HeaderMap, name: &HeaderName, other: &HeaderName) -> Result<&'h str, Reason> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().ok_or(Reason::ProofMissing)?;
    if values.next().is_some() || headers.contains_key(other) {
        return Err(Reason::ProofInvalid);
    }
    value.to_str().map_err(|_no_text| Reason::ProofInvalid)
}

/// The nonce that a proof says it was made with; `None` where it is no proof. Nothing it says is verified by that.
pub(super) fn said_nonce(proof: &str) -> Option<Option<String>> {
    #[derive(Deserialize)]
    struct Said {
        nonce: Option<String>,
    }
    let claims = URL_SAFE_NO_PAD.decode(proof.split('.').nth(1)?).ok()?;
    serde_json::from_slice(&claims).ok().map(|said: Said| said.nonce)
}

pub(super) fn open_nonce(keys: &SealingKeys, nonce: &str, now_ms: u64) -> Option<ProofNonce> {
    let opened = ProofNonce::open(keys, nonce, now_ms).ok()?;
    (opened.unix_ms <= now_ms.saturating_add(NONCE_AHEAD_MS_MAX)).then_some(opened)
}

/// A request with its body, as both came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent<'a> {
    pub(crate) method: &'a str,
    pub(crate) body: &'a [u8],
}

impl Sent<'_> {
    /// Whether what was left to be looked at is of this request.
    pub(super) fn is_of(&self, pending: &Pending, authentic: &Authentic) -> bool {
        match pending {
            Pending::Nothing => true,
            Pending::Tag { key, proof, .. } => {
                let (token, path) = (authentic.token(), path_of(authentic.audience()));
                proof.is_of(key, &Proven { token, method: self.method, path, body: &sha256(&[self.body]) })
            }
            Pending::Dpop { content_digest, .. } => is_of_body(content_digest.as_ref(), self.body),
        }
    }
}

impl SentHead<'_> {
    /// The DPoP proof of a request with this head, where its key is that of the thumbprint.
    fn dpop_proof(
        &self,
        jwt: &str,
        thumbprint: &Thumbprint,
        authentic: &Authentic,
        now_ms: u64,
    ) -> Result<DpopProof, DpopError> {
        let token = credentials(self.headers).ok().map(|(_, token)| token);
        let now_unix = i64::try_from(now_ms / 1000).unwrap_or(i64::MAX);
        let verify = |url: &str| {
            let (method, access_token, key) = (self.method, token, Some(thumbprint));
            let request = DpopRequest { method, url, access_token, body: &[], key };
            DpopProof::verify_head(jwt, &request, now_unix)
        };
        let public = verify(authentic.audience());
        self.own_urls(authentic.audience()).fold(public, |tried, url| match tried {
            Err(DpopError::Url) => verify(&url),
            known => known,
        })
    }

    /// Beside the public URL, that of this very listener, where only this machine reaches it: its own address and port,
    /// whatever host the request names, so that a proof for whoever listens at another port is none for this one.
    fn own_urls(&self, audience: &str) -> impl Iterator<Item = String> {
        let path = path_of(audience).to_owned();
        let urls = move |own: SocketAddr| ["http", "https"].map(|scheme| format!("{scheme}://{own}{path}"));
        self.own.filter(|own| own.ip().is_loopback()).into_iter().flat_map(urls)
    }
}

/// The path of a URL; empty where it has none.
fn path_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = rest.find('/').and_then(|start| rest.get(start..)).unwrap_or_default();
    path.split(['?', '#']).next().unwrap_or_default()
}

/// SHA-256 over all parts.
pub(super) fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    parts.iter().for_each(|part| context.update(part));
    let (mut hash, digest) = ([0; 32], context.finish());
    hash.iter_mut().zip(digest.as_ref()).for_each(|(place, byte)| *place = *byte);
    hash
}

#[cfg(test)]
mod tests;

//! That a token is ours: what it is bound to, which way of binding is asked for, and the key of the standard one.
//!
//! The command line says which ways may be gone ([`Binding`]), `discovery` what servers offer; `grant` asks, and
//! `caller` proves with each request. Our own servers bind by an envelope, which costs no signature; others by DPoP.
//! Invariants: each sign-in has a key of its own, which leaves this machine for nowhere; no proof is used twice; a
//! proof for the resource names its token and its body. Specifications: RFC 9449; `docs/security/binding.md`.

use std::{fmt, sync::Arc};

use aws_lc_rs::rand;
use bailiwick_token::{Algorithm, DpopClaims, SigningKey, binding::BindingKey, dpop_proof_over};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::HeaderValue;
use url::Url;
use zeroize::Zeroizing;

use crate::fault::Fault;

/// Of the identifier of a proof.
const ID_BYTES: usize = 16;
/// Longest nonce of a server that is sent back.
const NONCE_BYTES_MAX: usize = 512;

/// How tokens may be bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Binding {
    /// As the server offers it, the envelope first; tokens that are bound to nothing where it offers nothing.
    #[default]
    Auto,
    /// By a key that is given out with each token, or not at all.
    Envelope,
    /// By DPoP, or not at all.
    Dpop,
    /// To nothing.
    None,
}

impl Binding {
    /// As it stands in names of what is kept; nothing for the usual one.
    pub(crate) const fn word(self) -> Option<&'static str> {
        match self {
            Self::Auto => None,
            Self::Envelope => Some("envelope"),
            Self::Dpop => Some("dpop"),
            Self::None => Some("none"),
        }
    }

    /// Whether a token that is bound to nothing is refused.
    pub(crate) const fn is_demanded(self) -> bool {
        matches!(self, Self::Envelope | Self::Dpop)
    }

    /// Whether the next sign-in gets a key of its own.
    pub(crate) const fn by_dpop(self, offers: Offers) -> bool {
        match self {
            Self::Auto => offers.must_be_dpop || (offers.dpop && !offers.envelope),
            Self::Dpop => true,
            Self::Envelope | Self::None => false,
        }
    }
}

/// Which ways there are with a resource and its authorization server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offers {
    pub(crate) envelope: bool,
    pub(crate) dpop: bool,
    /// The resource takes nothing else.
    pub(crate) must_be_dpop: bool,
}

/// What a token request asks for.
#[derive(Clone, Debug)]
pub(crate) enum Asking {
    /// A key that comes with the token; a server that knows nothing of that gives a bearer token.
    Envelope,
    /// A token for the holder of this key.
    Dpop(Arc<DpopKey>),
    Nothing,
}

impl Asking {
    /// With what was kept of the sign-in.
    pub(crate) fn of(binding: Binding, key: Option<&str>) -> Result<Self, Fault> {
        match (binding, key) {
            (Binding::Auto | Binding::Dpop, Some(key)) => Ok(Self::Dpop(Arc::new(DpopKey::read(key)?))),
            (Binding::Auto | Binding::Envelope, _) => Ok(Self::Envelope),
            (Binding::Dpop, None) => Err(Fault::Keeping("the key of the sign-in is missing; sign out".to_owned())),
            (Binding::None, _) => Ok(Self::Nothing),
        }
    }
}

/// What a token is bound to.
#[derive(Clone, Debug)]
pub(crate) enum Bound {
    Nothing,
    Envelope(BindingKey),
    Dpop(Arc<DpopKey>),
}

/// The private key of a sign-in: ES256, which every server takes that takes any.
pub(crate) struct DpopKey(SigningKey);

impl fmt::Debug for DpopKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DpopKey").finish_non_exhaustive()
    }
}

/// What a proof is made for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Proven<'a> {
    pub(crate) method: &'a str,
    /// Query and fragment are left out.
    pub(crate) url: &'a Url,
    /// At the resource: the access token, and the body.
    pub(crate) with: Option<(&'a str, &'a [u8])>,
    pub(crate) nonce: Option<&'a str>,
    /// By the server's clock, as far as it is known.
    pub(crate) unix_seconds: i64,
}

impl DpopKey {
    /// A new one, as it is kept: PKCS #8 in base64url.
    pub(crate) fn generate() -> Result<Zeroizing<String>, Fault> {
        let der = SigningKey::generate_pkcs8(Algorithm::Es256).map_err(|_| Fault::Randomness)?;
        Ok(Zeroizing::new(URL_SAFE_NO_PAD.encode(der.as_slice())))
    }

    pub(crate) fn read(kept: &str) -> Result<Self, Fault> {
        let der = URL_SAFE_NO_PAD.decode(kept).map(Zeroizing::new).ok();
        let key = der.and_then(|der| SigningKey::from_pkcs8(Algorithm::Es256, &der).ok());
        key.map(Self).ok_or_else(|| Fault::Keeping("the key that was kept cannot be read; sign out".to_owned()))
    }

    /// As `cnf.jkt` and `dpop_jkt` name it.
    pub(crate) fn thumbprint(&self) -> &str {
        self.0.kid()
    }

    /// A fresh proof.
    pub(crate) fn prove(&self, proven: &Proven<'_>) -> Result<HeaderValue, Fault> {
        let mut id = [0; ID_BYTES];
        rand::fill(&mut id).map_err(|_| Fault::Randomness)?;
        let mut url = proven.url.clone();
        url.set_query(None);
        url.set_fragment(None);
        let claims = DpopClaims {
            method: proven.method,
            url: url.as_str(),
            token: proven.with.map(|(token, _)| token),
            nonce: proven.nonce,
            jti: &URL_SAFE_NO_PAD.encode(id),
            iat: proven.unix_seconds,
        };
        let jwt = dpop_proof_over(&claims, proven.with.map(|(_, body)| body), &self.0);
        let jwt = jwt.map_err(|_| Fault::Randomness)?;
        HeaderValue::from_str(jwt.expose()).map_err(|_| Fault::Randomness)
    }
}

/// The nonce of an answer, if it is one.
pub(crate) fn nonce(headers: &http::HeaderMap) -> Option<String> {
    let nonce = headers.get("dpop-nonce")?.to_str().ok()?;
    (!nonce.is_empty() && nonce.len() <= NONCE_BYTES_MAX).then(|| nonce.to_owned())
}

#[cfg(test)]
mod tests {
    use bailiwick_token::dpop::{DpopProof, DpopRequest};

    use super::*;

    #[test]
    fn the_envelope_goes_before_dpop_unless_nothing_else_is_taken() {
        let offers = |envelope, dpop, must_be_dpop| Offers { envelope, dpop, must_be_dpop };
        for (offers, by_dpop) in [
            (offers(true, true, false), false),
            (offers(false, true, false), true),
            (offers(false, false, false), false),
            (offers(false, false, true), true),
            (offers(true, true, true), true),
        ] {
            assert_eq!(Binding::Auto.by_dpop(offers), by_dpop, "{offers:?}");
            assert!(Binding::Dpop.by_dpop(offers) && !Binding::None.by_dpop(offers));
            assert!(!Binding::Envelope.by_dpop(offers));
        }
    }

    #[test]
    fn a_proof_is_for_one_request_with_one_token_and_body() {
        let kept = DpopKey::generate().unwrap();
        let (key, url) = (DpopKey::read(&kept).unwrap(), Url::parse("https://mcp.example/mcp?x=1#y").unwrap());
        let with = Some(("t-1", b"{}".as_slice()));
        let proven = Proven { method: "POST", url: &url, with, nonce: Some("n"), unix_seconds: 1_000 };
        let read = |proof: &HeaderValue, token, body| {
            let request =
                DpopRequest { method: "POST", url: "https://mcp.example/mcp", access_token: token, body, key: None };
            DpopProof::verify(proof.to_str().unwrap(), &request, 1_000)
        };
        let proof = key.prove(&proven).unwrap();
        let said = read(&proof, Some("t-1"), b"{}").unwrap();
        assert_eq!((said.jkt.as_str(), said.nonce.as_deref()), (key.thumbprint(), Some("n")));
        assert_eq!(said.htu, "https://mcp.example/mcp");
        assert!(read(&proof, Some("t-2"), b"{}").is_err() && read(&proof, Some("t-1"), b"{ }").is_err());
        assert_ne!(read(&key.prove(&proven).unwrap(), Some("t-1"), b"{}").unwrap().jti, said.jti);
        let bare = Proven { with: None, ..proven };
        assert!(read(&key.prove(&bare).unwrap(), None, b"anything").is_ok(), "at the token endpoint, no body");
        assert!(!format!("{key:?}").contains(kept.as_str()));
    }

    #[test]
    fn what_is_no_key_is_not_replaced() {
        assert!(matches!(DpopKey::read("nonsense"), Err(Fault::Keeping(_))));
        assert!(Asking::of(Binding::Dpop, None).is_err(), "never without");
        assert!(matches!(Asking::of(Binding::None, None), Ok(Asking::Nothing)));
    }
}

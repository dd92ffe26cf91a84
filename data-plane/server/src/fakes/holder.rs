//! Clients that hold what their tokens are bound to: binding keys, and DPoP keys, with proofs of all kinds.

use aws_lc_rs::{
    digest,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use bailiwick_proto::v1::SealingKey;
use bailiwick_token::{
    Claims, Confirmation, Thumbprint, TokenHash,
    binding::{BindingKey, BindingSeal},
    proof::{Proven, prove},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::world::{MCP_URL, claims, token};
use crate::{auth::proofs::unix_ms, random};

pub(crate) fn binding_keys(seed: u8) -> Vec<SealingKey> {
    vec![SealingKey { id: format!("b-{seed}"), key: vec![seed; 32] }]
}

/// The seed of the keys that the fake control plane sends.
pub(crate) const BINDING: u8 = 6;

pub(crate) fn seal(seed: u8) -> BindingSeal {
    BindingSeal::new([[seed; 32].as_slice()]).unwrap()
}

/// A token with its key.
pub(crate) struct Bound {
    pub(crate) token: String,
    pub(crate) key: BindingKey,
}

/// What a proof says.
#[derive(Clone, Copy)]
pub(crate) struct Says<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) body: &'a [u8],
    pub(crate) unix_ms: u64,
}

impl<'a> Says<'a> {
    pub(crate) fn post(body: &'a [u8]) -> Self {
        Self { method: "POST", path: "/mcp/finance", body, unix_ms: unix_ms() }
    }
}

impl Bound {
    pub(crate) fn new() -> Self {
        Self::of(claims())
    }

    pub(crate) fn of(mut claims: Claims) -> Self {
        let key = BindingKey::new(random().unwrap());
        seal(BINDING).seal(&mut claims, &key, random().unwrap()).unwrap();
        Self { token: token(&claims), key }
    }

    pub(crate) fn proof(&self, says: Says<'_>) -> String {
        self.proof_with(says, random().unwrap())
    }

    pub(crate) fn proof_with(&self, says: Says<'_>, nonce: [u8; 12]) -> String {
        let Says { method, path, body, unix_ms } = says;
        let body: [u8; 32] = digest::digest(&digest::SHA256, body).as_ref().try_into().unwrap();
        let proven = Proven { token: &TokenHash::of(&self.token), method, path, body: &body };
        prove(&self.key, &proven, unix_ms, nonce).unwrap().to_string()
    }
}

/// A key of a client that speaks DPoP.
pub(crate) struct DpopKey(Ed25519KeyPair);

impl DpopKey {
    pub(crate) fn new(seed: u8) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap())
    }

    fn x(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0.public_key())
    }

    pub(crate) fn thumbprint(&self) -> Thumbprint {
        let jwk = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, self.x());
        Thumbprint(digest::digest(&digest::SHA256, jwk.as_bytes()).as_ref().try_into().unwrap())
    }

    /// A token that is bound to it.
    pub(crate) fn token(&self) -> String {
        token(&Claims { cnf: Some(Confirmation::Key(self.thumbprint())), ..claims() })
    }

    /// The claims of a good proof of a POST.
    pub(crate) fn claims(&self, token: &str, nonce: Option<&str>) -> Value {
        let hash = digest::digest(&digest::SHA256, token.as_bytes());
        let mut claims = json!({
            "jti": hex::encode(random::<16>().unwrap()), "htm": "POST", "htu": format!("{MCP_URL}/finance"),
            "iat": unix_ms() / 1000, "ath": URL_SAFE_NO_PAD.encode(hash),
        });
        if let Some(nonce) = nonce {
            claims["nonce"] = nonce.into();
        }
        claims
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": self.x()});
        let header = json!({"typ": "dpop+jwt", "alg": "EdDSA", "jwk": jwk});
        let encode = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let signed = format!("{}.{}", encode(&header), encode(claims));
        let signature = URL_SAFE_NO_PAD.encode(self.0.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }
}

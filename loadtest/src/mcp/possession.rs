//! What a caller shows beside its token: nothing, a proof by the token's binding key, or one by a key of its own (DPoP).
//!
//! Made for each request, as clients must; the callers pay for making it, the gateway for checking it. A DPoP nonce is
//! what the gateway last said. Specifications: `docs/security/binding.md`; RFC 9449.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use aws_lc_rs::{
    digest::{SHA256, digest},
    rand::{SecureRandom as _, SystemRandom},
};
use bailiwick_token::{
    Algorithm, DpopClaims, SigningKey, TokenHash,
    binding::BindingKey,
    dpop_proof,
    proof::{PROOF_HEADER, Proven, prove},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use clap::Args as ClapArgs;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use serde_json::Value;

use super::target::Token;

const DPOP: HeaderName = HeaderName::from_static("dpop");
/// What the gateway hands out for the next proof.
pub(crate) const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");

/// How callers show that a token is theirs.
#[derive(Clone, Debug, Default)]
pub(crate) enum Possession {
    /// They do not.
    #[default]
    Bearer,
    /// By the key that came with the token.
    Envelope(BindingKey),
    /// By a key of their own.
    Dpop(Arc<SigningKey>),
}

/// Makes a key for DPoP, keeps it in a file, and prints its thumbprint.
#[derive(Debug, ClapArgs)]
pub(crate) struct KeyArgs {
    /// The file: PKCS#8 in base64url.
    file: std::path::PathBuf,
}

/// Makes the key.
pub(crate) fn make_key(args: &KeyArgs) -> Result<()> {
    let pkcs8 = SigningKey::generate_pkcs8(Algorithm::Es256)?;
    let key = SigningKey::from_pkcs8(Algorithm::Es256, &pkcs8)?;
    fs::write(&args.file, URL_SAFE_NO_PAD.encode(&pkcs8))?;
    println!("{}", key.kid());
    Ok(())
}

/// A bound token as `bailiwick token issue --bind -o json` prints it.
pub(crate) fn bound(path: &Path) -> Result<(Token, Possession)> {
    let issued = issued(path)?;
    let key = issued.get("binding_key").and_then(Value::as_str).and_then(BindingKey::from_base64url);
    Ok((token(&issued)?, Possession::Envelope(key.context("there is no binding_key: issue it with --bind")?)))
}

/// A token that was issued with `--dpop-jkt`, and the key.
pub(crate) fn dpop(path: &Path, key: &Path) -> Result<(Token, Possession)> {
    let pkcs8 = URL_SAFE_NO_PAD.decode(fs::read_to_string(key).context("the DPoP key")?.trim())?;
    let key = SigningKey::from_pkcs8(Algorithm::Es256, &pkcs8)?;
    Ok((token(&issued(path)?)?, Possession::Dpop(Arc::new(key))))
}

fn issued(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not what `token issue -o json` prints", path.display()))
}

fn token(issued: &Value) -> Result<Token> {
    let token = issued.get("access_token").and_then(Value::as_str).context("there is no access_token")?;
    Ok(Token(token.to_owned()))
}

/// A token, and what is shown beside it.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    token: Token,
    hash: TokenHash,
    possession: Possession,
    /// Of the resource.
    url: String,
    path: String,
}

impl Shown {
    pub(crate) fn new(token: Token, possession: Possession, url: &Uri) -> Self {
        let hash = TokenHash::of(&token.0);
        Self { token, hash, possession, url: url.to_string(), path: url.path().to_owned() }
    }

    /// Whether a nonce is needed first.
    pub(crate) const fn needs_nonce(&self) -> bool {
        matches!(self.possession, Possession::Dpop(_))
    }

    /// Puts token and proof into a request's headers.
    pub(crate) fn show(&self, headers: &mut HeaderMap, method: &str, body: &[u8], nonce: Option<&str>) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let scheme = if self.needs_nonce() { "DPoP" } else { "Bearer" };
        let mut value = HeaderValue::from_str(&format!("{scheme} {}", self.token.0)).context("the token")?;
        value.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, value);
        match &self.possession {
            Possession::Bearer => {}
            Possession::Envelope(key) => {
                let body: [u8; 32] = digest(&SHA256, body).as_ref().try_into()?;
                let proven = Proven { token: &self.hash, method, path: &self.path, body: &body };
                let mut fresh = [0; 12];
                SystemRandom::new().fill(&mut fresh).map_err(|_| anyhow::anyhow!("no randomness"))?;
                let proof = prove(key, &proven, u64::try_from(now.as_millis())?, fresh).context("no proof")?;
                headers.insert(HeaderName::from_static(PROOF_HEADER), HeaderValue::from_str(&proof.to_string())?);
            }
            Possession::Dpop(key) => {
                static NEXT: AtomicU64 = AtomicU64::new(1);
                let number = NEXT.fetch_add(1, Ordering::Relaxed);
                let jti = format!("{}-{}-{number}", std::process::id(), now.as_micros());
                let iat = i64::try_from(now.as_secs())?;
                let token = Some(self.token.0.as_str());
                let claims = DpopClaims { method, url: &self.url, token, nonce, jti: &jti, iat };
                headers.insert(DPOP, HeaderValue::from_str(dpop_proof(&claims, key)?.expose())?);
            }
        }
        Ok(())
    }
}

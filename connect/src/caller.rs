//! One request to the MCP server, with a token and the proof that it is ours.
//!
//! Called by `bridge` and `endpoint`. A request that is turned away for its token or proof is sent again: once with the
//! clock set by the server's, once with the server's nonce, once with another token; and one that needs more scope,
//! once it has that. That is safe: what is answered with 401, or with 403 for its scope, was not carried out. Every
//! answer to anything else is the caller's to read. Invariants: tokens go to the one MCP URL alone; only the server
//! itself, in the refusal of a proof, moves the clock that proofs are made by, and within a day.
//! Specifications: MCP 2026-07-28 authorization; RFC 9449 §7, §9; `docs/security/binding.md`.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{digest, rand};
use bailiwick_token::{
    binding::BindingKey,
    proof::{PROOF_HEADER, PROOF_NONCE_BYTES, Proven, prove},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use reqwest::Response;
use serde_json::Value;

use crate::{
    challenge::Challenges,
    credentials::{Credentials, Held},
    fault::{Fault, printable},
    possession::{self, Bound},
    target::McpUrl,
    web::{self, Web},
};

const DPOP: HeaderName = HeaderName::from_static("dpop");
const PROOF: HeaderName = HeaderName::from_static(PROOF_HEADER);
/// Largest refusal that is read for its reason.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;
/// Clocks that differ by less are left alone: an answer was on its way for a while.
const OFFSET_MS_MIN: u64 = 1500;
/// A clock that differs by more is not wrong, but told so.
const OFFSET_MS_MAX: u64 = 24 * 3600 * 1000;
/// With the clock corrected, with a nonce, with more scope, and with another token.
const ATTEMPTS_MAX: usize = 8;
/// Other tokens for one request.
const TOKENS_MAX: usize = 2;

/// See the file's header.
#[derive(Debug)]
pub(crate) struct Caller {
    web: Web,
    pub(crate) url: McpUrl,
    pub(crate) credentials: Arc<Credentials>,
    /// What the server's clock is ahead of ours, in milliseconds.
    offset_ms: AtomicI64,
    /// What the server wants in the next DPoP proof.
    nonce: Mutex<Option<String>>,
}

/// An answer, and the token it was got with.
pub(crate) struct Answered {
    pub(crate) response: Response,
    pub(crate) held: Arc<Held>,
}

/// What was tried of one request, as each of it is once.
#[derive(Default)]
struct Tried {
    clock: bool,
    nonce: bool,
    scope: bool,
    tokens: usize,
}

/// Why a request was turned away.
struct Refusal {
    challenges: Challenges,
    has_nonce: bool,
    /// The reason word, or what the challenge says.
    reason: String,
    server_ms: Option<u64>,
}

impl Caller {
    pub(crate) fn new(web: Web, url: McpUrl, credentials: Arc<Credentials>) -> Self {
        Self { web, url, credentials, offset_ms: AtomicI64::new(0), nonce: Mutex::default() }
    }

    /// Sends; gives an answer of any status but 401.
    pub(crate) async fn send(&self, method: &Method, headers: &HeaderMap, body: &Bytes) -> Result<Answered, Fault> {
        let mut held = self.credentials.token().await?;
        let mut tried = Tried::default();
        let mut reason = String::new();
        for _ in 0..ATTEMPTS_MAX {
            let response = self.send_with(&held, method, headers.clone(), body).await?;
            match response.status() {
                StatusCode::UNAUTHORIZED => {}
                StatusCode::FORBIDDEN if *method == Method::POST && !tried.scope => {
                    tried.scope = true;
                    match self.with_more_scope(&held, &response).await? {
                        Some(wider) => held = wider,
                        None => return Ok(Answered { response, held }),
                    }
                    continue;
                }
                _ => return Ok(Answered { response, held }),
            }
            let refusal = refusal(self.url.url(), response).await;
            tracing::debug!(refusal.reason, "turned away");
            held = match self.next(held, &refusal, &mut tried).await? {
                Some(held) => held,
                None => return Err(Fault::TurnedAway(refusal.reason)),
            };
            reason = refusal.reason;
        }
        Err(Fault::TurnedAway(reason))
    }

    /// What to try next after a 401: the same token once more, or another. `None` after all of it.
    async fn next(&self, held: Arc<Held>, refusal: &Refusal, tried: &mut Tried) -> Result<Option<Arc<Held>>, Fault> {
        let is_stale = refusal.reason == "proof_stale" && !tried.clock;
        if is_stale && refusal.server_ms.is_some_and(|server_ms| self.set_clock(server_ms)) {
            tried.clock = true;
            return Ok(Some(held));
        }
        if refusal.challenges.asks_for_nonce() && refusal.has_nonce && !tried.nonce {
            tried.nonce = true;
            return Ok(Some(held));
        }
        if tried.tokens >= TOKENS_MAX {
            return Ok(None);
        }
        tried.tokens += 1;
        let other = match refusal.challenges.asks_for_dpop_alone() {
            true => self.credentials.proven(&held).await?,
            false => self.credentials.renewed(&held).await?,
        };
        // Whatever else is wrong may be tried again with it.
        (tried.clock, tried.nonce) = (false, false);
        Ok(Some(other))
    }

    async fn with_more_scope(&self, held: &Held, response: &Response) -> Result<Option<Arc<Held>>, Fault> {
        match Challenges::of(response.headers()).scope_needed() {
            Some(needed) => self.credentials.step_up(held, needed).await,
            None => Ok(None),
        }
    }

    async fn send_with(
        &self,
        held: &Held,
        method: &Method,
        mut headers: HeaderMap,
        body: &Bytes,
    ) -> Result<Response, Fault> {
        let url = self.url.url();
        let scheme = match &held.bound {
            Bound::Nothing => "Bearer",
            Bound::Envelope(key) => {
                headers.extend(self.envelope_proof(held, key, method, body)?.map(|proof| (PROOF, proof)));
                "Bearer"
            }
            Bound::Dpop(key) => {
                let nonce = self.nonce().clone();
                let proof = key.prove(&possession::Proven {
                    method: method.as_str(),
                    url,
                    with: Some((held.access_token.as_str(), body)),
                    nonce: nonce.as_deref(),
                    unix_seconds: i64::try_from(self.now_ms() / 1000).unwrap_or(i64::MAX),
                })?;
                headers.insert(DPOP, proof);
                "DPoP"
            }
        };
        let token = HeaderValue::from_str(&format!("{scheme} {}", *held.access_token));
        let mut token = token.map_err(|_| Fault::answer(url, "its token cannot stand in a header"))?;
        token.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, token);
        let request = self.web.of(url).request(method.clone(), url.clone()).headers(headers).body(body.clone());
        let response = Web::send(url, request).await?;
        if let (Bound::Dpop(_), Some(nonce)) = (&held.bound, possession::nonce(response.headers())) {
            *self.nonce() = Some(nonce);
        }
        Ok(response)
    }

    fn nonce(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.nonce.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// By the server's clock, as far as it is known.
    fn now_ms(&self) -> u64 {
        now_ms().saturating_add_signed(self.offset_ms.load(Ordering::Relaxed))
    }

    fn envelope_proof(
        &self,
        held: &Held,
        key: &BindingKey,
        method: &Method,
        body: &Bytes,
    ) -> Result<Option<HeaderValue>, Fault> {
        let mut nonce = [0; PROOF_NONCE_BYTES];
        rand::fill(&mut nonce).map_err(|_| Fault::Randomness)?;
        let digest = digest::digest(&digest::SHA256, body);
        let mut hash = [0; 32];
        hash.copy_from_slice(digest.as_ref());
        let path = self.url.url().path().trim_end_matches('/');
        let proven = Proven { token: &held.hash, method: method.as_str(), path, body: &hash };
        let proof = prove(key, &proven, self.now_ms(), nonce).ok_or(Fault::Randomness)?;
        Ok(HeaderValue::from_str(&proof.to_string()).ok())
    }

    /// Takes over the server's time. `false` if that changes nothing.
    fn set_clock(&self, server_ms: u64) -> bool {
        let present = self.offset_ms.load(Ordering::Relaxed);
        let Some(offset) = offset_ms(server_ms, now_ms(), present) else { return false };
        self.offset_ms.store(offset, Ordering::Relaxed);
        tracing::info!(
            offset_ms = offset,
            "this machine's clock differs from the server's; proofs are made by the server's"
        );
        true
    }
}

/// The new offset; `None` if it is the present one, more or less, or out of all reason.
fn offset_ms(server_ms: u64, now_ms: u64, present: i64) -> Option<i64> {
    let offset = i64::try_from(server_ms).ok()?.checked_sub(i64::try_from(now_ms).ok()?)?;
    let is_new = offset.abs_diff(present) >= OFFSET_MS_MIN;
    (is_new && offset.unsigned_abs() <= OFFSET_MS_MAX).then_some(offset)
}

pub(crate) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

async fn refusal(url: &url::Url, response: Response) -> Refusal {
    let challenges = Challenges::of(response.headers());
    let has_nonce = possession::nonce(response.headers()).is_some();
    let body = web::read(url, response, REFUSAL_BYTES_MAX).await.unwrap_or_default();
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let said = body.pointer("/error/data/reason").and_then(Value::as_str).or_else(|| challenges.get("error"));
    let reason = printable(said.unwrap_or_default());
    let server_ms = body.pointer("/error/data/serverTime").and_then(Value::as_u64);
    Refusal { challenges, has_nonce, reason, server_ms }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_follows_the_server_s_where_they_differ_within_reason() {
        const DAY_MS: u64 = 24 * 3600 * 1000;
        let now = 1_000_000_000_400;
        assert_eq!(offset_ms(1_000_000_000_000, now, 0), None, "they agree");
        assert_eq!(offset_ms(now - 120_000, now, 0), Some(-120_000));
        assert_eq!(offset_ms(now - 120_000, now, -120_000), None, "known already");
        assert_eq!(offset_ms(now + DAY_MS, now, 0), Some(86_400_000));
        for unreasonable in [now + DAY_MS + 1, now - DAY_MS - 1, 0, u64::MAX] {
            assert_eq!(offset_ms(unreasonable, now, 0), None, "{unreasonable}");
        }
    }
}

//! One request to the MCP server, with a token and the proof that it is ours.
//!
//! Called by `bridge` and `endpoint`. A request that is turned away for its token or proof is sent again: once with the
//! clock set by the server's, once with another token. That is safe: what is answered with 401 was not carried out.
//! Every answer to anything else is the caller's to read. Invariant: tokens go to the one MCP URL alone.
//! Specifications: MCP 2026-07-28 authorization; `docs/security/binding.md`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{digest, rand};
use bailiwick_token::proof::{PROOF_HEADER, PROOF_NONCE_BYTES, Proven, prove};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use reqwest::Response;
use serde_json::Value;

use crate::{
    credentials::{Credentials, Held},
    fault::{Fault, printable},
    target::McpUrl,
    web::{self, Web},
};

/// Largest refusal that is read for its reason.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;
/// Clocks that differ by less are left alone: a date has whole seconds.
const OFFSET_MS_MIN: i64 = 1500;
/// With the clock corrected, and with another token.
const ATTEMPTS_MAX: usize = 3;

/// See the file's header.
#[derive(Debug)]
pub(crate) struct Caller {
    web: Web,
    pub(crate) url: McpUrl,
    pub(crate) credentials: Arc<Credentials>,
    /// What the server's clock is ahead of ours, in milliseconds.
    offset_ms: AtomicI64,
}

/// An answer, and the token it was got with.
pub(crate) struct Answered {
    pub(crate) response: Response,
    pub(crate) held: Arc<Held>,
}

impl Caller {
    pub(crate) fn new(web: Web, url: McpUrl, credentials: Arc<Credentials>) -> Self {
        Self { web, url, credentials, offset_ms: AtomicI64::new(0) }
    }

    /// Sends; gives an answer of any status but 401.
    pub(crate) async fn send(&self, method: &Method, headers: &HeaderMap, body: &Bytes) -> Result<Answered, Fault> {
        let mut held = self.credentials.token().await?;
        let mut reason = String::new();
        let mut is_clock_set = false;
        for _ in 0..ATTEMPTS_MAX {
            let response = self.send_with(&held, method, headers.clone(), body).await?;
            if response.status() != StatusCode::UNAUTHORIZED {
                return Ok(Answered { response, held });
            }
            let date = response.headers().get(header::DATE).cloned();
            reason = refusal(self.url.url(), response).await;
            tracing::debug!(reason, "turned away");
            if reason == "proof_stale" && !is_clock_set && self.set_clock(date.as_ref()) {
                is_clock_set = true;
                continue;
            }
            held = self.credentials.renewed(&held).await?;
        }
        Err(Fault::TurnedAway(reason))
    }

    async fn send_with(
        &self,
        held: &Held,
        method: &Method,
        mut headers: HeaderMap,
        body: &Bytes,
    ) -> Result<Response, Fault> {
        let token = HeaderValue::from_str(&format!("Bearer {}", *held.access_token));
        let mut token = token.map_err(|_| Fault::answer(self.url.url(), "its token cannot stand in a header"))?;
        token.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, token);
        if let Some(proof) = self.proof(held, method, body)? {
            headers.insert(PROOF_HEADER, proof);
        }
        let url = self.url.url();
        let request = self.web.of(url).request(method.clone(), url.clone()).headers(headers).body(body.clone());
        Web::send(url, request).await
    }

    /// For a bound token.
    fn proof(&self, held: &Held, method: &Method, body: &Bytes) -> Result<Option<HeaderValue>, Fault> {
        let Some(key) = &held.binding else { return Ok(None) };
        let mut nonce = [0; PROOF_NONCE_BYTES];
        rand::fill(&mut nonce).map_err(|_| Fault::Randomness)?;
        let digest = digest::digest(&digest::SHA256, body);
        let mut hash = [0; 32];
        hash.copy_from_slice(digest.as_ref());
        let path = self.url.url().path().trim_end_matches('/');
        let proven = Proven { token: &held.hash, method: method.as_str(), path, body: &hash };
        let at = now_ms().saturating_add_signed(self.offset_ms.load(Ordering::Relaxed));
        let proof = prove(key, &proven, at, nonce).ok_or(Fault::Randomness)?;
        Ok(HeaderValue::from_str(&proof.to_string()).ok())
    }

    /// Takes over the server's time. `false` if that changes nothing.
    fn set_clock(&self, date: Option<&HeaderValue>) -> bool {
        let Some(date) = date.and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok()) else {
            return false;
        };
        let Some(offset) = offset_ms(date, now_ms(), self.offset_ms.load(Ordering::Relaxed)) else { return false };
        self.offset_ms.store(offset, Ordering::Relaxed);
        tracing::info!(
            offset_ms = offset,
            "this machine's clock differs from the server's; proofs are made by the server's"
        );
        true
    }
}

/// The new offset; `None` if it is the present one, as far as a date can tell.
fn offset_ms(date: SystemTime, now_ms: u64, present: i64) -> Option<i64> {
    let server = i64::try_from(date.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()?;
    // A date is cut down to the second.
    let offset = server.checked_add(500)?.checked_sub(i64::try_from(now_ms).ok()?)?;
    (offset.abs_diff(present) >= OFFSET_MS_MIN.unsigned_abs()).then_some(offset)
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// Why a token was turned away: the reason word, or what the challenge says.
async fn refusal(url: &url::Url, response: Response) -> String {
    let challenge = response.headers().get(header::WWW_AUTHENTICATE).and_then(|value| value.to_str().ok());
    let error = challenge.and_then(|text| crate::discovery::parameter(text, "error")).unwrap_or_default();
    let body = web::read(url, response, REFUSAL_BYTES_MAX).await.unwrap_or_default();
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let reason = body.pointer("/error/data/reason").and_then(Value::as_str);
    printable(reason.unwrap_or(&error))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_clock_follows_the_server_s_where_they_differ() {
        let date = UNIX_EPOCH + Duration::from_secs(1_000_000);
        assert_eq!(offset_ms(date, 1_000_000_400, 0), None, "they agree");
        assert_eq!(offset_ms(date, 1_000_120_500, 0), Some(-120_000));
        assert_eq!(offset_ms(date, 1_000_120_500, -120_000), None, "known already");
        assert_eq!(offset_ms(date, 999_000_000, 0), Some(1_000_500));
    }
}

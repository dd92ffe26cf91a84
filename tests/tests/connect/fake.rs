//! A server that plays tricks: a resource and its authorization server in one, whose every word a test can choose.
//!
//! Used by `servers`, `dpop`, `scope` and `local`. It gives tokens `t-1`, `t-2`, … and refresh tokens `r-1`, `r-2`, …,
//! each good once, and answers calls of whoever has the latest token. It remembers what it was asked.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Result;
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use bailiwick_token::{
    TokenHash,
    binding::BindingKey,
    dpop::{DpopProof, DpopRequest},
    proof::{Proof, Proven},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};

/// See the file's header; stopped when dropped.
pub(crate) struct Fake {
    pub(crate) base: String,
    pub(crate) says: Arc<Mutex<Says>>,
    _task: JoinSet<()>,
}

/// What it says, and what it was asked.
#[derive(Default)]
pub(crate) struct Says {
    /// Members in place of those of its documents: of the resource, of the authorization server.
    pub(crate) resource: Value,
    pub(crate) server: Value,
    /// In place of its own metadata's place.
    pub(crate) metadata_at: Option<String>,
    /// Where calls are redirected to.
    pub(crate) redirect: Option<String>,
    /// A path, and where whatever is sent there is redirected to.
    pub(crate) moved: Option<(&'static str, String)>,
    pub(crate) expires_in: u64,
    /// It binds, and says that it is so many seconds later or earlier; whoever is between says another time.
    pub(crate) binds: bool,
    pub(crate) seconds_ahead: i64,
    pub(crate) proxy_seconds_ahead: i64,
    /// In place of the time of a refusal.
    pub(crate) server_time: Option<Value>,
    /// It takes nothing but proofs by DPoP, and gives no other tokens.
    pub(crate) dpop: bool,
    /// It takes nothing but proofs by DPoP, and its token endpoint knows nothing of them.
    pub(crate) only_challenges_dpop: bool,
    /// What a proof at the resource must have in it.
    pub(crate) nonce: String,
    /// Whose keys proofs were made with, at the token endpoint and at the resource, and which proofs.
    pub(crate) keys: [BTreeSet<String>; 2],
    pub(crate) ids: BTreeSet<String>,
    /// What tokens are good for, and what calls need.
    pub(crate) scope: Option<String>,
    pub(crate) needs: Option<String>,
    /// In place of the answer to calls: kind and text.
    pub(crate) answer: Option<(&'static str, String)>,
    given: usize,
    pub(crate) asked: Vec<String>,
    /// Proofs that held, and those that did not.
    pub(crate) proofs: (usize, usize),
}

const KEY: [u8; 32] = [7; 32];
/// Of the token endpoint.
const NONCE: &str = "as-1";

impl Fake {
    pub(crate) async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let base = format!("http://{}", listener.local_addr()?);
        let says = Arc::new(Mutex::new(Says { expires_in: 600, ..Says::default() }));
        let state = (base.clone(), Arc::clone(&says));
        let app = Router::new().fallback(answer).with_state(state);
        let mut task = JoinSet::new();
        task.spawn(async move { drop(axum::serve(listener, app).await) });
        Ok(Self { base, says, _task: task })
    }

    pub(crate) fn url(&self) -> String {
        format!("{}/mcp/shop", self.base)
    }

    pub(crate) fn says(&self) -> MutexGuard<'_, Says> {
        self.says.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often something was asked.
    pub(crate) fn asked(&self, what: &str) -> usize {
        self.says().asked.iter().filter(|asked| asked.contains(what)).count()
    }
}

async fn answer(
    State((base, says)): State<(String, Arc<Mutex<Says>>)>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut says = says.lock().unwrap_or_else(PoisonError::into_inner);
    let text = String::from_utf8_lossy(&body).into_owned();
    says.asked.push(format!("{method} {} {text}", uri.path()));
    if let Some((_, to)) = says.moved.as_ref().filter(|(path, _)| *path == uri.path()) {
        return redirected(to);
    }
    match uri.path() {
        "/.well-known/oauth-protected-resource/mcp/shop" => {
            let own = json!({"resource": format!("{base}/mcp/shop"), "authorization_servers": [base]});
            json_of(200, &overlaid(own, &says.resource))
        }
        "/.well-known/oauth-authorization-server" => {
            let own = json!({
                "issuer": base, "authorization_endpoint": format!("{base}/authorize"),
                "token_endpoint": format!("{base}/token"), "code_challenge_methods_supported": ["S256"],
                "authorization_response_iss_parameter_supported": true,
            });
            json_of(200, &overlaid(own, &says.server))
        }
        "/revoke" => StatusCode::OK.into_response(),
        "/token" => token(&mut says, &base, &headers, &text),
        "/mcp/shop" => says.call(&base, &method, &headers, &body),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

/// With all that was sent.
fn redirected(to: &str) -> Response {
    (StatusCode::TEMPORARY_REDIRECT, [("location", to)]).into_response()
}

fn overlaid(mut own: Value, other: &Value) -> Value {
    other.as_object().into_iter().flatten().for_each(|(name, value)| own[name] = value.clone());
    own
}

fn json_of(status: u16, body: &Value) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or_default();
    (status, [("content-type", "application/json")], body.to_string()).into_response()
}

fn token(says: &mut Says, base: &str, headers: &HeaderMap, form: &str) -> Response {
    if says.dpop {
        let Some(proof) = says.proof(&Method::POST, &format!("{base}/token"), headers, None, b"") else {
            return json_of(400, &json!({"error": "invalid_dpop_proof"}));
        };
        if proof.nonce.as_deref() != Some(NONCE) {
            return with(json_of(400, &json!({"error": "use_dpop_nonce"})), "dpop-nonce", NONCE);
        }
        let is_other = !says.keys[0].is_empty() && !says.keys[0].contains(&proof.jkt);
        if form.contains("grant_type=refresh_token") && is_other {
            return json_of(400, &json!({"error": "invalid_grant"}));
        }
        says.keys[0].insert(proof.jkt);
    }
    let latest = format!("refresh_token=r-{}", says.given);
    let is_latest = form.split('&').any(|part| part == latest);
    if form.contains("grant_type=refresh_token") && !is_latest {
        return json_of(400, &json!({"error": "invalid_grant"}));
    }
    says.given += 1;
    let mut body = json!({
        "access_token": format!("t-{}", says.given), "token_type": "Bearer", "expires_in": says.expires_in,
        "refresh_token": format!("r-{}", says.given),
    });
    if let Some(scope) = &says.scope {
        body["scope"] = json!(scope);
    }
    if says.dpop {
        body["token_type"] = json!("DPoP");
    }
    if says.binds && form.contains("binding_alg=aes-256-gcm") {
        body["binding_alg"] = json!("aes-256-gcm");
        body["binding_key"] = json!(*BindingKey::new(KEY).expose());
    }
    json_of(200, &body)
}

impl Says {
    fn call(&mut self, base: &str, method: &Method, headers: &HeaderMap, body: &[u8]) -> Response {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let token = format!("t-{}", self.given);
        let scheme = if self.dpop { "DPoP" } else { "Bearer" };
        if text("authorization") != format!("{scheme} {token}") || self.given == 0 {
            return self.challenge(base, "token_missing");
        }
        if self.only_challenges_dpop {
            return self.challenge(base, "invalid_token");
        }
        if self.dpop {
            let Some(proof) = self.proof(method, &format!("{base}/mcp/shop"), headers, Some(&token), body) else {
                return self.challenge(base, "invalid_dpop_proof");
            };
            if proof.nonce.as_deref() != Some(&self.nonce) {
                return with(self.challenge(base, "use_dpop_nonce"), "dpop-nonce", &self.nonce);
            }
            self.keys[1].insert(proof.jkt);
        }
        let has = |scope: &str| self.scope.as_deref().unwrap_or_default().split(' ').any(|word| word == scope);
        if let Some(needs) = self.needs.as_deref().filter(|needs| !has(needs)) {
            let body = json!({"jsonrpc": "2.0", "id": null, "error": {"code": 403, "message": "too narrow"}});
            let challenge = format!("Bearer error=\"insufficient_scope\", scope=\"{needs}\"");
            return with(json_of(403, &body), "www-authenticate", &challenge);
        }
        if let Some((kind, text)) = &self.answer {
            return ([("content-type", *kind)], text.clone()).into_response();
        }
        if let Some(to) = &self.redirect {
            return redirected(to);
        }
        if self.binds {
            let proof = Proof::parse(text("bailiwick-proof"));
            let mut hash = [0; 32];
            hash.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body).as_ref());
            let (token, key) = (TokenHash::of(&token), BindingKey::new(KEY));
            let proven = Proven { token: &token, method: method.as_str(), path: "/mcp/shop", body: &hash };
            let now = self.now_ms();
            match proof.filter(|proof| proof.is_of(&key, &proven)) {
                Some(proof) if proof.unix_ms.abs_diff(now) < 5000 => self.proofs.0 += 1,
                _ => {
                    self.proofs.1 += 1;
                    return self.challenge(base, "proof_stale");
                }
            }
        }
        let message: Value = serde_json::from_slice(body).unwrap_or_default();
        json_of(200, &json!({"jsonrpc": "2.0", "id": message["id"], "result": {"resultType": "complete", "by": token}}))
    }

    fn now_ms(&self) -> u64 {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(now.as_millis()).unwrap_or_default().saturating_add_signed(self.seconds_ahead * 1000)
    }

    /// A proof that holds and comes for the first time.
    fn proof(
        &mut self,
        method: &Method,
        url: &str,
        headers: &HeaderMap,
        access_token: Option<&str>,
        body: &[u8],
    ) -> Option<DpopProof> {
        let proof = headers.get("dpop")?.to_str().ok()?;
        let request = DpopRequest { method: method.as_str(), url, access_token, body, key: None };
        let now = i64::try_from(self.now_ms() / 1000).ok()?;
        DpopProof::verify(proof, &request, now).ok().filter(|proof| self.ids.insert(proof.jti.clone()))
    }

    fn challenge(&self, base: &str, reason: &str) -> Response {
        let usual = format!("{base}/.well-known/oauth-protected-resource/mcp/shop");
        let at = self.metadata_at.clone().unwrap_or(usual);
        let mut data = json!({"reason": reason});
        if reason == "proof_stale" {
            data["serverTime"] = self.server_time.clone().unwrap_or_else(|| json!(self.now_ms()));
        }
        let error = json!({"code": 401, "message": reason, "data": data});
        let response = json_of(401, &json!({"jsonrpc": "2.0", "id": null, "error": error}));
        let proxy_ms = self.now_ms().saturating_add_signed(self.proxy_seconds_ahead * 1000);
        let date = std::time::UNIX_EPOCH + std::time::Duration::from_millis(proxy_ms);
        let is_dpop = self.dpop || self.only_challenges_dpop;
        let scheme = if is_dpop { format!("DPoP error=\"{reason}\", ") } else { "Bearer ".to_owned() };
        let challenge = format!("{scheme}resource_metadata=\"{at}\", scope=\"mcp:tools\"");
        with(with(response, "www-authenticate", &challenge), "date", &httpdate::fmt_http_date(date))
    }
}

fn with(mut response: Response, name: &'static str, value: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(HeaderName::from_static(name), value);
    }
    response
}

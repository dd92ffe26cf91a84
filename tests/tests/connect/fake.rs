//! A server that plays tricks: a resource and its authorization server in one, whose every word a test can choose.
//!
//! Used by `servers`. It gives tokens `t-1`, `t-2`, … and refresh tokens `r-1`, `r-2`, …, each good once, and answers
//! calls of whoever has the latest token. It remembers what it was asked.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    pub(crate) expires_in: u64,
    /// It binds, and says that it is so many seconds later or earlier.
    pub(crate) binds: bool,
    pub(crate) seconds_ahead: i64,
    given: usize,
    pub(crate) asked: Vec<String>,
    /// Proofs that held, and those that did not.
    pub(crate) proofs: (usize, usize),
}

const KEY: [u8; 32] = [7; 32];

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
        "/token" => token(&mut says, &text),
        "/mcp/shop" => says.call(&base, &method, &headers, &body),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

fn overlaid(mut own: Value, other: &Value) -> Value {
    other.as_object().into_iter().flatten().for_each(|(name, value)| own[name] = value.clone());
    own
}

fn json_of(status: u16, body: &Value) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or_default();
    (status, [("content-type", "application/json")], body.to_string()).into_response()
}

fn token(says: &mut Says, form: &str) -> Response {
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
        if text("authorization") != format!("Bearer {token}") || self.given == 0 {
            return self.challenge(base, "token_missing");
        }
        if let Some(to) = &self.redirect {
            return (StatusCode::TEMPORARY_REDIRECT, [("location", to.clone())]).into_response();
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

    fn challenge(&self, base: &str, reason: &str) -> Response {
        let usual = format!("{base}/.well-known/oauth-protected-resource/mcp/shop");
        let at = self.metadata_at.clone().unwrap_or(usual);
        let error = json!({"code": 401, "message": reason, "data": {"reason": reason}});
        let mut response = json_of(401, &json!({"jsonrpc": "2.0", "id": null, "error": error}));
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(self.now_ms());
        for (name, value) in [
            ("www-authenticate", format!("Bearer resource_metadata=\"{at}\", scope=\"mcp:tools\"")),
            ("date", httpdate::fmt_http_date(time)),
        ] {
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().insert(HeaderName::from_static(name), value);
            }
        }
        response
    }
}

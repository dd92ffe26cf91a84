//! A company's identity provider, as far as a control plane needs one: its keys, and an ID token for each code.
//!
//! Run in the load tester's own process. It has no pages: the scripted people (`person`) make their codes themselves,
//! and a code says who it is for. What it signs is good for a minute, so that uses of it are forgotten soon.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};

use super::signing::{Key, decoded, encoded};

/// What the provider is called in the cluster, and what the cluster is called at the provider.
pub(super) const NAME: &str = "bench";
const AUDIENCE: &str = "bailiwick-at-bench";
/// How long what is signed is good.
const LIFETIME_SECONDS: u64 = 60;
const FORM_BYTES_MAX: usize = 16 * 1024;

/// A running provider; it ends when it is dropped.
#[derive(Debug)]
pub(super) struct Provider {
    signer: Arc<Signer>,
    _serving: JoinSet<()>,
}

#[derive(Debug)]
struct Signer {
    key: Key,
    issuer: String,
    next: AtomicU64,
}

impl Provider {
    pub(super) async fn start() -> Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let issuer = format!("http://{}", listener.local_addr()?);
        let signer = Arc::new(Signer { key: Key::p256()?, issuer, next: AtomicU64::new(0) });
        let mut serving = JoinSet::new();
        serving.spawn(accept(listener, Arc::clone(&signer)));
        Ok(Self { signer, _serving: serving })
    }

    /// Its manifest's specification: people sign in there, and its assertions are taken for one virtual server.
    pub(super) fn spec(&self, virtual_server: &str) -> Value {
        let issuer = &self.signer.issuer;
        let place = |path: &str| format!("{issuer}/{path}");
        json!({
            "issuer": issuer, "jwks_url": place("jwks"), "networks": ["127.0.0.0/8"], "algorithms": ["ES256"],
            "assertions": {"virtual_servers": [virtual_server]},
            "sign_in": {"client_id": AUDIENCE, "auth": "none", "authorization_url": place("authorize"),
                        "token_url": place("token")},
        })
    }

    /// An identity assertion (ID-JAG) about somebody, made for a client.
    pub(super) fn assertion(&self, user: &str, client: &str, audience: &str, resource: &str) -> Result<String> {
        let number = self.signer.next.fetch_add(1, Ordering::Relaxed);
        let more = json!({"aud": audience, "jti": format!("a-{number}"), "client_id": client, "resource": resource,
                          "scope": "mcp:read"});
        self.signer.sign("oauth-id-jag+jwt", user, more)
    }
}

impl Signer {
    fn sign(&self, typ: &str, user: &str, more: Value) -> Result<String> {
        let now = now_seconds();
        let mut claims = json!({"iss": self.issuer, "sub": user, "iat": now, "exp": now + LIFETIME_SECONDS});
        if let (Some(claims), Value::Object(more)) = (claims.as_object_mut(), more) {
            claims.extend(more);
        }
        self.key.jwt(typ, &claims)
    }

    fn answer(&self, is_post: bool, path: &str, form: &str) -> Result<Option<String>> {
        match (is_post, path) {
            (false, "/jwks") => self.key.jwks().map(Some),
            (true, "/token") => {
                let code = form.split('&').find_map(|pair| pair.strip_prefix("code=")).context("no code")?;
                let said: Value = serde_json::from_slice(&decoded(code)?)?;
                let said = |name: &str| said.get(name).and_then(Value::as_str).context("not a code");
                let id_token = self.sign("JWT", said("user")?, json!({"aud": AUDIENCE, "nonce": said("nonce")?}))?;
                let tokens = json!({"access_token": "none", "token_type": "Bearer", "id_token": id_token});
                Ok(Some(tokens.to_string()))
            }
            _ => Ok(None),
        }
    }
}

/// A code that says for whom it is, in a sign-in of this nonce.
pub(super) fn code(user: &str, nonce: &str) -> String {
    encoded(json!({"user": user, "nonce": nonce}).to_string())
}

/// Unix seconds.
pub(super) fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

async fn accept(listener: TcpListener, signer: Arc<Signer>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let signer = Arc::clone(&signer);
        connections.spawn(async move {
            let service = service_fn(move |request| respond(request, Arc::clone(&signer)));
            // How a connection ends is the control plane's affair.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn respond(request: Request<Incoming>, signer: Arc<Signer>) -> Result<Response<Full<Bytes>>> {
    let (parts, body) = request.into_parts();
    let form = Limited::new(body, FORM_BYTES_MAX).collect().await.map_err(anyhow::Error::from_boxed)?.to_bytes();
    let form = std::str::from_utf8(&form)?;
    let (status, json) = match signer.answer(parts.method == Method::POST, parts.uri.path(), form)? {
        Some(json) => (StatusCode::OK, json),
        None => (StatusCode::NOT_FOUND, "{}".to_owned()),
    };
    let response = Response::builder().status(status).header(header::CONTENT_TYPE, "application/json");
    Ok(response.body(Full::new(json.into()))?)
}

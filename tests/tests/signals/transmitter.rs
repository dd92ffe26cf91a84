//! A transmitter of signals: signs security event tokens, pushes them, and answers polls as a test says.
//!
//! Signed by jsonwebtoken, which shares no code with what verifies here but the cryptographic library beneath.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use aws_lc_rs::{
    digest,
    encoding::{AsDer as _, Pkcs8V1Der},
    rsa::KeySize,
    signature::{KeyPair as _, RsaKeyPair},
};
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bailiwick_tests::{Answer, Deployment, manifests::manifest};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};

use crate::streams::{self, Asked};
use tokio::{net::TcpListener, task::JoinHandle};

pub(crate) const AUDIENCE: &str = "https://gateway.example/signals";
/// What the transmitter shows when it pushes, and what it wants to be shown when it is polled.
pub(crate) const PUSH_SECRET: &str = "b2f3c1d0a9e8f7061524";
pub(crate) const POLL_SECRET: &str = "77aa66bb55cc44dd33ee";
pub(crate) const CAEP: &str = "https://schemas.openid.net/secevent/caep/event-type";
pub(crate) const RISC: &str = "https://schemas.openid.net/secevent/risc/event-type";
pub(crate) const SSF: &str = "https://schemas.openid.net/secevent/ssf/event-type";

/// How polls are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Polled {
    Honestly,
    /// Never, if they acknowledge something: it stays in the queue.
    HangOnAck,
    Hang,
    Redirect,
    Giant,
    /// With JSON that is no answer.
    Lie,
    Refuse,
}

#[derive(Debug, Default)]
pub(crate) struct Said {
    pub(crate) queue: BTreeMap<String, String>,
    pub(crate) acknowledged: Vec<String>,
    pub(crate) refused: BTreeMap<String, Value>,
    pub(crate) polls: usize,
    /// Polls that were answered otherwise than honestly.
    pub(crate) hostile: usize,
    pub(crate) elsewhere: usize,
}

pub(crate) struct Shared {
    pub(crate) base: String,
    keys: String,
    pub(crate) said: Mutex<Said>,
    polled: Mutex<Polled>,
    /// Where streams are made.
    pub(crate) asked: Mutex<Asked>,
    key: EncodingKey,
    pub(crate) http: reqwest::Client,
}

/// See the file's header; stopped when dropped.
pub(crate) struct Transmitter {
    pub(crate) shared: Arc<Shared>,
    key: EncodingKey,
    http: reqwest::Client,
    task: JoinHandle<()>,
    number: Mutex<u32>,
}

impl Drop for Transmitter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn rsa() -> Result<(EncodingKey, Value)> {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048)?;
    let pkcs8: Pkcs8V1Der<'_> = pair.as_der()?;
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(pkcs8.as_ref()));
    let (rest, _exponent) = pair.public_key().as_ref().split_last_chunk::<5>().context("exponent")?;
    let n = URL_SAFE_NO_PAD.encode(rest.last_chunk::<256>().context("modulus")?);
    let jwk = json!({"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "k1", "n": n, "e": "AQAB"});
    Ok((EncodingKey::from_rsa_pem(pem.as_bytes())?, jwk))
}

impl Shared {
    pub(crate) fn sign(&self, claims: &Value) -> Result<String> {
        let mut header = jsonwebtoken::Header::new(Algorithm::RS256);
        (header.typ, header.kid) = (Some("secevent+jwt".to_owned()), Some("k1".to_owned()));
        Ok(jsonwebtoken::encode(&header, claims, &self.key)?)
    }
}

impl Transmitter {
    #[expect(clippy::disallowed_methods, reason = "tests have no supervisor; the task ends with this value")]
    pub(crate) async fn start() -> Result<Self> {
        let (key, jwk) = rsa()?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let base = format!("http://{}", listener.local_addr()?);
        let http = reqwest::Client::builder().no_proxy().build()?;
        let shared = Arc::new(Shared {
            base,
            keys: json!({"keys": [jwk]}).to_string(),
            said: Mutex::default(),
            polled: Mutex::new(Polled::Honestly),
            asked: Mutex::default(),
            key: key.clone(),
            http: http.clone(),
        });
        let app = Router::new()
            .route("/.well-known/ssf-configuration/tenant", get(metadata))
            .route("/keys", get(keys))
            .route("/poll", post(poll))
            .route("/elsewhere", post(elsewhere).get(elsewhere))
            .merge(streams::routes())
            .with_state(Arc::clone(&shared));
        let task = tokio::spawn(async move { drop(axum::serve(listener, app).await) });
        Ok(Self { shared, key, http, task, number: Mutex::new(0) })
    }

    /// The `iss` of what it signs; its metadata is where an issuer with a path has it.
    pub(crate) fn issuer(&self) -> String {
        format!("{}/tenant", self.shared.base)
    }

    /// The manifest of a provider whose transmitter this is; by push, by poll, or both.
    pub(crate) fn manifest(&self, push: bool, poll: bool, more: &Value) -> String {
        let hash = hex::encode(digest::digest(&digest::SHA256, PUSH_SECRET.as_bytes()));
        let mut signals = json!({"issuer": self.issuer(), "audience": AUDIENCE});
        if push {
            signals["push"] = json!({"secrets_sha256": [hash]});
        }
        if poll {
            signals["poll"] = json!({"url": format!("{}/poll", self.shared.base), "secret": "acme-poll"});
        }
        for (name, value) in more.as_object().into_iter().flatten() {
            signals[name] = value.clone();
        }
        let people = json!({"user": "email", "domains": ["example.com"], "groups": {"claim": "groups"}});
        let spec = json!({
            "issuer": "http://127.0.0.1:9/acme", "networks": ["127.0.0.0/8"], "people": people, "signals": signals,
        });
        manifest("IdentityProvider", "acme", &spec.to_string())
    }

    /// An identifier that no other signal has.
    pub(crate) fn jti(&self) -> String {
        let mut number = held(&self.number);
        *number += 1;
        format!("jti-{}-{number}", std::process::id())
    }

    /// The claims of a signal about somebody.
    pub(crate) fn claims(&self, jti: &str, uri: &str, user: &str, event: Value) -> Value {
        let (iat, mut event) = (now(), event);
        event["event_timestamp"] = json!(iat);
        event["reason_admin"] = json!({"en": "as the test says"});
        json!({
            "iss": self.issuer(), "aud": AUDIENCE, "jti": jti, "iat": iat, "txn": "t-1",
            "sub_id": {"format": "email", "email": user},
            "events": {uri: event},
        })
    }

    pub(crate) fn sign(&self, claims: &Value) -> Result<String> {
        self.sign_as(claims, "secevent+jwt", "k1", &self.key)
    }

    pub(crate) fn sign_typed(&self, claims: &Value, typ: &str) -> Result<String> {
        self.sign_as(claims, typ, "k1", &self.key)
    }

    /// Signed by a key that nobody knows, under this key id.
    pub(crate) fn sign_unknown(&self, claims: &Value, kid: &str) -> Result<String> {
        self.sign_as(claims, "secevent+jwt", kid, &rsa()?.0)
    }

    fn sign_as(&self, claims: &Value, typ: &str, kid: &str, key: &EncodingKey) -> Result<String> {
        let mut header = jsonwebtoken::Header::new(Algorithm::RS256);
        (header.typ, header.kid) = (Some(typ.to_owned()), Some(kid.to_owned()));
        Ok(jsonwebtoken::encode(&header, claims, key)?)
    }

    /// An HMAC with the public key, which everybody has, for a secret.
    pub(crate) fn sign_hmac(&self, claims: &Value) -> Result<String> {
        let mut header = jsonwebtoken::Header::new(Algorithm::HS256);
        (header.typ, header.kid) = (Some("secevent+jwt".to_owned()), Some("k1".to_owned()));
        Ok(jsonwebtoken::encode(&header, claims, &EncodingKey::from_secret(self.shared.keys.as_bytes()))?)
    }

    /// Pushes a token to a node.
    pub(crate) async fn push(&self, node: &str, jwt: &str) -> Result<Answer> {
        self.push_with(node, "acme", &format!("Bearer {PUSH_SECRET}"), "application/secevent+jwt", jwt).await
    }

    pub(crate) async fn push_with(
        &self,
        node: &str,
        provider: &str,
        authorization: &str,
        content_type: &str,
        body: &str,
    ) -> Result<Answer> {
        let request = self.http.post(format!("{node}/ssf/events/{provider}")).body(body.to_owned());
        let request = request.header("authorization", authorization).header("accept", "application/json");
        Answer::to(request.header("content-type", content_type)).await
    }

    /// Signs a signal and pushes it, which must be taken.
    pub(crate) async fn pushed(&self, node: &str, uri: &str, user: &str, event: Value) -> Result<String> {
        let jti = self.jti();
        let answer = self.push(node, &self.sign(&self.claims(&jti, uri, user, event))?).await?;
        anyhow::ensure!(answer.status == 202 && answer.text.is_empty(), "{} {}", answer.status, answer.text);
        Ok(jti)
    }

    /// Lays a token into the queue that polls are answered from.
    pub(crate) fn offer(&self, jti: &str, jwt: &str) {
        held(&self.shared.said).queue.insert(jti.to_owned(), jwt.to_owned());
    }

    pub(crate) fn polled(&self, how: Polled) {
        *held(&self.shared.polled) = how;
    }

    pub(crate) fn said(&self) -> MutexGuard<'_, Said> {
        held(&self.shared.said)
    }

    /// Seals the secret that is shown at the polling endpoint.
    pub(crate) fn seal(deployment: &Deployment) -> Result<()> {
        Self::seal_as(deployment, "acme-poll", POLL_SECRET)
    }

    /// Seals a secret for identity providers.
    pub(crate) fn seal_as(deployment: &Deployment, name: &str, value: &str) -> Result<()> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("value");
        std::fs::write(&file, format!("{value}\n"))?;
        let file = file.display().to_string();
        let arguments = ["secret", "set", name, "--for", "identity-provider", "--from-file", &file];
        deployment.cli_ok(&arguments).map(drop)
    }
}

async fn metadata(State(shared): State<Arc<Shared>>) -> Response {
    let mut metadata = json!({
        "spec_version": "1_0", "issuer": format!("{}/tenant", shared.base), "jwks_uri": format!("{}/keys", shared.base),
        "delivery_methods_supported": ["urn:ietf:rfc:8935", "urn:ietf:rfc:8936"],
    });
    streams::metadata(&shared, &mut metadata);
    ([(header::CONTENT_TYPE, "application/json")], metadata.to_string()).into_response()
}

async fn keys(State(shared): State<Arc<Shared>>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], shared.keys.clone()).into_response()
}

async fn elsewhere(State(shared): State<Arc<Shared>>) -> StatusCode {
    held(&shared.said).elsewhere += 1;
    StatusCode::OK
}

async fn poll(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if shown != Some(&format!("Bearer {POLL_SECRET}")) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let Ok(asked) = serde_json::from_slice::<Value>(&body) else { return StatusCode::BAD_REQUEST.into_response() };
    held(&shared.said).polls += 1;
    let how = *held(&shared.polled);
    let is_ack = asked.get("ack").is_some();
    if how != Polled::Honestly && (how != Polled::HangOnAck || is_ack) {
        held(&shared.said).hostile += 1;
        return hostile(how, &shared.base).await;
    }
    let answer = {
        let mut said = held(&shared.said);
        for jti in asked.get("ack").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            said.queue.remove(jti);
            said.acknowledged.push(jti.to_owned());
        }
        for (jti, fault) in asked.get("setErrs").and_then(Value::as_object).into_iter().flatten() {
            said.queue.remove(jti);
            said.refused.insert(jti.clone(), fault.clone());
        }
        let most = asked.get("maxEvents").and_then(Value::as_u64).and_then(|most| usize::try_from(most).ok());
        let sets: BTreeMap<_, _> = said.queue.iter().take(most.unwrap_or(1)).collect();
        json!({"sets": sets, "moreAvailable": said.queue.len() > sets.len()})
    };
    ([(header::CONTENT_TYPE, "application/json")], answer.to_string()).into_response()
}

async fn hostile(how: Polled, base: &str) -> Response {
    match how {
        Polled::Honestly | Polled::HangOnAck | Polled::Hang => {
            tokio::time::sleep(Duration::from_secs(600)).await;
            StatusCode::OK.into_response()
        }
        Polled::Redirect => {
            (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, format!("{base}/elsewhere"))]).into_response()
        }
        Polled::Giant => format!("{{\"sets\": {{\"a\": \"{}\"}}}}", "x".repeat(2 * 1024 * 1024)).into_response(),
        Polled::Lie => json!({"sets": ["not", "a", "map"], "moreAvailable": "yes"}).to_string().into_response(),
        Polled::Refuse => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

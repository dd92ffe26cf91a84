//! The token endpoint, the registration endpoint and the revocation endpoint, as a public client asks them.
//!
//! Called by `sign_in` and `credentials`. A token request asks for a bound token, in one way (`possession`); a server
//! that knows nothing of that gives a bearer token, which the caller may refuse. Invariant: an answer of the wrong
//! shape gives no token. Specifications: OAuth 2.1 §3.2; RFC 7009, 7591, 8707, 9449 §5, §8; `docs/security/binding.md`.

use std::{sync::Arc, time::Duration};

use bailiwick_token::binding::{BINDING_ALG, BindingKey};
use http::StatusCode;
use serde_json::{Value, json};
use url::Url;
use zeroize::Zeroizing;

use crate::{
    caller::now_ms,
    fault::{Fault, printable},
    possession::{Asking, Bound, Proven},
    scope,
    web::{Document, Web},
};

/// Longest `client_id` that is taken from a registration.
const CLIENT_ID_BYTES_MAX: usize = 512;
/// Longest token.
const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// Longest scope.
const SCOPE_BYTES_MAX: usize = 2048;
/// Of a token whose answer does not say how long it lives.
const LIFE_ASSUMED: Duration = Duration::from_secs(300);
/// What servers may say.
const LIFE_MAX: Duration = Duration::from_secs(24 * 3600);

/// What a token request brought.
pub(crate) struct Granted {
    pub(crate) access_token: Zeroizing<String>,
    pub(crate) life: Duration,
    pub(crate) bound: Bound,
    /// What it is good for, where the server says that.
    pub(crate) scope: Option<String>,
    /// A new one; where absent, the one before goes on.
    pub(crate) refresh_token: Option<Zeroizing<String>>,
}

/// Sends a token request; once more where the server wants a nonce of its own in the proof.
pub(crate) async fn request(
    web: &Web,
    endpoint: &Url,
    form: &[(&str, &str)],
    asking: &Asking,
) -> Result<Granted, Fault> {
    let mut answer = ask(web, endpoint, form, asking, None).await?;
    let wants_nonce = answer.body.get("error").is_some_and(|error| error == "use_dpop_nonce");
    if let Some(nonce) = answer.nonce.take().filter(|_| wants_nonce && !answer.status.is_success()) {
        answer = ask(web, endpoint, form, asking, Some(&nonce)).await?;
    }
    if !answer.status.is_success() {
        return Err(refusal(endpoint, &answer));
    }
    granted(endpoint, &answer.body, asking)
}

async fn ask(
    web: &Web,
    endpoint: &Url,
    form: &[(&str, &str)],
    asking: &Asking,
    nonce: Option<&str>,
) -> Result<Document, Fault> {
    let mut form = form.to_vec();
    let mut request = web.of(endpoint).post(endpoint.clone()).header("accept", "application/json");
    match asking {
        Asking::Envelope => form.push(("binding_alg", BINDING_ALG)),
        Asking::Dpop(key) => {
            let unix_seconds = i64::try_from(now_ms() / 1000).unwrap_or(i64::MAX);
            let proof = key.prove(&Proven { method: "POST", url: endpoint, with: None, nonce, unix_seconds })?;
            request = request.header("dpop", proof);
        }
        Asking::Nothing => {}
    }
    web.document(endpoint, request.form(&form)).await
}

fn granted(endpoint: &Url, body: &Value, asking: &Asking) -> Result<Granted, Fault> {
    let at = |what| Fault::answer(endpoint, what);
    let secret = |name: &str| {
        let text = body.get(name).and_then(Value::as_str).filter(|text| is_token(text));
        text.map(|text| Zeroizing::new(text.to_owned()))
    };
    let access_token = secret("access_token").ok_or(at("the answer has no access token"))?;
    let kind = body.get("token_type").and_then(Value::as_str).unwrap_or_default();
    let is_bearer = kind.eq_ignore_ascii_case("bearer");
    let is_proven = matches!(asking, Asking::Dpop(_)) && kind.eq_ignore_ascii_case("dpop");
    if !is_bearer && !is_proven {
        return Err(at("the token is of a kind that was not asked for"));
    }
    let life = body.get("expires_in").and_then(Value::as_u64).map_or(LIFE_ASSUMED, Duration::from_secs);
    let envelope = (body.get("binding_alg").and_then(Value::as_str), body.get("binding_key"));
    let bound = match (asking, envelope) {
        (Asking::Dpop(key), (None, None)) if is_proven => Bound::Dpop(Arc::clone(key)),
        (Asking::Envelope | Asking::Dpop(_) | Asking::Nothing, (None, None)) => Bound::Nothing,
        (Asking::Envelope, (Some(BINDING_ALG), Some(Value::String(key)))) => {
            Bound::Envelope(BindingKey::from_base64url(key).ok_or(at("the binding key is not one"))?)
        }
        _ => return Err(at("the token is bound in a way that was not asked for")),
    };
    let scope = body.get("scope").and_then(Value::as_str).filter(|scope| scope.len() <= SCOPE_BYTES_MAX);
    let (scope, refresh_token) = (scope.map(scope::of_names), secret("refresh_token"));
    Ok(Granted { access_token, life: life.min(LIFE_MAX), bound, scope, refresh_token })
}

/// RFC 6750 §2.1: what may stand in a header, and no more.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.len() <= TOKEN_BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Registers this program (RFC 7591); gives its `client_id`.
pub(crate) async fn register(web: &Web, endpoint: &Url, redirect_uri: &str) -> Result<String, Fault> {
    let metadata = json!({
        "client_name": "Bailiwick Connect",
        "redirect_uris": [redirect_uri],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "none",
        "application_type": "native",
    });
    let answer = web.document(endpoint, web.of(endpoint).post(endpoint.clone()).json(&metadata)).await?;
    if !answer.status.is_success() {
        return Err(refusal(endpoint, &answer));
    }
    let id = answer.body.get("client_id").and_then(Value::as_str);
    let id =
        id.filter(|id| !id.is_empty() && id.len() <= CLIENT_ID_BYTES_MAX && id.bytes().all(|b| b.is_ascii_graphic()));
    id.map(str::to_owned).ok_or(Fault::answer(endpoint, "the registration names no client"))
}

/// Gives a refresh token back (RFC 7009), and with it the consent.
pub(crate) async fn revoke(web: &Web, endpoint: &Url, client_id: &str, token: &str) -> Result<(), Fault> {
    let form = [("token", token), ("token_type_hint", "refresh_token"), ("client_id", client_id)];
    let answer = web.document(endpoint, web.of(endpoint).post(endpoint.clone()).form(&form)).await?;
    if answer.status.is_success() { Ok(()) } else { Err(refusal(endpoint, &answer)) }
}

fn refusal(endpoint: &Url, answer: &Document) -> Fault {
    let text = |name: &str| printable(answer.body.get(name).and_then(Value::as_str).unwrap_or_default());
    match text("error") {
        // Whatever it says beside: nothing was decided, so nothing may be forgotten for it.
        _ if answer.status.is_server_error() || answer.status == StatusCode::TOO_MANY_REQUESTS => {
            Fault::unreachable(endpoint)
        }
        word if word.is_empty() => Fault::answer(endpoint, "it refuses without saying why"),
        word if matches!(word.as_str(), "temporarily_unavailable" | "server_error" | "slow_down") => {
            Fault::unreachable(endpoint)
        }
        word => Fault::Refused { word, said: text("error_description") },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::possession::DpopKey;

    fn read(body: &Value) -> Result<Granted, Fault> {
        read_as(body, &Asking::Envelope)
    }

    fn read_as(body: &Value, asking: &Asking) -> Result<Granted, Fault> {
        granted(&Url::parse("https://login.example/t").unwrap(), body, asking)
    }

    #[test]
    fn a_server_in_trouble_refuses_nothing() {
        let said = |status: u16, word: &str| {
            let status = StatusCode::from_u16(status).unwrap();
            let answer = Document { status, body: json!({"error": word}), nonce: None };
            refusal(&Url::parse("https://login.example/t").unwrap(), &answer)
        };
        for (status, word) in [(503, "invalid_grant"), (500, ""), (429, "invalid_grant"), (400, "server_error")] {
            assert!(matches!(said(status, word), Fault::Unreachable { .. }), "{status} {word}");
        }
        assert!(matches!(said(400, "invalid_grant"), Fault::Refused { .. }));
        assert!(matches!(said(400, ""), Fault::Answer { .. }));
    }

    #[test]
    fn an_answer_is_a_token_only_in_the_right_shape() {
        let bearer = json!({"access_token": "a.b.c", "token_type": "bearer", "refresh_token": "r", "expires_in": 600});
        let granted = read(&bearer).unwrap();
        assert_eq!((granted.access_token.as_str(), granted.life), ("a.b.c", Duration::from_secs(600)));
        assert!(matches!(granted.bound, Bound::Nothing) && granted.refresh_token.is_some_and(|token| *token == "r"));
        let mut bound = bearer;
        bound["binding_alg"] = json!("aes-256-gcm");
        bound["binding_key"] = json!("A".repeat(43));
        assert!(matches!(read(&bound).unwrap().bound, Bound::Envelope(_)));
        let key = Arc::new(DpopKey::read(&DpopKey::generate().unwrap()).unwrap());
        let dpop = json!({"access_token": "a", "token_type": "DPoP"});
        let unasked = [Asking::Dpop(key), Asking::Nothing];
        assert!(unasked.iter().all(|asking| read_as(&bound, asking).is_err()), "a key that nobody asked for");
        assert!(matches!(read_as(&dpop, &unasked[0]).unwrap().bound, Bound::Dpop(_)));
        assert!(read_as(&dpop, &Asking::Nothing).is_err());
        for (name, value) in [
            ("access_token", json!("with space")),
            ("access_token", json!("line\nbreak")),
            ("access_token", Value::Null),
            ("token_type", json!("DPoP")),
            ("token_type", Value::Null),
            ("binding_key", json!("short")),
            ("binding_key", Value::Null),
            ("binding_alg", json!("none")),
            ("binding_alg", Value::Null),
        ] {
            let mut bad = bound.clone();
            bad[name] = value;
            assert!(read(&bad).is_err(), "{name}: {bad}");
        }
    }
}

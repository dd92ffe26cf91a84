//! The token endpoint, the registration endpoint and the revocation endpoint, as a public client asks them.
//!
//! Called by `sign_in` and `credentials`. Every token request asks for a bound token; a server that knows nothing of
//! that gives a bearer token. Invariant: an answer of the wrong shape gives no token. Specifications: OAuth 2.1 §3.2;
//! RFC 7009, 7591, 8707; `docs/security/binding.md`.

use std::time::Duration;

use bailiwick_token::binding::{BINDING_ALG, BindingKey};
use http::StatusCode;
use serde_json::{Value, json};
use url::Url;
use zeroize::Zeroizing;

use crate::{
    fault::{Fault, printable},
    web::{Document, Web},
};

/// Longest `client_id` that is taken from a registration.
const CLIENT_ID_BYTES_MAX: usize = 512;
/// Longest token.
const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// Of a token whose answer does not say how long it lives.
const LIFE_ASSUMED: Duration = Duration::from_secs(300);
/// What servers may say.
const LIFE_MAX: Duration = Duration::from_secs(24 * 3600);

/// What a token request brought.
pub(crate) struct Granted {
    pub(crate) access_token: Zeroizing<String>,
    pub(crate) life: Duration,
    /// Where the server binds.
    pub(crate) binding: Option<BindingKey>,
    /// A new one; where absent, the one before goes on.
    pub(crate) refresh_token: Option<Zeroizing<String>>,
}

/// Sends a token request.
pub(crate) async fn request(web: &Web, endpoint: &Url, form: &[(&str, &str)]) -> Result<Granted, Fault> {
    let mut whole = form.to_vec();
    whole.push(("binding_alg", BINDING_ALG));
    let request = web.of(endpoint).post(endpoint.clone()).header("accept", "application/json").form(&whole);
    let answer = web.document(endpoint, request).await?;
    if !answer.status.is_success() {
        return Err(refusal(endpoint, &answer));
    }
    granted(endpoint, &answer.body)
}

fn granted(endpoint: &Url, body: &Value) -> Result<Granted, Fault> {
    let at = |what| Fault::answer(endpoint, what);
    let secret = |name: &str| {
        let text = body.get(name).and_then(Value::as_str).filter(|text| is_token(text));
        text.map(|text| Zeroizing::new(text.to_owned()))
    };
    let access_token = secret("access_token").ok_or(at("the answer has no access token"))?;
    let kind = body.get("token_type").and_then(Value::as_str).unwrap_or_default();
    if !kind.eq_ignore_ascii_case("bearer") {
        return Err(at("the token is of a kind that was not asked for"));
    }
    let life = body.get("expires_in").and_then(Value::as_u64).map_or(LIFE_ASSUMED, Duration::from_secs);
    let binding = match (body.get("binding_alg").and_then(Value::as_str), body.get("binding_key")) {
        (None, None) => None,
        (Some(BINDING_ALG), Some(Value::String(key))) => {
            Some(BindingKey::from_base64url(key).ok_or(at("the binding key is not one"))?)
        }
        _ => return Err(at("the token is bound in a way that was not asked for")),
    };
    Ok(Granted { access_token, life: life.min(LIFE_MAX), binding, refresh_token: secret("refresh_token") })
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

    fn read(body: &Value) -> Result<Granted, Fault> {
        granted(&Url::parse("https://login.example/t").unwrap(), body)
    }

    #[test]
    fn a_server_in_trouble_refuses_nothing() {
        let said = |status: u16, word: &str| {
            let status = StatusCode::from_u16(status).unwrap();
            refusal(&Url::parse("https://login.example/t").unwrap(), &Document { status, body: json!({"error": word}) })
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
        assert!(granted.binding.is_none() && granted.refresh_token.is_some_and(|token| *token == "r"));
        let mut bound = bearer;
        bound["binding_alg"] = json!("aes-256-gcm");
        bound["binding_key"] = json!("A".repeat(43));
        assert!(read(&bound).unwrap().binding.is_some());
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

//! Tokens that are bound to a key, as clients get them: by every grant, in both ways; and what a grant that had them gives
//! no more. Other people's clients are in `bound::stock`, attacks in `bound::attacks`, keys in `bound::rotation`.
//!
//! Specification: RFC 9449 §5, §8, §10; `docs/security/binding.md`. What data planes demand of such tokens: `tests/bound`.

mod attacks;
mod grants;
mod rotation;
mod stock;

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{Answer, prover::Prover};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::{CLIENT, REDIRECT, VERIFIER, World, text};

const ENVELOPE: (&str, &str) = ("binding_alg", "aes-256-gcm");

impl World {
    fn token_url(&self) -> String {
        format!("{}/oauth/token", self.issuer)
    }

    /// A request for a token with such proofs.
    async fn proving(&self, proofs: &[&str], form: &[(&str, &str)]) -> Result<Answer> {
        let request = self.http.post(self.token_url()).form(form);
        Answer::to(proofs.iter().fold(request, |request, proof| request.header("DPoP", *proof))).await
    }

    /// A nonce, as a client learns one.
    async fn nonce(&self) -> Result<String> {
        let proof = Prover::new()?.proof("POST", &self.token_url(), None)?;
        let form = [("grant_type", "refresh_token"), ("client_id", CLIENT), ("refresh_token", "none")];
        let answer = self.proving(&[&proof], &form).await?;
        ensure!(answer.status == 400 && answer.body["error"] == "use_dpop_nonce", "{}", answer.text);
        nonce(&answer)
    }

    /// The same, as an honest client asks, once it has a nonce.
    async fn with_key(&self, prover: &Prover, form: &[(&str, &str)]) -> Result<Answer> {
        let proof = prover.proof("POST", &self.token_url(), Some(&self.nonce().await?))?;
        self.proving(&[&proof], form).await
    }

    /// What redeems a code.
    fn redeeming<'a>(&'a self, client: &'a str, code: &'a str) -> Vec<(&'a str, &'a str)> {
        vec![
            ("grant_type", "authorization_code"),
            ("client_id", client),
            ("code", code),
            ("code_verifier", VERIFIER),
            ("redirect_uri", REDIRECT),
            ("resource", &self.resource),
        ]
    }
}

fn nonce(answer: &Answer) -> Result<String> {
    let nonce = answer.headers.get("dpop-nonce").context("no DPoP-Nonce")?;
    Ok(nonce.to_str()?.to_owned())
}

fn refreshing<'a>(client: &'a str, token: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![("grant_type", "refresh_token"), ("client_id", client), ("refresh_token", token)]
}

fn more<'a>(mut form: Vec<(&'a str, &'a str)>, parameters: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    form.extend(parameters);
    form
}

fn claims(tokens: &Value) -> Result<Value> {
    let payload = text(tokens, "access_token").split('.').nth(1).context("no JWT")?;
    Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload)?)?)
}

fn is_refused(answer: &Answer, error: &str, what: &str) {
    assert_eq!((answer.status.as_u16(), text(&answer.body, "error")), (400, error), "{what}: {}", answer.text);
    assert!(answer.body.get("access_token").is_none(), "{what}");
}

/// That an answer has a token for a client's own key.
fn is_of_key(answer: &Answer, prover: &Prover, what: &str) -> Result<Value> {
    ensure!(answer.status == 200, "{what}: {}: {}", answer.status, answer.text);
    let (tokens, said) = (&answer.body, claims(&answer.body)?);
    ensure!(text(tokens, "token_type") == "DPoP", "{what}: {tokens}");
    ensure!(said["cnf"] == json!({"jkt": prover.jkt()}), "{what}: {said}");
    ensure!(tokens.get("binding_key").is_none() && said.get("binding").is_none(), "{what}: {tokens}");
    nonce(answer).with_context(|| what.to_owned())?;
    Ok(tokens.clone())
}

/// That an answer has a token with a key of its own; the key.
fn is_with_key(answer: &Answer, what: &str) -> Result<String> {
    ensure!(answer.status == 200, "{what}: {}: {}", answer.status, answer.text);
    let (tokens, said) = (&answer.body, claims(&answer.body)?);
    ensure!(text(tokens, "token_type") == "Bearer" && tokens["binding_alg"] == "aes-256-gcm", "{what}: {tokens}");
    ensure!(said["binding_alg"] == "aes-256-gcm" && said.get("cnf").is_none(), "{what}: {said}");
    let key = text(tokens, "binding_key").to_owned();
    ensure!(URL_SAFE_NO_PAD.decode(&key)?.len() == 32, "{what}: {key}");
    ensure!(!text(tokens, "access_token").contains(&key) && !said.to_string().contains(&key), "{what}");
    Ok(key)
}

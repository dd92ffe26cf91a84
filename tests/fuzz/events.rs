//! Security event tokens, from their signature to the wish that they are (RFC 8417, OpenID CAEP 1.0).
//!
//! Promised: what counts as a signal was signed by the transmitter, says what an ordinary reader finds in it, once, and
//! is nothing else that anybody signs here; the person it is about is one of the provider's, and is named by it; what
//! goes on record of it is bounded; told once more it is the same signal.

use std::sync::OnceLock;

use bailiwick_control_plane_core::{
    resource::{IdentityProviderSpec, SignalsSpec},
    signal::{CLAIMS_MAX, Delivery, TEXT_BYTES_MAX},
};
use bailiwick_token::assertion::{
    AssertionAlgorithm, AssertionKeys, EventRule, Rule, SecurityEvent, TypRule, replay_key, verify, verify_event,
    verify_workload,
};
use serde_json::{Map, Value, json};

use super::reading;
use crate::{
    assertions::ordinary,
    mutate::Random,
    signed::{self, Signer, signed},
    targets::{Broken, Checked, promise},
};

const NOW: i64 = 1_800_000_000;
const AGE_MAX: i64 = 600;
const SKEW: i64 = 30;
const ISSUER: &str = "https://ssf.acme.example";
const AUDIENCE: &str = "https://id.example";
const DOMAIN: &str = "acme.example";

const HEADERS: [&str; 4] = [
    r#"{"alg":"EdDSA","typ":"secevent+jwt","kid":"s"}"#,
    r#"{"typ":"application/secevent+jwt","alg":"EdDSA"}"#,
    r#"{"alg":"EdDSA","typ":"JWT","kid":"s"}"#,
    r#"{"alg":"none","typ":"secevent+jwt","jwk":{"kty":"OKP","crv":"Ed25519","x":"@own"}}"#,
];
const CLAIMS: [&str; 8] = [
    r#"{"iss":"https://ssf.acme.example","aud":"https://id.example","iat":1800000000,"jti":"j","sub_id":{"format":"email","email":"jane@acme.example"},"events":{"https://schemas.openid.net/secevent/caep/event-type/session-revoked":{"event_timestamp":1799999999,"reason_admin":{"en":"left"}}}}"#,
    r#"{"iss":"https://ssf.acme.example","aud":["https://id.example"],"iat":1799999500,"toe":1799999400,"jti":"j","sub_id":{"format":"complex","user":{"format":"email","email":"jane@acme.example"},"session":{"format":"opaque","id":"s"}},"events":{"https://schemas.openid.net/secevent/caep/event-type/token-claims-change":{"claims":{"groups":["buyers","b"],"role":"x"}}}}"#,
    r#"{"iss":"https://ssf.acme.example","aud":"https://id.example","iat":1800000030,"jti":"j","sub_id":{"format":"aliases","identifiers":[{"format":"email","email":"jane@acme.example"},{"format":"iss_sub","iss":"https://acme.example","sub":"7"}]},"events":{"https://schemas.openid.net/secevent/risc/event-type/account-disabled":{"reason":"hijacking"}}}"#,
    r#"{"iss":"https://ssf.acme.example","aud":"https://id.example","iat":1800000000,"jti":"j","sub_id":{"format":"opaque","id":"stream"},"events":{"https://schemas.openid.net/secevent/ssf/event-type/verification":{"state":"abc"}}}"#,
    r#"{"iss":"https://ssf.acme.example","aud":"https://id.example","iat":1800000000,"jti":"j","sub_id":{"format":"email","email":"jane@evil.example"},"events":{"https://schemas.openid.net/secevent/caep/event-type/credential-change":{"change_type":"create"}}}"#,
    r#"{"iss":"https://ssf.acme.example","aud":"https://id.example","iat":1800000000.0,"jti":"j","sub":"jane","exp":1800000300,"events":{}}"#,
    r#"{"iss":"https://ssf.acme.example","aud":"https://id.example","iat":1800000000,"jti":"j","sub_id":{"format":"email","email":"jane@acme.example"},"events":{"https://schemas.openid.net/secevent/caep/event-type/risk-level-change":{"current_level":"LOW","event_timestamp":1e99}}}"#,
    r#"{"iss":"https://ssf.acme.example","aud":"https://id.example","iat":1800000000,"jti":"j","sub_id":{"format":"email","email":"jane@acme.example"},"events":{"https://vendor.example/event":{},"https://vendor.example/other":{}}}"#,
];

/// A provider that sends signals, and its keys.
struct Provider {
    spec: IdentityProviderSpec,
    signals: SignalsSpec,
    own: AssertionKeys,
    other: AssertionKeys,
}

fn provider() -> Result<&'static Provider, Broken> {
    static PROVIDER: OnceLock<Option<Provider>> = OnceLock::new();
    let made = || {
        let signals = json!({"issuer": ISSUER, "audience": AUDIENCE, "age_max": "10m", "push": {"secrets_sha256": []}});
        let people = json!({"user": "email", "domains": [DOMAIN], "groups": {"claim": "groups"}});
        let spec = json!({"issuer": "https://acme.example", "people": people, "signals": signals});
        let spec: IdentityProviderSpec = serde_json::from_value(spec).ok()?;
        let keys = |signer: Signer| {
            let key = json!({"kty": "OKP", "crv": "Ed25519", "kid": "s", "x": signer.x().ok()?});
            AssertionKeys::from_jwks(json!({"keys": [key]}).to_string().as_bytes(), &AssertionAlgorithm::ALL).ok()
        };
        let signals = spec.signals.clone()?;
        Some(Provider { spec, signals, own: keys(Signer::Own)?, other: keys(Signer::Other)? })
    };
    PROVIDER.get_or_init(made).as_ref().ok_or_else(|| Broken("no provider to try with".to_owned()))
}

pub(crate) fn one(random: &mut Random) -> Vec<u8> {
    signed::one(random, &HEADERS, &CLAIMS)
}

pub(crate) fn check(input: &[u8]) -> Checked {
    let (made, provider) = (signed(input)?, provider()?);
    let rule = EventRule { issuer: ISSUER, audience: AUDIENCE, age_max: AGE_MAX, skew: SKEW };
    if made.by != Some(Signer::Other) {
        promise(verify_event(&made.jwt, &provider.other, &rule, NOW).is_err(), "another's key verifies it")?;
    }
    // Whatever comes, it can be sorted.
    let order = reading::order(&made.jwt);
    let Ok(said) = verify_event(&made.jwt, &provider.own, &rule, NOW) else { return Ok(false) };
    promise(made.by == Some(Signer::Own), "whoever holds the key did not sign it")?;
    says(&made.claims, &said)?;
    promise(order.1 == said.iat, "it is sorted by another time than its own")?;
    for typ in [TypRule::Plain, TypRule::Workload, TypRule::Exactly("at+jwt")] {
        let rule =
            Rule { typ, issuer: ISSUER, audiences: &[AUDIENCE], lifetime_max: AGE_MAX, skew: SKEW, require: &[] };
        let is_other = verify(&made.jwt, &provider.own, &rule, NOW).is_ok()
            || verify_workload(&made.jwt, &provider.own, &rule, NOW).is_ok();
        promise(!is_other, "it is of two kinds")?;
    }
    for spoilt in signed::spoilt(&made.jwt) {
        promise(verify_event(&spoilt, &provider.own, &rule, NOW).is_err(), "it goes on to count when it is changed")?;
    }
    let wish = |said: &SecurityEvent| reading::wish("acme", &provider.spec, &provider.signals, said, Delivery::Push);
    let Some(wish_of_it) = wish(&said) else { return Ok(false) };
    promise(wish(&said).as_ref() == Some(&wish_of_it), "told once more it is another signal")?;
    let texts = [&wish_of_it.subject, &wish_of_it.reason, &wish_of_it.state];
    promise(texts.iter().all(|text| text.len() <= TEXT_BYTES_MAX), "a text on record is too long")?;
    promise(wish_of_it.claims.len() <= CLAIMS_MAX, "too many claims on record")?;
    promise(wish_of_it.claims.iter().all(|name| name.len() <= TEXT_BYTES_MAX), "a claim's name is too long")?;
    promise(wish_of_it.used.key == hex::encode(replay_key(ISSUER, "", &said.jti)), "it can be used twice")?;
    let until = u64::try_from(said.iat + AGE_MAX).unwrap_or_default();
    promise(wish_of_it.used.until == until, "it is forgotten before it is too old, or kept for longer")?;
    if let Some(user) = &wish_of_it.user {
        let is_theirs = user.rsplit_once('@').is_some_and(|(_, domain)| domain.eq_ignore_ascii_case(DOMAIN));
        promise(is_theirs && !wish_of_it.event.is_of_stream(), "about somebody of another company, or nobody")?;
        promise(is_named(&Value::Object(said.subject), user), "about somebody it does not name")?;
    }
    Ok(true)
}

/// What is believed is what an ordinary reader finds.
fn says(claims: &[u8], said: &SecurityEvent) -> Result<(), Broken> {
    let claims = ordinary(claims)?;
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let time = |name: &str| claims.get(name).and_then(Value::as_i64);
    promise(text("iss") == Some(ISSUER) && said.iss == ISSUER, "from somebody else")?;
    let audiences = [Some(&json!(AUDIENCE)), Some(&json!([AUDIENCE]))];
    promise(audiences.contains(&claims.get("aud")), "for somebody else")?;
    promise(!claims.contains_key("sub") && !claims.contains_key("exp"), "it could be taken for something else")?;
    promise(text("jti") == Some(&said.jti) && time("iat") == Some(said.iat), "of another id, or time")?;
    promise(time("toe") == said.toe, "of another event's time")?;
    promise((NOW - AGE_MAX..=NOW + SKEW).contains(&said.iat), "it is too old, or from the future")?;
    let events = Map::from_iter([(said.event_type.clone(), Value::Object(said.event.clone()))]);
    promise(claims.get("events") == Some(&Value::Object(events)), "another event")?;
    promise(claims.get("sub_id") == Some(&Value::Object(said.subject.clone())), "about another subject")
}

/// Whether the text is a value anywhere in there.
fn is_named(value: &Value, wanted: &str) -> bool {
    match value {
        Value::String(text) => text == wanted,
        Value::Array(items) => items.iter().any(|item| is_named(item, wanted)),
        Value::Object(members) => members.values().any(|member| is_named(member, wanted)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

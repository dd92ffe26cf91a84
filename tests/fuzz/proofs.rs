//! Proofs that come with requests, and the context that goes with those to servers: DPoP, `Bailiwick-Proof`,
//! `Bailiwick-Context`.
//!
//! Promised: what is taken for a proof is, to the byte, what the holder of the key writes for that request; it says
//! what an ordinary reader finds in it, once; and it is no proof for another request, of another key, nor if anything
//! of it is changed.

use aws_lc_rs::digest::{SHA256, digest};
use bailiwick_token::{
    Thumbprint, TokenHash, VerifyingKeys,
    binding::BindingKey,
    context::{self, ContextError, ContextKey, ExpectContext},
    dpop::{DPOP_BYTES_MAX, DPOP_IAT_SKEW_SECONDS, DpopProof, DpopRequest},
    proof::{Proof, Proven, prove},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use url::Url;

use crate::{
    assertions::ordinary,
    mutate::{Random, changed},
    signed::{self, SEED, Signed, Signer, signed},
    targets::{Broken, Checked, from, promise},
};

const NOW: i64 = 1_800_000_000;
const URL: &str = "https://mcp.example/mcp/finance";
const TOKEN: &str = "a token";
const BODY: &[u8] = b"{}";

const DPOP_HEADERS: [&str; 6] = [
    r#"{"typ":"dpop+jwt","alg":"EdDSA","jwk":{"kty":"OKP","crv":"Ed25519","x":"@own"}}"#,
    r#"{"jwk":{"x":"@own","kty":"OKP","crv":"Ed25519","kid":"k","use":"sig"},"alg":"Ed25519","typ":"dpop+jwt"}"#,
    r#"{"typ":"dpop+jwt","alg":"EdDSA","jwk":{"kty":"OKP","crv":"Ed25519","x":"@other"}}"#,
    r#"{"typ":"dpop+jwt","alg":"EdDSA","jwk":{"kty":"OKP","crv":"Ed25519","x":"@own","d":"AA"}}"#,
    r#"{"typ":"dpop+jwt","alg":"none","jwk":{"kty":"OKP","crv":"Ed25519","x":"@own"}}"#,
    r#"{"typ":"dpop+jwt","alg":"ES256","jwk":{"kty":"EC","crv":"P-256","x":"@own","y":"@own"},"kid":"k"}"#,
];
const DPOP_CLAIMS: [&str; 5] = [
    r#"{"jti":"j","htm":"POST","htu":"https://mcp.example/mcp/finance","iat":1800000000,"ath":"@ath","nonce":"n"}"#,
    r#"{"jti":"j","htm":"POST","htu":"HTTPS://MCP.example:443/mcp/./x/../%66inance?q#f","iat":1799999700,"ath":"@ath"}"#,
    r#"{"jti":"j","htm":"POST","htu":"https://mcp.example/mcp/finance","iat":1800000300,"ath":"@ath","content_digest":"sha-256=:RBNvo1WzZ4oRRq0W9+hknpT7T8If536DEMBg9hyq/4o=:"}"#,
    r#"{"jti":"j","htm":"GET","htu":"https://mcp.example/mcp/finance","iat":1800000000,"ath":"@ath"}"#,
    r#"{"jti":"j","htm":"POST","htu":"https://mcp.example\\@evil.example/mcp/finance","iat":1800000000.5,"ath":"@ath"}"#,
];

pub(crate) fn a_dpop_proof(random: &mut Random) -> Vec<u8> {
    let text = String::from_utf8_lossy(&signed::one(random, &DPOP_HEADERS, &DPOP_CLAIMS)).into_owned();
    text.replace("@ath", &sha(TOKEN.as_bytes())).into_bytes()
}

fn sha(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, bytes))
}

fn thumbprint(signer: Signer) -> Result<Thumbprint, Broken> {
    let members = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, signer.x()?);
    Thumbprint::parse(&sha(members.as_bytes())).ok_or_else(|| Broken("no thumbprint".to_owned()))
}

pub(crate) fn dpop(input: &[u8]) -> Checked {
    let made = signed(input)?;
    let request = DpopRequest { method: "POST", url: URL, access_token: Some(TOKEN), body: BODY, key: None };
    let ask = |jwt: &str, request: &DpopRequest<'_>| DpopProof::verify(jwt, request, NOW);
    let Ok(proof) = ask(&made.jwt, &request) else { return Ok(false) };
    let Some(signer) = made.by else { return Err(Broken("nobody signed it".to_owned())) };
    promise(made.jwt.len() <= DPOP_BYTES_MAX, "it is too long")?;
    promise(DpopProof::verify_head(&made.jwt, &request, NOW).as_ref() == Ok(&proof), "before its body it is another")?;
    says(&made, &proof, signer)?;
    let own = thumbprint(signer)?;
    let other = thumbprint(if signer == Signer::Own { Signer::Other } else { Signer::Own })?;
    promise(ask(&made.jwt, &DpopRequest { key: Some(&own), ..request }).is_ok(), "it is not of its own key")?;
    for (what, elsewhere) in [
        ("of another key", DpopRequest { key: Some(&other), ..request }),
        ("of another method", DpopRequest { method: "GET", ..request }),
        ("at another URL", DpopRequest { url: "https://mcp.example/mcp/hr", ..request }),
        ("at another host", DpopRequest { url: "https://other.example/mcp/finance", ..request }),
        ("with another token", DpopRequest { access_token: Some("another"), ..request }),
        ("with no token", DpopRequest { access_token: None, ..request }),
    ] {
        promise(ask(&made.jwt, &elsewhere).is_err(), &format!("it is also {what}"))?;
    }
    let of_other_body = ask(&made.jwt, &DpopRequest { body: b"[]", ..request });
    promise(of_other_body.is_err() == proof.content_digest.is_some(), "it is of whatever body, or of none")?;
    for spoilt in signed::spoilt(&made.jwt) {
        promise(ask(&spoilt, &request).is_err(), "it goes on to count when it is changed")?;
    }
    Ok(true)
}

/// What a proof says is what an ordinary reader finds in it.
fn says(made: &Signed, proof: &DpopProof, signer: Signer) -> Result<(), Broken> {
    let (header, claims) = (ordinary(&made.header)?, ordinary(&made.claims)?);
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    promise(header.len() == 3 && header.get("typ") == Some(&json!("dpop+jwt")), "its header says something else")?;
    let alg = header.get("alg").and_then(Value::as_str).unwrap_or_default();
    promise(["EdDSA", "Ed25519"].contains(&alg), "by another algorithm")?;
    let jwk = header.get("jwk").and_then(Value::as_object).cloned().unwrap_or_default();
    promise(jwk.get("x") == Some(&json!(signer.x()?)) && !jwk.contains_key("d"), "with another key than it shows")?;
    promise(Thumbprint::parse(&proof.jkt) == Some(thumbprint(signer)?), "another thumbprint")?;
    promise(text("jti") == Some(&proof.jti) && text("nonce") == proof.nonce.as_deref(), "another id, or nonce")?;
    promise(text("htm") == Some("POST") && text("ath") == Some(&sha(TOKEN.as_bytes())), "for another request")?;
    let iat = claims.get("iat").and_then(Value::as_i64);
    promise(iat == Some(proof.iat) && (proof.iat - NOW).abs() <= DPOP_IAT_SKEW_SECONDS, "of another time")?;
    promise(text("htu") == Some(&proof.htu), "another URL than it says")?;
    // The crate takes `x:` for a drive of a file, whose dots stay, whatever the scheme; the standard only in files.
    let is_drive = |segment: &str| segment.len() == 2 && segment.ends_with([':', '|']);
    let (there, here) = (browsers(&proof.htu)?, browsers(URL)?);
    promise(there == here || proof.htu.split('/').any(is_drive), "for a URL that others read otherwise")?;
    promise(claims.contains_key("content_digest") == proof.content_digest.is_some(), "a digest is lost, or made up")
}

/// Scheme, host, port, and the path without escapes.
fn browsers(url: &str) -> Result<(String, Option<String>, Option<u16>, String), Broken> {
    let url = Url::parse(url).map_err(|error| Broken(format!("others do not read the URL: {error}")))?;
    promise(url.username().is_empty() && url.password().is_none(), "there is a user in the URL")?;
    let path = form_urlencoded::parse(url.path().replace('+', "%2B").as_bytes()).map(|(name, _)| name).collect();
    Ok((url.scheme().to_owned(), url.host_str().map(str::to_owned), url.port_or_known_default(), path))
}

/// Whether all that was read stands there.
fn holds(said: &Value, read: &Value) -> bool {
    match (said, read) {
        (Value::Object(said), Value::Object(read)) => {
            read.iter().all(|(name, value)| said.get(name).is_some_and(|said| holds(said, value)))
        }
        (Value::Array(said), Value::Array(read)) => {
            said.len() == read.len() && said.iter().zip(read).all(|(said, read)| holds(said, read))
        }
        (said, read) => said == read,
    }
}

const PROVEN: [(&str, &str); 2] = [("POST", "/mcp/finance"), ("GET", "/mcp/hr")];
const KEYS: [u8; 2] = [1, 2];

fn proven<'a>(token: &'a TokenHash, body: &'a [u8; 32], which: usize) -> Proven<'a> {
    let (method, path) = PROVEN.get(which).copied().unwrap_or_default();
    Proven { token, method, path, body }
}

/// One that the holder of the first key wrote, or nearly.
pub(crate) fn a_proof(random: &mut Random) -> Vec<u8> {
    let (token, body) = (TokenHash::of(TOKEN), [5; 32]);
    let times = [1_800_000_000_123, 0, 7, 99_999_999_999_999];
    let time = random.pick(&times).copied().unwrap_or_default();
    let mut nonce = [0; 12];
    nonce.fill(random.next().to_le_bytes()[0]);
    let made = prove(&BindingKey::new([KEYS[0]; 32]), &proven(&token, &body, 0), time, nonce);
    let made = made.map(|proof| proof.to_string()).unwrap_or_default();
    let others = ["v1.0", "v2.", ".", "v1.00.AAAAAAAAAAAAAAAA.c_VxDoXUzQo6E4feGRIHCQ", "+1", "=", "AAAAAAAAAAAAAAAB"];
    if random.below(8) == 0 { from(random, &others) } else { changed(random, made.as_bytes(), &others) }
}

pub(crate) fn proof(input: &[u8]) -> Checked {
    let Ok(text) = std::str::from_utf8(input) else { return Ok(false) };
    let Some(read) = Proof::parse(text) else { return Ok(false) };
    promise(read.to_string() == text, "a proof has two ways to be written")?;
    let (token, other, body) = (TokenHash::of(TOKEN), TokenHash::of("another"), [5; 32]);
    let [key, stranger] = KEYS.map(|seed| BindingKey::new([seed; 32]));
    let here = proven(&token, &body, 0);
    let honest = prove(&key, &here, read.unix_ms, read.nonce);
    let honest = honest.ok_or_else(|| Broken("a time that is read cannot be written".to_owned()))?;
    promise(Proof::parse(&honest.to_string()) == Some(honest), "what is written is not read")?;
    promise(honest.is_of(&key, &here), "what the holder of the key writes does not count")?;
    let counts = read.is_of(&key, &here);
    promise(counts == (honest.to_string() == text), "it counts, and the holder of the key would have written another")?;
    if !counts {
        return Ok(false);
    }
    promise(!read.is_of(&stranger, &here), "it is of another key too")?;
    for elsewhere in [
        Proven { token: &other, ..here },
        Proven { body: &[6; 32], ..here },
        Proven { method: PROVEN[1].0, ..here },
        Proven { path: PROVEN[1].1, ..here },
    ] {
        promise(!read.is_of(&key, &elsewhere), "it is of another request too")?;
    }
    let behind = text.splitn(3, '.').nth(2).unwrap_or_default();
    let moved = Proof::parse(&format!("v1.{}.{behind}", read.unix_ms ^ 1));
    promise(moved.is_some_and(|moved| !moved.is_of(&key, &here)), "it is of another time too")?;
    Ok(true)
}

const CONTEXT_HEADERS: [&str; 5] = [
    r#"{"alg":"EdDSA","kid":"c","typ":"bailiwick-context+jwt"}"#,
    r#"{"typ":"bailiwick-context+jwt","alg":"EdDSA","kid":"c"}"#,
    r#"{"alg":"EdDSA","kid":"c","typ":"at+jwt"}"#,
    r#"{"alg":"EdDSA","kid":"d","typ":"bailiwick-context+jwt"}"#,
    r#"{"alg":"none","kid":"c","typ":"bailiwick-context+jwt","jwk":{"kty":"OKP","crv":"Ed25519","x":"@own"}}"#,
];
const CONTEXT_CLAIMS: [&str; 3] = [
    r#"{"iss":"https://id.example","aud":"https://ledger.example/mcp","iat":1800000000,"exp":1800000060,"jti":"r-1.1","sub":"jane","agent":"coder","client_id":"cli","project":"p","consent":"c-1","session":"s-1","virtual_server":"finance","server":"ledger","method":"tools/call","tool":"pay","tier":"transactional","decision":{"effect":"permit","policies":[{"name":"a","version":3}]},"revision":7,"digest":"ab","request_id":"r-1","binding":"bound","htm":"POST","target":"@target","body":"@body"}"#,
    r#"{"iss":"https://id.example","aud":"https://ledger.example/mcp","iat":1799999995,"exp":1800000001,"jti":"r-1.1","sub":"jane","agent":"coder","earlier_agents":["planner"],"client_id":"cli","project":"p","consent":"c-1","session":"s-1","virtual_server":"finance","server":"ledger","method":"resources/read","uri":"file:///a","tier":"retrieval","decision":{"effect":"permit","policies":[]},"revision":7,"digest":"ab","request_id":"r-1","binding":"not_required","htm":"POST","target":"@target","body":"@body","later":{"a":1}}"#,
    r#"{"iss":"https://id.example","aud":"https://ledger.example/mcp","iat":1800000000,"exp":1800009999,"jti":"r-1.1","sub":"jane"}"#,
];

pub(crate) fn a_context(random: &mut Random) -> Vec<u8> {
    let text = String::from_utf8_lossy(&signed::one(random, &CONTEXT_HEADERS, &CONTEXT_CLAIMS)).into_owned();
    text.replace("@target", &context::digest(b"/mcp?x=1")).replace("@body", &context::digest(BODY)).into_bytes()
}

pub(crate) fn check_context(input: &[u8]) -> Checked {
    let made = signed(input)?;
    let keys = |signer: Signer| {
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": signer.x()?, "alg": "EdDSA", "use": "sig", "kid": "c"});
        let keys = VerifyingKeys::from_jwks([("c", "EdDSA", jwk.to_string().as_str())]);
        keys.map_err(|error| Broken(format!("no keys to try with: {error}")))
    };
    let (keys, others) = (keys(Signer::Own)?, keys(Signer::Other)?);
    let expect = ExpectContext {
        issuer: "https://id.example",
        audience: "https://ledger.example/mcp",
        htm: "POST",
        target: "/mcp?x=1",
        body: BODY,
    };
    let ask = |jwt: &str, expect: &ExpectContext<'_>| context::verify(&keys, jwt, expect, NOW);
    if made.by != Some(Signer::Other) {
        promise(context::verify(&others, &made.jwt, &expect, NOW).is_err(), "another's key verifies it")?;
    }
    let Ok(claims) = ask(&made.jwt, &expect) else { return Ok(false) };
    promise(made.by == Some(Signer::Own), "whoever holds the key did not sign it")?;
    let header = ordinary(&made.header)?;
    let wanted = json!({"alg": "EdDSA", "kid": "c", "typ": context::TYPE});
    promise(Value::Object(header) == wanted, "its header says something else")?;
    // A member that is not known says whatever it says, also what an ordinary reader does not take: nobody reads it.
    if let Ok(said) = serde_json::from_slice::<Value>(&made.claims) {
        let read = serde_json::to_value(&claims).map_err(|error| Broken(error.to_string()))?;
        promise(holds(&said, &read), "it says something else than an ordinary reader finds")?;
    }
    promise(claims.exp - claims.iat <= context::LIFETIME_SECONDS, "it lasts too long")?;
    let again = ContextKey::from_seed("c".to_owned(), &SEED).map_err(|error| Broken(error.to_string()))?.sign(&claims);
    match again {
        Ok(again) => promise(ask(&again, &expect).as_ref() == Ok(&claims), "signed anew it says something else")?,
        Err(error) => promise(error == ContextError::TooLong, "what is believed cannot be signed")?,
    }
    for (what, elsewhere) in [
        ("of another issuer", ExpectContext { issuer: "https://id.example/", ..expect }),
        ("for another service", ExpectContext { audience: "https://ledger.example/", ..expect }),
        ("of another method", ExpectContext { htm: "GET", ..expect }),
        ("of another target", ExpectContext { target: "/mcp?x=2", ..expect }),
        ("of another body", ExpectContext { body: b"[]", ..expect }),
    ] {
        promise(ask(&made.jwt, &elsewhere).is_err(), &format!("it is also {what}"))?;
    }
    for spoilt in signed::spoilt(&made.jwt) {
        promise(ask(&spoilt, &expect).is_err(), "it goes on to count when it is changed")?;
    }
    Ok(true)
}

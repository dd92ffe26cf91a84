//! The published vectors of the proof: what `docs/reference/proof-vectors.json` says is what the code does.

use std::fs;

use anyhow::{Context, Result, bail};
use aws_lc_rs::digest;
use bailiwick_tests::deployment::repository;
use bailiwick_token::{
    TokenHash,
    binding::BindingKey,
    proof::{Proof, Proven, prove},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// Name, seed of key and nonce, token, time, method, path, body.
const CASES: [(&str, u8, &str, u64, &str, &str, &str); 5] = [
    ("a call", 1, "header.claims.signature", 1_800_000_000_123, "POST", "/mcp/finance", r#"{"jsonrpc":"2.0","id":1}"#),
    ("a stream: no body", 2, "header.claims.signature", 1_800_000_000_124, "GET", "/mcp/finance", ""),
    ("a resource without a path", 3, "t", 1, "POST", "", "{}"),
    ("text that is not ASCII", 4, "t", 1_800_000_000_125, "POST", "/a/mcp/finance", "{\"q\":\"\u{e4}\u{1f600}\"}"),
    ("the epoch, and zeros", 0, "token", 0, "POST", "/", ""),
];

/// What is no proof, whatever it is made with.
const MALFORMED: [&str; 6] = [
    "",
    "v2.1800000000123.AAAAAAAAAAAAAAAA.c_VxDoXUzQo6E4feGRIHCQ",
    "v1.01800000000123.AAAAAAAAAAAAAAAA.c_VxDoXUzQo6E4feGRIHCQ",
    "v1.1800000000123.AAAAAAAAAAAAAAA.c_VxDoXUzQo6E4feGRIHCQ",
    "v1.1800000000123.AAAAAAAAAAAAAAAA.c_VxDoXUzQo6E4feGRIHCQ==",
    "v1.1800000000123.AAAAAAAAAAAAAAAA.c_VxDoXUzQo6E4feGRIHCQ.x",
];

fn sha256(bytes: &[u8]) -> Result<[u8; 32]> {
    Ok(digest::digest(&digest::SHA256, bytes).as_ref().try_into()?)
}

fn vectors() -> Result<Value> {
    let mut vectors = Vec::new();
    for (name, seed, token, unix_ms, method, path, body) in CASES {
        let (key, nonce, hash) = ([seed; 32], [seed; 12], sha256(body.as_bytes())?);
        let of_token = TokenHash::of(token);
        let proven = Proven { token: &of_token, method, path, body: &hash };
        let proof = prove(&BindingKey::new(key), &proven, unix_ms, nonce).context("no proof")?;
        let about = [
            "bailiwick-proof-v1".to_owned(),
            hex::encode(of_token.as_bytes()),
            unix_ms.to_string(),
            method.to_owned(),
            path.to_owned(),
            hex::encode(hash),
        ];
        vectors.push(json!({
            "name": name, "key": URL_SAFE_NO_PAD.encode(key), "token": token, "unix_ms": unix_ms,
            "nonce": URL_SAFE_NO_PAD.encode(nonce), "method": method, "path": path, "body": body,
            "associated_data": about.join("\n"), "proof": proof.to_string(),
        }));
    }
    let about = "Proofs of possession, as docs/security/binding.md says: each `proof` is the value of the header \
                 Bailiwick-Proof for a request with this token, method, path and body (UTF-8), made at this time with this \
                 key and nonce (base64url).";
    Ok(json!({"about": about, "vectors": vectors, "malformed": MALFORMED}))
}

#[test]
fn the_published_vectors_are_what_the_code_does() -> Result<()> {
    for malformed in MALFORMED {
        assert!(Proof::parse(malformed).is_none(), "{malformed}");
    }
    let (path, expected) = (repository().join("docs/reference/proof-vectors.json"), vectors()?);
    let published = fs::read_to_string(&path).unwrap_or_default();
    if serde_json::from_str::<Value>(&published).ok().as_ref() != Some(&expected) {
        fs::write(&path, format!("{expected:#}\n"))?;
        bail!("docs/reference/proof-vectors.json was out of date; it is written anew: look at the difference");
    }
    Ok(())
}

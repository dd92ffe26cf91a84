//! DPoP from end to end: a token bound to a client's key by the token endpoint, proved at data planes.

use anyhow::{Context, Result, ensure};
use aws_lc_rs::{
    digest,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use bailiwick_tests::{Answer, McpClient, eventually, mcp::MODERN};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::{
    AGENT, JANE, World, call_of,
    clients::{SigningClient, sign},
    is_served, refusal,
    thieves::TOLD_WITHIN,
    unix_ms,
};

struct Key(Ed25519KeyPair);

impl Key {
    fn new() -> Result<Self> {
        Ok(Self(Ed25519KeyPair::generate()?))
    }

    /// Its thumbprint (RFC 7638).
    fn thumbprint(&self) -> String {
        let x = URL_SAFE_NO_PAD.encode(self.0.public_key().as_ref());
        let members = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
        URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, members.as_bytes()))
    }

    /// A proof for a POST to a URL, with a token and a nonce where there are any.
    fn proof(&self, url: &str, token: Option<&str>, nonce: Option<&str>) -> String {
        let x = URL_SAFE_NO_PAD.encode(self.0.public_key().as_ref());
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": x});
        let mut claims = json!({"jti": random(), "htm": "POST", "htu": url, "iat": unix_ms() / 1000});
        if let Some(token) = token {
            let hash = digest::digest(&digest::SHA256, token.as_bytes());
            claims["ath"] = URL_SAFE_NO_PAD.encode(hash).into();
        }
        if let Some(nonce) = nonce {
            claims["nonce"] = nonce.into();
        }
        sign(&self.0, &json!({"typ": "dpop+jwt", "alg": "EdDSA", "jwk": jwk}), &claims)
    }
}

fn random() -> String {
    let mut bytes = [0; 12];
    aws_lc_rs::rand::fill(&mut bytes).map(|()| hex::encode(bytes)).unwrap_or_default()
}

fn nonce_of(answer: &Answer) -> Option<String> {
    answer.headers.get("dpop-nonce")?.to_str().ok().map(str::to_owned)
}

/// A token that is bound to the key.
async fn token(client: &SigningClient, key: &Key) -> Result<String> {
    let mut nonce = None;
    let mut attempt = 0;
    eventually("a DPoP token", async || {
        attempt += 1;
        let assertion = client.assertion(&format!("d-{attempt}-{}", random()));
        let form = [
            ("grant_type", "client_credentials"),
            ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
            ("client_assertion", assertion.as_str()),
            ("resource", client.resource.as_str()),
        ];
        let proof = key.proof(&client.token_url, None, nonce.as_deref());
        let request = reqwest::Client::new().post(&client.token_url).header("dpop", proof).form(&form);
        let answer = Answer::to(request).await.ok()?;
        nonce = nonce_of(&answer).or(nonce.take());
        let is_dpop = answer.body["token_type"] == "DPoP";
        answer.body["access_token"].as_str().filter(|_| is_dpop).map(str::to_owned)
    })
    .await
}

async fn call(url: &str, token: &str, proof: &str) -> Result<Answer> {
    let client = McpClient { token: String::new(), url: url.to_owned(), ..McpClient::new("", "", "") };
    let authorization = format!("DPoP {token}");
    let headers = [
        ("mcp-protocol-version", MODERN),
        ("mcp-method", "tools/call"),
        ("mcp-name", "charge"),
        ("authorization", authorization.as_str()),
        ("dpop", proof),
    ];
    client.raw(call_of("charge"), &headers).await
}

#[tokio::test]
async fn a_dpop_token_is_its_key_s_and_its_proofs_count_once_at_all_nodes() -> Result<()> {
    let world = World::start().await?;
    let client = SigningClient::register(&world, "").await?;
    let (key, thief) = (Key::new()?, Key::new()?);
    let token = token(&client, &key).await?;
    let urls: Vec<String> = world.deployment.mcp.iter().map(|mcp| format!("{mcp}/shop")).collect();
    let (public, asked) = (client.resource.as_str(), urls[0].as_str());
    let first = eventually("the consent is known", async || {
        let answer = call(asked, &token, &key.proof(public, Some(&token), None)).await.ok()?;
        (answer.reason() == "proof_stale").then_some(answer)
    })
    .await?;
    let challenge = first.headers.get("www-authenticate").context("no challenge")?.to_str()?;
    ensure!(challenge.starts_with("DPoP error=\"use_dpop_nonce\""), "{challenge}");
    let nonce = nonce_of(&first).context("no nonce")?;
    let proof = key.proof(public, Some(&token), Some(&nonce));
    let answer = call(asked, &token, &proof).await?;
    ensure!(is_served(&answer), "{}", answer.text);
    let refused = |answer: Answer, expected: &str| {
        ensure!(refusal(&answer) == (401, expected), "{}", answer.text);
        Ok(())
    };
    refused(call(asked, &token, &proof).await?, "proof_replayed")?;
    let mut served = 1;
    let elsewhere = eventually("the other node hears of it in time", async || {
        let proof = key.proof(public, Some(&token), Some(&nonce));
        served += usize::from(is_served(&call(asked, &token, &proof).await.ok()?));
        tokio::time::sleep(TOLD_WITHIN).await;
        let answer = call(&urls[1], &token, &proof).await.ok()?;
        served += usize::from(is_served(&answer));
        (answer.reason() == "proof_replayed").then_some(answer)
    });
    refused(elsewhere.await?, "proof_replayed")?;
    // A nonce is good at every node.
    let there = call(&urls[1], &token, &key.proof(&urls[1], Some(&token), Some(&nonce))).await?;
    ensure!(is_served(&there), "by its own address: {}", there.text);
    refused(call(asked, &token, &thief.proof(public, Some(&token), Some(&nonce))).await?, "proof_invalid")?;
    refused(
        call(asked, &token, &key.proof("https://evil.example/mcp/shop", Some(&token), Some(&nonce))).await?,
        "proof_invalid",
    )?;
    // A proof for whoever listens at another port of this machine, or under another name of it, is none for this node.
    let port = asked.split(':').nth(2).and_then(|rest| rest.split('/').next()).context("a port")?;
    for place in [
        urls[1].clone(),
        "http://127.0.0.1:1/mcp/shop".to_owned(),
        "http://127.0.0.1/mcp/shop".to_owned(),
        format!("http://127.0.0.2:{port}/mcp/shop"),
        format!("{asked}/"),
    ] {
        let elsewhere = call(asked, &token, &key.proof(&place, Some(&token), Some(&nonce))).await?;
        ensure!(refusal(&elsewhere) == (401, "proof_invalid"), "{place}: {}", elsewhere.text);
    }
    refused(call(asked, &token, &key.proof(public, None, Some(&nonce))).await?, "proof_invalid")?;
    refused(call(asked, &token, &key.proof(public, Some("other"), Some(&nonce))).await?, "proof_invalid")?;
    let bearer = McpClient::new(&world.deployment.mcp[0], "shop", &token).call("charge", json!({})).await?;
    refused(bearer, "proof_missing")?;
    let jane = world.holder()?;
    let other_way = call(asked, &jane.token, &key.proof(public, Some(&jane.token), Some(&nonce))).await?;
    ensure!(other_way.status == 401, "{}", other_way.text);
    ensure!(world.called().len() == served + 1, "{:?}", world.called());
    Ok(())
}

#[tokio::test]
async fn an_administrator_binds_a_token_to_somebody_s_key() -> Result<()> {
    let world = World::start().await?;
    let (key, thief) = (Key::new()?, Key::new()?);
    let arguments = ["token", "issue", "--user", JANE, "--agent", AGENT, "--virtual-server", "shop", "-o", "json"];
    let issue = |more: &[&str]| world.deployment.cli(&[&arguments[..], more].concat());
    for refused in [&["--dpop-jkt", "short"][..], &["--dpop-jkt", &key.thumbprint(), "--bind"]] {
        ensure!(!issue(refused)?.status.success(), "{refused:?}");
    }
    let jkt = key.thumbprint();
    let issued: Value = serde_json::from_slice(&issue(&["--level", "destructive", "--dpop-jkt", &jkt])?.stdout)?;
    ensure!(issued["token_type"] == "DPoP" && issued.get("binding_key").is_none(), "{issued}");
    let token = issued["access_token"].as_str().context("no token")?;
    let (url, public) = (format!("{}/shop", world.deployment.mcp[0]), issued["resource"].as_str().context("no URL")?);
    let nonce = eventually("the token is known", async || {
        nonce_of(&call(&url, token, &key.proof(public, Some(token), None)).await.ok()?)
    });
    let nonce = nonce.await?;
    let answer = call(&url, token, &key.proof(public, Some(token), Some(&nonce))).await?;
    ensure!(is_served(&answer), "{}", answer.text);
    let answer = call(&url, token, &thief.proof(public, Some(token), Some(&nonce))).await?;
    ensure!(refusal(&answer) == (401, "proof_invalid"), "{}", answer.text);
    Ok(())
}

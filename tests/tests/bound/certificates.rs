//! Tokens that are bound to certificates (mTLS): given to who has shown one to the proxy in front of the authorization
//! server, and good only on connections on which that same one was shown, over TCP and QUIC.

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{
    Answer, Deployment, Http3Client, McpClient, ScriptedServer, ServedCertificate, Shape, eventually,
    manifests::person, scripted::tool,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use reqwest::Identity;
use serde_json::json;

use super::{AGENT, JANE, TOOLS, World, clients::SigningClient, is_served, refusal};

/// A client's own certificate, which no authority has signed.
struct Shown {
    identity: Identity,
    /// As the proxy tells it.
    told: String,
}

impl Shown {
    fn new() -> Result<Self> {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec!["a client".to_owned()])?;
        let identity = Identity::from_pem(format!("{}{}", cert.pem(), signing_key.serialize_pem()).as_bytes())?;
        Ok(Self { identity, told: format!(":{}:", STANDARD.encode(cert.der())) })
    }
}

/// What the token endpoint answers where the proxy tells this of the client.
async fn ask(client: &SigningClient, told: &[&str], more: &[(&str, &str)]) -> Result<Answer> {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let assertion = client.assertion(&format!("c-{number}"));
    let mut form = vec![
        ("grant_type", "client_credentials"),
        ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
        ("client_assertion", assertion.as_str()),
        ("resource", client.resource.as_str()),
    ];
    form.extend(more);
    let mut request = reqwest::Client::new().post(&client.token_url).form(&form);
    for certificate in told {
        request = request.header("client-cert", *certificate);
    }
    Answer::to(request).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_a_certificate_is_good_where_that_one_is_shown_and_nowhere_else() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let files = ServedCertificate::in_folder(folder.path());
    let trusted = files.renew()?;
    let served = files.environment();
    let mut environment: Vec<(&str, &str)> = served.iter().map(|(key, value)| (*key, value.as_str())).collect();
    environment.extend([
        ("BAILIWICK_DATA_PLANE__CLIENT_CERTIFICATES", "true"),
        ("BAILIWICK_CONTROL_PLANE__HTTP_PROXIES", "[\"127.0.0.0/8\"]"),
        ("BAILIWICK_CONTROL_PLANE__HTTP_CLIENT_CERTIFICATES", "true"),
    ]);
    let mut deployment = Deployment::start_with(Shape::Processes, &environment).await?;
    deployment.mcp = deployment.mcp.iter().map(|url| url.replace("http://", "https://")).collect();
    let server = ScriptedServer::start(TOOLS.map(|(name, tier)| tool(name, tier)).to_vec()).await?;
    deployment.apply(&(server.manifests("shop", "plain") + &person(JANE, "buyers", AGENT)))?;
    let world = World { deployment, server };
    let (own, other) = (Shown::new()?, Shown::new()?);
    let plain = trusted.over_tcp()?.build()?;
    let client = SigningClient::register_by(&plain, &world, ", binding: certificate").await?;

    // Who shows none, two, or asks to be bound otherwise, gets nothing.
    let proof = [("binding_alg", "aes-256-gcm")];
    for (what, told, more) in [
        ("none", &[][..], &[][..]),
        ("two", &[own.told.as_str(), other.told.as_str()][..], &[][..]),
        ("no certificate", &[":AAAA:"][..], &[][..]),
        ("another binding", &[own.told.as_str()][..], &proof[..]),
    ] {
        let refused = ask(&client, told, more).await?;
        ensure!(refused.status == 400 && refused.body["error"] == "invalid_request", "{what}: {}", refused.text);
    }
    let given = ask(&client, &[&own.told], &[]).await?;
    ensure!(given.body["token_type"] == "Bearer", "{}", given.text);
    let token = given.body["access_token"].as_str().context("no token")?;

    let node = world.deployment.mcp[0].as_str();
    let at = |http: reqwest::Client, url: &str| McpClient { http, ..McpClient::new(url, "shop", token) };
    let holder = trusted.over_tcp()?.identity(own.identity.clone()).build()?;
    for url in &world.deployment.mcp {
        let holder = at(holder.clone(), url);
        let answer =
            eventually("the token is good", async || holder.call("charge", json!({})).await.ok().filter(is_served));
        answer.await?;
    }
    // TLS 1.3 goes on with a session where it can: the certificate counts on the next connection too.
    let again = at(trusted.over_tcp()?.identity(own.identity.clone()).build()?, node);
    ensure!(is_served(&again.call("charge", json!({})).await?), "on another connection");
    let stranger = at(trusted.over_tcp()?.identity(other.identity).build()?, node);
    for (thief, reason) in [(at(plain.clone(), node), "proof_missing"), (stranger, "proof_invalid")] {
        let answer = thief.call("charge", json!({})).await?;
        ensure!(refusal(&answer) == (401, reason), "{}", answer.text);
        let call = thief.modern_request(json!({}), "tools/call", json!({"name": "charge", "arguments": {}}));
        let answer = Answer::to(call.header("client-cert", &own.told)).await?;
        ensure!(refusal(&answer) == (401, reason), "a header is no certificate: {}", answer.text);
    }
    let quic = Http3Client::connect(node, &trusted).await?;
    let call = at(plain, node).modern_request(json!({}), "tools/call", json!({"name": "charge", "arguments": {}}));
    let answer = quic.ask(call).await?;
    ensure!(refusal(&answer) == (401, "proof_missing"), "over QUIC: {}", answer.text);
    let bound = eventually("the calls are on record as bound", async || {
        let records = world.deployment.audit(&["--binding", "bound", "--tool", "charge"]).ok()?;
        (records.len() >= 3).then_some(records)
    });
    bound.await?;
    Ok(())
}

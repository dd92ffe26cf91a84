//! Tokens that are bound to certificates (mTLS): given to who has shown one to the proxy in front of the authorization
//! server, and good only on connections on which that same one was shown, over TCP and QUIC.

use std::{net::Ipv4Addr, sync::Arc};

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{
    Answer, Deployment, Http3Client, McpClient, ScriptedServer, ServedCertificate, Shape, Trusted, eventually,
    http3::{ClientCertificate, tls},
    manifests::person,
    scripted::tool,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use reqwest::{Identity, RequestBuilder, header::HeaderMap};
use rustls::{
    ClientConfig, HandshakeKind,
    pki_types::{PrivateKeyDer, ServerName},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::{AGENT, JANE, TOOLS, World, clients::SigningClient, is_served, refusal};

/// A client's own certificate, which no authority has signed.
struct Shown {
    identity: Identity,
    certificate: ClientCertificate,
    /// As the proxy tells it.
    told: String,
}

impl Shown {
    fn new() -> Result<Self> {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec!["a client".to_owned()])?;
        let identity = Identity::from_pem(format!("{}{}", cert.pem(), signing_key.serialize_pem()).as_bytes())?;
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
        let certificate = ClientCertificate { certificate: cert.der().clone(), key };
        Ok(Self { identity, certificate, told: format!(":{}:", STANDARD.encode(cert.der())) })
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

/// A call of `charge`.
fn call(client: &McpClient) -> RequestBuilder {
    client.modern_request(json!({}), "tools/call", json!({"name": "charge", "arguments": {}}))
}

/// What a request gets over a connection of its own, and how that one began.
async fn alone(tls: &Arc<ClientConfig>, request: RequestBuilder) -> Result<(HandshakeKind, Answer)> {
    let request = request.build()?;
    let port = request.url().port().context("no port")?;
    let body = request.body().and_then(reqwest::Body::as_bytes).unwrap_or_default();
    let mut sent = format!("POST {} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n", request.url().path());
    for (name, value) in request.headers() {
        sent += &format!("{name}: {}\r\n", value.to_str()?);
    }
    sent += &format!("content-length: {}\r\nconnection: close\r\n\r\n", body.len());
    let tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let mut connection = TlsConnector::from(Arc::clone(tls)).connect(ServerName::try_from("127.0.0.1")?, tcp).await?;
    connection.write_all(&[sent.as_bytes(), body].concat()).await?;
    let mut read = String::new();
    connection.read_to_string(&mut read).await?;
    let (head, text) = read.split_once("\r\n\r\n").context("no answer")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    let body = serde_json::from_str(text).unwrap_or_default();
    let kind = connection.get_ref().1.handshake_kind().context("no handshake")?;
    Ok((kind, Answer { status, headers: HeaderMap::new(), text: text.to_owned(), body }))
}

/// TLS 1.3 goes on with a session where it can: the certificate that was shown when it began counts on each connection.
async fn counts_when_resumed(trusted: &Trusted, own: &Shown, holder: &McpClient) -> Result<()> {
    let config = Arc::new(tls(trusted, Some(&own.certificate))?);
    for expected in [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed] {
        let (kind, answer) = alone(&config, call(holder)).await?;
        ensure!(kind == expected && is_served(&answer), "{kind:?} instead of {expected:?}: {}", answer.text);
    }
    Ok(())
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
    counts_when_resumed(&trusted, &own, &at(plain.clone(), node)).await?;
    let stranger = at(trusted.over_tcp()?.identity(other.identity).build()?, node);
    for (thief, reason) in [(at(plain.clone(), node), "proof_missing"), (stranger, "proof_invalid")] {
        let answer = thief.call("charge", json!({})).await?;
        ensure!(refusal(&answer) == (401, reason), "{}", answer.text);
        let answer = Answer::to(call(&thief).header("client-cert", &own.told)).await?;
        ensure!(refusal(&answer) == (401, reason), "a header is no certificate: {}", answer.text);
    }
    let anybody = at(plain, node);
    for (shown, reason) in [(None, "proof_missing"), (Some(&other.certificate), "proof_invalid")] {
        let quic = Http3Client::connect_showing(node, &trusted, shown).await?;
        let answer = quic.ask(call(&anybody)).await?;
        ensure!(refusal(&answer) == (401, reason), "over QUIC: {}", answer.text);
        let answer = quic.ask(call(&anybody).header("client-cert", &own.told)).await?;
        ensure!(refusal(&answer) == (401, reason), "a header is no certificate over QUIC: {}", answer.text);
    }
    let quic = Http3Client::connect_showing(node, &trusted, Some(&own.certificate)).await?;
    let answer = quic.ask(call(&anybody)).await?;
    ensure!(is_served(&answer), "over QUIC: {}", answer.text);
    // One at each node, three that are resumed or begin that, and one over QUIC: two records each.
    let bound = eventually("the calls are on record as bound", async || {
        let records = world.deployment.audit(&["--binding", "bound", "--tool", "charge"]).ok()?;
        (records.len() >= 2 * (world.deployment.mcp.len() + 4)).then_some(records)
    });
    bound.await?;
    Ok(())
}

//! Clients that prove who they are by a TLS certificate (RFC 8705 §2), told by a proxy in front of the authorization
//! server (RFC 9440): other people's clients by way of a real one, and what nobody honest sends, header by header.
//!
//! What tokens that are bound to a certificate are good for is in `tests/bound`.

use std::{fs, net::IpAddr, path::PathBuf, process::Stdio};

use anyhow::{Context, Result, ensure};
use aws_lc_rs::digest;
use bailiwick_tests::{
    Answer, Deployment, ScriptedServer, Shape, TlsProxy,
    deployment::repository,
    manifests::{manifest, person},
    peers::place,
    prover::{Prover, now},
    scripted::tool,
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use serde_json::{Value, json};

use crate::{AGENT, JANE, TIERS, text};

/// Known by a name in certificates of the company's authority.
const NIGHTLY: &str = "nightly";
const NIGHTLY_HOST: &str = "nightly.acme.example";
/// The same, by another name.
const WEEKLY: &str = "weekly";
/// Known by its own certificate, listed by its hash, or in its keys.
const OWN: &str = "own";
const OWN_IN_KEYS: &str = "own-in-keys";
/// Known by a secret.
const PORTAL: &str = "portal";
const SECRET: &str = "a secret of the portal's";

/// An authority, and certificates that it has signed.
struct Authority(Certificate, Issuer<'static, KeyPair>);

impl Authority {
    fn new() -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, "Acme CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        Ok(Self(certificate, Issuer::new(params, key)))
    }

    fn signs(&self, host: &str, change: impl FnOnce(&mut CertificateParams)) -> Result<Shown> {
        let (key, params) = (KeyPair::generate()?, of(host, change)?);
        Ok(Shown { certificate: params.signed_by(&key, &self.1)?, key })
    }
}

/// A certificate and its key.
struct Shown {
    certificate: Certificate,
    key: KeyPair,
}

impl Shown {
    fn alone(host: &str) -> Result<Self> {
        let (key, params) = (KeyPair::generate()?, of(host, |_| {})?);
        Ok(Self { certificate: params.self_signed(&key)?, key })
    }

    fn told(&self) -> String {
        format!(":{}:", STANDARD.encode(self.certificate.der()))
    }

    fn hash(&self) -> digest::Digest {
        digest::digest(&digest::SHA256, self.certificate.der())
    }

    fn identity(&self) -> Result<reqwest::Identity> {
        Ok(reqwest::Identity::from_pem(format!("{}{}", self.certificate.pem(), self.key.serialize_pem()).as_bytes())?)
    }
}

fn of(host: &str, change: impl FnOnce(&mut CertificateParams)) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(vec![host.to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, host);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    change(&mut params);
    Ok(params)
}

/// A control plane behind a proxy that tells certificates; and clients of every kind.
struct Company {
    deployment: Deployment,
    _server: ScriptedServer,
    proxy: TlsProxy,
    authority: Authority,
    nightly: Shown,
    own: Shown,
    issuer: String,
    resource: String,
}

impl Company {
    async fn start() -> Result<Self> {
        let (proxy, authority) = (TlsProxy::bind().await?, Authority::new()?);
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("clients.pem");
        fs::write(&file, authority.0.pem())?;
        let file = file.display().to_string();
        let environment = [
            // The proxy; and not everybody on this machine.
            ("BAILIWICK_CONTROL_PLANE__HTTP_PROXIES", "[\"127.0.0.1/32\"]"),
            ("BAILIWICK_CONTROL_PLANE__HTTP_CLIENT_CERTIFICATES", "true"),
            ("BAILIWICK_CONTROL_PLANE__HTTP_CLIENT_CA_FILE", file.as_str()),
            ("BAILIWICK_CONTROL_PLANE__HTTP_MTLS_URL", proxy.url.as_str()),
            ("BAILIWICK_CONTROL_PLANE__CLIENT_REGISTRATION", "true"),
            ("BAILIWICK_CONTROL_PLANE__HTTP_LIMITS__FAILURES_BURST", "1000"),
        ];
        let deployment = Deployment::start_with(Shape::Processes, &environment).await?;
        let server = ScriptedServer::start(TIERS.map(|(name, tier)| tool(name, tier)).to_vec()).await?;
        deployment.apply(&(server.manifests("shop", "plain") + &person(JANE, "buyers", AGENT)))?;
        let (nightly, own) = (authority.signs(NIGHTLY_HOST, |_| {})?, Shown::alone("anything")?);
        let jwks = json!({"keys": [{"kty": "EC", "x5c": [STANDARD.encode(own.certificate.der())]}]}).to_string();
        let named = |dns: &str| json!({"auth": "tls_client_auth", "certificate": {"san_dns": dns}});
        let secret = hex::encode(digest::digest(&digest::SHA256, SECRET.as_bytes()));
        for (name, spec) in [
            (NIGHTLY, named(NIGHTLY_HOST)),
            (WEEKLY, named("weekly.acme.example")),
            (OWN, json!({"auth": "self_signed_tls_client_auth", "certificate": {"sha256": [hex::encode(own.hash())]}})),
            (OWN_IN_KEYS, json!({"auth": "self_signed_tls_client_auth", "jwks": jwks})),
        ] {
            let mut whole =
                json!({"agent": AGENT, "binding": "certificate", "headless": {"virtual_servers": ["shop"]}});
            whole.as_object_mut().context("spec")?.extend(spec.as_object().context("spec")?.clone());
            deployment.apply(&manifest("Client", name, &whole.to_string()))?;
        }
        let portal = json!({"agent": AGENT, "auth": "client_secret", "secret_sha256": secret});
        deployment.apply(&manifest("Client", PORTAL, &portal.to_string()))?;
        let base = deployment.mcp[0].strip_suffix("/mcp").context("an MCP URL")?;
        let url = format!("{base}/.well-known/oauth-protected-resource/mcp/shop");
        let metadata = Answer::to(reqwest::Client::builder().no_proxy().build()?.get(url)).await?.body;
        let issuer = text(&json!({"issuer": metadata["authorization_servers"][0]}), "issuer").to_owned();
        let resource = text(&metadata, "resource").to_owned();
        proxy.towards(&issuer)?;
        drop(folder);
        Ok(Self { deployment, _server: server, proxy, authority, nightly, own, issuer, resource })
    }

    /// A client that asks from this address of the machine.
    fn from(address: &str) -> Result<reqwest::Client> {
        let address: IpAddr = address.parse()?;
        Ok(reqwest::Client::builder().no_proxy().local_address(address).build()?)
    }

    /// What the node answers where the proxy's headers are these.
    async fn told(&self, path: &str, headers: &[(&str, &str)], form: &[(&str, &str)]) -> Result<Answer> {
        let request = Self::from("127.0.0.1")?.post(format!("{}{path}", self.issuer)).form(form);
        Answer::to(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))).await
    }

    fn asking<'a>(&'a self, client: &'a str) -> Vec<(&'a str, &'a str)> {
        vec![("grant_type", "client_credentials"), ("client_id", client), ("resource", &self.resource)]
    }

    async fn token(&self, client: &str, headers: &[(&str, &str)]) -> Result<Answer> {
        self.told("/oauth/token", headers, &self.asking(client)).await
    }

    async fn metadata(&self) -> Result<Value> {
        let url = format!("{}/.well-known/oauth-authorization-server", self.issuer);
        Ok(Answer::to(Self::from("127.0.0.1")?.get(url)).await?.body)
    }
}

fn is_bound_to(answer: &Answer, shown: &Shown, what: &str) -> Result<()> {
    ensure!(answer.status == 200, "{what}: {}: {}", answer.status, answer.text);
    let payload = text(&answer.body, "access_token").split('.').nth(1).context("no JWT")?;
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload)?)?;
    let thumbprint = URL_SAFE_NO_PAD.encode(shown.hash());
    ensure!(claims["cnf"] == json!({"x5t#S256": thumbprint}) && claims["sub"] == JANE, "{what}: {claims}");
    Ok(())
}

fn is_nobody(answer: &Answer, what: &str) {
    let (status, word) = (answer.status.as_u16(), text(&answer.body, "error"));
    assert!(status == 401 && word == "invalid_client", "{what}: {status}: {}", answer.text);
    assert!(answer.body.get("access_token").is_none(), "{what}: {}", answer.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_not_the_clients_is_nobodys() -> Result<()> {
    let company = Company::start().await?;
    let (nightly, own) = (company.nightly.told(), company.own.told());
    let good = [("client-cert", nightly.as_str())];
    is_bound_to(&company.token(NIGHTLY, &good).await?, &company.nightly, "of the authority")?;
    for client in [OWN, OWN_IN_KEYS] {
        is_bound_to(&company.token(client, &[("client-cert", &own)]).await?, &company.own, client)?;
    }
    let namesake = Authority::new()?;
    let (forged, ca) =
        (namesake.signs(NIGHTLY_HOST, |_| {})?.told(), format!(":{}:", STANDARD.encode(namesake.0.der())));
    let past = company.authority.signs(NIGHTLY_HOST, |params| params.not_after = date_time_ymd(2024, 1, 1))?.told();
    let of_server = company.authority.signs(NIGHTLY_HOST, |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    })?;
    let (of_server, self_made) = (of_server.told(), Shown::alone(NIGHTLY_HOST)?.told());
    let cut = nightly.strip_prefix(':').context("no byte sequence")?;
    for (what, client, headers) in [
        ("none", NIGHTLY, &[][..]),
        ("of another authority of the same name", NIGHTLY, &[("client-cert", forged.as_str())][..]),
        ("and with its chain", NIGHTLY, &[("client-cert", forged.as_str()), ("client-cert-chain", ca.as_str())][..]),
        ("of nobody", NIGHTLY, &[("client-cert", self_made.as_str())][..]),
        ("expired", NIGHTLY, &[("client-cert", past.as_str())][..]),
        ("for servers", NIGHTLY, &[("client-cert", of_server.as_str())][..]),
        ("two", NIGHTLY, &[("client-cert", nightly.as_str()), ("client-cert", forged.as_str())][..]),
        ("the same twice", NIGHTLY, &[good[0], good[0]][..]),
        ("cut", NIGHTLY, &[("client-cert", cut)][..]),
        ("another client's", WEEKLY, &good[..]),
        ("another client's, of the authority", OWN, &good[..]),
        ("another client's, its own", NIGHTLY, &[("client-cert", own.as_str())][..]),
        ("of a client that has a secret", PORTAL, &good[..]),
        ("of a client that nobody knows", "stranger", &good[..]),
        ("the header of other proxies", NIGHTLY, &[("x-client-cert", nightly.as_str())][..]),
    ] {
        is_nobody(&company.token(client, headers).await?, what);
    }
    // Nobody but the proxy tells certificates.
    let url = format!("{}/oauth/token", company.issuer);
    let stranger =
        Company::from("127.0.0.2")?.post(&url).header("client-cert", &nightly).form(&company.asking(NIGHTLY));
    is_nobody(&Answer::to(stranger).await?, "a stranger's header");
    // What does not fit into a request's head is not read at all, and what is larger than a certificate is none.
    let large = format!(":{}:", STANDARD.encode([0x30; 30_000]));
    ensure!(large.len() > 40_000);
    let sent = company.token(NIGHTLY, &[("client-cert", &large)]).await;
    ensure!(sent.as_ref().map_or(true, |answer| answer.status == 431), "{:?}", sent.map(|answer| answer.text));
    let large = format!(":{}:", STANDARD.encode([0x30; 20_000]));
    is_nobody(&company.token(NIGHTLY, &[("client-cert", &large)]).await?, "larger than a certificate");
    is_bound_to(&company.token(NIGHTLY, &good).await?, &company.nightly, "after all that")
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_other_way_for_a_client_with_a_certificate_and_none_by_it_for_others() -> Result<()> {
    let company = Company::start().await?;
    let nightly = company.nightly.told();
    let good = [("client-cert", nightly.as_str())];
    let basic = |name: &str| format!("Basic {}", STANDARD.encode(format!("{name}:{SECRET}")));
    let asking = |more: &[(&'static str, &'static str)]| [company.asking(NIGHTLY), more.to_vec()].concat();
    let jwt = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
    let signed = [("client_assertion_type", jwt), ("client_assertion", "e30.e30.AA")];
    for (what, form) in [("a secret", asking(&[("client_secret", SECRET)])), ("a signature", asking(&signed))] {
        for headers in [&[][..], &good[..]] {
            is_nobody(&company.told("/oauth/token", headers, &form).await?, what);
        }
    }
    let header = basic(NIGHTLY);
    let headers = [("authorization", header.as_str()), good[0]];
    is_nobody(&company.told("/oauth/token", &headers, &company.asking(NIGHTLY)).await?, "a secret in the header");
    // A certificate beside a secret proves nothing: the secret does.
    let header = basic(PORTAL);
    let headers = [("authorization", header.as_str()), good[0]];
    let answer = company.told("/oauth/token", &headers, &company.asking(PORTAL)).await?;
    ensure!(answer.body["error"] == "unauthorized_client", "{}", answer.text);
    // Its tokens are bound to the certificate, and to nothing else.
    let other = asking(&[("binding_alg", "aes-256-gcm")]);
    let answer = company.told("/oauth/token", &good, &other).await?;
    ensure!(answer.status == 400 && answer.body["error"] == "invalid_request", "{}", answer.text);

    // Looking and giving up take the same proof.
    let given = company.token(NIGHTLY, &good).await?;
    let token = text(&given.body, "access_token").to_owned();
    let form = [("client_id", NIGHTLY), ("token", token.as_str())];
    let forged = Authority::new()?.signs(NIGHTLY_HOST, |_| {})?.told();
    for path in ["/oauth/introspect", "/oauth/revoke"] {
        for headers in [&[][..], &[("client-cert", forged.as_str())][..]] {
            is_nobody(&company.told(path, headers, &form).await?, path);
        }
    }
    let own = company.own.told();
    let form_of_other = [("client_id", OWN), ("token", token.as_str())];
    let of_other = company.told("/oauth/introspect", &[("client-cert", &own)], &form_of_other).await?;
    ensure!(of_other.body == json!({"active": false}), "{}", of_other.text);
    let known = company.told("/oauth/introspect", &good, &form).await?;
    ensure!(known.body["active"] == true && known.body["cnf"]["x5t#S256"].is_string(), "{}", known.text);
    // Taking a certificate out of the manifest ends it at once.
    let successor = Shown::alone("anything")?;
    let listed = json!({"agent": AGENT, "auth": "self_signed_tls_client_auth",
        "certificate": {"sha256": [hex::encode(successor.hash())]}, "headless": {"virtual_servers": ["shop"]}});
    company.deployment.apply(&manifest("Client", OWN, &listed.to_string()))?;
    is_nobody(&company.token(OWN, &[("client-cert", &own)]).await?, "taken out");
    let answer = company.token(OWN, &[("client-cert", &successor.told())]).await?;
    ensure!(answer.status == 200, "{}", answer.text);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_registers_itself_wants_its_tokens_bound_in_one_way() -> Result<()> {
    let company = Company::start().await?;
    let register = async |more: Value| {
        let mut metadata = json!({"redirect_uris": [crate::REDIRECT], "token_endpoint_auth_method": "none"});
        metadata.as_object_mut().context("metadata")?.extend(more.as_object().context("more")?.clone());
        let url = format!("{}/oauth/register", company.issuer);
        Answer::to(Company::from("127.0.0.1")?.post(url).json(&metadata)).await
    };
    let (certificate, key) = ("tls_client_certificate_bound_access_tokens", "dpop_bound_access_tokens");
    for (wanted, other, binding) in [(certificate, key, "certificate"), (key, certificate, "dpop")] {
        let given = register(json!({wanted: true, other: false})).await?;
        ensure!(given.status == 201 && given.body[wanted] == true, "{}", given.text);
        ensure!(given.body.get(other).is_none(), "{}", given.text);
        let arguments = ["get", "client", text(&given.body, "client_id"), "-o", "json"];
        let known: Value = serde_json::from_str(&company.deployment.cli_ok(&arguments)?)?;
        ensure!(known.to_string().contains(&format!("\"binding\":\"{binding}\"")), "{known:#}");
    }
    let plain = register(json!({})).await?;
    ensure!(plain.status == 201 && plain.body.get(certificate).is_none(), "{}", plain.text);
    for bad in [json!({certificate: true, key: true}), json!({certificate: "yes"})] {
        let refused = register(bad).await?;
        ensure!(refused.status == 400 && refused.body["error"] == "invalid_client_metadata", "{}", refused.text);
    }
    for method in ["tls_client_auth", "self_signed_tls_client_auth"] {
        let refused = register(json!({"token_endpoint_auth_method": method})).await?;
        ensure!(refused.body["error"] == "invalid_client_metadata", "{}", refused.text);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn other_peoples_clients_find_where_to_show_their_certificate_and_get_tokens_by_it() -> Result<()> {
    let company = Company::start().await?;
    let metadata = company.metadata().await?;
    let methods = json!(["tls_client_auth", "self_signed_tls_client_auth"]);
    for endpoint in ["token", "revocation", "introspection"] {
        let said = metadata[format!("{endpoint}_endpoint_auth_methods_supported")].as_array().context("methods")?;
        ensure!(said.ends_with(methods.as_array().context("methods")?), "{said:?}");
        let alias = &metadata["mtls_endpoint_aliases"][format!("{endpoint}_endpoint")];
        let path =
            text(&metadata, &format!("{endpoint}_endpoint")).strip_prefix(&company.issuer).context("elsewhere")?;
        ensure!(*alias == json!(format!("{}{path}", company.proxy.url)), "{metadata:#}");
    }
    ensure!(metadata["tls_client_certificate_bound_access_tokens"] == true, "{metadata:#}");

    let folder = tempfile::tempdir()?;
    let file = |name: &str, text: &str| -> Result<PathBuf> {
        let path = folder.path().join(name);
        fs::write(&path, text)?;
        Ok(path)
    };
    let ca = file("proxy.pem", &pem(&company.proxy.trusted.certificate))?;
    let run = async |library: &str, client: &str, shown: Option<&Shown>| -> Result<Value> {
        let mut command = tokio::process::Command::new(place("PEER_NODE")?);
        command.current_dir(repository()).arg("tests/peers/mtls_client.mjs").arg("--ca").arg(&ca);
        let arguments = ["--issuer", &company.issuer, "--resource", &company.resource, "--client-id", client];
        command.args(arguments).args(["--library", library]).stdin(Stdio::null()).kill_on_drop(true);
        if let Some(shown) = shown {
            command.arg("--cert").arg(file("client.pem", &shown.certificate.pem())?);
            command.arg("--key").arg(file("client.key", &shown.key.serialize_pem())?);
        }
        let output = command.output().await?;
        let errors = String::from_utf8_lossy(&output.stderr);
        serde_json::from_slice(&output.stdout).with_context(|| format!("{library}: {errors}"))
    };
    let stranger = Authority::new()?.signs(NIGHTLY_HOST, |_| {})?;
    for library in ["openid-client", "oauth4webapi"] {
        // Giving a token up ends what stands for the client for a while, so each has its own.
        let (client, shown) =
            if library == "openid-client" { (NIGHTLY, &company.nightly) } else { (OWN, &company.own) };
        let said = run(library, client, Some(shown)).await?;
        ensure!(said["ok"] == true, "{library}: {said:#}\n{}", company.deployment.log());
        let thumbprint = URL_SAFE_NO_PAD.encode(shown.hash());
        ensure!(said["known"]["cnf"]["x5t#S256"] == thumbprint, "{library}: {said:#}");
        ensure!(said["known"]["active"] == true && said["after"] == json!({"active": false}), "{library}: {said:#}");
        for thief in [None, Some(&stranger)] {
            let said = run(library, client, thief).await?;
            ensure!(said["ok"] == false && said["error"]["word"] == "invalid_client", "{library}: {said:#}");
        }
    }
    // What a client writes into the header itself does not get past the proxy.
    let told = company.nightly.told();
    for identity in [None, Some(stranger.identity()?)] {
        let http = company.proxy.trusted.over_tcp()?;
        let http = identity.into_iter().fold(http, reqwest::ClientBuilder::identity).build()?;
        let request = http.post(format!("{}/oauth/token", company.proxy.url)).header("Client-Cert", &told);
        is_nobody(&Answer::to(request.form(&company.asking(NIGHTLY))).await?, "a client's own header");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_proves_its_key_for_the_endpoint_where_it_shows_its_certificate() -> Result<()> {
    let company = Company::start().await?;
    let (client, host) = ("hourly", "hourly.acme.example");
    let spec = json!({"agent": AGENT, "auth": "tls_client_auth", "certificate": {"san_dns": host}, "binding": "dpop",
        "headless": {"virtual_servers": ["shop"]}});
    company.deployment.apply(&manifest("Client", client, &spec.to_string()))?;
    let shown = company.authority.signs(host, |_| {})?;
    let http = company.proxy.trusted.over_tcp()?.identity(shown.identity()?).build()?;
    let (alias, own) = (format!("{}/oauth/token", company.proxy.url), format!("{}/oauth/token", company.issuer));
    let prover = Prover::new()?;
    let ask = async |url: &str, nonce: Option<&str>, headers: &[(&str, &str)]| {
        let request = http.post(&alias).header("dpop", prover.proof("POST", url, nonce)?).form(&company.asking(client));
        Answer::to(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))).await
    };
    let first = ask(&alias, None, &[]).await?;
    ensure!(first.status == 400 && first.body["error"] == "use_dpop_nonce", "{}", first.text);
    let nonce = first.headers.get("dpop-nonce").context("no nonce")?.to_str()?;
    for url in [&alias, &own] {
        let given = ask(url, Some(nonce), &[]).await?;
        ensure!(given.status == 200 && given.body["token_type"] == "DPoP", "{url}: {}", given.text);
        let payload = text(&given.body, "access_token").split('.').nth(1).context("no JWT")?;
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload)?)?;
        ensure!(claims["cnf"] == json!({"jkt": prover.jkt()}), "{url}: {claims}");
    }
    let named = [("host", "evil.example"), ("x-forwarded-host", "evil.example")];
    for (url, headers) in [
        ("https://evil.example/oauth/token", &[][..]),
        ("https://evil.example/oauth/token", &named[..]),
        ("http://evil.example/oauth/token", &named[..]),
        (format!("{}/oauth/revoke", company.proxy.url).as_str(), &[][..]),
        (company.proxy.url.as_str(), &[][..]),
        (alias.replace("https://", "http://").as_str(), &[][..]),
        ("https://127.0.0.1/oauth/token", &[][..]),
    ] {
        let refused = ask(url, Some(nonce), headers).await?;
        ensure!(refused.status == 400 && refused.body["error"] == "invalid_dpop_proof", "{url}: {}", refused.text);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_signs_may_be_for_either_endpoint_and_for_nobody_elses() -> Result<()> {
    let company = Company::start().await?;
    let (client, key) = ("signing", Prover::new()?);
    let mut jwk = key.jwk();
    (jwk["alg"], jwk["kid"]) = ("EdDSA".into(), "k".into());
    let spec = json!({"agent": AGENT, "auth": "private_key_jwt", "jwks": json!({"keys": [jwk]}).to_string(),
        "headless": {"virtual_servers": ["shop"]}});
    company.deployment.apply(&manifest("Client", client, &spec.to_string()))?;
    let http = company.proxy.trusted.over_tcp()?.build()?;
    let ask = async |audience: &str| {
        let (from, until) = (now()?, now()? + 60);
        let claims = json!({"iss": client, "sub": client, "aud": audience, "jti": audience, "iat": from, "exp": until});
        let signed = key.sign(&json!({"alg": "EdDSA", "typ": "JWT", "kid": "k"}), &claims);
        let proof = [
            ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
            ("client_assertion", signed.as_str()),
        ];
        let form = [company.asking(client), proof.to_vec()].concat();
        Answer::to(http.post(format!("{}/oauth/token", company.proxy.url)).form(&form)).await
    };
    for audience in [
        company.issuer.clone(),
        format!("{}/oauth/token", company.issuer),
        format!("{}/oauth/token", company.proxy.url),
    ] {
        let given = ask(&audience).await?;
        ensure!(given.status == 200 && given.body["access_token"].is_string(), "{audience}: {}", given.text);
    }
    for audience in ["https://evil.example/oauth/token", company.proxy.url.as_str(), "https://127.0.0.1/oauth/token"] {
        is_nobody(&ask(audience).await?, audience);
    }
    Ok(())
}

fn pem(der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let lines: Vec<&str> = encoded.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

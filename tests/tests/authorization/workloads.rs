//! Workloads, end to end: a platform signs what its programs are, and with that these get tokens on behalf of their
//! agent's owner. The platforms are providers of other people's software; what they sign is shaped as Kubernetes and
//! SPIRE have it. Each forged assertion differs from an honest one in one thing only.

mod forged;

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use bailiwick_tests::{
    Answer, eventually,
    idp::{IdentityProvider, Rule},
    manifests::manifest,
};
use serde_json::{Value, json};

use crate::{AGENT, CLIENT, JANE, World, text};

const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const SIGNED: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const SPIFFE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe";
const WRITER: &str = "report-writer";
const SUBJECT: &str = "system:serviceaccount:agents:report-writer";
const READER: &str = "report-reader";
const SPIFFE_ID: &str = "spiffe://acme.example/ns/agents/sa/report-reader";
const HEADLESS: &str = ", headless: {virtual_servers: [shop]}, ceiling: retrieval";

/// A cluster's platforms, and a client of each.
struct Platforms {
    world: World,
    kubernetes: IdentityProvider,
    spire: IdentityProvider,
}

impl Platforms {
    async fn start() -> Result<Self> {
        let world = World::start().await?;
        let rule = Rule {
            audience: world.issuer.clone(),
            resource: world.resource.clone(),
            client_id: "nobody".to_owned(),
            scopes: Vec::new(),
        };
        let start = || IdentityProvider::start(std::slice::from_ref(&rule));
        let platforms = Self { world, kubernetes: start()?, spire: start()? };
        platforms.apply(&platforms.manifests())?;
        Ok(platforms)
    }

    fn manifests(&self) -> String {
        self.of_kubernetes("workloads: {}")
            + &platform("spire", &self.spire, "workloads: {trust_domain: acme.example}")
            + &writer(SUBJECT, HEADLESS)
            + &client(READER, &format!("provider: spire, subject: \"{SPIFFE_ID}\""), HEADLESS)
    }

    fn of_kubernetes(&self, more: &str) -> String {
        platform("kubernetes", &self.kubernetes, more)
    }

    fn apply(&self, manifests: &str) -> Result<()> {
        self.world.deployment.apply(manifests).map(drop)
    }

    /// What a Kubernetes API server signs for a pod, in some way other than it would be.
    async fn projected(&self, change: Value) -> Result<String> {
        let usual = json!({
            "header": {"typ": null},
            "seconds": {"iat": 0, "nbf": 0, "exp": 3600},
            "claims": {
                "aud": [format!("{}/oauth/token", self.world.issuer)],
                "sub": SUBJECT,
                "kubernetes.io": {
                    "namespace": "agents",
                    "pod": {"name": "report-writer-7d9f", "uid": "7a1c7a0e-9e0b-4c51-8b0c-0a3b7f4a8f11"},
                    "serviceaccount": {"name": "report-writer", "uid": "5f0c5a3e-1b2c-4d3e-8f9a-0b1c2d3e4f5a"},
                },
                "client_id": null, "resource": null, "scope": null, "email": null, "email_verified": null,
            },
        });
        self.kubernetes.mint(merged(usual, change)).await
    }

    /// What SPIRE signs for a workload, in some way other than it would be.
    async fn svid(&self, change: Value) -> Result<String> {
        let usual = json!({
            "header": {"typ": "JOSE"},
            "claims": {
                "iss": null, "jti": null, "aud": [self.world.issuer], "sub": SPIFFE_ID,
                "client_id": null, "resource": null, "scope": null, "email": null, "email_verified": null,
            },
        });
        self.spire.mint(merged(usual, change)).await
    }

    /// Asks for a token with an assertion alone.
    async fn ask(&self, assertion: &str, more: &[(&str, &str)]) -> Result<Answer> {
        let form = [("grant_type", JWT_BEARER), ("assertion", assertion), ("resource", &self.world.resource)];
        self.world.post("/oauth/token", &[&form, more].concat()).await
    }

    /// The same from another address of this machine's: what does not verify counts against one.
    async fn ask_from(&self, last: u8, assertion: &str) -> Result<Answer> {
        let address = IpAddr::from([127, 0, 0, last]);
        let http = reqwest::Client::builder().no_proxy().local_address(address).build()?;
        let form = [("grant_type", JWT_BEARER), ("assertion", assertion), ("resource", &self.world.resource)];
        Answer::to(http.post(format!("{}/oauth/token", self.world.issuer)).form(&form)).await
    }

    /// Asks as a client that an assertion is of.
    async fn ask_as_client(&self, kind: &str, assertion: &str, more: &[(&str, &str)]) -> Result<Answer> {
        let form =
            [("grant_type", "client_credentials"), ("client_assertion_type", kind), ("client_assertion", assertion)];
        self.world.post("/oauth/token", &[&form, more].concat()).await
    }

    /// A call with this token goes through and is on record for this client.
    async fn calls(&self, answer: &Answer, client: &str) -> Result<()> {
        ensure!(answer.status == 200, "{}\n{}", answer.text, self.world.deployment.log());
        let mcp = self.world.mcp(&answer.body);
        mcp.until_listed(&["read"]).await?;
        let called = mcp.call("read", json!({})).await?;
        ensure!(called.body["result"].is_object(), "{}", called.text);
        let record = eventually("the call's record", async || {
            let calls = self.world.deployment.audit(&["--tool", "read"]).ok()?;
            calls.into_iter().find(|record| record["client"] == client)
        })
        .await?;
        let who = (text(&record, "user"), text(&record, "owner"), text(&record, "agent"));
        ensure!(who == (JANE, JANE, AGENT), "{record}");
        Ok(())
    }
}

fn platform(name: &str, provider: &IdentityProvider, more: &str) -> String {
    let spec = format!("{{issuer: \"{}\", networks: [\"127.0.0.0/8\"], {more}}}", provider.issuer);
    manifest("IdentityProvider", name, &spec)
}

fn client(name: &str, workload: &str, more: &str) -> String {
    manifest("Client", name, &format!("{{agent: {AGENT}, auth: workload, workload: {{{workload}}}{more}}}"))
}

fn writer(subject: &str, more: &str) -> String {
    let require = r#"require: {"/kubernetes.io/namespace": agents}"#;
    client(WRITER, &format!("provider: kubernetes, subject: \"{subject}\", {require}"), more)
}

/// An order with others of its members, one level deep; a time that is null is not set.
fn merged(mut usual: Value, change: Value) -> Value {
    for (name, value) in change.as_object().into_iter().flatten() {
        match (usual.get_mut(name).and_then(Value::as_object_mut), value) {
            (Some(known), Value::Object(members)) => known.extend(members.clone()),
            _ => usual[name] = value.clone(),
        }
    }
    if let Some(seconds) = usual.get_mut("seconds").and_then(Value::as_object_mut) {
        seconds.retain(|_, value| !value.is_null());
    }
    usual
}

fn is_refused(answer: &Answer, status: u16, error: &str, why: &str) -> Result<()> {
    let described = text(&answer.body, "error_description");
    ensure!(answer.status == status && text(&answer.body, "error") == error, "{} {}", answer.status, answer.text);
    ensure!(described.contains(why), "refused for another reason than {why:?}: {described}");
    ensure!(answer.body.get("access_token").is_none(), "{}", answer.text);
    Ok(())
}

#[tokio::test]
async fn what_a_platform_signs_is_a_token_for_its_workloads_and_calls_are_on_record() -> Result<()> {
    let platforms = Platforms::start().await?;
    let projected = platforms.projected(json!({})).await?;
    let answer = platforms.ask(&projected, &[]).await?;
    platforms.calls(&answer, WRITER).await?;
    let lasts = answer.body["expires_in"].as_u64().context("expires_in")?;
    ensure!(text(&answer.body, "scope") == "mcp:read" && (590..=600).contains(&lasts), "{}", answer.text);
    ensure!(answer.body.get("refresh_token").is_none(), "it asks again: {}", answer.text);
    let event = platforms.world.event("assertion_used").await?;
    let vouched = (text(&event, "provider"), text(&event, "subject"), text(&event, "client"));
    ensure!(vouched == ("kubernetes", SUBJECT, WRITER), "{event}");

    let again = platforms.ask(&projected, &[("client_id", WRITER), ("scope", "mcp:read")]).await?;
    ensure!(again.status == 200, "the same until it is renewed, with the client's name: {}", again.text);
    let svid = platforms.svid(json!({"seconds": {"exp": 90}})).await?;
    let answer = platforms.ask(&svid, &[]).await?;
    platforms.calls(&answer, READER).await?;
    let seconds = answer.body["expires_in"].as_u64().context("expires_in")?;
    ensure!((1..=90).contains(&seconds), "a token that outlives the word it rests on: {}", answer.text);
    for header in [json!({"typ": null}), json!({"typ": "JWT"})] {
        let svid = platforms.svid(json!({"header": header, "claims": {"iss": platforms.spire.issuer}})).await?;
        ensure!(platforms.ask(&svid, &[]).await?.status == 200, "{header}");
    }
    let log = platforms.world.deployment.log();
    ensure!([projected, svid].iter().all(|jwt| jwt.split('.').skip(1).all(|part| !log.contains(part))), "in the log");
    Ok(())
}

#[tokio::test]
async fn what_a_platform_signs_proves_who_a_client_is() -> Result<()> {
    let platforms = Platforms::start().await?;
    let (projected, svid) = (platforms.projected(json!({})).await?, platforms.svid(json!({})).await?);
    for (kind, jwt, client) in [(SIGNED, &projected, WRITER), (SIGNED, &svid, READER), (SPIFFE, &svid, READER)] {
        for named in [&[][..], &[("client_id", client)]] {
            let answer = platforms.ask_as_client(kind, jwt, named).await?;
            ensure!(answer.status == 200, "{kind} {client} {named:?}: {}", answer.text);
        }
        let other = platforms.ask_as_client(kind, jwt, &[("client_id", CLIENT)]).await?;
        is_refused(&other, 401, "invalid_client", "")?;
    }
    let answer = platforms.ask_as_client(SIGNED, &projected, &[]).await?;
    platforms.calls(&answer, WRITER).await?;
    // Of its own tokens it may ask, and give them up; another workload is told nothing.
    let token = text(&answer.body, "access_token");
    for (jwt, path, active) in
        [(&svid, "introspect", false), (&projected, "introspect", true), (&projected, "revoke", false)]
    {
        let form = [("client_assertion_type", SIGNED), ("client_assertion", jwt), ("token", token)];
        let told = platforms.world.post(&format!("/oauth/{path}"), &form).await?;
        ensure!(told.status == 200 && (told.body["active"] == true) == active, "{path}: {}", told.text);
    }
    let called = platforms.world.mcp(&answer.body).call("read", json!({})).await?;
    ensure!(called.reason() == "consent_revoked", "{}", called.text);
    let no_spiffe = platforms.ask_as_client(SPIFFE, &projected, &[]).await?;
    is_refused(&no_spiffe, 401, "invalid_client", "").context("a Kubernetes token as SPIFFE's")?;
    for (name, change) in [
        ("for somebody else", json!({"claims": {"aud": ["https://other.example"]}})),
        ("expired", json!({"seconds": {"iat": -60, "exp": -1}})),
        ("by a stranger", json!({"by": "stranger"})),
        ("about another", json!({"claims": {"sub": "system:serviceaccount:agents:other"}})),
        ("an identity assertion's type", json!({"header": {"typ": "oauth-id-jag+jwt"}})),
        ("from another namespace", json!({"claims": {"kubernetes.io": {"namespace": "other"}}})),
    ] {
        let forged = platforms.projected(change).await?;
        let answer = platforms.ask_as_client(SIGNED, &forged, &[]).await?;
        is_refused(&answer, 401, "invalid_client", "did not prove").context(name)?;
    }
    let two_ways = platforms.ask_as_client(SIGNED, &projected, &[("client_secret", "x")]).await?;
    is_refused(&two_ways, 400, "invalid_request", "more than one way")?;
    let by_name = [("grant_type", "client_credentials"), ("client_id", WRITER)];
    is_refused(&platforms.world.post("/oauth/token", &by_name).await?, 401, "invalid_client", "")?;
    Ok(())
}

#[tokio::test]
async fn what_changes_about_a_workload_counts_at_its_next_word_and_a_revocation_at_once() -> Result<()> {
    let platforms = Platforms::start().await?;
    let projected = platforms.projected(json!({})).await?;
    let back = platforms.manifests();
    let cases = [
        ("the provider is off", platforms.of_kubernetes("workloads: {}, active: false"), "not known"),
        ("no workloads", platforms.of_kubernetes("assertions: {virtual_servers: [shop]}"), "not known"),
        ("shorter lives", platforms.of_kubernetes("workloads: {lifetime_max: 30m}"), "lives longer"),
        ("other algorithms", platforms.of_kubernetes("workloads: {}, algorithms: [EdDSA]"), "algorithm"),
        ("another subject", writer("system:serviceaccount:agents:other", HEADLESS), "no client here"),
        ("the client is off", writer(SUBJECT, &format!("{HEADLESS}, active: false")), "not active"),
        ("not headless", writer(SUBJECT, ""), "headless"),
        ("nobody answers for it", manifest("User", JANE, "{groups: [buyers], active: false}"), "User"),
    ];
    for (what, changed, why) in cases {
        ensure!(platforms.ask(&projected, &[]).await?.status == 200, "before: {what}");
        platforms.apply(&changed)?;
        is_refused(&platforms.ask(&projected, &[]).await?, 400, "invalid_grant", why).context(what)?;
        platforms.apply(&(manifest("User", JANE, "{groups: [buyers]}") + &back))?;
    }
    let answer = platforms.ask(&projected, &[]).await?;
    platforms.calls(&answer, WRITER).await?;
    platforms.world.deployment.cli_ok(&["revoke", "client", WRITER, "--reason", "leaked", "--wait"])?;
    let called = platforms.world.mcp(&answer.body).call("read", json!({})).await?;
    ensure!(called.reason() == "consent_revoked", "{}", called.text);
    is_refused(&platforms.ask(&projected, &[]).await?, 400, "invalid_grant", "revoked here")?;
    Ok(())
}

#[tokio::test]
async fn keys_in_the_manifest_serve_where_nobody_can_fetch_them() -> Result<()> {
    let platforms = Platforms::start().await?;
    let keys = Answer::to(platforms.world.http.get(format!("{}/jwks", platforms.kubernetes.issuer))).await?.text;
    let projected = platforms.projected(json!({})).await?;
    platforms.kubernetes.listen(false).await?;
    let away = platforms.ask(&projected, &[]).await?;
    is_refused(&away, 503, "temporarily_unavailable", "keys")?;
    platforms.apply(&platforms.of_kubernetes(&format!("workloads: {{jwks: '{keys}'}}")))?;
    platforms.calls(&platforms.ask(&projected, &[]).await?, WRITER).await?;
    let stranger = platforms.projected(json!({"by": "stranger"})).await?;
    is_refused(&platforms.ask(&stranger, &[]).await?, 400, "invalid_grant", "signature")
}

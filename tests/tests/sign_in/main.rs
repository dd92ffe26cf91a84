//! Signing in at a company's own identity provider, end to end.
//!
//! The providers are npm `oidc-provider`, each a process of its own, with its usual pages; the browser is `browser`.
//! Here is what works and what follows from it; what nobody honest does is in `attacks`, what changes meanwhile in
//! `changes`. Specification: OpenID Connect Core 1.0 §3.1.

#![expect(clippy::indexing_slicing, reason = "a test that panics fails, as it should")]

mod attacks;
mod browser;
mod changes;

use anyhow::{Context as _, Result, ensure};
use bailiwick_tests::{
    Answer, Deployment, McpClient, ScriptedServer, Shape,
    deployment::as_url,
    eventually,
    idp::IdentityProvider,
    manifests::{manifest, person, policy},
    scripted::tool,
};
use reqwest::Url;
use serde_json::{Value, json};

use self::browser::{Browser, Seen};

const JANE: &str = "jane@example.com";
const AGENT: &str = "assistant";
const SECRET: &str = "acme-secret";

/// Jane, her agent, a server whose tools only buyers may call, and the company's provider.
struct World {
    deployment: Deployment,
    /// Holds the server.
    _server: ScriptedServer,
    acme: IdentityProvider,
    /// Of the authorization server.
    issuer: String,
    /// What is registered at the provider.
    client_id: String,
    secret: String,
}

impl World {
    async fn start(shape: Shape) -> Result<Self> {
        let deployment = Deployment::start(shape).await?;
        let server = ScriptedServer::start(vec![tool("read", "retrieval")]).await?;
        let buyers = "permit (principal in Group::\"buyers\", action, resource in Server::\"shop\");";
        deployment.apply(&(server.manifests("shop", "plain") + &person(JANE, "", AGENT)))?;
        // In place of the one that permits everything.
        deployment.apply(&policy("shop", buyers))?;
        let issuer = issuer(&deployment).await?;
        let acme = IdentityProvider::start(&[])?;
        let by_secret = json!({"token_endpoint_auth_method": "client_secret_basic"});
        let (client_id, secret) = acme.register(&callback(&issuer, "acme"), &by_secret).await?;
        let secret = secret.context("a secret")?;
        let world = Self { deployment, _server: server, acme, issuer, client_id, secret };
        world.seal(SECRET, &world.secret)?;
        world.deployment.apply(&world.acme_with(&json!({})))?;
        Ok(world)
    }

    /// The provider's manifest, with some members of its specification replaced.
    fn acme_with(&self, other: &Value) -> String {
        let sign_in = json!({"title": "Acme", "client_id": self.client_id, "auth": "client_secret", "secret": SECRET});
        of_provider("acme", &self.acme, &sign_in, other)
    }

    /// Seals a secret for identity providers.
    fn seal(&self, name: &str, value: &str) -> Result<()> {
        let file = self.deployment.data().join("secret.txt");
        std::fs::write(&file, value)?;
        let file = file.display().to_string();
        let set = ["secret", "set", name, "--for", "identity-provider", "--from-file", &file];
        self.deployment.cli_ok(&set).map(drop)
    }

    /// Where a sign-in at a provider begins, which ends at the page of consents.
    fn begin(&self, provider: &str) -> Result<Url> {
        Ok(Url::parse(&format!("{}/sign-in/with/{provider}?return=%2Fconsents", self.issuer))?)
    }

    fn consents(&self) -> Result<Url> {
        Ok(Url::parse(&format!("{}/consents", self.issuer))?)
    }

    /// The whole way as `login`; what the callback answers.
    async fn sign_in(&self, browser: &mut Browser, provider: &str, login: &str) -> Result<Seen> {
        let back = callback(&self.issuer, provider);
        match browser.sign_in(&self.begin(provider)?, login, &back).await? {
            Ok(url) => browser.visit(&url).await,
            Err(seen) => Ok(seen),
        }
    }

    /// The same, which must end signed in at the page of consents.
    async fn signed_in(&self, browser: &mut Browser, provider: &str, login: &str) -> Result<()> {
        let seen = self.sign_in(browser, provider, login).await?;
        let to = seen.location();
        ensure!(to == Some(self.consents()?), "{} {to:?} {}\n{}", seen.status, seen.text, self.deployment.log());
        self.is_known(browser, &format!("{login}@example.com")).await
    }

    /// Whether a page of ours knows this person at this browser.
    async fn is_known(&self, browser: &mut Browser, user: &str) -> Result<()> {
        let seen = browser.visit(&self.consents()?).await?;
        ensure!(seen.status == 200 && seen.text.contains(user), "not {user}: {} {}", seen.status, seen.text);
        Ok(())
    }

    /// Nobody is: the page sends to the sign-in.
    async fn is_nobody(&self, browser: &mut Browser) -> Result<()> {
        let seen = browser.visit(&self.consents()?).await?;
        let to = seen.location().map(|url| url.path().to_owned());
        ensure!(seen.status == 303 && to.as_deref() == Some("/sign-in"), "{} {}", seen.status, seen.text);
        Ok(())
    }

    /// Jane's client, at every data plane.
    fn clients(&self) -> Result<Vec<McpClient>> {
        let issued = self.deployment.token_for(JANE, AGENT, "shop", "retrieval", "10m")?;
        let token = issued["access_token"].as_str().context("token")?;
        Ok(self.deployment.mcp.iter().map(|mcp| McpClient::new(mcp, "shop", token)).collect())
    }
}

/// Where a provider sends people back to.
fn callback(issuer: &str, provider: &str) -> String {
    format!("{issuer}/sign-in/callback/{provider}")
}

/// A provider's manifest.
fn of_provider(name: &str, provider: &IdentityProvider, sign_in: &Value, other: &Value) -> String {
    let groups = json!({"claim": "groups", "map": {"grp-7": "buyers", "grp-8": "sellers"}});
    let mut spec = json!({
        "issuer": provider.issuer,
        "networks": ["127.0.0.0/8"],
        "algorithms": ["ES256"],
        "people": {"user": "email", "groups": groups},
        "sign_in": sign_in,
    });
    for (name, value) in other.as_object().into_iter().flatten() {
        spec[name] = value.clone();
    }
    manifest("IdentityProvider", name, &spec.to_string())
}

/// As the metadata of a data plane names it, once it knows the virtual server.
async fn issuer(deployment: &Deployment) -> Result<String> {
    let base = deployment.mcp[0].strip_suffix("/mcp").context("an MCP URL")?.to_owned();
    let http = reqwest::Client::builder().no_proxy().build()?;
    let url = format!("{base}/.well-known/oauth-protected-resource/mcp/shop");
    eventually("the resource's metadata", async || {
        let answer = Answer::to(http.get(&url)).await.ok()?;
        answer.body["authorization_servers"][0].as_str().map(str::to_owned)
    })
    .await
}

/// Whether the clients are permitted, at every data plane, in the end.
async fn until_permitted(clients: &[McpClient], permitted: bool) -> Result<()> {
    for client in clients {
        eventually(&format!("permitted: {permitted} at {}", client.url), async || {
            let answer = client.call("read", json!({})).await.ok()?;
            (answer.body.get("result").is_some() == permitted).then_some(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_signs_in_at_the_company_s_provider_and_is_in_the_groups_that_it_says() -> Result<()> {
    let world = World::start(Shape::Processes).await?;
    let clients = world.clients()?;
    until_permitted(&clients, false).await?;
    world.acme.person("jane", json!({"groups": ["grp-7", "grp-unknown", "buyers of all"]})).await?;
    let mut browser = Browser::new()?;
    let page = browser.visit(&Url::parse(&format!("{}/sign-in?return=%2Fconsents", world.issuer))?).await?;
    let offered = format!("{}/sign-in/with/acme?return=%2Fconsents", world.issuer);
    ensure!(page.text.contains("Acme") && page.text.contains(&offered), "{}", page.text);
    world.signed_in(&mut browser, "acme", "jane").await?;
    until_permitted(&clients, true).await?;
    let user: Value = serde_json::from_str(&world.deployment.cli_ok(&["get", "user", JANE, "-o", "json"])?)?;
    ensure!(user.to_string().contains("\"buyers\"") && !user.to_string().contains("grp-"), "{user:#}");
    // She moves to another team, and is asked at the next sign-in.
    world.acme.person("jane", json!({"groups": ["grp-8"]})).await?;
    let mut later = Browser::new()?;
    world.signed_in(&mut later, "acme", "jane").await?;
    until_permitted(&clients, false).await?;
    // What she was before that signs in anew.
    world.is_nobody(&mut browser).await?;
    is_on_record(&world).await
}

/// Each sign-in is on record with the provider, and nothing that proves anything is anywhere.
async fn is_on_record(world: &World) -> Result<()> {
    let records = eventually("the sign-ins are in the ledger", async || {
        let records = world.deployment.audit(&["--limit", "1000"]).ok()?;
        let of: Vec<_> = records.into_iter().filter(|one| one.to_string().contains("person_signed_in")).collect();
        (of.len() == 2).then_some(of)
    })
    .await?;
    for record in &records {
        let text = record.to_string();
        ensure!(text.contains("identity-provider:acme") && text.contains(JANE), "{record:#}");
    }
    let log = world.deployment.log();
    for told in [world.secret.as_str(), "eyJ", "code_verifier", "grp-"] {
        ensure!(!log.contains(told), "{told} is in the log");
        ensure!(records.iter().all(|record| !record.to_string().contains(told)), "{told} is on record");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_providers_are_told_apart_and_each_way_to_prove_who_we_are_is_taken() -> Result<()> {
    let world = World::start(Shape::Embedded).await?;
    let other = IdentityProvider::start(&[])?;
    let ways = [
        (
            "by-key",
            json!({
                "token_endpoint_auth_method": "private_key_jwt", "token_endpoint_auth_signing_alg": "EdDSA",
                "jwks_uri": format!("{}/.well-known/jwks.json", world.issuer),
            }),
        ),
        ("public", json!({"token_endpoint_auth_method": "none"})),
    ];
    let (by_key, _) = other.register(&callback(&world.issuer, "by-key"), &ways[0].1).await?;
    let sign_in = json!({"client_id": by_key, "auth": "private_key_jwt"});
    world.deployment.apply(&of_provider("by-key", &other, &sign_in, &json!({})))?;
    for provider in ["acme", "by-key", "acme"] {
        world.signed_in(&mut Browser::new()?, provider, "jane").await.context(provider)?;
    }
    let mut browser = Browser::new()?;
    let page = browser.visit(&Url::parse(&format!("{}/sign-in?return=%2Fconsents", world.issuer))?).await?;
    ensure!(page.text.contains("/sign-in/with/acme?") && page.text.contains("/sign-in/with/by-key?"), "{}", page.text);
    // The same company again, with no secret at all.
    world.deployment.cli_ok(&["delete", "identity-provider", "by-key"])?;
    let (public, _) = other.register(&callback(&world.issuer, "public"), &ways[1].1).await?;
    let sign_in = json!({"client_id": public, "auth": "none"});
    world.deployment.apply(&of_provider("public", &other, &sign_in, &json!({})))?;
    world.signed_in(&mut browser, "public", "jane").await?;
    let listed = world.deployment.cli_ok(&["get", "identity-provider", "-o", "json"])?;
    ensure!(!listed.contains(&world.secret), "a secret is shown");
    let secrets = world.deployment.cli_ok(&["secret", "list"])?;
    let row = secrets.lines().find(|line| line.starts_with(SECRET)).context("no row")?.to_owned();
    ensure!(row.contains("identity-provider") && row.ends_with("acme"), "{secrets}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_known_joins_only_where_the_manifest_says_so() -> Result<()> {
    let world = World::start(Shape::Embedded).await?;
    let mut browser = Browser::new()?;
    let seen = world.sign_in(&mut browser, "acme", "newcomer").await?;
    ensure!(seen.status == 403 && seen.text.contains("not known here"), "{} {}", seen.status, seen.text);
    world.is_nobody(&mut browser).await?;
    let people = json!({"user": "email", "join": true, "groups": {"claim": "groups"}, "domains": ["example.com"]});
    world.deployment.apply(&world.acme_with(&json!({"people": people})))?;
    world.acme.person("newcomer", json!({"groups": ["buyers", "not a name"]})).await?;
    world.signed_in(&mut Browser::new()?, "acme", "newcomer").await?;
    let user = world.deployment.cli_ok(&["get", "user", "newcomer@example.com", "-o", "json"])?;
    ensure!(user.contains("buyers") && !user.contains("not a name"), "{user}");
    // Whoever joins is of the domains that the provider speaks for.
    let people = json!({"user": "email", "join": true, "domains": ["acme.example"]});
    world.deployment.apply(&world.acme_with(&json!({"people": people})))?;
    let seen = world.sign_in(&mut Browser::new()?, "acme", "stranger").await?;
    ensure!(seen.status == 403 && seen.text.contains("does not speak for you"), "{} {}", seen.status, seen.text);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_that_begins_at_one_node_ends_at_another() -> Result<()> {
    let world = World::start(Shape::Cluster).await?;
    let nodes: Vec<String> = world
        .deployment
        .role("control-plane")
        .iter()
        .filter_map(|node| Some(as_url(node.listen.get("http")?.as_str()?)))
        .collect();
    ensure!(nodes.len() == 3, "{nodes:?}");
    for (begins, ends) in [(0, 1), (1, 2), (2, 0)] {
        let mut browser = Browser::new()?;
        let begin = Url::parse(&world.begin("acme")?.as_str().replace(&world.issuer, &nodes[begins]))?;
        let end = browser.sign_in(&begin, "jane", &callback(&world.issuer, "acme")).await?;
        let Ok(end) = end else { anyhow::bail!("{:?}", end.err()) };
        let seen = browser.visit(&Url::parse(&end.as_str().replace(&world.issuer, &nodes[ends]))?).await?;
        ensure!(seen.location() == Some(world.consents()?), "{} {}", seen.status, seen.text);
    }
    Ok(())
}

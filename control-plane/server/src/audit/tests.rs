//! How filters are read, how pages follow each other, and what the CSV is made of.
//!
//! Who sees whose entries is tested over the whole system (`tests/tests/authorization/timeline.rs`).

use std::str::from_utf8;

use axum::body::to_bytes;
use bailiwick_control_plane_core::refusal::Endpoint;
use bailiwick_proto::Tier;

use super::*;

fn read(query: &str) -> Result<Asked, &'static str> {
    asked(&Form::of_query(query).unwrap())
}

fn entry(number: u32, reason: &str) -> Arc<Entry> {
    Arc::new(Entry {
        place: Place { revision: 7, number },
        time: 1_795_219_200_000_123,
        outcome: Outcome::Granted,
        user: "jane@example.com".into(),
        agent: "assistant".into(),
        client: "editor".into(),
        virtual_server: "shop".into(),
        level: Some(Tier::Destructive),
        tools: vec!["shop/charge".into(), "shop/a b".into()],
        consent: "c-1".into(),
        actor: "user:jane@example.com".into(),
        reason: reason.into(),
        provider: String::new(),
        expires_at: Some(1_795_222_800),
        evidence: Some(Evidence { challenge: "-43chars".into(), redirect_uri: "http://127.0.0.1:3000/cb".into() }),
        parent: "c-0".into(),
        refused: None,
    })
}

async fn downloaded(entries: Vec<Arc<Entry>>) -> String {
    let body = to_bytes(download(entries).into_body(), 64 << 20).await.unwrap();
    from_utf8(&body).unwrap().to_owned()
}

#[test]
fn filters_are_read() {
    let query = "outcome=revoked&client=https%3A%2F%2Fa.example%2Fc&subject=jane%40example.com\
                 &since=2026-11-20&until=2026-11-21&before=41-2&format=csv&whatever=1";
    let filter = Filter {
        outcome: Some(Outcome::Revoked),
        client: Some("https://a.example/c".into()),
        subject: Some("jane@example.com".into()),
        user: None,
        since: Some(1_795_132_800_000_000),
        // The day itself belongs to it.
        until: Some(1_795_305_600_000_000),
    };
    let before = Some(Place { revision: 41, number: 2 });
    assert_eq!(read(query), Ok(Asked { filter, before, is_csv: true }));
    assert_eq!(read("outcome=&client=&since="), Ok(Asked::default()), "an empty form");
    assert_eq!(read(&format!("client={}", "x".repeat(VALUE_BYTES_MAX))).map(|asked| asked.is_csv), Ok(false));
}

#[test]
fn what_is_no_filter_is_refused() {
    let long = format!("client={}", "x".repeat(VALUE_BYTES_MAX + 1));
    for wrong in [
        "outcome=allowed",
        "since=yesterday",
        "since=2026-02-30",
        "until=2026-1-1",
        "until=1969-12-31",
        "since=2026-11-21T00:00:00Z",
        "before=7",
        "before=-1-1",
        "format=json",
        "client=a&client=b",
        &long,
    ] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn links_keep_the_filters() {
    let query = "client=a%26b%3D%22c&since=2026-11-20";
    let filters = filters(&Form::of_query(query).unwrap());
    let link = url("https://auth.example/mcp/audit", &filters, ("before", "7-0"));
    assert_eq!(link, "https://auth.example/mcp/audit?client=a%26b%3D%22c&since=2026-11-20&before=7-0");
    let asked = read(link.split_once('?').unwrap().1).unwrap();
    assert_eq!(asked.filter.client.as_deref(), Some("a&b=\"c"));
    assert_eq!(asked.before, Some(Place { revision: 7, number: 0 }));
}

#[tokio::test]
async fn a_page_ends_where_the_next_begins() {
    let page_of = async |count: u32| {
        let entries = (0..count).rev().map(|number| entry(number, "x")).collect();
        let found = Found { entries, is_everybodys: true, fallen_out: (3, 0) };
        let response = page("/mcp/audit".into(), TimelineFilters::default(), Some(found), None);
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        from_utf8(&body).unwrap().to_owned()
    };
    let rows = |html: &str| html.matches("data-of=\"Time\"").count();
    let full = page_of(100).await;
    assert_eq!((rows(&full), full.contains("before=")), (100, false));
    let more = page_of(101).await;
    assert_eq!((rows(&more), more.contains("before=7-1\"")), (100, true), "{more}");
    assert!(more.contains("3 older"), "what fell out is told: {more}");
}

#[tokio::test]
async fn csv_is_as_rfc_4180_says() {
    let text = downloaded(vec![entry(0, "said \"yes\",\r\nand so on")]).await;
    let head = COLUMNS.map(|name| format!("\"{name}\"")).join(",");
    let row = "\"2026-11-21T00:00:00.000123Z\",\"granted\",\"jane@example.com\",\"assistant\",\"editor\",\"shop\",\
               \"destructive\",\"shop/charge\nshop/a b\",\"c-1\",\"user:jane@example.com\",\
               \"said \"\"yes\"\",\r\nand so on\",\"\",\"2026-11-21T01:00:00Z\",\"'-43chars\",\
               \"http://127.0.0.1:3000/cb\",\"7\",\"\",\"\",\"\",\"\",\"\",\"\",\"c-0\"";
    assert_eq!(text, format!("{head}\r\n{row}\r\n"));
    let response = download(Vec::new());
    assert_eq!(response.headers()[header::CONTENT_DISPOSITION], "attachment; filename=\"consent-timeline.csv\"");
    assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
}

#[tokio::test]
async fn a_refusal_says_what_was_refused_and_how_often() {
    let told = Refused {
        endpoint: Endpoint::Token,
        grant: "refresh_token".into(),
        error: "invalid_grant".into(),
        claimed: true,
        count: 12,
        first: 1_795_219_199_000_000,
    };
    let once = Refused { count: 1, claimed: false, ..told.clone() };
    let of = |told: &Refused| Arc::new(Entry { refused: Some(Box::new(told.clone())), ..Entry::clone(&entry(0, "x")) });
    let text = downloaded(vec![of(&told), of(&once)]).await;
    let ends = |claimed: &str, count: u32| {
        format!(
            "\"7\",\"token\",\"refresh_token\",\"invalid_grant\",\"{claimed}\",\"{count}\",\"2026-11-20T23:59:59Z\",\"c-0\""
        )
    };
    let rows: Vec<&str> = text.split("\r\n").skip(1).collect();
    assert!(rows[0].ends_with(&ends("false", 12)) && rows[1].ends_with(&ends("true", 1)), "{text}");
    assert_eq!(row(&of(&told)).refused, "token: invalid_grant, 12 times, by whoever said to be this client");
    assert_eq!(row(&of(&once)).refused, "token: invalid_grant");
    assert_eq!(row(&entry(0, "x")).refused, "");
}

#[tokio::test]
async fn csv_has_every_row_once_in_order() {
    let count = u32::try_from(CSV_ROWS_AT_ONCE).unwrap() * 2 + 1;
    let text = downloaded((0..count).map(|number| entry(number, &format!("r{number}"))).collect()).await;
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let reasons: Vec<String> = reader.records().map(|row| row.unwrap()[10].to_owned()).collect();
    assert_eq!(reasons, (0..count).map(|number| format!("r{number}")).collect::<Vec<_>>());
}

#[test]
fn no_cell_is_a_formula() {
    for formula in ["=HYPERLINK(\"x\")", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", "\n=1", "＝1"] {
        assert_eq!(harmless(formula.into()), format!("'{formula}"));
    }
    for harmless_already in ["", "a=1", "2026-11-21", " x", "'=1"] {
        assert_eq!(harmless(harmless_already.into()), harmless_already);
    }
}

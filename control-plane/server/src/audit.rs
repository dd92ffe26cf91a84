//! The consent timeline for auditors: as a page, and as CSV (RFC 4180).
//!
//! Everybody who is signed in sees what concerns them; members of the configured groups see everybody's. Filters are
//! read strictly; who may see what is told by a state that a majority has confirmed. Cells are made so that no
//! spreadsheet runs one (OWASP: CSV injection). Called by `oauth` for its routes. Absent: what an entry is (`timeline`
//! of the domain); the provable record, which is the ledger's.

use std::{iter, sync::Arc};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{RawQuery, State},
    http::{HeaderMap, HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bailiwick_control_plane_core::{
    State as Committed, show,
    timeline::{Entry, Evidence, Filter, Outcome, Place, Refused, Timeline},
};
use bailiwick_ledger_core::time::parse_ts;
use futures::stream;

use crate::{
    minting,
    oauth::{Services, form::Form},
    pages::{self, TimelineFilters, TimelineRow},
    sign_in::{self, Session},
};

const PATH: &str = "/mcp/audit";
/// Rows of a page.
const ROWS: usize = 100;
/// Rows of CSV made in one go: less than a millisecond's work.
const CSV_ROWS_AT_ONCE: usize = 500;
/// Longest value of a filter: a client's name may be a URL.
const VALUE_BYTES_MAX: usize = 400;
const DAY_MICROS: u64 = 86_400_000_000;

const COLUMNS: [&str; 23] = [
    "time",
    "outcome",
    "user",
    "agent",
    "client",
    "virtual_server",
    "level",
    "tools",
    "consent",
    "actor",
    "reason",
    "provider",
    "expires",
    "challenge",
    "redirect_uri",
    "revision",
    "endpoint",
    "grant",
    "error",
    "client_proven",
    "count",
    "first",
    "parent",
];

/// The endpoint.
pub(crate) fn routes() -> Router<Services> {
    Router::new().route(PATH, get(answer))
}

/// What is asked for.
#[derive(Debug, Default, PartialEq)]
struct Asked {
    filter: Filter,
    /// Only what is older than this.
    before: Option<Place>,
    is_csv: bool,
}

/// What is there for somebody.
struct Found {
    entries: Vec<Arc<Entry>>,
    is_everybodys: bool,
    /// Of consents, and of refusals.
    fallen_out: (u64, u64),
}

async fn answer(State(services): State<Services>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    let Some((issuer, _)) = services.domain.read(minting::issuer) else { return sign_in::not_now() };
    let query = query.unwrap_or_default();
    let path = if query.is_empty() { PATH.to_owned() } else { format!("{PATH}?{query}") };
    let Some(session) = sign_in::session(&services, &headers) else { return sign_in::redirect(&issuer, &path) };
    let form = Form::of_query(&query).ok();
    let filters = form.as_ref().map(filters).unwrap_or_default();
    let action = format!("{issuer}{PATH}");
    let asked = form.as_ref().ok_or("These are too many filters.").and_then(asked);
    let asked = match asked {
        Ok(asked) => asked,
        Err(problem) => return page(action, filters, None, Some(problem.to_owned())),
    };
    let limit = if asked.is_csv { usize::MAX } else { ROWS + 1 };
    let domain = &services.domain;
    let found = domain.read_timeline(|state, timeline| find(&services, state, timeline, &session, &asked, limit));
    match found.await {
        Err(_) => sign_in::not_now(),
        Ok(None) => sign_in::redirect(&issuer, &path),
        Ok(Some(found)) if asked.is_csv => download(found.entries),
        Ok(Some(found)) => page(action, filters, Some(found), None),
    }
}

/// `None` where the person is not active any more.
fn find(
    services: &Services,
    state: &Committed,
    timeline: &Timeline,
    session: &Session,
    asked: &Asked,
    limit: usize,
) -> Option<Found> {
    let spec = state.users.get(&session.user).map(|user| &user.spec).filter(|spec| spec.active)?;
    let is_everybodys = services.auditor_groups.iter().any(|group| spec.groups.contains(group));
    let user = (!is_everybodys).then(|| session.user.clone());
    let entries = timeline.newest(&Filter { user, ..asked.filter.clone() }, asked.before, limit);
    Some(Found { entries, is_everybodys, fallen_out: timeline.fallen_out() })
}

/// As they were given, for the form.
fn filters(form: &Form) -> TimelineFilters {
    let given = |name| form.one(name).ok().flatten().filter(|value| value.len() <= VALUE_BYTES_MAX);
    let given = |name| given(name).unwrap_or_default().to_owned();
    TimelineFilters {
        outcome: given("outcome"),
        client: given("client"),
        subject: given("subject"),
        since: given("since"),
        until: given("until"),
    }
}

fn asked(form: &Form) -> Result<Asked, &'static str> {
    let given = |name| match form.one(name) {
        Ok(Some(value)) if value.len() > VALUE_BYTES_MAX => Err("A filter is too long."),
        Ok(value) => Ok(value),
        Err(_) => Err("A filter is there more than once."),
    };
    let day = |name| {
        let wrong = "Since and until are days, such as 2026-11-21.";
        given(name)?.map(|text| day(text).ok_or(wrong)).transpose()
    };
    let outcome = given("outcome")?.map(|word| word.parse().map_err(|_| "There is no such outcome.")).transpose()?;
    let before = given("before")?.map(|text| text.parse().map_err(|_| "There is no such page.")).transpose()?;
    let is_csv = match given("format")? {
        None => false,
        Some("csv") => true,
        Some(_) => return Err("There is no such format."),
    };
    let filter = Filter {
        outcome,
        client: given("client")?.map(str::to_owned),
        subject: given("subject")?.map(str::to_owned),
        user: None,
        since: day("since")?,
        until: day("until")?.map(|day| day.saturating_add(DAY_MICROS)),
    };
    Ok(Asked { filter, before, is_csv })
}

/// The beginning of a day (`YYYY-MM-DD`, UTC), microseconds since 1970.
fn day(text: &str) -> Option<u64> {
    u64::try_from(parse_ts(&format!("{text}T00:00:00.000000Z"))?).ok()
}

fn page(action: String, filters: TimelineFilters, found: Option<Found>, problem: Option<String>) -> Response {
    let status = if problem.is_some() { StatusCode::BAD_REQUEST } else { StatusCode::OK };
    let nothing = || Found { entries: Vec::new(), is_everybodys: false, fallen_out: (0, 0) };
    let Found { entries, is_everybodys, fallen_out } = found.unwrap_or_else(nothing);
    let rows: Vec<TimelineRow> = entries.iter().take(ROWS).map(|entry| row(entry)).collect();
    let last = entries.get(ROWS - 1).filter(|_| entries.len() > ROWS);
    let more_url = last.map(|last| url(&action, &filters, ("before", &last.place.to_string())));
    let csv_url = url(&action, &filters, ("format", "csv"));
    let outcomes = Outcome::ALL.map(|outcome| outcome.as_str().to_owned()).to_vec();
    let page =
        pages::Timeline { rows, filters, outcomes, action, csv_url, more_url, is_everybodys, fallen_out, problem };
    pages::respond(page, status, &[])
}

fn url(action: &str, filters: &TimelineFilters, more: (&str, &str)) -> String {
    let TimelineFilters { outcome, client, subject, since, until } = filters;
    let given = [("outcome", outcome), ("client", client), ("subject", subject), ("since", since), ("until", until)];
    let given = given.into_iter().map(|(name, value)| (name, value.as_str())).filter(|(_, value)| !value.is_empty());
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(given.chain([more]));
    format!("{action}?{}", query.finish())
}

fn row(entry: &Entry) -> TimelineRow {
    let evidence = entry.evidence.as_ref();
    TimelineRow {
        time: show::time(entry.time),
        outcome: entry.outcome.as_str().to_owned(),
        user: entry.user.clone(),
        agent: entry.agent.clone(),
        client: entry.client.clone(),
        virtual_server: entry.virtual_server.clone(),
        level: level(entry),
        tools: entry.tools.clone(),
        consent: entry.consent.clone(),
        redirect_uri: evidence.map(|evidence| evidence.redirect_uri.clone()).unwrap_or_default(),
        challenge: evidence.map(|evidence| evidence.challenge.clone()).unwrap_or_default(),
        actor: entry.actor.clone(),
        reason: entry.reason.clone(),
        refused: entry.refused.as_deref().map(refused).unwrap_or_default(),
    }
}

/// What was refused, in a line.
fn refused(told: &Refused) -> String {
    let Refused { endpoint, error, claimed, count, .. } = told;
    let times = if *count == 1 { String::new() } else { format!(", {count} times") };
    let unproven = if *claimed { ", by whoever said to be this client" } else { "" };
    format!("{}: {error}{times}{unproven}", endpoint.as_str())
}

fn level(entry: &Entry) -> String {
    entry.level.map(|level| level.as_str().to_owned()).unwrap_or_default()
}

fn download(entries: Vec<Arc<Entry>>) -> Response {
    const HEADERS: [(HeaderName, &str); 5] = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8; header=present"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"consent-timeline.csv\""),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    let head = iter::once_with(|| csv(iter::once(COLUMNS.map(str::to_owned))));
    let parts = (0..entries.len()).step_by(CSV_ROWS_AT_ONCE);
    let parts = parts.map(move |from| csv(entries.iter().skip(from).take(CSV_ROWS_AT_ONCE).map(|entry| cells(entry))));
    (HEADERS, Body::from_stream(stream::iter(head.chain(parts)))).into_response()
}

/// RFC 4180: lines end in CRLF. All cells are quoted, so that one that separates by semicolons finds no others.
fn csv(rows: impl Iterator<Item = [String; COLUMNS.len()]>) -> Result<Bytes, csv::Error> {
    let mut builder = csv::WriterBuilder::new();
    builder.terminator(csv::Terminator::CRLF).quote_style(csv::QuoteStyle::Always);
    let mut writer = builder.from_writer(Vec::new());
    for row in rows {
        writer.write_record(row.map(harmless))?;
    }
    writer.into_inner().map(Bytes::from).map_err(|error| error.into_error().into())
}

fn cells(entry: &Entry) -> [String; COLUMNS.len()] {
    let evidence = |of: fn(&Evidence) -> &String| entry.evidence.as_ref().map(of).cloned().unwrap_or_default();
    let refused = |of: fn(&Refused) -> String| entry.refused.as_deref().map(of).unwrap_or_default();
    let proven = if entry.client.is_empty() { String::new() } else { refused(|told| (!told.claimed).to_string()) };
    [
        show::time(entry.time),
        entry.outcome.as_str().to_owned(),
        entry.user.clone(),
        entry.agent.clone(),
        entry.client.clone(),
        entry.virtual_server.clone(),
        level(entry),
        // None of their names has a line end.
        entry.tools.join("\n"),
        entry.consent.clone(),
        entry.actor.clone(),
        entry.reason.clone(),
        entry.provider.clone(),
        entry.expires_at.map(|seconds| show::time(seconds.saturating_mul(1_000_000))).unwrap_or_default(),
        evidence(|evidence| &evidence.challenge),
        evidence(|evidence| &evidence.redirect_uri),
        entry.place.revision.to_string(),
        refused(|told| told.endpoint.as_str().to_owned()),
        refused(|told| told.grant.clone()),
        refused(|told| told.error.clone()),
        proven,
        refused(|told| told.count.to_string()),
        refused(|told| show::time(told.first)),
        entry.parent.clone(),
    ]
}

/// A cell that no spreadsheet takes for a formula (OWASP: CSV injection): with an apostrophe in front.
fn harmless(cell: String) -> String {
    const BEGINS_FORMULA: [char; 11] = ['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'];
    if cell.starts_with(BEGINS_FORMULA) { format!("'{cell}") } else { cell }
}

#[cfg(test)]
mod tests;

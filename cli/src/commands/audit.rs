//! `audit query` and `audit export`: what the ledger holds, for people and for spreadsheets.
//!
//! A query shows one line per call, or decision for a service: an intent and its outcome share a request id. An export walks the log in its
//! own order, page by page, so that it is complete and can be repeated.

use std::{
    fs::File,
    io::{self, Write},
};

use serde_json::Value;

use crate::{
    args::{AuditArgs, AuditCommand, AuditExportArgs, AuditFilter, ExportFormat, Output},
    failure::Failure,
    ledger_client,
    output::{print_list, table, text},
};

/// Records per page of an export, and of a query that leaves out bookkeeping.
const PAGE_RECORDS: usize = 1000;
/// Pages a query reads before it shows what it has: a day of an idle node's heads is about seventeen.
const QUERY_PAGES_MAX: usize = 50;

/// Columns of the CSV: header and path in the record.
const COLUMNS: [(&str, &str); 36] = [
    ("index", "index"),
    ("leaf_hash", "leaf_hash"),
    ("kind", "kind"),
    ("ts", "ts"),
    ("node", "node"),
    ("epoch", "epoch"),
    ("seq", "seq"),
    ("rev", "rev"),
    ("request_id", "request_id"),
    ("user", "user"),
    ("agent", "agent"),
    ("owner", "owner"),
    ("project", "project"),
    ("client", "client"),
    ("session", "session"),
    ("consent", "consent"),
    ("binding", "binding"),
    ("virtual_server", "virtual_server"),
    ("server", "server"),
    ("tool", "tool"),
    ("tool_hash", "tool_hash"),
    ("tier", "tier"),
    ("effect", "decision.effect"),
    ("reason", "decision.reason"),
    ("policies", "decision.policies"),
    ("status", "outcome.status"),
    ("error_code", "outcome.error_code"),
    ("latency_us", "outcome.latency_us"),
    ("cost", "outcome.cost"),
    ("args_commitment", "args.commitment"),
    ("result_commitment", "result.commitment"),
    ("trace_id", "trace.trace_id"),
    ("client_name", "trace.client_name"),
    ("control_event", "control.type"),
    ("method", "trace.method"),
    ("decision_client", "decision_client"),
];

pub(crate) async fn run(command: AuditCommand) -> Result<(), Failure> {
    match command {
        AuditCommand::Query(args) => query(args).await,
        AuditCommand::Export(args) => export(args).await,
    }
}

async fn query(args: AuditArgs) -> Result<(), Failure> {
    let limit = args.limit as usize;
    let people = args.output == Output::Table && args.filter.kind.is_none();
    let mut items = Vec::new();
    let mut before = None::<String>;
    for _ in 0..QUERY_PAGES_MAX {
        let mut parameters = parameters(&args.filter);
        parameters.push(("limit", if people { PAGE_RECORDS } else { limit }.to_string()));
        parameters.extend(before.take().map(|index| ("before", index)));
        let mut answer = ledger_client::get(&args.filter.ledger, "/v1/records", &parameters).await?;
        before = answer.get("next").map(|_| text(&answer, "next"));
        let page = take_items(&mut answer);
        // Heads and epochs prove that nothing is missing; who asks what happened does not want to read them.
        items.extend(page.into_iter().filter(|record| !people || !text(record, "kind").starts_with("node.")));
        if items.len() >= limit || before.is_none() {
            break;
        }
    }
    items.truncate(limit);
    if args.output == Output::Table && items.is_empty() {
        eprintln!("no records match");
        return Ok(());
    }
    print_list(args.output, items, calls);
    Ok(())
}

fn parameters(filter: &AuditFilter) -> Vec<(&'static str, String)> {
    let named = [
        ("user", &filter.user),
        ("agent", &filter.agent),
        ("server", &filter.server),
        ("tool", &filter.tool),
        ("method", &filter.method),
        ("kind", &filter.kind),
        ("decision", &filter.decision),
        ("binding", &filter.binding),
        ("request_id", &filter.request_id),
        ("consent", &filter.consent),
        ("decision_client", &filter.decision_client),
        ("since", &filter.since),
    ];
    named.into_iter().filter_map(|(key, value)| value.clone().map(|value| (key, value))).collect()
}

fn take_items(answer: &mut Value) -> Vec<Value> {
    match answer.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    }
}

/// One line per call; outcomes are folded into the line of their intent.
fn calls(records: &[Value]) -> String {
    let outcome_of = |request: &str| {
        records.iter().find(|record| text(record, "kind") == "call.outcome" && text(record, "request_id") == request)
    };
    let has_intent = |request: &str| {
        records.iter().any(|record| text(record, "kind") == "call.intent" && text(record, "request_id") == request)
    };
    let rows: Vec<Vec<String>> = records
        .iter()
        .filter(|record| text(record, "kind") != "call.outcome" || !has_intent(&text(record, "request_id")))
        .map(|record| row(record, outcome_of(&text(record, "request_id"))))
        .collect();
    table(&["TIME", "DECISION", "USER", "AGENT", "TOOL", "TIER", "RESULT", "MS", "REQUEST"], &rows)
}

fn row(record: &Value, outcome: Option<&Value>) -> Vec<String> {
    let kind = text(record, "kind");
    let service = text(record, "decision_client");
    let is_call = kind.starts_with("call.");
    let is_decided = is_call || !service.is_empty();
    let reason = text(record, "decision.reason");
    let status = outcome.map_or_else(|| text(record, "outcome.status"), |found| text(found, "outcome.status"));
    let result = match (reason.as_str(), status.as_str(), is_call) {
        ("", ..) if !service.is_empty() => format!("told {service}"),
        (reason, ..) if !service.is_empty() => format!("told {service} ({reason})"),
        (_, _, false) => text(record, "control.type"),
        ("", "", true) => "pending".to_owned(),
        ("", status, true) => status.to_owned(),
        (reason, "", true) => reason.to_owned(),
        (reason, status, true) => format!("{status} ({reason})"),
    };
    let latency = outcome.map(|found| text(found, "outcome.latency_us")).unwrap_or_default();
    let milliseconds =
        latency.parse::<u64>().map_or_else(|_| String::new(), |us| format!("{}.{}", us / 1000, us % 1000 / 100));
    let (server, tool, method) = (text(record, "server"), text(record, "tool"), text(record, "trace.method"));
    // Prompts and resources have no tool; what was done with the server says the method.
    let used = match (server.as_str(), tool.as_str()) {
        ("", "") => method,
        ("", tool) => tool.to_owned(),
        (server, "") => format!("{server} {method}"),
        (server, tool) => format!("{server}/{tool}"),
    };
    vec![
        text(record, "ts").chars().take(23).collect::<String>().replace('T', " "),
        if is_decided { text(record, "decision.effect") } else { kind },
        text(record, "user"),
        text(record, "agent"),
        used.trim_end().to_owned(),
        text(record, "tier"),
        result,
        milliseconds,
        text(record, "request_id"),
    ]
}

async fn export(args: AuditExportArgs) -> Result<(), Failure> {
    let out: Box<dyn Write> = match &args.out {
        Some(path) => Box::new(File::create(path).map_err(|error| cannot_write(&path.display().to_string(), &error))?),
        None => Box::new(io::stdout().lock()),
    };
    // The ledger checks the filter's words; the walk below only applies them.
    let probe = [parameters(&args.filter), vec![("limit", "1".to_owned())]].concat();
    ledger_client::get(&args.filter.ledger, "/v1/records", &probe).await?;
    let not_before = args.filter.since.as_deref().map(not_before).transpose()?;
    let mut sink = match Sink::open(args.format, out) {
        Ok(sink) => sink,
        Err(error) => return cut_short(&error),
    };
    let (mut after, mut written) = (None::<String>, 0_u64);
    loop {
        let mut query = vec![("limit", PAGE_RECORDS.to_string())];
        query.extend(after.take().map(|index| ("after", index)));
        let page = ledger_client::get_lines(&args.filter.ledger, "/v1/events", &query).await?;
        let Some(last) = page.last().map(|record| text(record, "index")) else { break };
        for record in page.iter().filter(|record| matches(record, &args.filter, not_before.as_deref())) {
            if let Err(error) = sink.write(record) {
                return cut_short(&error);
            }
            written += 1;
        }
        after = Some(last);
    }
    if let Err(error) = sink.close() {
        return cut_short(&error);
    }
    eprintln!("{written} records exported");
    Ok(())
}

/// The export could not be written on. A reader that went away (`| head`) wants no more; anything else is a failure.
fn cut_short(error: &io::Error) -> Result<(), Failure> {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Ok(());
    }
    Err(Failure::Refused(format!("the export cannot be written: {error}")))
}

/// Whether a record has every field that the filter asks for.
fn matches(record: &Value, filter: &AuditFilter, not_before: Option<&str>) -> bool {
    let fields = [
        ("user", &filter.user),
        ("agent", &filter.agent),
        ("server", &filter.server),
        ("tool", &filter.tool),
        ("trace.method", &filter.method),
        ("kind", &filter.kind),
        ("decision.effect", &filter.decision),
        ("binding", &filter.binding),
        ("request_id", &filter.request_id),
        ("decision_client", &filter.decision_client),
    ];
    // As the ledger sees it: of a use the record says so itself, of a change its event does.
    let is_about = |consent: &String| ["consent", "control.consent"].iter().any(|path| text(record, path) == *consent);
    fields.into_iter().all(|(path, wanted)| wanted.as_ref().is_none_or(|wanted| text(record, path) == *wanted))
        && filter.consent.as_ref().is_none_or(is_about)
        && not_before.is_none_or(|time| text(record, "ts").as_str() >= time)
}

/// A time or an age, as the timestamp that records carry: RFC 3339, microseconds, UTC, so that text order is time
/// order.
fn not_before(since: &str) -> Result<String, Failure> {
    let wrong = || {
        Failure::Usage(format!(
            "--since takes a time such as 2026-07-28T12:00:00Z or an age such as 15m, not `{since}`"
        ))
    };
    let time = match since.parse::<jiff::Timestamp>() {
        Ok(time) => time,
        Err(_) => {
            let (number, unit) = since.split_at_checked(since.len().saturating_sub(1)).ok_or_else(wrong)?;
            let seconds = match unit {
                "s" => 1,
                "m" => 60,
                "h" => 3_600,
                "d" => 86_400,
                "w" => 604_800,
                _ => return Err(wrong()),
            };
            let age = number.parse::<i64>().ok().and_then(|number| number.checked_mul(seconds)).ok_or_else(wrong)?;
            jiff::Timestamp::now().checked_sub(jiff::SignedDuration::from_secs(age)).map_err(|_| wrong())?
        }
    };
    Ok(time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string())
}

enum Sink {
    Csv(Box<csv::Writer<Box<dyn Write>>>),
    Jsonl(Box<dyn Write>),
}

impl Sink {
    fn open(format: ExportFormat, out: Box<dyn Write>) -> io::Result<Self> {
        Ok(match format {
            ExportFormat::Jsonl => Self::Jsonl(out),
            ExportFormat::Csv => {
                // RFC 4180: lines end in CRLF, fields with commas, quotes or line breaks are quoted.
                let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(out);
                writer.write_record(COLUMNS.map(|(header, _)| header))?;
                Self::Csv(Box::new(writer))
            }
        })
    }

    fn write(&mut self, record: &Value) -> io::Result<()> {
        match self {
            Self::Csv(writer) => Ok(writer.write_record(COLUMNS.map(|(_, path)| cell(record, path)))?),
            Self::Jsonl(out) => writeln!(out, "{record}"),
        }
    }

    fn close(self) -> io::Result<()> {
        match self {
            Self::Csv(mut writer) => writer.flush(),
            Self::Jsonl(mut out) => out.flush(),
        }
    }
}

/// A cell that no spreadsheet takes for a formula (OWASP: CSV injection): a leading `=`, `+`, `-`, `@`, tab or
/// carriage return gets a quote in front.
fn cell(record: &Value, path: &str) -> String {
    let value = text(record, path);
    if value.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{value}") } else { value }
}

fn cannot_write(name: &str, error: &io::Error) -> Failure {
    Failure::Usage(format!("cannot write {name}: {error}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_call_is_one_line_with_its_outcome() {
        let records = [
            json!({"kind": "call.outcome", "request_id": "r1", "outcome": {"status": "ok", "latency_us": "1500"}}),
            json!({"kind": "call.intent", "request_id": "r1", "ts": "2026-07-28T12:00:00.000000Z", "user": "jane",
                   "decision": {"effect": "permit"}, "server": "finance", "tool": "query_data"}),
            json!({"kind": "call.denied", "request_id": "r2", "decision": {"effect": "deny", "reason": "policy_denied"}}),
            json!({"kind": "call.denied", "request_id": "r3", "server": "finance", "trace": {"method": "resources/read"},
                   "decision": {"effect": "deny", "reason": "policy_denied"}}),
            json!({"kind": "decision.evaluated", "request_id": "r4", "decision": {"effect": "permit"},
                   "decision_client": "billing", "server": "finance", "tool": "create_charge"}),
            json!({"kind": "decision.evaluated", "request_id": "r4", "decision_client": "billing",
                   "decision": {"effect": "deny", "reason": "ceiling_exceeded"}, "tool": "drop"}),
        ];
        let shown = calls(&records);
        assert_eq!(shown.lines().count(), 6, "{shown}");
        assert!(shown.contains("permit") && shown.contains("told billing ") && !shown.contains("evaluated"), "{shown}");
        assert!(shown.contains("told billing (ceiling_exceeded)"), "{shown}");
        assert!(shown.contains("finance resources/read"), "{shown}");
        assert!(shown.contains("finance/query_data") && shown.contains("ok") && shown.contains("1.5"), "{shown}");
        assert!(shown.contains("policy_denied"), "{shown}");
    }

    #[test]
    fn a_query_asks_for_a_method_and_an_export_looks_for_it() {
        let filter = AuditFilter {
            ledger: String::new(),
            user: None,
            agent: None,
            server: Some("finance".to_owned()),
            tool: None,
            method: Some("resources/read".to_owned()),
            kind: None,
            decision: None,
            binding: None,
            request_id: None,
            consent: None,
            decision_client: None,
            since: None,
        };
        let asked = [("server", "finance".to_owned()), ("method", "resources/read".to_owned())];
        assert_eq!(parameters(&filter), asked);
        let of = |method: &str| json!({"server": "finance", "trace": {"method": method}});
        assert!(matches(&of("resources/read"), &filter, None));
        assert!(!matches(&of("tools/call"), &filter, None) && !matches(&json!({"server": "finance"}), &filter, None));
        let filter = AuditFilter { decision_client: Some("billing".to_owned()), method: None, ..filter };
        assert_eq!(parameters(&filter)[1], ("decision_client", "billing".to_owned()));
        let of = |service: &str| json!({"server": "finance", "decision_client": service});
        assert!(matches(&of("billing"), &filter, None) && !matches(&of("other"), &filter, None));
    }

    #[test]
    fn a_time_becomes_text_that_sorts_with_the_records() {
        assert_eq!(not_before("2026-07-28T12:00:00Z").unwrap(), "2026-07-28T12:00:00.000000Z");
        assert!(not_before("15m").unwrap().ends_with('Z'));
        for wrong in ["", "m", "15", "15y", "soon", "99999999999999999999d"] {
            assert!(not_before(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn csv_quotes_as_rfc_4180_says_and_defuses_formulas() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let mut sink = Sink::open(ExportFormat::Csv, Box::new(path.reopen().unwrap())).unwrap();
        sink.write(&json!({"index": "0", "user": "a,\"b\"\nc", "agent": "=cmd()"})).unwrap();
        sink.close().unwrap();
        let written = std::fs::read_to_string(path.path()).unwrap();
        assert!(written.starts_with("index,leaf_hash,") && written.ends_with("\r\n"));
        assert!(written.contains(",\"a,\"\"b\"\"\nc\",'=cmd(),"), "{written}");
    }
}

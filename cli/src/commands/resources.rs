//! `apply`, `delete`, `diff`, `get`, `describe` and `pin`: the resources of the control plane.
//!
//! Manifests are read here and understood by the control plane alone, so there is one reading of them. Every write
//! carries a fresh request id: a write whose answer was lost is repeated under the same id and happens once (`admin`).

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use bailiwick_proto::v1::{
    ApplyRequest, ApplyResponse, DeleteRequest, GetRequest, ManifestFile, PinToolsRequest, Problem, ResourceChange,
    ResourceRef,
};
use serde_json::{Value, json};

use crate::{
    admin::{ControlPlanes, admin, connect},
    args::{ApplyArgs, DeleteArgs, DescribeArgs, FilesArgs, GetArgs, Output, PinArgs},
    failure::Failure,
    output::{print, print_list, show, table, text},
    yaml::to_yaml,
};

/// Largest manifest that is sent; the control plane has bounds of its own.
const MANIFEST_BYTES_MAX: u64 = 4 * 1024 * 1024;

pub(crate) async fn apply(urls: &str, args: ApplyArgs) -> Result<(), Failure> {
    let files = read(&args.files.files)?;
    let response = send_apply(&mut connect(urls).await?, files, args.dry_run).await?;
    show_changes(args.files.output, &response, if args.dry_run { " (dry run)" } else { "" });
    Ok(())
}

/// Sends manifests; problems become a refusal that lists them all.
pub(crate) async fn send_apply(
    control_planes: &mut ControlPlanes,
    files: Vec<ManifestFile>,
    dry_run: bool,
) -> Result<ApplyResponse, Failure> {
    let request = ApplyRequest { files, dry_run, request_id: request_id()? };
    refuse_problems(control_planes.ask(request, async |channel, asked| admin(channel).apply(asked).await).await?)
}

pub(crate) async fn delete(urls: &str, args: DeleteArgs) -> Result<(), Failure> {
    let kind = args.kind.unwrap_or_default();
    let named = args.names.into_iter().map(|name| ResourceRef { kind: kind.clone(), name });
    let request = DeleteRequest {
        resources: named.collect(),
        files: read(&args.files)?,
        request_id: request_id()?,
        dry_run: false,
    };
    let mut control_planes = connect(urls).await?;
    let asked = control_planes.ask(request, async |channel, asked| admin(channel).delete(asked).await);
    let response = refuse_problems(asked.await?)?;
    show_changes(args.output, &response, "");
    Ok(())
}

pub(crate) async fn diff(urls: &str, args: FilesArgs) -> Result<(), Failure> {
    let files = read(&args.files)?;
    let response = send_apply(&mut connect(urls).await?, files, true).await?;
    let changes: Vec<&ResourceChange> = response.changes.iter().filter(|change| change.action != "unchanged").collect();
    if args.output == Output::Table {
        for change in &changes {
            show(&format!("{}\n", difference(change)));
        }
    } else {
        print_list(args.output, changes.iter().map(|change| change_json(change)).collect(), |_| String::new());
    }
    if changes.is_empty() { Ok(()) } else { Err(Failure::Said) }
}

pub(crate) async fn get(urls: &str, args: GetArgs) -> Result<(), Failure> {
    let single = args.name.is_some();
    let items = fetch(urls, args.kind, args.name.unwrap_or_default()).await?;
    match (single, items.first()) {
        (true, Some(item)) => print(args.output, item, || overview(&items)),
        _ => print_list(args.output, items, overview),
    }
    Ok(())
}

pub(crate) async fn describe(urls: &str, args: DescribeArgs) -> Result<(), Failure> {
    let items = fetch(urls, args.kind, args.name).await?;
    for item in &items {
        print(args.output, item, || to_yaml(item).trim_end().to_owned());
    }
    Ok(())
}

pub(crate) async fn pin(urls: &str, args: PinArgs) -> Result<(), Failure> {
    let request = PinToolsRequest { server: args.server, tools: args.tools, request_id: request_id()? };
    let mut control_planes = connect(urls).await?;
    let asked = control_planes.ask(request, async |channel, asked| admin(channel).pin_tools(asked).await);
    let response = refuse_problems(asked.await?)?;
    show_changes(args.output, &response, "");
    Ok(())
}

async fn fetch(urls: &str, kind: String, name: String) -> Result<Vec<Value>, Failure> {
    let mut control_planes = connect(urls).await?;
    let asked = control_planes.ask(GetRequest { kind, name }, async |channel, asked| admin(channel).get(asked).await);
    let response = asked.await?;
    response.items.iter().map(|item| serde_json::from_str(item).map_err(Failure::refused)).collect()
}

/// Reads manifest files; `-` is standard input.
pub(crate) fn read(paths: &[PathBuf]) -> Result<Vec<ManifestFile>, Failure> {
    paths.iter().map(|path| read_one(path)).collect()
}

fn read_one(path: &Path) -> Result<ManifestFile, Failure> {
    let name = path.display().to_string();
    let mut text = String::new();
    let length = if name == "-" {
        std::io::stdin().take(MANIFEST_BYTES_MAX + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(MANIFEST_BYTES_MAX + 1).read_to_string(&mut text))
    };
    match length {
        Err(error) => Err(Failure::Usage(format!("cannot read {name}: {error}"))),
        Ok(length) if length as u64 > MANIFEST_BYTES_MAX => {
            Err(Failure::Usage(format!("{name} is larger than {MANIFEST_BYTES_MAX} bytes; split it")))
        }
        Ok(_) => Ok(ManifestFile { name, text }),
    }
}

pub(crate) fn request_id() -> Result<String, Failure> {
    let mut bytes = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Failure::Refused("the system gives no randomness".to_owned()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn refuse_problems(response: ApplyResponse) -> Result<ApplyResponse, Failure> {
    refuse(&response.warnings, &response.problems).map(|()| response)
}

/// Says what is worth knowing; problems become a refusal that lists them all.
pub(crate) fn refuse(warnings: &[String], problems: &[Problem]) -> Result<(), Failure> {
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
    if problems.is_empty() {
        return Ok(());
    }
    let count = problems.len();
    let lines: Vec<String> = problems.iter().map(problem_line).collect();
    let plural = if count == 1 { "" } else { "s" };
    Err(Failure::Refused(format!("nothing was applied: {count} problem{plural}\n{}", lines.join("\n"))))
}

fn problem_line(problem: &Problem) -> String {
    let place = match (problem.file.as_str(), problem.line) {
        ("", _) => String::new(),
        (file, 0) => format!("{file}: "),
        (file, line) => format!("{file}:{line}: "),
    };
    let key = if problem.key.is_empty() { String::new() } else { format!("{}: ", problem.key) };
    format!("  {place}{key}{}", problem.message)
}

fn show_changes(output: Output, response: &ApplyResponse, note: &str) {
    let lines = |_: &[Value]| {
        let line = |change: &ResourceChange| format!("{}/{} {}{note}", change.kind, change.name, change.action);
        response.changes.iter().map(line).collect::<Vec<_>>().join("\n")
    };
    match output {
        Output::Table => show(&format!("{}\n", lines(&[]))),
        Output::Json | Output::Yaml => {
            let changes: Vec<Value> = response.changes.iter().map(change_json).collect();
            print(output, &json!({"revision": response.revision.to_string(), "items": changes}), String::new);
        }
    }
}

pub(crate) fn change_json(change: &ResourceChange) -> Value {
    let manifest = |text: &str| serde_json::from_str(text).unwrap_or(Value::Null);
    json!({
        "kind": change.kind, "name": change.name, "action": change.action,
        "before": manifest(&change.before), "after": manifest(&change.after),
    })
}

/// The lines of both manifests, those only before marked `-`, those only after `+`.
fn difference(change: &ResourceChange) -> String {
    let lines = |text: &str| -> Vec<String> {
        let value: Option<Value> = serde_json::from_str(text).ok();
        let spec = value.map(|mut value| value.get_mut("spec").map_or(Value::Null, Value::take));
        spec.map_or_else(Vec::new, |spec| to_yaml(&spec).lines().map(str::to_owned).collect())
    };
    let (before, after) = (lines(&change.before), lines(&change.after));
    let mut shown = vec![format!("{}/{} {}", change.kind, change.name, change.action)];
    shown.extend(before.iter().filter(|line| !after.contains(line)).map(|line| format!("- {line}")));
    shown.extend(after.iter().filter(|line| !before.contains(line)).map(|line| format!("+ {line}")));
    shown.join("\n")
}

/// One line per resource: its name and what matters of its kind.
fn overview(items: &[Value]) -> String {
    let Some(kind) = items.first().map(|item| text(item, "kind")) else {
        return "none".to_owned();
    };
    let columns: &[(&str, &str)] = match kind.as_str() {
        "Server" => &[("URL", "spec.endpoint.url"), ("TOOLS", "status.tools"), ("CONDITIONS", "status.conditions")],
        "VirtualServer" => {
            &[("NAMING", "spec.naming"), ("SERVERS", "spec.servers"), ("TOOLS", "status.approved_tools")]
        }
        "User" => &[("GROUPS", "spec.groups"), ("ACTIVE", "spec.active")],
        "Agent" => &[
            ("OWNER", "spec.owner"),
            ("PROJECT", "spec.project"),
            ("CEILING", "spec.ceiling"),
            ("ACTIVE", "spec.active"),
        ],
        "Policy" => &[("VERSION", "status.version")],
        "Client" => &[("AGENT", "spec.agent"), ("AUTH", "spec.auth"), ("ACTIVE", "spec.active")],
        "IdentityProvider" => {
            &[("ISSUER", "spec.issuer"), ("ACTIVE", "spec.active"), ("LAST SIGNAL", "status.last_signal_at")]
        }
        "DecisionClient" => {
            &[("VIRTUAL SERVERS", "spec.virtual_servers"), ("SERVERS", "spec.servers"), ("ACTIVE", "spec.active")]
        }
        "Consent" => &[
            ("USER", "status.user"),
            ("AGENT", "status.agent"),
            ("VIRTUAL SERVER", "status.virtual_server"),
            ("LEVEL", "status.level"),
            ("EXPIRES", "status.expires_at"),
            ("STATE", "status.state"),
        ],
        "Group" => &[("MEMBERS", "status.members")],
        "Project" => &[("AGENTS", "status.agents")],
        "Node" => &[
            ("ROLE", "status.role"),
            ("EPOCH", "status.epoch"),
            ("CONNECTED", "status.connected"),
            ("REVISION", "status.acknowledged_revision"),
            ("LAG", "status.lag"),
            ("LEASE AGE MS", "status.lease_age_ms"),
            ("DIGEST", "status.digest"),
            ("REFUSED", "status.refused"),
        ],
        _ => &[],
    };
    let headers: Vec<&str> = std::iter::once("NAME").chain(columns.iter().map(|(header, _)| *header)).collect();
    let row = |item: &Value| {
        let cells = columns.iter().map(|(_, path)| match *path {
            // A program has none.
            "spec.endpoint.url" if text(item, path).is_empty() => text(item, "spec.endpoint.command.program"),
            path => text(item, path),
        });
        std::iter::once(text(item, "metadata.name")).chain(cells).collect()
    };
    table(&headers, &items.iter().map(row).collect::<Vec<_>>())
}

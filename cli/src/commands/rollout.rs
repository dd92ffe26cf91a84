//! `apply --share` and `rollout`: a change that goes to a share of the data planes first.
//!
//! The control plane watches and goes on or back by itself; here it is begun, looked at and, where somebody knows
//! better, pushed on or taken back. Writes carry a fresh request id and happen once (`admin`).

use std::time::Duration;

use bailiwick_proto::v1::{
    AdvanceRolloutRequest, BeginRolloutRequest, GetRolloutsRequest, ResourceChange, RolloutPlan, RolloutResponse,
    TakeBackRolloutRequest,
};
use serde_json::{Value, json};

use crate::{
    admin::{ControlPlanes, admin, connect},
    args::{ApplyArgs, RolloutCommand, RolloutStatusArgs, RolloutStepArgs},
    commands::resources::{change_json, read, refuse, request_id},
    failure::Failure,
    output::{print, print_list, table, text},
};

/// Most data planes named in one line.
const NAMES_MAX: usize = 20;
/// How often a rollout that is waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Applies manifests in stages.
pub(crate) async fn begin(urls: &str, args: ApplyArgs) -> Result<(), Failure> {
    let (output, stages) = (args.files.output, args.stages);
    let plan = RolloutPlan {
        shares: stages.shares,
        watch_seconds: stages.watch.as_secs(),
        denials_max: stages.denials_max,
        refusals_max: stages.refusals_max,
    };
    let request = BeginRolloutRequest {
        files: read(&args.files.files)?,
        plan: Some(plan),
        dry_run: args.dry_run,
        request_id: request_id()?,
    };
    let mut control_planes = connect(urls).await?;
    let asked = control_planes.ask(request, async |channel, asked| admin(channel).begin_rollout(asked).await);
    let response = asked.await?;
    refuse(&response.warnings, &response.problems)?;
    let note = if args.dry_run { " (dry run)" } else { "" };
    print(output, &to_json(&response), || begun(&response, note));
    Ok(())
}

pub(crate) async fn run(urls: &str, command: RolloutCommand) -> Result<(), Failure> {
    match command {
        RolloutCommand::Status(args) => status(urls, args).await,
        RolloutCommand::Wait(args) => wait(urls, args).await,
        RolloutCommand::Advance(args) => advance(urls, args).await,
        RolloutCommand::Back(args) => back(urls, args).await,
    }
}

async fn status(urls: &str, args: RolloutStatusArgs) -> Result<(), Failure> {
    let items = fetch(&mut connect(urls).await?, args.id).await?;
    match (args.id, items.first()) {
        (Some(_), Some(item)) => print(args.output, item, || details(item)),
        _ => print_list(args.output, items, overview),
    }
    Ok(())
}

async fn wait(urls: &str, args: RolloutStatusArgs) -> Result<(), Failure> {
    let mut control_planes = connect(urls).await?;
    let mut id = args.id;
    loop {
        let items = fetch(&mut control_planes, id).await?;
        // Without a number the latest: the one under way, or the last that was.
        let Some(item) = items.first() else { return Err(Failure::Refused("there is no rollout".to_owned())) };
        id = text(item, "id").parse().ok();
        match text(item, "state").as_str() {
            "under_way" => tokio::time::sleep(LOOK_EVERY).await,
            state => {
                print(args.output, item, || details(item));
                return if state == "finished" { Ok(()) } else { Err(Failure::Said) };
            }
        }
    }
}

async fn advance(urls: &str, args: RolloutStepArgs) -> Result<(), Failure> {
    let rollout = args.id.map(|id| id.to_string()).unwrap_or_default();
    let request = AdvanceRolloutRequest { rollout, reason: args.reason, request_id: request_id()? };
    let mut control_planes = connect(urls).await?;
    let asked = control_planes.ask(request, async |channel, asked| admin(channel).advance_rollout(asked).await);
    let response = asked.await?;
    print(args.output, &to_json(&response), || stepped(&response));
    Ok(())
}

async fn back(urls: &str, args: RolloutStepArgs) -> Result<(), Failure> {
    let rollout = args.id.map(|id| id.to_string()).unwrap_or_default();
    let request = TakeBackRolloutRequest { rollout, reason: args.reason, request_id: request_id()? };
    let mut control_planes = connect(urls).await?;
    let asked = control_planes.ask(request, async |channel, asked| admin(channel).take_back_rollout(asked).await);
    let response = asked.await?;
    print(args.output, &to_json(&response), || stepped(&response));
    Ok(())
}

async fn fetch(control_planes: &mut ControlPlanes, id: Option<u64>) -> Result<Vec<Value>, Failure> {
    let request = GetRolloutsRequest { rollout: id.map(|id| id.to_string()).unwrap_or_default() };
    let asked = control_planes.ask(request, async |channel, asked| admin(channel).get_rollouts(asked).await);
    asked.await?.items.iter().map(|item| serde_json::from_str(item).map_err(Failure::refused)).collect()
}

fn to_json(response: &RolloutResponse) -> Value {
    let changes: Vec<Value> = response.changes.iter().map(change_json).collect();
    json!({
        "revision": response.revision.to_string(),
        "items": changes,
        "rollout": rollout(response),
        "first_share": response.first_share,
    })
}

fn rollout(response: &RolloutResponse) -> Value {
    serde_json::from_str(&response.rollout).unwrap_or(Value::Null)
}

fn begun(response: &RolloutResponse, note: &str) -> String {
    let line = |change: &ResourceChange| format!("{}/{} {}{note}", change.kind, change.name, change.action);
    let mut lines: Vec<String> = response.changes.iter().map(line).collect();
    let rollout = rollout(response);
    if !rollout.is_null() {
        lines.push(details(&rollout));
    } else if !response.first_share.is_empty() {
        lines.push(format!("these data planes would have it first: {}", named(&response.first_share)));
    }
    lines.join("\n")
}

fn named(names: &[String]) -> String {
    let shown = names.iter().take(NAMES_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(NAMES_MAX);
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

fn stepped(response: &RolloutResponse) -> String {
    let rollout = rollout(response);
    if rollout.is_null() { "nothing to do".to_owned() } else { details(&rollout) }
}

/// One line, and one for each data plane while it is under way.
fn details(item: &Value) -> String {
    let (id, share) = (text(item, "id"), text(item, "share"));
    let mut lines = vec![match text(item, "state").as_str() {
        "under_way" => format!("rollout {id} counts for {share} % of the data planes"),
        "finished" => format!("rollout {id} counts for everybody: {}", text(item, "reason")),
        _ => format!("rollout {id} was taken back: {}", text(item, "reason")),
    }];
    let nodes = item.get("nodes").and_then(Value::as_array).cloned().unwrap_or_default();
    if !nodes.is_empty() {
        let columns = ["name", "state", "calls", "denied", "hidden_percent", "refused"];
        let rows: Vec<Vec<String>> =
            nodes.iter().map(|node| columns.iter().map(|column| text(node, column)).collect()).collect();
        lines.push(table(&["DATA PLANE", "STATE", "CALLS", "DENIED", "HIDDEN %", "REFUSED"], &rows));
    }
    lines.join("\n")
}

fn overview(items: &[Value]) -> String {
    if items.is_empty() {
        return "none".to_owned();
    }
    let columns = ["id", "state", "share", "resources", "by", "began_at", "reason"];
    let row = |item: &Value| columns.iter().map(|column| text(item, column)).collect();
    let rows: Vec<Vec<String>> = items.iter().map(row).collect();
    let all = table(&["ID", "STATE", "SHARE %", "RESOURCES", "BY", "BEGAN", "REASON"], &rows);
    let under_way = items.iter().find(|item| text(item, "state") == "under_way");
    under_way.map_or_else(|| all.clone(), |item| format!("{all}\n\n{}", details(item)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn under_way() -> Value {
        json!({
            "id": "3", "state": "under_way", "share": 10, "resources": [{"kind": "Policy", "name": "reads"}],
            "by": "admin", "began_at": "12:00",
            "nodes": [
                {"name": "dp-1", "state": "in_force", "calls": "70", "denied": "2", "hidden_percent": 4},
                {
                    "name": "dp-2", "state": "refuses", "calls": "0", "denied": "0", "hidden_percent": 0,
                    "refused": "rollout 3: no",
                },
            ],
        })
    }

    #[test]
    fn people_see_how_far_it_is_and_how_each_data_plane_stands() {
        let shown = details(&under_way());
        assert!(shown.starts_with("rollout 3 counts for 10 % of the data planes\nDATA PLANE  STATE"), "{shown}");
        assert!(shown.contains("dp-2        refuses   0      0       0         rollout 3: no"), "{shown}");
        let ended = json!({"id": "3", "state": "taken_back", "reason": "too much is denied"});
        assert_eq!(details(&ended), "rollout 3 was taken back: too much is denied");
        let all = overview(&[under_way(), ended]);
        assert!(all.contains("3   under_way   10       reads") && all.ends_with("rollout 3: no"), "{all}");
        assert_eq!(overview(&[]), "none");
    }

    #[test]
    fn programs_get_the_rollout_with_what_it_changes() {
        let change = ResourceChange {
            kind: "Policy".into(),
            name: "reads".into(),
            action: "configured".into(),
            ..ResourceChange::default()
        };
        let response = RolloutResponse {
            revision: 9,
            rollout: under_way().to_string(),
            changes: vec![change],
            ..RolloutResponse::default()
        };
        let shown = to_json(&response);
        assert_eq!((&shown["revision"], &shown["rollout"]["id"]), (&json!("9"), &json!("3")));
        assert_eq!(shown["items"][0]["action"], "configured");
        let nothing = RolloutResponse { rollout: String::new(), ..response };
        assert_eq!(to_json(&nothing)["rollout"], Value::Null);
        assert_eq!(begun(&nothing, " (dry run)"), "Policy/reads configured (dry run)");
        let many = RolloutResponse { first_share: (0..25).map(|n| format!("dp-{n}")).collect(), ..nothing };
        let said = begun(&many, " (dry run)");
        assert!(said.contains("\nthese data planes would have it first: dp-0, ") && said.ends_with("dp-19 and 5 more"));
    }
}

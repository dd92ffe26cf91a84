//! `revoke`, and `agent`: authority is taken away; with `--wait`, what each data plane said to that.
//!
//! May be repeated: what is gone already stays gone, and the answer says since which revision. A request whose answer was
//! lost is asked again under the same id (`admin`).

use bailiwick_proto::v1::{Enforcement, ResourceChange, RevokeRequest, RevokeResponse, SetAgentStateRequest};
use serde_json::{Value, json};

use crate::{
    admin::{admin, connect},
    args::{AgentStateCommand, RevokeArgs},
    commands::resources::request_id,
    failure::Failure,
    output::{print, table},
};

pub(crate) async fn revoke(urls: &str, args: RevokeArgs) -> Result<(), Failure> {
    let request = RevokeRequest {
        kind: args.kind.as_str().to_owned(),
        name: args.name,
        reason: args.reason,
        wait: args.wait,
        request_id: request_id()?,
    };
    let mut control_planes = connect(urls).await?;
    let revoked = control_planes.ask(request, async |channel, asked| admin(channel).revoke(asked).await).await?;
    print(args.output, &to_json(&revoked, args.wait), || people(&revoked));
    Ok(())
}

/// `agent pause|resume|retire`, which is answered in the same way.
pub(crate) async fn agent(urls: &str, command: AgentStateCommand) -> Result<(), Failure> {
    let (state, args) = command.into_parts();
    let request = SetAgentStateRequest {
        agent: args.name,
        state: state.to_owned(),
        reason: args.reason,
        wait: args.wait,
        request_id: request_id()?,
    };
    let mut control_planes = connect(urls).await?;
    let changed =
        control_planes.ask(request, async |channel, asked| admin(channel).set_agent_state(asked).await).await?;
    print(args.output, &to_json(&changed, args.wait), || people(&changed));
    Ok(())
}

fn to_json(revoked: &RevokeResponse, waited: bool) -> Value {
    let change = |one: &ResourceChange| json!({"kind": one.kind, "name": one.name, "action": one.action});
    let changes: Vec<Value> = revoked.changes.iter().map(change).collect();
    let revision = revoked.revision.to_string();
    if !waited {
        return json!({"revision": revision, "changes": changes});
    }
    let nodes: Vec<Value> = revoked.nodes.iter().map(enforcement).collect();
    let receipt = revoked.receipt.as_ref().map(|receipt| {
        json!({"node": receipt.node, "epoch": receipt.epoch.to_string(), "revision": receipt.revision.to_string()})
    });
    json!({"revision": revision, "changes": changes, "nodes": nodes, "receipt": receipt})
}

fn enforcement(node: &Enforcement) -> Value {
    if node.acknowledged_at.is_empty() {
        json!({"name": node.name, "deadline": node.deadline})
    } else {
        json!({"name": node.name, "acknowledged_at": node.acknowledged_at})
    }
}

fn people(revoked: &RevokeResponse) -> String {
    let mut lines: Vec<String> =
        revoked.changes.iter().map(|one| format!("{}/{} {}", one.kind, one.name, one.action)).collect();
    if lines.is_empty() {
        lines.push(format!("nothing was left to take away since revision {}", revoked.revision));
    }
    if !revoked.nodes.is_empty() {
        let row = |node: &Enforcement| vec![node.name.clone(), node.acknowledged_at.clone(), node.deadline.clone()];
        let rows: Vec<Vec<String>> = revoked.nodes.iter().map(row).collect();
        lines.push(table(&["DATA PLANE", "ACKNOWLEDGED", "SILENT, BOUND SINCE"], &rows));
    }
    if let Some(receipt) = &revoked.receipt {
        lines.push(format!("receipt: revision {} of {} in the ledger", receipt.revision, receipt.node));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use bailiwick_proto::v1::Receipt;

    use super::*;

    fn answer() -> RevokeResponse {
        let change = |kind: &str, name: &str, action: &str| ResourceChange {
            kind: kind.into(),
            name: name.into(),
            action: action.into(),
            ..ResourceChange::default()
        };
        let node = |name: &str, acknowledged_at: &str, deadline: &str| Enforcement {
            name: name.into(),
            acknowledged_at: acknowledged_at.into(),
            deadline: deadline.into(),
        };
        RevokeResponse {
            revision: 12,
            changes: vec![change("User", "jane", "deactivated"), change("Consent", "c-1", "revoked")],
            nodes: vec![node("dp-1", "12:00", ""), node("dp-2", "", "12:03")],
            receipt: Some(Receipt { node: "control-plane".into(), epoch: 0, revision: 13 }),
        }
    }

    #[test]
    fn programs_get_for_each_node_either_its_word_or_its_deadline() {
        let expected = json!({
            "revision": "12",
            "changes": [
                {"kind": "User", "name": "jane", "action": "deactivated"},
                {"kind": "Consent", "name": "c-1", "action": "revoked"},
            ],
            "nodes": [{"name": "dp-1", "acknowledged_at": "12:00"}, {"name": "dp-2", "deadline": "12:03"}],
            "receipt": {"node": "control-plane", "epoch": "0", "revision": "13"},
        });
        assert_eq!(to_json(&answer(), true), expected);
        let unwaited = RevokeResponse { nodes: Vec::new(), receipt: None, ..answer() };
        assert_eq!(
            to_json(&unwaited, false).as_object().unwrap().len(),
            2,
            "nothing is said of what nobody waited for"
        );
        assert_eq!(to_json(&unwaited, true)["nodes"], json!([]), "no data plane, but it was waited for");
    }

    #[test]
    fn people_see_what_is_gone_and_which_nodes_were_silent() {
        let text = people(&answer());
        assert!(text.starts_with("User/jane deactivated\nConsent/c-1 revoked\nDATA PLANE"), "{text}");
        assert!(text.contains("\ndp-2                      12:03\nreceipt: revision 13"), "{text}");
        let again = RevokeResponse { revision: 12, ..RevokeResponse::default() };
        assert_eq!(people(&again), "nothing was left to take away since revision 12");
    }
}

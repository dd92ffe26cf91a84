//! The cluster as one of its nodes describes it: who leads, who answers, whether all hold the same history.
//!
//! All checks are over `Cluster.Members` alone. What they mean for an operator: `docs/operators/cluster.md`.

use std::collections::{BTreeMap, BTreeSet};

use bailiwick_proto::v1::Member;

use super::finding::Finding;

/// A follower may be this many revisions behind before somebody should look.
const LAG_WARN: u64 = 1_000;

/// All checks of a cluster's members.
pub(crate) fn check(members: &[Member]) -> Vec<Finding> {
    let control: Vec<&Member> = members.iter().filter(|member| member.role == "control-plane").collect();
    if control.is_empty() {
        return vec![Finding::fail(
            "members",
            "cluster",
            "no control-plane node is a member",
            "run `bailiwick cluster init` on the first node",
        )];
    }
    let mut findings = vec![leader(&control), voters(&control), quorum(&control)];
    findings.extend(unreachable(members));
    findings.extend(changing(&control));
    findings.extend(behind(&control));
    findings.push(roots(&control));
    findings.push(versions(members));
    findings.extend(master_keys(&control));
    findings
}

fn leader(control: &[&Member]) -> Finding {
    let leaders: Vec<&str> = control.iter().filter(|member| member.leader).map(|member| member.name.as_str()).collect();
    match leaders.as_slice() {
        [leader] => Finding::ok("leader", *leader, "leads"),
        [] => {
            let advice = "writes wait; see which nodes answer and whether a majority of voters does";
            Finding::fail("leader", "cluster", "nobody leads", advice)
        }
        several => {
            let advice = "ask again in a few seconds; if it stays, tell us: one term has one leader";
            Finding::fail("leader", "cluster", format!("{} seem to lead", several.join(", ")), advice)
        }
    }
}

fn is_voter(member: &Member) -> bool {
    matches!(member.membership.as_str(), "voter" | "leaving")
}

fn voters(control: &[&Member]) -> Finding {
    let count = control.iter().filter(|member| is_voter(member)).count();
    let detail = format!("{count} voting");
    match count {
        0 => Finding::fail("voters", "cluster", detail, "no node can lead: restore a backup"),
        1 => {
            let advice = "losing this node stops every change: add two more with `bailiwick cluster join-token`";
            Finding::warn("voters", "cluster", detail, advice)
        }
        _ if count % 2 == 0 => {
            let advice = "an even number survives no more losses than one node less: add or remove one";
            Finding::warn("voters", "cluster", detail, advice)
        }
        _ => Finding::ok("voters", "cluster", detail),
    }
}

fn quorum(control: &[&Member]) -> Finding {
    let voters: Vec<&&Member> = control.iter().filter(|member| is_voter(member)).collect();
    let answering = voters.iter().filter(|member| member.reachable).count();
    let majority = voters.len() / 2 + 1;
    let detail = format!("{answering} of {} voters answer, {majority} are needed", voters.len());
    if answering < majority {
        let advice = "no change can be made: start the missing nodes; if their disks are lost, restore a backup";
        Finding::fail("quorum", "cluster", detail, advice)
    } else if answering == majority && voters.len() > 1 {
        Finding::warn("quorum", "cluster", detail, "one more loss stops every change: bring the missing node back")
    } else {
        Finding::ok("quorum", "cluster", detail)
    }
}

fn unreachable(members: &[Member]) -> Vec<Finding> {
    // Whether a ledger or an administrator is there shows only when it asks for something.
    let told = |member: &&Member| matches!(member.role.as_str(), "control-plane" | "data-plane");
    let silent = members.iter().filter(told).filter(|member| !member.reachable);
    let finding = |member: &Member| {
        let advice = match member.role.as_str() {
            "control-plane" => "is it running, and is UDP open between the nodes (8432)? If it is lost, replace it",
            _ => "is it running? If it is gone for good, `bailiwick cluster remove` it",
        };
        Finding::warn("reachable", member.name.clone(), format!("the {} does not answer", member.role), advice)
    };
    silent.map(finding).collect()
}

fn changing(control: &[&Member]) -> Vec<Finding> {
    let finding = |member: &&&Member| {
        let advice = "if it stays so for minutes, the node cannot catch up: look at its log and network";
        Finding::warn("membership", member.name.clone(), member.membership.clone(), advice)
    };
    control
        .iter()
        .filter(|member| matches!(member.membership.as_str(), "joining" | "leaving"))
        .map(|m| finding(&m))
        .collect()
}

fn behind(control: &[&Member]) -> Vec<Finding> {
    let newest = control.iter().map(|member| member.revision).max().unwrap_or(0);
    let late = control.iter().filter(|member| member.reachable && newest - member.revision > LAG_WARN);
    let finding = |member: &&Member| {
        let detail = format!("{} revisions behind", newest - member.revision);
        Finding::warn("progress", member.name.clone(), detail, "a slow disk or network; it reads old state until then")
    };
    late.map(finding).collect()
}

/// Equal sizes must have equal roots.
fn roots(control: &[&Member]) -> Finding {
    let mut at_size: BTreeMap<u64, BTreeMap<&str, Vec<&str>>> = BTreeMap::new();
    for member in control.iter().filter(|member| !member.log_root.is_empty()) {
        at_size.entry(member.log_size).or_default().entry(&member.log_root).or_default().push(&member.name);
    }
    if let Some((size, differing)) = at_size.iter().find(|(_, roots)| roots.len() > 1) {
        let sides: Vec<String> = differing.values().map(|names| names.join("+")).collect();
        let advice =
            "stop the nodes of the smaller side, rebuild them under new names; keep their disks to find out why";
        let detail = format!("at {size} changes the histories differ: {}", sides.join(" against "));
        return Finding::fail("roots", "cluster", detail, advice);
    }
    let compared = at_size.values().flat_map(BTreeMap::values).map(Vec::len).filter(|count| *count > 1).max();
    match compared {
        Some(count) => Finding::ok("roots", "cluster", format!("{count} nodes hold the same history at the same size")),
        None => Finding::ok("roots", "cluster", "no two nodes were seen at the same size; they compare by themselves"),
    }
}

fn versions(members: &[Member]) -> Finding {
    let known = members.iter().filter(|member| !member.version.is_empty());
    let versions: BTreeSet<&str> = known.map(|member| member.version.as_str()).collect();
    let list = || versions.iter().copied().collect::<Vec<_>>().join(", ");
    let majors: BTreeSet<&str> = versions.iter().filter_map(|version| version.split('.').next()).collect();
    match (versions.len(), majors.len()) {
        (0, _) => Finding::warn("versions", "cluster", "not known", "ask again once the nodes answer"),
        (1, _) => Finding::ok("versions", "cluster", list()),
        (_, 1) => Finding::warn("versions", "cluster", list(), "finish the upgrade before using what is new"),
        _ => Finding::fail("versions", "cluster", list(), "these versions were never meant to run together"),
    }
}

/// The newest key of any node must be held by all, or one of them cannot open what the next rotation seals.
fn master_keys(control: &[&Member]) -> Vec<Finding> {
    let holding: Vec<&&Member> = control.iter().filter(|member| !member.master_keys.is_empty()).collect();
    let newest: BTreeSet<&str> =
        holding.iter().filter_map(|member| member.master_keys.first().map(String::as_str)).collect();
    let mut findings = Vec::new();
    for member in &holding {
        let held: BTreeSet<&str> = member.master_keys.iter().map(String::as_str).collect();
        let missing: Vec<&str> = newest.difference(&held).copied().collect();
        if !missing.is_empty() {
            let detail = format!("lacks {}", missing.join(", "));
            let advice = "give every node the new key before `cluster rotate-master-key`";
            findings.push(Finding::fail("master-keys", member.name.clone(), detail, advice));
        }
    }
    if findings.is_empty() && !holding.is_empty() {
        findings.push(if newest.len() > 1 {
            let advice = "put the same key first on every node";
            Finding::warn("master-keys", "cluster", "nodes put different keys first", advice)
        } else {
            Finding::ok("master-keys", "cluster", format!("all hold {}", newest.into_iter().collect::<String>()))
        });
    }
    findings
}

#[cfg(test)]
mod tests;

//! Tables of clusters, well and unwell.

use super::*;
use crate::commands::doctor::finding::{Level, worst};

fn node(number: u64) -> Member {
    Member {
        name: format!("cp-{number}"),
        role: "control-plane".into(),
        leader: number == 1,
        node_id: number,
        membership: "voter".into(),
        reachable: true,
        revision: 500,
        log_size: 400,
        log_root: "ab".into(),
        version: "0.1.0".into(),
        master_keys: vec!["new".into(), "old".into()],
        ..Member::default()
    }
}

fn cluster(nodes: u64) -> Vec<Member> {
    (1..=nodes).map(node).collect()
}

/// The worst finding of a check; `Ok` if it found nothing.
#[track_caller]
fn check_one(members: &[Member], name: &str, expected: Level) {
    let found: Vec<Finding> = check(members).into_iter().filter(|finding| finding.check == name).collect();
    assert_eq!(worst(&found), expected, "{found:?}");
    let advised = found.iter().all(|finding| finding.advice.is_empty() == (finding.level == Level::Ok));
    assert!(advised, "advice where it is needed: {found:?}");
}

/// A cluster of three in which something is otherwise with the second node.
fn with(change: impl FnOnce(&mut Member)) -> Vec<Member> {
    let mut members = cluster(3);
    change(&mut members[1]);
    members
}

#[test]
fn a_cluster_of_three_that_is_well_is_ok_throughout() {
    let mut members = cluster(3);
    for (role, name, reachable) in [("data-plane", "dp-1", true), ("ledger", "ledger", false), ("admin", "you", false)]
    {
        members.push(Member { role: role.into(), name: name.into(), reachable, ..Member::default() });
    }
    let findings = check(&members);
    assert_eq!(worst(&findings), Level::Ok, "{findings:?}");
    assert_eq!(worst(&check(&cluster(5))), Level::Ok);
}

#[test]
fn no_members_at_all_is_a_failure() {
    check_one(&[], "members", Level::Fail);
}

#[test]
fn there_is_exactly_one_leader() {
    check_one(&cluster(3), "leader", Level::Ok);
    check_one(&with(|second| second.leader = true), "leader", Level::Fail);
    let mut leaderless = cluster(3);
    leaderless[0].leader = false;
    check_one(&leaderless, "leader", Level::Fail);
}

#[test]
fn voters_are_odd_in_number_and_more_than_one() {
    for (count, expected) in [(1, Level::Warn), (2, Level::Warn), (3, Level::Ok), (4, Level::Warn), (5, Level::Ok)] {
        check_one(&cluster(count), "voters", expected);
    }
    // A learner does not count.
    let mut members = cluster(4);
    members[3].membership = "learner".into();
    check_one(&members, "voters", Level::Ok);
    assert_eq!(worst(&check(&members)), Level::Ok);
}

#[test]
fn a_majority_must_answer_and_should_have_one_to_spare() {
    for (voters, silent, expected) in [
        (3, 0, Level::Ok),
        (3, 1, Level::Warn),
        (3, 2, Level::Fail),
        (5, 1, Level::Ok),
        (5, 2, Level::Warn),
        (5, 3, Level::Fail),
        (1, 0, Level::Ok),
        (2, 1, Level::Fail),
    ] {
        let mut members = cluster(voters);
        members.iter_mut().rev().take(silent).for_each(|member| member.reachable = false);
        check_one(&members, "quorum", expected);
        check_one(&members, "reachable", if silent == 0 { Level::Ok } else { Level::Warn });
    }
}

#[test]
fn a_node_that_joins_leaves_or_lags_is_named() {
    check_one(&with(|second| second.membership = "joining".into()), "membership", Level::Warn);
    check_one(&with(|second| second.membership = "leaving".into()), "membership", Level::Warn);
    check_one(&with(|second| second.revision = 0), "progress", Level::Ok);
    let mut members = cluster(3);
    members[0].revision = 9_000;
    check_one(&members, "progress", Level::Warn);
}

#[test]
fn equal_sizes_with_unequal_roots_are_a_failure_that_names_both_sides() {
    let diverged = with(|second| second.log_root = "cd".into());
    check_one(&diverged, "roots", Level::Fail);
    let found = check(&diverged).into_iter().find(|finding| finding.check == "roots").unwrap();
    assert!(found.detail.contains("cp-1+cp-3 against cp-2"), "{found:?}");
    // Another size may have another root.
    let later = with(|second| (second.log_size, second.log_root) = (401, "cd".into()));
    check_one(&later, "roots", Level::Ok);
    // A node that has not told its root is not compared.
    check_one(&with(|second| second.log_root = String::new()), "roots", Level::Ok);
}

#[test]
fn versions_may_differ_during_an_upgrade_but_not_by_more() {
    check_one(&with(|second| second.version = "0.2.0".into()), "versions", Level::Warn);
    check_one(&with(|second| second.version = "1.0.0".into()), "versions", Level::Fail);
    check_one(&with(|second| second.version = String::new()), "versions", Level::Ok);
}

#[test]
fn every_node_holds_the_newest_master_key() {
    check_one(&with(|second| second.master_keys = vec!["old".into()]), "master-keys", Level::Fail);
    check_one(&with(|second| second.master_keys = vec!["old".into(), "new".into()]), "master-keys", Level::Warn);
    check_one(&with(|second| second.master_keys = vec![]), "master-keys", Level::Ok);
}

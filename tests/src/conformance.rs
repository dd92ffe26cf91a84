//! The official MCP conformance suite: runs it, compares what its checks said in two places, and holds the comparison
//! to a committed list.
//!
//! A list (`tests/conformance/expected/*.txt`) names every check that does not say the same in both places, under the
//! reason for it. A difference that is not in the list fails the test, and so does one that is in the list and was not
//! found: lists shrink as features land, and never silently.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::Path,
    process::Stdio,
};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::{deployment::repository, peers};

/// The revisions whose requirements are run.
pub const REVISIONS: [&str; 2] = ["2025-11-25", "2026-07-28"];

/// Scenarios that are run but never scored: extensions, and what the suite's own servers cannot do yet.
const NOT_REQUIRED: [&str; 6] = [
    "server-session-lifecycle",
    "server-sse-polling",
    "json-schema-2020-12",
    "json-schema-2020-12-preservation",
    "http-header-validation",
    "http-custom-header-server-validation",
];

/// What one check said.
#[derive(Clone, Debug, Deserialize)]
pub struct Check {
    /// `SUCCESS`, `FAILURE`, `WARNING` or `SKIPPED`.
    pub status: String,
    /// Why, in the suite's words.
    #[serde(default)]
    pub said: String,
}

/// What every check of every scenario said.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(transparent)]
pub struct Results(pub BTreeMap<String, BTreeMap<String, Check>>);

/// What the suite is pointed at.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// A server as it is.
    Server(&'a str),
    /// Data planes, each request to another, with a token.
    Gateway(&'a [String], &'a str),
    /// A gateway's side towards servers: its binary, where it is administered, and its URL up to `/mcp`.
    Client { bailiwick: &'a Path, admin: &'a str, mcp: &'a str },
    /// The local bridge: its binary.
    Connect { bailiwick: &'a Path },
}

/// Runs all scenarios of a revision, or only some.
///
/// # Errors
/// When the suite cannot be run.
pub async fn run(target: Target<'_>, revision: &str, scenarios: &[&str]) -> Result<Results> {
    let mut command = tokio::process::Command::new(peers::place("PEER_NODE")?);
    command.arg("tests/conformance/suite.mjs").args(["--suite", peers::place("PEER_CONFORMANCE")?]);
    command.args(["--revision", revision]).current_dir(repository()).stdin(Stdio::null());
    match target {
        Target::Server(url) => command.args(["--url", url]),
        Target::Gateway(urls, token) => {
            command.args(urls.iter().flat_map(|url| ["--url", url])).args(["--token", token])
        }
        Target::Client { bailiwick, admin, mcp } => {
            command.env("GATEWAY_BAILIWICK", bailiwick).env("BAILIWICK_ADMIN", admin).env("GATEWAY_MCP", mcp);
            command.args(["--client", &format!("{} tests/peers/conformance_client.mjs", peers::place("PEER_NODE")?)])
        }
        Target::Connect { bailiwick } => {
            command.env("GATEWAY_BAILIWICK", bailiwick);
            command.args(["--client", &format!("{} tests/peers/connect_client.mjs", peers::place("PEER_NODE")?)])
        }
    };
    for scenario in scenarios {
        command.args(["--scenario", scenario]);
    }
    let output = command.output().await?;
    ensure!(output.status.success(), "the suite: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("what the suite said")
}

fn is_required(scenario: &str) -> bool {
    !scenario.starts_with("tasks-") && !NOT_REQUIRED.contains(&scenario)
}

impl Results {
    /// Of the scenarios that the revision requires, how many have a check that succeeded and none that failed, and how
    /// many there are.
    #[must_use]
    pub fn passed(&self) -> (usize, usize) {
        self.passed_of(is_required)
    }

    /// The same of other scenarios.
    #[must_use]
    pub fn passed_of(&self, counts: fn(&str) -> bool) -> (usize, usize) {
        let counted = || self.0.iter().filter(|(name, _)| counts(name));
        let has = |checks: &BTreeMap<String, Check>, status: &str| checks.values().any(|check| check.status == status);
        // One without a verdict has shown nothing.
        let passed = counted().filter(|(_, checks)| has(checks, "SUCCESS") && !has(checks, "FAILURE"));
        (passed.count(), counted().count())
    }

    /// Every check that does not say here what it says in `other`, as a line of a list.
    #[must_use]
    pub fn differences(&self, other: &Self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        let scenarios: BTreeSet<&String> = self.0.keys().chain(other.0.keys()).collect();
        for scenario in scenarios {
            let (here, there) = (self.0.get(scenario), other.0.get(scenario));
            let checks: BTreeSet<&String> = here.into_iter().chain(there).flat_map(BTreeMap::keys).collect();
            for check in checks {
                let of = |table: Option<&BTreeMap<String, Check>>| table.and_then(|checks| checks.get(check)).cloned();
                let (here, there) = (of(here), of(there));
                let status = |check: &Option<Check>| check.as_ref().map_or("ABSENT", |c| c.status.as_str()).to_owned();
                if status(&here) != status(&there) {
                    let line = format!("{scenario} {check} {} {}", status(&here), status(&there));
                    found.insert(line, there.map(|check| check.said).unwrap_or_default());
                }
            }
        }
        found
    }

    /// Every check that is no success, as a line of a list.
    #[must_use]
    pub fn shortcomings(&self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        for (scenario, checks) in &self.0 {
            for (check, Check { status, said }) in checks.iter().filter(|(_, check)| check.status != "SUCCESS") {
                found.insert(format!("{scenario} {check} {status}"), said.clone());
            }
        }
        found
    }
}

/// Holds what was found at a revision to the list `tests/conformance/expected/{list}.txt`.
///
/// # Errors
/// When something is found that the list does not name, or the list names something that is not found.
pub fn hold_to(list: &str, revision: &str, found: &BTreeMap<String, String>) -> Result<()> {
    let path = repository().join(format!("tests/conformance/expected/{list}.txt"));
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let expected = read_list(&text)?.remove(revision).unwrap_or_default();
    let mut message = String::new();
    for (line, said) in found.iter().filter(|(line, _)| !expected.contains(*line)) {
        writeln!(message, "not in the list:  {line}\n                  {said}")?;
    }
    for line in expected.iter().filter(|line| !found.contains_key(*line)) {
        writeln!(message, "no longer found:  {line}")?;
    }
    ensure!(message.is_empty(), "{list} at {revision}:\n{message}");
    Ok(())
}

/// Holds `docs/reference/conformance.md` to what was found: the row of its table.
///
/// # Errors
/// When the document says something else.
pub fn hold_documented(what: &str, revision: &str, results: &Results) -> Result<()> {
    hold_counted(what, revision, results.passed())
}

/// The same for scenarios that were counted otherwise.
///
/// # Errors
/// When the document says something else.
pub fn hold_counted(what: &str, revision: &str, (passed, all): (usize, usize)) -> Result<()> {
    let text = fs::read_to_string(repository().join("docs/reference/conformance.md"))?;
    let row = format!("| {what} | {revision} | {passed} of {all} |");
    ensure!(text.lines().any(|line| line == row), "docs/reference/conformance.md must say: {row}");
    Ok(())
}

/// A list's lines by revision. `[revision]` begins a part; a line that is not indented is a reason, an indented one a
/// check under it; `#` begins a remark.
fn read_list(text: &str) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let mut parts = BTreeMap::<String, BTreeSet<String>>::new();
    let (mut revision, mut has_reason) = (None, false);
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        if let Some(named) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            ensure!(REVISIONS.contains(&named), "no such revision: {line}");
            (revision, has_reason) = (Some(named.to_owned()), false);
        } else if !line.starts_with(' ') {
            has_reason = true;
        } else {
            let Some(revision) = revision.as_ref().filter(|_| has_reason) else { bail!("without a reason: {line}") };
            ensure!(parts.entry(revision.clone()).or_default().insert(line.trim().to_owned()), "twice: {line}");
        }
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_gives_every_check_a_reason() {
        let parts = read_list("# remark\n[2025-11-25]\nBecause.\n  a b SUCCESS FAILURE\n[2026-07-28]\n").unwrap();
        assert_eq!(parts["2025-11-25"].iter().collect::<Vec<_>>(), ["a b SUCCESS FAILURE"]);
        for wrong in
            ["[2025-11-25]\n  a b X Y\n", "Because.\n  a b X Y\n", "[2024-01-01]\n", "[2025-11-25]\nB.\n a\n a\n"]
        {
            assert!(read_list(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_missing_on_one_side_differs() {
        let one: Results =
            serde_json::from_str(r#"{"s":{"a":{"status":"SUCCESS"},"b":{"status":"SUCCESS"}}}"#).unwrap();
        let two: Results = serde_json::from_str(r#"{"s":{"a":{"status":"FAILURE","said":"no"}}}"#).unwrap();
        let lines: Vec<String> = one.differences(&two).into_keys().collect();
        assert_eq!(lines, ["s a SUCCESS FAILURE", "s b SUCCESS ABSENT"]);
        assert_eq!(two.shortcomings()["s a FAILURE"], "no");
        assert_eq!((one.passed(), two.passed()), ((1, 1), (0, 1)));
        let unscored: Results = serde_json::from_str(r#"{"tasks-lifecycle":{"a":{"status":"FAILURE"}}}"#).unwrap();
        assert_eq!(unscored.passed(), (0, 0));
        let silent: Results = serde_json::from_str(r#"{"s":{},"t":{"a":{"status":"SKIPPED"}}}"#).unwrap();
        assert_eq!(silent.passed(), (0, 2), "nothing was shown");
        assert!(one.differences(&one).is_empty());
    }
}

//! `bailiwick doctor` against a real cluster: well, missing one, missing two, and with a rotten disk.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use bailiwick_tests::{Deployment, Shape};
use serde_json::Value;

/// What the doctor found: exit code, and its report.
fn doctor(deployment: &Deployment, node: &str) -> Result<(i32, Value)> {
    let config = deployment.data().join(format!("config/{node}.toml")).display().to_string();
    let output = deployment.cli(&["doctor", "--config", &config, "-o", "json"])?;
    let report = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    Ok((output.status.code().context("killed")?, report))
}

/// The results of one check, with what they are about.
fn results<'a>(report: &'a Value, check: &str) -> Vec<(&'a str, &'a str)> {
    let items = report.get("items").and_then(Value::as_array).into_iter().flatten();
    let text = |item: &'a Value, key: &str| item.get(key).and_then(Value::as_str).unwrap_or_default();
    items
        .filter(|item| text(item, "check") == check)
        .map(|item| (text(item, "subject"), text(item, "result")))
        .collect()
}

/// Flips a bit in the middle of the largest file of a database.
fn rot(database: &Path) -> Result<()> {
    let files = fs::read_dir(database)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>>>()?;
    let rows =
        files.into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "log" || ending == "sst"));
    let largest = rows.max_by_key(|path| fs::metadata(path).map_or(0, |found| found.len())).context("no rows")?;
    let mut bytes = fs::read(&largest)?;
    let middle = bytes.len() / 2;
    *bytes.get_mut(middle).context("empty")? ^= 0x10;
    Ok(fs::write(largest, bytes)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_finds_a_well_cluster_well_and_says_what_is_missing_or_rotten() -> Result<()> {
    let deployment = Deployment::start(Shape::Cluster).await?;
    for node in ["control-plane-1", "data-plane-1", "ledger"] {
        let (code, report) = doctor(&deployment, node)?;
        let failed: Vec<&Value> = report
            .get("items")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter(|item| item.get("result").and_then(Value::as_str) == Some("fail"))
            .collect();
        ensure!(code == 0 && failed.is_empty(), "{node}: exit {code}: {failed:#?}");
        let looked =
            ["disk-sync", "disk-space", "master-key", "running", "leader", "quorum", "roots", "versions", "renewal"];
        for check in looked {
            ensure!(!results(&report, check).is_empty(), "{node}: {check} was not looked at: {report:#}");
        }
        ensure!(results(&report, "certificate").len() == 3, "a certificate for each control plane: {report:#}");
        ensure!(results(&report, "clock").len() == 3, "a clock for each control plane: {report:#}");
    }

    deployment.end("control-plane-3", "KILL").await?;
    let (code, report) = doctor(&deployment, "control-plane-3")?;
    ensure!(code == 0, "one missing is a warning: {report:#}");
    ensure!(results(&report, "quorum") == [("cluster", "warn")], "{report:#}");
    ensure!(results(&report, "reachable") == [("control-plane-3", "warn")], "{report:#}");
    ensure!(results(&report, "data") == [("control-plane-3", "ok")], "its data are whole: {report:#}");

    rot(&deployment.data().join("data/control-plane-3/raft/store"))?;
    let (code, report) = doctor(&deployment, "control-plane-3")?;
    ensure!(code == 1 && results(&report, "data") == [("control-plane-3", "fail")], "exit {code}: {report:#}");

    deployment.end("control-plane-2", "KILL").await?;
    let (code, report) = doctor(&deployment, "control-plane-1")?;
    ensure!(code == 1, "two missing is a failure: {report:#}");
    ensure!(results(&report, "quorum") == [("cluster", "fail")], "{report:#}");
    ensure!(results(&report, "leader") == [("cluster", "fail")], "{report:#}");
    Ok(())
}

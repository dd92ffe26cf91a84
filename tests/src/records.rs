//! What a deployment has on record, and that the whole of it is proven: asked as an auditor would.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{deployment::Deployment, wait::eventually};

impl Deployment {
    /// Seals a secret of servers.
    ///
    /// # Errors
    /// When it is refused.
    pub fn seal(&self, name: &str, value: &str) -> Result<()> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("value");
        fs::write(&file, format!("{value}\n"))?;
        self.cli_ok(&["secret", "set", name, "--from-file", &file.display().to_string()]).map(drop)
    }

    /// Records of an MCP method, oldest first, once there are so many.
    ///
    /// # Errors
    /// When there are fewer for long.
    pub async fn records_of(&self, method: &str, count: usize) -> Result<Vec<Value>> {
        let trace_method = |record: &Value| record.pointer("/trace/method").is_some_and(|of| of == method);
        let found = eventually("the records", async || {
            let mut all = self.audit(&["--limit", "1000"]).ok()?;
            all.retain(trace_method);
            all.sort_by_key(|record| record.get("ts").and_then(Value::as_str).map(str::to_owned));
            (all.len() >= count).then_some(all)
        });
        found.await.with_context(|| format!("{count} of {method}"))
    }

    /// Exports the ledger and verifies it offline, until it holds so many records of these kinds.
    ///
    /// # Errors
    /// When it does not come to hold them; an export that does not verify never counts.
    pub async fn proven(&self, kinds: &[(&str, usize)]) -> Result<()> {
        let out = self.data().join("export");
        let path = out.to_str().context("path")?.to_owned();
        let mut last = BTreeMap::<String, usize>::new();
        let proven = eventually("the export that proves it", async || {
            drop(fs::remove_dir_all(&out));
            self.cli_ok(&["ledger", "export", &self.ledger, &path]).ok()?;
            let said = self.cli_ok(&["ledger", "verify", &path, "-o", "json"]).ok()?;
            let report: Value = serde_json::from_str(&said).ok()?;
            last = serde_json::from_value(report.get("kinds")?.clone()).ok()?;
            kinds.iter().all(|(kind, count)| last.get(*kind) == Some(count)).then_some(())
        });
        proven.await.with_context(|| format!("{kinds:?} of {last:?}"))
    }

    /// The metrics of a node.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metrics_of(&self, name: &str) -> Result<String> {
        Ok(self.ops(name, "metrics").await?.text().await?)
    }

    /// Asks a node's operators' endpoint.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn ops(&self, name: &str, path: &str) -> Result<reqwest::Response> {
        let node = self.node(name)?;
        let at = node.listen.get("ops").and_then(Value::as_str).context("no endpoint for operators")?;
        let answer = reqwest::get(format!("{}/{path}", crate::deployment::as_url(at))).await?;
        ensure!(answer.status() != 404, "{path}");
        Ok(answer)
    }
}

//! The ledger through the command line: an export verifies offline, and every kind of tampering is named.

#![expect(clippy::indexing_slicing, reason = "a test that panics fails, as it should")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{Deployment, McpClient, SampleServer, Shape, both, eventually};
use serde_json::{Value, json};

both! {
    a_changed_byte_anywhere_is_found
    a_removed_leaf_and_a_cut_tail_are_found
    a_log_signed_by_another_key_is_refused
    the_csv_export_is_rfc_4180_and_complete
}

/// A deployment with some calls on record, and an export of its log.
async fn exported(shape: Shape) -> Result<(Deployment, SampleServer, PathBuf)> {
    let (deployment, server) = (Deployment::start(shape).await?, SampleServer::start().await?);
    deployment.apply(&server.manifests())?;
    let token = deployment.token("finance", "retrieval")?;
    let client = McpClient::new(&deployment.mcp[0], "finance", &token);
    eventually("a call is permitted", async || {
        let answer = client.call("query_data", json!({"dataset": "invoices"})).await.ok()?;
        answer.body.get("result").map(drop)
    })
    .await?;
    client.call("delete_ledger", json!({"ledger": "2019"})).await?;
    let out = deployment.data().join("export");
    let path = out.to_str().context("path")?.to_owned();
    eventually("the denial is exported", async || {
        drop(fs::remove_dir_all(&out));
        deployment.cli_ok(&["ledger", "export", &deployment.ledger, &path]).ok()?;
        let report: Value =
            serde_json::from_str(&deployment.cli_ok(&["ledger", "verify", &path, "-o", "json"]).ok()?).ok()?;
        (report["kinds"]["call.denied"].as_u64()? >= 1).then_some(())
    })
    .await?;
    Ok((deployment, server, out))
}

fn verify(deployment: &Deployment, out: &Path, more: &[&str]) -> Result<(i32, String)> {
    let path = out.to_str().context("path")?;
    let output = deployment.cli(&[&["ledger", "verify", path], more].concat())?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.code().context("killed")?, String::from_utf8_lossy(&said).into_owned()))
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

async fn a_changed_byte_anywhere_is_found(shape: Shape) -> Result<()> {
    let (deployment, _server, out) = exported(shape).await?;
    let (code, said) = verify(&deployment, &out, &[])?;
    ensure!(code == 0 && said.contains("VALID") && said.contains("call.intent"), "{said}");

    let entries = out.join("tile/entries");
    for file in files(&out) {
        let original = fs::read(&file)?;
        let step = (original.len() / 7).max(1);
        for position in (0..original.len()).step_by(step) {
            let mut changed = original.clone();
            changed[position] ^= 1;
            fs::write(&file, &changed)?;
            let (code, said) = verify(&deployment, &out, &[])?;
            ensure!(code == 1, "byte {position} of {} changed and nobody noticed:\n{said}", file.display());
            ensure!(!file.starts_with(&entries) || said.contains("leaf"), "no leaf named: {said}");
        }
        fs::write(&file, &original)?;
    }
    ensure!(verify(&deployment, &out, &[])?.0 == 0, "the export is whole again");
    Ok(())
}

async fn a_removed_leaf_and_a_cut_tail_are_found(shape: Shape) -> Result<()> {
    let (deployment, _server, out) = exported(shape).await?;
    let later = fs::read(out.join("checkpoint"))?;
    let kept = deployment.data().join("kept-checkpoint");
    fs::write(&kept, &later)?;
    let kept = kept.to_str().context("path")?.to_owned();
    ensure!(verify(&deployment, &out, &["--checkpoint", &kept])?.0 == 0, "a checkpoint of its own history fits");

    let bundle = files(&out.join("tile/entries")).into_iter().next().context("no entries")?;
    let original = fs::read(&bundle)?;
    let first = usize::from(u16::from_be_bytes([original[0], original[1]])) + 2;
    fs::write(&bundle, &original[first..])?;
    let (code, said) = verify(&deployment, &out, &[])?;
    ensure!(code == 1 && said.contains("leaf 0"), "{said}");
    fs::write(&bundle, &original)?;

    // A restored old copy: an earlier, properly signed export against a checkpoint somebody kept from later.
    let early = deployment.data().join("early");
    let copied = early.to_str().context("path")?.to_owned();
    deployment.cli_ok(&["ledger", "export", &deployment.ledger, &copied])?;
    let token = deployment.token("finance", "retrieval")?;
    drop(token);
    let newest = deployment.data().join("newest");
    let newest_path = newest.to_str().context("path")?.to_owned();
    eventually("a longer log", async || {
        drop(fs::remove_dir_all(&newest));
        deployment.cli_ok(&["ledger", "export", &deployment.ledger, &newest_path]).ok()?;
        (size(&newest)? > size(&early)?).then_some(())
    })
    .await?;
    let newest_checkpoint = newest.join("checkpoint").display().to_string();
    let (code, said) = verify(&deployment, &early, &["--checkpoint", &newest_checkpoint])?;
    ensure!(code == 1, "the tail was cut and nobody noticed: {said}");
    let early_checkpoint = early.join("checkpoint").display().to_string();
    ensure!(
        verify(&deployment, &newest, &["--checkpoint", &early_checkpoint])?.0 == 0,
        "the longer log extends the shorter"
    );
    Ok(())
}

fn size(export: &Path) -> Option<u64> {
    fs::read_to_string(export.join("checkpoint")).ok()?.lines().nth(1)?.parse().ok()
}

async fn a_log_signed_by_another_key_is_refused(shape: Shape) -> Result<()> {
    let (deployment, _server, out) = exported(shape).await?;
    let (_other, _server, foreign) = exported(shape).await?;
    let key = fs::read_to_string(out.join("key"))?;
    ensure!(verify(&deployment, &out, &["--key", key.trim()])?.0 == 0, "its own key fits");
    ensure!(verify(&deployment, &foreign, &["--key", key.trim()])?.0 == 1, "another log's key was accepted");
    Ok(())
}

async fn the_csv_export_is_rfc_4180_and_complete(shape: Shape) -> Result<()> {
    let (deployment, _server, out) = exported(shape).await?;
    let text = deployment.cli_ok(&["audit", "export", "--format", "csv"])?;
    ensure!(text.ends_with("\r\n") && !text.replace("\r\n", "").contains('\n'), "lines end in CRLF");
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let headers = reader.headers()?.clone();
    let column = |name: &str| headers.iter().position(|header| header == name).context("column");
    let (index, kind, tool) = (column("index")?, column("kind")?, column("tool")?);
    let rows: Vec<csv::StringRecord> = reader.records().collect::<Result<_, _>>()?;
    ensure!(rows.len() as u64 >= size(&out).context("size")?, "{} rows", rows.len());
    for (number, row) in rows.iter().enumerate() {
        ensure!(row[index] == number.to_string(), "row {number} has index {}", &row[index]);
    }
    ensure!(rows.iter().any(|row| &row[kind] == "call.denied" && &row[tool] == "delete_ledger"), "no denial");
    let filtered = deployment.cli_ok(&["audit", "export", "--kind", "call.intent"])?;
    ensure!(csv::Reader::from_reader(filtered.as_bytes()).records().count() >= 1, "no intent");
    Ok(())
}

//! The connection to a ledger's HTTP listener.

use std::time::Duration;

use reqwest::{Client, StatusCode};
use serde_json::Value;

use crate::failure::Failure;

/// A page of records is a few megabytes at most.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(60);

/// Fetches one JSON value from `base` + `path` with a query string.
pub(crate) async fn get(base: &str, path: &str, query: &[(&str, String)]) -> Result<Value, Failure> {
    let body = fetch(base, path, query, "application/json").await?;
    serde_json::from_slice(&body).map_err(|_| not_json(base, path))
}

/// Fetches newline-delimited JSON.
pub(crate) async fn get_lines(base: &str, path: &str, query: &[(&str, String)]) -> Result<Vec<Value>, Failure> {
    let body = fetch(base, path, query, "application/x-ndjson").await?;
    let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).map_err(|_| not_json(base, path))).collect()
}

fn not_json(base: &str, path: &str) -> Failure {
    Failure::Refused(format!("{base}{path} answered with something that is not JSON; is it a ledger?"))
}

async fn fetch(base: &str, path: &str, query: &[(&str, String)], accept: &str) -> Result<Vec<u8>, Failure> {
    let url = format!("{}{path}", base.trim_end_matches('/'));
    let client = Client::builder().timeout(ANSWER_WAIT_MAX).no_proxy().build().map_err(Failure::refused)?;
    let unreachable = |_| {
        let advice = "is it running? Set BAILIWICK_LEDGER or --ledger to its address";
        Failure::Unreachable(format!("no ledger answers at {base}; {advice}"))
    };
    let response = client.get(&url).header("accept", accept).query(query).send().await.map_err(unreachable)?;
    let status = response.status();
    let body = response.bytes().await.map_err(unreachable)?;
    if status == StatusCode::OK {
        return Ok(body.to_vec());
    }
    let value: Value = serde_json::from_slice(&body).map_err(|_| not_json(base, path))?;
    let message = value.pointer("/error/message").and_then(Value::as_str).unwrap_or("no reason given").to_owned();
    Err(Failure::Refused(format!("the ledger refused: {message}")))
}

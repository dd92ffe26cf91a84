//! Batches that somebody made up who reaches the NATS server: none is ever stored, and none stops anybody.

use std::{io::Write, net::TcpStream};

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{Deployment, eventually};

use super::{all_on_record, cluster, erase, query, ran};

/// A publisher that speaks to NATS itself, as whoever reaches it can.
struct Forger(TcpStream);

impl Forger {
    fn connect(deployment: &Deployment) -> Result<Self> {
        let nats = deployment.role("nats").pop().context("no nats")?;
        let mut stream = TcpStream::connect(nats.listen["client"].as_str().context("client")?)?;
        stream.write_all(b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n")?;
        Ok(Self(stream))
    }

    fn publish(&mut self, subject: &str, payload: &[u8]) -> Result<()> {
        write!(self.0, "PUB {subject} {}\r\n", payload.len())?;
        self.0.write_all(payload)?;
        Ok(self.0.write_all(b"\r\n")?)
    }
}

/// A `RecordBatch`, byte for byte.
fn batch(node: &str, epoch: u64, first_seq: u64, records: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    field(&mut out, 0x0a, node.as_bytes());
    for (tag, number) in [(0x10, epoch), (0x18, first_seq)] {
        out.push(tag);
        varint(&mut out, number);
    }
    records.iter().for_each(|record| field(&mut out, 0x22, record));
    out
}

fn field(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(u8::try_from(number & 0x7f).unwrap_or_default() | 0x80);
        number >>= 7;
    }
    out.push(u8::try_from(number).unwrap_or_default());
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_batches_are_never_stored_and_stop_nobody() -> Result<()> {
    let (deployment, server, client) = cluster().await?;
    let intent = eventually("an intent", async || deployment.audit(&["--kind", "call.intent"]).ok()?.pop()).await?;
    let number = |key: &str| intent[key].as_str().and_then(|text| text.parse::<u64>().ok()).context("a number");
    let (epoch, seq) = (number("epoch")?, number("seq")?);
    let node = intent["node"].as_str().context("node")?.to_owned();
    let mut record = intent.clone();
    let members = record.as_object_mut().context("object")?;
    // What a search adds to the record.
    for added in ["index", "leaf_hash"] {
        members.remove(added);
    }
    members.insert("user".to_owned(), "mallory@example.com".into());
    let forged = |seq: u64, epoch: u64, node: &str| {
        let mut forged = record.clone();
        forged["seq"] = seq.to_string().into();
        forged["epoch"] = epoch.to_string().into();
        forged["node"] = node.into();
        forged.to_string().into_bytes()
    };
    let own = |node: &str| format!("bailiwick.v1.record.local.{node}");
    let mut forger = Forger::connect(&deployment)?;
    for (subject, payload) in [
        // Another node's name under one's own subject, and the control plane's.
        (own("data-plane-2"), batch(&node, epoch, seq, &[&forged(seq, epoch, &node)])),
        (own("control-plane"), batch("control-plane", 0, 0, &[&forged(0, 0, "control-plane")])),
        (own("ledger"), batch("ledger", 0, 0, &[&forged(0, 0, "ledger")])),
        ("bailiwick.v1.control".to_owned(), batch(&node, epoch, seq, &[&forged(seq, epoch, &node)])),
        // Its own name: another record in a place that is taken, an epoch nobody registered, a far place, no chain.
        (own(&node), batch(&node, epoch, seq, &[&forged(seq, epoch, &node)])),
        (own(&node), batch(&node, epoch + 1_000, 0, &[&forged(0, epoch + 1_000, &node)])),
        (own(&node), batch(&node, u64::MAX, u64::MAX, &[&forged(u64::MAX, u64::MAX, &node)])),
        (own(&node), batch(&node, epoch, seq + 1_000_000, &[&forged(seq + 1_000_000, epoch, &node)])),
        (own(&node), batch(&node, epoch, seq + 3, &[&forged(seq + 3, epoch, &node)])),
        (own(&node), batch(&node, epoch, seq, &[b"{}", b"", b"\xff\xfe"])),
        // No batch at all.
        (own(&node), b"\xff\xff\xff".to_vec()),
        (own(&node), Vec::new()),
        ("bailiwick.v1.control".to_owned(), batch("control-plane", 0, 0, &[b"{}"])),
    ] {
        forger.publish(&subject, &payload)?;
    }
    // More nodes that do not exist than the ledger would ever hold.
    for n in 0..600 {
        let name = format!("ghost-{n}");
        forger.publish(&own(&name), &batch(&name, 1, 0, &[&forged(0, 1, &name)]))?;
    }
    for _ in 0..20 {
        ensure!(ran(&query(&client).await?));
    }
    for mcp in &deployment.mcp {
        let answer = erase(&client.at(mcp)).await?;
        ensure!(ran(&answer), "forged batches stop honest ones: {}", answer.text);
    }
    all_on_record(&deployment, &deployment.ledger, &server).await?;
    let records = deployment.cli_ok(&["audit", "export", "--format", "jsonl"])?;
    ensure!(!records.contains("mallory") && !records.contains("ghost-"), "a forged record is in the log");
    Ok(())
}

//! Load while parts fail: writers that know exactly which of their writes were acknowledged, and callers of tools.
//!
//! A write is a token issued, with a request id that also is its reason, so every consent tells which write made it.
//! A writer sends a write again under the same id, to the next control plane, until it is acknowledged: that is what
//! clients are told to do. So afterwards each acknowledged write must be there exactly once, and none twice.

#![expect(clippy::disallowed_methods, reason = "writers and callers end with the load; a test has no supervisor")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bailiwick_proto::v1::{IssueTokenRequest, admin_client::AdminClient};
use serde_json::{Value, json};
use tokio::{task::JoinHandle, time::Instant};
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

use crate::{deployment::Deployment, mcp::McpClient, wait::eventually};

/// How long one attempt may take before the next control plane is asked.
const ATTEMPT_MAX: Duration = Duration::from_secs(3);
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// Between attempts that fail at once.
const PAUSE: Duration = Duration::from_millis(20);
/// A caller gives up after so many failed calls: one is too many already.
const FAILED_MAX: usize = 100;
/// Attempts under way when the load ends go on for so long, so that few stay unknown.
const LAST_ATTEMPTS_MAX: Duration = Duration::from_secs(20);

/// What came of a load.
#[derive(Debug, Default)]
pub struct Written {
    pub acknowledged: BTreeSet<String>,
    /// Sent, and never answered: may have happened, but not twice.
    pub unknown: BTreeSet<String>,
    /// Answers other than "try again", which no write of this load deserves.
    pub refused: Vec<String>,
    /// Longest time between two acknowledgements, over all writers.
    pub longest_gap: Duration,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    acknowledged: AtomicU64,
}

/// Writers at work.
#[derive(Debug)]
pub struct Writers {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<(Written, Vec<Instant>)>>,
}

impl Writers {
    /// Starts `count` writers; `load` is the beginning of all their request ids. The resources of
    /// `deploy/quickstart.yaml` must be there.
    #[must_use]
    pub fn start(deployment: &Deployment, load: &str, count: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let start = |writer: usize| {
            let mut channels = Channels::new(&deployment.admins, writer);
            let (shared, load) = (Arc::clone(&shared), format!("{load}-{writer}"));
            tokio::spawn(async move { write(&mut channels, &shared, &load).await })
        };
        #[expect(clippy::redundant_closure, reason = "the closure borrows")]
        let tasks = (0..count).map(|writer| start(writer)).collect();
        Self { shared, tasks }
    }

    /// How many writes have been acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until so many more writes have been acknowledged.
    ///
    /// # Errors
    /// When they are not.
    pub async fn go_on(&self, more: u64) -> Result<()> {
        let wanted = self.acknowledged() + more;
        eventually(&format!("{more} more writes are acknowledged"), async || {
            (self.acknowledged() >= wanted).then_some(())
        })
        .await
    }

    /// Ends the load.
    ///
    /// # Errors
    /// When a writer panicked.
    pub async fn stop(self) -> Result<Written> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let (mut all, mut times) = (Written::default(), Vec::new());
        for task in self.tasks {
            let (written, when) = task.await?;
            all.acknowledged.extend(written.acknowledged);
            all.unknown.extend(written.unknown);
            all.refused.extend(written.refused);
            times.extend(when);
        }
        times.sort();
        all.longest_gap = times.windows(2).map(gap).max().unwrap_or_default();
        Ok(all)
    }
}

fn gap(pair: &[Instant]) -> Duration {
    match pair {
        [earlier, later] => later.duration_since(*earlier),
        _ => Duration::ZERO,
    }
}

async fn write(channels: &mut Channels, shared: &Shared, load: &str) -> (Written, Vec<Instant>) {
    let (mut written, mut times) = (Written::default(), Vec::new());
    for n in 0_u64.. {
        if shared.stop.load(Ordering::Relaxed) {
            break;
        }
        let id = format!("{load}-{n}");
        let mut last_chance = None;
        let outcome = loop {
            if shared.stop.load(Ordering::Relaxed) {
                let chance = *last_chance.get_or_insert_with(|| Instant::now() + LAST_ATTEMPTS_MAX);
                if Instant::now() > chance {
                    break None;
                }
            }
            match tokio::time::timeout(ATTEMPT_MAX, channels.current().issue_token(issue(&id))).await {
                Ok(Ok(_)) => break Some(Ok(())),
                Ok(Err(status)) if !is_transient(status.code()) => break Some(Err(status)),
                Ok(Err(_)) => tokio::time::sleep(PAUSE).await,
                Err(_) => {}
            }
            channels.next();
        };
        match outcome {
            Some(Ok(())) => {
                shared.acknowledged.fetch_add(1, Ordering::Relaxed);
                times.push(Instant::now());
                written.acknowledged.insert(id);
            }
            Some(Err(status)) => written.refused.push(format!("{id}: {status}")),
            None => drop(written.unknown.insert(id)),
        }
    }
    (written, times)
}

/// Answers after which clients try again. A connection that breaks in the middle of an answer is told as `Unknown` or
/// `Internal` by the transport.
fn is_transient(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::Internal)
}

fn issue(id: &str) -> IssueTokenRequest {
    IssueTokenRequest {
        user: "jane@example.com".to_owned(),
        agent: "coding-assistant".to_owned(),
        virtual_server: "finance".to_owned(),
        level: "retrieval".to_owned(),
        ttl_seconds: 600,
        reason: id.to_owned(),
        request_id: id.to_owned(),
        binding_alg: String::new(),
        dpop_jkt: String::new(),
    }
}

/// One lazy connection per control plane, and which of them is used now.
#[derive(Debug)]
struct Channels {
    all: Vec<AdminClient<Channel>>,
    at: usize,
}

impl Channels {
    fn new(admins: &[String], at: usize) -> Self {
        let endpoints = admins.iter().filter_map(|url| Endpoint::from_shared(url.clone()).ok());
        let lazily = endpoints.map(|endpoint| AdminClient::new(endpoint.connect_timeout(CONNECT_MAX).connect_lazy()));
        Self { all: lazily.collect(), at }
    }

    fn current(&mut self) -> &mut AdminClient<Channel> {
        let at = self.at % self.all.len().max(1);
        #[expect(clippy::indexing_slicing, reason = "the index is below the length, and a deployment has an admin")]
        &mut self.all[at]
    }

    fn next(&mut self) {
        self.at += 1;
    }
}

/// The writes of a load that are there, and how often each.
///
/// # Errors
/// When the consents cannot be listed.
pub fn writes_there(deployment: &Deployment, load: &str) -> Result<BTreeMap<String, usize>> {
    let listed: Value = serde_json::from_str(&deployment.cli_ok(&["get", "consent", "-o", "json"])?)?;
    let items = listed.get("items").and_then(Value::as_array).context("no items")?;
    let mut there = BTreeMap::new();
    for reason in items.iter().filter_map(|item| item.pointer("/status/reason").and_then(Value::as_str)) {
        if reason.starts_with(&format!("{load}-")) {
            *there.entry(reason.to_owned()).or_insert(0) += 1;
        }
    }
    Ok(there)
}

/// Nothing acknowledged is lost, nothing happened twice, and nothing was refused.
///
/// # Errors
/// When that does not hold; says which writes are wrong.
pub fn check(deployment: &Deployment, load: &str, written: &Written) -> Result<()> {
    let there = writes_there(deployment, load)?;
    let lost: Vec<_> = written.acknowledged.iter().filter(|id| !there.contains_key(*id)).collect();
    let first = lost.first();
    ensure!(lost.is_empty(), "{} of {} acknowledged and gone: {first:?}, …", lost.len(), written.acknowledged.len());
    let twice: Vec<_> = there.iter().filter(|(_, count)| **count > 1).collect();
    ensure!(twice.is_empty(), "{} happened more than once: {:?}, …", twice.len(), twice.first());
    let nobodys = there.keys().find(|id| !written.acknowledged.contains(*id) && !written.unknown.contains(*id));
    ensure!(nobodys.is_none(), "nobody wrote {nobodys:?}");
    let refused = &written.refused;
    ensure!(refused.is_empty(), "{} were refused: {:?}, …", refused.len(), refused.first());
    Ok(())
}

/// Callers of a tool at every data plane.
#[derive(Debug)]
pub struct Callers {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<(u64, Vec<String>)>>,
}

impl Callers {
    /// One caller per data plane, each with a token that works there already.
    ///
    /// # Errors
    /// When the token does not come to work.
    pub async fn start(deployment: &Deployment) -> Result<Self> {
        let token = deployment.token("finance", "retrieval")?;
        let (stop, mut tasks) = (Arc::new(AtomicBool::new(false)), Vec::new());
        for mcp in &deployment.mcp {
            let client = McpClient::new(mcp, "finance", &token);
            eventually("the token works", async || {
                let answer = client.modern("tools/list", json!({})).await.ok()?;
                (!answer.tools().is_empty()).then_some(())
            })
            .await?;
            let stop = Arc::clone(&stop);
            tasks.push(tokio::spawn(async move {
                let (mut done, mut failed) = (0, Vec::new());
                while done == 0 || !stop.load(Ordering::Relaxed) {
                    match client.call("query_data", json!({"dataset": "invoices"})).await {
                        Ok(answer) if answer.body.get("result").is_some() => done += 1,
                        Ok(answer) => failed.push(answer.text),
                        Err(error) => failed.push(format!("{error:#}")),
                    }
                    if failed.len() > FAILED_MAX {
                        break;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                (done, failed)
            }));
        }
        Ok(Self { stop, tasks })
    }

    /// Ends the calls; every one must have been answered, and there must have been some.
    ///
    /// # Errors
    /// When a call was not answered.
    pub async fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            let (done, failed) = task.await?;
            ensure!(
                failed.is_empty(),
                "{} calls failed, {done} did not; the first: {:?}",
                failed.len(),
                failed.first()
            );
            ensure!(done > 0, "no call was made");
        }
        Ok(())
    }
}

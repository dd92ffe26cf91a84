//! What callers do in a closed loop: each kind of request, and what they are compared with.
//!
//! Called by `tokens`, one step for each kind, node and number of callers. A caller makes what it needs (a signature, a
//! code) before its clock starts, and reads the whole answer before it stops. An answer that is not the expected one
//! ends the run: figures with errors mean nothing.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde_json::json;
use tokio::task::JoinSet;

use super::{
    person::{REDIRECT_URI, VERIFIER},
    world::{ASSISTANT, EDITOR, METADATA, Node, SECRET, World, credentials_form, document, held, text},
};
use crate::control_plane::figures::{Latencies, count};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The authorization server's metadata: what the listener costs.
    Metadata,
    /// A small manifest applied: what a write costs.
    Write,
    Credentials,
    Assertion,
    Introspection,
    Code,
    Refresh,
    Revocation,
}

impl Kind {
    /// In the order in which they are measured: codes give what is refreshed, and then revoked, until none is left.
    pub(super) const ALL: [Self; 8] = [
        Self::Metadata,
        Self::Write,
        Self::Credentials,
        Self::Assertion,
        Self::Introspection,
        Self::Code,
        Self::Refresh,
        Self::Revocation,
    ];

    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Metadata => "GET metadata",
            Self::Write => "apply of one manifest",
            Self::Credentials => "client_credentials (private_key_jwt)",
            Self::Assertion => "jwt-bearer (ID-JAG)",
            Self::Introspection => "introspection",
            Self::Code => "authorization_code",
            Self::Refresh => "refresh_token",
            Self::Revocation => "revocation",
        }
    }
}

/// One kind, at one node, by so many callers.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) kind: Kind,
    pub(super) node: String,
    pub(super) callers: usize,
    pub(super) latencies: Latencies,
    pub(super) took: Duration,
    /// Processors' time of all control planes for one request.
    pub(super) cpu_each: Duration,
}

impl Step {
    pub(super) fn per_second(&self) -> f64 {
        self.latencies.per_second(self.took)
    }
}

/// So many callers for so long, or until what they need is used up.
pub(super) async fn step(world: &Arc<World>, node: &Node, kind: Kind, callers: usize, time: Duration) -> Result<Step> {
    let mut opening = JoinSet::new();
    for number in 0..callers {
        let mut caller = Caller::new(Arc::clone(world), node.clone(), kind, number);
        opening.spawn(async move {
            // Not measured: opens a connection.
            caller.once().await?;
            Ok::<_, anyhow::Error>(caller)
        });
    }
    let mut ready = Vec::new();
    while let Some(opened) = opening.join_next().await {
        ready.push(opened??);
    }
    let (mut calling, cpu_before, began) = (JoinSet::new(), world.cluster.cpu(), Instant::now());
    for caller in ready {
        calling.spawn(caller.call(began, time));
    }
    let mut all = Vec::new();
    while let Some(ended) = calling.join_next().await {
        all.extend(ended??);
    }
    let (took, cpu) = (began.elapsed(), world.cluster.cpu().saturating_sub(cpu_before));
    let each = Duration::from_secs_f64(cpu.as_secs_f64() / count(all.len().max(1)));
    let latencies = Latencies::new(all);
    Ok(Step { kind, node: node.name.clone(), callers, latencies, took, cpu_each: each })
}

struct Caller {
    world: Arc<World>,
    node: Node,
    kind: Kind,
    number: usize,
    /// What is refreshed next, or introspected.
    token: Option<String>,
}

impl Caller {
    const fn new(world: Arc<World>, node: Node, kind: Kind, number: usize) -> Self {
        Self { world, node, kind, number, token: None }
    }

    async fn call(mut self, began: Instant, time: Duration) -> Result<Vec<Duration>> {
        let mut latencies = Vec::new();
        while began.elapsed() < time {
            let Some(took) = self.once().await.with_context(|| self.kind.title())? else { break };
            latencies.push(took);
        }
        if let Some(token) = self.token.filter(|_| self.kind == Kind::Refresh) {
            held(&self.world.refresh_tokens).push(token);
        }
        Ok(latencies)
    }

    /// One request and how long its answer took; `None` when there is nothing left to ask with.
    async fn once(&mut self) -> Result<Option<Duration>> {
        match self.kind {
            Kind::Metadata => self.metadata().await.map(Some),
            Kind::Write => self.write().await.map(Some),
            Kind::Credentials => {
                let assertion = self.world.client_assertion()?;
                self.timed("/oauth/token", &credentials_form(&assertion)).await.map(Some)
            }
            Kind::Assertion => {
                let assertion = self.world.assertion()?;
                self.timed("/oauth/token", &assertion_form(&assertion)).await.map(Some)
            }
            Kind::Introspection => self.introspect().await.map(Some),
            Kind::Code => self.redeem().await,
            Kind::Refresh => self.refresh().await,
            Kind::Revocation => self.revoke().await,
        }
    }

    async fn timed(&self, path: &str, form: &[(&str, &str)]) -> Result<Duration> {
        let began = Instant::now();
        self.world.post(&self.node, path, form).await?;
        Ok(began.elapsed())
    }

    async fn metadata(&self) -> Result<Duration> {
        let began = Instant::now();
        let answer = self.world.http.get(format!("{}{METADATA}", self.node.http)).send().await?;
        answer.error_for_status()?.bytes().await?;
        Ok(began.elapsed())
    }

    async fn write(&self) -> Result<Duration> {
        let group = format!("group-{}", self.world.number());
        let manifest = document("User", &format!("writer-{}@bench.example", self.number), &json!({"groups": [group]}));
        let began = Instant::now();
        self.node.admin.apply(&manifest).await?;
        Ok(began.elapsed())
    }

    async fn introspect(&mut self) -> Result<Duration> {
        let token = match self.token.take() {
            Some(token) => token,
            None => {
                let assertion = self.world.assertion()?;
                text(&self.world.post(&self.node, "/oauth/token", &assertion_form(&assertion)).await?, "access_token")?
            }
        };
        let form = [("token", token.as_str()), ("client_id", ASSISTANT), ("client_secret", SECRET)];
        let began = Instant::now();
        let told = self.world.post(&self.node, "/oauth/introspect", &form).await?;
        let took = began.elapsed();
        anyhow::ensure!(told.get("active") == Some(&json!(true)), "a token that does not count: {told}");
        self.token = Some(token);
        Ok(took)
    }

    async fn redeem(&self) -> Result<Option<Duration>> {
        let Some(code) = held(&self.world.codes).pop() else { return Ok(None) };
        let form = [
            ("grant_type", "authorization_code"),
            ("client_id", EDITOR),
            ("code", &code),
            ("code_verifier", VERIFIER),
            ("redirect_uri", REDIRECT_URI),
        ];
        let began = Instant::now();
        let answer = self.world.post(&self.node, "/oauth/token", &form).await?;
        let took = began.elapsed();
        held(&self.world.refresh_tokens).push(text(&answer, "refresh_token")?);
        Ok(Some(took))
    }

    async fn refresh(&mut self) -> Result<Option<Duration>> {
        let kept = self.token.take().or_else(|| held(&self.world.refresh_tokens).pop());
        let Some(token) = kept else { return Ok(None) };
        let form = [("grant_type", "refresh_token"), ("client_id", EDITOR), ("refresh_token", &token)];
        let began = Instant::now();
        let answer = self.world.post(&self.node, "/oauth/token", &form).await?;
        let took = began.elapsed();
        self.token = Some(text(&answer, "refresh_token")?);
        Ok(Some(took))
    }

    async fn revoke(&self) -> Result<Option<Duration>> {
        let Some(token) = held(&self.world.refresh_tokens).pop() else { return Ok(None) };
        self.timed("/oauth/revoke", &[("token", &token), ("client_id", EDITOR)]).await.map(Some)
    }
}

/// The parameters of a grant by the provider's word.
pub(super) const fn assertion_form(assertion: &str) -> [(&str, &str); 4] {
    [
        ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
        ("assertion", assertion),
        ("client_id", ASSISTANT),
        ("client_secret", SECRET),
    ]
}

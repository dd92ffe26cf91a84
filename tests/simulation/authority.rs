//! Who may do what in a simulation: consents are granted and taken away while things break, and every call that a data
//! plane lets through is held against what had been taken away by then.
//!
//! The promises: **no call is admitted later than the bound after what it needs was taken away**, measured from the
//! moment the change was first applied anywhere; and where a control plane says that a node has a revocation in force,
//! that node admits nothing of it again. What was taken away here never comes back.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use bailiwick_control_plane_core::{
    Answer, Change, Command, Event, Grant,
    command::{IssueToken, ToolDefinition},
    manifest,
    revocation::{Revoke, Target},
};
use bailiwick_data_plane_core::{Caller, ToolRef};
use bailiwick_proto::Tier;
use tokio::time;

use crate::{
    cluster::Cluster,
    operator::administer,
    random::Random,
    workload::Workload,
    world::{World, lock},
};

/// The documented bound: a lease of 3 s, a hundredth of it for clocks that run at different rates, and 50 ms from a
/// node's look at its lease until the call has begun.
pub(crate) const BOUND: Duration = Duration::from_millis(3_080);
const PEOPLE: u64 = 12;
const AGENTS: u64 = 8;
/// The one tool.
pub(crate) const TOOL: ToolRef<'static> = ToolRef { virtual_server: "shop", name: "place_order" };

const OFFER: &str = r#"apiVersion: bailiwick/v1
kind: Server
metadata: {name: orders}
spec:
  endpoint: {url: "http://10.0.1.1:9801/mcp"}
  tools: {place_order: {tier: transactional}}
---
apiVersion: bailiwick/v1
kind: VirtualServer
metadata: {name: shop}
spec: {naming: plain, servers: [{server: orders}]}
---
apiVersion: bailiwick/v1
kind: User
metadata: {name: owner}
spec: {groups: [staff]}
---
apiVersion: bailiwick/v1
kind: Policy
metadata: {name: staff}
spec:
  cedar: permit (principal in Group::"staff", action, resource);
"#;

/// Something that was taken away: when that was first applied anywhere, and at which revision.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    pub(crate) at: Duration,
    pub(crate) revision: u64,
}

/// What is granted, what was taken away, and what data planes let through.
#[derive(Debug)]
pub(crate) struct Authority {
    world: Arc<World>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    grants: Vec<Grant>,
    /// By key: `consent/…`, `user/…`, `agent/…`.
    taken: BTreeMap<String, Taken>,
    /// What control planes said is in force: (data plane, revision).
    said: BTreeSet<(u64, u64)>,
    admitted: u64,
    refused: u64,
    /// How long after its authority was taken away a call was still admitted, at most.
    latest: Duration,
}

impl Authority {
    pub(crate) fn new(world: &Arc<World>) -> Arc<Self> {
        Arc::new(Self { world: world.clone(), inner: Mutex::default() })
    }

    /// An event was applied for the first time.
    pub(crate) fn applied(&self, event: &Event, revision: u64) {
        let key = match &event.change {
            Change::ConsentRevoked(revoked) => format!("consent/{}", revoked.consent),
            Change::UserApplied(user) if !user.spec.active => format!("user/{}", user.name),
            Change::AgentApplied(agent) if !agent.spec.active => format!("agent/{}", agent.name),
            _ => return,
        };
        self.world.trace(format_args!("{key} is taken away at {revision}"));
        let taken = Taken { at: self.world.elapsed(), revision };
        lock(&self.inner).taken.entry(key).or_insert(taken);
    }

    /// Somebody whose consent was granted at some time.
    pub(crate) fn any_caller(&self, random: &Random) -> Option<Caller> {
        random.pick(&lock(&self.inner).grants).map(caller)
    }

    /// A grant of which nothing was taken away.
    pub(crate) fn standing(&self) -> Option<Grant> {
        let inner = lock(&self.inner);
        inner.grants.iter().rev().find(|grant| inner.needed(&caller(grant)).next().is_none()).cloned()
    }

    /// When a key was taken away.
    pub(crate) fn taken(&self, key: &str) -> Option<Taken> {
        lock(&self.inner).taken.get(key).copied()
    }

    /// The revisions that took something away last.
    pub(crate) fn recent(&self) -> Vec<u64> {
        let inner = lock(&self.inner);
        let revisions: BTreeSet<u64> = inner.taken.values().map(|taken| taken.revision).collect();
        revisions.into_iter().rev().take(8).collect()
    }

    /// A control plane says that all denials up to a revision are in force at a data plane.
    pub(crate) fn said(&self, data_plane: u64, revision: u64) {
        if lock(&self.inner).said.insert((data_plane, revision)) {
            self.world.trace(format_args!("data plane {data_plane} is said to hold to {revision}"));
        }
    }

    /// A data plane refused a call.
    pub(crate) fn refused(&self) {
        lock(&self.inner).refused += 1;
    }

    /// A data plane let a call through.
    pub(crate) fn admitted(&self, data_plane: u64, caller: &Caller) {
        let now = self.world.elapsed();
        let mut inner = lock(&self.inner);
        inner.admitted += 1;
        let (mut late, mut said) = (Duration::ZERO, None);
        for (key, taken) in inner.needed(caller) {
            late = late.max(now.saturating_sub(taken.at));
            said = said.or_else(|| inner.said.contains(&(data_plane, taken.revision)).then(|| key.to_owned()));
        }
        inner.latest = inner.latest.max(late);
        drop(inner);
        if late > BOUND {
            let detail = format!("data plane {data_plane} admitted {} {late:?} after", caller.consent);
            self.world.violate("after the bound", detail);
        }
        if let Some(key) = said {
            self.world.violate("acknowledged", format!("data plane {data_plane} admitted a call that needs {key}"));
        }
    }

    /// Calls admitted and refused, and how late the latest one was that should not have been admitted any more.
    pub(crate) fn totals(&self) -> (u64, u64, Duration) {
        let inner = lock(&self.inner);
        (inner.admitted, inner.refused, inner.latest)
    }

    fn granted(&self, answer: Answer) {
        if let Answer::Granted(grant) = answer {
            lock(&self.inner).grants.push(grant);
        }
    }
}

impl Inner {
    /// What a caller needs and was taken away.
    fn needed<'a>(&'a self, caller: &Caller) -> impl Iterator<Item = (&'a str, Taken)> + use<'a> {
        let keys =
            [format!("consent/{}", caller.consent), format!("user/{}", caller.user), format!("agent/{}", caller.agent)];
        keys.into_iter().filter_map(|key| self.taken.get_key_value(&key).map(|(key, taken)| (key.as_str(), *taken)))
    }
}

/// The caller that a token for the grant makes.
pub(crate) fn caller(grant: &Grant) -> Caller {
    Caller {
        user: grant.user.clone(),
        agent: grant.agent.clone(),
        project: grant.project.clone(),
        client: grant.client.clone(),
        consent: grant.consent.clone(),
        session: grant.session.clone(),
        token_id: grant.jti.clone(),
        scope_level: Tier::Destructive,
        virtual_server: grant.virtual_server.clone(),
        min_revision: 0,
        bound: false,
    }
}

/// Servers, people and agents are set up. Says whether that worked.
pub(crate) async fn set_up(cluster: &Arc<Cluster>) -> bool {
    let mut text = OFFER.to_owned();
    for number in 0..PEOPLE {
        text.push_str(&format!(
            "---\napiVersion: bailiwick/v1\nkind: User\nmetadata: {{name: person-{number}}}\nspec: {{groups: [staff]}}\n"
        ));
    }
    for number in 0..AGENTS {
        text.push_str(&format!(
            "---\napiVersion: bailiwick/v1\nkind: Agent\nmetadata: {{name: agent-{number}}}\nspec: {{owner: owner, project: shop, ceiling: transactional}}\n"
        ));
    }
    let Ok(manifests) = manifest::parse(&[("offer".to_owned(), text)]) else { return false };
    let tool = ToolDefinition {
        name: TOOL.name.to_owned(),
        json: r#"{"name":"place_order","inputSchema":{"type":"object"}}"#.to_owned(),
    };
    let discovered = BTreeMap::from([("orders".to_owned(), Ok(vec![tool]))]);
    administer(cluster, Command::Apply { manifests, discovered }, "offer", 20).await.is_some()
}

/// Grants consents and takes them away, until the clients are told to stop.
pub(crate) async fn administrator(cluster: Arc<Cluster>, workload: Arc<Workload>) {
    let random = cluster.world.random("administrator");
    for number in 0_u64.. {
        if workload.stop.load(Ordering::Relaxed) {
            return;
        }
        time::sleep(random.millis(20, 400)).await;
        let command = if number < 6 || random.chance(550) { grant(&random) } else { revocation(&cluster, &random) };
        let request = format!("authority-{number}");
        if let Some(command) = command
            && let Some(answer) = administer(&cluster, command, &request, 6).await
        {
            cluster.authority.granted(answer);
        }
    }
}

/// Takes one standing consent away. Says which, once that is certain.
pub(crate) async fn revoke_one(cluster: &Arc<Cluster>, attempt: u64) -> Option<Grant> {
    let grant = cluster.authority.standing()?;
    let revoke = Revoke { target: Target::Consent(grant.consent.clone()), reason: String::new() };
    administer(cluster, Command::Revoke(revoke), &format!("last-revocation-{attempt}"), 20).await?;
    Some(grant)
}

/// Grants one consent that will stand. Says whether that is certain.
pub(crate) async fn grant_one(cluster: &Arc<Cluster>, attempt: u64) -> bool {
    let random = cluster.world.random(&format!("grant {attempt}"));
    let Some(command) = grant(&random) else { return false };
    let answer = administer(cluster, command, &format!("last-grant-{attempt}"), 20).await;
    answer.into_iter().map(|answer| cluster.authority.granted(answer)).count() > 0
}

fn grant(random: &Random) -> Option<Command> {
    Some(Command::IssueToken(IssueToken {
        user: format!("person-{}", random.below(PEOPLE)),
        agent: format!("agent-{}", random.below(AGENTS)),
        virtual_server: TOOL.virtual_server.to_owned(),
        level: Some(Tier::Transactional),
        // Clocks are off by up to a day.
        ttl_seconds: 20 * 86_400,
        reason: String::new(),
        client: "cli".to_owned(),
    }))
}

fn revocation(cluster: &Cluster, random: &Random) -> Option<Command> {
    let grant = random.pick(&lock(&cluster.authority.inner).grants).cloned()?;
    let target = match random.below(20) {
        0 => Target::User(grant.user),
        1 => Target::Agent(grant.agent),
        2..5 => Target::Session(grant.session),
        _ => Target::Consent(grant.consent),
    };
    Some(Command::Revoke(Revoke { target, reason: String::new() }))
}

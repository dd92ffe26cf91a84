//! The clients: they write, delete, swap and read registers through any node, with retries, and write down what they
//! are told.
//!
//! A register is a User whose one group is the value, or the last checkpoint of a log: committing one is a
//! compare-and-set. A write whose outcome is unknown is asked again under its request id, on another node as often as
//! on the same; a swap is not, for its refusal could mean its own success.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bailiwick_consensus::ConsensusError;
use bailiwick_control_plane::WriteError;
use bailiwick_control_plane_core::{
    Command, Kind, Rejection, ResourceRef, State, checkpoint::CommitCheckpoint, manifest,
};
use bailiwick_ledger_core::tree::{self, Frontier, HashReader};
use tokio::time;

use crate::{
    cluster::{Asked, Cluster},
    history::History,
    linearizability::Action,
    random::Random,
    world::lock,
};

/// How long a client waits for one answer.
const ANSWER: Duration = Duration::from_millis(2_500);
/// How often it asks before it gives up.
const ATTEMPTS_MAX: usize = 6;
const USERS: u64 = 3;
const LOGS: u64 = 2;

/// What the clients of one simulation share.
#[derive(Debug)]
pub(crate) struct Workload {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) history: Arc<History>,
    /// Trees that clients made, by root: what a client has to know to extend one.
    trees: Mutex<BTreeMap<String, Tree>>,
    pub(crate) stop: AtomicBool,
    /// Most time between two operations of a client, in milliseconds.
    pub(crate) think_millis: u64,
}

impl Workload {
    pub(crate) fn new(cluster: &Arc<Cluster>, history: &Arc<History>, think_millis: u64) -> Arc<Self> {
        Arc::new(Self {
            cluster: cluster.clone(),
            history: history.clone(),
            trees: Mutex::default(),
            stop: AtomicBool::new(false),
            think_millis,
        })
    }

    /// One client, until told to stop.
    pub(crate) async fn client(self: Arc<Self>, number: u64) {
        let random = self.cluster.world.random(&format!("client {number}"));
        let mut count = 0;
        while !self.stop.load(Ordering::Relaxed) {
            time::sleep(random.millis(0, self.think_millis)).await;
            count += 1;
            let request = format!("c{number}-{count}");
            let (user, log) = (random.below(USERS), format!("log-{}", random.below(LOGS)));
            match random.below(20) {
                0..7 => drop(self.write(&random, user, &request).await),
                7 => self.delete(&random, user, &request).await,
                8..12 => self.swap(&random, &log, &request).await,
                12..18 => drop(self.read(&random, &user_register(user), &request).await),
                _ => drop(self.read(&random, &log, &request).await),
            }
        }
    }

    /// Gives user `user` the value named by the request. Says whether that is known to have happened.
    pub(crate) async fn write(&self, random: &Random, user: u64, request: &str) -> bool {
        let register = user_register(user);
        let action = Action::Write(self.history.value(request));
        let text = format!(
            "apiVersion: bailiwick/v1\nkind: User\nmetadata: {{name: {register}}}\nspec: {{groups: [{request}]}}\n"
        );
        let Ok(manifests) = manifest::parse(&[("client".to_owned(), text)]) else {
            self.cluster.world.violate("workload", format!("the manifest of {request} does not parse"));
            return false;
        };
        let command = Command::Apply { manifests, discovered: BTreeMap::new() };
        let ticket = self.history.begin(&register, action, request);
        match self.carry_out(random, &command, request).await {
            Outcome::Done(_) => {
                self.history.end(&ticket, action);
                return true;
            }
            Outcome::Nothing => self.history.cancel(&ticket),
            Outcome::Rejected(rejection) => self.cluster.world.violate("workload", format!("{request}: {rejection}")),
            Outcome::Unknown => self.history.unknown(&ticket),
        }
        false
    }

    async fn delete(&self, random: &Random, user: u64, request: &str) {
        let register = user_register(user);
        let command = Command::Delete { resources: vec![ResourceRef::new(Kind::User, register.as_str())] };
        let ticket = self.history.begin(&register, Action::Delete, request);
        match self.carry_out(random, &command, request).await {
            Outcome::Done(_) => self.history.end(&ticket, Action::Delete),
            Outcome::Nothing => self.history.cancel(&ticket),
            Outcome::Rejected(_) => self.history.end(&ticket, Action::DeleteRefused),
            Outcome::Unknown => self.history.unknown(&ticket),
        }
    }

    async fn swap(&self, random: &Random, log: &str, request: &str) {
        let Some(old) = self.read(random, log, &format!("{request}-look")).await else { return };
        let known = lock(&self.trees).get(&old).cloned();
        let Some((tree, commit)) = known.unwrap_or_default().extended(log, request) else { return };
        let root = hex::encode(commit.root);
        lock(&self.trees).insert(root.clone(), tree);
        let (from, to) = (self.history.value(&old), self.history.value(&root));
        let ticket = self.history.begin(log, Action::Swap { from, to }, request);
        let Some(node) = self.any_node(random) else { return self.history.cancel(&ticket) };
        let command = Command::CommitCheckpoint(commit);
        let ask = async move |replica: bailiwick_control_plane::Replica| replica.write(command, "ledger", "").await;
        match self.cluster.ask(node, ANSWER, ask).await {
            Asked::Answered(Ok(_)) => self.history.end(&ticket, Action::Swap { from, to }),
            Asked::Answered(Err(WriteError::Rejected(
                Rejection::CheckpointConflict { .. } | Rejection::CheckpointProof { .. },
            ))) => self.history.end(&ticket, Action::SwapRefused { from, to }),
            Asked::Answered(Err(error)) if nothing_happened(&error) => self.history.cancel(&ticket),
            Asked::NotHeard => self.history.cancel(&ticket),
            Asked::Answered(Err(_)) | Asked::Lost => self.history.unknown(&ticket),
        }
    }

    /// What a register holds now, if some node says so.
    pub(crate) async fn read(&self, random: &Random, register: &str, request: &str) -> Option<String> {
        let node = self.any_node(random)?;
        self.read_from(node, register, request).await
    }

    /// What a register holds now, if this node says so.
    pub(crate) async fn read_from(&self, node: u64, register: &str, request: &str) -> Option<String> {
        let ticket = self.history.begin(register, Action::Read(0), &format!("{request}@{node}"));
        let name = register.to_owned();
        let ask = async move |replica: bailiwick_control_plane::Replica| {
            replica.read_latest(|state| look(state, &name)).await
        };
        match self.cluster.ask(node, ANSWER, ask).await {
            Asked::Answered(Ok(text)) => {
                self.history.end(&ticket, Action::Read(self.history.value(&text)));
                Some(text)
            }
            Asked::Answered(Err(_)) | Asked::NotHeard | Asked::Lost => {
                self.history.cancel(&ticket);
                None
            }
        }
    }

    fn any_node(&self, random: &Random) -> Option<u64> {
        random.pick(&self.cluster.ids()).copied()
    }

    /// Asks one node after the other, always under the same request id.
    async fn carry_out(&self, random: &Random, command: &Command, request: &str) -> Outcome {
        let (mut hint, mut perhaps) = (None, false);
        for _ in 0..ATTEMPTS_MAX {
            let Some(node) = hint.take().or_else(|| self.any_node(random)) else { break };
            let (command, id) = (command.clone(), request.to_owned());
            let ask = async move |replica: bailiwick_control_plane::Replica| replica.write(command, "admin", &id).await;
            match self.cluster.ask(node, ANSWER, ask).await {
                Asked::Answered(Ok(written)) => {
                    self.cluster.canon.acknowledge(request, written.revision);
                    return Outcome::Done(written.revision);
                }
                Asked::Answered(Err(WriteError::Rejected(rejection))) => {
                    // The earlier attempt may have been the reason.
                    return if perhaps { Outcome::Unknown } else { Outcome::Rejected(rejection) };
                }
                Asked::Answered(Err(error)) => {
                    perhaps |= !nothing_happened(&error);
                    if let WriteError::Consensus(ConsensusError::NotLeader { leader }) = error {
                        hint = leader.filter(|leader| *leader != node);
                    }
                }
                Asked::NotHeard => {}
                Asked::Lost => perhaps = true,
            }
            time::sleep(random.millis(5, 120)).await;
        }
        if perhaps { Outcome::Unknown } else { Outcome::Nothing }
    }
}

/// What is known of a command in the end.
enum Outcome {
    Done(#[expect(dead_code, reason = "shown when a trace is read")] u64),
    Rejected(Rejection),
    Nothing,
    Unknown,
}

/// What the product promises about an error: that nothing was changed.
const fn nothing_happened(error: &WriteError) -> bool {
    match error {
        WriteError::Rejected(_)
        | WriteError::Busy
        | WriteError::Randomness
        | WriteError::Consensus(ConsensusError::NotLeader { .. } | ConsensusError::Unconfirmed { .. }) => true,
        WriteError::OutcomeUnknown | WriteError::Consensus(_) | WriteError::Stopping => false,
    }
}

pub(crate) fn user_register(user: u64) -> String {
    format!("user-{user}")
}

/// A register's text in a state; empty when there is none.
pub(crate) fn look(state: &State, register: &str) -> String {
    let user = state.users.get(register).and_then(|user| user.spec.groups.first());
    let checkpoint = state.checkpoints.get(register).map(|checkpoint| &checkpoint.root);
    user.or(checkpoint).cloned().unwrap_or_default()
}

/// A log's tree as a client knows it.
#[derive(Clone, Debug, Default)]
struct Tree {
    frontier: Frontier,
    hashes: BTreeMap<(u8, u64), [u8; 32]>,
}

impl HashReader for Tree {
    fn hash(&self, level: u8, index: u64) -> Option<[u8; 32]> {
        self.hashes.get(&(level, index)).copied()
    }
}

impl Tree {
    /// The tree with one leaf more, and the wish to commit it.
    fn extended(mut self, log: &str, leaf: &str) -> Option<(Self, CommitCheckpoint)> {
        let old_size = self.frontier.size();
        let mut nodes = Vec::new();
        self.frontier.push(tree::leaf_hash(leaf.as_bytes()), &mut nodes).ok()?;
        self.hashes.extend(nodes.into_iter().map(|node| ((node.level, node.index), node.hash)));
        let size = self.frontier.size();
        let consistency = tree::consistency_proof(&self, old_size, size).ok()?;
        let commit =
            CommitCheckpoint { origin: log.to_owned(), old_size, size, root: self.frontier.root(), consistency };
        Some((self, commit))
    }
}

//! Who runs the cluster: founds it, lets nodes join, removes them, and on the leader makes Raft's membership follow.
//!
//! Everything goes through the same commands an administrator's would, asked from outside with retries under one
//! request id. Absent: breaking things (`faults`).

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bailiwick_consensus::Member;
use bailiwick_control_plane::{Replica, WriteError};
use bailiwick_control_plane_core::{
    Answer, Command,
    join_token::CreateJoinToken,
    member::{self, Enrol, FoundCluster, RemoveMember, Role},
};
use tokio::time;

use crate::cluster::{Asked, CLUSTER_ID, Cluster, INCARNATION};

const ASK: Duration = Duration::from_secs(3);
const RECONCILE_EVERY: Duration = Duration::from_millis(300);

fn peer(id: u64) -> Member {
    Member { name: format!("cp-{id}"), peer: format!("10.0.0.{id}:8432"), api: format!("https://10.0.0.{id}:8431") }
}

/// Begins the cluster with its first node.
pub(crate) async fn found(cluster: &Arc<Cluster>) -> bool {
    cluster.add(1);
    let initialized = async |_: u64| {
        cluster.ask(1, ASK, async |replica: Replica| replica.consensus().initialize(peer(1)).await.is_ok()).await
    };
    for attempt in 0..20 {
        if matches!(initialized(attempt).await, Asked::Answered(true)) {
            break;
        }
        time::sleep(Duration::from_millis(100)).await;
    }
    let (peer, api) = (peer(1).peer, peer(1).api);
    let found = FoundCluster {
        cluster_id: CLUSTER_ID.into(),
        incarnation: INCARNATION.into(),
        name: "cp-1".into(),
        public_key: vec![1; 32],
        peer,
        api,
    };
    matches!(administer(cluster, Command::FoundCluster(found), "found", 20).await, Some(Answer::Member { node_id: 1 }))
}

/// Lets another node join, and sets its machine up. Returns its id.
pub(crate) async fn join(cluster: &Arc<Cluster>, number: u64, learner: bool) -> Option<u64> {
    let (token, secret_hash) = (format!("token-{number}"), [7; 32]);
    let create =
        CreateJoinToken { id: token.clone(), secret_hash, role: Role::ControlPlane, learner, name: String::new() };
    administer(cluster, Command::CreateJoinToken(create), &format!("token-{number}"), 12).await?;
    // Its address is made of a number of its own, for its id is not known yet.
    let Member { peer, api, .. } = peer(number);
    let enrol = Enrol {
        token,
        secret_hash,
        role: Role::ControlPlane,
        name: format!("cp-{number}"),
        public_key: vec![2; 32],
        peer,
        api,
    };
    match administer(cluster, Command::Enrol(enrol), &format!("enrol-{number}"), 12).await? {
        Answer::Member { node_id } => {
            cluster.add(node_id);
            Some(node_id)
        }
        _ => None,
    }
}

/// Removes a member. Says whether that is certain.
pub(crate) async fn remove(cluster: &Arc<Cluster>, id: u64, attempt: u64) -> bool {
    let answering = cluster.up_ids().into_iter().filter(|up| *up != id).collect();
    let remove = RemoveMember { member: id.to_string(), force: false, answering };
    administer(cluster, Command::RemoveMember(remove), &format!("remove-{id}-{attempt}"), 8).await.is_some()
}

/// Asks one node after the other until one has done it.
pub(crate) async fn administer(
    cluster: &Arc<Cluster>,
    command: Command,
    request_id: &str,
    attempts: usize,
) -> Option<Answer> {
    let mut hint = None;
    for attempt in 0..attempts {
        let ids = cluster.up_ids();
        let next = ids.get(attempt.checked_rem(ids.len()).unwrap_or(0)).copied();
        let Some(id) = hint.take().or(next) else {
            time::sleep(Duration::from_millis(500)).await;
            continue;
        };
        let (command, request) = (command.clone(), request_id.to_owned());
        let asked = cluster.ask(id, ASK, async move |replica| replica.write(command, "admin", &request).await).await;
        match asked {
            Asked::Answered(Ok(written)) => {
                cluster.world.trace(format_args!("{request_id} done at {}", written.revision));
                return Some(written.answer);
            }
            Asked::Answered(Err(WriteError::Rejected(rejection))) => {
                cluster.world.trace(format_args!("{request_id} rejected: {rejection}"));
                return None;
            }
            Asked::Answered(Err(WriteError::Consensus(bailiwick_consensus::ConsensusError::NotLeader { leader }))) => {
                hint = leader.filter(|leader| *leader != id);
            }
            Asked::Answered(Err(_)) | Asked::NotHeard | Asked::Lost => {}
        }
        time::sleep(Duration::from_millis(200)).await;
    }
    None
}

/// On the leader: makes Raft's membership follow the members of the state, one step at a time.
pub(crate) async fn reconcile(cluster: Arc<Cluster>, replica: Replica) {
    loop {
        time::sleep(RECONCILE_EVERY).await;
        let consensus = replica.consensus();
        if !consensus.is_leader() {
            continue;
        }
        let wanted: Vec<(u64, bool, Member)> = replica.read(|state| {
            let all = member::control_planes(state);
            let node = |(name, member): (&str, &member::Member)| {
                let (peer, api) = (member.peer.clone(), member.api.clone());
                (member.node_id, member.voter, Member { name: name.to_owned(), peer, api })
            };
            all.map(node).collect()
        });
        if wanted.is_empty() {
            continue;
        }
        let members = consensus.membership();
        let newcomer = wanted.iter().find(|(id, ..)| members.get(*id).is_none());
        let leaver = members.voters.keys().chain(members.learners.keys());
        let leaver = leaver.copied().find(|id| wanted.iter().all(|(wanted, ..)| wanted != id));
        let voters: BTreeSet<u64> = members.voters.keys().copied().collect();
        let progress = consensus.progress();
        let last = progress.values().max().copied().unwrap_or(0);
        let caught_up = |id: &u64| progress.get(id).is_some_and(|index| index + 50 >= last);
        let ready = wanted.iter().find(|(id, voter, _)| *voter && members.learners.contains_key(id) && caught_up(id));
        let step = if let Some((id, _, member)) = newcomer {
            ("learner", *id, consensus.add_learner(*id, member.clone()).await)
        } else if let Some((id, ..)) = ready {
            ("voter", *id, consensus.set_voters(voters.into_iter().chain([*id]).collect()).await)
        } else if let Some(id) = leaver {
            ("remove", id, consensus.remove(id).await)
        } else {
            continue;
        };
        cluster.world.trace(format_args!("membership: {} {} {:?}", step.0, step.1, step.2));
    }
}

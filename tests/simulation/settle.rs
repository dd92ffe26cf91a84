//! How a simulation ends: everything is mended, and then everything has to work.
//!
//! Writes and reads succeed on every member, all members hold the same state, every data plane holds what they hold,
//! admits what stands, and hears of the last revocation at once, by its lane alone.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bailiwick_control_plane::Replica;
use bailiwick_control_plane_core::{member, view};
use tokio::time;

use crate::{
    authority::{self, TOOL, caller},
    cluster::Cluster,
    data_plane::{DataPlanes, unix_seconds},
    random::Random,
    workload::{Workload, look, user_register},
    world::fnv,
};

/// After everything is mended, progress must be seen within this (virtual) time.
const PROGRESS: Duration = Duration::from_secs(30);
/// On a calm network a revocation is in force everywhere within this after its commit.
const PROMPT: Duration = Duration::from_millis(250);
/// How often is looked.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Sees to it that everything works, or says what does not.
pub(crate) async fn settle(planes: &Arc<DataPlanes>, workload: &Workload, random: &Random) {
    let cluster = &planes.cluster;
    if time::timeout(PROGRESS, work(cluster, workload, random)).await.is_err() {
        cluster.world.violate("no progress", whereabouts(cluster));
        return;
    }
    compare(cluster);
    if time::timeout(PROGRESS, serve(planes)).await.is_err() {
        let held: Vec<String> = planes.ids().into_iter().map(|id| show(planes, id)).collect();
        cluster.world.violate("no service", format!("last revision {}; {}", cluster.canon.last(), held.join("; ")));
        return;
    }
    match time::timeout(PROGRESS, revoke(planes)).await {
        Ok(()) => same(planes),
        Err(_) => cluster.world.violate("no progress", "nothing can be revoked".to_owned()),
    }
    let misfits: u64 = planes.misfits();
    if misfits > 0 && !planes.wires.were_faulty() {
        cluster.world.violate("misfit", format!("{misfits} frames did not fit, though no wire was faulty"));
    }
}

/// Waits until every data plane admits what stands.
async fn serve(planes: &Arc<DataPlanes>) {
    let cluster = &planes.cluster;
    for attempt in 0.. {
        if authority::grant_one(cluster, attempt).await {
            break;
        }
    }
    for id in planes.ids() {
        while !admits(planes, id) {
            if let Some(replica) = cluster.up_ids().into_iter().find_map(|id| cluster.replica(id)) {
                planes.start_if_replaced(id, &replica);
            }
            time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Takes one consent away, and sees how soon every data plane refuses it.
async fn revoke(planes: &DataPlanes) {
    let cluster = &planes.cluster;
    planes.wires.hold_streams(true);
    let mut attempt = 0;
    let grant = loop {
        attempt += 1;
        if let Some(grant) = authority::revoke_one(cluster, attempt).await {
            break grant;
        }
    };
    let key = format!("consent/{}", grant.consent);
    let Some(taken) = cluster.authority.taken(&key) else {
        return cluster.world.violate("workload", format!("{key} was not taken away"));
    };
    let (caller, now) = (caller(&grant), unix_seconds(&cluster.world));
    while cluster.world.elapsed() < taken.at + PROMPT {
        time::sleep(LOOK_EVERY).await;
    }
    for id in planes.ids() {
        let refuses = planes.follower(id).is_some_and(|follower| follower.refuses(&caller, TOOL, now).is_some());
        if !refuses {
            let late = cluster.world.elapsed().saturating_sub(taken.at);
            cluster.world.violate("late", format!("data plane {id} admits {key} {late:?} after"));
        }
    }
    planes.wires.hold_streams(false);
    // The streams catch up, so that all can be compared.
    while planes.ids().into_iter().any(|id| planes.follower(id).is_none_or(|f| f.held().0 < cluster.canon.last())) {
        time::sleep(LOOK_EVERY).await;
    }
}

fn admits(planes: &DataPlanes, id: u64) -> bool {
    let (Some(grant), Some(follower)) = (planes.cluster.authority.standing(), planes.follower(id)) else {
        return false;
    };
    follower.refuses(&caller(&grant), TOOL, unix_seconds(&planes.cluster.world)).is_none()
}

/// Every data plane that is where a control plane is must hold exactly what that one holds.
fn same(planes: &DataPlanes) {
    let cluster = &planes.cluster;
    for replica in members(cluster).into_iter().filter_map(|id| cluster.replica(id)) {
        let (revision, digest) = replica.read(|state| (state.revision, view::entries(state).digest()));
        for id in planes.ids() {
            let Some((held, its)) = planes.follower(id).map(|follower| follower.held()) else { continue };
            if held == revision && its != digest {
                cluster.world.violate("drift", format!("data plane {id} holds something else at {revision}"));
            }
        }
    }
}

fn show(planes: &DataPlanes, id: u64) -> String {
    let Some(follower) = planes.follower(id) else { return format!("{id}: down") };
    let grant = planes.cluster.authority.standing();
    let why = grant.map(|grant| follower.refuses(&caller(&grant), TOOL, unix_seconds(&planes.cluster.world)));
    format!("{id}: at {}, refuses {why:?}", follower.held().0)
}

/// Writes, and reads on every member, until all of that works and every member is as far as any.
async fn work(cluster: &Arc<Cluster>, workload: &Workload, random: &Random) {
    for user in 0..3 {
        for attempt in 0.. {
            if workload.write(random, user, &format!("last-{user}-{attempt}")).await {
                break;
            }
            time::sleep(Duration::from_millis(200)).await;
        }
    }
    loop {
        let members = members(cluster);
        let mut good = !members.is_empty();
        for id in members {
            let Some(replica) = cluster.replica(id) else {
                cluster.reap();
                cluster.start(id);
                good = false;
                break;
            };
            let read = workload.read_from(id, &user_register(0), "settle").await;
            let here = replica.read(|state| state.revision);
            good = good && read.is_some() && here == cluster.canon.last();
        }
        if good {
            return;
        }
        time::sleep(Duration::from_millis(200)).await;
    }
}

/// The control planes that should take part, as of the newest state, and still exist.
fn members(cluster: &Cluster) -> Vec<u64> {
    let replicas: Vec<Replica> = cluster.up_ids().into_iter().filter_map(|id| cluster.replica(id)).collect();
    let newest = replicas.iter().max_by_key(|replica| replica.read(|state| state.revision));
    let wanted: Vec<u64> = newest.map_or_else(Vec::new, |replica| {
        replica.read(|state| member::control_planes(state).map(|(_, member)| member.node_id).collect())
    });
    cluster.ids().into_iter().filter(|id| wanted.contains(id)).collect()
}

/// All members must hold the same state, byte for byte.
fn compare(cluster: &Cluster) {
    let mut states = BTreeMap::<u64, Vec<u64>>::new();
    for id in members(cluster) {
        let Some(replica) = cluster.replica(id) else { continue };
        let digest = replica.read(|state| serde_json::to_vec(state).map_or(0, |bytes| fnv(0, &bytes)));
        states.entry(digest).or_default().push(id);
    }
    if states.len() != 1 {
        cluster.world.violate("diverged", format!("states differ: {states:x?}"));
    }
}

fn whereabouts(cluster: &Cluster) -> String {
    let show = |id: u64| match cluster.replica(id) {
        Some(replica) => {
            let consensus = replica.consensus();
            let users: Vec<String> =
                (0..3).map(|user| replica.read(|state| look(state, &user_register(user)))).collect();
            let (term, leader, revision) =
                (consensus.term(), *consensus.leader().borrow(), replica.read(|state| state.revision));
            let members = consensus.membership();
            let (voters, learners): (Vec<_>, Vec<_>) =
                (members.voters.into_keys().collect(), members.learners.into_keys().collect());
            format!("{id}: term {term}, follows {leader:?}, at {revision}, {users:?}, {voters:?}+{learners:?}")
        }
        None => format!("{id}: down"),
    };
    let nodes: Vec<String> = cluster.ids().into_iter().map(show).collect();
    format!("last revision {}; {}", cluster.canon.last(), nodes.join("; "))
}

//! Members: the nodes of a cluster and its administrators, each known by name and by the key it enrolled with.
//!
//! A member enrols by redeeming a join token (`join_token`); the first one comes with the founding of the cluster. A
//! control plane gets a node id that no other ever had or will have: ids are counted, and a cluster that begins anew
//! from a backup leaves out a range, as ids may have been given after the backup was made. Which control planes *should*
//! take part is decided here; the leader makes Raft's membership follow. Called by `command` and `state`.
//! Absent: certificates and proofs of keys (server), and who answers at the moment (an argument).

use std::collections::BTreeSet;

use bailiwick_proto::names;
use serde::{Deserialize, Serialize};

use crate::{
    Rejection,
    command::{Answer, Context, Decision},
    resource::is_http_url,
    state::{Changed, State},
};

/// Most members: as many as nodes, with room for administrators.
pub const MEMBERS_MAX: usize = 12_000;
/// Most control planes that vote: each write waits for a majority of them.
pub const VOTERS_MAX: usize = 7;
/// Most control planes, learners included: the leader sends everything to each of them.
pub const CONTROL_PLANES_MAX: usize = 32;
/// Longest encoded public key: one on P-256 has 91 bytes.
pub const PUBLIC_KEY_BYTES_MAX: usize = 256;
/// Longest address: a domain name and a port, or a URL of them.
pub const ADDRESS_BYTES_MAX: usize = 300;
/// Node ids left out when a cluster begins anew from a backup: more than anybody enrols between two backups.
pub const IDS_LEFT_OUT: u64 = 1_000;

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Replicates this state.
    ControlPlane,
    /// Serves MCP.
    DataPlane,
    /// Sequences records.
    Ledger,
    /// A person or a program that administers.
    Admin,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 4] = [Self::ControlPlane, Self::DataPlane, Self::Ledger, Self::Admin];

    /// The word in events, certificates and on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ControlPlane => "control-plane",
            Self::DataPlane => "data-plane",
            Self::Ledger => "ledger",
            Self::Admin => "admin",
        }
    }

    /// The role of that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == word)
    }
}

/// Which cluster this is, and which of its lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Stays the same for good.
    pub id: String,
    /// New whenever the cluster begins from a backup.
    pub incarnation: String,
}

/// A member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// What it is.
    pub role: Role,
    /// Control planes: its id; 0 for others.
    pub node_id: u64,
    /// Control planes: whether it votes.
    pub voter: bool,
    /// DER of its public key (SubjectPublicKeyInfo), lower-case hex.
    pub public_key: String,
    /// Control planes: where peers reach it (`host:port`).
    pub peer: String,
    /// Control planes: where its gRPC listens (URL).
    pub api: String,
    /// The token it enrolled with; empty for the first member.
    pub token: String,
    /// When it enrolled or last moved.
    pub changed: Changed,
}

/// A wish to begin a cluster with one member, or to begin it anew from a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundCluster {
    /// Which cluster.
    pub cluster_id: String,
    /// Which of its lives.
    pub incarnation: String,
    /// The first member's name.
    pub name: String,
    /// DER of its public key.
    pub public_key: Vec<u8>,
    /// Where peers will reach it (`host:port`).
    pub peer: String,
    /// Where its gRPC will listen (URL).
    pub api: String,
}

/// A wish to become a member. That the caller holds the private key was checked before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrol {
    /// Id of the join token.
    pub token: String,
    /// SHA-256 of the secret that was shown.
    pub secret_hash: [u8; 32],
    /// What it will be; must be the token's role.
    pub role: Role,
    /// Its name.
    pub name: String,
    /// DER of its public key.
    pub public_key: Vec<u8>,
    /// Control planes: where peers reach it.
    pub peer: String,
    /// Control planes: where its gRPC listens.
    pub api: String,
}

/// A member that asks for a fresh certificate. That it holds the private key was checked before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenewMember {
    /// What it is.
    pub role: Role,
    /// Its name.
    pub name: String,
    /// DER of the public key it enrolled with.
    pub public_key: Vec<u8>,
    /// Control planes: where peers reach it now; empty: as before.
    pub peer: String,
    /// Control planes: where its gRPC listens now; empty: as before.
    pub api: String,
}

/// A wish that a member goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoveMember {
    /// Its name, or node id in digits.
    pub member: String,
    /// Even if too few voters answer afterwards.
    pub force: bool,
    /// Node ids of the control planes that answer now.
    pub answering: BTreeSet<u64>,
}

/// The id that the next control plane gets; `anew`: in a cluster that begins from a backup.
#[must_use]
pub const fn next_node_id(state: &State, anew: bool) -> u64 {
    state.node_ids_given.saturating_add(if anew { IDS_LEFT_OUT } else { 1 })
}

/// The member of this name, or with this node id in digits.
#[must_use]
pub fn find<'a>(state: &'a State, text: &str) -> Option<(&'a str, &'a Member)> {
    let by_id = |id: u64| state.members.iter().find(|(_, member)| id > 0 && member.node_id == id);
    let found = state.members.get_key_value(text).or_else(|| by_id(text.parse().ok()?));
    found.map(|(name, member)| (name.as_str(), member))
}

/// The control planes, by name.
pub fn control_planes(state: &State) -> impl Iterator<Item = (&str, &Member)> {
    let all = state.members.iter().filter(|(_, member)| member.role == Role::ControlPlane);
    all.map(|(name, member)| (name.as_str(), member))
}

/// What a member's name may be: never digits alone, which would read as a node id.
pub(crate) fn check_name(name: &str) -> Result<(), Rejection> {
    let digits = name.chars().all(|c| c.is_ascii_digit());
    if !names::is_resource_name(name) || digits || name == bailiwick_proto::subjects::CONTROL_NODE {
        let rule = "1 to 63 lower-case letters, digits and inner hyphens, dots or underscores, not digits alone, \
                    not `control-plane`";
        return Err(Rejection::Malformed { what: "member name", rule });
    }
    Ok(())
}

fn check_key(public_key: &[u8]) -> Result<(), Rejection> {
    if public_key.is_empty() || public_key.len() > PUBLIC_KEY_BYTES_MAX {
        return Err(Rejection::Malformed { what: "public key", rule: "1 to 256 bytes" });
    }
    Ok(())
}

fn check_addresses(peer: &str, api: &str) -> Result<(), Rejection> {
    let port = peer.rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then(|| port.parse::<u16>().ok())?);
    let visible = peer.chars().all(|c| c.is_ascii_graphic());
    if port.is_none_or(|port| port == 0) || !visible || peer.len() > ADDRESS_BYTES_MAX {
        return Err(Rejection::Malformed { what: "peer address", rule: "host:port" });
    }
    if !is_http_url(api) || api.len() > ADDRESS_BYTES_MAX {
        return Err(Rejection::Malformed { what: "API address", rule: "an http or https URL" });
    }
    Ok(())
}

pub(crate) fn decide_found(state: &State, wish: FoundCluster, context: &Context) -> Result<Decision, Rejection> {
    let is_id = |text: &str| !text.is_empty() && text.len() <= 64 && text.chars().all(|c| c.is_ascii_hexdigit());
    if !is_id(&wish.cluster_id) || !is_id(&wish.incarnation) {
        return Err(Rejection::Malformed { what: "cluster id or incarnation", rule: "1 to 64 hexadecimal digits" });
    }
    check_name(&wish.name)?;
    check_key(&wish.public_key)?;
    check_addresses(&wish.peer, &wish.api)?;
    let anew = match &state.cluster {
        None => false,
        Some(cluster) if cluster.id == wish.cluster_id && cluster.incarnation != wish.incarnation => true,
        Some(_) => return Err(Rejection::ClusterFounded),
    };
    // The other members of a former life are gone, unless another role has the name.
    if state.members.get(&wish.name).is_some_and(|member| member.role != Role::ControlPlane) {
        return Err(Rejection::MemberNameTaken { name: wish.name });
    }
    let node_id = next_node_id(state, anew);
    let event = ClusterFounded {
        cluster_id: wish.cluster_id,
        incarnation: wish.incarnation,
        name: wish.name,
        node_id,
        public_key: hex::encode(wish.public_key),
        peer: wish.peer,
        api: wish.api,
    };
    let answer = Answer::Member { node_id };
    Ok(Decision { answer, ..Decision::done(vec![context.event(event)]) })
}

pub(crate) fn decide_enrol(state: &State, wish: Enrol, context: &Context) -> Result<Decision, Rejection> {
    check_name(&wish.name)?;
    check_key(&wish.public_key)?;
    let public_key = hex::encode(&wish.public_key);
    let known = state.members.get(&wish.name);
    // The answer to the same enrolment was lost: whoever holds this key got in with this token.
    if let Some(member) = known
        && member.token == wish.token
        && member.role == wish.role
        && member.public_key == public_key
    {
        return Ok(Decision { answer: Answer::Member { node_id: member.node_id }, ..Decision::default() });
    }
    let token = state.join_tokens.get(&wish.token).filter(|token| token.holds(&wish.secret_hash));
    let token = token.filter(|token| token.expires_at > context.now_seconds()).ok_or(Rejection::JoinTokenInvalid)?;
    if token.role != wish.role {
        return Err(Rejection::JoinTokenForOther { what: "role", wanted: token.role.as_str().to_owned() });
    }
    if !token.name.is_empty() && token.name != wish.name {
        return Err(Rejection::JoinTokenForOther { what: "name", wanted: token.name.clone() });
    }
    // A name may be enrolled again only with a token made for that name, or any token would do to take a name over;
    // a control plane never, as its id stands for what its disk holds.
    let replaces =
        |member: &Member| member.role == wish.role && wish.role != Role::ControlPlane && token.name == wish.name;
    match known {
        Some(member) if !replaces(member) => return Err(Rejection::MemberNameTaken { name: wish.name }),
        None if state.members.len() >= MEMBERS_MAX => {
            return Err(Rejection::TooMany { what: "members", max: MEMBERS_MAX });
        }
        Some(_) | None => {}
    }
    let (mut node_id, mut voter) = (0, false);
    let (mut peer, mut api) = (String::new(), String::new());
    if wish.role == Role::ControlPlane {
        check_addresses(&wish.peer, &wish.api)?;
        (node_id, voter, peer, api) = (next_node_id(state, false), !token.learner, wish.peer, wish.api);
        if control_planes(state).count() >= CONTROL_PLANES_MAX {
            return Err(Rejection::TooMany { what: "control planes", max: CONTROL_PLANES_MAX });
        }
        if voter && voters(state).count() >= VOTERS_MAX {
            return Err(Rejection::TooMany { what: "voting control planes", max: VOTERS_MAX });
        }
    }
    let (token, role, name) = (wish.token, wish.role, wish.name);
    let event = MemberEnrolled { token, role, name, node_id, voter, public_key, peer, api };
    let answer = Answer::Member { node_id };
    Ok(Decision { answer, ..Decision::done(vec![context.event(event)]) })
}

pub(crate) fn decide_renew(state: &State, wish: RenewMember, context: &Context) -> Result<Decision, Rejection> {
    let member = state.members.get(&wish.name).filter(|member| member.role == wish.role);
    let member = member.ok_or_else(|| Rejection::MemberUnknown(wish.name.clone()))?;
    if member.public_key != hex::encode(&wish.public_key) {
        return Err(Rejection::MemberKeyDiffers { name: wish.name });
    }
    let answer = Answer::Member { node_id: member.node_id };
    let moved = |new: String, old: &String| if new.is_empty() { old.clone() } else { new };
    let (peer, api) = (moved(wish.peer, &member.peer), moved(wish.api, &member.api));
    if member.role != Role::ControlPlane || (peer == member.peer && api == member.api) {
        return Ok(Decision { answer, ..Decision::default() });
    }
    check_addresses(&peer, &api)?;
    let event = MemberMoved { name: wish.name, node_id: member.node_id, peer, api };
    Ok(Decision { answer, ..Decision::done(vec![context.event(event)]) })
}

pub(crate) fn decide_remove(state: &State, wish: &RemoveMember, context: &Context) -> Result<Decision, Rejection> {
    let (name, member) = find(state, &wish.member).ok_or_else(|| Rejection::MemberUnknown(wish.member.clone()))?;
    if member.voter {
        let left: Vec<u64> = voters(state).filter(|id| *id != member.node_id).collect();
        if left.is_empty() {
            return Err(Rejection::LastVoter { member: name.to_owned() });
        }
        let answering = left.iter().filter(|id| wish.answering.contains(id)).count();
        if !wish.force && answering <= left.len() / 2 {
            return Err(Rejection::MajorityLost { member: name.to_owned(), voters: left.len(), answering });
        }
    }
    let event = MemberRemoved { role: member.role, name: name.to_owned(), node_id: member.node_id };
    Ok(Decision::done(vec![context.event(event)]))
}

/// Node ids of the control planes that should vote.
fn voters(state: &State) -> impl Iterator<Item = u64> {
    control_planes(state).filter(|(_, member)| member.voter).map(|(_, member)| member.node_id)
}

/// Payload of `cluster_founded`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterFounded {
    /// Which cluster.
    pub cluster_id: String,
    /// Which of its lives.
    pub incarnation: String,
    /// The first member, a control plane that votes.
    pub name: String,
    /// Its id.
    #[serde(with = "crate::decimal")]
    pub node_id: u64,
    /// DER of its public key, lower-case hex.
    pub public_key: String,
    /// Where peers reach it.
    pub peer: String,
    /// Where its gRPC listens.
    pub api: String,
}

/// Payload of `member_enrolled`; it redeems the token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberEnrolled {
    /// With which token.
    pub token: String,
    /// What it is.
    pub role: Role,
    /// Its name.
    pub name: String,
    /// Control planes: its id; 0 for others.
    #[serde(with = "crate::decimal")]
    pub node_id: u64,
    /// Control planes: whether it votes.
    pub voter: bool,
    /// DER of its public key, lower-case hex.
    pub public_key: String,
    /// Control planes: where peers reach it.
    pub peer: String,
    /// Control planes: where its gRPC listens.
    pub api: String,
}

/// Payload of `member_moved`: a control plane listens elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberMoved {
    /// Its name.
    pub name: String,
    /// Its id.
    #[serde(with = "crate::decimal")]
    pub node_id: u64,
    /// Where peers reach it.
    pub peer: String,
    /// Where its gRPC listens.
    pub api: String,
}

/// Payload of `member_removed`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRemoved {
    /// What it was.
    pub role: Role,
    /// Its name.
    pub name: String,
    /// Control planes: its id, which nobody gets again; 0 for others.
    #[serde(with = "crate::decimal")]
    pub node_id: u64,
}

pub(crate) fn evolve_founded(state: &mut State, event: &ClusterFounded, changed: Changed) {
    let (id, incarnation) = (event.cluster_id.clone(), event.incarnation.clone());
    state.cluster = Some(Cluster { id, incarnation });
    state.members.retain(|_, member| member.role != Role::ControlPlane);
    state.join_tokens.clear();
    let member = Member {
        role: Role::ControlPlane,
        node_id: event.node_id,
        voter: true,
        public_key: event.public_key.clone(),
        peer: event.peer.clone(),
        api: event.api.clone(),
        token: String::new(),
        changed,
    };
    state.node_ids_given = state.node_ids_given.max(event.node_id);
    state.members.insert(event.name.clone(), member);
}

pub(crate) fn evolve_enrolled(state: &mut State, event: &MemberEnrolled, changed: Changed) {
    state.join_tokens.remove(&event.token);
    let member = Member {
        role: event.role,
        node_id: event.node_id,
        voter: event.voter,
        public_key: event.public_key.clone(),
        peer: event.peer.clone(),
        api: event.api.clone(),
        token: event.token.clone(),
        changed,
    };
    state.node_ids_given = state.node_ids_given.max(event.node_id);
    state.members.insert(event.name.clone(), member);
}

pub(crate) fn evolve_moved(state: &mut State, event: &MemberMoved, changed: Changed) {
    if let Some(member) = state.members.get_mut(&event.name) {
        (member.peer, member.api) = (event.peer.clone(), event.api.clone());
        member.changed = changed;
    }
}

pub(crate) fn evolve_removed(state: &mut State, event: &MemberRemoved) {
    state.members.remove(&event.name);
}

//! The gRPC service `bailiwick.v1.Cluster`: what administrators ask about the cluster itself.
//!
//! Join tokens, members and removals are commands of the domain; Raft's membership follows (`leadership`). Who is
//! reachable, and how far everybody is, comes from asking all control planes (`internal`). A backup is consensus's own
//! file, streamed. Absent: redeeming tokens (`enrolment`), sealing secrets (`vault`), who may call (`authorisation`).

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    time::Duration,
};

use bailiwick_control_plane_core::{
    Answer, Command, State,
    join_token::CreateJoinToken,
    member::{self, RemoveMember, Role},
};
use bailiwick_enrolment::{JoinToken, fresh_secret};
use bailiwick_proto::v1::{self, cluster_server::Cluster};
use bailiwick_runtime::{OnEnd, Supervisor, identity};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, metadata::MetadataValue};

use crate::{
    authorisation::Who,
    clock,
    domain::{Caller, Domain},
    internal::Colleagues,
    status,
    vault::{RotateError, Rotated, Vault, VaultError},
};

/// Bytes of a backup in one message: well below the 4 MiB a gRPC client accepts.
const CHUNK_BYTES: usize = 256 * 1024;
/// Chunks read ahead of a client that takes them slowly.
const CHUNKS_AHEAD: usize = 4;
/// Longest wait for Raft's membership to follow a removal; it follows later all the same.
const REMOVAL_WAIT_MAX: Duration = Duration::from_secs(10);
/// On a backup that no leader confirmed: changes may be missing.
const UNCONFIRMED: &str = "bailiwick-unconfirmed";
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Serves [`Cluster`].
#[derive(Clone, Debug)]
pub(crate) struct ClusterService {
    pub(crate) domain: Domain,
    pub(crate) colleagues: Colleagues,
    pub(crate) vault: Vault,
    pub(crate) supervisor: Supervisor,
}

type Chunks = ReceiverStream<Result<v1::BackupChunk, Status>>;

#[tonic::async_trait]
impl Cluster for ClusterService {
    type BackupStream = Chunks;

    async fn create_join_token(
        &self,
        request: Request<v1::CreateJoinTokenRequest>,
    ) -> Result<Response<v1::CreateJoinTokenResponse>, Status> {
        let actor = actor(&request);
        let request = request.into_inner();
        let role = Role::from_word(&request.role).ok_or_else(|| {
            Status::invalid_argument("role must be \"control-plane\", \"data-plane\", \"ledger\" or \"admin\"")
        })?;
        let token = self.fresh_token(role)?;
        let command = Command::CreateJoinToken(CreateJoinToken {
            id: token.id.clone(),
            secret_hash: token.secret_hash(),
            role,
            learner: request.learner,
            name: request.name,
        });
        let caller = Caller { actor, request_id: request.request_id };
        let written = self.domain.write(command, caller).await.map_err(status::of_write)?;
        let Answer::JoinToken { expires_at } = written.answer else {
            return Err(Status::already_exists("this request id was used for something else"));
        };
        Ok(Response::new(v1::CreateJoinTokenResponse { token: token.expose().to_string(), expires_at }))
    }

    async fn members(&self, _: Request<v1::MembersRequest>) -> Result<Response<v1::MembersResponse>, Status> {
        let described = self.colleagues.describe_all().await;
        let membership = self.domain.consensus().membership();
        // Without a leader this is asked most; what is known here is then better than nothing, and nobody leads.
        let confirmed = self.domain.read_latest(|_| ()).await.is_ok();
        let leader = self.domain.consensus().leader().borrow().filter(|_| confirmed);
        Ok(Response::new(self.domain.read(|state: &State| listed(state, &described, &membership, leader))))
    }

    async fn remove(
        &self,
        request: Request<v1::RemoveMemberRequest>,
    ) -> Result<Response<v1::RemoveMemberResponse>, Status> {
        let actor = actor(&request);
        let v1::RemoveMemberRequest { member, force, request_id } = request.into_inner();
        let answering: BTreeSet<u64> = self.colleagues.describe_all().await.into_keys().collect();
        let node_id = self.domain.read(|state| member::find(state, &member).map(|(_, member)| member.node_id));
        let command = Command::RemoveMember(RemoveMember { member, force, answering });
        let written = self.domain.write(command, Caller { actor, request_id }).await.map_err(status::of_write)?;
        if let Some(node_id) = node_id.filter(|id| *id > 0) {
            self.until_gone(node_id).await;
        }
        Ok(Response::new(v1::RemoveMemberResponse { revision: written.revision }))
    }

    async fn backup(&self, _: Request<v1::BackupRequest>) -> Result<Response<Chunks>, Status> {
        // When a majority is lost for good, what this node holds is what a restore has to begin from.
        let confirmed = self.domain.read_latest(|_| ()).await.is_ok();
        let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
        let consensus = self.domain.consensus().clone();
        let writing = tokio::task::spawn_blocking(move || {
            let mut writer = ChunkWriter { sender: sender.clone(), chunk: Vec::new() };
            let written = consensus.backup(clock::now_micros() / 1_000, &mut writer).and_then(|_| writer.flush());
            if let Err(error) = written {
                tracing::warn!(%error, "a backup broke off");
                drop(sender.blocking_send(Err(Status::aborted("the backup broke off; see this node's log"))));
            }
        });
        self.supervisor.spawn("backup", OnEnd::Finish, async move { drop(writing.await) });
        let mut answer = Response::new(ReceiverStream::new(chunks));
        if !confirmed {
            answer.metadata_mut().insert(UNCONFIRMED, MetadataValue::from_static("true"));
        }
        Ok(answer)
    }

    async fn rotate_master_key(
        &self,
        request: Request<v1::RotateMasterKeyRequest>,
    ) -> Result<Response<v1::RotateMasterKeyResponse>, Status> {
        let actor = actor(&request);
        let caller = Caller { actor, request_id: request.into_inner().request_id };
        let described = self.colleagues.describe_all().await;
        let held: BTreeMap<String, Option<Vec<String>>> = self.domain.read(|state| {
            let keys = |id: u64| Some(described.get(&id)?.member.as_ref()?.master_keys.clone());
            member::control_planes(state).map(|(name, one)| (name.to_owned(), keys(one.node_id))).collect()
        });
        let rotated = self.vault.rotate(&self.domain, &held, caller).await.map_err(of_rotation)?;
        let Rotated { master, secrets, revision } = rotated;
        Ok(Response::new(v1::RotateMasterKeyResponse { master_key: master, secrets, revision }))
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderResponse>, Status> {
        let wanted = request.into_inner().member;
        let to = match wanted.as_str() {
            "" => None,
            text => Some(self.voter(text)?),
        };
        let leader = self.domain.consensus().transfer_leadership(to).await;
        let leader = leader.map_err(|error| status::of_consensus(&error))?;
        let named = |state: &State| {
            member::find(state, &leader.to_string()).map_or_else(|| leader.to_string(), |(name, _)| name.to_owned())
        };
        Ok(Response::new(v1::TransferLeaderResponse { leader: self.domain.read(named) }))
    }
}

impl ClusterService {
    fn fresh_token(&self, role: Role) -> Result<JoinToken, Status> {
        let unavailable = |why: &str| Status::unavailable(why.to_owned());
        let fingerprint = self.vault.keys().authority_fingerprint();
        let fingerprint = fingerprint.ok_or_else(|| unavailable("this cluster has no authority yet; try again"))?;
        let id = clock::random_id("j-").map_err(|_| unavailable("the operating system gives no randomness"))?;
        let secret = fresh_secret().map_err(|_| unavailable("the operating system gives no randomness"))?;
        let role = identity::Role::from_word(role.as_str()).ok_or_else(|| Status::internal("a role without a word"))?;
        JoinToken::new(role, &id, &secret, fingerprint).map_err(|_| Status::internal("a token that cannot be written"))
    }

    fn voter(&self, text: &str) -> Result<u64, Status> {
        let found = self.domain.read(|state| member::find(state, text).map(|(_, one)| (one.node_id, one.voter)));
        match found {
            Some((id, true)) => Ok(id),
            Some((_, false)) => Err(Status::failed_precondition(format!("{text} does not vote, so it cannot lead"))),
            None => Err(Status::not_found(format!("there is no member \"{text}\""))),
        }
    }

    /// Waits until consensus has let go of a node, so that whoever removes it may switch it off when told.
    async fn until_gone(&self, node_id: u64) {
        let consensus = self.domain.consensus();
        let gone = async {
            while node_id != consensus.node_id()
                && consensus.is_leader()
                && consensus.membership().get(node_id).is_some()
            {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        drop(tokio::time::timeout(REMOVAL_WAIT_MAX, gone).await);
    }
}

fn actor<T>(request: &Request<T>) -> String {
    request.extensions().get::<Who>().unwrap_or(&Who::Anonymous).actor()
}

fn of_rotation(error: RotateError) -> Status {
    match error {
        RotateError::Vault(VaultError::Write(error)) => status::of_write(error),
        RotateError::Vault(error) => {
            tracing::error!(%error, "the master key cannot be rotated");
            Status::failed_precondition(error.to_string())
        }
        RotateError::Lacks { .. } | RotateError::Silent(_) => Status::failed_precondition(error.to_string()),
    }
}

/// All members, control planes first, each with what is known of it.
fn listed(
    state: &State,
    described: &BTreeMap<u64, v1::DescribeResponse>,
    membership: &bailiwick_consensus::Membership,
    leader: Option<u64>,
) -> v1::MembersResponse {
    // A node's stream may be here and its lane there.
    let mut progress: BTreeMap<&str, u64> = BTreeMap::new();
    for node in described.values().flat_map(|one| &one.connected).filter(|node| !node.gone) {
        let known = progress.entry(node.name.as_str()).or_default();
        *known = node.acknowledged_revision.max(*known);
    }
    let control_planes = member::control_planes(state).map(|(name, one)| {
        let seen = described.get(&one.node_id).and_then(|described| described.member.clone());
        v1::Member {
            name: name.to_owned(),
            role: one.role.as_str().to_owned(),
            leader: leader == Some(one.node_id),
            node_id: one.node_id,
            membership: standing(one, membership).to_owned(),
            peer_address: one.peer.clone(),
            api_address: one.api.clone(),
            ..seen.unwrap_or_default()
        }
    });
    // Those that are to go and are still there.
    let present = membership.voters.iter().chain(&membership.learners);
    let leaving = present.filter(|(id, _)| !member::control_planes(state).any(|(_, one)| one.node_id == **id));
    let leaving = leaving.map(|(id, one)| v1::Member {
        name: one.name.clone(),
        role: Role::ControlPlane.as_str().to_owned(),
        leader: leader == Some(*id),
        node_id: *id,
        membership: "leaving".to_owned(),
        peer_address: one.peer.clone(),
        api_address: one.api.clone(),
        ..v1::Member::default()
    });
    let others = state.members.iter().filter(|(_, one)| one.role != Role::ControlPlane).map(|(name, one)| {
        let revision = progress.get(name.as_str()).copied();
        v1::Member {
            name: name.clone(),
            role: one.role.as_str().to_owned(),
            reachable: revision.is_some(),
            revision: revision.unwrap_or_default(),
            ..v1::Member::default()
        }
    });
    let cluster = state.cluster.as_ref();
    v1::MembersResponse {
        items: control_planes.chain(leaving).chain(others).collect(),
        cluster_id: cluster.map(|cluster| cluster.id.clone()).unwrap_or_default(),
        incarnation: cluster.map(|cluster| cluster.incarnation.clone()).unwrap_or_default(),
        revision: state.revision,
    }
}

/// A control plane's place in consensus, as far as it has come.
fn standing(one: &member::Member, membership: &bailiwick_consensus::Membership) -> &'static str {
    match (membership.voters.contains_key(&one.node_id), one.voter) {
        (true, _) => "voter",
        (false, false) if membership.learners.contains_key(&one.node_id) => "learner",
        (false, _) => "joining",
    }
}

/// Cuts what is written into chunks. Blocks while the client takes none.
struct ChunkWriter {
    sender: mpsc::Sender<Result<v1::BackupChunk, Status>>,
    chunk: Vec<u8>,
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.chunk.extend_from_slice(bytes);
        if self.chunk.len() >= CHUNK_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the client has gone");
        for part in std::mem::take(&mut self.chunk).chunks(CHUNK_BYTES) {
            self.sender.blocking_send(Ok(v1::BackupChunk { data: part.to_vec() })).map_err(gone)?;
        }
        Ok(())
    }
}

//! Becoming and staying a member: gRPC service `bailiwick.v1.Enrolment`, the server's side.
//!
//! Open to anybody over TLS: what counts is in the request. A join token is redeemed by a command, so once in the whole
//! cluster; a certificate is signed only for a key whose private half signed the request, and only after the membership
//! is committed. A renewal looks at the latest state, so a removed member gets none. Nothing of a token is logged.
//! Absent: who may redeem what (`core::member`), the newcomer's side (`enrolment` crate).

use bailiwick_control_plane_core::{
    Answer, Command, State,
    member::{self, Enrol, RenewMember},
};
use bailiwick_enrolment::{JoinToken, enrol_message, renew_message};
use bailiwick_proto::v1::{self, enrolment_server::Enrolment};
use bailiwick_runtime::{
    authority::Authority,
    identity::{self, SpiffeId, fingerprint, verify_proof},
};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use crate::{
    clock,
    domain::{Caller, Domain},
    keys::Keys,
    status,
};

/// A renewal's time may be so far off: a replayed request is good for no longer.
const CLOCK_OFF_MAX_MILLIS: u64 = 5 * 60 * 1_000;
/// Longest token, name, address or version that is looked at.
const TEXT_BYTES_MAX: usize = 512;
/// Longest key or proof that is looked at.
const BINARY_BYTES_MAX: usize = 512;
const MICROS: u64 = 1_000_000;

/// Requests under way at once. Anybody may send them, and each takes a place in the writer's mailbox: more than these
/// wait outside, so that a crowd at the door keeps no member's write out.
static PLACES: Semaphore = Semaphore::const_new(32);

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct EnrolmentService {
    pub(crate) domain: Domain,
    pub(crate) keys: Keys,
}

#[tonic::async_trait]
impl Enrolment for EnrolmentService {
    async fn enrol(&self, request: Request<v1::EnrolRequest>) -> Result<Response<v1::EnrolResponse>, Status> {
        let request = request.into_inner();
        bounded(
            &[
                &request.token,
                &request.role,
                &request.name,
                &request.peer_address,
                &request.api_address,
                &request.version,
            ],
            &[&request.public_key, &request.proof],
        )?;
        let authority = self.keys.authority().ok_or_else(not_ready)?;
        let token: JoinToken =
            request.token.parse().map_err(|_| Status::invalid_argument("this is not a join token"))?;
        if token.fingerprint != fingerprint(authority.certificate()) {
            return Err(Status::permission_denied("the join token is for another cluster"));
        }
        if !verify_proof(&request.public_key, &enrol_message(&request.token), &request.proof) {
            return Err(Status::permission_denied("the request is not signed by the key it names"));
        }
        let role = role(&request.role)?;
        let command = Command::Enrol(Enrol {
            token: token.id.clone(),
            secret_hash: token.secret_hash(),
            role,
            name: request.name.clone(),
            public_key: request.public_key.clone(),
            peer: request.peer_address,
            api: request.api_address,
        });
        let caller = Caller { actor: format!("join:{}", token.id), request_id: String::new() };
        let _place = PLACES.try_acquire().map_err(|_| crowded())?;
        let written = self.domain.write(command, caller).await.map_err(status::of_write)?;
        let Answer::Member { node_id } = written.answer else { return Err(not_ready()) };
        let (cluster, members) = self.domain.read(|state| (state.cluster.clone(), addresses(state)));
        let cluster = cluster.ok_or_else(not_ready)?;
        let certificate = sign(&authority, &cluster.id, role, node_id, &request.name, &request.public_key)?;
        let v1::EnrolRequest { name, version, .. } = request;
        tracing::info!(role = role.as_str(), %name, node_id, %version, "a member enrolled");
        Ok(Response::new(v1::EnrolResponse {
            certificate,
            authority: authority.certificate().to_vec(),
            cluster_id: cluster.id,
            node_id,
            incarnation: cluster.incarnation,
            members,
        }))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewResponse>, Status> {
        let request = request.into_inner();
        bounded(
            &[&request.role, &request.name, &request.peer_address, &request.api_address, &request.version],
            &[&request.public_key, &request.proof],
        )?;
        let authority = self.keys.authority().ok_or_else(not_ready)?;
        if request.time.abs_diff(clock::now_micros() / 1_000) > CLOCK_OFF_MAX_MILLIS {
            return Err(Status::permission_denied("the request's time is more than five minutes off; check the clock"));
        }
        let moved = [request.peer_address.as_str(), &request.api_address];
        let message = renew_message(&request.role, &request.name, request.time, moved);
        if !verify_proof(&request.public_key, &message, &request.proof) {
            return Err(Status::permission_denied("the request is not signed by the key it names"));
        }
        let role = role(&request.role)?;
        let command = Command::RenewMember(RenewMember {
            role,
            name: request.name.clone(),
            public_key: request.public_key.clone(),
            peer: request.peer_address,
            api: request.api_address,
        });
        let caller = Caller { actor: format!("node:{}", request.name), request_id: String::new() };
        let _place = PLACES.try_acquire().map_err(|_| crowded())?;
        let written = self.domain.write(command, caller).await.map_err(status::of_write)?;
        let Answer::Member { node_id } = written.answer else { return Err(not_ready()) };
        let (cluster, members) = self.domain.read(|state| (state.cluster.clone(), addresses(state)));
        let cluster = cluster.ok_or_else(not_ready)?;
        let certificate = sign(&authority, &cluster.id, role, node_id, &request.name, &request.public_key)?;
        Ok(Response::new(v1::RenewResponse { certificate, authority: authority.certificate().to_vec(), members }))
    }
}

fn bounded(texts: &[&str], binaries: &[&[u8]]) -> Result<(), Status> {
    let fits = texts.iter().all(|text| text.len() <= TEXT_BYTES_MAX && !text.contains(char::is_control))
        && binaries.iter().all(|binary| binary.len() <= BINARY_BYTES_MAX);
    if fits { Ok(()) } else { Err(Status::invalid_argument("a field is longer than any that is right")) }
}

fn role(word: &str) -> Result<member::Role, Status> {
    let rule = "role must be \"control-plane\", \"data-plane\", \"ledger\" or \"admin\"";
    member::Role::from_word(word).ok_or_else(|| Status::invalid_argument(rule))
}

fn not_ready() -> Status {
    Status::unavailable("the cluster has no certificate authority yet; try again")
}

fn crowded() -> Status {
    Status::unavailable("too many ask to become members at once; try again")
}

fn sign(
    authority: &Authority,
    cluster: &str,
    role: member::Role,
    node_id: u64,
    name: &str,
    public_key: &[u8],
) -> Result<Vec<u8>, Status> {
    let id = spiffe(cluster, role, node_id, name);
    authority.issue(&id, public_key, clock::now_micros() / MICROS).map_err(|error| {
        tracing::error!(%error, %id, "a certificate cannot be signed");
        Status::internal("the certificate could not be signed; the membership stands, ask again")
    })
}

/// The name in the certificate of a member.
pub(crate) fn spiffe(cluster: &str, role: member::Role, node_id: u64, name: &str) -> SpiffeId {
    let (role, node_id) = match role {
        member::Role::ControlPlane => (identity::Role::ControlPlane, Some(node_id)),
        member::Role::DataPlane => (identity::Role::DataPlane, None),
        member::Role::Ledger => (identity::Role::Ledger, None),
        member::Role::Admin => (identity::Role::Admin, None),
    };
    SpiffeId { cluster: cluster.to_owned(), role, node_id, name: name.to_owned() }
}

fn addresses(state: &State) -> Vec<v1::MemberAddress> {
    let address = |(name, member): (&str, &member::Member)| v1::MemberAddress {
        node_id: member.node_id,
        name: name.to_owned(),
        peer_address: member.peer.clone(),
        api_address: member.api.clone(),
    };
    member::control_planes(state).map(address).collect()
}

#[cfg(test)]
mod tests;

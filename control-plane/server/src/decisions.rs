//! What the authorization server asks of the one place that decides.
//!
//! Every node serves HTTP; only the leader decides. So a decision is asked for through the same gate that
//! administrators' calls pass (`forward`), from inside: carried out here by the leader, handed on once by everybody
//! else, and tried again while it certainly had no effect. Nothing is asked under a request id, as what may be used
//! once is not answered twice; but batches of refusals are, so that each counts once. Also here: the leader's side,
//! called by `internal`.

use std::{collections::BTreeSet, time::Duration};

use bailiwick_control_plane_core::{Answer, Command, Exchanged, Fulfilled, Rejection, Wish};
use bailiwick_proto::v1::{
    DecideRequest, DecideResponse, internal_client::InternalClient, internal_server::InternalServer,
};
use bailiwick_runtime::{PeerIdentity, identity::Role};
use tonic::{Code, Request, Status};
use tower::Layer as _;

use crate::{
    domain::{Caller, Domain},
    forward::{Gate, Gated},
    internal::Colleagues,
    leavers, status,
};

/// Longest wait for a decision: a client that waits longer has given up.
const WAIT_MAX: Duration = Duration::from_secs(8);

/// Asks for decisions; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Decisions {
    client: InternalClient<Gated<InternalServer<Colleagues>>>,
    own: PeerIdentity,
}

/// Something was decided.
#[derive(Debug)]
pub(crate) struct Decided<T> {
    pub(crate) what: T,
    /// At which it counts.
    pub(crate) revision: u64,
}

/// Nothing was, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Undecided {
    /// It was refused, for this reason.
    Refused(String),
    /// Not now: nobody leads, too much is asked, or the answer was lost.
    Unavailable,
}

impl Decisions {
    /// For the node of this name.
    pub(crate) fn new(gate: &Gate, colleagues: Colleagues, node: &str) -> Self {
        let node_id = Some(colleagues.domain.consensus().node_id());
        let own = PeerIdentity::Node { role: Role::ControlPlane, name: node.to_owned(), node_id };
        Self { client: InternalClient::new(gate.layer(InternalServer::new(colleagues))), own }
    }

    /// Has something decided that ends in a token.
    pub(crate) async fn token(&self, wish: &Wish, actor: String) -> Result<Decided<Exchanged>, Undecided> {
        let Decided { what, revision } = self.ask(wish, actor).await?;
        let Fulfilled::Token(what) = what else { return Err(Undecided::Unavailable) };
        Ok(Decided { what, revision })
    }

    /// Has something decided.
    pub(crate) async fn ask(&self, wish: &Wish, actor: String) -> Result<Decided<Fulfilled>, Undecided> {
        let wish = serde_json::to_vec(wish).map_err(|_| Undecided::Unavailable)?;
        let mut request = Request::new(DecideRequest { wish, actor });
        request.set_timeout(WAIT_MAX);
        request.extensions_mut().insert(self.own.clone());
        let answered = self.client.clone().decide(request).await.map_err(|status| {
            tracing::warn!(%status, "a wish could not be decided about");
            Undecided::Unavailable
        })?;
        let DecideResponse { revision, fulfilled, refused, full } = answered.into_inner();
        if full {
            return Err(Undecided::Unavailable);
        }
        if fulfilled.is_empty() {
            return Err(Undecided::Refused(refused));
        }
        match serde_json::from_slice(&fulfilled).map_err(|_| Undecided::Unavailable)? {
            Fulfilled::Refused(sentence) => Err(Undecided::Refused(sentence)),
            what => Ok(Decided { what, revision }),
        }
    }
}

/// Decides, on the leader. No directory fills groups that are reserved here, or at the node that was asked.
pub(crate) async fn decide(
    domain: &Domain,
    reserved: &BTreeSet<String>,
    request: DecideRequest,
) -> Result<DecideResponse, Status> {
    let DecideRequest { wish, actor } = request;
    let mut wish: Wish = serde_json::from_slice(&wish)
        .map_err(|_| Status::new(Code::Unimplemented, "this control plane does not know what is asked for"))?;
    if let Wish::Provision(provision) = &mut wish {
        provision.reserved.extend(reserved.iter().cloned());
    }
    let batch = if let Wish::NoteRefusals(note) = &wish { Some(note.batch.clone()) } else { None };
    let is_batch = batch.is_some();
    let (leaving, ending) =
        domain.read(|state| (leavers::of_wish(state, &wish), leavers::agents_of_wish(state, &wish)));
    let caller = Caller { actor: actor.clone(), request_id: batch.unwrap_or_default() };
    let written = match domain.write(Command::Wish(wish), caller).await {
        Ok(written) => written,
        Err(crate::domain::WriteError::Rejected(rejection)) => {
            leavers::finish(domain, &leaving, &actor).await.map_err(status::of_write)?;
            return Ok(refusal(&rejection));
        }
        Err(error) => return Err(status::of_write(error)),
    };
    leavers::finish(domain, &leaving, &actor).await.map_err(status::of_write)?;
    leavers::finish_agents(domain, &ending, &actor).await.map_err(status::of_write)?;
    let fulfilled = match &written.answer {
        Answer::Fulfilled(fulfilled) => fulfilled,
        // It was on record before.
        Answer::Done if is_batch => &Fulfilled::Done,
        _ => return Err(Status::internal("the decision is of another kind")),
    };
    let fulfilled = serde_json::to_vec(fulfilled).map_err(|_| Status::internal("the decision cannot be written"))?;
    Ok(DecideResponse { revision: written.revision, fulfilled, ..DecideResponse::default() })
}

fn refusal(rejection: &Rejection) -> DecideResponse {
    let full = matches!(rejection, Rejection::TooMany { .. });
    DecideResponse { refused: rejection.to_string(), full, ..DecideResponse::default() }
}

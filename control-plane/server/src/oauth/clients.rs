//! Finding a client by its `client_id`: registered (by an administrator, or by itself), or described by a document at
//! the URL that its id is (`documents`).
//!
//! Asked by whatever reads a request of a client. Read at a state that holds every write acknowledged before: a client
//! that registered itself at another node a moment ago is known, and a document that no agent takes any more describes
//! nobody. Who is registered is not looked for elsewhere.

use bailiwick_control_plane_core::resource::ClientSpec;

use super::{
    Services,
    documents::{DocumentFault, Named},
    error::OAuthError,
};
use crate::pages::ClientOrigin;

/// A client and what is known of it.
#[derive(Clone, Debug)]
pub(crate) struct KnownClient {
    /// Its `client_id`.
    pub(crate) id: String,
    pub(crate) spec: ClientSpec,
    /// Whose word that is.
    pub(crate) origin: ClientOrigin,
}

impl KnownClient {
    /// What people are shown as its name.
    pub(crate) fn title(&self) -> &str {
        self.spec.title.as_deref().unwrap_or(&self.id)
    }
}

/// Where it is found.
enum Place {
    Registered(Box<ClientSpec>),
    Document(Named),
}

/// The client of this id, active or not; `None` where there is none.
///
/// # Errors
/// Nobody can say, or its description cannot be read.
pub(crate) async fn find(services: &Services, id: &str) -> Result<Option<KnownClient>, OAuthError> {
    look(services, id).await?.transpose().map_err(|fault| {
        if fault.is_ours() { OAuthError::unavailable(fault.sentence()) } else { OAuthError::request(fault.sentence()) }
    })
}

/// The same, of whoever says to be it and has to prove it: a client whose description cannot be read is nobody, but for
/// one whose host is away for a moment: that is not to make it throw away what it was granted.
///
/// # Errors
/// Nobody can say.
pub(super) async fn claimed(services: &Services, id: &str) -> Result<Option<ClientSpec>, OAuthError> {
    match look(services, id).await? {
        Some(Err(fault)) if fault.may_pass() => Err(OAuthError::unavailable(fault.sentence())),
        found => Ok(found.and_then(Result::ok).map(|known| known.spec)),
    }
}

async fn look(services: &Services, id: &str) -> Result<Option<Result<KnownClient, DocumentFault>>, OAuthError> {
    let place = services.domain.read_latest(|state| {
        let registered = state.clients.get(id).map(|client| Place::Registered(Box::new(client.spec.clone())));
        registered.or_else(|| Named::of(state, id).map(Place::Document))
    });
    let place = place.await.map_err(|_| OAuthError::unavailable("the cluster does not answer"))?;
    let (spec, origin) = match place {
        None => return Ok(None),
        Some(Place::Registered(spec)) if spec.self_registered => (Ok(*spec), ClientOrigin::Itself),
        Some(Place::Registered(spec)) => (Ok(*spec), ClientOrigin::Administrator),
        Some(Place::Document(named)) => (services.documents.read(&named).await, ClientOrigin::Document(named.origin())),
    };
    Ok(Some(spec.map(|spec| KnownClient { id: id.to_owned(), spec, origin })))
}

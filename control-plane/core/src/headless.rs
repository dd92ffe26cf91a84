//! Headless clients: agents that run without a person at hand get tokens by proving who they are (RFC 6749 §4.4).
//!
//! Whose authority is it? The owner's, who answers for the agent: an administrator says in the client's manifest where
//! it may be used so, and the consent that stands for it says that. Called by `wish`, and `workload` for those whose
//! platform proves who they are. Invariant: nobody gets a token like this whose manifest does not say so now. Absent:
//! the client's signature, which the server looks at.

use bailiwick_proto::Tier;
use serde::{Deserialize, Serialize};

use crate::{
    Kind, Rejection, ResourceRef,
    assertion::Use,
    command::{Context, Decision},
    parties,
    resource::ClientAuth,
    standing::{self, Standing},
    state::State,
};

/// A wish of a client for a token of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UseCredentials {
    /// The client, which proved who it is.
    pub client: String,
    /// What it used up by that; nothing where it has shown a certificate.
    pub uses: Vec<Use>,
    /// Where.
    pub virtual_server: String,
    /// The most harmful tier it asks for; all that it may have where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<Tier>,
}

pub(crate) fn decide_use(state: &State, wish: UseCredentials, context: &Context) -> Result<Decision, Rejection> {
    let UseCredentials { client, uses, virtual_server, wanted } = wish;
    let auth = state.clients.get(&client).map(|known| known.spec.auth);
    if auth == Some(ClientAuth::Workload) {
        return Err(Rejection::NotItsWorkload { client });
    }
    if uses.is_empty() && auth.is_some_and(|auth| !auth.is_by_certificate()) {
        return Err(Rejection::Malformed { what: "use of credentials", rule: "of one, but for a certificate" });
    }
    let (standing, project) = standing(state, &client, &virtual_server, context)?;
    let wanted = wanted.unwrap_or(standing.level);
    standing::decide_token(state, standing, wanted, project, uses, context)
}

/// What the client's manifest is good for there, on behalf of its agent's owner; and the agent's project.
pub(crate) fn standing(
    state: &State,
    client: &str,
    virtual_server: &str,
    context: &Context,
) -> Result<(Standing, String), Rejection> {
    let unknown = || Rejection::NotFound(vec![ResourceRef::new(Kind::Client, client)]);
    let spec = &state.clients.get(client).ok_or_else(unknown)?.spec;
    let headless = spec.headless.as_ref().filter(|headless| headless.virtual_servers.contains(virtual_server));
    let agent = spec.agent.as_ref().filter(|_| headless.is_some()).ok_or_else(|| Rejection::NotHeadless {
        client: client.to_owned(),
        virtual_server: virtual_server.to_owned(),
    })?;
    let owner = state.agents.get(agent).map(|agent| agent.spec.owner.clone()).unwrap_or_default();
    let terms = parties::terms(state, &owner, client, agent, virtual_server, context)?;
    let standing = Standing {
        provider: String::new(),
        user: owner,
        agent: agent.clone(),
        client: client.to_owned(),
        virtual_server: virtual_server.to_owned(),
        level: terms.ceiling,
        reason: "headless use, as the client's manifest says".to_owned(),
        handed: None,
    };
    Ok((standing, terms.project))
}

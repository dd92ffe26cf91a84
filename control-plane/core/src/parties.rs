//! Those who take part in a grant: the person, the client, the agent it is software of, and the agent's owner.
//!
//! Called by whatever grants (`assertion`, `authorization`, `exchange`) and by the server, which shows people the
//! choice. Invariant: nobody is granted anything for or through somebody who is not active. Absent: policies, which
//! data planes ask on every call.

use bailiwick_proto::Tier;

use crate::{
    Kind, Rejection, ResourceRef, State, agent::life, authorization, client, command::Context, consent::ConsentGranted,
};

/// What follows from those who take part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    /// The agent's project.
    pub(crate) project: String,
    /// The most harmful tier that may be granted.
    pub(crate) ceiling: Tier,
}

/// That all of them may, now.
pub(crate) fn terms(
    state: &State,
    user: &str,
    client: &str,
    agent: &str,
    virtual_server: &str,
    context: &Context,
) -> Result<Terms, Rejection> {
    let unknown = |kind, name: &str| Rejection::NotFound(vec![ResourceRef::new(kind, name)]);
    let inactive = |kind, name: &str| Rejection::Inactive(ResourceRef::new(kind, name));
    let registered = state.clients.get(client).map(|known| &known.spec);
    if registered.is_none() && !client::is_described(client) {
        return Err(unknown(Kind::Client, client));
    }
    if !client::may_act_as(state, client, agent) {
        return Err(Rejection::NotItsAgent { client: client.to_owned(), agent: agent.to_owned() });
    }
    let acting = &state.agents.get(agent).ok_or_else(|| unknown(Kind::Agent, agent))?.spec;
    let is_active = |name: &str| state.users.get(name).map(|user| user.spec.active);
    if !state.virtual_servers.contains_key(virtual_server) {
        return Err(unknown(Kind::VirtualServer, virtual_server));
    }
    let parties = [
        (Kind::Client, client, registered.is_none_or(|spec| spec.active)),
        (Kind::Agent, agent, acting.acts()),
        (Kind::User, acting.owner.as_str(), is_active(&acting.owner).unwrap_or(false)),
        (Kind::User, user, is_active(user).ok_or_else(|| unknown(Kind::User, user))?),
    ];
    if let Some((kind, name, _)) = parties.into_iter().find(|(_, _, is_active)| !is_active) {
        return Err(inactive(kind, name));
    }
    life::check_review(agent, acting, context.now_seconds())?;
    let of_client = registered.and_then(|spec| spec.ceiling);
    let ceiling = of_client.map_or(acting.ceiling, |ceiling| ceiling.min(acting.ceiling));
    Ok(Terms { project: acting.project.clone(), ceiling })
}

/// The most harmful tier that may be handed on of a consent, if those who hand it on still may act.
pub(crate) fn ceiling_left(state: &State, granted: &ConsentGranted, context: &Context) -> Result<Tier, Rejection> {
    let inactive = |kind, name: &str| Rejection::Inactive(ResourceRef::new(kind, name));
    authorization::check_signed_in(state, &granted.provider)?;
    let agent = state.agents.get(&granted.agent).map(|known| &known.spec).filter(|spec| spec.acts());
    let agent = agent.ok_or_else(|| inactive(Kind::Agent, &granted.agent))?;
    if !state.users.get(&agent.owner).is_some_and(|owner| owner.spec.active) {
        return Err(inactive(Kind::User, &agent.owner));
    }
    life::check_review(&granted.agent, agent, context.now_seconds())?;
    // An administrator's own tokens, and documents, are of clients that nobody registered.
    let client = state.clients.get(&granted.client).map(|known| &known.spec);
    if client.is_some_and(|spec| !spec.active) {
        return Err(inactive(Kind::Client, &granted.client));
    }
    let of_client = client.and_then(|spec| spec.ceiling).unwrap_or(agent.ceiling);
    Ok(granted.level.min(agent.ceiling).min(of_client))
}

//! Minting: what was granted and is on record becomes an access token.
//!
//! Called by administration and by the authorization server, after the grant is committed, so no token exists without
//! its consent on record. Any node can do it: the key is in replicated state.

use bailiwick_control_plane_core::{Grant, State};
use bailiwick_proto::{Tier, scope::Scopes};
use bailiwick_token::{AccessToken, Actor, Claims, binding::BindingKey};

use crate::{
    binding::{Binding, Unbound},
    domain::Domain,
    keys::Keys,
};

/// A token, and where it is good.
#[derive(Debug)]
pub(crate) struct Minted {
    pub(crate) token: AccessToken,
    /// The key it is bound to, where that is given out with it.
    pub(crate) binding_key: Option<BindingKey>,
    /// The URL of its virtual server.
    pub(crate) resource: String,
}

/// Why there is no token; the grant stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MintingError {
    #[error("the issuer or the token key is not set yet")]
    NotReady,
    #[error("the token could not be minted")]
    Failed,
}

impl From<Unbound> for MintingError {
    fn from(error: Unbound) -> Self {
        tracing::error!(%error, "a token could not be bound");
        Self::Failed
    }
}

/// A token for a grant that was committed at `revision`, good up to `level`, bound as it is said.
pub(crate) fn mint(
    domain: &Domain,
    keys: &Keys,
    grant: &Grant,
    (level, revision): (Tier, u64),
    binding: &Binding,
) -> Result<Minted, MintingError> {
    let (issuer, mcp_url) = domain.read(issuer).ok_or(MintingError::NotReady)?;
    let (signing, known_since) = domain
        .read(|state| {
            let signing = keys.signing(state)?;
            let since = state.token_keys.get(signing.kid())?.changed.revision;
            Some((signing, since))
        })
        .ok_or(MintingError::NotReady)?;
    // A data plane that is behind waits for the key rather than to refuse a token of one it does not know.
    let revision = revision.max(known_since).max(binding.known_since());
    let resource = resource(&mcp_url, &grant.virtual_server);
    let mut claims = claims(grant, level, revision, issuer, resource.clone())?;
    let binding_key = binding.bind(&mut claims)?;
    let token = bailiwick_token::mint(&claims, &signing).map_err(|error| {
        tracing::error!(%error, "a token could not be minted");
        MintingError::Failed
    })?;
    Ok(Minted { token, binding_key, resource })
}

/// Issuer and MCP URL.
pub(crate) fn issuer(state: &State) -> Option<(String, String)> {
    state.issuer.as_ref().map(|issuer| (issuer.issuer.clone(), issuer.mcp_url.clone()))
}

/// The URL of a virtual server: the audience of its tokens.
pub(crate) fn resource(mcp_url: &str, virtual_server: &str) -> String {
    format!("{mcp_url}/{virtual_server}")
}

fn claims(grant: &Grant, level: Tier, revision: u64, iss: String, aud: String) -> Result<Claims, MintingError> {
    let earlier = grant.earlier_agents.iter().rev();
    let act = earlier.fold(None, |act, agent| Some(Box::new(Actor { sub: agent.clone(), act })));
    let time = |seconds: u64| i64::try_from(seconds).map_err(|_| MintingError::Failed);
    Ok(Claims {
        iss,
        aud,
        sub: grant.user.clone(),
        agent_sub: grant.agent.clone(),
        project_id: grant.project.clone(),
        client_id: grant.client.clone(),
        consent_id: grant.consent.clone(),
        sid: grant.session.clone(),
        scope: Scopes::of_level(level).to_string(),
        act: Actor { sub: grant.agent.clone(), act },
        jti: grant.jti.clone(),
        iat: time(grant.issued_at)?,
        nbf: None,
        exp: time(grant.expires_at)?,
        min_revision: Some(revision),
        cnf: None,
        binding_alg: None,
        binding: None,
    })
}

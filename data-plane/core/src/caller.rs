//! The caller: what a verified token says about who is asking.
//!
//! Made by the data plane's listener from claims that `bailiwick_token` has verified, for the virtual server in the
//! URL. Everything here is a claim about identity, not yet authority: whether user, agent and consent still stand is
//! `admission`'s question.

use bailiwick_proto::{Reason, Tier, scope::Scopes};
use bailiwick_token::Claims;

/// Who is asking, through what, on what grounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The human.
    pub user: String,
    /// The agent acting for them.
    pub agent: String,
    /// Project of the agent, as issued.
    pub project: String,
    /// OAuth client the token was issued to.
    pub client: String,
    /// The consent the token was issued on.
    pub consent: String,
    /// Session: all tokens of one sign-in share it.
    pub session: String,
    /// Identifier of the token itself.
    pub token_id: String,
    /// The most harmful tier that the token's scope reaches.
    pub scope_level: Tier,
    /// The virtual server the token is good for.
    pub virtual_server: String,
    /// What a node must have in force before it judges this caller; 0: anything.
    pub min_revision: u64,
    /// The token is bound to a key: each request proves that its sender holds it, or is refused before anything else.
    pub bound: bool,
}

/// Whether a token says that it is bound to a key, in whatever way.
pub(crate) const fn is_bound(claims: &Claims) -> bool {
    claims.cnf.is_some() || claims.binding_alg.is_some() || claims.binding.is_some()
}

impl Caller {
    /// The caller behind verified claims, on the virtual server their audience names.
    ///
    /// # Errors
    /// `scope_insufficient` when no word of the token's scope is known here; `token_malformed` when its two names for
    /// the agent disagree.
    pub fn from_claims(claims: &Claims, virtual_server: &str) -> Result<Self, Reason> {
        if claims.act.sub != claims.agent_sub {
            return Err(Reason::TokenMalformed);
        }
        let scope_level = Scopes::parse(&claims.scope).level().ok_or(Reason::ScopeInsufficient)?;
        Ok(Self {
            user: claims.sub.clone(),
            agent: claims.agent_sub.clone(),
            project: claims.project_id.clone(),
            client: claims.client_id.clone(),
            consent: claims.consent_id.clone(),
            session: claims.sid.clone(),
            token_id: claims.jti.clone(),
            scope_level,
            virtual_server: virtual_server.to_owned(),
            min_revision: claims.min_revision.unwrap_or(0),
            bound: is_bound(claims),
        })
    }
}

#[cfg(test)]
mod tests {
    use bailiwick_token::Actor;

    use super::*;

    fn claims() -> Claims {
        Claims {
            iss: "http://issuer".into(),
            aud: "http://mcp/finance".into(),
            sub: "jane@example.com".into(),
            agent_sub: "coder".into(),
            project_id: "platform".into(),
            client_id: "cli".into(),
            consent_id: "c-1".into(),
            sid: "s-1".into(),
            scope: "openid mcp:tools".into(),
            act: Actor { sub: "coder".into(), act: None },
            jti: "t-1".into(),
            iat: 1,
            nbf: None,
            exp: 2,
            min_revision: None,
            cnf: None,
            binding_alg: None,
            binding: None,
        }
    }

    #[test]
    fn claims_become_a_caller_only_with_the_scope_and_one_agent() {
        let caller = Caller::from_claims(&claims(), "finance").unwrap();
        assert_eq!((caller.user.as_str(), caller.agent.as_str()), ("jane@example.com", "coder"));
        for (scope, expected) in [
            ("openid mcp:tools", Ok(Tier::Destructive)),
            ("mcp:read mcp:write", Ok(Tier::Transactional)),
            ("mcp:read", Ok(Tier::Retrieval)),
            ("mcp:tools.read", Err(Reason::ScopeInsufficient)),
            ("", Err(Reason::ScopeInsufficient)),
        ] {
            let claims = Claims { scope: scope.into(), ..claims() };
            assert_eq!(Caller::from_claims(&claims, "finance").map(|caller| caller.scope_level), expected, "{scope}");
        }
        let torn = Claims { act: Actor { sub: "other".into(), act: None }, ..claims() };
        assert_eq!(Caller::from_claims(&torn, "finance"), Err(Reason::TokenMalformed));
    }
}

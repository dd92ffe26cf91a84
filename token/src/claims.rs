//! The claims of an access token: who, through which agent, on what consent, for which resource, until when.
//!
//! Written by the control plane, read by data planes. An unknown claim is refused, not ignored: it may be a
//! restriction that this version cannot honour. Fields are added as `Option`s, left out when absent, so that old
//! nodes refuse only the tokens that use them.

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

/// Most actors in a token, the current one among them: who acts for whom stays readable in a record.
pub const ACT_DEPTH_MAX: usize = 4;

/// The claims (`design.md` §8; RFC 7519 §4.1, RFC 9068 §2.2, RFC 8693 §4.1). Times are seconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// Issuer: URL of the authorization server.
    pub iss: String,
    /// Audience: URL of exactly one MCP resource.
    pub aud: String,
    /// Subject: name of the human.
    pub sub: String,
    /// Name of the agent acting for the human.
    pub agent_sub: String,
    /// Project of the agent.
    pub project_id: String,
    /// OAuth client through which the token was obtained.
    pub client_id: String,
    /// The consent under which it was issued.
    pub consent_id: String,
    /// Session: all tokens of one sign-in share it and are revoked together.
    pub sid: String,
    /// Scopes, separated by spaces.
    pub scope: String,
    /// The acting party (RFC 8693 §4.1): the agent again, in the standard's place. At most [`ACT_DEPTH_MAX`] deep.
    #[serde(deserialize_with = "bounded_actor")]
    pub act: Actor,
    /// Identifier of this token.
    pub jti: String,
    /// Issued at.
    pub iat: i64,
    /// Not valid before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<i64>,
    /// Expires at: the first second in which it is no longer valid.
    pub exp: i64,
    /// The control plane's revision that granted it: a node that is behind cannot know the consent yet, nor what was
    /// taken away before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_revision: Option<u64>,
    /// How the token is bound to a key, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding_alg: Option<String>,
    /// The sealed binding key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<String>,
}

/// The acting party of [`Claims`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Actor {
    /// Name of the agent.
    pub sub: String,
    /// Who acted before it, where the token was exchanged for another's: for the record only, it decides nothing
    /// (RFC 8693 §4.1). Nodes that know no chains refuse such tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub act: Option<Box<Self>>,
}

impl Actor {
    /// How many actors there are, this one among them.
    #[must_use]
    pub fn depth(&self) -> usize {
        std::iter::successors(Some(self), |actor| actor.act.as_deref()).count()
    }
}

/// Refuses a longer chain than we mint; how deep the reader gets before that is bounded by the JSON parser.
fn bounded_actor<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Actor, D::Error> {
    let actor = Actor::deserialize(deserializer)?;
    if actor.depth() > ACT_DEPTH_MAX { Err(D::Error::custom("too many actors")) } else { Ok(actor) }
}

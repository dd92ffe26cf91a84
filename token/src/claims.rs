//! The claims of an access token: who, through which agent, on what consent, for which resource, until when.
//!
//! Written by the control plane, read by data planes. An unknown claim is refused, not ignored: it may be a
//! restriction that this version cannot honour. Fields are added as `Option`s, left out when absent, so that old
//! nodes refuse only the tokens that use them.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

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
    /// What whoever presents the token must hold (RFC 7800 §3.1), if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cnf: Option<Confirmation>,
    /// How the token is bound to a key that is sealed into it, if it is: `aes-256-gcm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding_alg: Option<String>,
    /// The sealed binding key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<String>,
}

/// What proves possession of a token: exactly one of these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Confirmation {
    /// Thumbprint of a public key (RFC 9449 §6.1, RFC 7638).
    #[serde(rename = "jkt")]
    Key(Thumbprint),
    /// Thumbprint of a client certificate (RFC 8705 §3.1).
    #[serde(rename = "x5t#S256")]
    Certificate(Thumbprint),
}

/// A SHA-256 thumbprint; in tokens and requests base64url without padding.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Thumbprint(pub [u8; 32]);

impl Thumbprint {
    /// From its text; `None` if it is not one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok().map(Self)
    }
}

impl fmt::Display for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Thumbprint({self})")
    }
}

impl Serialize for Thumbprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Thumbprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom("not a SHA-256 thumbprint"))
    }
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

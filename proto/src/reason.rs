//! Every reason for which Bailiwick refuses, as stable words.
//!
//! The same words stand in responses, records, metrics, console and docs. Words are only ever added.
//! `docs/reference/reasons.md` is generated from this file.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $word:literal, $sentence:literal;)*) => {
        /// Why a request was refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Reason {
            $(#[doc = $sentence] #[serde(rename = $word)] $variant,)*
        }

        impl Reason {
            /// All reasons, in the order of this file.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stable word.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// A safe sentence for people: says what to do, tells no secret.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence,)* }
            }
        }
    };
}

reasons! {
    TokenMissing = "token_missing", "The request carries no bearer token.";
    TokenMalformed = "token_malformed", "The bearer token is not a signed token of this issuer.";
    TokenSignature = "token_signature", "The token's signature does not verify with a key of this issuer.";
    TokenExpired = "token_expired", "The token has expired; obtain a new one.";
    TokenNotYetValid = "token_not_yet_valid", "The token is not valid yet; check the clocks.";
    TokenAudience = "token_audience", "The token is for another resource.";
    TokenIssuer = "token_issuer", "The token is from another issuer.";
    ScopeInsufficient = "scope_insufficient", "The token's scope does not cover this; obtain one with more.";
    ProofMissing = "proof_missing", "The token is bound to a key, and the request carries no proof of that key.";
    ProofInvalid = "proof_invalid", "The proof is not of the token's key for this request.";
    ProofStale = "proof_stale", "The proof is too old, from the future, or of a nonce that has expired; make a new one.";
    ProofReplayed = "proof_replayed", "The proof was used before; each request needs its own.";
    BindingRequired = "binding_required", "This is for tokens that are bound to a key; obtain one.";
    UserUnknown = "user_unknown", "The person named in the token is not known here.";
    UserInactive = "user_inactive", "The person named in the token has been deactivated.";
    AgentUnknown = "agent_unknown", "The agent named in the token is not known here.";
    AgentInactive = "agent_inactive", "The agent named in the token, or its owner, has been deactivated.";
    ConsentMissing = "consent_missing", "No consent of this person covers this agent and client here.";
    ConsentRevoked = "consent_revoked", "The consent was revoked; ask the person to consent again.";
    ConsentExpired = "consent_expired", "The consent has expired; ask the person to consent again.";
    ConsentToolNotListed = "consent_tool_not_listed", "The consent is for listed tools only, and this is not among them; ask the person to consent to it.";
    ConsentLevelExceeded = "consent_level_exceeded", "The tool's tier is above the level that was consented to.";
    CeilingExceeded = "ceiling_exceeded", "The tool's tier is above the agent's ceiling.";
    PolicyDenied = "policy_denied", "No policy permits this call.";
    PolicyError = "policy_error", "A policy could not be evaluated, so the call is refused.";
    ToolUnknown = "tool_unknown", "No such tool on this virtual server.";
    DecisionClientUnknown = "decision_client_unknown", "Whoever asks for a decision is not known here.";
    DecisionNotForClient = "decision_not_for_client", "The service that asks may not ask about this virtual server or server.";
    QuestionMalformed = "question_malformed", "The question lacks something that it needs, or says it in a way that cannot be read.";
    QuestionUnsupported = "question_unsupported", "Nothing is decided here about such a subject or resource.";
    QuestionTooBroad = "question_too_broad", "Too many consents would have to be tried; name the consent or the virtual server, or ask less at once.";
    AskedTooOften = "asked_too_often", "The service asks for more decisions than one may; ask again in a moment.";
    ArgumentFixed = "argument_fixed", "An argument that this virtual server sets itself cannot be sent.";
    ToolQuarantined = "tool_quarantined", "The tool's definition changed after it was approved; it must be approved again.";
    PromptUnknown = "prompt_unknown", "No such prompt on this virtual server.";
    ResourceUnknown = "resource_unknown", "No such resource on this virtual server.";
    ResourceUriInvalid = "resource_uri_invalid", "The resource's URI is not in the normal form that every server reads alike.";
    TaskUnknown = "task_unknown", "No such task of this caller's, or not any more.";
    VirtualServerUnknown = "virtual_server_unknown", "No such virtual server.";
    ConfigStale = "config_stale", "This node's configuration is too old to decide safely.";
    SessionUnknown = "session_unknown", "The session is not known here; start a new one.";
    RequestMalformed = "request_malformed", "The request is not a well-formed MCP message.";
    RequestTooLarge = "request_too_large", "The request is larger than this gateway accepts.";
    MethodUnsupported = "method_unsupported", "The method is not served here.";
    NodeOverloaded = "node_overloaded", "This node has too many calls under way; try again in a moment.";
    SpoolPressure = "spool_pressure", "Records cannot be shipped fast enough; only retrieval goes on.";
    SpoolFull = "spool_full", "Records cannot be kept safely, so calls are refused.";
    LedgerOutdated = "ledger_outdated", "The ledger is not known to read such records; upgrade it, or ask again once it answers.";
    LedgerUnreachable = "ledger_unreachable", "The ledger did not acknowledge the record in time, so the call is refused.";
    UpstreamUnreachable = "upstream_unreachable", "The server could not be reached.";
    UpstreamRefused = "upstream_refused", "The server refused the gateway's request.";
    UpstreamTimeout = "upstream_timeout", "The server did not answer in time.";
    UpstreamInvalid = "upstream_invalid", "The server's answer is not valid MCP.";
    UpstreamTooLarge = "upstream_too_large", "The server's answer is larger than this gateway accepts.";
    UpstreamBusy = "upstream_busy", "The server has as much to do as it may have; try again in a moment.";
    CredentialMissing = "credential_missing", "The secret that the server is to be given is not there.";
    CommandNotAllowed = "command_not_allowed", "The operator of this node does not allow the server's program to be run.";
    UpstreamAddressRefused = "upstream_address_refused", "The server's address is in a network that this gateway may not call.";
    UpstreamUntrusted = "upstream_untrusted", "The server's certificate is not trusted.";
    UpstreamSuspended = "upstream_suspended", "The server failed again and again and is left alone for a while; try again later.";
    InputLost = "input_lost", "The call that waited for this input is gone; call again.";
    InputRefused = "input_refused", "The server needs input for this that the client refused to give.";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The word names no reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown reason `{0}`")]
pub struct UnknownReason(pub String);

impl FromStr for Reason {
    type Err = UnknownReason;
    fn from_str(word: &str) -> Result<Self, UnknownReason> {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == word).ok_or_else(|| UnknownReason(word.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_unique_and_serialise_as_themselves() {
        for reason in Reason::ALL {
            assert_eq!(reason.as_str().parse(), Ok(*reason));
            assert_eq!(serde_json::to_string(reason).unwrap(), format!("\"{reason}\""));
        }
    }
}

//! What a modern server asks for before it answers, gathered from a legacy client one request at a time.
//!
//! Called by the server when a modern server's result wants input and the client is a legacy one: each wanted input
//! becomes a request to the client, under the server's key; when all are answered, the call is sent again with the
//! answers and the server's own state. A refused elicitation is a cancelled one; a refusal of anything else ends the
//! call. Specification: MCP 2026-07-28, multi round-trip requests; 2025-11-25: elicitation, sampling, roots.

use std::collections::BTreeMap;

use bailiwick_proto::mcp::{Answered, Members, RequestId, method, raw, raw_object};
use serde_json::{json, value::RawValue};

use super::{Question, capability_for};
use crate::{
    edge::{Call, Retry},
    forward::asks_for_input,
    sealed::request_state::RequestState,
};

/// Most inputs one result asks for.
pub const INPUTS_MAX: usize = 16;
/// Most times one call is sent again with input.
pub const ROUNDS_MAX: usize = 16;

/// What is still missing, and what is there.
#[derive(Clone, Debug)]
pub struct Input {
    /// By the server's keys.
    wanted: BTreeMap<String, Question>,
    given: BTreeMap<String, Box<RawValue>>,
    state: Option<String>,
}

/// Why the input cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoInput {
    /// The result breaks the rules.
    #[error("the server asks for input in a way that is not valid")]
    Malformed,
    /// The client did not declare that it answers this.
    #[error("the server asks for what the client cannot answer")]
    Undeclared,
    /// The client answered with an error.
    #[error("the client refused to answer")]
    Refused,
}

impl Input {
    /// What a result asks for; `None` where it does not.
    ///
    /// # Errors
    /// It asks for what it may not.
    pub fn wanted(call: &Call, result: &RawValue) -> Result<Option<Self>, NoInput> {
        if !asks_for_input(result) {
            return Ok(None);
        }
        let members = Members::of(result).ok_or(NoInput::Malformed)?;
        let asked = members.object("inputRequests").map_err(|_no_object| NoInput::Malformed)?.unwrap_or_default();
        let declared = call.capabilities.as_deref().and_then(Members::of).unwrap_or_default();
        let mut wanted = BTreeMap::new();
        for (key, request) in asked.iter() {
            let request = Members::of(request).ok_or(NoInput::Malformed)?;
            let method = request.required_string("method").map_err(|_absent| NoInput::Malformed)?;
            let capability = capability_for(&method).ok_or(NoInput::Malformed)?;
            declared.get(capability).ok_or(NoInput::Undeclared)?;
            let params = request.get("params").map(|params| params.get().to_owned());
            wanted.insert(key.to_owned(), Question { id: RequestId::Text(key.into()), method, params });
        }
        let state = members.string("requestState").map_err(|_no_string| NoInput::Malformed)?;
        if wanted.len() > INPUTS_MAX || (wanted.is_empty() && state.is_none()) {
            return Err(NoInput::Malformed);
        }
        Ok(Some(Self { wanted, given: BTreeMap::new(), state }))
    }

    /// The requests to the client; their ids are the server's keys.
    pub fn questions(&self) -> impl Iterator<Item = &Question> {
        self.wanted.values()
    }

    /// True once nothing is missing.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.wanted.is_empty()
    }

    /// The client answered the request with this id. What was not asked, or is answered already, does not count.
    ///
    /// # Errors
    /// It refused what the server cannot do without.
    pub fn answered(&mut self, id: &RequestId, answered: Answered) -> Result<(), NoInput> {
        let RequestId::Text(key) = id else { return Ok(()) };
        let Some(question) = self.wanted.remove(key.as_ref()) else { return Ok(()) };
        let given = match answered {
            Answered::Result(result) => result,
            Answered::Error(_) if question.method == method::ELICIT => raw(&json!({"action": "cancel"})),
            Answered::Error(_) => return Err(NoInput::Refused),
        };
        self.given.insert(key.as_ref().to_owned(), given);
        Ok(())
    }

    /// What the call is sent again with.
    #[must_use]
    pub fn retry(self, salient: [u8; 32]) -> Retry {
        let responses = raw_object(self.given.iter().map(|(key, value)| (key.as_str(), &**value)));
        Retry { responses: Some(responses), state: Some(RequestState::Server(self.state)), salient }
    }
}

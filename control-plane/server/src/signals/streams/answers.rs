//! What transmitters answer where their streams are made: only what is looked at of it.
//!
//! Read by `streams`. Invariant: what is no JSON as MCP has it, with a key twice or of another shape, is no answer.
//! Specification: OpenID SSF 1.0 §8.1.1, §8.1.2.

use bailiwick_proto::mcp::check_json;
use serde::{Deserialize, de::DeserializeOwned};

use super::{StreamFault, TEXT_BYTES_MAX};
use crate::outbound::Fetched;

#[derive(Deserialize)]
pub(super) struct Configured {
    pub(super) stream_id: String,
    pub(super) iss: Option<String>,
    #[serde(default)]
    pub(super) aud: Audience,
    pub(super) delivery: Option<Delivery>,
    #[serde(default)]
    pub(super) events_delivered: Vec<String>,
}

#[derive(Deserialize)]
pub(super) struct Delivery {
    pub(super) method: String,
    pub(super) endpoint_url: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(untagged)]
pub(super) enum Audience {
    #[default]
    Unsaid,
    One(String),
    Several(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Listed {
    Several(Vec<Configured>),
    One(Box<Configured>),
}

#[derive(Deserialize)]
pub(super) struct Status {
    pub(super) status: String,
}

impl Audience {
    pub(super) fn has(&self, name: &str) -> bool {
        match self {
            Self::Unsaid => false,
            Self::One(one) => one == name,
            Self::Several(all) => all.iter().any(|one| one == name),
        }
    }
}

pub(super) fn is_text(text: &str) -> bool {
    !text.is_empty() && text.len() <= TEXT_BYTES_MAX && !text.contains(char::is_control)
}

pub(super) fn read<T: DeserializeOwned>(fetched: &Fetched) -> Result<T, StreamFault> {
    let text = check_json(&fetched.body).map_err(|_| StreamFault::Answer)?;
    serde_json::from_str(text).map_err(|_| StreamFault::Answer)
}

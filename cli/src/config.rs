//! The configuration file of a node: one TOML section per role, `[nats]` for the event stream, and
//! `[master_key]` for what every role's secrets are sealed under.
//!
//! A file may hold several sections, so that one file describes one machine; a role reads only its own.

use std::{path::Path, time::Duration};

use bailiwick_control_plane::ControlPlaneConfig;
use bailiwick_data_plane::DataPlaneConfig;
use bailiwick_ledger::LedgerConfig;
use bailiwick_proto::subjects;
use bailiwick_runtime::{
    MasterKeyConfig,
    event_stream::{NatsOptions, StreamSpec},
};
use serde::Deserialize;

use crate::failure::Failure;

/// Messages outlive any repair that replay would need them for.
const MESSAGE_AGE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NodeConfig {
    pub(crate) nats: Option<NatsOptions>,
    #[serde(default)]
    pub(crate) master_key: MasterKeyConfig,
    pub(crate) control_plane: Option<ControlPlaneConfig>,
    pub(crate) data_plane: Option<DataPlaneConfig>,
    pub(crate) ledger: Option<LedgerConfig>,
}

pub(crate) fn load(file: Option<&Path>) -> Result<NodeConfig, Failure> {
    bailiwick_runtime::config::load(file).map_err(|problems| Failure::Usage(problems.to_string()))
}

/// The JetStream stream that carries records.
pub(crate) fn stream_spec() -> StreamSpec {
    StreamSpec {
        name: subjects::STREAM_NAME.to_owned(),
        subjects: vec![subjects::RECORDS.to_owned(), subjects::CONTROL.to_owned()],
        message_bytes_max: i32::try_from(subjects::MESSAGE_BYTES_MAX).unwrap_or(i32::MAX),
        age_max: MESSAGE_AGE_MAX,
    }
}

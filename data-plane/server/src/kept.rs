//! What this node kept for a start without control planes: its configuration and reserves for runs.
//!
//! Opened by `role` once the node knows who it is. Nothing is kept where it is turned off, nor without TLS: then nobody
//! could tell who signed it. What cannot be used is put away and said, once, with the reason; the node then waits for a
//! control plane, as one that starts for the first time.

use std::{sync::Arc, time::Duration};

use bailiwick_data_plane_core::Catalogue;
use bailiwick_runtime::{Identity, MasterKeys, OnEnd, Shutdown, Supervisor, sealed_file::SealedFileError};

use crate::{
    config::DataPlaneConfig,
    config_state::ConfigState,
    metrics::Metrics,
    reserve::{Reserve, Reserves},
    snapshot::{self, Journal, Keeper, Place, Restored, Unusable},
};

/// See the file's header.
#[derive(Debug)]
pub(crate) struct Kept {
    place: Place,
    reserves: Reserves,
    left: Vec<Reserve>,
    restored: Option<Restored>,
}

/// What registering a run needs of it.
#[derive(Debug, Default)]
pub(crate) struct Standby {
    pub(crate) reserves: Option<Reserves>,
    /// What is left of them.
    pub(crate) left: Vec<Reserve>,
    /// Whether there is a configuration to serve.
    pub(crate) has_config: bool,
}

impl Kept {
    /// Reads what is kept, if anything is to be; waits for the disk.
    pub(crate) fn open(
        config: &DataPlaneConfig,
        identity: Option<&Identity>,
        master_keys: MasterKeys,
    ) -> Result<Option<Self>, SealedFileError> {
        let (folder, keys) = (config.data_dir.join("snapshot"), config.data_dir.join("keys"));
        let max_age = config.snapshot_max_age();
        let Some(identity) = identity.filter(|_| max_age > Duration::ZERO).cloned() else {
            tracing::info!(
                "no configuration is kept on disk: that needs TLS to the control planes, and an age allowed"
            );
            match std::fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => cannot_put_away(&error),
                Ok(()) | Err(_) => {}
            }
            return Ok(None);
        };
        let place = Place::open(folder, &keys, &master_keys, &config.node, identity)?;
        let reserves = Reserves::new(&keys, master_keys);
        let left = reserves.load().unwrap_or_else(|error| {
            tracing::error!(%error, "the reserves for this run cannot be read");
            Vec::new()
        });
        let restored = restore(&place, &config.node, max_age);
        Ok(Some(Self { place, reserves, left, restored }))
    }

    /// Puts in force what was kept, and keeps what comes into force from now on.
    pub(crate) fn start(
        self,
        config: &DataPlaneConfig,
        state: &ConfigState,
        metrics: &Arc<Metrics>,
        supervisor: &Supervisor,
        shutdown: Shutdown,
    ) -> Standby {
        let Self { place, reserves, left, restored } = self;
        let resumed = restored.as_ref().map(|restored| Journal::resume(place.clone(), restored));
        let journal = match resumed {
            Some(Ok(journal)) => journal,
            Some(Err(error)) => {
                tracing::error!(%error, "the configuration kept on disk cannot be written on; a fresh one is kept");
                Journal::new(place)
            }
            None => Journal::new(place),
        };
        let has_config = restored.is_some();
        if let Some(restored) = restored {
            state.restore(restored, config.snapshot_max_age());
        }
        let (keeper, keeping) = Keeper::new(journal, Arc::clone(metrics));
        state.keep(keeper);
        // Its end is the node's: nothing could be acknowledged that a restart might forget.
        supervisor.spawn("config-snapshot", OnEnd::Critical, keeping.run(shutdown));
        Standby { reserves: Some(reserves), left, has_config }
    }
}

fn restore(place: &Place, node: &str, max_age: Duration) -> Option<Restored> {
    let now = u64::try_from(jiff::Timestamp::now().as_microsecond()).unwrap_or_default();
    match snapshot::load(place, Catalogue::of_node(node), now, max_age) {
        Ok(restored) => {
            let (revision, age_seconds) = (restored.revision, restored.age.as_secs());
            tracing::info!(revision, age_seconds, "the configuration kept on disk can be used");
            Some(restored)
        }
        Err(Unusable::Absent) => None,
        Err(error) => {
            tracing::warn!(%error, "the configuration kept on disk is not used; this node needs a control plane");
            put_away(place);
            None
        }
    }
}

fn put_away(place: &Place) {
    if let Err(error) = place.discard() {
        cannot_put_away(&error);
    }
}

fn cannot_put_away(error: &std::io::Error) {
    tracing::error!(%error, "the configuration kept on disk cannot be put away: remove it");
}

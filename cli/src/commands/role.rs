//! One role per process: `control-plane`, `data-plane`, `ledger`.
//!
//! The configuration is read and checked before anything binds. SIGTERM and Ctrl-C stop in the role's own order;
//! a second signal ends at once, because somebody insists.

use std::time::Duration;

use bailiwick_runtime::{
    EventStream, Shutdown,
    config::ConfigProblems,
    event_stream::NatsOptions,
    shutdown,
    telemetry::{self, LogFormat},
};

use crate::{args::RoleArgs, config, failure::Failure};

/// Pause between attempts to reach NATS at start.
const NATS_RETRY_PAUSE: Duration = Duration::from_secs(1);

pub(crate) async fn control_plane(args: RoleArgs) -> Result<(), Failure> {
    let file = start(&args)?;
    let mut config = file.control_plane.unwrap_or_default();
    config.master_key = file.master_key;
    refuse("control_plane", config.check())?;
    let stop = stop_on_signal();
    let Some(stream) = connect(file.nats, &stop).await? else { return Ok(()) };
    let running = bailiwick_control_plane::serve(config, stream, stop).await.map_err(Failure::refused)?;
    running.stopped().await.map_err(Failure::refused)
}

pub(crate) async fn data_plane(args: RoleArgs) -> Result<(), Failure> {
    let file = start(&args)?;
    let mut config = file.data_plane.unwrap_or_default();
    config.master_key = file.master_key;
    refuse("data_plane", config.check())?;
    let stop = stop_on_signal();
    let Some(stream) = connect(file.nats, &stop).await? else { return Ok(()) };
    let running = bailiwick_data_plane::serve(config, stream, stop).await.map_err(Failure::refused)?;
    running.stopped().await.map_err(Failure::refused)
}

pub(crate) async fn ledger(args: RoleArgs) -> Result<(), Failure> {
    let file = start(&args)?;
    let mut config = file.ledger.unwrap_or_default();
    config.master_key = file.master_key;
    refuse("ledger", config.check())?;
    let stop = stop_on_signal();
    let Some(stream) = connect(file.nats, &stop).await? else { return Ok(()) };
    let running = bailiwick_ledger::serve(config, stream, stop).await.map_err(Failure::refused)?;
    running.stopped().await.map_err(Failure::refused)
}

fn start(args: &RoleArgs) -> Result<config::NodeConfig, Failure> {
    start_logging();
    config::load(args.config.as_deref())
}

pub(crate) fn start_logging() {
    // The consensus library tells its inner life at `info`, and at `warn` of every heartbeat that a peer misses;
    // whoever wants that names it: BAILIWICK_LOG=openraft=info. Lost and found peers are told once by `peers`.
    let asked = bailiwick_runtime::config::env("BAILIWICK_LOG").unwrap_or_else(|| "info".to_owned());
    telemetry::init(LogFormat::Auto, &format!("openraft=error,{asked}"));
}

/// All mistakes of a section at once, each with its section.
pub(crate) fn refuse(section: &str, checked: Result<(), ConfigProblems>) -> Result<(), Failure> {
    checked.map_err(|mut problems| {
        problems.0.iter_mut().for_each(|problem| problem.key = format!("{section}.{}", problem.key));
        Failure::Usage(problems.to_string())
    })
}

/// A shutdown that the first signal requests; the second ends the process.
pub(crate) fn stop_on_signal() -> Shutdown {
    let stop = Shutdown::new();
    let requested = stop.clone();
    #[expect(clippy::disallowed_methods, reason = "watches for signals until the process ends; nobody waits for it")]
    tokio::spawn(async move {
        if shutdown::signal().await.is_ok() {
            tracing::info!("stopping");
            requested.request();
        }
        if shutdown::signal().await.is_ok() {
            tracing::warn!("stopping at once");
            std::process::exit(130);
        }
    });
    stop
}

/// The event stream; waits for a NATS server that is not there yet. `None` when stopped meanwhile.
async fn connect(nats: Option<NatsOptions>, stop: &Shutdown) -> Result<Option<EventStream>, Failure> {
    let Some(nats) = nats else {
        let advice = "set `url` in the section [nats], or BAILIWICK_NATS__URL; without NATS use `bailiwick dev`";
        return Err(Failure::Usage(format!("configuration names no event stream: {advice}")));
    };
    loop {
        let connecting = Box::pin(EventStream::nats(nats.clone(), config::stream_spec()));
        match stop.or_stop(connecting).await {
            None => return Ok(None),
            Some(Ok(stream)) => return Ok(Some(stream)),
            Some(Err(error @ bailiwick_runtime::event_stream::StreamError::Unfit { .. })) => {
                return Err(Failure::refused(error));
            }
            Some(Err(error)) => tracing::warn!(url = %nats.url, %error, "no event stream yet; trying again"),
        }
        if stop.or_stop(tokio::time::sleep(NATS_RETRY_PAUSE)).await.is_none() {
            return Ok(None);
        }
    }
}

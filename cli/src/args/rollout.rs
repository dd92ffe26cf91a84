//! What can be asked of `bailiwick apply --share` and `bailiwick rollout`. The help texts here are also the reference
//! in `docs/reference/cli.md`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::Output;

/// Longest time of watching a share: what the control plane accepts.
const WATCH_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// How a change is to reach everybody.
#[derive(Clone, Debug, Args)]
pub(crate) struct StagesArgs {
    /// Let the change count for this percentage of the data planes first, at least one; may be repeated, each larger.
    ///
    /// Each share is watched; then the next has it, and after the last everybody. It goes back by itself when nodes
    /// cannot use it or when it denies too much (`bailiwick rollout status`). Policies, virtual servers, and tools and
    /// timeouts of existing servers can be staged.
    #[arg(long = "share", value_name = "PERCENT", value_parser = clap::value_parser!(u64).range(1..=100))]
    pub(crate) shares: Vec<u64>,
    /// How long each share is watched, e.g. 90s, 10m, 1h.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = watch, requires = "shares")]
    pub(crate) watch: Duration,
    /// Back when the share denies more of its calls than the others, or hides more tools, by more than so many
    /// percentage points.
    #[arg(long, value_name = "POINTS", default_value_t = 5, requires = "shares")]
    #[arg(value_parser = clap::value_parser!(u64).range(0..=100))]
    pub(crate) denials_max: u64,
    /// Back when more nodes of the share than this cannot use the change.
    #[arg(long, value_name = "NODES", default_value_t = 0, requires = "shares")]
    pub(crate) refusals_max: u64,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RolloutCommand {
    /// Show rollouts: the one under way with every data plane, and those that ended last.
    Status(RolloutStatusArgs),
    /// Wait until a rollout has ended. Exits 1 if it was taken back.
    Wait(RolloutStatusArgs),
    /// Go on to the next share now, and from the last one to everybody.
    Advance(RolloutStepArgs),
    /// Take a rollout back: it counts for nobody any more.
    Back(RolloutStepArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RolloutStatusArgs {
    /// The rollout's number; without it all that are known, or of `wait` the one under way.
    pub(crate) id: Option<u64>,
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct RolloutStepArgs {
    /// The rollout's number; without it the one under way.
    pub(crate) id: Option<u64>,
    /// Why; kept for the record.
    #[arg(long, value_name = "TEXT", default_value = "asked for by an administrator")]
    pub(crate) reason: String,
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

fn watch(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration = text.parse().map_err(|_| "use e.g. 90s, 10m or 1h".to_owned())?;
    let watch = Duration::try_from(span).map_err(|_| "a time of watching is positive".to_owned())?;
    if watch < Duration::from_secs(1) || watch > WATCH_MAX {
        return Err("a share is watched between 1s and a week".to_owned());
    }
    Ok(watch)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn parsed(words: &[&str]) -> Result<StagesArgs, String> {
        let all = ["bailiwick", "apply", "-f", "x.yaml"].iter().chain(words);
        match Cli::try_parse_from(all).map_err(|error| error.to_string())?.command {
            Command::Apply(args) => Ok(args.stages),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn stages_are_read_and_mean_nothing_without_a_share() {
        let stages = parsed(&["--share", "10", "--share", "50", "--watch", "90s", "--denials-max", "2"]).unwrap();
        assert_eq!((stages.shares, stages.watch), (vec![10, 50], Duration::from_secs(90)));
        assert_eq!((stages.denials_max, stages.refusals_max), (2, 0));
        assert!(parsed(&[]).unwrap().shares.is_empty());
        for wrong in [
            &["--watch", "60s"][..],
            &["--denials-max", "2"],
            &["--share", "0"],
            &["--share", "101"],
            &["--share", "5", "--watch", "0s"],
            &["--share", "5", "--watch", "8d"],
        ] {
            assert!(parsed(wrong).is_err(), "{wrong:?}");
        }
    }
}

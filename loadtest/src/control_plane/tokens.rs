//! `tokens`: what the token endpoint and its neighbours cost, at the leader and at a follower, beside a bare write and
//! a request that asks for nothing; and, with `--check`, whether anything that is good once is good twice.
//!
//! On a cluster that `loadtest/identity` has started: with usual limits it would measure those. A closed loop: so many
//! callers, each of which asks again when it has its answer. Everything that is signed by somebody else than the
//! cluster is signed here, outside the measured time but on the same processors.

mod first_call;
mod grants;
mod once;
mod person;
mod provider;
mod report;
mod signing;
mod world;

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Result, bail};

use self::{
    grants::{Kind, step},
    report::Report,
    signing::Key,
    world::World,
};

/// How long one core signs with each algorithm.
const SIGNING: Duration = Duration::from_millis(500);

/// What tokens cost, in a cluster of `loadtest/identity`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder of `deploy/local-cluster`.
    #[arg(long, value_name = "DIR")]
    cluster: PathBuf,
    /// Numbers of callers.
    #[arg(long, value_delimiter = ',', default_values_t = [1_usize, 8, 64])]
    callers: Vec<usize>,
    /// Seconds for each kind of request, node and number of callers.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Codes that people allow in advance for each step of redeeming some.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u16).range(100..=5_000))]
    codes: u16,
    /// Where `tokens.md` and `tokens.json` go.
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Print JSON instead of Markdown.
    #[arg(long)]
    json: bool,
    /// Measure nothing: bring so many assertions to several nodes at once each, and fail unless each is worth exactly
    /// one token.
    #[arg(long, value_name = "ROUNDS", num_args = 0..=1, default_missing_value = "10000")]
    check: Option<usize>,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    match args.check {
        Some(rounds) => check(&args, rounds).await,
        None => measure(&args).await,
    }
}

async fn check(args: &Args, rounds: usize) -> Result<()> {
    let world = World::start(&args.cluster, false).await?;
    let found = once::check(&world, rounds).await?;
    if args.json {
        println!("{:#}", found.json());
    } else {
        println!("{}", found.line());
    }
    if found.wrong.is_empty() { Ok(()) } else { bail!("{} assertions not worth exactly one token", found.wrong.len()) }
}

async fn measure(args: &Args) -> Result<()> {
    let signatures = tokio::task::spawn_blocking(signatures).await??;
    eprintln!("signing people in");
    let world = World::start(&args.cluster, true).await?;
    let leader = world.leader()?.name.clone();
    let mut report = Report { signatures, leader, ..Report::default() };
    for node in world.nodes.iter().take(2) {
        for callers in &args.callers {
            eprintln!("{}, {callers} callers", node.name);
            for kind in Kind::ALL {
                if kind == Kind::Code {
                    // One for each caller is not measured.
                    world.prepare_codes(usize::from(args.codes) + callers).await?;
                }
                let step = step(&world, node, kind, *callers, Duration::from_secs(args.seconds)).await?;
                eprintln!("{}", report::progress(&step));
                report.steps.push(step);
            }
        }
        eprintln!("first calls");
        report.first_calls.extend(first_call::measure(&world, node).await?);
    }
    still_leads(&world, args).await?;
    print(args, &report)
}

/// Figures of a leader that does not lead any more would be those of a follower.
async fn still_leads(world: &Arc<World>, args: &Args) -> Result<()> {
    let now = world::leader(&args.cluster).await?;
    if world.leader()?.name == now { Ok(()) } else { bail!("another node leads now: {now}; measure again") }
}

fn signatures() -> Result<BTreeMap<&'static str, f64>> {
    let ed25519 = Key::ed25519()?.signatures_per_second(SIGNING)?;
    let p256 = Key::p256()?.signatures_per_second(SIGNING)?;
    Ok(BTreeMap::from([("EdDSA", ed25519), ("ES256", p256)]))
}

fn print(args: &Args, report: &Report) -> Result<()> {
    let (markdown, json) = (report.markdown(), format!("{:#}\n", report.json()));
    if let Some(folder) = &args.report {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("tokens.md"), &markdown)?;
        fs::write(folder.join("tokens.json"), &json)?;
    }
    print!("{}", if args.json { json } else { markdown });
    Ok(())
}

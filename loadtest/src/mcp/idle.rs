//! Streams on which nothing happens: what each of many legacy sessions that listen costs a server.
//!
//! Every stream is a session of its own over a connection of its own, as with that many clients. One token may have
//! only so many streams at a gateway, so a file holds several, and streams take them in turns.

use std::{fs, path::PathBuf, rc::Rc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use clap::Args as ClapArgs;
use http_body_util::BodyExt as _;
use serde_json::json;
use tokio::{
    runtime::Builder,
    task::{JoinSet, LocalSet},
    time::{sleep, timeout},
};

use super::{
    connection::Connection,
    possession::Possession,
    processes::Watched,
    target::{Call, Era, Http, Target, Token},
};

/// Connections opened at once: fewer than any server's backlog.
const OPENING_MAX: usize = 64;
/// Longest wait for one stream to open.
const OPENING_WAIT_MAX: Duration = Duration::from_secs(60);

/// Many legacy streams on which nothing happens: memory and processor time of a process.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// The endpoint, e.g. http://127.0.0.1:8420/mcp/finance.
    #[arg(long, value_name = "URL")]
    url: String,
    /// Bearer tokens, one on each line.
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
    /// How many streams.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    streams: u32,
    /// How long they are watched once all are open.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// The process to watch.
    #[arg(long, value_name = "NAME=PID")]
    pid: Watched,
    /// Print JSON instead of a line.
    #[arg(long)]
    json: bool,
}

/// Opens them, watches, and prints.
pub(crate) fn run(args: &Args) -> Result<()> {
    let tokens = match &args.tokens {
        Some(path) => fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?,
        None => String::new(),
    };
    let tokens: Vec<Token> =
        tokens.lines().filter(|line| !line.is_empty()).map(|line| Token(line.to_owned())).collect();
    let call = Call { tool: None, arguments: json!({}), era: Era::Legacy, http: Http::One, ca: None };
    let target = |token| Target::new(&args.pid.name, &args.url, token, &call).map(Rc::new);
    let targets = match tokens.as_slice() {
        [] => vec![target(None)?],
        some => {
            some.iter().map(|token| target(Some((token.clone(), Possession::Bearer)))).collect::<Result<Vec<_>>>()?
        }
    };
    let runtime = Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, watch(args, &targets))
}

async fn watch(args: &Args, targets: &[Rc<Target>]) -> Result<()> {
    let before = args.pid.resident_mib();
    let mut open: JoinSet<()> = JoinSet::new();
    let mut opening: JoinSet<Result<_>> = JoinSet::new();
    let mut opened = 0_u32;
    for (_, target) in (0..args.streams).zip(targets.iter().cycle()) {
        if opening.len() >= OPENING_MAX {
            keep(&mut opening, &mut open).await?;
            opened += 1;
            if opened.is_multiple_of(1_000) {
                eprintln!("{opened} of {} streams are open", args.streams);
            }
        }
        let connection = Connection::new(Rc::clone(target));
        opening.spawn_local(async move {
            let stream = async {
                connection.open().await?;
                let body = connection.listen().await?;
                Ok((connection, body))
            };
            timeout(OPENING_WAIT_MAX, stream).await.context("a stream did not open in time")?
        });
    }
    while !opening.is_empty() {
        keep(&mut opening, &mut open).await?;
    }
    let after_opening = args.pid.sample()?;
    sleep(Duration::from_secs(args.seconds)).await;
    let used = args.pid.sample()?.since(&after_opening).as_secs_f64() / Duration::from_secs(args.seconds).as_secs_f64();
    let after = args.pid.resident_mib();
    while open.try_join_next().is_some() {}
    let there = open.len();
    let (each_kib, percent) = ((after - before) * 1024.0 / f64::from(args.streams), used * 100.0);
    if args.json {
        let figures = json!({"streams": args.streams, "still_open": there, "before_mib": before, "after_mib": after,
                             "kib_per_stream": each_kib, "cpu_percent": percent});
        println!("{figures:#}");
    } else {
        println!(
            "{there} of {} streams open: {} has {after:.1} MiB, {before:.1} before them, {each_kib:.1} KiB for each; \
             {percent:.1} % of a processor while nothing happens",
            args.streams, args.pid.name
        );
    }
    ensure!(there == args.streams as usize, "some streams were ended");
    Ok(())
}

/// Waits for one that opens, and keeps it: what comes on it is read, until it ends.
async fn keep(
    opening: &mut JoinSet<Result<(Connection, hyper::body::Incoming)>>,
    open: &mut JoinSet<()>,
) -> Result<()> {
    let Some(opened) = opening.join_next().await else { return Ok(()) };
    let (connection, mut body) = opened??;
    open.spawn_local(async move {
        let _connection = connection;
        while let Some(Ok(_)) = body.frame().await {}
    });
    Ok(())
}

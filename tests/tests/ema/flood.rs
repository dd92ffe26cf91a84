//! Strangers who ask without end, or without coming to an end, cost others nothing.
//!
//! The flood comes from one address of this machine and the honest client from another. Nothing here is decided by
//! time: what is counted is compared with what the limits allow for as long as it took.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Instant,
};

use futures::{
    StreamExt as _,
    future::{join, try_join, try_join_all},
    stream::{self, FuturesUnordered},
};

use super::*;

const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
/// Of the defaults in `[control_plane.http_limits]`.
const FAILURES_BURST: u64 = 30;
const FAILURES_PER_SECOND: u64 = 5;
const REQUESTS_AT_ONCE: u64 = 32;
/// Requests of strangers at a time, and honest exchanges meanwhile.
const FLOOD: usize = 16;
const EXCHANGES: usize = 20;

fn stranger() -> reqwest::ClientBuilder {
    reqwest::Client::builder().no_proxy().local_address(STRANGER)
}

/// What the flood was answered.
#[derive(Default)]
struct Answered {
    refused: AtomicU64,
    turned_away: AtomicU64,
}

/// As who is turned away is answered: told when to come back, and nothing else.
fn is_turned_away(answer: &Answer) -> Result<()> {
    is_refused(answer, 429, "temporarily_unavailable", "this address")?;
    let retry_after = answer.headers.get("retry-after").and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    ensure!(retry_after.is_some_and(|seconds| (1..=10).contains(&seconds)), "{retry_after:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_guesses_from_one_address_is_turned_away_and_a_client_elsewhere_gets_its_tokens() -> Result<()> {
    let world = World::start(Shape::Embedded).await?;
    let (answered, is_over, began) = (Answered::default(), AtomicBool::new(false), Instant::now());
    let url = format!("{}/oauth/token", world.issuer);
    let guess = async |http: &reqwest::Client, number: u64| -> Result<()> {
        let request = http
            .post(&url)
            .header("authorization", basic(CLIENT, &format!("guess-{number}")))
            // Nobody said that this address is a proxy's.
            .header("x-forwarded-for", format!("198.51.100.{}", number % 250))
            .form(&[("grant_type", JWT_BEARER), ("assertion", "x")]);
        let answer = Answer::to(request).await?;
        if answer.status == 401 {
            answered.refused.fetch_add(1, Ordering::Relaxed);
        } else {
            is_turned_away(&answer)?;
            answered.turned_away.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    let flood = try_join_all((0..FLOOD).map(async |guesser| {
        let http = stranger().build()?;
        let mut number = guesser as u64;
        while !is_over.load(Ordering::Relaxed) {
            guess(&http, number).await?;
            number += FLOOD as u64;
        }
        anyhow::Ok(())
    }));
    let honest = async {
        let turned_away = || answered.turned_away.load(Ordering::Relaxed);
        let exchanged = async {
            eventually("the flood is turned away", async || (turned_away() > 0).then_some(())).await?;
            for _ in 0..EXCHANGES {
                let before = turned_away();
                world.token().await?;
                eventually("the flood goes on", async || (turned_away() > before).then_some(())).await?;
            }
            Ok(())
        };
        let exchanged: Result<()> = exchanged.await;
        is_over.store(true, Ordering::Relaxed);
        exchanged
    };
    try_join(flood, honest).await?;
    let allowed = FAILURES_BURST + REQUESTS_AT_ONCE + FAILURES_PER_SECOND * (began.elapsed().as_secs() + 1);
    let refused = answered.refused.into_inner();
    ensure!((1..=allowed).contains(&refused), "{refused} guesses were looked at, of {allowed} that may be");
    let metrics = metrics(&world).await?;
    ensure!(metrics.contains("http_turned_away_total{limit=\"failures\"}"), "{metrics}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_never_end_take_the_places_of_one_address_and_no_others() -> Result<()> {
    let world = World::start(Shape::Embedded).await?;
    let url = format!("{}/oauth/token", world.issuer);
    // More than places, fewer than an address may begin; over HTTP/2, as connections are bounded too.
    let clients: Vec<_> =
        (0..3).map(|_| stranger().http2_prior_knowledge().build()).collect::<Result<_, reqwest::Error>>()?;
    let slow = |http: &reqwest::Client| {
        let beginning = stream::iter([Ok::<_, Infallible>("grant_type=")]).chain(stream::pending());
        let form = "application/x-www-form-urlencoded";
        let request = http.post(&url).header("content-type", form).body(reqwest::Body::wrap_stream(beginning));
        async move { Answer::to(request).await }
    };
    let mut slow: FuturesUnordered<_> = (0..180).map(|number| slow(&clients[number % clients.len()])).collect();
    let first = loop {
        let answer = slow.next().await.context("nobody is turned away")??;
        if answer.status != 400 {
            break answer;
        }
    };
    is_refused(&first, 429, "temporarily_unavailable", "under way")?;
    // While the others wait for what does not come.
    let honest = async {
        for _ in 0..EXCHANGES {
            world.token().await?;
        }
        Ok(())
    };
    let others = async {
        let (mut held, mut turned_away) = (0_u64, 1);
        while let Some(answer) = slow.next().await {
            match answer?.status.as_u16() {
                429 => turned_away += 1,
                // Its body was waited for, and did not come.
                400 => held += 1,
                status => anyhow::bail!("{status}"),
            }
        }
        Ok((held, turned_away))
    };
    let (honest, others): (Result<()>, Result<(u64, u64)>) = join(honest, others).await;
    honest?;
    let (held, turned_away) = others?;
    ensure!(held >= REQUESTS_AT_ONCE && turned_away > 0, "{held} were waited for, {turned_away} turned away");
    Ok(())
}

/// What the control plane counted.
async fn metrics(world: &World) -> Result<String> {
    let nodes = world.deployment.role("control-plane");
    let ops = nodes.first().and_then(|node| node.listen.get("ops")?.as_str()).map(as_url);
    match ops {
        Some(ops) => Ok(world.http.get(format!("{ops}/metrics")).send().await?.text().await?),
        None => anyhow::bail!("no operations listener"),
    }
}

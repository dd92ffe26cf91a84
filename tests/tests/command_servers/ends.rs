//! However a program ends, or its node, nothing of it is left.

use anyhow::{Result, ensure};
use bailiwick_tests::{deployment::kill, eventually};
use serde_json::json;

use super::{Bench, gone, lives, pid, processes_with, python, value, wardens};

/// Starts a program's family: itself, a child in its group, and one that left for a session of its own.
async fn family(bench: &Bench, mark: &str) -> Result<Vec<u64>> {
    let client = bench.client(0).await?;
    let about = value(&client.call("about", json!({})).await?)?;
    let children = value(&client.call("family", json!({"mark": mark})).await?)?;
    let all = vec![pid(&about["pid"])?, pid(&children[0])?, pid(&children[1])?];
    ensure!(all.iter().all(|pid| lives(*pid)), "{all:?}");
    Ok(all)
}

fn mark(of: &str) -> String {
    format!("bailiwick-{of}-{}", std::process::id())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_program_outlives_its_idle_time_its_end_or_a_stop_of_the_node() -> Result<()> {
    let mut bench = Bench::start("scripted", &python("stdio_server.py", &["--stubborn"], "idle: 1s")?, 1).await?;
    let idle = family(&bench, &mark("idle")).await?;
    gone("a program that nobody uses ends, with its family, though it minds no signal", &idle).await?;

    let crashed = family(&bench, &mark("crashed")).await?;
    bench.client(0).await?.call("crash", json!({})).await?;
    gone("what a program left behind ends", &crashed).await?;

    // A fork bomb, of a hundred processes and more.
    let client = bench.client(0).await?;
    let program = pid(&value(&client.call("about", json!({})).await?)?["pid"])?;
    client.call("bomb", json!({"depth": 7})).await?;
    let bombed = super::script("stdio_server.py");
    eventually("the bomb is lit", async || (processes_with(&bombed).len() > 60).then_some(())).await?;
    gone("a program that lit a bomb ends", &[program]).await?;
    eventually("the bomb is gone", async || (processes_with(&bombed).len() < 4).then_some(())).await?;

    let stopped = family(&bench, &mark("stopped")).await?;
    bench.deployment.stop()?;
    ensure!(stopped.iter().all(|pid| !lives(*pid)), "a stopped node leaves nothing behind");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_program_outlives_a_node_or_a_warden_that_is_killed() -> Result<()> {
    let bench = Bench::start("scripted", &python("stdio_server.py", &["--stubborn"], "")?, 1).await?;
    let all = family(&bench, &mark("warden")).await?;
    let node = bench.node()?;
    for warden in wardens(node) {
        kill(u32::try_from(warden)?, "KILL");
    }
    // Only who left the group could hide from its killed warden.
    gone("the group of a killed warden ends", &all[..2]).await?;
    kill(u32::try_from(all[2])?, "KILL");

    let all = family(&bench, &mark("node")).await?;
    kill(node, "KILL");
    gone("all of a program ends when its node is killed", &all).await?;
    Ok(())
}

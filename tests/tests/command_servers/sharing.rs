//! Who shares a program, how many there are, and who waits.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Result, ensure};
use bailiwick_tests::{Events, eventually};
use futures::future::join_all;
use serde_json::{Value, json};

use super::{Bench, lives, pid, python, text, value, wardens};

#[tokio::test(flavor = "multi_thread")]
async fn nobody_shares_a_program_unless_its_manifest_says_so() -> Result<()> {
    let bench = Bench::start("scripted", &python("stdio_server.py", &[], "")?, 2).await?;
    let (one, other) = (bench.client(0).await?, bench.client(1).await?);
    for turn in 0..3 {
        for (client, own) in [(&one, "one"), (&other, "other")] {
            let remembered = value(&client.call("remember", json!({"text": format!("{own} {turn}")})).await?)?;
            let before = if turn == 0 { Value::Null } else { json!(format!("{own} {}", turn - 1)) };
            ensure!(remembered["before"] == before, "{own}: {remembered:#}");
        }
    }
    let shared = python("stdio_server.py", &[], "sharing: all")?;
    bench.deployment.apply(&super::manifests("scripted", &format!("{{command: {shared}}}"), 2))?;
    eventually("both use one program", async || {
        let pids = [one.call("about", json!({})).await.ok()?, other.call("about", json!({})).await.ok()?];
        let [one, other] = pids.map(|answer| value(&answer).ok().map(|about| about["pid"].clone()));
        (one.is_some() && one == other).then_some(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_hear_what_changes_on_the_channel_that_calls_are_made_on() -> Result<()> {
    let bench = Bench::start("scripted", &python("stdio_server.py", &[], "")?, 1).await?;
    let client = bench.client(0).await?;
    let wished = json!({"promptsListChanged": true, "resourceSubscriptions": ["memo://host/a"]});
    let mut listeners = [Events::modern(&client, &wished).await?, Events::modern(&client, &wished).await?];
    for listener in &mut listeners {
        let acknowledged = listener.message().await?;
        ensure!(acknowledged["params"]["notifications"]["promptsListChanged"] == true, "{acknowledged:#}");
    }
    let subscribed = eventually("one subscription for both", async || {
        let announced = value(&client.call("announce", json!({})).await.ok()?).ok()?;
        (announced == json!(["memo://host/a"])).then_some(())
    });
    subscribed.await?;
    for listener in &mut listeners {
        let mut heard = BTreeSet::new();
        while heard.len() < 2 {
            heard.insert(listener.message().await?["method"].as_str().unwrap_or_default().to_owned());
        }
        let expected = ["notifications/prompts/list_changed", "notifications/resources/updated"];
        ensure!(heard == expected.map(str::to_owned).into(), "{heard:?}");
    }
    drop(listeners);
    eventually("nobody is subscribed any more", async || {
        let announced = value(&client.call("announce", json!({})).await.ok()?).ok()?;
        (announced == json!([])).then_some(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn interleaved_callers_get_their_own_answers_from_one_shared_program() -> Result<()> {
    let bench = Bench::start("scripted", &python("stdio_server.py", &[], "sharing: all")?, 4).await?;
    let mut clients = Vec::new();
    for person in 0..4 {
        clients.push(bench.client(person).await?);
    }
    let calls = (0..80).map(|turn| {
        let client = &clients[turn % 4];
        let own = format!("{turn}");
        async move {
            // Who answers slowly is overtaken.
            let seconds = if turn % 3 == 0 { 0.2 } else { 0.0 };
            let slow = client.call("slow", json!({"seconds": seconds})).await?;
            ensure!(text(&slow)? == "slow");
            let progress = client.modern("tools/call", json!({"name": "progress", "arguments": {"own": own}})).await?;
            ensure!(text(&progress)? == "done");
            anyhow::Ok(())
        }
    });
    for done in join_all(calls).await {
        done?;
    }
    ensure!(wardens(bench.node()?).len() == 1, "one program for all");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_callers_holds_the_bound_and_leaves_nothing_behind() -> Result<()> {
    const PEOPLE: usize = 200;
    let command = python("stdio_server.py", &[], "processes: 3, idle: 2s")?;
    let bench = Bench::start("scripted", &command, PEOPLE).await?;
    let mut clients = Vec::new();
    for person in 0..PEOPLE {
        let issued = bench.deployment.token_for(
            &format!("user{person}@example.com"),
            &format!("agent{person}"),
            "scripted",
            "destructive",
            "10m",
        )?;
        let token = issued["access_token"].as_str().unwrap_or_default().to_owned();
        clients.push(bailiwick_tests::McpClient::new(&bench.deployment.mcp[0], "scripted", &token));
    }
    bench.client(0).await?;
    let node = bench.node()?;
    let mut most = 0;
    let calls = clients.iter().flat_map(|client| (0..2).map(move |_| client.call("about", json!({}))));
    let calls = join_all(calls);
    tokio::pin!(calls);
    let answers = loop {
        tokio::select! {
            answers = &mut calls => break answers,
            () = tokio::time::sleep(Duration::from_millis(20)) => most = most.max(wardens(node).len()),
        }
    };
    let (mut served, mut pids) = (0, BTreeSet::new());
    for answer in answers {
        let answer = answer?;
        match value(&answer) {
            Ok(about) => {
                served += 1;
                pids.insert(pid(&about["pid"])?);
            }
            Err(_) => ensure!(["upstream_busy", "upstream_timeout"].contains(&answer.reason()), "{answer:?}"),
        }
    }
    ensure!(most <= 3, "{most} programs at once");
    ensure!(served > 0 && pids.len() > 3, "{served} of {} calls served by {} programs", 2 * PEOPLE, pids.len());
    eventually("all programs end when nobody uses them", async || wardens(node).is_empty().then_some(())).await?;
    ensure!(pids.iter().all(|pid| !lives(*pid)), "a program is left");
    ensure!(!children_of(node).contains(&'Z'), "a zombie is left");
    Ok(())
}

/// The states of a process's children.
fn children_of(node: u32) -> Vec<char> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let stats = entries.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    let fields = stats.filter_map(|stat| {
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_whitespace();
        let state = fields.next()?.chars().next()?;
        (fields.next()?.parse::<u32>().ok()? == node).then_some(state)
    });
    fields.collect()
}

//! A program that does what no server should: every call ends with a reason, and the next one works.

use anyhow::{Result, ensure};
use serde_json::json;

use super::{Bench, ensure_reason, python, text, value};

#[tokio::test(flavor = "multi_thread")]
async fn what_a_program_does_wrong_ends_its_own_call_and_nothing_else() -> Result<()> {
    let bench = Bench::start("scripted", &python("stdio_server.py", &[], "env: {GREETING: hello}")?, 2).await?;
    let (one, other) = (bench.client(0).await?, bench.client(1).await?);
    let before = value(&other.call("about", json!({})).await?)?;

    // What it finds around itself.
    let environment = before["environment"].as_object().unwrap();
    let names: Vec<_> = environment.keys().map(String::as_str).filter(|name| *name != "LC_CTYPE").collect();
    ensure!(names == ["GREETING", "PATH"], "{environment:?}");
    ensure!(before["directory"] == "/", "{before:#}");
    for number in ["0", "1", "2"] {
        ensure!(before["descriptors"][number].as_str().unwrap().starts_with("pipe:"), "{before:#}");
    }

    // Calls that a program answers in odd ways.
    ensure!(text(&one.call("junk", json!({})).await?)? == "said");
    ensure!(text(&one.call("twice", json!({})).await?)? == "first");
    ensure!(text(&one.call("flood_err", json!({})).await?)? == "said");
    for (tool, reasons) in [
        ("crash", &["upstream_unreachable"][..]),
        ("broken_json", &["upstream_invalid"]),
        ("flood_out", &["upstream_invalid"]),
        ("long_line", &["upstream_too_large"]),
        ("half", &["upstream_timeout"]),
        ("wrong_id", &["upstream_timeout"]),
        ("hang", &["upstream_timeout"]),
    ] {
        let answer = one.call(tool, json!({})).await?;
        ensure!(reasons.contains(&answer.reason()), "{tool}: {answer:?}");
        if tool == "half" {
            // What comes next becomes part of the line.
            let lost = one.call("about", json!({})).await?;
            ensure!(["upstream_invalid", "upstream_unreachable"].contains(&lost.reason()), "{lost:?}");
        }
        let next = one.call("about", json!({})).await?;
        ensure!(next.body.pointer("/result").is_some(), "after {tool}: {next:?}");
    }
    // Whoever gave up said so.
    let cancelled = value(&one.call("cancelled", json!({})).await?)?;
    ensure!(!cancelled.as_array().unwrap().is_empty(), "{cancelled}");

    let after = value(&other.call("about", json!({})).await?)?;
    ensure!(after["pid"] == before["pid"], "the other caller's program was not touched");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_ends_again_and_again_is_left_alone_for_a_while() -> Result<()> {
    let bench = Bench::start("scripted", &python("stdio_server.py", &[], "")?, 1).await?;
    let client = bench.client(0).await?;
    // The same server, of which only this is different now.
    let crashing =
        super::manifests("scripted", &format!("{{command: {}}}", python("stdio_server.py", &["--crash"], "")?), 1);
    bench.deployment.apply(&crashing)?;
    let mut starts = 0;
    for _ in 0..40 {
        let answer = client.call("about", json!({})).await?;
        if answer.body.pointer("/result").is_none() {
            ensure_reason(&answer, "upstream_unreachable")?;
            starts += 1;
        }
    }
    ensure!(starts >= 20, "the new manifest is in force: {starts}");
    let log = bench.deployment.log();
    let told = log.matches("a server ends again and again").count();
    ensure!((1..=2).contains(&told), "told once by each node that ran it: {told}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn old_programs_are_understood_whatever_they_do_when_asked_what_they_do_not_know() -> Result<()> {
    for options in [&["--old"][..], &["--deaf"], &["--dies"], &["--slow", "3"]] {
        let bench = Bench::start("scripted", &python("stdio_server.py", options, "")?, 1).await?;
        let client = bench.client(0).await?;
        let about = value(&client.call("about", json!({})).await?)?;
        ensure!(about["arguments"] == json!(options), "{about:#}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_no_operator_allows_is_not_run() -> Result<()> {
    let bench = Bench::start("scripted", &python("stdio_server.py", &[], "")?, 1).await?;
    let client = bench.client(0).await?;
    for command in [
        "{program: /bin/sh, args: [-c, 'touch /tmp/never']}".to_owned(),
        // The interpreter is allowed with two scripts only.
        format!("{{program: {:?}, args: [-c, pass]}}", bailiwick_tests::peers::place("PEER_PYTHON")?),
    ] {
        bench.deployment.apply(&super::manifests("scripted", &format!("{{command: {command}}}"), 1))?;
        let refused = bailiwick_tests::eventually("the manifest is in force", async || {
            client.call("about", json!({})).await.ok().filter(|answer| answer.body.pointer("/result").is_none())
        });
        ensure_reason(&refused.await?, "command_not_allowed")?;
    }
    Ok(())
}

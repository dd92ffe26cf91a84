//! Servers that are programs on the data plane's machine, and servers over HTTP+SSE, through real processes: other
//! people's servers, a scripted one that misbehaves, storms of callers, and a node that is killed.

#![expect(clippy::indexing_slicing, reason = "a test that panics fails, as it should")]

mod dev;
mod ends;
mod faults;
mod peers;
mod secrets;
mod sharing;
mod tasks;

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{
    Answer, Deployment, McpClient, Shape,
    deployment::{binary, repository},
    eventually,
    peers::place,
};
use serde_json::{Value, json};

/// A deployment with a server that is a program, and how it is allowed.
struct Bench {
    deployment: Deployment,
    name: String,
}

/// The scripted server's path, which is what operators allow.
fn script(name: &str) -> String {
    repository().join("tests/peers").join(name).display().to_string()
}

/// A `command` that runs a Python script, with these arguments and what else the manifest says.
fn python(file: &str, args: &[&str], more: &str) -> Result<String> {
    let args: Vec<String> =
        [&[script(file).as_str()][..], args].concat().iter().map(|arg| json!(arg).to_string()).collect();
    let more = if more.is_empty() { String::new() } else { format!(", {more}") };
    Ok(format!("{{program: {:?}, args: [{}]{more}}}", place("PEER_PYTHON")?, args.join(", ")))
}

/// Manifests of one server, which everybody in the group `all` may use, and of these people.
fn manifests(name: &str, endpoint: &str, people: usize) -> String {
    let mut text = format!(
        "apiVersion: bailiwick/v1\nkind: Server\nmetadata: {{name: {name}}}\nspec: {{timeout: 8s, endpoint: {endpoint}}}\n\
         ---\napiVersion: bailiwick/v1\nkind: VirtualServer\nmetadata: {{name: {name}}}\nspec: {{naming: plain, servers: [{{server: {name}}}]}}\n\
         ---\napiVersion: bailiwick/v1\nkind: Policy\nmetadata: {{name: {name}}}\nspec:\n  cedar: permit (principal in Group::\"all\", action, resource in Server::\"{name}\");\n"
    );
    for person in 0..people {
        text.push_str(&format!(
            "---\napiVersion: bailiwick/v1\nkind: User\nmetadata: {{name: user{person}@example.com}}\nspec: {{groups: [all]}}\n\
             ---\napiVersion: bailiwick/v1\nkind: Agent\nmetadata: {{name: agent{person}}}\nspec: {{owner: user{person}@example.com, project: p, ceiling: destructive}}\n"
        ));
    }
    text
}

impl Bench {
    /// One data plane in one process of a cluster of processes that may run Python scripts of the tests.
    async fn start(name: &str, command: &str, people: usize) -> Result<Self> {
        Self::start_with(name, command, people, &[]).await
    }

    /// A server over HTTP+SSE.
    async fn over_sse(name: &str, url: &str) -> Result<Self> {
        let deployment = Deployment::start(Shape::Processes).await?;
        deployment.apply(&manifests(name, &format!("{{url: {url:?}, transport: sse}}"), 2))?;
        Ok(Self { deployment, name: name.to_owned() })
    }

    async fn start_with(name: &str, command: &str, people: usize, environment: &[(&str, &str)]) -> Result<Self> {
        let python = place("PEER_PYTHON")?;
        let allowed =
            ["stdio_server.py", "stdio_sdk_server.py"].map(|file| format!("[{python:?}, {:?}]", script(file)));
        let node = format!("[{:?}, {:?}]", place("PEER_NODE")?, place("PEER_EVERYTHING")?);
        let tasks = format!("[{:?}, \"--stdio\"]", binary("tasks-server"));
        let allowed = format!("[{}, {node}, {tasks}]", allowed.join(", "));
        let mut all = vec![("BAILIWICK_DATA_PLANE__UPSTREAM__COMMANDS", allowed.as_str())];
        all.extend_from_slice(environment);
        let deployment = Deployment::start_with(Shape::Processes, &all).await?;
        deployment.apply(&manifests(name, &format!("{{command: {command}}}"), people))?;
        Ok(Self { deployment, name: name.to_owned() })
    }

    /// A client of a person's at the first data plane, once it knows the server.
    async fn client(&self, person: usize) -> Result<McpClient> {
        let (user, agent) = (format!("user{person}@example.com"), format!("agent{person}"));
        let issued = self.deployment.token_for(&user, &agent, &self.name, "destructive", "10m")?;
        let token = issued["access_token"].as_str().context("no token")?;
        let client = McpClient::new(&self.deployment.mcp[0], &self.name, token);
        eventually("the token works", async || {
            client.modern("tools/list", json!({})).await.ok().filter(|answer| !answer.tools().is_empty())
        })
        .await
        .with_context(|| self.deployment.log())?;
        Ok(client)
    }

    /// The pid of the first data plane.
    fn node(&self) -> Result<u32> {
        Ok(self.deployment.role("data-plane").first().context("a data plane")?.pid)
    }
}

/// The text of a tool's answer, whether it came alone or at the end of a stream.
fn text(answer: &Answer) -> Result<String> {
    let last =
        || answer.text.lines().rev().find_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok());
    let body = if answer.body.is_null() { last().unwrap_or_default() } else { answer.body.clone() };
    let text = body.pointer("/result/content/0/text").and_then(Value::as_str);
    Ok(text.with_context(|| format!("no text: {answer:?}"))?.to_owned())
}

/// The same, as JSON.
fn value(answer: &Answer) -> Result<Value> {
    Ok(serde_json::from_str(&text(answer)?)?)
}

/// Whether a process is there and is no zombie.
fn lives(pid: u64) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

/// The processes whose arguments contain this.
fn processes_with(mark: &str) -> Vec<u64> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok());
    let with = pids.filter(|pid| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&arguments).contains(mark) && lives(*pid)
    });
    with.collect()
}

/// The programs that a node has under it, by their wardens.
fn wardens(node: u32) -> Vec<u64> {
    let of_node = |pid: &u64| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        parent == Some(node)
    };
    processes_with("command-warden").into_iter().filter(of_node).collect()
}

async fn gone(what: &str, pids: &[u64]) -> Result<()> {
    eventually(what, async || pids.iter().all(|pid| !lives(*pid)).then_some(())).await
}

fn pid(of: &Value) -> Result<u64> {
    of.as_u64().context("no pid")
}

fn ensure_reason(answer: &Answer, reason: &str) -> Result<()> {
    ensure!(answer.reason() == reason, "{reason}: {answer:?}");
    Ok(())
}

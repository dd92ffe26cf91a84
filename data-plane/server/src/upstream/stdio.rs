//! A program on this machine as a server: started through a warden, spoken to over its standard input and output.
//!
//! Called by `channel::pool`. What may be run is the operator's to say, by path and, where they wish, by first
//! arguments; nothing else is, and no shell reads anything. The program finds in its environment the operator's search
//! path and what its manifest gives it, and three pipes; everything else of this node stays here. A line is a message,
//! and has a bound. What it writes to its standard error goes to this node's log, for whoever turns debugging on,
//! without the secrets it was given, cut and counted. Whatever it does with its output, it is read, so that it never
//! waits for us, but no faster than is good for others. When its channel ends, its input ends; `warden` sees to the
//! rest, and is killed with all of its group if even that takes too long. Specification: MCP 2026-07-28 and 2025-11-25
//! transports, "stdio".

mod output;

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _, process::Stdio, sync::Arc, time::Duration};

use bailiwick_proto::v1::Command;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::AsyncWriteExt as _,
    process::{Child, ChildStdin},
    sync::mpsc,
    time::timeout,
};

use super::{
    channel::{
        Channel, Outgoing,
        pool::{Begun, Ending},
    },
    channels::Surroundings,
    credential::Credential,
    fault::UpstreamFault,
};
use crate::warden;

/// This very binary, even if another one has taken its place on disk.
const OWN_BINARY: &str = "/proc/self/exe";
/// Where a program runs, if its manifest does not say.
const DIRECTORY: &str = "/";
/// Longest wait for what a program said before it ended.
const REST_MAX: Duration = Duration::from_secs(1);
/// Longest wait for a warden to end; it needs its two waits, and a moment for finding who is left.
const ENDING_MAX: Duration = warden::GRACE.saturating_add(warden::TERM_WAIT).saturating_add(Duration::from_secs(3));

/// Starts a program.
pub(super) fn start(
    server: &str,
    command: &Command,
    number: u64,
    around: &Arc<Surroundings>,
) -> Result<Begun, UpstreamFault> {
    let Command { program, args, directory, .. } = command;
    if !around.config.commands.iter().any(|allowed| allowed.allows(program, args)) {
        return Err(UpstreamFault::NotAllowed(program.clone()));
    }
    let secrets = secrets(command, around)?;
    let mut starting = tokio::process::Command::new(OWN_BINARY);
    starting.arg(warden::ARGUMENT).arg(program).args(args);
    starting.current_dir(if directory.is_empty() { DIRECTORY } else { directory });
    starting.env_clear().env("PATH", &around.config.command_path);
    for variable in &command.env {
        let secret = secrets.iter().find(|(name, _)| *name == variable.secret && !variable.secret.is_empty());
        match secret {
            Some((_, secret)) => {
                starting.env(&variable.name, OsStr::from_bytes(secret.as_bytes()));
            }
            None => {
                starting.env(&variable.name, &variable.value);
            }
        }
    }
    starting.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let unreachable = |error: std::io::Error| UpstreamFault::Unreachable(format!("it cannot be started: {error}"));
    let mut child = starting.spawn().map_err(unreachable)?;
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(input), Some(output), Some(errors)) = pipes else {
        return Err(UpstreamFault::Unreachable("it has no pipes".to_owned()));
    };
    let (channel, outgoing) = Channel::open(number, command.shared);
    let (reading, writing) = (channel.clone(), channel.clone());
    let named = server.to_owned();
    let hidden: Vec<_> = secrets.iter().map(|(_, secret)| secret.clone()).collect();
    let bytes_max = around.config.response_bytes_max;
    tracing::debug!(server, program, number, "a program is started");
    let run = async move {
        let told = output::log(errors, named.clone(), hidden);
        let moved = async {
            tokio::select! {
                fault = output::read(output, &reading, bytes_max) => fault,
                fault = write(input, outgoing, &writing) => fault,
                () = writing.ended() => None,
            }
        };
        let (moved, ()) = tokio::join!(Box::pin(ended(moved, child, reading.clone(), named)), told);
        moved
    };
    Ok(Begun { channel, run: Box::pin(run), secrets })
}

/// The secrets a program is given, as they are now.
fn secrets(command: &Command, around: &Surroundings) -> Result<Vec<(String, Credential)>, UpstreamFault> {
    let names = command.env.iter().map(|variable| &variable.secret).filter(|name| !name.is_empty());
    let find = |name: &String| {
        let found = around.credentials.find(name).filter(|secret| !secret.as_bytes().contains(&0));
        found.map(|secret| (name.clone(), secret)).ok_or_else(|| UpstreamFault::NoCredential(name.clone()))
    };
    names.map(find).collect()
}

/// Until the bytes stop, and then until nothing is left of the program.
async fn ended(
    moved: impl Future<Output = Option<UpstreamFault>>,
    mut child: Child,
    channel: Channel,
    server: String,
) -> Ending {
    let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let mut moved = Box::pin(moved);
    let fault = tokio::select! {
        fault = &mut moved => fault,
        _ = child.wait() => {
            // What it said last is still there; if it is not over then, somebody holds on to its output.
            let rest = timeout(REST_MAX, &mut moved).await;
            Some(rest.ok().flatten().unwrap_or_else(|| UpstreamFault::Unreachable("it ended".to_owned())))
        }
    };
    // The pipes close.
    drop(moved);
    let ending = if fault.is_some() { Ending::ByItself } else { Ending::Wished };
    if let Some(fault) = fault {
        tracing::debug!(server, %fault, "a program is ended");
        channel.broke(fault);
    } else {
        channel.broke(UpstreamFault::Unreachable("it was ended".to_owned()));
    }
    let status = match timeout(ENDING_MAX, child.wait()).await {
        Ok(status) => status.ok(),
        Err(_elapsed) => {
            tracing::warn!(server, "a program does not end; its group is killed");
            kill(group);
            child.wait().await.ok()
        }
    };
    let code = status.and_then(|status| status.code());
    if code.is_none() {
        // The warden itself was killed: what it watched over goes with it.
        kill(group);
    }
    tracing::debug!(server, ?code, "a program has ended");
    ending
}

fn kill(group: Option<Pid>) {
    if let Some(group) = group {
        // Nobody is left of it, then.
        _ = kill_process_group(group, Signal::KILL);
    }
}

/// Writes each message as a line.
async fn write(
    mut input: ChildStdin,
    mut outgoing: mpsc::Receiver<Outgoing>,
    channel: &Channel,
) -> Option<UpstreamFault> {
    while let Some(message) = outgoing.recv().await {
        if !channel.leaves(&message) {
            continue;
        }
        let line = [&message.body, &b"\n"[..]].concat();
        let written = async {
            input.write_all(&line).await?;
            input.flush().await
        };
        if let Err(error) = written.await {
            return Some(UpstreamFault::Unreachable(format!("it takes nothing: {error}")));
        }
    }
    None
}

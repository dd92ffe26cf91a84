//! The warden of one program: a process between this node and the program, which sees to it that nothing of the program
//! is left when it is over, however it ends, and even if the node is killed.
//!
//! The command line runs it instead of anything else when its first argument is [`ARGUMENT`]; `upstream::stdio` starts
//! it from the same binary, in a process group of its own, with nothing open but three pipes. It hands its standard
//! input on to the program, whose output and errors go to the node directly. When that input ends, because the node
//! wishes so or died, the program's input ends too; a while later its group gets SIGTERM, and then SIGKILL, and with it
//! whoever left the group but descends from the program: the warden is their reaper, so none can hide from it or stay
//! as a zombie. What the program leaves behind when it ends by itself is killed likewise. No core is written and no
//! privilege gained. Deliberately absent: which program, with which environment (the node gives the warden's own).
//! Specification: MCP 2026-07-28 and 2025-11-25 lifecycle, "Shutdown", stdio.

mod kin;

use std::{
    ffi::OsString,
    io,
    os::fd::AsFd as _,
    process::{ChildStdin, Command, ExitCode, Stdio},
    time::Duration,
};

use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitOptions, getpid, kill_process_group, set_child_subreaper, setrlimit, wait,
};
use tokio::{
    io::copy,
    net::unix::pipe,
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep_until},
};

/// The first argument that makes the binary a warden; the program and its arguments follow.
pub const ARGUMENT: &str = "command-warden";
/// How the warden ends when the program cannot be started.
pub(crate) const NOT_STARTED: u8 = 127;
/// After its input has ended, a program has so long to end by itself, and then so long after SIGTERM.
pub(crate) const GRACE: Duration = Duration::from_secs(1);
pub(crate) const TERM_WAIT: Duration = Duration::from_secs(2);

/// What to run, if these arguments ask for a warden.
pub fn asked(mut arguments: impl Iterator<Item = OsString>) -> Option<Vec<OsString>> {
    arguments.nth(1).filter(|first| first == ARGUMENT)?;
    Some(arguments.collect())
}

/// Runs the program until it is over and nothing of it is left.
#[must_use]
pub fn run(program: &[OsString]) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.and_then(|runtime| runtime.block_on(attend(program))) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // The node reads it: standard error is all there is.
            let said = format!("the program cannot be started: {error}\n");
            drop(io::Write::write_all(&mut io::stderr(), said.as_bytes()));
            ExitCode::from(NOT_STARTED)
        }
    }
}

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Serving,
    /// Its input is closed; SIGTERM then.
    InputEnded(Instant),
    /// It got SIGTERM; SIGKILL then.
    Asked(Instant),
}

async fn attend(program: &[OsString]) -> io::Result<u8> {
    let (file, arguments) = program.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    set_child_subreaper(Some(getpid()))?;
    rustix::thread::set_no_new_privs(true)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    let mut ended = signal(SignalKind::child())?;
    // Whoever ends the group ends the program through its warden.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hangup = signal(SignalKind::hangup())?;
    // In the warden's group, so that the node can kill all of it at once.
    let mut child = Command::new(file).args(arguments).stdin(Stdio::piped()).spawn()?;
    let main = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
    let input = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let mut handing_on = Box::pin(hand_on(input));
    let mut stage = Stage::Serving;
    let exit = loop {
        let late = match stage {
            Stage::Serving => None,
            Stage::InputEnded(late) | Stage::Asked(late) => Some(late),
        };
        tokio::select! {
            biased;
            _ = ended.recv() => if let Some(code) = reap(main) { break code },
            () = &mut handing_on, if stage == Stage::Serving => stage = Stage::InputEnded(Instant::now() + GRACE),
            _ = terminate.recv(), if stage == Stage::Serving => stage = Stage::InputEnded(Instant::now()),
            _ = interrupt.recv(), if stage == Stage::Serving => stage = Stage::InputEnded(Instant::now()),
            _ = hangup.recv(), if stage == Stage::Serving => stage = Stage::InputEnded(Instant::now()),
            () = sleep_until(late.unwrap_or_else(Instant::now)), if late.is_some() => match stage {
                Stage::InputEnded(_) => {
                    // It reaches the warden, too, which does not mind any more.
                    kill_process_group(getpid(), Signal::TERM)?;
                    stage = Stage::Asked(Instant::now() + TERM_WAIT);
                }
                Stage::Serving | Stage::Asked(_) => break u8::MAX,
            },
        }
    };
    drop(handing_on);
    if kin::end_all() {
        return Ok(exit);
    }
    // Something goes on faster than it can be found: all of the group at once, this process with it.
    kill_process_group(getpid(), Signal::KILL)?;
    Ok(exit)
}

/// From the node to the program, until either has enough.
async fn hand_on(input: ChildStdin) {
    let opened = || -> io::Result<(pipe::Receiver, pipe::Sender)> {
        let from = pipe::Receiver::from_owned_fd(io::stdin().as_fd().try_clone_to_owned()?)?;
        Ok((from, pipe::Sender::from_owned_fd(input.into())?))
    };
    let Ok((mut from, mut to)) = opened() else { return };
    drop(copy(&mut from, &mut to).await);
}

/// Takes the ends of all that have ended; the program's own, if it is among them.
fn reap(main: Pid) -> Option<u8> {
    let mut exit = None;
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if pid == main {
            let code = status.exit_status().and_then(|code| u8::try_from(code).ok());
            exit = Some(code.unwrap_or(u8::MAX));
        }
    }
    exit
}

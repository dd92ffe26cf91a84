//! The way to the person: their browser, or the terminal they sit at.
//!
//! The command line says which ways there are ([`Reach`]); `sign_in` asks. Invariants: a program that is started for
//! the person gets nothing but a URL of this machine that leads on (`callback`), as all its users can read what
//! programs are started with; and neither standard input nor output, which may be somebody else's; where nobody can be
//! reached, that is said at once rather than waited for.

use std::{io::BufRead as _, process::Stdio};

use bailiwick_runtime::config::env;
use tokio::{process::Command, sync::mpsc};
use url::Url;

use crate::fault::Fault;

/// Lines that were pasted and not read yet.
const LINES_MAX: usize = 4;

/// Which ways there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// A browser may be opened.
    pub browser: bool,
    /// Somebody sits at standard input, which is ours to read.
    pub terminal: bool,
}

/// See the file's header.
#[derive(Clone, Debug)]
pub(crate) struct Person {
    pub(crate) reach: Reach,
    /// What to run in a terminal where nobody can be reached here.
    pub(crate) command: String,
}

/// How they were asked.
pub(crate) struct Asked {
    /// What they paste, where they can.
    pub(crate) pasted: Option<mpsc::Receiver<String>>,
    /// A browser was started for them on this machine.
    pub(crate) is_opened: bool,
}

impl Reach {
    /// Of a process that serves a client, or that was started to sign in: is there a browser that people see?
    #[must_use]
    pub fn of_this_machine(no_browser: bool, terminal: bool) -> Self {
        let is_remote = ["SSH_CONNECTION", "SSH_TTY"].iter().any(|name| env(name).is_some());
        let has_screen = cfg!(target_os = "macos") || ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|n| env(n).is_some());
        let named = env("BROWSER").is_some();
        Self { browser: !no_browser && (named || (has_screen && !is_remote)), terminal }
    }
}

impl Person {
    /// Whether there is any way to them.
    pub(crate) fn can_be_asked(&self) -> Result<(), Fault> {
        let Reach { browser, terminal } = self.reach;
        if browser || terminal { Ok(()) } else { Err(Fault::SignInFirst { command: self.command.clone() }) }
    }

    /// Sends the person there: by `way`, whoever knows how to open it.
    pub(crate) fn ask(&self, url: &Url, way: &Url) -> Result<Asked, Fault> {
        self.can_be_asked()?;
        let Reach { browser, terminal } = self.reach;
        let is_opened = browser && open(way);
        let beginning = if is_opened && !terminal { "The browser should have opened. If not, go to" } else { "Go to" };
        eprintln!("{beginning}\n\n  {url}\n");
        if !terminal {
            return Ok(Asked { pasted: None, is_opened });
        }
        eprintln!("If the browser is on another machine, paste here the address that it is sent to at the end.");
        Ok(Asked { pasted: Some(lines()), is_opened })
    }
}

/// Starts a browser and lets it be.
fn open(url: &Url) -> bool {
    let named = env("BROWSER").and_then(|list| list.split(':').next().map(str::to_owned)).filter(|one| !one.is_empty());
    let usual = || if cfg!(target_os = "macos") { "open" } else { "xdg-open" }.to_owned();
    let program = named.unwrap_or_else(usual);
    let mut command = Command::new(&program);
    command.arg(url.as_str()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.spawn() {
        // Reaped by the runtime whenever it ends.
        Ok(child) => {
            drop(child);
            true
        }
        Err(error) => {
            tracing::debug!(program, %error, "the browser does not start");
            false
        }
    }
}

/// What comes in on standard input. A thread of its own, which the end of the process ends: nobody can be made to stop
/// waiting for a terminal.
fn lines() -> mpsc::Receiver<String> {
    let (say, heard) = mpsc::channel(LINES_MAX);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if say.blocking_send(line).is_err() {
                break;
            }
        }
    });
    heard
}

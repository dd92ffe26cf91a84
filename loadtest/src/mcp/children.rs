//! The processes that a run starts for itself, from this very program: the fast server and the bare proxy.
//!
//! They end with the run, however it ends: their stdin closes.

use std::{
    env,
    io::{BufRead as _, BufReader},
    process::{self, Command, Stdio},
};

use anyhow::{Context as _, Result};
use http::{Uri, uri::PathAndQuery};

use crate::{cores::Cores, upstream::Form};

/// Before the address on the first line of stdout.
const LISTENING: &str = "listening at ";

/// A process of this run.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) name: &'static str,
    /// What to measure it at.
    pub(crate) url: String,
    process: process::Child,
}

impl Child {
    /// The fast server.
    pub(crate) fn upstream(form: Form, cores: Option<&Cores>) -> Result<Self> {
        let form = match form {
            Form::Json => "json",
            Form::Sse => "sse",
        };
        start("upstream", &["--answers", form], cores)
    }

    /// A bare proxy before `url`.
    pub(crate) fn raw_proxy(url: &str, cores: Option<&Cores>) -> Result<Self> {
        let to: Uri = url.parse()?;
        let mut child = start("raw-proxy", &["--to", url], cores)?;
        child.url.push_str(to.path_and_query().map_or("/", PathAndQuery::as_str));
        Ok(child)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn start(name: &'static str, arguments: &[&str], cores: Option<&Cores>) -> Result<Child> {
    let mut command = Command::new(env::current_exe()?);
    command.arg(name).args(arguments).arg("--until-stdin-ends");
    if let Some(cores) = cores {
        command.args(["--cores", &cores.to_string()]);
    }
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let stdout = process.stdout.take().with_context(|| format!("{name} has no stdout"))?;
    let mut child = Child { name, url: String::new(), process };
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    let url = line.trim_end().strip_prefix(LISTENING).with_context(|| format!("{name} did not start: {line:?}"))?;
    child.url = url.to_owned();
    Ok(child)
}

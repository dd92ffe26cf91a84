//! `bailiwick dev --upstream NAME='stdio:…'`.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{McpClient, deployment::binary, peers::place};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

use super::{gone, pid, script, value};

#[tokio::test(flavor = "multi_thread")]
async fn dev_runs_the_program_that_its_command_line_names() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let upstream = format!("scripted=stdio:'{}' \"{}\"", place("PEER_PYTHON")?, script("stdio_server.py"));
    let mut command = Command::new(binary("bailiwick"));
    command.args(["dev", "--free-ports", "--upstream", &upstream]).arg("--data").arg(folder.path().join("data"));
    command.current_dir(folder.path()).stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::piped());
    let mut dev = command.kill_on_drop(true).spawn()?;
    let mut lines = BufReader::new(dev.stdout.take().context("its output")?).lines();
    let (mut url, mut token) = (None, None);
    while let Some(line) = lines.next_line().await? {
        match line.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["MCP", "URL", said] => url = Some((*said).to_owned()),
            ["Token", said] => {
                token = Some((*said).to_owned());
                break;
            }
            _ => {}
        }
    }
    let url = url.context("no URL")?;
    let (mcp, name) = url.rsplit_once('/').context("a URL")?;
    let client = McpClient::new(mcp, name, &token.context("no token")?);
    let about = value(&client.call("about", json!({})).await?)?;
    let home = folder.path().canonicalize()?;
    ensure!(about["directory"] == home.display().to_string(), "{about:#}");
    let path = std::env::var_os("PATH").context("PATH")?;
    ensure!(about["environment"]["PATH"].as_str() == path.to_str(), "{about:#}");
    let program = pid(&about["pid"])?;
    dev.kill().await?;
    gone("the program ends with dev", &[program]).await
}

//! `client setup` and `client list`: one entry in, byte for byte, and out again.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::Desk;

const URL: &str = "https://mcp.example/mcp/shop";
const SETTINGS: &str = "// Mine.\n{\n  \"theme\": \"dark\", // the only one\n  \"context_servers\": {\n\
    \x20   \"other\": { \"command\": \"x\" },\n  },\n}\n";

#[tokio::test]
async fn an_entry_is_shown_written_listed_and_taken_back() -> Result<()> {
    let desk = Desk::new()?;
    let file = desk.home.path().join(".config/zed/settings.json");
    fs::create_dir_all(file.parent().context("a folder")?)?;
    fs::write(&file, SETTINGS)?;
    let setup = ["client", "setup", "zed", "--url", URL];
    let (status, text) = desk.run(&setup).await?;
    ensure!(
        status == 1 && text.contains("+     \"shop\": {") && text.contains("--yes"),
        "nobody was there to ask: {text}"
    );
    ensure!(fs::read_to_string(&file)? == SETTINGS);
    let (status, text) = desk.run(&[&setup[..], &["--yes"]].concat()).await?;
    ensure!(status == 0 && text.contains(&format!("bailiwick connect {URL} --sign-in")), "{text}");
    let written = fs::read_to_string(&file)?;
    ensure!(
        written.starts_with("// Mine.\n{\n  \"theme\": \"dark\", // the only one\n") && written.contains("\"connect\""),
        "{written}"
    );
    let (_, listed) = desk.run(&["client", "list", "-o", "json"]).await?;
    let listed: Value = serde_json::from_str(&listed)?;
    let zed =
        listed["items"].as_array().context("items")?.iter().find(|item| item["client"] == "zed").context("zed")?;
    ensure!(zed["servers"] == serde_json::json!(["shop"]) && zed["state"] == "set up", "{zed:#}");
    // Once more, over what was written: what was there before all of it is what comes back.
    let (status, text) = desk.run(&[&setup[..], &["--client-id", "it's", "--yes"]].concat()).await?;
    ensure!(status == 0 && text.contains(r"--client-id 'it'\''s' --sign-in"), "quoted for a shell: {text}");
    let (status, text) = desk.run(&["client", "setup", "zed", "--name", "shop", "--undo", "--yes"]).await?;
    ensure!(status == 0, "{text}");
    ensure!(fs::read_to_string(&file)? == SETTINGS, "exactly as it was");
    let (status, _) = desk.run(&["client", "setup", "zed", "--name", "shop", "--undo", "--yes"]).await?;
    ensure!(status == 1, "there is nothing more to take back");
    Ok(())
}

#[tokio::test]
async fn what_somebody_wrote_since_stays() -> Result<()> {
    let desk = Desk::new()?;
    let file = desk.home.path().join(".claude.json");
    desk.run(&["client", "setup", "claude-code", "--url", URL, "--yes"]).await?;
    let mut value: Value = serde_json::from_str(&fs::read_to_string(&file)?)?;
    value["mcpServers"]["mine"] = serde_json::json!({"command": "y"});
    fs::write(&file, format!("{value:#}"))?;
    let (status, text) = desk.run(&["client", "setup", "claude-code", "--name", "shop", "--undo", "--yes"]).await?;
    ensure!(status == 0 && text.contains("changed since"), "{text}");
    let left: Value = serde_json::from_str(&fs::read_to_string(&file)?)?;
    ensure!(left["mcpServers"] == serde_json::json!({"mine": {"command": "y"}}), "{left:#}");
    Ok(())
}

#[tokio::test]
async fn how_tokens_may_be_bound_stands_in_the_entry() -> Result<()> {
    let desk = Desk::new()?;
    let setup = ["client", "setup", "cursor", "--url", URL, "--binding", "dpop", "--keys", "file", "--yes"];
    let (status, text) = desk.run(&setup).await?;
    let command = format!("bailiwick connect {URL} --binding dpop --keys file --sign-in");
    ensure!(status == 0 && text.contains(&command), "for the same keys: {text}");
    let file = desk.home.path().join(".cursor/mcp.json");
    let written: Value = serde_json::from_str(&fs::read_to_string(&file)?)?;
    let arguments = &written["mcpServers"]["shop"]["args"];
    let expected = serde_json::json!(["connect", URL, "--binding", "dpop", "--keys", "file"]);
    ensure!(*arguments == expected, "{written:#}");
    // The secret of the endpoint is made where its bridge looks for it.
    let (status, text) = desk.run(&[&setup[..], &["--http"]].concat()).await?;
    ensure!(status == 0 && text.contains("--http 127.0.0.1:8410") && text.contains("--binding dpop"), "{text}");
    let (status, text) = desk.run(&["connect", URL, "--binding", "dpop", "--keys", "file", "--sign-out"]).await?;
    ensure!(status == 0, "{text}");
    ensure!(desk.kept().is_err(), "it was kept under this way of binding");
    Ok(())
}

#[tokio::test]
async fn a_file_that_is_not_well_formed_is_left_alone() -> Result<()> {
    let desk = Desk::new()?;
    for (client, path, text) in [
        ("cursor", ".cursor/mcp.json", "{\"mcpServers\": {},}"),
        ("vscode", ".config/Code/User/mcp.json", "{\"servers\": []}"),
        ("codex", ".codex/config.toml", "[mcp_servers"),
    ] {
        let file = desk.home.path().join(path);
        fs::create_dir_all(file.parent().context("a folder")?)?;
        fs::write(&file, text)?;
        let (status, said) = desk.run(&["client", "setup", client, "--url", URL, "--yes"]).await?;
        ensure!(status == 1 && said.contains("left alone"), "{client}: {said}");
        ensure!(fs::read_to_string(&file)? == text);
    }
    Ok(())
}

#[tokio::test]
async fn a_secret_is_written_where_others_cannot_read_it_alone() -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let desk = Desk::new()?;
    let setup = ["client", "setup", "cursor", "--url", URL, "--keys", "file", "--http", "127.0.0.1:8410", "--yes"];
    let file = desk.home.path().join(".cursor/mcp.json");
    fs::create_dir_all(file.parent().context("a folder")?)?;
    fs::write(&file, "{}")?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
    let (status, text) = desk.run(&setup).await?;
    ensure!(status == 1 && text.contains("chmod 600"), "{text}");
    fs::remove_file(&file)?;
    let (status, text) = desk.run(&setup).await?;
    ensure!(status == 0, "{text}");
    let entry: Value = serde_json::from_str(&fs::read_to_string(&file)?)?;
    let secret = desk.kept()?["endpoint_secret"].as_str().context("a secret")?.to_owned();
    let shown = &entry["mcpServers"]["shop"]["headers"]["Authorization"];
    ensure!(*shown == format!("Bearer {secret}"), "{entry:#}");
    ensure!(fs::metadata(&file)?.permissions().mode() & 0o777 == 0o600);
    let (status, _) = desk.run(&[&setup[..], &["--scope", "project"]].concat()).await?;
    ensure!(status == 2, "a project's file is for others too");
    Ok(())
}

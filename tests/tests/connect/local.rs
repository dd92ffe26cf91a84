//! What other users and programs of the same machine could do: what they see, which ports they take, what they get at;
//! and that nothing but messages is said to a client.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{eventually, upstream::free_port};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, net::TcpListener, process::Command};

use crate::{
    Bridge, Desk,
    fake::Fake,
    servers::{come_back, signed_in},
    visit,
};

/// Whoever is neither this user nor the superuser.
const NOBODY: u32 = 65_534;

async fn say_call(bridge: &mut Bridge, id: u64) -> Result<()> {
    bridge.say(&json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": "x"}})).await
}

/// What another user of the machine is answered, who reaches this server for one.
async fn as_another_user(fake: &Fake, address: &str, request: &str) -> Result<String> {
    let own = tempfile::tempdir()?.path().metadata()?.uid();
    ensure!(own == 0, "this test is another user of the machine, too: run it as root");
    let served = fake.base.strip_prefix("http://").context("an address")?;
    let there = sent_by_nobody(served, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await?;
    ensure!(there.starts_with("HTTP/1.1 404"), "another user reaches what is open to all: {there}");
    sent_by_nobody(address, request).await
}

async fn sent_by_nobody(address: &str, request: &str) -> Result<String> {
    let (host, port) = address.rsplit_once(':').context("a port")?;
    let script = format!("exec 3<>/dev/tcp/{host}/{port}; printf '%b' \"$REQUEST\" >&3; cat <&3");
    let mut command = Command::new("bash");
    command.args(["-c", &script]).env("REQUEST", request.replace("\r\n", "\\r\\n")).uid(NOBODY).current_dir("/");
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().await?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_learns_or_answers_the_question_of_a_sign_in() -> Result<()> {
    let fake = Fake::start().await?;
    let desk = Desk::new()?;
    let mut bridge = desk.bridge(&fake.url(), &[])?;
    say_call(&mut bridge, 1).await?;
    let way = desk.opened(0).await?;
    for part in ["state", "challenge", "client_id", "?"] {
        ensure!(!way.contains(part), "all users can read what a program is started with: {way}");
    }
    let url = url::Url::parse(&way)?;
    let address = url.authority().to_owned();
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    for path in [url.path(), "/callback?code=x&state=x"] {
        let answer = as_another_user(&fake, &address, &get(path)).await?;
        ensure!(answer.is_empty(), "{path}: {answer}");
    }
    for wrong in ["/sign-in/", "/sign-in/x", "/sign-in", "/"] {
        let answer = visit(url.join(wrong)?.as_str(), &[]).await?;
        ensure!(answer.status == 404 && answer.headers.get("location").is_none(), "{wrong}: {}", answer.status);
    }
    let elsewhere = visit(&way, &[("host", "evil.example")]).await?;
    ensure!(elsewhere.status == 404, "{}", elsewhere.status);
    come_back(&desk, 0, &fake.base).await?;
    ensure!(bridge.hear().await?["result"].is_object());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_somebody_else_took_makes_the_secret_worthless() -> Result<()> {
    let fake = Fake::start().await?;
    let (desk, bridge, _) = signed_in(&fake).await?;
    ensure!(bridge.end().await? == 0);
    let address = format!("127.0.0.1:{}", free_port()?);
    let url = fake.url();
    let arguments = ["connect", &url, "--keys", "file", "--http", &address];
    let secret = || desk.kept().ok().and_then(|kept| kept["endpoint_secret"].as_str().map(str::to_owned));
    let mut own = Bridge::start(desk.command(&arguments))?;
    let first = eventually("it listens", async || {
        tokio::net::TcpStream::connect(&address).await.ok()?;
        secret()
    })
    .await?;
    // Another bridge of the same person is no thief.
    let (status, text) = desk.run(&arguments).await?;
    ensure!(status == 1 && text.contains("another bridge of yours"), "{status}: {text}");
    ensure!(secret().as_ref() == Some(&first));
    own.child.kill().await?;

    let thief = TcpListener::bind(&address).await?;
    let (status, text) = desk.run(&arguments).await?;
    ensure!(status == 1 && text.contains("no bridge of yours") && text.contains("set the clients up"), "{text}");
    ensure!(secret().is_none() && !text.contains(&first), "{text}");
    ensure!(desk.kept()?["refresh_token"].is_string(), "nobody has to sign in for that");
    drop(thief);
    let _own = Bridge::start(desk.command(&arguments))?;
    let second = eventually("there is another", async || secret()).await?;
    ensure!(second != first);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_gets_nothing_by_the_secret() -> Result<()> {
    let fake = Fake::start().await?;
    let (desk, bridge, _) = signed_in(&fake).await?;
    ensure!(bridge.end().await? == 0);
    let address = format!("127.0.0.1:{}", free_port()?);
    let _bridge = Bridge::start(desk.command(&["connect", &fake.url(), "--keys", "file", "--http", &address]))?;
    let secret = eventually("the secret is made", async || {
        tokio::net::TcpStream::connect(&address).await.ok()?;
        desk.kept().ok()?["endpoint_secret"].as_str().map(str::to_owned)
    })
    .await?;
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}).to_string();
    let head = format!("POST /mcp/{secret} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    let answer = as_another_user(&fake, &address, &request).await?;
    ensure!(answer.is_empty() && fake.asked("tools/list") <= 1, "{answer}");
    let http = reqwest::Client::builder().no_proxy().build()?;
    let own = http.post(format!("http://{address}/mcp/{secret}")).body(body).send().await?;
    ensure!(own.status() == 200, "{}", own.status());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_signs_out_is_signed_out_whatever_became_of_the_folder() -> Result<()> {
    for (mode, is_told) in [(0o755, true), (0o777, false)] {
        let fake = Fake::start().await?;
        fake.says().server = json!({"revocation_endpoint": format!("{}/revoke", fake.base)});
        let (desk, bridge, _) = signed_in(&fake).await?;
        ensure!(bridge.end().await? == 0);
        fs::set_permissions(desk.keys(), fs::Permissions::from_mode(mode))?;
        let (status, text) = desk.run(&["connect", &fake.url(), "--keys", "file", "--sign-out"]).await?;
        ensure!(desk.kept().is_err(), "{mode:o}: {text}");
        ensure!((fake.asked("token=r-1") == 1) == is_told, "{mode:o}: {text}");
        // What others could have written is believed nothing: the grant is the person's to take back.
        ensure!(
            (status == 0) == is_told && text.contains("take the consent back") != is_told,
            "{mode:o} {status}: {text}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_ends_the_sign_in_and_the_next_bridge_begins_its_own() -> Result<()> {
    let fake = Fake::start().await?;
    let desk = Desk::new()?;
    let mut first = desk.bridge(&fake.url(), &[])?;
    say_call(&mut first, 1).await?;
    let way = desk.opened(0).await?;
    let mut second = desk.bridge(&fake.url(), &[])?;
    say_call(&mut second, 1).await?;
    ensure!(first.end().await? == 0, "it waits for nobody");
    ensure!(visit(&way, &[]).await.is_err(), "and nobody listens");
    // The other one has waited, with no page of its own until now.
    come_back(&desk, 1, &fake.base).await?;
    ensure!(second.hear().await?["result"].is_object() && desk.visits().len() == 2);
    Ok(())
}

/// What a command says on its standard output, with these lines on its standard input.
async fn output(desk: &Desk, arguments: &[&str], input: &str) -> Result<String> {
    let mut command = desk.command(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().context("stdin")?;
    // One that ends at once reads nothing.
    drop(stdin.write_all(input.as_bytes()).await);
    drop(stdin);
    let output = tokio::time::timeout(bailiwick_tests::wait::WAIT_MAX, child.wait_with_output()).await??;
    Ok(String::from_utf8(output.stdout)?)
}

fn is_message(line: &str) -> bool {
    let message: Value = serde_json::from_str(line).unwrap_or_default();
    message["jsonrpc"] == "2.0" && (message["method"].is_string() || message.get("id").is_some())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_messages_is_ever_said_to_a_client() -> Result<()> {
    let fake = Fake::start().await?;
    let (desk, mut bridge, _) = signed_in(&fake).await?;
    let answer = r#"{"jsonrpc":"2.0","id":ID,"result":{}}"#;
    let stream = format!("data: garbage\n\ndata: {{}}\n\ndata: [1]\n\ndata: {{\"a\":\ndata: 1}}\n\ndata: {answer}\n\n");
    for (id, (kind, text, is_answered)) in [
        ("text/html", "<html>sign in\nto the hotel</html>", false),
        ("application/json", "not json", false),
        ("application/json", r#"{"id":ID,"result":{}}"#, false),
        ("application/json", r#"{"jsonrpc":"2.0","id":ID}"#, false),
        ("application/json", "{\n\"jsonrpc\": \"2.0\",\r\n \"id\": ID, \"result\": {}}", true),
        ("text/event-stream", stream.as_str(), true),
        ("text/event-stream", "data: garbage\n\n", false),
        ("text/event-stream", "", false),
    ]
    .into_iter()
    .enumerate()
    {
        let id = u64::try_from(id)? + 10;
        fake.says().answer = Some((kind, text.replace("ID", &id.to_string())));
        say_call(&mut bridge, id).await?;
        let told = bridge.hear().await.with_context(|| text.to_owned())?;
        ensure!(told["id"] == id && told["result"].is_object() == is_answered, "{text}: {told:#}");
    }
    ensure!(bridge.end().await? == 0);
    fake.says().answer = None;

    let url = fake.url();
    let nowhere = "http://127.0.0.1:1/mcp";
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}"#;
    let input = format!("nonsense\n[]\n{{}}\n{call}\n\u{0}\n");
    for arguments in [
        vec!["connect", &url, "--keys", "file"],
        vec!["connect", &url, "--keys", "keyring"],
        vec!["connect", nowhere, "--keys", "file"],
        vec!["connect", nowhere, "--keys", "file", "--no-browser"],
        vec!["connect", nowhere, "--keys", "file", "--sign-in"],
        vec!["connect", nowhere, "--keys", "file", "--sign-out"],
        vec!["connect", &url, "--keys", "file", "--http", "0.0.0.0:0"],
        vec!["connect", &url, "--keys", "file", "--sign-in"],
        vec!["connect", &url, "--keys", "file", "--sign-out"],
        vec!["connect", &url, "--keys", "file", "--no-browser"],
        vec!["connect", "nonsense"],
        vec!["connect", &url, "--nonsense"],
        vec!["connect"],
    ] {
        let said = output(&desk, &arguments, &input).await.with_context(|| format!("{arguments:?}"))?;
        for line in said.lines() {
            ensure!(is_message(line), "{arguments:?}: {line}");
        }
    }
    let address = format!("127.0.0.1:{}", free_port()?);
    let mut command = desk.command(&["connect", &url, "--keys", "file", "--http", &address]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    eventually("it listens", async || tokio::net::TcpStream::connect(&address).await.ok()).await?;
    bailiwick_tests::deployment::kill(child.id().context("its id")?, "TERM");
    let mut said = String::new();
    let mut stdout = child.stdout.take().context("stdout")?;
    tokio::io::AsyncReadExt::read_to_string(&mut stdout, &mut said).await?;
    ensure!(said.is_empty() && child.wait().await?.success(), "{said}");
    Ok(())
}

//! The verification libraries in `docs/downstream/`, in Python, TypeScript and Go: each judges as it should the published
//! vectors, and a call that was really forwarded with every forgery of it.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use aws_lc_rs::{
    hmac,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use bailiwick_tests::{ScriptedServer, Shape, Tap, Tapped, deployment::repository, peers::place, scripted::tool};
use bailiwick_token::context::ContextKey;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::{World, key_set, kid_of, now};

const LINES_MAX: usize = 99;

/// What each library makes of the cases in a file.
fn judged(cases: &Path, folder: &Path) -> Result<Vec<(&'static str, Value)>> {
    let (library, checks) =
        (repository().join("docs/downstream"), repository().join("tests/tests/downstream/libraries"));
    let mut python = Command::new(place("PEER_PYTHON")?);
    python.arg(checks.join("check.py")).arg(&library).arg(cases);
    let mut typescript = Command::new(place("PEER_NODE")?);
    typescript.arg("--no-warnings").arg(checks.join("check.mjs")).arg(&library).arg(cases);
    let module = folder.join("check");
    fs::create_dir_all(module.join("bailiwick"))?;
    fs::copy(library.join("context.go"), module.join("bailiwick/context.go"))?;
    fs::copy(checks.join("main.go"), module.join("main.go"))?;
    fs::write(module.join("go.mod"), "module check\n\ngo 1.21\n")?;
    let go_program = Path::new(place("PEER_GO")?);
    let built = go_program.parent().and_then(Path::parent).context("PEER_GO")?.join("go-build");
    let mut go = Command::new(go_program);
    go.args(["run", "."]).arg(cases).current_dir(&module);
    go.env("GOCACHE", built).env("GOPATH", folder).env("GOTOOLCHAIN", "local").env("GOPROXY", "off");
    let mut all = Vec::new();
    for (name, mut command) in [("python", python), ("typescript", typescript), ("go", go)] {
        let output = command.output().with_context(|| name)?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{name}: {text}{}", String::from_utf8_lossy(&output.stderr));
        all.push((name, serde_json::from_str(&text).with_context(|| format!("{name}: {text}"))?));
    }
    Ok(all)
}

fn check(world: &Value) -> Result<()> {
    let folder = TempDir::new()?;
    let file = folder.path().join("cases.json");
    fs::write(&file, world.to_string())?;
    let cases = world["cases"].as_array().context("cases")?;
    for (library, believed) in judged(&file, folder.path())? {
        let believed = believed.as_array().context("no list")?;
        ensure!(believed.len() == cases.len(), "{library}: {believed:?}");
        for (case, believed) in cases.iter().zip(believed) {
            ensure!(case["valid"] == *believed, "{library} says {believed} to \"{}\"", case["name"]);
        }
    }
    Ok(())
}

#[test]
fn the_libraries_are_short_and_judge_the_published_vectors_alike() -> Result<()> {
    let folder = repository().join("docs/downstream");
    for library in ["context.py", "context.ts", "context.go"] {
        let lines = fs::read_to_string(folder.join(library))?.lines().count();
        ensure!(lines <= LINES_MAX, "{library} has {lines} lines");
    }
    let vectors: Value = serde_json::from_str(&fs::read_to_string(folder.join("vectors.json"))?)?;
    ensure!(vectors["cases"].as_array().is_some_and(|cases| cases.iter().any(|case| case["valid"] == true)));
    check(&vectors)
}

/// Forgeries of the context of a request that really came: each with its name.
fn forged(context: &str, kid: &str, public: &str) -> Result<Vec<(&'static str, String)>> {
    let (said, signature) = context.rsplit_once('.').context("parts")?;
    let (header, payload) = said.split_once('.').context("parts")?;
    let mut claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload)?)?;
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let typ = "bailiwick-context+jwt";
    let of_alg = |alg: &str| part(&json!({"alg": alg, "kid": kid, "typ": typ}));
    let mac = format!("{}.{payload}", of_alg("HS256"));
    let secret = hmac::Key::new(hmac::HMAC_SHA256, &URL_SAFE_NO_PAD.decode(public)?);
    let tag = URL_SAFE_NO_PAD.encode(hmac::sign(&secret, mac.as_bytes()));
    let stranger = ContextKey::from_seed("stranger".to_owned(), &[3; 32])?;
    let whole: bailiwick_token::context::ContextClaims<'static> = serde_json::from_value(claims.clone())?;
    let unknown = stranger.sign(&whole)?;
    let under_known = ContextKey::from_seed(kid.to_owned(), &[3; 32])?.sign(&whole)?;
    claims["sub"] = json!("mallory@example.com");
    Ok(vec![
        ("changed claims", format!("{header}.{}.{signature}", part(&claims))),
        ("algorithm none", format!("{}.{payload}.", of_alg("none"))),
        ("algorithm HS256 with the public key", format!("{mac}.{tag}")),
        ("unknown key", unknown),
        ("another key under the known id", under_known),
        ("no signature", format!("{said}.")),
    ])
}

fn case(name: &str, request: &Tapped, contexts: &[&str], is_valid: bool) -> Value {
    json!({
        "name": name, "contexts": contexts, "method": request.method, "target": request.target, "body": request.body,
        "now": now(), "valid": is_valid,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_was_forwarded_is_believed_and_no_forgery_of_it() -> Result<()> {
    let server = ScriptedServer::start(vec![tool("read", "retrieval")]).await?;
    server.speak_modern(true);
    let tap = Tap::before(server.url()).await?;
    let world = World::start(Shape::Processes, &json!({"endpoint": {"url": tap.url}}), &["read"]).await?;
    world.client.call("read", json!({"text": "Zoë's \"1.50\" €"})).await?;
    let request = tap.of("tools/call").pop().context("no call came")?;
    let context = request.header("bailiwick-context")[0].to_owned();
    let kid = kid_of(&request).context("kid")?;
    let keys = key_set(&world.issuer).await?;
    let public = keys["keys"][0]["x"].as_str().context("x")?;

    let with = |mut case: Value, member: &str, value: Value| {
        case[member] = value;
        case
    };
    let real = |name: &str, is_valid| case(name, &request, &[context.as_str()], is_valid);
    let body = request.body.replace("1.50", "9.99");
    let mut cases = vec![
        real("the call", true),
        with(real("the call again", false), "times", json!(2)),
        with(real("replayed to another service", false), "audience", json!("http://127.0.0.1:9/other")),
        with(real("with another body", false), "body", json!(body)),
        with(real("with another target", false), "target", json!("/admin")),
        with(real("with another method", false), "method", json!("DELETE")),
        with(real("an hour later", false), "now", json!(now() + 3_600)),
        with(real("an hour earlier", false), "now", json!(now() - 3_600)),
        case("an access token", &request, &[world.client.token.as_str()], false),
        case("the header twice", &request, &[context.as_str(), context.as_str()], false),
        case("no header", &request, &[], false),
    ];
    for (name, forgery) in forged(&context, &kid, public)? {
        cases.push(case(name, &request, &[forgery.as_str()], false));
    }
    // Once with the keys as the control plane publishes them, once with a copy.
    let mut said = json!({"issuer": world.issuer, "audience": world.audience, "cases": cases});
    check(&said)?;
    said["jwks"] = keys;
    check(&said)?;
    let mut claims = payload(&context)?;
    let (issuer, key) = issuer_with_a_slash().await?;
    claims["iss"] = json!(issuer);
    let signed = key.sign(&serde_json::from_value(claims)?)?;
    let cases = [case("of an issuer with a slash at its end", &request, &[&signed], true)];
    check(&json!({"issuer": issuer, "audience": world.audience, "cases": cases}))
}

fn payload(context: &str) -> Result<Value> {
    let payload = context.split('.').nth(1).context("parts")?;
    Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload)?)?)
}

/// An issuer whose URL ends with a slash, that answers at the path of its keys and at no other, and its key.
#[expect(clippy::disallowed_methods, reason = "tests have no supervisor; the task ends with the test's runtime")]
async fn issuer_with_a_slash() -> Result<(String, ContextKey)> {
    let seed = [5; 32];
    let pair = Ed25519KeyPair::from_seed_unchecked(&seed)?;
    let x = URL_SAFE_NO_PAD.encode(pair.public_key());
    let jwks = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": x}]}).to_string();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let issuer = format!("http://{}/", listener.local_addr()?);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4_096];
            let read = stream.read(&mut head).await.unwrap_or_default();
            let is_there = head[..read].starts_with(b"GET /.well-known/context-jwks.json ");
            let status = if is_there { "200 OK" } else { "404 Not Found" };
            let length = jwks.len();
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
            drop(stream.write_all((head + &jwks).as_bytes()).await);
        }
    });
    Ok((issuer, ContextKey::from_seed("k".to_owned(), &seed)?))
}

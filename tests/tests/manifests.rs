//! Manifests through the command line: what is accepted, what is refused as a whole, and how the refusal reads.

#![expect(clippy::indexing_slicing, reason = "a test that panics fails, as it should")]

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context, Result};
use bailiwick_tests::{Deployment, SampleServer, Shape, both, eventually};
use serde_json::Value;

const AGENT: &str = "apiVersion: bailiwick/v1\nkind: Agent\nmetadata: {name: helper}\n";
const USER: &str = "apiVersion: bailiwick/v1\nkind: User\nmetadata: {name: ann@example.com}\nspec: {groups: [ops]}\n";

both! {
    a_mistake_refuses_the_whole_file_naming_file_line_and_key
    applying_twice_changes_nothing_and_diff_says_so
    every_kind_can_be_listed_described_and_round_trips_as_yaml
    what_others_refer_to_cannot_be_deleted_before_them
    plain_names_that_collide_are_refused_at_apply
}

fn policy(name: &str, cedar: &str) -> String {
    format!("apiVersion: bailiwick/v1\nkind: Policy\nmetadata: {{name: {name}}}\nspec:\n  cedar: |\n    {cedar}\n")
}

async fn a_mistake_refuses_the_whole_file_naming_file_line_and_key(shape: Shape) -> Result<()> {
    let (deployment, server) = (Deployment::start(shape).await?, SampleServer::start().await?);
    deployment.apply(&server.manifests())?;
    let url = server.url();
    let table: [(String, &[&str]); 11] = [
        (format!("{AGENT}spec: {{owner: ann@example.com, project: p, celling: retrieval}}\n"), &["bad.yaml:9", "spec.celling", "ceiling"]),
        (format!("{AGENT}spec: {{owner: 7, project: p}}\n"), &["bad.yaml:9", "spec.owner"]),
        (format!("{AGENT}spec: {{owner: nobody@example.com, project: p}}\n"), &["bad.yaml:9", "spec.owner", "nobody@example.com"]),
        (format!("{AGENT}spec: {{owner: ann@example.com, project: p, ceiling: total}}\n"), &["bad.yaml:9", "spec.ceiling", "destructive"]),
        ("apiVersion: bailiwick/v1\nkind: VirtualServer\nmetadata: {name: v}\nspec: {servers: [{server: nowhere}]}\n".into(), &["bad.yaml:9", "spec.servers", "nowhere"]),
        (policy("typo", "permit (principal, action, resource) when { resource.teir == \"retrieval\" };"), &["bad.yaml:", "spec.cedar", "teir"]),
        (policy("syntax", "permit (principal action resource);"), &["bad.yaml:", "spec.cedar"]),
        (policy("literal", "permit (principal, action, resource in Server::\"nowhere\");"), &["bad.yaml:", "spec.cedar", "nowhere"]),
        ("apiVersion: bailiwick/v2\nkind: User\nmetadata: {name: x}\nspec: {}\n".into(), &["bad.yaml:6", "apiVersion"]),
        ("apiVersion: bailiwick/v1\nkind: Usr\nmetadata: {name: x}\nspec: {}\n".into(), &["bad.yaml:7", "kind", "User"]),
        (format!("apiVersion: bailiwick/v1\nkind: Server\nmetadata: {{name: UPPER}}\nspec: {{endpoint: {{url: \"{url}\"}}}}\n"), &["bad.yaml:8", "metadata.name"]),
    ];
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("bad.yaml");
    for (document, expected) in table {
        fs::write(&file, format!("{USER}---\n{document}"))?;
        let output = deployment.cli(&["apply", "-f", file.to_str().context("path")?])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{document}\n{said}");
        for word in expected {
            assert!(said.contains(word), "{document}\nshould name {word}:\n{said}");
        }
        let users = deployment.cli_ok(&["get", "user", "-o", "json"])?;
        assert!(!users.contains("ann@example.com"), "half applied: {document}");
    }
    Ok(())
}

async fn applying_twice_changes_nothing_and_diff_says_so(shape: Shape) -> Result<()> {
    let (deployment, server) = (Deployment::start(shape).await?, SampleServer::start().await?);
    let first = deployment.apply(&server.manifests())?;
    assert!(first.contains("Policy/finance-reads created"), "{first}");
    let json = |arguments: &[&str]| -> Result<Value> { Ok(serde_json::from_str(&deployment.cli_ok(arguments)?)?) };
    // With their revisions: the cluster's own may move on meanwhile, as nodes register what they need.
    let kinds = ["server", "virtualserver", "user", "agent", "policy"];
    let all = || kinds.iter().map(|kind| json(&["get", kind, "-o", "json"])).collect::<Result<Vec<Value>>>();
    let (file, before) = (manifests(&deployment)?, all()?);
    assert!(before.iter().any(|items| items.to_string().contains("finance-reads")), "{before:?}");
    let twice = json(&["apply", "-o", "json", "-f", &file])?;
    let actions = twice["items"].as_array().context("items")?;
    assert!(actions.iter().all(|change| change["action"] == "unchanged"), "{twice:#}");
    assert_eq!(all()?, before);
    let diff = deployment.cli(&["diff", "-f", manifests(&deployment)?.as_str()])?;
    assert_eq!(diff.status.code(), Some(0), "{}", String::from_utf8_lossy(&diff.stdout));
    Ok(())
}

/// `Deployment::apply` leaves what it applied in this file.
fn manifests(deployment: &Deployment) -> Result<String> {
    let folder = deployment.data().parent().context("folder")?.to_owned();
    Ok(folder.join("manifests.yaml").display().to_string())
}

async fn every_kind_can_be_listed_described_and_round_trips_as_yaml(shape: Shape) -> Result<()> {
    let (deployment, server) = (Deployment::start(shape).await?, SampleServer::start().await?);
    deployment.apply(&server.manifests())?;
    deployment.token("finance", "retrieval")?;
    for (kind, name) in [
        ("Server", "finance"),
        ("VirtualServer", "finance"),
        ("User", "jane@example.com"),
        ("Group", "finance"),
        ("Agent", "coding-assistant"),
        ("Project", "platform"),
        ("Policy", "finance-reads"),
    ] {
        let json: Value = serde_json::from_str(&deployment.cli_ok(&["get", kind, name, "-o", "json"])?)?;
        assert_eq!((json["kind"].as_str(), json["metadata"]["name"].as_str()), (Some(kind), Some(name)), "{json:#}");
        assert!(deployment.cli_ok(&["get", kind])?.contains(name));
        assert!(deployment.cli_ok(&["describe", kind, name])?.contains(name));
    }
    for kind in ["consent", "node"] {
        assert!(!deployment.cli_ok(&["get", kind, "-o", "yaml"])?.is_empty());
    }
    for kind in ["server", "virtualserver", "user", "agent", "policy"] {
        let yaml = deployment.cli_ok(&["get", kind, "-o", "yaml"])?;
        let applied = deployment.apply(&yaml)?;
        assert!(applied.lines().all(|line| line.ends_with("unchanged")), "{kind}: {applied}\n{yaml}");
    }
    let unknown = deployment.cli(&["get", "policy", "nothing"])?;
    assert_eq!(unknown.status.code(), Some(1));
    Ok(())
}

async fn what_others_refer_to_cannot_be_deleted_before_them(shape: Shape) -> Result<()> {
    let (deployment, server) = (Deployment::start(shape).await?, SampleServer::start().await?);
    deployment.apply(&server.manifests())?;
    for (kind, name, referrer) in [("server", "finance", "finance"), ("user", "jane@example.com", "coding-assistant")] {
        let refused = deployment.cli(&["delete", kind, name])?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(said.contains(referrer), "{said}");
    }
    let file = manifests(&deployment)?;
    let deleted = deployment.cli_ok(&["delete", "-f", &file])?;
    assert!(deleted.contains("Server/finance deleted"), "{deleted}");
    assert_eq!(
        deployment.cli_ok(&["get", "server", "-o", "json"])?.split_whitespace().collect::<String>(),
        "{\"items\":[]}"
    );
    Ok(())
}

async fn plain_names_that_collide_are_refused_at_apply(shape: Shape) -> Result<()> {
    let deployment = Deployment::start(shape).await?;
    let (one, two) = (SampleServer::start().await?, SampleServer::start().await?);
    let servers = [("one", one.url()), ("two", two.url())].map(|(name, url)| {
        format!("apiVersion: bailiwick/v1\nkind: Server\nmetadata: {{name: {name}}}\nspec: {{endpoint: {{url: \"{url}\"}}}}\n---\n")
    });
    let view = |naming| {
        format!(
            "apiVersion: bailiwick/v1\nkind: VirtualServer\nmetadata: {{name: both}}\nspec: {{naming: {naming}, servers: [{{server: one}}, {{server: two}}]}}\n"
        )
    };
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("both.yaml");
    fs::write(&file, format!("{}{}", servers.concat(), view("plain")))?;
    let refused = deployment.cli(&["apply", "-f", file.to_str().context("path")?])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && said.contains("query_data"), "{said}");
    assert!(!deployment.cli_ok(&["get", "server", "-o", "json"])?.contains("127.0.0.1"), "half applied");
    deployment.apply(&format!("{}{}", servers.concat(), view("prefixed")))?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_policies_are_applied_at_once_and_other_writes_do_not_wait_for_them() -> Result<()> {
    const POLICIES: usize = 4_000;
    let deployment = Deployment::start(Shape::Embedded).await?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("policies.yaml");
    let one = |number: usize| {
        let group = format!(r#"permit (principal in Group::"g{number}", action in Action::"call_tool", resource)"#);
        policy(&format!("p-{number}"), &format!(r#"{group} when {{ resource.tier == "retrieval" }};"#))
    };
    fs::write(&file, (0..POLICIES).map(one).collect::<Vec<_>>().join("---\n"))?;
    let path = file.to_str().context("path")?;
    let is_done = AtomicBool::new(false);
    let meanwhile = std::thread::scope(|scope| {
        let applying = scope.spawn(|| {
            let said = deployment.cli_ok(&["apply", "-f", path]);
            is_done.store(true, Ordering::SeqCst);
            said
        });
        let mut written = 0_usize;
        while !is_done.load(Ordering::SeqCst) {
            deployment.apply(&format!("{USER}---\n{AGENT}spec: {{owner: ann@example.com, project: p{written}}}\n"))?;
            written += 1;
        }
        let said = applying.join().map_err(|_panicked| anyhow::anyhow!("the apply panicked"))??;
        assert_eq!(said.lines().filter(|line| line.ends_with(" created")).count(), POLICIES, "in one go: {said}");
        anyhow::Ok(written)
    })?;
    assert!(meanwhile > 1, "{meanwhile} writes meanwhile");
    eventually("the data plane has all of it", async || {
        let nodes = deployment.cli_ok(&["get", "node", "-o", "json"]).ok()?;
        let nodes: Value = serde_json::from_str(&nodes).ok()?;
        let lag = |node: &Value| node["status"]["lag"] == "0" && node["status"]["digest"] == "equal";
        nodes["items"].as_array()?.iter().any(lag).then_some(())
    })
    .await
}

//! Writes: what was acknowledged stays, what is repeated happens once, what is wrong changes nothing.

use bailiwick_proto::v1;
use bailiwick_token::{Expect, VerifyingKeys};
use futures::future::join_all;
use tempfile::TempDir;

use crate::support::{DataPlane, MANIFESTS, Node, WAIT_MAX, copy_as_if_killed, file, get, tool, user};

#[tokio::test(flavor = "multi_thread")]
async fn what_was_applied_is_there_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let mut node = Node::start(folder.path()).await;
    let applied = node.apply(MANIFESTS).await;
    assert_eq!(applied.problems, []);
    assert!(applied.changes.iter().all(|change| change.action == "created"), "{:?}", applied.changes);
    let revision = node.revision().await;
    node.stop().await;

    let mut node = Node::start(folder.path()).await;
    assert_eq!(node.revision().await, revision, "a restart changes nothing");
    assert_eq!(node.names("agents").await, ["coding-assistant"]);
    assert_eq!(node.names("Group").await, ["finance"]);
    let again = node.apply(MANIFESTS).await;
    assert!(again.changes.iter().all(|change| change.action == "unchanged"), "{:?}", again.changes);
    assert_eq!(node.revision().await, revision, "applying twice changes nothing");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_writes_survive_an_abrupt_stop() {
    let (folder, killed) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut node = Node::start(folder.path()).await;
    let mut expected = Vec::new();
    for n in 0..20 {
        let name = format!("user-{n:02}@example.com");
        assert_eq!(node.apply(&user(&name)).await.problems, []);
        expected.push(name);
    }
    // Nothing is told to stop: the copy is what a killed process leaves behind.
    copy_as_if_killed(folder.path(), killed.path());
    let mut survivor = Node::start(killed.path()).await;
    assert_eq!(survivor.names("users").await, expected);
    assert_eq!(survivor.revision().await, node.revision().await);
    survivor.stop().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_id_happens_once() {
    let folder = TempDir::new().unwrap();
    let mut node = Node::start(folder.path()).await;
    node.apply(MANIFESTS).await;
    let first = node.admin.issue_token(wish("r-1")).await.unwrap().into_inner();
    node.stop().await;

    let mut node = Node::start(folder.path()).await;
    let again = node.admin.issue_token(wish("r-1")).await.unwrap().into_inner();
    assert_eq!((again.consent_id, again.revision), (first.consent_id, first.revision));
    assert_eq!(node.names("consents").await.len(), 1);
    let other = node.admin.issue_token(wish("r-2")).await.unwrap().into_inner();
    assert_ne!(other.session_id, first.session_id);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_come_together_are_all_carried_out() {
    let folder = TempDir::new().unwrap();
    let mut node = Node::start(folder.path()).await;
    let admin = node.admin.clone();
    let writes = (0..40).map(|n| {
        let mut admin = admin.clone();
        let files = vec![file(&user(&format!("user-{n:02}@example.com")))];
        async move { admin.apply(v1::ApplyRequest { files, ..Default::default() }).await.unwrap().into_inner() }
    });
    let mut revisions: Vec<u64> = join_all(writes).await.into_iter().map(|applied| applied.revision).collect();
    revisions.sort_unstable();
    revisions.dedup();
    assert_eq!(revisions.len(), 40, "each has a revision of its own");
    assert_eq!(node.names("users").await.len(), 40);

    // The same write many times at once: one revision.
    let writes = (0..8).map(|_| {
        let mut admin = admin.clone();
        let files = vec![file(&user("same@example.com"))];
        let request = v1::ApplyRequest { files, request_id: "same".into(), dry_run: false };
        async move { admin.apply(request).await.unwrap().into_inner().revision }
    });
    let revisions = join_all(writes).await;
    assert!(revisions.iter().all(|revision| *revision == revisions[0]), "{revisions:?}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn problems_apply_nothing() {
    let folder = TempDir::new().unwrap();
    let mut node = Node::start(folder.path()).await;
    let before = node.revision().await;
    let text = MANIFESTS.replace("groups: [finance]", "gruops: [finance]");
    let applied = node.apply(&text).await;
    let problem = &applied.problems[0];
    assert_eq!((problem.file.as_str(), problem.line), ("test.yaml", 16), "{problem:?}");
    assert!(problem.message.contains("gruops") || problem.key.contains("gruops"), "{problem:?}");
    let missing = node.apply(&MANIFESTS.replace("owner: jane", "owner: john")).await;
    assert!(!missing.problems.is_empty());
    let cedar = node.apply(&MANIFESTS.replace("resource.tier", "resource.teir")).await;
    assert!(!cedar.problems.is_empty());
    assert_eq!(node.revision().await, before);
    assert_eq!(node.names("users").await, [""; 0]);

    let request = v1::ApplyRequest { files: vec![file(MANIFESTS)], dry_run: true, request_id: String::new() };
    let rehearsed = node.admin.apply(request).await.unwrap().into_inner();
    assert_eq!(rehearsed.changes.len(), 5);
    assert_eq!(node.revision().await, before, "a dry run writes nothing");

    node.apply(MANIFESTS).await;
    let used = v1::ResourceRef { kind: "user".into(), name: "jane@example.com".into() };
    let request = v1::DeleteRequest { resources: vec![used], ..Default::default() };
    let deleted = node.admin.delete(request).await.unwrap().into_inner();
    assert!(!deleted.problems.is_empty(), "an owner cannot go before the agent");
    let files = vec![file(MANIFESTS)];
    let deleted = node.admin.delete(v1::DeleteRequest { files, ..Default::default() }).await.unwrap().into_inner();
    assert_eq!(deleted.problems, []);
    assert_eq!(node.names("users").await, [""; 0]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issued_token_verifies_with_the_published_keys() {
    let folder = TempDir::new().unwrap();
    let mut node = Node::start(folder.path()).await;
    node.apply(MANIFESTS).await;
    let issued = node.admin.issue_token(wish("")).await.unwrap().into_inner();
    assert_eq!(issued.resource, "http://127.0.0.1:8420/mcp/finance");
    assert_eq!((issued.level.as_str(), issued.expires_in), ("retrieval", 600));

    let (status, body) = get(node.http, "/.well-known/jwks.json");
    assert!(status.contains("200"), "{status}");
    let set: serde_json::Value = serde_json::from_str(&body).unwrap();
    let jwk = &set["keys"][0];
    let text = jwk.to_string();
    let keys = VerifyingKeys::from_jwks([(jwk["kid"].as_str().unwrap(), jwk["alg"].as_str().unwrap(), text.as_str())]);
    let expect = Expect { issuer: "http://127.0.0.1:8430", audience: &issued.resource };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let claims = keys.unwrap().verify(&issued.access_token, &expect, i64::try_from(now).unwrap()).unwrap();
    assert_eq!((claims.sub.as_str(), claims.agent_sub.as_str()), ("jane@example.com", "coding-assistant"));
    assert_eq!((claims.consent_id, claims.sid), (issued.consent_id, issued.session_id));
    assert_eq!((claims.scope.as_str(), claims.project_id.as_str()), ("mcp:tools", "platform"));

    let (_, metadata) = get(node.http, "/.well-known/oauth-authorization-server");
    let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
    assert_eq!(metadata["issuer"], "http://127.0.0.1:8430");
    assert!(get(node.http, "/nothing").0.contains("404"));
    assert!(get(node.ops, "/readyz").0.contains("200"));

    let unknown = v1::IssueTokenRequest { user: "john@example.com".into(), ..wish("") };
    assert_eq!(node.admin.issue_token(unknown).await.unwrap_err().code(), tonic::Code::NotFound);
    let level = v1::IssueTokenRequest { level: "everything".into(), ..wish("") };
    assert_eq!(node.admin.issue_token(level).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_are_pinned_by_the_apply_that_registers_their_server() {
    let folder = TempDir::new().unwrap();
    let mut node = Node::start(folder.path()).await;
    let mut plane = DataPlane::connect(&node, "dp-1").await;
    plane.tools.insert("finance".into(), vec![tool("query_data", true), tool("create_charge", false)]);
    plane.until(1).await;
    let mut admin = node.admin.clone();
    let files = vec![file(MANIFESTS)];
    let applying = admin.apply(v1::ApplyRequest { files, ..Default::default() });
    let listening = async {
        loop {
            plane.step().await;
        }
    };
    let applied = tokio::select! {
        applied = applying => applied.unwrap().into_inner(),
        () = listening => unreachable!(),
    };
    assert_eq!(applied.problems, []);
    plane.until(applied.revision).await;
    assert!(plane.entries.get("tool/finance/query_data").is_some());
    let server = v1::GetRequest { kind: "server".into(), name: "finance".into() };
    let shown = node.admin.get(server).await.unwrap().into_inner().items;
    assert!(shown[0].contains("\"approved\"") && shown[0].contains("\"retrieval\""), "{shown:?}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_history_cannot_be_committed() {
    let folder = TempDir::new().unwrap();
    let mut node = Node::start(folder.path()).await;
    let latest = v1::LatestCheckpointRequest { origin: "log".into() };
    assert_eq!(node.checkpoints.latest(latest.clone()).await.unwrap().into_inner().size, 0);
    let commit = |root: u8| v1::CommitCheckpointRequest {
        origin: "log".into(),
        old_size: 0,
        size: 3,
        root: vec![root; 32],
        consistency: Vec::new(),
    };
    node.checkpoints.commit(commit(1)).await.unwrap();
    let other = node.checkpoints.commit(commit(2)).await.unwrap_err();
    assert_eq!(other.code(), tonic::Code::FailedPrecondition);
    let kept = node.checkpoints.latest(latest).await.unwrap().into_inner();
    assert_eq!((kept.size, kept.root), (3, vec![1; 32]));
    node.stop().await;
}

/// A node stops within bounds although a stream is open.
#[tokio::test(flavor = "multi_thread")]
async fn shutdown_ends_open_streams() {
    let folder = TempDir::new().unwrap();
    let node = Node::start(folder.path()).await;
    let mut plane = DataPlane::connect(&node, "dp-1").await;
    plane.until(1).await;
    tokio::time::timeout(WAIT_MAX, node.stop()).await.unwrap();
}

fn wish(request_id: &str) -> v1::IssueTokenRequest {
    v1::IssueTokenRequest {
        user: "jane@example.com".into(),
        agent: "coding-assistant".into(),
        virtual_server: "finance".into(),
        level: "retrieval".into(),
        ttl_seconds: 600,
        reason: "test".into(),
        request_id: request_id.into(),
        binding_alg: String::new(),
        dpop_jkt: String::new(),
    }
}

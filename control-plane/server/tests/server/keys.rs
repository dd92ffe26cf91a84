//! Rotation of the cluster's own keys among three control planes: tokens and keys agree everywhere, a node that was
//! down catches up, and a leader that goes away leaves nobody stuck.

use std::time::{SystemTime, UNIX_EPOCH};

use bailiwick_control_plane::ControlPlaneConfig;
use bailiwick_proto::v1;
use bailiwick_token::{Claims, Expect, VerifyingKeys};
use futures::future::join;
use serde_json::Value;
use tempfile::TempDir;
use tonic::{Code, Status};

use crate::{
    cluster::{Node, eventually, three},
    support::{MANIFESTS, file, get},
};

/// Of every node of a cluster, as it is by default.
const ISSUER: &str = "http://127.0.0.1:8430";

fn wish(kind: &str, at_once: bool, request_id: &str) -> v1::RotateKeyRequest {
    v1::RotateKeyRequest { kind: kind.into(), at_once, reason: "OPS-1".into(), request_id: request_id.into() }
}

async fn rotate(node: &Node, wish: v1::RotateKeyRequest) -> Result<v1::RotateKeyResponse, Status> {
    node.admin().rotate_key(wish).await.map(tonic::Response::into_inner)
}

async fn keys(node: &Node) -> Vec<(String, String, String)> {
    let listed = node.admin().list_keys(v1::ListKeysRequest {}).await.unwrap().into_inner();
    listed.keys.into_iter().map(|key| (key.kind, key.id, key.state)).collect()
}

/// The ids in the published set.
fn published(node: &Node) -> Vec<Value> {
    let (status, body) = get(node.http(), "/.well-known/jwks.json");
    assert!(status.contains("200"), "{status}");
    serde_json::from_str::<Value>(&body).unwrap()["keys"].as_array().unwrap().clone()
}

/// The ids in the set of those that sign contexts.
fn of_contexts(node: &Node) -> Vec<String> {
    let (status, body) = get(node.http(), "/.well-known/context-jwks.json");
    assert!(status.contains("200") && !body.contains("\"d\""), "{status}");
    let set: Value = serde_json::from_str(&body).unwrap();
    set["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_contexts_are_published_alike_by_every_node_and_by_none_as_keys_of_tokens() {
    let folder = TempDir::new().unwrap();
    let nodes = cluster(&folder).await;
    let first = of_contexts(&nodes[0]);
    let rotated = rotate(&nodes[2], wish("context-signing", false, "")).await.unwrap();
    assert_eq!((rotated.kept[0].id.as_str(), rotated.silent.len()), (first[0].as_str(), 0));
    let both = [rotated.key.clone(), first[0].clone()];
    for node in &nodes {
        assert_eq!(of_contexts(node), both);
        assert!(published(node).iter().all(|key| !both.iter().any(|kid| key["kid"] == kid.as_str())));
    }
    let last = rotate(&nodes[0], wish("context-signing", true, "")).await.unwrap();
    for node in &nodes {
        assert_eq!(of_contexts(node), std::slice::from_ref(&last.key));
    }
    stop(nodes).await;
}

/// What a token says to somebody who verifies it with what this node publishes.
fn verified(node: &Node, issued: &v1::IssueTokenResponse) -> Option<Claims> {
    let set = published(node);
    let text = |jwk: &Value, name: &str| jwk[name].as_str().unwrap().to_owned();
    let keys: Vec<_> = set.iter().map(|jwk| (text(jwk, "kid"), text(jwk, "alg"), jwk.to_string())).collect();
    let keys = keys.iter().map(|(kid, alg, jwk)| (kid.as_str(), alg.as_str(), jwk.as_str()));
    let expect = Expect { issuer: ISSUER, audience: &issued.resource };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    VerifyingKeys::from_jwks(keys).unwrap().verify(&issued.access_token, &expect, i64::try_from(now).unwrap()).ok()
}

async fn issued(node: &Node) -> v1::IssueTokenResponse {
    let wish = v1::IssueTokenRequest {
        user: "jane@example.com".into(),
        agent: "coding-assistant".into(),
        virtual_server: "finance".into(),
        ttl_seconds: 600,
        ..v1::IssueTokenRequest::default()
    };
    node.admin().issue_token(wish).await.unwrap().into_inner()
}

async fn cluster(folder: &TempDir) -> [Node; 3] {
    let nodes = three(folder.path()).await;
    let files = vec![file(MANIFESTS)];
    let applied = nodes[0].admin().apply(v1::ApplyRequest { files, ..v1::ApplyRequest::default() }).await.unwrap();
    assert_eq!(applied.into_inner().problems, []);
    nodes
}

async fn stop(nodes: impl IntoIterator<Item = Node>) {
    for mut node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_verify_before_and_after_wherever_they_are_asked_for_and_at_once_ends_them() {
    let folder = TempDir::new().unwrap();
    let nodes = cluster(&folder).await;
    let before = issued(&nodes[1]).await;
    let first = published(&nodes[0])[0]["kid"].as_str().unwrap().to_owned();

    let rotated = rotate(&nodes[2], wish("token-signing", false, "r-1")).await.unwrap();
    assert_eq!((rotated.kept[0].id.as_str(), rotated.consents), (first.as_str(), 1));
    assert_eq!(rotated.silent, Vec::<String>::new());
    assert!(rotated.kept[0].until > 0 && rotated.key != first);
    let again = rotate(&nodes[0], wish("token-signing", false, "r-1")).await.unwrap();
    assert_eq!((again.key, again.revision), (rotated.key.clone(), rotated.revision), "carried out once");
    for node in &nodes {
        assert_eq!(published(node).len(), 2);
        let after = issued(node).await;
        let claims = verified(node, &after).unwrap();
        assert!(claims.min_revision >= Some(rotated.revision), "no data plane meets a key it does not know");
        assert!(verified(node, &before).is_some());
        let expected = [("token-signing", rotated.key.as_str(), "in use"), ("token-signing", first.as_str(), "kept")];
        let listed = keys(node).await;
        let listed: Vec<_> =
            listed.iter().map(|(kind, id, state)| (kind.as_str(), id.as_str(), state.as_str())).collect();
        assert_eq!(listed[..2], expected);
        assert_eq!((listed.len(), listed[2].0, listed[2].2), (5, "authorization", "in use"));
    }

    let last = rotate(&nodes[1], wish("token-signing", true, "")).await.unwrap();
    assert_eq!((last.kept.len(), last.consents, last.silent.len()), (0, 4, 0));
    for node in &nodes {
        assert_eq!(published(node).len(), 1);
        assert!(verified(node, &before).is_none());
        assert!(verified(node, &issued(node).await).is_some());
    }
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_down_comes_back_with_the_keys_there_are() {
    let folder = TempDir::new().unwrap();
    let mut nodes = cluster(&folder).await;
    nodes[2].stop().await;
    for kind in ["token-signing", "authorization"] {
        let rotated = eventually("two go on", async || rotate(&nodes[0], wish(kind, false, kind)).await.ok()).await;
        assert_eq!(rotated.silent, ["cp-3"], "it is named, and holds nothing up");
    }
    let before = keys(&nodes[0]).await;
    assert_eq!(before.len(), 6);
    nodes[2] = Node::start(nodes[2].config.clone()).await;
    eventually("it is back", async || {
        let listed = nodes[2].admin().list_keys(v1::ListKeysRequest {}).await.ok()?.into_inner();
        (listed.keys.len() == 6).then_some(())
    })
    .await;
    assert_eq!(keys(&nodes[2]).await, before);
    let token = eventually("it issues", async || {
        let issued = issued(&nodes[2]).await;
        verified(&nodes[2], &issued)
    })
    .await;
    assert!(token.min_revision.is_some());
    // After restarts of all, keys are what they were.
    for node in &mut nodes {
        node.restart().await;
    }
    let listed = eventually("they are back", async || {
        let listed = nodes[0].admin().list_keys(v1::ListKeysRequest {}).await.ok()?.into_inner();
        Some(listed.keys.len())
    })
    .await;
    assert_eq!(listed, 6);
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_goes_away_in_the_middle_leaves_one_key_in_use_and_the_same_request_completes() {
    let folder = TempDir::new().unwrap();
    let mut nodes = cluster(&folder).await;
    for round in 0..3 {
        let members = nodes[0].members().await;
        let leader = members.iter().find(|one| one.leader).unwrap().name.clone();
        let at = nodes.iter().position(|node| node.config.node == leader).unwrap();
        let other = (at + 1) % nodes.len();
        let request = format!("r-{round}");
        let mut admin = nodes[other].admin();
        let (first, ()) = join(admin.rotate_key(wish("token-signing", false, &request)), nodes[at].stop()).await;
        let done = eventually("the request completes", async || {
            rotate(&nodes[other], wish("token-signing", false, &request)).await.ok()
        })
        .await;
        if let Ok(first) = first {
            assert_eq!(first.into_inner().revision, done.revision);
        }
        nodes[at] = Node::start(nodes[at].config.clone()).await;
        eventually("all are back", async || {
            let members = nodes[at].members().await;
            (members.iter().filter(|one| one.reachable).count() == 3).then_some(())
        })
        .await;
        for node in &nodes {
            let listed = keys(node).await;
            let in_use: Vec<_> = listed.iter().filter(|key| key.0 == "token-signing" && key.2 == "in use").collect();
            assert_eq!(in_use.len(), 1, "{listed:?}");
            assert_eq!(in_use[0].1, done.key);
            let issued = issued(node).await;
            assert!(verified(node, &issued).is_some(), "no node is stuck");
        }
        assert_eq!(published(&nodes[0]).len(), 2 + round, "each request made one key");
    }
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fourth_authorization_key_is_refused_until_one_may_go_and_wishes_without_sense_are() {
    let folder = TempDir::new().unwrap();
    let first = ControlPlaneConfig { found: true, ..crate::cluster::config(folder.path(), "cp-1") };
    let node = Node::start(first).await;
    for _ in 0..2 {
        rotate(&node, wish("authorization", false, "")).await.unwrap();
    }
    let refused = rotate(&node, wish("authorization", false, "")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains("--at-once"), "{refused}");
    let done = rotate(&node, wish("authorization", true, "")).await.unwrap();
    assert_eq!((done.kept.len(), done.consents), (0, 0));
    for (kind, reason) in [("", String::new()), ("authority", String::new()), ("authorization", "x".repeat(2_000))] {
        let wish = v1::RotateKeyRequest { kind: kind.into(), reason, ..v1::RotateKeyRequest::default() };
        assert_eq!(rotate(&node, wish).await.unwrap_err().code(), Code::InvalidArgument);
    }
    stop([node]).await;
}

//! The master key of a running cluster: rotated under writes, refused while a member lacks the new one, missed at
//! start.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use bailiwick_control_plane::{ControlPlaneConfig, serve};
use bailiwick_proto::v1;
use bailiwick_runtime::{EventStream, MasterKeyConfig, Shutdown};
use futures::future::join;
use tempfile::TempDir;
use tonic::Code;

use crate::cluster::{Node, apply, config, eventually, users, write};

const OLD: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const NEW: &str = "ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1eff";
const NAMES: [&str; 3] = ["cp-1", "cp-2", "cp-3"];

fn hold(folder: &Path, name: &str, keys: &[&str]) -> MasterKeyConfig {
    let path = folder.join(format!("{name}.master"));
    fs::write(&path, keys.join("\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    MasterKeyConfig::from_file(path)
}

async fn three(folder: &Path) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    for name in NAMES {
        let mut config = ControlPlaneConfig { master_key: hold(folder, name, &[OLD]), ..config(folder, name) };
        match nodes.first() {
            None => config.found = true,
            Some(first) => {
                config.join_token = Some(first.join_token("control-plane", name).await);
                config.join = vec![format!("https://{}", first.config.listen)];
            }
        }
        nodes.push(Node::start(config).await);
    }
    nodes[0].until_voters(&NAMES).await;
    nodes
}

async fn rotate(node: &Node) -> Result<v1::RotateMasterKeyResponse, tonic::Status> {
    let request = v1::RotateMasterKeyRequest { request_id: String::new() };
    node.cluster().rotate_master_key(request).await.map(tonic::Response::into_inner)
}

fn wish(request_id: &str) -> v1::IssueTokenRequest {
    v1::IssueTokenRequest { user: "nobody".into(), request_id: request_id.into(), ..v1::IssueTokenRequest::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_master_key_of_three_is_rotated_while_writes_go_on_and_the_old_one_can_go() {
    let folder = TempDir::new().unwrap();
    let mut nodes = three(folder.path()).await;
    for name in ["cp-1", "cp-2"] {
        hold(folder.path(), name, &[NEW, OLD]);
    }
    // Whoever leads: it has the new key and a member lacks it, or it lacks it itself and rotates to what all have.
    if let Err(refused) = rotate(&nodes[0]).await {
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(refused.message().contains("cp-3"), "{refused}");
    }
    hold(folder.path(), "cp-3", &[NEW, OLD]);
    let channels: Vec<_> = nodes.iter().map(|node| node.channel.clone()).collect();
    let writing = async {
        for number in 0..40 {
            write(&channels, apply(&format!("u{number}@example.com"), &format!("w-{number}"))).await.unwrap();
        }
    };
    let (rotated, ()) = join(rotate(&nodes[1]), writing).await;
    let rotated = rotated.unwrap();
    assert_eq!(rotated.secrets, 6);
    for name in NAMES {
        let file = folder.path().join(name).join("keys/identity.key");
        eventually("the node's own files follow", async || {
            fs::read_to_string(&file).unwrap().contains(&rotated.master_key).then_some(())
        })
        .await;
        hold(folder.path(), name, &[NEW]);
    }
    for node in &mut nodes {
        node.restart().await;
    }
    nodes[0].until_voters(&NAMES).await;
    eventually("everything is there under the new key alone", async || {
        let listed = nodes[2].members().await;
        let held = listed.iter().filter(|one| one.master_keys == [rotated.master_key.as_str()]).count();
        (held == 3).then_some(())
    })
    .await;
    assert_eq!(users(&nodes[2]).await, 40);
    // The token key opens: what is refused is the wish, not the signing.
    let refused = nodes[0].admin().issue_token(wish("t-1")).await.unwrap_err();
    assert_ne!(refused.code(), Code::Unavailable, "{refused}");
    for node in &mut nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_another_master_key_does_not_start_and_says_which_it_needs() {
    let folder = TempDir::new().unwrap();
    let config = ControlPlaneConfig {
        master_key: hold(folder.path(), "cp-1", &[OLD]),
        found: true,
        ..config(folder.path(), "cp-1")
    };
    let mut node = Node::start(config.clone()).await;
    let held = node.members().await.remove(0).master_keys;
    node.stop().await;
    for (keys, advice) in [(&[NEW][..], held[0].as_str()), (&[], "there is no key")] {
        hold(folder.path(), "cp-1", keys);
        let refused = serve(config.clone(), EventStream::in_process(), Shutdown::new()).await.unwrap_err().to_string();
        assert!(refused.contains(advice), "{refused}");
    }
    // Nor when only the replicated secrets are under a key that is gone.
    hold(folder.path(), "cp-1", &[NEW, OLD]);
    Node::start(config.clone()).await.stop().await;
    hold(folder.path(), "cp-1", &[NEW]);
    let refused = serve(config, EventStream::in_process(), Shutdown::new()).await.unwrap_err().to_string();
    assert!(refused.contains("authority/1") && refused.contains(&held[0]), "{refused}");
    let inside = ControlPlaneConfig {
        master_key: MasterKeyConfig::ensure_file(&folder.path().join("cp-9/master.key")).unwrap(),
        ..self::config(folder.path(), "cp-9")
    };
    let refused = serve(inside, EventStream::in_process(), Shutdown::new()).await.unwrap_err().to_string();
    assert!(refused.contains("move it out"), "{refused}");
}

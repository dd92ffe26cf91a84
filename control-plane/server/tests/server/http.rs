//! What a node says of itself over HTTP when its issuer has a path (RFC 8414 §3.1).

use bailiwick_control_plane::{ControlPlaneConfig, serve};
use bailiwick_runtime::{EventStream, MasterKeyConfig, Shutdown};
use tempfile::TempDir;

use crate::support::{WAIT_MAX, get};

const METADATA: &str = "/.well-known/oauth-authorization-server";

#[tokio::test(flavor = "multi_thread")]
async fn metadata_is_where_an_issuer_with_a_path_has_it_and_nowhere_else_below() {
    let (folder, shutdown) = (TempDir::new().unwrap(), Shutdown::new());
    let mut config = ControlPlaneConfig::embedded(folder.path().to_owned());
    config.issuer = "https://auth.example.com/tenants/one".into();
    config.master_key = MasterKeyConfig { key: Some("0123".repeat(16)), ..MasterKeyConfig::default() };
    let running = serve(config, EventStream::in_process(), shutdown.clone()).await.unwrap();
    for (below, is_there) in [
        ("/tenants/one", true),
        // As those have it that look at the host alone.
        ("", true),
        ("/tenants", false),
        ("/tenants/two", false),
        ("/tenants/one/more", false),
        ("/tenants/one/", false),
        ("/tenants//one", false),
        ("/TENANTS/one", false),
    ] {
        let (status, body) = get(running.http_addr, &format!("{METADATA}{below}"));
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        if is_there {
            assert!(status.contains("200"), "{below}: {status}");
            assert_eq!(body["issuer"], "https://auth.example.com/tenants/one", "{below}");
            assert_eq!(body["token_endpoint"], "https://auth.example.com/tenants/one/oauth/token", "{below}");
        } else {
            assert!(status.contains("404") && body["error"] == "not_found", "{below}: {status}");
        }
    }
    shutdown.request();
    tokio::time::timeout(WAIT_MAX, running.stopped()).await.unwrap().unwrap();
}

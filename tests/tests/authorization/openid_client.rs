//! npm `openid-client` as a relying party of this authorization server: with every way of proving who it is, for a
//! person and for itself.
//!
//! The driver is `tests/peers/openid_client.mjs`; what it checks itself is much of the proof. Beside `stock`, where the
//! same way is gone with the SDKs and with `oauth4webapi`.

use anyhow::{Result, ensure};
use bailiwick_tests::manifests::manifest;
use serde_json::{Value, json};

use crate::{
    AGENT, CLIENT, JANE, World,
    stock::{
        PORTAL, SECRET, SIGNING, are_on_record, client_key, is_served, is_told, prepare, run_alone, serve,
        signing_client,
    },
    text,
};

const DRIVER: &str = "openid_client.mjs";
/// A client that nobody is asked for.
const NIGHTLY: &str = "nightly";

/// The token says whose it is, as npm `jose` verified it.
fn is_janes(world: &World, said: &Value) -> Result<()> {
    let claims = &said["claims"];
    ensure!(claims["sub"] == JANE && claims["client_id"] == said["client"]["client_id"], "{claims:#}");
    ensure!(claims["aud"] == world.resource.as_str() && claims["iss"] == world.issuer.as_str(), "{claims:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn openid_client_finds_nothing_to_object_to_whichever_way_it_proves_who_it_is() -> Result<()> {
    let world = World::start().await?;
    prepare(&world)?;
    let file = signing_client(&world)?;
    let ways: [&[&str]; 6] = [
        &["--auth", "basic", "--client-id", PORTAL, "--proof", SECRET],
        &["--auth", "post", "--client-id", PORTAL, "--proof", SECRET],
        &["--auth", "key", "--client-id", SIGNING, "--proof", &file],
        &["--auth", "none", "--client-id", CLIENT],
        &["--auth", "none"],
        &["--auth", "post"],
    ];
    let mut clients = Vec::new();
    for arguments in ways {
        let served = serve(&world, "PEER_NODE", DRIVER, arguments).await?;
        is_served(&world, &served)?;
        let said = &served.said;
        is_janes(&world, said)?;
        is_told(said, arguments.contains(&"none"))?;
        // By the metadata every answer names its issuer: the library takes none that names another or nobody.
        let refused = &said["refused"];
        ensure!(refused["mixed"] == "OAUTH_INVALID_RESPONSE", "{refused:#}");
        ensure!(refused["bare"] == "OAUTH_INVALID_RESPONSE", "{refused:#}");
        clients.push(text(&said["client"], "client_id").to_owned());
    }
    are_on_record(&world, &clients).await
}

#[tokio::test(flavor = "multi_thread")]
async fn openid_client_signs_for_itself_where_nobody_is_asked() -> Result<()> {
    let world = World::start().await?;
    let (jwks, pem) = client_key()?;
    let headless = json!({"virtual_servers": ["shop"]});
    let spec = json!({
        "agent": AGENT, "auth": "private_key_jwt", "jwks": jwks, "headless": headless, "ceiling": "retrieval",
    });
    world.deployment.apply(&manifest("Client", NIGHTLY, &spec.to_string()))?;
    let file = world.deployment.data().join("client.pem");
    std::fs::write(&file, pem)?;
    let file = file.display().to_string();
    let arguments = ["--auth", "key", "--client-id", NIGHTLY, "--proof", &file, "credentials", "read"];
    let said = run_alone(&world, DRIVER, &arguments).await?;
    is_janes(&world, &said)?;
    ensure!(said["results"][0]["isError"] != true && said["results"][0].is_object(), "{said:#}");
    let tokens = &said["tokens"][0];
    ensure!(tokens.get("refresh_token").is_none() && tokens["scope"] == "mcp:read", "{tokens}");
    let refused = &said["refused"];
    ensure!(refused["resource"] == "invalid_target" && refused["scope"] == "invalid_scope", "{refused:#}");
    let told = &said["told"];
    ensure!(told["live"][0]["active"] == true && told["live"][0]["client_id"] == NIGHTLY, "{told:#}");
    ensure!(told["revoked"] == json!([{"active": false}]), "{told:#}");
    Ok(())
}

//! Rotation of the key that binding keys are sealed under, while bound tokens live; and at once.

use anyhow::Result;
use serde_json::json;

use super::{ENVELOPE, is_with_key, more, refreshing};
use crate::{CLIENT, World, text};

#[tokio::test(flavor = "multi_thread")]
async fn clients_get_bound_tokens_before_and_after_a_rotation() -> Result<()> {
    let world = World::start().await?;
    let code = world.code(CLIENT, "retrieval").await?;
    let before = world.post("/oauth/token", &more(world.redeeming(CLIENT, &code), &[ENVELOPE])).await?;
    is_with_key(&before, "before")?;
    let listed = world.deployment.cli_ok(&["keys", "list"])?;
    assert!(listed.lines().any(|line| line.contains("token-binding") && line.contains("in use")), "{listed}");
    let rotated = world.rotate("token-binding", &["--reason", "yearly"])?;
    assert_eq!(rotated["kept"].as_array().map(Vec::len), Some(1), "{rotated:#}");
    let form = more(refreshing(CLIENT, text(&before.body, "refresh_token")), &[ENVELOPE]);
    let after = world.post("/oauth/token", &form).await?;
    is_with_key(&after, "after")?;
    let event = world.event("binding_key_rotated").await?;
    assert_eq!((&event["key"], &event["reason"]), (&rotated["id"], &json!("yearly")));
    let said = world.deployment.cli_ok(&["keys", "rotate", "token-binding", "--at-once"])?;
    assert!(said.contains("bound before to a key given out with them"), "{said}");
    assert_eq!(text(&world.event("binding_key_retired").await?, "reason"), "replaced at once");
    let form = more(refreshing(CLIENT, text(&after.body, "refresh_token")), &[ENVELOPE]);
    is_with_key(&world.post("/oauth/token", &form).await?, "after that")?;
    Ok(())
}

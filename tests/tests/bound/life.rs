//! Bound tokens outlive nodes and keys; proofs do not.

use anyhow::{Result, ensure};
use bailiwick_tests::eventually;

use super::{Says, World, call_of, is_served, refusal};

#[tokio::test]
async fn a_node_that_was_restarted_takes_no_older_proof_and_opens_every_token() -> Result<()> {
    let mut world = World::start().await?;
    let jane = world.holder()?;
    for at in 0..2 {
        eventually("the token works", async || is_served(&jane.call(at, "read").await.ok()?).then_some(())).await?;
    }
    let used = jane.proof(Says::post(&call_of("erase")))?;
    ensure!(is_served(&jane.send(1, "erase", Some(&used)).await?), "it counts");
    let never_used = jane.proof(Says::post(&call_of("erase")))?;
    let node = world.deployment.role("data-plane")[1].name.clone();
    world.deployment.end(&node, "KILL").await?;
    world.deployment.up(&[]).await?;
    let jane = super::Holder { mcp: world.deployment.mcp.clone(), ..jane };
    for proof in [used, never_used] {
        let answer = jane.send(1, "erase", Some(&proof)).await?;
        ensure!(refusal(&answer) == (401, "proof_stale"), "{}", answer.text);
        ensure!(answer.body["error"]["data"]["serverTime"].is_u64(), "{}", answer.text);
    }
    let answer = jane.call(1, "erase").await?;
    ensure!(is_served(&answer), "the token needs nothing that the node had: {}", answer.text);
    Ok(())
}

#[tokio::test]
async fn a_rotated_key_goes_on_opening_tokens_and_one_that_somebody_has_does_not() -> Result<()> {
    let world = World::start().await?;
    let before = world.holder()?;
    for at in 0..2 {
        eventually("the token works", async || is_served(&before.call(at, "read").await.ok()?).then_some(())).await?;
    }
    world.deployment.cli_ok(&["keys", "rotate", "token-binding"])?;
    let after = world.holder()?;
    for at in 0..2 {
        eventually("of the new key", async || is_served(&after.call(at, "read").await.ok()?).then_some(())).await?;
        let answer = before.call(at, "read").await?;
        ensure!(is_served(&answer), "of the old key: {}", answer.text);
    }
    world.deployment.cli_ok(&["keys", "rotate", "token-binding", "--at-once", "--reason", "somebody has it"])?;
    let latest = world.holder()?;
    for at in 0..2 {
        eventually("of the latest key", async || is_served(&latest.call(at, "read").await.ok()?).then_some(())).await?;
        for gone in [&before, &after] {
            eventually("those of the keys before it end", async || {
                (refusal(&gone.call(at, "read").await.ok()?) == (401, "token_signature")).then_some(())
            })
            .await?;
        }
    }
    Ok(())
}

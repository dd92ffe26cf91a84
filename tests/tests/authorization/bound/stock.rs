//! Other people's clients bind tokens to keys of theirs: npm `openid-client`, `oauth4webapi` and the official SDK, each with
//! its own nonce and proofs, through authorization, redemption, refresh, and a call at a data plane.
//!
//! The driver is `tests/peers/dpop_client.mjs`; what it checks itself is much of the proof.

use anyhow::{Context, Result, ensure};

use crate::{CLIENT, JANE, World, stock, text};

const DRIVER: &str = "dpop_client.mjs";

#[tokio::test(flavor = "multi_thread")]
async fn other_peoples_clients_get_tokens_of_their_keys_and_call_with_them() -> Result<()> {
    let world = World::start().await?;
    let (libraries, algs) = (["openid-client", "oauth4webapi", "sdk"], ["ES256", "EdDSA"]);
    for library in libraries {
        for alg in algs {
            let arguments = ["--client-id", CLIENT, "--library", library, "--alg", alg];
            let said = stock::serve(&world, "PEER_NODE", DRIVER, &arguments).await?.said;
            let [first, second] = [&said["tokens"][0], &said["tokens"][1]];
            for tokens in [first, second] {
                ensure!(text(tokens, "token_type").eq_ignore_ascii_case("dpop"), "{library} {alg}: {tokens}");
                let claims = super::claims(tokens)?;
                ensure!(claims["cnf"]["jkt"] == said["jkt"] && claims["sub"] == JANE, "{library} {alg}: {claims}");
            }
            ensure!(first["access_token"] != second["access_token"], "{library}: {said}");
            ensure!(said["refused"] == "invalid_grant", "with another key: {library} {alg}: {said}");
            ensure!(said["result"].is_object() && said["result"]["isError"] != true, "{library} {alg}: {said}");
            // The endpoint wants a nonce of its own, once.
            let statuses = said["statuses"].as_array().context("statuses")?;
            ensure!(statuses.first().is_some_and(|first| *first == 401), "{library} {alg}: {statuses:?}");
            ensure!(statuses.iter().filter(|status| **status == 401).count() == 1, "{library} {alg}: {statuses:?}");
        }
    }
    // Each call is two records.
    let count = 2 * libraries.len() * algs.len();
    let calls = world.deployment.records_of("tools/call", count).await?;
    ensure!(calls.len() == count, "{calls:#?}");
    for record in &calls {
        ensure!(record["binding"] == "bound" && record["tool"] == "charge", "{record:#}");
        ensure!(record["client"] == CLIENT && record["user"] == JANE, "{record:#}");
    }
    Ok(())
}

//! Other people's clients bind tokens to keys of theirs: npm `openid-client`, `oauth4webapi` and the official SDK, each with
//! its own nonce and proofs, through authorization, redemption and refresh.
//!
//! The driver is `tests/peers/dpop_client.mjs`; what it checks itself is much of the proof.

use anyhow::{Result, ensure};

use crate::{CLIENT, JANE, World, stock, text};

const DRIVER: &str = "dpop_client.mjs";

#[tokio::test(flavor = "multi_thread")]
async fn other_peoples_clients_get_tokens_of_their_keys() -> Result<()> {
    let world = World::start().await?;
    for library in ["openid-client", "oauth4webapi", "sdk"] {
        for alg in ["ES256", "EdDSA"] {
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
        }
    }
    Ok(())
}

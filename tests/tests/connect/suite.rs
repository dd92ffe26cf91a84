//! The official conformance suite with the bridge as its client: what it says of authorization, in each revision, and
//! of DPoP. `tests/peers/connect_client.mjs` starts the bridge for it, and is the person too.

use anyhow::{Result, ensure};
use bailiwick_tests::{
    conformance::{self, REVISIONS, Target},
    deployment::binary,
};

/// What both revisions have.
const EACH: [&str; 14] = [
    "auth/metadata-default",
    "auth/metadata-var1",
    "auth/metadata-var2",
    "auth/metadata-var3",
    "auth/basic-cimd",
    "auth/scope-from-www-authenticate",
    "auth/scope-from-scopes-supported",
    "auth/scope-omitted-when-undefined",
    "auth/scope-step-up",
    "auth/scope-retry-limit",
    "auth/token-endpoint-auth-basic",
    "auth/token-endpoint-auth-none",
    "auth/token-endpoint-auth-post",
    "auth/pre-registration",
];
/// What the later one has, and the extension for DPoP, which belongs to none.
const LATER: [&str; 13] = [
    "auth/resource-mismatch",
    "auth/offline-access-scope",
    "auth/offline-access-not-supported",
    "auth/authorization-server-migration",
    "auth/iss-supported",
    "auth/iss-not-advertised",
    "auth/iss-supported-missing",
    "auth/iss-wrong-issuer",
    "auth/iss-unexpected",
    "auth/iss-normalized",
    "auth/metadata-issuer-mismatch",
    "auth/dpop",
    "auth/dpop-nonce",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_official_suite_finds_what_the_list_says() -> Result<()> {
    for revision in REVISIONS {
        let later: &[&str] = if revision == REVISIONS[1] { &LATER } else { &[] };
        let scenarios = [&EACH, later].concat();
        let results =
            conformance::run(Target::Connect { bailiwick: &binary("bailiwick") }, revision, &scenarios).await?;
        ensure!(results.0.len() == scenarios.len(), "{:?}", results.0.keys());
        conformance::hold_to("connect", revision, &results.shortcomings())?;
        conformance::hold_counted("`bailiwick connect`", revision, results.passed_of(|_| true))?;
    }
    Ok(())
}

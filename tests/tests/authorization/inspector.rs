//! The Inspector's command line in its OAuth mode: it signs Jane in, goes on with what it keeps, refreshes that when it
//! is turned away, and signs her in anew.

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{Inspector, eventually, inspector::Ran};
use serde_json::Value;

use crate::{
    World,
    stock::{jane_allows, prepare},
    text,
};

const LIST: [&str; 2] = ["--method", "tools/list"];
const CALL: [&str; 4] = ["--method", "tools/call", "--tool-name", "charge"];

struct Desk {
    world: World,
    inspector: Inspector,
}

impl Desk {
    async fn run(&self, what: &[&str], more: &[&str]) -> Result<Ran> {
        let url = ["--server-url", &self.world.resource, "--transport", "http", "--protocol-era", "auto"];
        let jane = async |url: &str| jane_allows(&self.world, url, "transactional").await;
        self.inspector.run(&[&url, what, more].concat(), jane).await
    }

    /// The client that it is here, as it keeps it.
    fn client(&self) -> Result<String> {
        let stored = self.inspector.stored()?;
        let client = &stored["servers"][&self.world.resource]["byIssuer"][&self.world.issuer]["clientInformation"];
        Ok(client["client_id"].as_str().with_context(|| format!("{stored:#}"))?.to_owned())
    }

    /// What happened, by type.
    fn events(&self, word: &str) -> Result<Vec<Value>> {
        let records = self.world.deployment.audit(&["--kind", "control.event", "--limit", "400"])?;
        let events = records.into_iter().map(|record| record["control"].clone());
        Ok(events.filter(|event| event["type"] == word).collect())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inspector_signs_in_once_refreshes_and_signs_in_anew_where_it_is_told_to() -> Result<()> {
    let world = World::start().await?;
    prepare(&world)?;
    let desk = Desk { world, inspector: Inspector::new()? };
    let ran = desk.run(&LIST, &[]).await?;
    let tools = ran.result()?["tools"].as_array().context("tools")?;
    ensure!(tools.len() == 2 && ran.asked == 1, "{ran:#?}");
    let client = desk.client()?;

    // The next run goes on with what the first one got; one whose token is no good any more, with another.
    let ran = desk.run(&CALL, &[]).await?;
    ensure!(ran.result().is_ok() && ran.asked == 0, "{ran:#?}");
    ensure!(desk.events("token_refreshed")?.is_empty(), "its token was good");
    desk.inspector.spoil_token()?;
    let ran = desk.run(&CALL, &[]).await?;
    ensure!(ran.result().is_ok() && ran.asked == 0, "{ran:#?}");
    desk.world.event("token_refreshed").await?;

    // Told to refresh first, it looks for the authorization server where the MCP server is, finds none, and goes on
    // with what it has (its `refreshStoredAuthToken` reads another member than its sign-in wrote).
    let ran = desk.run(&CALL, &["--use-stored-auth"]).await?;
    ensure!(ran.result().is_ok() && ran.asked == 0, "{ran:#?}");

    // For the same reason it forgets without giving back: who signs in anew has two consents.
    let ran = desk.run(&CALL, &["--relogin"]).await?;
    ensure!(ran.result().is_ok() && ran.asked == 1, "{ran:#?}");
    ensure!(desk.client()? != client, "it registered anew");
    let granted = eventually("the second consent", async || {
        let granted = desk.events("consent_granted").ok()?;
        let hers: Vec<_> = granted.into_iter().filter(|event| text(event, "client").starts_with("r-")).collect();
        (hers.len() == 2).then_some(hers)
    });
    granted.await?;
    ensure!(desk.events("consent_revoked")?.is_empty(), "it gave the first one back");
    ensure!(desk.events("token_refreshed")?.len() == 1, "it refreshed when told to");
    Ok(())
}

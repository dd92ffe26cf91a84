//! The Inspector's command line in its enterprise-managed mode: Jane signs in at the company once, and every run gets a
//! token of its own by the company's word.
//!
//! It remembers the company (`ema-idp:` and `idpSessions` in what it keeps) apart from the server: `--relogin`, which
//! forgets the server alone, asks nobody, and has nothing to revoke, as no run has a refresh token.

use bailiwick_tests::{Inspector, inspector::Ran, visitor::Visitor};

use super::*;

const LIST: [&str; 2] = ["--method", "tools/list"];
const CALL: [&str; 4] = ["--method", "tools/call", "--tool-name", "charge"];

struct Desk {
    world: World,
    inspector: Inspector,
    config: String,
}

impl Desk {
    /// The Inspector is registered with the company and with us, and knows both.
    async fn new() -> Result<Self> {
        let world = World::start(Shape::Embedded).await?;
        let inspector = Inspector::new()?;
        let more = json!({
            "grant_types": ["authorization_code", TOKEN_EXCHANGE],
            "token_endpoint_auth_method": "client_secret_post",
        });
        let (client_id, secret) = world.provider.register(&inspector.callback, &more).await?;
        let idp = json!({"issuer": world.provider.issuer, "clientId": client_id, "clientSecret": secret});
        inspector.write(".mcp-inspector/storage/client.json", &json!({"enterpriseManagedAuth": {"idp": idp}}))?;
        let oauth = json!({"clientId": CLIENT, "clientSecret": SECRET, "enterpriseManaged": true});
        let shop = json!({"type": "streamable-http", "url": world.resource, "protocolEra": "auto", "oauth": oauth});
        let config = inspector.write("mcp.json", &json!({"mcpServers": {"shop": shop}}))?.display().to_string();
        Ok(Self { world, inspector, config })
    }

    async fn run(&self, what: &[&str], more: &[&str]) -> Result<Ran> {
        let of = ["--config", &self.config, "--server", "shop"];
        self.inspector.run(&[&of, what, more].concat(), jane_signs_in).await
    }

    /// How many tokens we gave by the company's word, once there are more than so many.
    async fn tokens_beyond(&self, before: usize) -> Result<usize> {
        eventually("another token", async || {
            let records = self.world.deployment.audit(&["--kind", "control.event", "--limit", "200"]).ok()?;
            let used = records.iter().filter(|record| record["control"]["type"] == "assertion_used").count();
            (used > before).then_some(used)
        })
        .await
    }
}

/// Jane at the company's provider: its own pages, until it sends her back to the client.
async fn jane_signs_in(url: &str) -> Result<String> {
    const FORMS_MAX: usize = 3;
    let mut jane = Visitor::new()?;
    let mut page = jane.go(url).await?;
    for _ in 0..FORMS_MAX {
        if page.elsewhere.is_some() {
            break;
        }
        let action = page.text.split_once(" action=\"").and_then(|(_, rest)| rest.split('"').next());
        let action = action.with_context(|| format!("{} at {}:\n{}", page.status, page.url, page.text))?;
        let action = url::Url::parse(&page.url)?.join(action)?;
        let prompt = page.field("prompt")?;
        page = jane.send(action.as_str(), &[("prompt", &prompt), ("login", "jane"), ("password", "any")]).await?;
    }
    page.elsewhere.with_context(|| format!("{} at {}:\n{}", page.status, page.url, page.text))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inspector_signs_in_at_the_company_once_and_gets_in_by_its_word() -> Result<()> {
    let desk = Desk::new().await?;
    let nobody = desk.run(&LIST, &["--stored-auth-only"]).await?;
    ensure!((nobody.status, nobody.asked) == (3, 0), "{nobody:#?}");
    let first = desk.run(&LIST, &[]).await?;
    let tools = first.result()?["tools"].as_array().context("tools")?;
    ensure!(tools.len() == TIERS.len() && first.asked == 1, "{first:#?}");
    // From now on nobody is asked, and each run has an assertion and a token of its own.
    // The first run got two: as she came back, and as it connected.
    let mut tokens = desk.tokens_beyond(1).await?;
    for more in [&[][..], &["--stored-auth-only"], &["--relogin"]] {
        let ran = desk.run(&CALL, more).await?;
        ensure!(ran.result().is_ok() && ran.asked == 0, "{more:?}: {ran:#?}");
        tokens = desk.tokens_beyond(tokens).await?;
    }
    let records = desk.world.deployment.records_of("tools/call", 6).await?;
    for record in records.iter().filter(|record| record["kind"] == "call.intent") {
        ensure!(record["user"] == JANE && record["client"] == CLIENT && record["agent"] == AGENT, "{record:#}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_company_or_we_take_away_the_inspector_has_no_more() -> Result<()> {
    let desk = Desk::new().await?;
    // It asks for every scope; the company lets it read, and we give no more.
    desk.world.provider.policy(&[desk.world.rule("mcp:read")]).await?;
    let ran = desk.run(&LIST, &[]).await?;
    let tools = ran.result()?["tools"].as_array().context("tools")?;
    ensure!(tools.len() == 1 && tools[0]["name"] == "read" && ran.asked == 1, "{ran:#?}");

    desk.world.provider.policy(&[]).await?;
    let ran = desk.run(&LIST, &[]).await?;
    ensure!(ran.status != 0 && ran.errors.contains("EMA leg 2") && ran.errors.contains("invalid_grant"), "{ran:#?}");
    desk.world.provider.policy(&[desk.world.rule("mcp:read")]).await?;
    desk.run(&LIST, &[]).await?.result()?;
    desk.world.deployment.apply(&client("another secret of the same client", ""))?;
    let ran = desk.run(&LIST, &[]).await?;
    ensure!(ran.status != 0 && ran.errors.contains("EMA leg 3") && ran.errors.contains("invalid_client"), "{ran:#?}");
    Ok(())
}

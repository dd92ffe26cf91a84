//! How pages look on a desk and on a telephone, by day and by night.

use anyhow::{Result, ensure};
use bailiwick_tests::{
    McpClient, ScriptedServer,
    browser::{Look, On},
    scripted::tool,
};

use super::{ALLOW, REASON, Screen};
use crate::{AGENT, CLIENT, JANE, text};

const MANY: usize = 40;

#[tokio::test]
async fn pages_fit_a_telephone_and_the_night() -> Result<()> {
    let mut screen = Screen::start().await?;
    let tiers = ["retrieval", "transactional", "destructive"];
    let many = (0..MANY).map(|number| {
        let name = format!("a_tool_with_quite_a_long_name_that_does_thing_number_{number:02}");
        let mut tool = tool(&name, tiers[number % 3]);
        tool["description"] =
            format!("Does thing number {number}, carefully, and says what came of it. {}", "W".repeat(60)).into();
        tool
    });
    let server = ScriptedServer::start(many.collect()).await?;
    screen.world.deployment.apply(&server.manifests("warehouse", "plain"))?;
    let issued = screen.world.deployment.token_for(JANE, AGENT, "warehouse", "destructive", "10m")?;
    let client = McpClient::new(&screen.world.deployment.mcp[0], "warehouse", text(&issued, "access_token"));
    let mut names: Vec<_> =
        (0..MANY).map(|number| format!("a_tool_with_quite_a_long_name_that_does_thing_number_{number:02}")).collect();
    names.sort();
    client.until_listed(&names.iter().map(String::as_str).collect::<Vec<_>>()).await?;

    let url = screen.question(CLIENT, "st-1").replace("%2Fshop", "%2Fwarehouse");
    screen.browser.goto(&url).await?;
    let looks =
        [("desk", Look::DESK), ("phone", Look::PHONE), ("dark", Look::DESK.dark()), ("phone-dark", Look::PHONE.dark())];
    for (name, look) in looks {
        screen.picture(&format!("sign-in-{name}"), look).await?;
    }
    screen.sign_in().await?;
    screen.reads("40 tools").await?;
    for (name, look) in looks {
        screen.picture(&format!("consent-{name}"), look).await?;
    }
    screen.browser.check(On::css("[name=level][value=destructive]")).await?;
    screen.browser.check(On::css("[name=only][value=listed]")).await?;
    assert_eq!(screen.browser.count(On::css("[name=tool]")).await?, MANY);
    for (name, look) in looks {
        screen.picture(&format!("narrowed-{name}"), look).await?;
    }
    screen.site.sleep(true);
    screen.browser.fill(REASON, "OPS-12").await?;
    screen.browser.click(ALLOW).await?;
    screen.site.arrival(0).await?;
    screen.reads("Going back").await?;
    screen.picture("leaving-phone", Look::PHONE).await?;
    screen.picture("leaving", Look::DESK).await?;
    screen.site.sleep(false);
    screen.browser.click(On::role("link", "Go on")).await?;
    screen.browser.wait_url("**/done").await?;
    screen.browser.goto(&screen.consents()).await?;
    for (name, look) in looks {
        screen.picture(&format!("consents-many-{name}"), look).await?;
    }
    ensure!(screen.browser.count(On::css(".card")).await? == 3);
    screen.is_by_itself().await
}

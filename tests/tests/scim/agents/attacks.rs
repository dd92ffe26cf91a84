//! What nobody honest asks for about agents.

use super::*;

const JANE: &str = "jane@corp.example";

/// Jane with an agent of her directory's, and one of a manifest's.
async fn world() -> Result<(Deployment, Directory, String, String)> {
    let deployment = Deployment::start_with(Shape::Embedded, &ON).await?;
    let directory = Directory::new(&deployment, "iga")?;
    let jane = directory.user(JANE).await?;
    let helper = directory.agent("helper", &jane).await?;
    let spec = format!("{{owner: {JANE}, project: payments, ceiling: destructive}}");
    deployment.apply(&manifest("Agent", "treasurer", &spec))?;
    Ok((deployment, directory, jane, helper))
}

fn seen(deployment: &Deployment, agent: &str) -> Result<Value> {
    let shown: Value = serde_json::from_str(&deployment.cli_ok(&["get", "agent", agent, "-o", "json"])?)?;
    Ok(shown["spec"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_are_for_nobody_without_a_good_token() -> Result<()> {
    let (deployment, directory, jane, helper) = world().await?;
    let path = format!("/Agents/{helper}");
    let cut: String = directory.token.chars().take(directory.token.len() - 1).collect();
    for token in [String::new(), "Bearer x".to_owned(), format!("Bearer {cut}")] {
        let body = || Some(agent("evil", &jane).to_string().into_bytes());
        for (method, path, body) in [
            (Method::GET, "/Agents", None),
            (Method::POST, "/Agents", body()),
            (Method::PUT, path.as_str(), body()),
            (Method::DELETE, path.as_str(), None),
        ] {
            directory.raw(method, path, body, &[("authorization", &token)]).await?.refused(401, "")?;
        }
    }
    ensure!(seen(&deployment, "helper")?.get("state").is_none());
    ensure!(deployment.cli(&["get", "agent", "evil"])?.status.code() == Some(1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_on_agents_are_filters() -> Result<()> {
    let (_deployment, directory, ..) = world().await?;
    for filter in [
        r#"agentUserName eq "x" or 1=1"#,
        r#"agentUserName eq "x"; delete"#,
        "owners[value eq",
        "owners[[value pr]]",
        "{\"$gt\": \"\"}",
        "urn:bailiwick:params:scim:schemas:extension:2.0:Agent:project eq \"a\" --",
    ] {
        let query = url::form_urlencoded::Serializer::new(String::new()).append_pair("filter", filter).finish();
        directory.get(&format!("/Agents?{query}")).await?.refused(400, "invalidFilter")?;
    }
    for nothing in [
        r#"agentUserName eq "*""#,
        r#"agentUserName eq "\" or agentUserName pr or agentUserName eq \"""#,
        r#"agentUserName eq "treasurer""#,
        r#"agentUserName eq "../helper""#,
        r#"userName eq "jane@corp.example""#,
    ] {
        ensure!(directory.finds("Agents", nothing).await? == 0, "{nothing}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_has_one_owner_who_is_there_and_active() -> Result<()> {
    let (deployment, directory, jane, helper) = world().await?;
    let gone = directory.user("gone@corp.example").await?;
    let off = json!([{"op": "replace", "path": "active", "value": false}]);
    directory.patch(&format!("/Users/{gone}"), off).await?.is(StatusCode::OK)?;
    let group = directory.group("Owners", &[&jane]).await?;
    let path = format!("/Agents/{helper}");
    for owners in [
        json!([{"value": jane}, {"value": gone}]),
        json!([{"value": gone}]),
        json!([{"value": group}]),
        json!([{"value": helper}]),
        json!([{"value": JANE}]),
        json!([{"value": "nobody"}]),
    ] {
        let mut sent = agent("second", &jane);
        sent["owners"] = owners.clone();
        directory.send(Method::POST, "/Agents", &sent).await?.refused(400, "invalidValue")?;
        sent["agentUserName"] = "helper".into();
        directory.send(Method::PUT, &path, &sent).await?.refused(400, "invalidValue")?;
        let patched = json!([{"op": "replace", "path": "owners", "value": owners}]);
        directory.patch(&path, patched).await?.refused(400, "invalidValue")?;
    }
    for none in [json!(null), json!([]), json!([{"display": JANE}]), json!([{"value": jane}, {"value": jane}])] {
        let mut sent = agent("second", &jane);
        sent["owners"] = none;
        directory.send(Method::POST, "/Agents", &sent).await?.refused(400, "invalidValue")?;
    }
    directory.patch(&path, json!([{"op": "remove", "path": "owners"}])).await?.refused(400, "mutability")?;
    ensure!(seen(&deployment, "helper")?["owner"] == JANE);
    ensure!(deployment.cli(&["get", "agent", "second"])?.status.code() == Some(1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_of_another_is_nobodys_to_take_over_and_no_name_becomes_another() -> Result<()> {
    let (deployment, directory, jane, helper) = world().await?;
    let before = seen(&deployment, "treasurer")?;
    directory.send(Method::POST, "/Agents", &agent("treasurer", &jane)).await?.refused(409, "uniqueness")?;
    directory.send(Method::POST, "/Agents", &agent("helper", &jane)).await?.refused(409, "uniqueness")?;
    for name in ["Treasurer", "treasurer ", "TREASURER", "../treasurer", "a b", "", &"x".repeat(200)] {
        directory.send(Method::POST, "/Agents", &agent(name, &jane)).await?.refused(400, "invalidValue")?;
    }
    let path = format!("/Agents/{helper}");
    for name in ["treasurer", "free"] {
        let renamed = json!([{"op": "replace", "path": "agentUserName", "value": name}]);
        directory.patch(&path, renamed).await?.refused(400, "mutability")?;
        directory.send(Method::PUT, &path, &agent(name, &jane)).await?.refused(400, "mutability")?;
    }
    // Nor by its name where an id belongs.
    for named in ["/Agents/treasurer", "/Agents/helper", &format!("/Agents/{jane}"), &format!("/Users/{helper}")] {
        directory.get(named).await?.refused(404, "")?;
        directory.raw(Method::DELETE, named, None, &[]).await?.refused(404, "")?;
    }
    ensure!(seen(&deployment, "treasurer")? == before);
    ensure!(directory.finds("Agents", "agentUserName pr").await? == 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_directory_says_gives_an_agent_more() -> Result<()> {
    let (deployment, directory, jane, helper) = world().await?;
    let path = format!("/Agents/{helper}");
    for ceiling in ["destructive", "transactional"] {
        let mut sent = agent("helper", &jane);
        sent[EXTENSION] = json!({"ceiling": ceiling, "clients": {"self_registered": true}, "active": true});
        sent["roles"] = json!([{"value": "admin"}]);
        let told = directory.send(Method::PUT, &path, &sent).await?.is(StatusCode::OK)?.body;
        ensure!(told[EXTENSION] == json!({"project": "sandbox", "ceiling": "retrieval"}), "{told}");
        for operation in [
            json!({"op": "replace", "path": format!("{EXTENSION}:ceiling"), "value": ceiling}),
            json!({"op": "add", "path": EXTENSION, "value": {"ceiling": ceiling}}),
        ] {
            directory.patch(&path, json!([operation])).await?.refused(400, "mutability")?;
        }
        let name = format!("second-{ceiling}");
        sent["agentUserName"] = name.clone().into();
        directory.send(Method::POST, "/Agents", &sent).await?.is(StatusCode::CREATED)?;
        let spec = seen(&deployment, &name)?;
        ensure!(spec["ceiling"] == "retrieval" && spec.get("clients").is_none(), "{spec}");
    }
    for project in ["payments", "*", "sandbox ", "Sandbox"] {
        let mut sent = agent("third", &jane);
        sent[EXTENSION] = json!({"project": project});
        directory.send(Method::POST, "/Agents", &sent).await?.refused(400, "invalidValue")?;
        sent["agentUserName"] = "helper".into();
        directory.send(Method::PUT, &path, &sent).await?.refused(400, "invalidValue")?;
    }
    let output = deployment.cli(&[
        "token",
        "issue",
        "--user",
        JANE,
        "--agent",
        "helper",
        "--virtual-server",
        "shop",
        "--level",
        "destructive",
    ])?;
    ensure!(output.status.code() == Some(1), "a token above the ceiling");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_of_agents_are_held_to() -> Result<()> {
    let (deployment, directory, jane, helper) = world().await?;
    let path = format!("/Agents/{helper}");
    let first = directory.get(&path).await?.tag;
    // What an administrator changes makes another version, too.
    deployment.cli_ok(&["agent", "pause", "helper", "--reason", "a look"])?;
    let second = directory.get(&path).await?.tag;
    ensure!(first != second);
    let body = || Some(agent("helper", &jane).to_string().into_bytes());
    let off = json!({"schemas": [crate::PATCH], "Operations": [{"op": "replace", "path": "active", "value": false}]});
    let off = || Some(off.to_string().into_bytes());
    for tag in [first.as_str(), "\"nonsense\"", "W/\"0\""] {
        directory.raw(Method::PUT, &path, body(), &[("if-match", tag)]).await?.refused(412, "")?;
        directory.raw(Method::PATCH, &path, off(), &[("if-match", tag)]).await?.refused(412, "")?;
        directory.raw(Method::DELETE, &path, None, &[("if-match", tag)]).await?.refused(412, "")?;
    }
    let third = directory.raw(Method::PATCH, &path, off(), &[("if-match", &second)]).await?.is(StatusCode::OK)?.tag;
    ensure!(third != second);
    directory.raw(Method::DELETE, &path, None, &[("if-match", &third)]).await?.is(StatusCode::NO_CONTENT)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_and_made_again_in_one_bulk_it_gives_nothing_of_before() -> Result<()> {
    let (deployment, directory, jane, helper) = world().await?;
    let spec = format!("{{owner: {JANE}, project: sandbox, ceiling: destructive}}");
    deployment.apply(&manifest("Agent", "helper", &spec))?;
    let operations = json!([
        {"method": "DELETE", "path": format!("/Agents/{helper}")},
        {"method": "POST", "path": "/Agents", "bulkId": "again", "data": agent("helper", &jane)},
    ]);
    let body = json!({"schemas": [BULK], "Operations": operations});
    let done = directory.send(Method::POST, "/Bulk", &body).await?.is(StatusCode::OK)?.body;
    ensure!(done["Operations"][0]["status"] == "204" && done["Operations"][1]["status"] == "409", "{done}");
    directory.send(Method::POST, "/Agents", &agent("helper", &jane)).await?.refused(409, "uniqueness")?;
    ensure!(seen(&deployment, "helper")?["state"] == "retired");
    // Once an administrator gave the name free, it is another agent's, with the least there is.
    deployment.cli_ok(&["delete", "agent", "helper"])?;
    directory.agent("helper", &jane).await?;
    ensure!(seen(&deployment, "helper")?["ceiling"] == "retrieval");
    Ok(())
}

//! Agents by SCIM, where the operator named a draft: from provisioning to the calls that they make, and where nobody
//! named one.
//!
//! Specifications: draft-wzdk-scim-agent-resource-00, draft-abbey-scim-agent-extension-00.

mod attacks;
mod lives;

use std::{fs, process::Command};

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{
    Deployment, Shape,
    deployment::binary,
    manifests::{manifest, policy, server, virtual_server},
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{BULK, Directory, SEARCH};

const AGENT: &str = "urn:ietf:params:scim:schemas:core:2.0:Agent";
const EXTENSION: &str = "urn:bailiwick:params:scim:schemas:extension:2.0:Agent";
const DRAFT: &str = "BAILIWICK_CONTROL_PLANE__SCIM_AGENTS__DRAFT";
const PROJECTS: &str = "BAILIWICK_CONTROL_PLANE__SCIM_AGENTS__PROJECTS";
pub(crate) const OWNER: &str = "BAILIWICK_CONTROL_PLANE__SCIM_AGENTS__OWNER";
const RESOURCE: &str = "draft-wzdk-scim-agent-resource-00";
const ABBEY: &str = "draft-abbey-scim-agent-extension-00";

/// With agents by the newer draft.
pub(crate) const ON: [(&str, &str); 2] = [(DRAFT, RESOURCE), (PROJECTS, "[\"sandbox\", \"lab\"]")];
/// With agents by the older draft, which knows no owner that a directory writes: one is configured.
pub(crate) const ON_ABBEY: [(&str, &str); 3] =
    [(DRAFT, ABBEY), (PROJECTS, "[\"sandbox\"]"), (OWNER, "operations@corp.example")];

fn agent(name: &str, owner: &str) -> Value {
    json!({"schemas": [AGENT], "agentUserName": name, "owners": [{"value": owner}]})
}

impl Directory {
    /// Makes an agent; the id.
    async fn agent(&self, name: &str, owner: &str) -> Result<String> {
        let made = self.send(Method::POST, "/Agents", &agent(name, owner)).await?.is(StatusCode::CREATED)?;
        Ok(made.body["id"].as_str().context("no id")?.to_owned())
    }

    /// Says whether an agent is active; whether it is then.
    async fn says(&self, id: &str, active: bool) -> Result<bool> {
        let said = json!([{"op": "replace", "path": "active", "value": active}]);
        let told = self.patch(&format!("/Agents/{id}"), said).await?.is(StatusCode::OK)?;
        told.body["active"].as_bool().context("no word on that")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_draft_is_named_there_are_no_agents() -> Result<()> {
    let deployment = Deployment::start(Shape::Embedded).await?;
    let directory = Directory::new(&deployment, "okta")?;
    let owner = directory.user("jane@corp.example").await?;
    for (method, path) in [
        (Method::GET, "/Agents"),
        (Method::POST, "/Agents"),
        (Method::POST, "/Agents/.search"),
        (Method::GET, "/Agents/x"),
        (Method::PUT, "/Agents/x"),
        (Method::PATCH, "/Agents/x"),
        (Method::DELETE, "/Agents/x"),
        (Method::GET, "/ResourceTypes/Agent"),
        (Method::GET, "/Schemas/urn:ietf:params:scim:schemas:core:2.0:Agent"),
    ] {
        let body = Some(agent("helper", &owner).to_string().into_bytes());
        directory.raw(method, path, body, &[]).await?.refused(404, "")?;
    }
    for path in ["/ServiceProviderConfig", "/ResourceTypes", "/Schemas"] {
        let told = directory.get(path).await?.is(StatusCode::OK)?.body.to_string();
        ensure!(!told.contains("\"Agent") && !told.contains("/Agents") && !told.contains("agentExtension"), "{told}");
    }
    let bulk = json!([{"method": "POST", "path": "/Agents", "bulkId": "a", "data": agent("helper", &owner)}]);
    let bulk = directory.send(Method::POST, "/Bulk", &json!({"schemas": [BULK], "Operations": bulk})).await?;
    ensure!(bulk.body["Operations"][0]["status"] == "400", "{}", bulk.body);
    ensure!(deployment.cli(&["get", "agent", "helper"])?.status.code() == Some(1));
    Ok(())
}

#[test]
fn a_draft_that_nobody_knows_is_a_mistake_of_the_configuration() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for (section, key) in [
        ("draft = \"draft-wzdk-scim-agent-resource-01\"\nprojects = [\"sandbox\"]", "scim_agents.draft"),
        ("draft = \"on\"\nprojects = [\"sandbox\"]", "scim_agents.draft"),
        ("draft = \"draft-wzdk-scim-agent-resource-00\"", "scim_agents.projects"),
        ("drafts = \"draft-wzdk-scim-agent-resource-00\"", "drafts"),
    ] {
        let file = folder.path().join("node.toml");
        let data = folder.path().join("data");
        fs::write(&file, format!("[control_plane]\ndata_dir = {data:?}\n[control_plane.scim_agents]\n{section}\n"))?;
        let output = Command::new(binary("bailiwick")).arg("control-plane").arg("--config").arg(&file).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(2) && said.contains(key), "{section}: {said}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_are_described_found_and_paged_like_people() -> Result<()> {
    let deployment = Deployment::start_with(Shape::Embedded, &ON).await?;
    let directory = Directory::new(&deployment, "iga")?;
    let jane = directory.user("jane@corp.example").await?;
    for path in ["/ResourceTypes/Agent".to_owned(), format!("/Schemas/{AGENT}"), format!("/Schemas/{EXTENSION}")] {
        directory.get(&path).await?.is(StatusCode::OK)?;
    }
    let mut sent = agent("helper-0", &jane);
    sent["externalId"] = "x-0".into();
    sent["description"] = "Books rooms".into();
    sent["displayName"] = "Room booker".into();
    sent[EXTENSION] = json!({"project": "lab"});
    let made = directory.send(Method::POST, "/Agents", &sent).await?.is(StatusCode::CREATED)?;
    let path = format!("/Agents/{}", made.body["id"].as_str().context("id")?);
    ensure!(made.headers["location"] == format!("{}{path}", directory.url), "{:?}", made.headers);
    let shown = directory.get(&path).await?.is(StatusCode::OK)?;
    ensure!(shown.body == made.body && shown.tag == made.tag && shown.body["meta"]["version"] == *shown.tag);
    ensure!(shown.body[EXTENSION] == json!({"project": "lab", "ceiling": "retrieval"}), "{}", shown.body);
    ensure!(shown.body["owners"][0]["value"] == *jane && shown.body["active"] == true, "{}", shown.body);
    for number in 1..7 {
        directory.agent(&format!("helper-{number}"), &jane).await?;
    }
    for (filter, found) in [
        (r#"agentUserName eq "helper-0""#, 1),
        (r#"agentUserName eq "HELPER-0""#, 1),
        (r#"externalId eq "x-0""#, 1),
        (r#"externalId eq "X-0""#, 0),
        (r#"displayName co "booker" and active eq true"#, 1),
        (r#"agentUserName sw "helper-""#, 7),
        (r#"not (description pr)"#, 6),
        (&format!("owners.value eq \"{jane}\""), 7),
        (&format!("owners[value eq \"{jane}\"]"), 7),
        (&format!("{EXTENSION}:project eq \"lab\""), 1),
        (&format!("{EXTENSION}:ceiling eq \"destructive\""), 0),
        (&format!("id eq \"{jane}\""), 0),
    ] {
        ensure!(directory.finds("Agents", filter).await? == found, "{filter}");
    }
    let page = directory.get("/Agents?startIndex=3&count=2&attributes=agentUserName").await?.is(StatusCode::OK)?.body;
    ensure!(page["totalResults"] == 7 && page["itemsPerPage"] == 2, "{page}");
    ensure!(page["Resources"][0]["agentUserName"] == "helper-2" && page["Resources"][0].get("owners").is_none());
    let all = json!({"schemas": [SEARCH], "startIndex": 8, "count": 1});
    let all = directory.send(Method::POST, "/.search", &all).await?.is(StatusCode::OK)?.body;
    ensure!(all["totalResults"] == 8 && all["Resources"][0]["agentUserName"] == "helper-6", "{all}");
    let fresh = directory.raw(Method::GET, &path, None, &[("if-none-match", &shown.tag)]).await?;
    ensure!(fresh.status == 304);
    // What was written comes back by PUT, whatever is left out of it.
    let again = directory.send(Method::PUT, &path, &shown.body).await?.is(StatusCode::OK)?;
    ensure!(again.tag == shown.tag, "nothing changed");
    let less = json!({"schemas": [AGENT], "agentUserName": "helper-0"});
    let less = directory.send(Method::PUT, &path, &less).await?.is(StatusCode::OK)?.body;
    ensure!(less.get("description").is_none() && less["owners"] == shown.body["owners"], "{less}");
    ensure!(less[EXTENSION]["project"] == "lab" && less["active"] == true, "{less}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_makes_an_owner_and_their_agent_in_whichever_order() -> Result<()> {
    let deployment = Deployment::start_with(Shape::Embedded, &ON).await?;
    let directory = Directory::new(&deployment, "iga")?;
    let user = json!({"schemas": [crate::USER], "userName": "jane@corp.example"});
    let operations = json!([
        {"method": "POST", "path": "/Agents", "bulkId": "a", "data": agent("helper", "bulkId:u")},
        {"method": "POST", "path": "/Users", "bulkId": "u", "data": user},
        {"method": "PATCH", "path": "/Agents/bulkId:a", "data": {"schemas": [crate::PATCH], "Operations": [
            {"op": "replace", "path": "active", "value": false}]}},
        {"method": "POST", "path": "/Agents", "bulkId": "b", "data": agent("orphan", "nobody")},
    ]);
    let body = json!({"schemas": [BULK], "Operations": operations});
    let done = directory.send(Method::POST, "/Bulk", &body).await?.is(StatusCode::OK)?.body;
    let statuses: Vec<&str> =
        done["Operations"].as_array().context("all")?.iter().filter_map(|one| one["status"].as_str()).collect();
    ensure!(statuses == ["201", "201", "200", "400"], "{done}");
    ensure!(directory.finds("Agents", r#"agentUserName eq "helper" and active eq false"#).await? == 1);
    Ok(())
}

//! What Okta and Entra ID send, in their ways of writing it, and what the service tells of itself.

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{Deployment, Shape};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{BULK, Directory, ENTERPRISE, GROUP, SEARCH, USER};

#[tokio::test(flavor = "multi_thread")]
async fn okta_provisions_updates_deactivates_and_pushes_groups() -> Result<()> {
    let deployment = Deployment::start(Shape::Embedded).await?;
    let okta = Directory::new(&deployment, "okta")?;
    ensure!(okta.finds("Users", r#"userName eq "isaac@corp.example""#).await? == 0);
    let sent = json!({
        "schemas": [USER], "userName": "isaac@corp.example", "externalId": "00ujl29u0le5T6Aj10h7", "active": true,
        "name": {"givenName": "Isaac", "familyName": "Brock"}, "password": "1mz050nq", "displayName": "Isaac Brock",
        "emails": [{"primary": true, "value": "isaac@corp.example", "type": "work"}], "locale": "en-US", "groups": [],
    });
    let made = okta.send(Method::POST, "/Users", &sent).await?.is(StatusCode::CREATED)?;
    let id = made.body["id"].as_str().context("id")?.to_owned();
    ensure!(made.body.get("password").is_none() && !made.body.to_string().contains("1mz050nq"), "{}", made.body);
    ensure!(made.headers["location"] == format!("{}/Users/{id}", okta.url), "{:?}", made.headers);
    ensure!(made.body["meta"]["version"] == made.tag && made.tag.starts_with("W/"), "{}", made.body);
    okta.send(Method::POST, "/Users", &sent).await?.refused(409, "uniqueness")?;
    ensure!(okta.finds("Users", r#"userName eq "ISAAC@corp.example""#).await? == 1);
    ensure!(okta.finds("Users", r#"externalId eq "00ujl29u0le5T6Aj10h7""#).await? == 1);
    // It writes back all it read, changed.
    let mut read = okta.get(&format!("/Users/{id}")).await?.body;
    read["name"]["givenName"] = "Zac".into();
    let replaced = okta.send(Method::PUT, &format!("/Users/{id}"), &read).await?.is(StatusCode::OK)?;
    ensure!(replaced.body["name"] == json!({"givenName": "Zac", "familyName": "Brock"}), "{}", replaced.body);
    let group = okta.group("Tour Promotion", &[]).await?;
    let added = json!([{"op": "add", "path": "members", "value": [{"value": id, "display": "isaac@corp.example"}]}]);
    okta.patch(&format!("/Groups/{group}"), added).await?.is(StatusCode::OK)?;
    let shown = okta.get(&format!("/Users/{id}")).await?.body;
    ensure!(shown["groups"][0]["value"] == group && shown["groups"][0]["display"] == "Tour Promotion", "{shown}");
    let user: Value =
        serde_json::from_str(&deployment.cli_ok(&["get", "user", "isaac@corp.example", "-o", "json"])?)?;
    ensure!(user.to_string().contains("Tour-Promotion"), "{user}");
    let renamed = json!([{"op": "replace", "value": {"id": group, "displayName": "Tours"}}]);
    okta.patch(&format!("/Groups/{group}"), renamed).await?.is(StatusCode::OK)?;
    let off = json!([{"op": "replace", "value": {"active": false}}]);
    let off = okta.patch(&format!("/Users/{id}"), off).await?.is(StatusCode::OK)?;
    ensure!(off.body["active"] == false, "{}", off.body);
    let on = json!([{"op": "replace", "value": {"active": true}}]);
    ensure!(okta.patch(&format!("/Users/{id}"), on).await?.body["active"] == true);
    okta.raw(Method::DELETE, &format!("/Groups/{group}"), None, &[]).await?.is(StatusCode::NO_CONTENT)?;
    okta.get(&format!("/Groups/{group}")).await?.refused(404, "")?;
    let recorded = bailiwick_tests::eventually("the ledger has it", async || {
        let records = deployment.audit(&["--kind", "control.event", "--limit", "1000"]).ok()?;
        let text = Value::Array(records).to_string();
        text.contains("group_deprovisioned").then_some(text)
    })
    .await?;
    ensure!(recorded.contains("person_provisioned") && !recorded.contains("Brock"), "the ledger holds attributes");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn entra_id_provisions_in_its_own_way_of_writing() -> Result<()> {
    let deployment = Deployment::start(Shape::Embedded).await?;
    let entra = Directory::new(&deployment, "entra")?;
    let sent = json!({
        "schemas": [USER, ENTERPRISE], "externalId": "0a21f0f2", "userName": "test@corp.example", "active": true,
        "emails": [{"primary": true, "type": "work", "value": "t@corp.example"}], "meta": {"resourceType": "User"},
        "name": {"formatted": "given family"}, "roles": [], (ENTERPRISE): {"department": "bob", "manager": "m-1"},
    });
    let id = entra.send(Method::POST, "/Users", &sent).await?.is(StatusCode::CREATED)?.body["id"].clone();
    let path = format!("/Users/{}", id.as_str().context("id")?);
    let changed = json!([
        {"op": "Replace", "path": "emails[type eq \"work\"].value", "value": "new@corp.example"},
        {"op": "Add", "path": "phoneNumbers[type eq \"mobile\"].value", "value": "1"},
        {"op": "Replace", "path": format!("{ENTERPRISE}:department"), "value": "alice"},
        {"op": "Replace", "path": "name.familyName", "value": "Doe"},
    ]);
    let changed = entra.patch(&path, changed).await?.is(StatusCode::OK)?.body;
    ensure!(changed["emails"][0]["value"] == "new@corp.example", "{changed}");
    ensure!(changed[ENTERPRISE] == json!({"department": "alice", "manager": {"value": "m-1"}}), "{changed}");
    let group = json!({"schemas": [GROUP], "displayName": "dGroup", "externalId": "8aa1a0c0", "members": []});
    let group = entra.send(Method::POST, "/Groups", &group).await?.is(StatusCode::CREATED)?.body["id"].clone();
    let group = format!("/Groups/{}", group.as_str().context("id")?);
    entra
        .patch(&group, json!([{"op": "Add", "path": "members", "value": [{"value": id}]}]))
        .await?
        .is(StatusCode::OK)?;
    let without = entra.get(&format!("{group}?excludedAttributes=members")).await?.is(StatusCode::OK)?;
    ensure!(without.body.get("members").is_none(), "{}", without.body);
    let is_member = format!("id eq \"{}\" and members eq {id}", group.get(8..).unwrap_or_default());
    ensure!(entra.finds("Groups", &is_member).await? == 1);
    let gone = json!([{"op": "Remove", "path": format!("members[value eq {id}]")}]);
    entra.patch(&group, gone.clone()).await?.is(StatusCode::OK)?;
    entra.patch(&group, gone).await?.is(StatusCode::OK)?;
    ensure!(entra.finds("Groups", &is_member).await? == 0);
    entra
        .patch(&group, json!([{"op": "Add", "path": "members", "value": [{"value": id}]}]))
        .await?
        .is(StatusCode::OK)?;
    entra
        .patch(&group, json!([{"op": "Remove", "path": "members", "value": [{"value": id}]}]))
        .await?
        .is(StatusCode::OK)?;
    ensure!(entra.finds("Groups", &is_member).await? == 0);
    let off = entra.patch(&path, json!([{"op": "Replace", "path": "active", "value": "False"}])).await?;
    ensure!(off.is(StatusCode::OK)?.body["active"] == false);
    let renamed = json!([{"op": "Replace", "path": "userName", "value": "married@corp.example"}]);
    let renamed = entra.patch(&path, renamed).await?.is(StatusCode::OK)?.body;
    ensure!(
        renamed["id"] == id && renamed["userName"] == "married@corp.example" && renamed["active"] == false,
        "{renamed}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_held_to() -> Result<()> {
    let deployment = Deployment::start(Shape::Embedded).await?;
    let directory = Directory::new(&deployment, "okta")?;
    let id = directory.user("a@corp.example").await?;
    let path = format!("/Users/{id}");
    let first = directory.get(&path).await?.tag;
    let fresh = directory.raw(Method::GET, &path, None, &[("if-none-match", &first)]).await?;
    ensure!(fresh.status == 304 && fresh.body.is_null());
    let write = async |title: &str, tag: &str| {
        let body = json!({"schemas": [USER], "userName": "a@corp.example", "title": title}).to_string().into_bytes();
        directory.raw(Method::PUT, &path, Some(body), &[("if-match", tag)]).await
    };
    let second = write("one", &first).await?.is(StatusCode::OK)?.tag;
    ensure!(second != first);
    write("two", &first).await?.refused(412, "")?;
    write("two", "\"nonsense\"").await?.refused(412, "")?;
    write("two", &format!("{first}, {second}")).await?.is(StatusCode::OK)?;
    write("three", "*").await?.is(StatusCode::OK)?;
    directory.raw(Method::DELETE, &path, None, &[("if-match", &second)]).await?.refused(412, "")?;
    ensure!(directory.get(&path).await?.body["title"] == "three");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_have_pages_and_searches_find_by_what_is_asked() -> Result<()> {
    let deployment = Deployment::start(Shape::Embedded).await?;
    let directory = Directory::new(&deployment, "okta")?;
    for n in 0..7 {
        directory.user(&format!("u{n}@corp.example")).await?;
    }
    let group = directory.group("Everybody", &[]).await?;
    let names = async |query: &str| -> Result<(u64, Vec<String>)> {
        let found = directory.get(&format!("/Users?{query}")).await?.is(StatusCode::OK)?.body;
        let names = found["Resources"].as_array().context("no resources")?.iter();
        let names = names.map(|one| one["userName"].as_str().unwrap_or_default().to_owned()).collect();
        Ok((found["totalResults"].as_u64().context("total")?, names))
    };
    ensure!(names("startIndex=3&count=2").await? == (7, vec!["u2@corp.example".into(), "u3@corp.example".into()]));
    ensure!(names("startIndex=0&count=1").await? == (7, vec!["u0@corp.example".into()]));
    ensure!(names("startIndex=99").await? == (7, vec![]) && names("count=0").await? == (7, vec![]));
    ensure!(names("count=-1").await? == (7, vec![]));
    ensure!(names("filter=userName%20co%20%225%22&attributes=userName").await? == (1, vec!["u5@corp.example".into()]));
    let all = json!({"schemas": [SEARCH], "startIndex": 7, "count": 2, "attributes": ["displayName", "userName"]});
    let all = directory.send(Method::POST, "/.search", &all).await?.is(StatusCode::OK)?.body;
    ensure!(all["totalResults"] == 8 && all["Resources"][0]["userName"] == "u6@corp.example", "{all}");
    ensure!(all["Resources"][1] == json!({"schemas": [GROUP], "id": group, "displayName": "Everybody"}), "{all}");
    for path in [
        "/Schemas",
        "/ResourceTypes",
        "/ServiceProviderConfig",
        "/Schemas/urn:ietf:params:scim:schemas:core:2.0:User",
        "/ResourceTypes/Group",
    ] {
        directory.get(path).await?.is(StatusCode::OK)?;
    }
    directory.get("/Schemas?filter=id%20pr").await?.refused(403, "")?;
    directory.get("/Me").await?.refused(404, "")?;
    directory.send(Method::PUT, "/Schemas", &json!({})).await?.refused(405, "")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_resolves_what_comes_later_and_stops_after_so_many_faults() -> Result<()> {
    let deployment = Deployment::start(Shape::Embedded).await?;
    let directory = Directory::new(&deployment, "okta")?;
    let user = |bulk_id: &str, name: &str| {
        json!({"method": "POST", "path": "/Users", "bulkId": bulk_id,
        "data": {"schemas": [USER], "userName": name}})
    };
    let group = |bulk_id: &str, name: &str, members: &[&str]| {
        let members: Vec<_> =
            members.iter().map(|one| json!({"value": format!("bulkId:{one}"), "type": "User"})).collect();
        json!({"method": "POST", "path": "/Groups", "bulkId": bulk_id,
            "data": {"schemas": [GROUP], "displayName": name, "members": members}})
    };
    let bulk = async |operations: Value, max: Option<u64>| {
        let mut body = json!({"schemas": [BULK], "Operations": operations});
        if let Some(max) = max {
            body["failOnErrors"] = max.into();
        }
        directory.send(Method::POST, "/Bulk", &body).await
    };
    let statuses = |answer: &Value| -> Vec<String> {
        answer["Operations"]
            .as_array()
            .map(|all| all.iter().map(|one| one["status"].as_str().unwrap_or_default().to_owned()).collect())
            .unwrap_or_default()
    };
    let mut boss = user("u1", "u1@corp.example");
    boss["data"][ENTERPRISE] = json!({"manager": {"value": "bulkId:u2"}});
    let done = bulk(
        json!([
            group("g1", "Ops", &["u1", "u2"]), boss, user("u2", "u2@corp.example"),
            {"method": "PATCH", "path": "/Users/bulkId:u2", "data": {"schemas": [crate::PATCH], "Operations": [
                {"op": "add", "path": "title", "value": "CFO"}]}},
        ]),
        None,
    )
    .await?
    .is(StatusCode::OK)?
    .body;
    ensure!(statuses(&done) == ["201", "201", "201", "200"], "{done}");
    let of = |at: usize| {
        done["Operations"][at]["location"]
            .as_str()
            .unwrap_or_default()
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    ensure!(directory.finds("Groups", &format!("members eq \"{}\"", of(2))).await? == 1);
    let shown = directory.get(&format!("/Users/{}", of(1))).await?.body;
    ensure!(shown[ENTERPRISE]["manager"]["value"] == of(2), "{shown}");
    ensure!(directory.get(&format!("/Users/{}", of(2))).await?.body["title"] == "CFO");
    // In circles, twice, of nothing.
    let done = bulk(
        json!([group("a", "A", &["b"]), group("b", "B", &["a"]), group("c", "C", &["nothing"]),
        user("d", "d1@x"), user("d", "d2@x"), user("e", "e@x"), {"method": "GET", "path": "/Users"}, 7,
        {"method": "POST", "path": "/Me", "bulkId": "m"}, {"method": "DELETE", "path": "/Users/none"}]),
        None,
    )
    .await?
    .body;
    ensure!(statuses(&done) == ["409", "409", "400", "400", "400", "201", "400", "400", "400", "404"], "{done}");
    let done = bulk(json!([user("a", "ok1@x"), user("b", "bad name"), user("c", "ok2@x")]), Some(1)).await?.body;
    ensure!(statuses(&done) == ["201", "400"], "{done}");
    ensure!(directory.finds("Users", r#"userName eq "ok2@x""#).await? == 0, "it went on");
    let done = bulk(json!([user("a", "ok3@x"), user("b", "bad name"), user("c", "ok4@x")]), Some(2)).await?.body;
    ensure!(statuses(&done) == ["201", "400", "201"], "{done}");
    Ok(())
}

//! What nobody honest sends: no token or a guessed one, filters that try to be something else, bombs.

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{Deployment, Shape};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{BULK, Directory, GROUP, PATCH, SEARCH, USER};

/// More failures than there are here: each is answered by what it is.
const PATIENT: [(&str, &str); 1] = [("BAILIWICK_CONTROL_PLANE__HTTP_LIMITS__FAILURES_BURST", "1000")];

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_let_in_without_a_good_token() -> Result<()> {
    let deployment = Deployment::start_with(Shape::Processes, &PATIENT).await?;
    let directory = Directory::new(&deployment, "okta")?;
    let good = directory.token.clone();
    let cut: String = good.chars().take(good.len() - 1).collect();
    let long = format!("Bearer {}", "x".repeat(5_000));
    let tokens = [
        String::new(),
        "Bearer ".to_owned(),
        "Bearer x".to_owned(),
        format!("Basic {good}"),
        format!("Bearer {cut}"),
        format!("Bearer {good}x"),
        format!("Bearer {}", good.to_uppercase()),
        format!("Bearer {good} {good}"),
        long,
    ];
    let body = || Some(json!({"schemas": [USER], "userName": "evil@corp.example"}).to_string().into_bytes());
    for token in &tokens {
        for (method, path) in
            [(Method::GET, "/Users"), (Method::POST, "/Users"), (Method::GET, "/Schemas"), (Method::GET, "/nothing")]
        {
            let body = if method == Method::POST { body() } else { None };
            let told = directory.raw(method, path, body, &[("authorization", token)]).await?;
            told.refused(401, "")?;
            ensure!(told.headers["www-authenticate"].to_str()?.starts_with("Bearer "), "{:?}", told.headers);
        }
    }
    ensure!(directory.finds("Users", r#"userName eq "evil@corp.example""#).await? == 0);
    deployment.cli_ok(&["scim", "token", "revoke", "okta"])?;
    directory.get("/Users").await?.refused(401, "")?;
    let log = deployment.log();
    ensure!(!log.contains(&good) && !log.contains("evil@corp.example"), "a log has what it should not");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_guesses_so_often_is_not_heard_for_a_moment_right_or_wrong() -> Result<()> {
    let deployment = Deployment::start(Shape::Embedded).await?;
    let directory = Directory::new(&deployment, "okta")?;
    let mut turned_away = 0;
    for _ in 0..200 {
        let told = directory.raw(Method::GET, "/Users", None, &[("authorization", "Bearer guess")]).await?;
        turned_away += u32::from(told.status == 429);
    }
    ensure!(turned_away > 10, "{turned_away} guesses were turned away");
    bailiwick_tests::eventually("the good token is heard again", async || {
        (directory.get("/Users").await.ok()?.status == 200).then_some(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_are_filters_and_large_or_deep_ones_are_refused() -> Result<()> {
    let deployment = Deployment::start(Shape::Embedded).await?;
    let directory = Directory::new(&deployment, "okta")?;
    let jane = directory.user("jane@corp.example").await?;
    directory.group("crowd", &[&jane]).await?;
    let search = async |path: &str, filter: &str| {
        directory.send(Method::POST, path, &json!({"schemas": [SEARCH], "filter": filter})).await
    };
    let of_groups = |filter: &str| filter.replace("userName", "displayName");
    let refused = async |filter: &str| {
        for (folder, filter) in [("Users", filter.to_owned()), ("Groups", of_groups(filter))] {
            let query = url::form_urlencoded::Serializer::new(String::new()).append_pair("filter", &filter).finish();
            let asked = directory.get(&format!("/{folder}?{query}")).await?;
            asked.refused(400, "invalidFilter").with_context(|| filter.clone())?;
            let posted = search(&format!("/{folder}/.search"), &filter).await?;
            posted.refused(400, "invalidFilter").with_context(|| filter.clone())?;
        }
        search("/.search", filter).await?.refused(400, "invalidFilter")
    };
    for filter in [
        r#"userName eq "x" or 1=1"#,
        r#"userName eq "x"; delete"#,
        "userName eq 'x' or 'a'='a'",
        r#"userName eq "x" --"#,
        r#"{"$gt": ""}"#,
        "../../etc/passwd",
        "userName eq \"x",
        "*",
        "(&(uid=*))",
        "userName eq \"a\"\0",
    ] {
        refused(filter).await?;
    }
    refused(&format!("{}userName pr{}", "(".repeat(2_000), ")".repeat(2_000))).await?;
    refused(&format!("{} userName pr{}", "not (".repeat(500), ")".repeat(500))).await?;
    refused(&vec!["userName pr"; 300].join(" or ")).await?;
    refused(&format!("userName eq \"{}\"", "x".repeat(6_000))).await?;
    for nothing in [
        r#"userName eq "*""#,
        r#"userName eq "\" or userName pr or userName eq \"""#,
        r#"userName eq "%""#,
        r#"userName sw "' or '""#,
    ] {
        ensure!(directory.finds("Users", nothing).await? == 0, "{nothing}");
        ensure!(directory.finds("Groups", &of_groups(nothing)).await? == 0, "{nothing}");
        for path in ["/.search", "/Users/.search", "/Groups/.search"] {
            for filter in [nothing.to_owned(), of_groups(nothing)] {
                let found = search(path, &filter).await?.is(StatusCode::OK)?.body;
                ensure!(found["totalResults"] == 0, "{path} {filter}: {found}");
            }
        }
    }
    let found = search("/.search", r#"displayName eq "crowd" or userName sw "jane""#).await?.is(StatusCode::OK)?.body;
    ensure!(found["totalResults"] == 2, "{found}");
    directory.get("/Users?filter=userName%20pr&filter=id%20pr").await?.refused(400, "invalidSyntax")?;
    directory.get("/Users?count=x").await?.refused(400, "invalidValue")?;
    directory.get("/Users/..%2f..%2fGroups").await?.refused(404, "")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_do_no_harm() -> Result<()> {
    let deployment = Deployment::start(Shape::Embedded).await?;
    let directory = Directory::new(&deployment, "okta")?;
    let id = directory.user("jane@corp.example").await?;
    let giant = vec![b' '; 2 * 1024 * 1024];
    for path in ["/Users", "/Bulk", "/.search"] {
        // It is not read to its end: a client that goes on writing may see the connection end instead.
        if let Ok(told) = directory.raw(Method::POST, path, Some(giant.clone()), &[]).await {
            told.refused(413, "")?;
        }
    }
    let many: Vec<Value> = (0..1_001).map(|_| json!({"method": "DELETE", "path": "/Users/x"})).collect();
    directory.send(Method::POST, "/Bulk", &json!({"schemas": [BULK], "Operations": many})).await?.refused(413, "")?;
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    directory.raw(Method::POST, "/Users", Some(deep.into_bytes()), &[]).await?.refused(400, "invalidSyntax")?;
    let long = json!({"schemas": [USER], "userName": "a@corp.example", "title": "x".repeat(20_000)});
    directory.send(Method::POST, "/Users", &long).await?.refused(400, "tooMany")?;
    let operations: Vec<Value> =
        (0..1_001).map(|n| json!({"op": "add", "path": "title", "value": n.to_string()})).collect();
    directory.patch(&format!("/Users/{id}"), operations.into()).await?.refused(400, "tooMany")?;
    let members: Vec<Value> = (0..12_000).map(|n| json!({"value": format!("{n:x}")})).collect();
    let crowd = json!({"schemas": [GROUP], "displayName": "crowd", "members": members});
    directory.send(Method::POST, "/Groups", &crowd).await?.refused(400, "tooMany")?;
    for (body, kind) in [
        (json!([]), "invalidSyntax"),
        (json!({"userName": "a@corp.example"}), "invalidSyntax"),
        (json!({"schemas": [USER]}), "invalidValue"),
        (json!({"schemas": [USER], "userName": 7}), "invalidValue"),
        (json!({"schemas": [USER], "userName": "a b"}), "invalidValue"),
        (json!({"schemas": [USER], "userName": "x", "USERNAME": "y"}), "invalidSyntax"),
        (
            json!({"schemas": [USER], "userName": "x", "emails": [{"value": "a", "primary": true},
            {"value": "b", "primary": true}]}),
            "invalidValue",
        ),
    ] {
        directory.send(Method::POST, "/Users", &body).await?.refused(400, kind)?;
    }
    let nested = json!({"schemas": [GROUP], "displayName": "nested", "members": [{"value": "g", "type": "Group"}]});
    directory.send(Method::POST, "/Groups", &nested).await?.refused(400, "invalidValue")?;
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let told = directory
        .http
        .post(format!("{}/Users", directory.url))
        .bearer_auth(&directory.token)
        .header(form[0].0, form[0].1)
        .body("a=b")
        .send()
        .await?;
    ensure!(told.status() == StatusCode::UNSUPPORTED_MEDIA_TYPE);
    directory.get(&format!("/Users/{id}")).await?.is(StatusCode::OK)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_of_parts_that_are_each_within_the_bounds_do_no_harm() -> Result<()> {
    let deployment = Deployment::start(Shape::Embedded).await?;
    let directory = Directory::new(&deployment, "okta")?;
    let id = directory.user("jane@corp.example").await?;
    let (user, group) = (format!("/Users/{id}"), format!("/Groups/{}", directory.group("crowd", &[&id]).await?));
    let emails = |number: usize| {
        let values: Vec<Value> = (0..number).map(|number| json!({"value": number.to_string()})).collect();
        json!({"op": "replace", "path": "emails", "value": values})
    };
    directory.patch(&user, json!([emails(400)])).await?.is(StatusCode::OK)?;
    // All looks of a bulk request are counted together.
    let widest = json!({"op": "remove", "path": format!("emails[{}]", vec!["display co \"xyz\""; 128].join(" or "))});
    let look = json!({"op": "remove", "path": "members[value co \"xyz\"]"});
    let patch = |path: &str, operations: &[&Value]| {
        let data = json!({"schemas": [PATCH], "Operations": operations});
        json!({"method": "PATCH", "path": path, "data": data})
    };
    let operations = [
        patch(&user, &[&widest]),
        patch(&user, &[&widest]),
        patch(&group, &[&look; 16]),
        patch(&group, &[&look]),
        patch(&user, &[&json!({"op": "replace", "path": "title", "value": "CFO"})]),
    ];
    let bulk = json!({"schemas": [BULK], "Operations": operations});
    let told = directory.send(Method::POST, "/Bulk", &bulk).await?.is(StatusCode::OK)?.body;
    for (at, status) in ["200", "400", "200", "400", "200"].into_iter().enumerate() {
        let one = &told["Operations"][at];
        let kind = if status == "400" { json!("tooMany") } else { Value::Null };
        ensure!(one["status"] == status && one["response"]["scimType"] == kind, "{at}: {one}");
    }
    directory.patch(&user, json!([widest])).await?.is(StatusCode::OK)?;
    // What no attribute knows is not written into each of many values.
    let unknown = (0..60).map(|number| {
        json!({"op": "add", "path": "emails[value pr]", "value": {(format!("unknown{number}")): "x".repeat(8_000)}})
    });
    let told = directory.patch(&user, [emails(400)].into_iter().chain(unknown).collect()).await?;
    let told = told.is(StatusCode::OK)?.body;
    ensure!(told["emails"][399]["value"] == "399" && !told.to_string().contains("unknown"), "{told}");
    // What is known neither over and over, nor looked at so often.
    let write = |part: &str| json!({"op": "replace", "path": format!("emails.{part}"), "value": "x".repeat(8_000)});
    for last in [write("type"), json!({"op": "replace", "path": "title", "value": "CEO"})] {
        let bomb = json!([emails(400), write("display"), last, widest, widest]);
        directory.patch(&user, bomb).await?.refused(400, "tooMany")?;
    }
    directory.get(&user).await?.is(StatusCode::OK)?;
    Ok(())
}

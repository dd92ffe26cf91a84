//! Groups whose members see what others do: no directory fills them, by whichever request, however it writes the name.

use super::*;

use bailiwick_tests::Shape;

/// `bailiwick dev` names it as a group of auditors.
const AUDITORS: &str = "developers";

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_a_directorys_makes_nobody_an_auditor() -> Result<()> {
    let deployment = Deployment::start(Shape::Embedded).await?;
    let directory = Directory::new(&deployment, "okta")?;
    let jane = directory.user("jane@example.com").await?;
    let refused = |told: Told, what: &str| {
        let detail = told.body["detail"].as_str().unwrap_or_default().to_owned();
        ensure!(told.status == 400 && told.body["scimType"] == "mutability", "{what}: {} {}", told.status, told.body);
        ensure!(detail.contains(AUDITORS) && detail.contains("scim_auditor_groups"), "{what}: {detail}");
        Ok(())
    };
    let group = |name: &str| json!({"schemas": [GROUP], "displayName": name, "members": [{"value": jane}]});
    for name in [AUDITORS, " developers ", "\tdevelopers"] {
        let told = directory.send(Method::POST, "/Groups", &group(name)).await?;
        if name.starts_with('\t') {
            ensure!(told.status == 400, "{name:?}: {}", told.body);
        } else {
            refused(told, name)?;
        }
    }
    let staff = directory.group("staff", &[&jane]).await?;
    let path = format!("/Groups/{staff}");
    refused(directory.send(Method::PUT, &path, &group(AUDITORS)).await?, "PUT")?;
    let rename = json!([{"op": "replace", "path": "displayName", "value": AUDITORS}]);
    refused(directory.patch(&path, rename).await?, "PATCH")?;
    let rename = json!([{"op": "replace", "value": {"displayName": AUDITORS}}]);
    refused(directory.patch(&path, rename).await?, "PATCH without a path")?;
    let operations = json!([
        {"method": "POST", "path": "/Groups", "bulkId": "g", "data": group(AUDITORS)},
        {"method": "PUT", "path": path, "data": group(AUDITORS)},
    ]);
    let bulk = json!({"schemas": [BULK], "Operations": operations});
    let told = directory.send(Method::POST, "/Bulk", &bulk).await?;
    let statuses: Vec<_> = told.body["Operations"].as_array().into_iter().flatten().map(|one| &one["status"]).collect();
    ensure!(told.status == 200 && statuses == ["400", "400"], "{}", told.body);
    let shown = directory.get(&format!("/Users/{jane}")).await?;
    let groups = shown.body["groups"].to_string();
    ensure!(groups.contains("staff") && !groups.contains(AUDITORS), "{groups}");
    let user = deployment.cli_ok(&["get", "user", "jane@example.com", "-o", "json"])?;
    ensure!(!user.contains(AUDITORS), "{user}");
    Ok(())
}

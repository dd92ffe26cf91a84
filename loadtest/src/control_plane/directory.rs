//! A company's directory that speaks SCIM to one control plane, for `leavers` and `import`.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use reqwest::{Client, Method};
use serde_json::{Value, json};

use super::{admin::Admin, cluster::Place};

/// Longer than any answer takes: a bulk request of a thousand people is decided within seconds.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(60);
const USER: &str = "urn:ietf:params:scim:schemas:core:2.0:User";
const PATCH: &str = "urn:ietf:params:scim:api:messages:2.0:PatchOp";
const BULK: &str = "urn:ietf:params:scim:api:messages:2.0:BulkRequest";

/// See the file's header.
#[derive(Clone, Debug)]
pub(super) struct Directory {
    http: Client,
    base: String,
    token: String,
}

impl Directory {
    /// A directory with a token of its own, at this control plane.
    pub(super) async fn new(admin: &Admin, place: &Place) -> Result<Self> {
        let http = Client::builder().timeout(ANSWER_WAIT_MAX).no_proxy().build()?;
        let token = admin.scim_token(&format!("loadtest-{}", std::process::id())).await?;
        Ok(Self { http, base: format!("{}/scim/v2", place.http), token })
    }

    /// Makes a user; the id.
    pub(super) async fn user(&self, name: &str) -> Result<String> {
        let (_, made) = self.send(Method::POST, "/Users", Some(&user(name))).await?;
        Ok(made.get("id").and_then(Value::as_str).context("a user without an id")?.to_owned())
    }

    /// Deactivates a user; the revision that did it.
    pub(super) async fn deactivate(&self, id: &str) -> Result<u64> {
        let off = json!({"op": "replace", "path": "active", "value": false});
        let body = json!({"schemas": [PATCH], "Operations": [off]});
        let (tag, _) = self.send(Method::PATCH, &format!("/Users/{id}"), Some(&body)).await?;
        let revision =
            tag.strip_prefix("W/\"").and_then(|tag| tag.strip_suffix('"')).context("no revision in the tag")?;
        Ok(revision.parse()?)
    }

    /// Makes these users in one bulk request, all of them or an error.
    pub(super) async fn import(&self, names: &[String]) -> Result<()> {
        let operations = names.iter().enumerate().map(|(number, name)| {
            json!({"method": "POST", "path": "/Users", "bulkId": number.to_string(), "data": user(name)})
        });
        let body = json!({"schemas": [BULK], "Operations": operations.collect::<Vec<_>>()});
        let (_, answer) = self.send(Method::POST, "/Bulk", Some(&body)).await?;
        let done = answer.get("Operations").and_then(Value::as_array).context("no operations in the answer")?;
        let wrong = done.iter().find(|one| one.get("status").and_then(Value::as_str) != Some("201"));
        ensure!(done.len() == names.len() && wrong.is_none(), "{} of {} made: {wrong:?}", done.len(), names.len());
        Ok(())
    }

    /// How many people a filter finds.
    pub(super) async fn find(&self, filter: &str) -> Result<u64> {
        let query = [("filter", filter), ("count", "1")];
        let request = self.http.get(format!("{}/Users", self.base)).query(&query).bearer_auth(&self.token);
        let found: Value = serde_json::from_str(&request.send().await?.error_for_status()?.text().await?)?;
        found.get("totalResults").and_then(Value::as_u64).context("no total")
    }

    /// The tag and the body of an answer, which must be of success.
    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<(String, Value)> {
        let mut request = self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.header("content-type", "application/scim+json").body(body.to_string());
        }
        let answer = request.send().await?;
        let (status, tag) = (answer.status(), answer.headers().get("etag").cloned());
        let text = answer.text().await?;
        ensure!(status.is_success(), "{path}: {status} {text}");
        let tag = tag.and_then(|tag| tag.to_str().map(str::to_owned).ok()).unwrap_or_default();
        Ok((tag, serde_json::from_str(&text)?))
    }
}

/// A person as directories send them.
fn user(name: &str) -> Value {
    let (given, _) = name.split_once('@').unwrap_or((name, ""));
    json!({
        "schemas": [USER], "userName": name, "externalId": format!("00u-{name}"), "active": true,
        "name": {"givenName": given, "familyName": "Example"}, "displayName": given,
        "emails": [{"value": name, "type": "work", "primary": true}],
    })
}

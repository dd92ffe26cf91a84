//! SCIM 2.0 with real processes: other people's testers and the requests that Okta and Entra ID send; joiners, movers
//! and leavers, down to calls that are refused and streams that end; and what nobody honest sends.
//!
//! Specifications: RFC 7643, RFC 7644.

#![expect(clippy::indexing_slicing, reason = "a test that panics fails, as it should")]

mod agents;
mod attacks;
mod auditors;
mod directories;
mod leavers;
mod peers;

use anyhow::{Context, Result, ensure};
use bailiwick_tests::Deployment;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const USER: &str = "urn:ietf:params:scim:schemas:core:2.0:User";
const GROUP: &str = "urn:ietf:params:scim:schemas:core:2.0:Group";
const ENTERPRISE: &str = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User";
const PATCH: &str = "urn:ietf:params:scim:api:messages:2.0:PatchOp";
const BULK: &str = "urn:ietf:params:scim:api:messages:2.0:BulkRequest";
const SEARCH: &str = "urn:ietf:params:scim:api:messages:2.0:SearchRequest";

/// A directory that is let in.
struct Directory {
    http: reqwest::Client,
    url: String,
    token: String,
}

/// An answer.
struct Told {
    status: u16,
    body: Value,
    tag: String,
    headers: reqwest::header::HeaderMap,
}

impl Directory {
    /// With a token of its own, at the URL that its maker was told.
    fn new(deployment: &Deployment, name: &str) -> Result<Self> {
        let made: Value = serde_json::from_str(&deployment.cli_ok(&["scim", "token", "create", name, "-o", "json"])?)?;
        let text = |key: &str| made[key].as_str().map(str::to_owned).with_context(|| made.to_string());
        let http = reqwest::Client::builder().no_proxy().build()?;
        Ok(Self { http, url: text("url")?, token: text("token")? })
    }

    /// The same directory at another control plane.
    fn at(&self, http_address: &str) -> Self {
        let url = format!("http://{http_address}/scim/v2");
        Self { http: self.http.clone(), url, token: self.token.clone() }
    }

    async fn raw(&self, method: Method, path: &str, body: Option<Vec<u8>>, headers: &[(&str, &str)]) -> Result<Told> {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if !headers.iter().any(|(name, _)| *name == "authorization") {
            request = request.bearer_auth(&self.token);
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/scim+json").body(body);
        }
        for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
            request = request.header(*name, *value);
        }
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let tag = headers.get("etag").and_then(|tag| tag.to_str().ok()).unwrap_or_default().to_owned();
        let text = response.text().await?;
        let body = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).context(text)? };
        Ok(Told { status, body, tag, headers })
    }

    async fn send(&self, method: Method, path: &str, body: &Value) -> Result<Told> {
        self.raw(method, path, Some(body.to_string().into_bytes()), &[]).await
    }

    async fn get(&self, path: &str) -> Result<Told> {
        self.raw(Method::GET, path, None, &[]).await
    }

    /// Makes a user; the id.
    async fn user(&self, name: &str) -> Result<String> {
        let sent = json!({"schemas": [USER], "userName": name, "active": true});
        let made = self.send(Method::POST, "/Users", &sent).await?.is(StatusCode::CREATED)?;
        Ok(made.body["id"].as_str().context("no id")?.to_owned())
    }

    /// Makes a group; the id.
    async fn group(&self, name: &str, members: &[&str]) -> Result<String> {
        let members: Vec<Value> = members.iter().map(|id| json!({"value": id})).collect();
        let sent = json!({"schemas": [GROUP], "displayName": name, "members": members});
        let made = self.send(Method::POST, "/Groups", &sent).await?.is(StatusCode::CREATED)?;
        Ok(made.body["id"].as_str().context("no id")?.to_owned())
    }

    async fn patch(&self, path: &str, operations: Value) -> Result<Told> {
        self.send(Method::PATCH, path, &json!({"schemas": [PATCH], "Operations": operations})).await
    }

    /// How many a filter finds.
    async fn finds(&self, folder: &str, filter: &str) -> Result<u64> {
        let query = url::form_urlencoded::Serializer::new(String::new()).append_pair("filter", filter).finish();
        let found = self.get(&format!("/{folder}?{query}")).await?.is(StatusCode::OK)?;
        found.body["totalResults"].as_u64().context("no total")
    }
}

impl Told {
    fn is(self, status: StatusCode) -> Result<Self> {
        ensure!(self.status == status.as_u16(), "{} instead of {status}: {}", self.status, self.body);
        Ok(self)
    }

    /// A refusal with this `scimType`; "" where none fits.
    fn refused(&self, status: u16, kind: &str) -> Result<()> {
        let said = self.body["scimType"].as_str().unwrap_or_default();
        ensure!(self.status == status && said == kind, "{} {}", self.status, self.body);
        ensure!(self.body["status"] == *status.to_string(), "{}", self.body);
        ensure!(self.headers["content-type"] == "application/scim+json", "{:?}", self.headers);
        Ok(())
    }
}

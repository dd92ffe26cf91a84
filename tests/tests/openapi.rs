//! HTTP APIs as servers: a small API of the test's own, described by OpenAPI, behind a real gateway.

#![expect(clippy::indexing_slicing, reason = "a test that panics fails, as it should")]

use std::{
    fs,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result, ensure};
use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri},
    response::{IntoResponse, Response},
    routing,
};
use bailiwick_tests::{
    Answer, Deployment, McpClient, Shape, eventually,
    manifests::{JANE, manifest, permits_all_of, virtual_server},
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const SECRET: &str = "an-api-key-of-the-gateway";
/// What the API was asked: method, path and query as they came, two headers, the body.
#[derive(Clone, Debug)]
struct Asked {
    line: String,
    key: String,
    authorization: String,
    body: String,
}

type Log = Arc<Mutex<Vec<Asked>>>;

/// The API. It answers whatever its path says, and shows its own document.
struct Api {
    url: String,
    asked: Log,
    _server: JoinSet<()>,
}

impl Api {
    async fn start() -> Result<Self> {
        let asked = Log::default();
        let app = Router::new()
            .route("/openapi.json", routing::get(async || Json(document("/v1/items/{id}"))))
            .fallback(answer)
            .with_state(Arc::clone(&asked));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let mut server = JoinSet::new();
        server.spawn(async move { drop(axum::serve(listener, app).await) });
        Ok(Self { url, asked, _server: server })
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn answer(State(asked): State<Log>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let line = format!("{method} {uri}");
    let body = String::from_utf8_lossy(&body).into_owned();
    let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
    asked.push(Asked { line, key: header("x-api-key"), authorization: header("authorization"), body });
    match uri.path() {
        "/v1/items/missing" => (StatusCode::NOT_FOUND, Json(json!({"why": "no such item"}))).into_response(),
        "/v1/items/moved" => (StatusCode::FOUND, [("location", "http://127.0.0.1:9/")]).into_response(),
        _ if method == Method::DELETE => StatusCode::NO_CONTENT.into_response(),
        _ => Json(json!({"path": uri.path(), "method": method.as_str()})).into_response(),
    }
}

fn document(path: &str) -> Value {
    let id = json!({"name": "id", "in": "path", "required": true, "schema": {"type": "string"}});
    let tags = json!({"name": "tag", "in": "query", "schema": {"type": "array", "items": {"type": "string"}}});
    let key = json!({"name": "X-Api-Key", "in": "header", "required": true, "schema": {"type": "string"}});
    json!({
        "openapi": "3.0.3",
        "info": {"title": "Shop", "version": "1"},
        "paths": {path: {
            "parameters": [id, key],
            "get": {"operationId": "getItem", "summary": "One item", "parameters": [tags]},
            "put": {"operationId": "replaceItem", "requestBody": {"required": true, "content": {"application/json": {"schema": {"type": "object"}}}}},
            "delete": {"operationId": "deleteItem"},
        }},
    })
}

fn server(url: &str, openapi: &Value) -> String {
    let credential = json!({"secret": "shop-key", "header": "X-Api-Key", "scheme": ""});
    let spec = json!({"endpoint": {"url": url, "openapi": openapi}, "credential": credential});
    manifest("Server", "shop", &spec.to_string())
}

async fn world(openapi: impl FnOnce(&Api) -> (String, Value)) -> Result<(Api, Deployment, McpClient)> {
    let api = Api::start().await?;
    let deployment = Deployment::start(Shape::Embedded).await?;
    deployment.seal("shop-key", SECRET)?;
    let (url, openapi) = openapi(&api);
    let others = virtual_server("shop", "plain", "shop") + JANE + &permits_all_of("shop");
    deployment.apply(&(server(&url, &openapi) + &others))?;
    let client = McpClient::new(&deployment.mcp[0], "shop", &deployment.token("shop", "destructive")?);
    client.until_listed(&["deleteItem", "getItem", "replaceItem"]).await?;
    Ok((api, deployment, client))
}

async fn call(client: &McpClient, tool: &str, arguments: Value) -> Result<Answer> {
    client.modern("tools/call", json!({"name": tool, "arguments": arguments})).await
}

#[tokio::test]
async fn operations_of_an_api_are_tools_and_calls_are_its_requests() -> Result<()> {
    let (api, deployment, client) = world(|api| (api.url.clone(), json!({"path": "/openapi.json"}))).await?;
    let listed = client.modern("tools/list", json!({})).await?;
    let tool = &listed.body["result"]["tools"][1];
    ensure!(tool["annotations"]["readOnlyHint"] == true, "{tool}");
    ensure!(tool["inputSchema"]["properties"].get("X-Api-Key").is_none(), "the gateway's header is nobody else's");

    let got = call(&client, "getItem", json!({"id": "a/../b?c", "tag": ["x&y", "z"]})).await?;
    let result = &got.body["result"];
    ensure!(
        result["structuredContent"]["path"] == "/v1/items/a%2F..%2Fb%3Fc" && result["isError"] == false,
        "{}",
        got.text
    );
    let put = call(&client, "replaceItem", json!({"id": "1", "body": {"price": 1.5}})).await?;
    ensure!(put.body["result"]["structuredContent"]["method"] == "PUT", "{}", put.text);
    let deleted = call(&client, "deleteItem", json!({"id": "1"})).await?;
    ensure!(deleted.body["result"]["content"][0]["text"] == "HTTP 204", "{}", deleted.text);
    let asked = api.asked();
    let lines: Vec<&str> = asked.iter().map(|asked| asked.line.as_str()).collect();
    let expected = ["GET /v1/items/a%2F..%2Fb%3Fc?tag=x%26y&tag=z", "PUT /v1/items/1", "DELETE /v1/items/1"];
    ensure!(lines == expected, "{lines:?}");
    ensure!(asked[1].body == r#"{"price":1.5}"#, "{asked:?}");
    for asked in &asked {
        ensure!(asked.key == SECRET, "the sealed key is shown");
        ensure!(asked.authorization.is_empty(), "the caller's token never is");
    }
    // What the API refuses, and arguments that make no request, are the tool's errors; a redirect is nobody's.
    let missing = call(&client, "getItem", json!({"id": "missing"})).await?;
    let text = missing.body["result"]["content"][0]["text"].as_str().context("no text")?;
    ensure!(text.starts_with("HTTP 404") && missing.body["result"]["isError"] == true, "{}", missing.text);
    let unfit = call(&client, "getItem", json!({"id": ".."})).await?;
    ensure!(unfit.body["result"]["isError"] == true, "{}", unfit.text);
    let unknown = call(&client, "getItem", json!({"id": "1", "X-Api-Key": "mine"})).await?;
    ensure!(unknown.body["result"]["isError"] == true && api.asked().len() == 4, "{}", unknown.text);
    ensure!(call(&client, "getItem", json!({"id": "moved"})).await?.reason() == "upstream_refused");
    ensure!(!deployment.log().contains(SECRET), "the key is in a log");
    // A consent for reading is none for replacing: by the methods' own meaning.
    let reader = McpClient { token: deployment.token("shop", "retrieval")?, ..client.clone() };
    let listed = reader.modern("tools/list", json!({})).await?;
    ensure!(listed.tools() == ["getItem"], "{}", listed.text);
    ensure!(call(&reader, "deleteItem", json!({"id": "1"})).await?.code() == Some(403));
    eventually("the records of what was called", async || {
        let records = deployment.audit(&["--tool", "getItem", "--kind", "call.outcome"]).ok()?;
        let statuses: Vec<&str> = records.iter().filter_map(|record| record["outcome"]["status"].as_str()).collect();
        ["ok", "tool_error", "error"].iter().all(|status| statuses.contains(status)).then_some(())
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn a_document_that_changes_changes_no_call_until_somebody_accepts_it() -> Result<()> {
    let inline = |path: &str| json!({"document": document(path).to_string()});
    let (api, deployment, client) = world(|api| (format!("{}/v1/", api.url), inline("/items/{id}"))).await?;
    ensure!(call(&client, "getItem", json!({"id": "1"})).await?.body["result"]["isError"] == false);
    // The same names, elsewhere.
    deployment.apply(&server(&format!("{}/v1/", api.url), &inline("/admin/{id}")))?;
    eventually("the change is noticed", async || {
        let refused = call(&client, "getItem", json!({"id": "1"})).await.ok()?;
        (refused.reason() == "tool_quarantined").then_some(())
    })
    .await?;
    ensure!(api.asked().iter().all(|asked| asked.line == "GET /v1/items/1"), "{:?}", api.asked());
    deployment.cli_ok(&["pin", "shop"])?;
    eventually("the change is accepted", async || {
        let called = call(&client, "getItem", json!({"id": "2"})).await.ok()?;
        (called.body["result"]["structuredContent"]["path"] == "/v1/admin/2").then_some(())
    })
    .await
}

#[tokio::test]
async fn a_document_that_cannot_be_used_is_refused_with_the_reason() -> Result<()> {
    let deployment = Deployment::start(Shape::Embedded).await?;
    deployment.seal("shop-key", SECRET)?;
    let try_out = |openapi: Value| -> Result<String> {
        let file = deployment.data().join("server.yaml");
        fs::write(&file, server("http://127.0.0.1:9/", &openapi))?;
        let said = deployment.cli(&["apply", "-f", &file.to_string_lossy()])?;
        Ok(String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned())
    };
    for (openapi, why) in [
        (json!({}), "either a `document` or a `path`"),
        (json!({"document": "openapi: 3.0.0"}), "as JSON"),
        (json!({"path": "http://elsewhere/"}), "must be a path"),
        (json!({"document": document("/a/b").to_string()}), "the parameters in its path"),
    ] {
        let said = try_out(openapi)?;
        ensure!(said.contains(why), "{why}: {said}");
    }
    // Whoever applies a document that has more than can be offered is told what is not.
    let mut more = document("/items/{id}");
    let files = json!({"required": true, "content": {"multipart/form-data": {}}});
    more["paths"]["/files"] = json!({"post": {"operationId": "upload", "requestBody": files}});
    let said = try_out(json!({"document": more.to_string()}))?;
    let told = "Server shop: `POST /files` is not offered: its body is of a media type that cannot be written";
    ensure!(said.contains("Server/shop configured") && said.contains(told), "{said}");
    Ok(())
}

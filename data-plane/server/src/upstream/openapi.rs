//! HTTP APIs that are described by OpenAPI: a call of a tool is one HTTP request, sent as everything else is.
//!
//! Called by `upstream` for servers with an OpenAPI document. The way there is the same as to MCP servers (`route`):
//! addresses are checked, connections kept, credentials shown, a server that fails is left alone, the gate looks last.
//! What a call is as a request says the approved definition, never the document as it is at the moment; what the API
//! answers, also an error, is the tool's result. Sent again only where the manifest allows it, and the operation's
//! method is idempotent or nothing can have left. There are no prompts, resources, sessions or streams. Deliberately
//! absent: reading documents, writing requests, shaping results (`data-plane/core`, `openapi`).

use bailiwick_data_plane_core::{
    breaker::backoff,
    edge::PermittedCall,
    forward::ServerRequest,
    openapi::{self, Binding, DOCUMENT_BYTES_MAX, HttpRequest, LeftOut, Listed},
    wanted::Found,
};
use bailiwick_proto::{
    mcp::{Response, RpcError, code, header_name, method, raw},
    v1::{OpenApi, Server, ToolDefinition},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header, uri::PathAndQuery};
use serde_json::{json, value::RawValue};

use super::{
    Upstream,
    attempt::is_of_proxy,
    exchange::{Answer, Bounds, may_repeat, within},
    fault::UpstreamFault,
    peer::Aside,
    reply::Reply,
    route::{Asking, NoReply, Route},
};
use crate::random::random;

/// JSON where the API has it, for that can be shown with its structure.
const ACCEPT: HeaderValue = HeaderValue::from_static("application/json, text/*;q=0.9, */*;q=0.1");
const ACCEPT_JSON: HeaderValue = HeaderValue::from_static("application/json, */*;q=0.1");

/// Calls one operation; the result and its length in bytes as it came.
pub(super) async fn call(
    route: &Route,
    permitted: &PermittedCall,
    bounds: Bounds,
    aside: Aside<'_>,
) -> Result<(Response, u64), UpstreamFault> {
    let Found::Tool(tool) = &permitted.found else {
        return Ok((refused(code::INVALID_PARAMS, "an HTTP API has tools only"), 0));
    };
    let Some(binding) = tool.definition.as_deref().and_then(Binding::of) else {
        return Err(UpstreamFault::Invalid("the approved definition is none of an HTTP API".to_owned()));
    };
    let request = match openapi::request(&binding, permitted.call.arguments.as_deref()) {
        Ok(request) => request,
        // Nothing has left, and the model can do better.
        Err(fault) => return Ok((Response::Result(openapi::failed(&fault.to_string())), 0)),
    };
    let Answer { response, bytes, .. } = within(bounds.timeout, persist(route, &request, bounds, aside)).await?;
    Ok((response, bytes))
}

impl Upstream {
    /// All tools that a server shows, and what else it has that cannot be offered, a sentence each.
    pub(crate) async fn look(&self, server: &Server) -> Result<(Vec<ToolDefinition>, Vec<String>), UpstreamFault> {
        let Some(api) = &server.openapi else { return Ok((self.list_tools(server).await?, Vec::new())) };
        let bounds = self.handshake_bounds(server);
        let route = self.route(server)?;
        let Listed { tools, left_out } = Box::pin(offered(&route, (server, api), bounds)).await?;
        let told = |LeftOut { operation, why }: LeftOut| format!("`{operation}` is not offered: {why}");
        Ok((tools, left_out.into_iter().map(told).collect()))
    }
}

/// The tools of an API, as canonical definitions by name.
pub(super) async fn list(
    route: &Route,
    of: (&Server, &OpenApi),
    bounds: Bounds,
) -> Result<Vec<ToolDefinition>, UpstreamFault> {
    Ok(offered(route, of, bounds).await?.tools)
}

/// What an API's document says that it has.
async fn offered(
    route: &Route,
    (server, openapi): (&Server, &OpenApi),
    bounds: Bounds,
) -> Result<Listed, UpstreamFault> {
    let text = if openapi.path.is_empty() {
        openapi.document.clone()
    } else {
        within(bounds.timeout, fetch(route, &openapi.path)).await?
    };
    let shown = server.credential.as_ref().map(|credential| credential.header.clone());
    // A large document takes a while, in which nobody else of this thread should have to wait.
    let read = tokio::task::spawn_blocking(move || openapi::tools(&text, shown.as_deref())).await;
    let read =
        read.map_err(|_ended| UpstreamFault::Invalid("the OpenAPI document was not read to its end".to_owned()))?;
    let listed = read.map_err(|fault| UpstreamFault::Invalid(fault.to_string()))?;
    for left_out in &listed.left_out {
        let (operation, why) = (&left_out.operation, left_out.why);
        tracing::info!(server = server.name, operation, why, "an operation of an API is not offered");
    }
    Ok(listed)
}

/// What an API can do, as a server would say it.
pub(super) fn capabilities() -> Box<RawValue> {
    raw(&json!({"tools": {}}))
}

/// The answer to what is no call: there is nothing of that kind.
pub(super) fn enquired(request: &ServerRequest) -> Response {
    let asked = request.headers.iter().find(|(name, _)| name == header_name::METHOD).map(|(_, asked)| asked.as_str());
    let none = match asked {
        Some(method::PROMPTS_LIST) => json!({"prompts": []}),
        Some(method::RESOURCES_LIST) => json!({"resources": []}),
        Some(method::TEMPLATES_LIST) => json!({"resourceTemplates": []}),
        Some(_) | None => return refused(code::INVALID_PARAMS, "an HTTP API has tools only"),
    };
    Response::Result(raw(&none))
}

fn refused(code: i64, message: &str) -> Response {
    Response::Error(RpcError { code, message: message.to_owned(), data: None })
}

/// Sends it, and again where it may be.
async fn persist(
    route: &Route,
    request: &HttpRequest,
    bounds: Bounds,
    aside: Aside<'_>,
) -> Result<Answer, UpstreamFault> {
    let repeats = request.method.is_idempotent();
    let mut times = 0;
    loop {
        let is_last = times + 1 >= route.retry.attempts;
        let (answer, has_left) = once(route, request, bounds, aside).await;
        let is_repeated = match &answer {
            Ok(answer) => repeats && is_of_proxy(answer.status.as_u16()),
            Err(fault) => {
                route.metrics.fault(fault);
                may_repeat(fault, has_left, repeats)
            }
        };
        if is_last || !is_repeated {
            return answer;
        }
        let [chance] = random().unwrap_or([0]);
        tokio::time::sleep(backoff(route.retry.pause, times, chance)).await;
        route.metrics.repeated();
        times += 1;
    }
}

/// The answer, and whether anything of the request may have left.
async fn once(
    route: &Route,
    request: &HttpRequest,
    bounds: Bounds,
    aside: Aside<'_>,
) -> (Result<Answer, UpstreamFault>, bool) {
    let asking = match asking(route, request, aside) {
        Ok(asking) => asking,
        Err(fault) => return (Err(fault), false),
    };
    let mut attempt = match route.standing.attempt(bounds.timeout) {
        Ok(attempt) => attempt,
        Err(fault) => return (Err(fault), false),
    };
    let place = match route.place().await {
        Ok(place) => place,
        Err(fault) => return (Err(fault), false),
    };
    attempt.begins();
    let (answer, has_left) = match route.send(asking, Some(place)).await {
        Ok(reply) => {
            attempt.is_heard = true;
            (answer(reply, bounds.bytes_max).await, true)
        }
        Err(NoReply { fault, has_left }) => (Err(fault), has_left),
    };
    attempt.became(&answer);
    (answer, has_left)
}

fn asking<'a>(route: &Route, request: &HttpRequest, aside: Aside<'a>) -> Result<Asking<'a>, UpstreamFault> {
    let unusable = |what: &str| UpstreamFault::Unusable(what.to_owned());
    let base: Uri = route.url.parse().map_err(|_| unusable("its URL cannot be read"))?;
    let path = format!("{}{}", base.path().trim_end_matches('/'), request.target);
    let path: PathAndQuery = path.parse().map_err(|_| unusable("an operation's path cannot be read"))?;
    let mut headers = HeaderMap::with_capacity(request.headers.len() + 6);
    headers.insert(header::ACCEPT, ACCEPT);
    for (name, value) in &request.headers {
        let name =
            HeaderName::from_bytes(name.as_bytes()).map_err(|_| unusable("an operation's header has no name"))?;
        let value = HeaderValue::from_str(value).map_err(|_| unusable("an operation's header cannot be written"))?;
        headers.append(name, value);
    }
    let body = match &request.body {
        None => Bytes::new(),
        Some((media_type, body)) => {
            let media_type =
                HeaderValue::from_str(media_type).map_err(|_| unusable("a body's type cannot be written"))?;
            headers.insert(header::CONTENT_TYPE, media_type);
            Bytes::from(body.clone())
        }
    };
    let method = Method::from_bytes(request.method.as_str().as_bytes()).map_err(|_| unusable("a method is unknown"))?;
    let Aside { gate, context, .. } = aside;
    Ok(Asking { method, path: Some(path), headers, gate, context, body })
}

async fn answer(reply: Reply, bytes_max: usize) -> Result<Answer, UpstreamFault> {
    let status = reply.status();
    let media_type = header_text(&reply, &header::CONTENT_TYPE);
    let body = read(reply, bytes_max).await?;
    let result = openapi::answer(status.as_u16(), media_type.as_deref(), &body);
    Ok(Answer { status, session: None, response: Response::Result(result), bytes: body.len() as u64 })
}

/// The document, as the API shows it.
async fn fetch(route: &Route, path: &str) -> Result<String, UpstreamFault> {
    let path = path.parse().map_err(|_| UpstreamFault::Unusable("the document's path cannot be read".to_owned()))?;
    let headers = HeaderMap::from_iter([(header::ACCEPT, ACCEPT_JSON)]);
    let asking = Asking { method: Method::GET, path: Some(path), ..Asking::post(headers, Bytes::new()) };
    let reply = route.send(asking, None).await.map_err(|no_reply| no_reply.fault)?;
    if reply.status() != StatusCode::OK {
        return Err(UpstreamFault::Status(reply.status().as_u16()));
    }
    let body = read(reply, DOCUMENT_BYTES_MAX).await?;
    String::from_utf8(body).map_err(|_| UpstreamFault::Invalid("the OpenAPI document is not UTF-8".to_owned()))
}

async fn read(mut reply: Reply, bytes_max: usize) -> Result<Vec<u8>, UpstreamFault> {
    if reply.length().is_some_and(|length| length > bytes_max as u64) {
        return Err(UpstreamFault::TooLarge(bytes_max));
    }
    // None was accepted.
    if let Some(encoding) = header_text(&reply, &header::CONTENT_ENCODING).filter(|encoding| encoding != "identity") {
        return Err(UpstreamFault::Invalid(format!("content encoding `{encoding}`")));
    }
    let mut body = Vec::new();
    while let Some(chunk) = reply.chunk().await? {
        if body.len() + chunk.len() > bytes_max {
            return Err(UpstreamFault::TooLarge(bytes_max));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn header_text(reply: &Reply, name: &HeaderName) -> Option<String> {
    reply.headers().get(name).and_then(|value| value.to_str().ok()).map(ToOwned::to_owned)
}

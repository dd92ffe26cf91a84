//! The yardstick: a reverse proxy that does nothing but pass requests on, over connections that it keeps.
//!
//! It decides nothing, reads nothing and records nothing, so what it costs is what any gateway on this machine and this
//! HTTP library has to cost. Bodies are passed on as they come. Of the headers only those are changed that belong to
//! one connection (RFC 9110, section 7.6.1) and `Host`.

use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::Args as ClapArgs;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Uri, Version, header, uri::PathAndQuery};
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};

use crate::serving::{Answer, Serving, serve};

/// Headers of one connection.
const HOP_BY_HOP: [HeaderName; 5] =
    [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE, header::TE, header::TRAILER];

/// A bare reverse proxy with pooled connections: what any gateway has to cost.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Where requests go, e.g. http://127.0.0.1:9801; paths stay as they are.
    #[arg(long, value_name = "URL")]
    to: Uri,
    #[command(flatten)]
    serving: Serving,
}

/// Serves until the process is ended.
pub(crate) fn run(args: &Args) -> Result<()> {
    let authority = args.to.authority().context("--to names no server")?.clone();
    let host = HeaderValue::from_str(authority.as_str())?;
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client = Client::builder(TokioExecutor::new()).build::<_, Incoming>(connector);
    let service = service_fn(move |request: Request<Incoming>| {
        let request = towards(request, authority.as_str(), &host);
        let client = client.clone();
        async move {
            let Some(request) = request else { return Ok(unreachable(StatusCode::BAD_REQUEST)) };
            match client.request(request).await {
                Ok(mut answer) => {
                    HOP_BY_HOP.iter().for_each(|name| drop(answer.headers_mut().remove(name)));
                    Ok(answer.map(|body| body.boxed()))
                }
                Err(_) => Ok(unreachable(StatusCode::BAD_GATEWAY)),
            }
        }
    });
    serve(&args.serving, "", service)
}

fn towards(request: Request<Incoming>, authority: &str, host: &HeaderValue) -> Option<Request<Incoming>> {
    let (mut head, body) = request.into_parts();
    let path = head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    head.uri = Uri::builder().scheme("http").authority(authority).path_and_query(path).build().ok()?;
    head.version = Version::HTTP_11;
    HOP_BY_HOP.iter().for_each(|name| drop(head.headers.remove(name)));
    head.headers.insert(header::HOST, host.clone());
    Some(Request::from_parts(head, body))
}

fn unreachable(status: StatusCode) -> Answer {
    let mut answer = Response::new(Empty::<Bytes>::new().map_err(|never| match never {}).boxed());
    *answer.status_mut() = status;
    answer
}

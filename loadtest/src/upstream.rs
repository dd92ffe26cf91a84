//! A fast MCP server to measure with: it answers at once, with as many tools as wanted, and does nothing.
//!
//! Both eras, over Streamable HTTP, with answers as JSON or as an event stream of one event. Every answer but the
//! request's id is made when it starts, so that next to nothing of what is measured is this server's. Its tools are
//! read-only (a gateway's cheapest class) unless told otherwise; what they are called with is not looked at.

mod answers;

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use bytes::Bytes;
use clap::{Args as ClapArgs, ValueEnum};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, service::service_fn};

use crate::serving::{Answer, Serving, serve};
use answers::{Answered, Answers};

/// More than any request that a run sends.
const REQUEST_BYTES_MAX: usize = 4 << 20;

/// How an answer travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// One JSON body.
    Json,
    /// A stream of one event.
    Sse,
}

/// A fast MCP server to measure with.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// How many tools it has, named tool-0000, tool-0001, …
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    tools: u32,
    /// How answers travel.
    #[arg(long, value_enum, default_value_t = Form::Json)]
    answers: Form,
    /// How long the text of a call's result is.
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=1 << 20))]
    answer_bytes: u32,
    /// How long a call takes.
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 0)]
    #[arg(value_parser = clap::value_parser!(u64).range(0..=60_000_000))]
    delay_us: u64,
    #[command(flatten)]
    serving: Serving,
}

/// Serves at `/mcp` until the process is ended.
pub(crate) fn run(args: &Args) -> Result<()> {
    let answers = Arc::new(Answers::new(args.tools, args.answer_bytes));
    let (form, delay) = (args.answers, Duration::from_micros(args.delay_us));
    let service = service_fn(move |request| answer(request, Arc::clone(&answers), form, delay));
    serve(&args.serving, "/mcp", service)
}

async fn answer(
    request: Request<Incoming>,
    answers: Arc<Answers>,
    form: Form,
    delay: Duration,
) -> Result<Answer, hyper::Error> {
    if request.method() != Method::POST {
        return Ok(with(StatusCode::METHOD_NOT_ALLOWED, Bytes::new()));
    }
    let Ok(body) = Limited::new(request.into_body(), REQUEST_BYTES_MAX).collect().await else {
        return Ok(with(StatusCode::PAYLOAD_TOO_LARGE, Bytes::new()));
    };
    let body = body.to_bytes();
    let text = match answers.to(&body) {
        Answered::Malformed => return Ok(with(StatusCode::BAD_REQUEST, Bytes::new())),
        Answered::Accepted => return Ok(with(StatusCode::ACCEPTED, Bytes::new())),
        Answered::Text(text) => text,
        Answered::CallText(text) => {
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            text
        }
    };
    let (kind, text) = match form {
        Form::Json => ("application/json", text),
        Form::Sse => ("text/event-stream", [b"event: message\ndata: ", text.as_slice(), b"\n\n"].concat()),
    };
    let mut answer = with(StatusCode::OK, text.into());
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(answer)
}

fn with(status: StatusCode, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body).map_err(|never| match never {}).boxed());
    *answer.status_mut() = status;
    answer
}

//! HTTP APIs, good and bad: what is sent, when, and how often.

use bailiwick_data_plane_core::openapi;
use bailiwick_proto::{
    Reason,
    v1::{OpenApi, Retry},
};

use super::*;

const DOCUMENT: &str = r#"{"openapi":"3.1.0","info":{"title":"t","version":"1"},"paths":{"/a":{"get":{"operationId":"read"},"post":{"operationId":"write"}}}}"#;

fn api(address: std::net::SocketAddr) -> Server {
    let openapi = Some(OpenApi { document: DOCUMENT.into(), path: String::new() });
    Server { openapi, ..server(&format!("http://{address}/v1/")) }
}

/// A call of a tool of the document, and what became of it.
async fn called(server: &Server, tool: &str, gate: Option<&Gate>) -> Result<serde_json::Value, UpstreamFault> {
    let tools = openapi::tools(DOCUMENT, None).unwrap().tools;
    let definition = tools.into_iter().find(|known| known.name == tool).map(|known| known.json).unwrap();
    let permitted = call_of("{}", Some(RawValue::from_string(definition).unwrap()));
    let limits = UpstreamConfig { response_bytes_max: 64 * 1024, ..loopback() };
    let upstream = upstream_within(limits, Means::default());
    let id = upstream.next_id();
    let aside = Aside { gate, ..Aside::default() };
    match upstream.call(server, &Principal::Gateway, &permitted, &id, aside).await?.0 {
        Response::Result(result) => Ok(serde_json::from_str(result.get()).unwrap()),
        Response::Error(error) => panic!("{error:?}"),
    }
}

#[tokio::test]
async fn what_an_api_answers_is_a_result_and_what_is_wrong_with_it_a_fault() {
    for (answer, expected) in [
        (&b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 7\r\n\r\n{\"a\":1}"[..], Ok(false)),
        (b"HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\nno", Ok(true)),
        (
            b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n",
            Err(Reason::UpstreamRefused),
        ),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\nx", Err(Reason::UpstreamTooLarge)),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", Err(Reason::UpstreamInvalid)),
        (b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 1\r\n\r\nx", Err(Reason::UpstreamInvalid)),
        (b"nonsense\r\n\r\n", Err(Reason::UpstreamUnreachable)),
    ] {
        let (address, count, _stop) = raw_server(answer).await;
        let got = called(&api(address), "read", None).await;
        let got = got.map(|result| result["isError"] == true).map_err(|fault| fault.reason());
        assert_eq!(got, expected, "{}", String::from_utf8_lossy(answer));
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn only_what_is_idempotent_is_sent_again() {
    let (address, count, _stop) = raw_server(b"HTTP/1.1 503 Later\r\ncontent-length: 0\r\n\r\n").await;
    let retry = Some(Retry { attempts: 3, pause_ms: 1 });
    let patient = Server { retry, ..api(address) };
    assert_eq!(called(&patient, "write", None).await.unwrap()["isError"], true);
    assert_eq!(count.load(Ordering::SeqCst), 1);
    assert_eq!(called(&patient, "read", None).await.unwrap()["isError"], true);
    assert_eq!(count.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn the_gate_is_asked_before_a_request_without_a_body_leaves() {
    let (address, count, _stop) = raw_server(b"HTTP/1.1 204 Done\r\n\r\n").await;
    let closed = Gate::new(|| Some(Reason::ConfigStale));
    let fault = called(&api(address), "read", Some(&closed)).await.unwrap_err();
    assert_eq!((fault.reason(), count.load(Ordering::SeqCst)), (Reason::ConfigStale, 0));
    let open = Gate::new(|| None);
    assert_eq!(called(&api(address), "read", Some(&open)).await.unwrap()["isError"], false);
}

#[tokio::test]
async fn an_api_has_tools_and_nothing_else_and_is_not_asked_about_that() {
    let (address, count, _stop) = raw_server(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let (upstream, server, caller) = (upstream(), api(address), Principal::Gateway);
    let names: Vec<String> = upstream.list_tools(&server).await.unwrap().into_iter().map(|tool| tool.name).collect();
    assert_eq!(names, ["read", "write"]);
    let capabilities = upstream.capabilities(&server, &caller).await.unwrap().unwrap();
    assert_eq!(capabilities.get(), r#"{"tools":{}}"#);
    let id = upstream.next_id();
    let list = |era| forward::list_request(era, &id, (method::PROMPTS_LIST, &[]), None, &Default::default());
    let Response::Result(none) = upstream.enquire(&server, &caller, &id, list).await.unwrap() else {
        panic!("refused")
    };
    assert_eq!(none.get(), r#"{"prompts":[]}"#);
    assert_eq!(count.load(Ordering::SeqCst), 0);
}

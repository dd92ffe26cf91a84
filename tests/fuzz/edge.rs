//! The client's edge as a whole: headers and a body of a stranger who has a token.

use std::sync::{Arc, OnceLock};

use aws_lc_rs::digest::{SHA256, digest};
use bailiwick_data_plane_core::{
    Catalogue, Config,
    edge::{self, Exchange, HttpReply, Step},
    sealed::NONCE_BYTES,
};
use bailiwick_proto::{config_digest, v1, v1::resource::Resource as Kind};
use prost::Message as _;
use serde_json::Value;

use crate::{
    envelopes::{NOW, caller, keys, session},
    mutate::{Random, changed},
    seeds,
    targets::{Broken, Checked, a_message, header_lines, promise, some_headers},
};

/// Stands where a valid session id goes.
const SESSION: &str = "@session";
/// Which seeds belong together: headers, message.
const PAIRS: [(usize, usize); 11] =
    [(0, 0), (0, 1), (0, 4), (0, 7), (0, 9), (0, 14), (0, 15), (1, 2), (1, 3), (3, 5), (4, 6)];
/// On what the stranger's token was issued: a consent for everything, and two for some tools.
const CONSENTS: [&str; 3] = ["c-1", "c-listed", UNLISTED];
/// The one that leads to nothing that is there.
const UNLISTED: &str = "c-unlisted";
const STATUSES: [u16; 9] = [200, 202, 400, 403, 404, 406, 413, 415, 503];
const FORWARDED: [&str; 7] =
    ["tools/call", "prompts/get", "resources/read", "completion/complete", "tasks/get", "tasks/update", "tasks/cancel"];

/// Headers and a body of which at most one was changed, mostly those that belong together.
pub(crate) fn one(random: &mut Random) -> Vec<u8> {
    let (headers, body) = random.pick(&PAIRS).copied().unwrap_or_default();
    let text = |texts: &[&str], index: usize| texts.get(index).copied().unwrap_or_default().as_bytes().to_vec();
    let (headers, body) = (text(&seeds::HEADERS, headers), text(&seeds::MESSAGES, body));
    let parts = match random.below(4) {
        0 => [some_headers(random), body],
        1 => [headers, a_message(random)],
        2 => [headers, changed(random, &body, &seeds::MESSAGES)],
        _ => [changed(random, &headers, &seeds::HEADERS), body],
    };
    parts.join(b"\n\n".as_slice())
}

pub(crate) fn check(input: &[u8]) -> Checked {
    let at = input.windows(2).position(|pair| pair == b"\n\n").unwrap_or(input.len());
    let (head, body) = input.split_at(at);
    let body = body.get(2..).unwrap_or_default();
    let mut headers = header_lines(head);
    for (_, value) in headers.iter_mut().filter(|(_, value)| value.trim_ascii() == SESSION.as_bytes()) {
        *value = session().into_bytes();
    }
    let (keys, mut caller) = (keys(), caller());
    let consent = CONSENTS.get(input.len() % CONSENTS.len()).copied().unwrap_or_default();
    caller.consent = consent.to_owned();
    let exchange = Exchange {
        config: config(),
        caller: &caller,
        virtual_server: "finance",
        sealing_keys: &keys,
        nonce: [1; NONCE_BYTES],
        now_unix: NOW,
        request_id: "r-1",
    };
    let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
    let (step, _seen) = edge::handle(&exchange, headers, body);
    match step {
        Step::Respond(reply) => replied(&reply),
        Step::Deny(denied) => replied(&denied.reply),
        Step::Call(_) | Step::Subscribe(_) if consent == UNLISTED => {
            Err(Broken("what the consent does not lead to is permitted".to_owned()))
        }
        Step::Call(permitted) => {
            let value: Value =
                serde_json::from_slice(body).map_err(|_not_json| Broken("a call of no JSON".to_owned()))?;
            let method = value.get("method").and_then(Value::as_str).unwrap_or_default();
            promise(FORWARDED.contains(&method), "a method is forwarded that is no use of anything")?;
            let arguments =
                permitted.call.arguments.as_deref().map(|arguments| serde_json::from_str::<Value>(arguments.get()));
            let arguments = arguments.transpose().map_err(|_not_json| Broken("arguments are no JSON".to_owned()))?;
            let params = value.get("params");
            let is_wrapped = params.and_then(|params| params.get("name")) == Some(&Value::from("call_tool"));
            let of_call = params.and_then(|params| params.get("arguments"));
            let written = if is_wrapped { of_call.and_then(|of| of.get("arguments")) } else { of_call };
            promise(written == arguments.as_ref(), "other arguments than in the body")?;
            Ok(true)
        }
        _ => Ok(true),
    }
}

fn replied(reply: &HttpReply) -> Checked {
    promise(STATUSES.contains(&reply.status), &format!("status {}", reply.status))?;
    let Some(body) = &reply.body else { return Ok(reply.status == 202) };
    let value: Value =
        serde_json::from_slice(body).map_err(|_not_json| Broken("a reply that is no JSON".to_owned()))?;
    promise(value.get("jsonrpc") == Some(&Value::from("2.0")), "a reply that is no JSON-RPC")?;
    promise(value.get("result").is_some() != value.get("error").is_some(), "a reply that says both or nothing")?;
    Ok(reply.status == 200 && value.get("result").is_some())
}

fn config() -> &'static Config {
    static CONFIG: OnceLock<Arc<Config>> = OnceLock::new();
    CONFIG.get_or_init(|| {
        let entries = entries();
        let digest = config_digest::of_entries(&entries).to_vec();
        let snapshot = v1::Snapshot { revision: 7, entries, last: true, digest };
        let applied = Catalogue::new().snapshot(snapshot).ok().flatten();
        applied.map(|applied| applied.config).unwrap_or_default()
    })
}

/// For everything, or for these tools.
fn consent(id: &str, tools: &[&str]) -> Kind {
    let level = |is_there: bool| if is_there { "destructive".to_owned() } else { String::new() };
    Kind::Consent(v1::Consent {
        id: id.into(),
        user: "jane@example.com".into(),
        agent: "coder".into(),
        virtual_server: "finance".into(),
        level: level(tools.is_empty()),
        listed_level: level(!tools.is_empty()),
        tools: tools.iter().map(|tool| (*tool).to_owned()).collect(),
        expires_at: NOW + 600,
        revoked: false,
        client: "cli".into(),
        earlier_agents: Vec::new(),
    })
}

fn entries() -> Vec<v1::Entry> {
    let definition = r#"{"inputSchema":{"type":"object"},"name":"query_data"}"#;
    let (jane, agent, finance) = ("jane@example.com", "coder", "finance");
    let permit = "permit (principal, action, resource);";
    [
        (
            "user/jane@example.com",
            Kind::User(v1::User { name: jane.into(), groups: vec![finance.into()], active: true }),
        ),
        (
            "agent/coder",
            Kind::Agent(v1::Agent {
                name: agent.into(),
                owner: jane.into(),
                project: "platform".into(),
                ceiling: "destructive".into(),
                active: true,
            }),
        ),
        ("consent/c-1", consent("c-1", &[])),
        ("consent/c-listed", consent("c-listed", &["finance/query_data"])),
        ("consent/c-unlisted", consent(UNLISTED, &["finance/other", "hr/query_data"])),
        (
            "server/finance",
            Kind::Server(v1::Server {
                name: finance.into(),
                url: "http://finance.test/mcp".into(),
                timeout_ms: 1000,
                ..v1::Server::default()
            }),
        ),
        (
            "tool/finance/query_data",
            Kind::Tool(v1::Tool {
                server: finance.into(),
                name: "query_data".into(),
                hash: hex::encode(digest(&SHA256, definition.as_bytes())),
                json: definition.into(),
                tier: "retrieval".into(),
                cost: String::new(),
                quarantined: false,
            }),
        ),
        (
            "virtual_server/finance",
            Kind::VirtualServer(v1::VirtualServer {
                name: finance.into(),
                servers: vec![finance.into()],
                naming: "plain".into(),
                tools: "search".into(),
                ..v1::VirtualServer::default()
            }),
        ),
        ("policy/all", Kind::Policy(v1::Policy { name: "all".into(), cedar: permit.into(), version: 1 })),
    ]
    .into_iter()
    .map(|(key, kind)| v1::Entry { key: key.to_owned(), value: v1::Resource { resource: Some(kind) }.encode_to_vec() })
    .collect()
}

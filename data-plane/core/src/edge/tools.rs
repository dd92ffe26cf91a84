//! `tools/list`, the same in both eras but for the frame around it.
//!
//! Called by `legacy` and `modern`. It asks `admission` for each tool: what is listed is what may be called.

use bailiwick_proto::mcp::{Era, RESULT_COMPLETE, Request, RequestId, code, meta_key};
use serde_json::json;

use super::{Exchange, HttpReply, modern::TTL_MS, reply, search, server_info};
use crate::admission::listable;

/// Room for what stands around the definitions, with an id of common length.
const FRAME_BYTES: usize = 128;

/// All tools the caller may call, on one page, in the order of their names.
pub(super) fn list(exchange: &Exchange<'_>, era: Era, request: &Request) -> HttpReply {
    if request.members().get("cursor").is_some() {
        return reply::malformed(
            exchange,
            200,
            code::INVALID_PARAMS,
            "there is no page with this cursor",
            Some(&request.id),
        );
    }
    if search::searched(exchange.config, exchange.virtual_server).is_some() {
        return search::list(exchange, era, request);
    }
    let listed = listable(exchange.config, exchange.caller, exchange.virtual_server, exchange.now_unix);
    let hidden_thousandths = Some(hidden_thousandths(exchange, listed.len()));
    let definitions: Vec<&str> = listed.iter().map(|tool| tool.definition.get()).collect();
    HttpReply { hidden_thousandths, ..HttpReply::of_body(body(&request.id, era, &definitions)) }
}

/// The answer that lists these definitions, which are JSON texts. There may be thousands of them, so they are copied
/// once and not read again.
pub(super) fn body(id: &RequestId, era: Era, definitions: &[&str]) -> Vec<u8> {
    let (head, tail) = match era {
        Era::Legacy(_) => (String::new(), String::new()),
        Era::Modern => {
            let info = json!({meta_key::SERVER_INFO: server_info()});
            let tail = format!(r#","ttlMs":{TTL_MS},"cacheScope":"private","_meta":{info}"#);
            (format!(r#""resultType":"{RESULT_COMPLETE}","#), tail)
        }
    };
    let bytes = definitions.iter().map(|text| text.len() + 1).sum::<usize>();
    let mut body = String::with_capacity(FRAME_BYTES + head.len() + bytes + tail.len());
    body.push_str(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{{head}"tools":["#));
    for (number, definition) in definitions.iter().enumerate() {
        if number > 0 {
            body.push(',');
        }
        body.push_str(definition);
    }
    body.push(']');
    body.push_str(&tail);
    body.push_str("}}");
    body.into_bytes()
}

/// How much of the virtual server the caller does not see.
fn hidden_thousandths(exchange: &Exchange<'_>, listed: usize) -> u64 {
    let server = exchange.config.virtual_servers.get(exchange.virtual_server);
    let all = server.map_or(0, |server| server.tools.len());
    let hidden = all.saturating_sub(listed).saturating_mul(1_000).checked_div(all).unwrap_or(0);
    u64::try_from(hidden).unwrap_or(1_000)
}

//! `tools/list`, the same in both eras but for the frame around it.
//!
//! Called by `legacy` and `modern`. It asks `admission` for each tool: what is listed is what may be called.

use bailiwick_proto::mcp::{Era, RESULT_COMPLETE, Request, code, meta_key};
use serde_json::{json, value::RawValue};

use super::{Exchange, HttpReply, modern::TTL_MS, reply, server_info};
use crate::admission::listable;

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
    let listed = listable(exchange.config, exchange.caller, exchange.virtual_server, exchange.now_unix);
    let definitions: Vec<&str> = listed.iter().map(|tool| tool.definition.get()).collect();
    let definitions = definitions.join(",");
    let text = match era {
        Era::Legacy(_) => format!(r#"{{"tools":[{definitions}]}}"#),
        Era::Modern => {
            let info = json!({meta_key::SERVER_INFO: server_info()});
            format!(
                r#"{{"resultType":"{RESULT_COMPLETE}","tools":[{definitions}],"ttlMs":{TTL_MS},"cacheScope":"private","_meta":{info}}}"#
            )
        }
    };
    // INVARIANT: definitions are JSON texts and the frame is ours, so the whole is JSON.
    let result = RawValue::from_string(text).unwrap_or_else(|_not_json| RawValue::NULL.to_owned());
    let hidden_thousandths = Some(hidden_thousandths(exchange, listed.len()));
    HttpReply { hidden_thousandths, ..HttpReply::result(&request.id, &result) }
}

/// How much of the virtual server the caller does not see.
fn hidden_thousandths(exchange: &Exchange<'_>, listed: usize) -> u64 {
    let server = exchange.config.virtual_servers.get(exchange.virtual_server);
    let all = server.map_or(0, |server| server.tools.len());
    let hidden = all.saturating_sub(listed).saturating_mul(1_000).checked_div(all).unwrap_or(0);
    u64::try_from(hidden).unwrap_or(1_000)
}

//! Requests for lists of prompts, resources and templates, in both eras.
//!
//! Called by `legacy` and `modern`. What is listed, the servers are asked for (`listing`); here is read where the list
//! goes on. Specification: MCP 2026-07-28 and 2025-11-25, pagination.

use bailiwick_proto::{
    Reason,
    mcp::{self, Era, Request, RequestId, code},
};
use serde_json::value::RawValue;

use super::{Exchange, HttpReply, Names, Step, reply};
use crate::{
    listing::{Failure, Listed, Page},
    relay::Level,
    sealed::cursor::Cursor,
};

/// A client that wants a page of a list.
#[derive(Clone, Debug)]
pub struct ListRequest {
    /// To be repeated in the answer.
    pub id: RequestId,
    /// How the client speaks.
    pub era: Era,
    /// The virtual server in the URL.
    pub virtual_server: String,
    /// Of what.
    pub listed: Listed,
    /// Where it goes on.
    pub from: Option<Cursor>,
    /// What the client can be asked for: an object, as it was written.
    pub capabilities: Option<Box<RawValue>>,
}

pub(super) fn list(
    exchange: &Exchange<'_>,
    era: Era,
    capabilities: Option<Box<RawValue>>,
    request: &Request,
    listed: Listed,
) -> Step {
    let invalid = || {
        let message = "there is no page with this cursor";
        Step::Respond(reply::malformed(exchange, 200, code::INVALID_PARAMS, message, Some(&request.id)))
    };
    let Ok(cursor) = request.members().string("cursor") else { return invalid() };
    let open = |cursor: String| {
        Cursor::open(exchange.sealing_keys, exchange.caller, listed.method(), &cursor, exchange.now_unix)
    };
    let Ok(from) = cursor.map(open).transpose() else { return invalid() };
    Step::List(Box::new(ListRequest {
        id: request.id.clone(),
        era,
        virtual_server: exchange.virtual_server.to_owned(),
        listed,
        from,
        capabilities,
    }))
}

impl ListRequest {
    /// The reply with a page; `cursor` is where it goes on, sealed.
    #[must_use]
    pub fn page(&self, page: &Page, cursor: Option<&str>) -> HttpReply {
        let hidden_thousandths = Some(page.hidden_thousandths);
        HttpReply { hidden_thousandths, ..HttpReply::result(&self.id, &page.result(self.era, cursor)) }
    }

    /// The reply when no server has a page.
    #[must_use]
    pub fn failed(&self, names: Names<'_>, failure: &Failure) -> HttpReply {
        match failure {
            Failure::Refused(error) if error.code == code::METHOD_NOT_FOUND => {
                let status = if self.era.is_modern() { 404 } else { 200 };
                HttpReply::error(status, Some(&self.id), error, None)
            }
            Failure::Refused(error) => HttpReply::error(200, Some(&self.id), error, None),
            Failure::Fault(reason) => {
                reply::with_reason(names, 200, reply::rpc_code(*reason), *reason, reason.sentence(), Some(&self.id))
            }
        }
    }
}

/// The levels a client may set, and what becomes of it: `logging/setLevel`.
#[derive(Clone, Debug)]
pub struct SetLevel {
    /// To be repeated in the answer.
    pub id: RequestId,
    /// From this one on.
    pub level: Level,
    /// What the client can be asked for: an object, as it was written.
    pub capabilities: Option<Box<RawValue>>,
}

impl SetLevel {
    /// The reply to somebody who may not have servers asked.
    #[must_use]
    pub fn refused(&self, names: Names<'_>, reason: Reason) -> HttpReply {
        reply::with_reason(names, 200, reply::rpc_code(reason), reason, reason.sentence(), Some(&self.id))
    }

    /// The reply once the servers that keep logs know.
    #[must_use]
    pub fn reply(&self) -> HttpReply {
        HttpReply::result(&self.id, &mcp::raw_object([]))
    }
}

//! Who asks: a caller with a good token, and what shows that it is theirs; or the refusal to send.
//!
//! Called by `endpoint` before a request's body is read, and once more when that took long. A token, or the key it is
//! signed with, may be newer than this node's configuration; then it waits for a moment. Refusals of authentic tokens
//! are recorded within a budget, because whoever holds an expired token must not be able to fill the spool; everybody
//! else is counted and logged only. Specification: RFC 6750 §3; RFC 9728 §5.1.

use std::{sync::Arc, time::Duration};

use bailiwick_data_plane_core::Config;
use bailiwick_proto::{Reason, mcp::code};
use http::{Method, StatusCode};

use super::{
    super::{
        Gateway,
        answer::{self, Response},
        metadata,
        visit::Visit,
    },
    Head, not_ready, refusal_body,
};
use crate::{
    auth::{
        Authentic, NotAuthenticated, newer,
        possession::{DpopFault, Pending, SentHead},
    },
    calls::{Asked, Calls, RequestDenial, Who, unix_seconds},
    telemetry::Cause,
};

/// Longest wait for the configuration that a token was granted under: deltas take milliseconds.
const CATCH_UP_WAIT_MAX: Duration = Duration::from_secs(2);

/// The token that a request came with, and what its body has to be the one of.
pub(super) struct Shown {
    pub(super) authentic: Authentic,
    pub(super) pending: Pending,
}

impl Shown {
    /// Whether the sender has shown already that the token is theirs.
    pub(super) const fn is_proven(&self) -> bool {
        self.pending.is_proven()
    }

    /// Whether a refusal is to be recorded: one of somebody who has not shown yet that the token is theirs, within a
    /// budget only.
    pub(super) fn may_fill(&self, gateway: &Gateway) -> bool {
        matches!(self.pending, Pending::Nothing) || gateway.attributed_denials.take(1)
    }
}

/// Who asks, by the configuration in force now, or as soon as that is what their token was granted under; or the
/// refusal to send.
pub(super) async fn ask(
    visit: &Visit,
    calls: &Calls,
    (method, head): (&Method, Head<'_>),
    request_id: &str,
) -> Result<(Asked, Shown), Box<Response>> {
    let (gateway, virtual_server) = (&visit.gateway, head.virtual_server);
    let (asked, shown) = match ask_now(visit, calls, (method, head), request_id).await {
        Ok(known) => known,
        Err(NotNow::Refused(response)) => return Err(response),
        Err(NotNow::KeyUnknown { revision }) => {
            Box::pin(until_known(visit, revision, request_id)).await?;
            let again = ask_now(visit, calls, (method, head), request_id).await;
            again.map_err(NotNow::into_response)?
        }
    };
    let min_revision = asked.caller.min_revision;
    if min_revision <= asked.config.revision {
        return Ok((asked, shown));
    }
    if Box::pin(gateway.state.reaches(min_revision, CATCH_UP_WAIT_MAX)).await {
        let again = ask_now(visit, calls, (method, head), request_id).await;
        return again.map_err(NotNow::into_response);
    }
    tracing::info!(request_id, min_revision, held = asked.config.revision, "this node is behind the token");
    if shown.may_fill(gateway) {
        Box::pin(record_refused(calls, &asked, virtual_server, Reason::ConfigStale)).await;
    }
    gateway.metrics.refused(Reason::ConfigStale);
    Err(Box::new(not_ready()))
}

/// Why somebody who asks gets nothing now.
enum NotNow {
    /// This is sent.
    Refused(Box<Response>),
    /// The key of their token may come with this revision.
    KeyUnknown { revision: u64 },
}

impl NotNow {
    fn into_response(self) -> Box<Response> {
        match self {
            Self::Refused(response) => response,
            Self::KeyUnknown { .. } => Box::new(not_ready()),
        }
    }
}

/// Waits until this node has the revision that a token says its key came with.
async fn until_known(visit: &Visit, revision: u64, request_id: &str) -> Result<(), Box<Response>> {
    let gateway = &visit.gateway;
    let is_known = match gateway.authenticator.place() {
        Some(_place) => gateway.state.reaches(revision, CATCH_UP_WAIT_MAX).await,
        None => false,
    };
    if is_known {
        return Ok(());
    }
    tracing::info!(request_id, revision, "a token says that its key is newer than this node's configuration");
    gateway.metrics.refused(Reason::ConfigStale);
    Err(Box::new(not_ready()))
}

async fn ask_now(
    visit: &Visit,
    calls: &Calls,
    (method, head): (&Method, Head<'_>),
    request_id: &str,
) -> Result<(Asked, Shown), NotNow> {
    let (gateway, Head { virtual_server, headers, arrived, .. }) = (&visit.gateway, head);
    let Some(config) = gateway.state.config() else { return Err(NotNow::Refused(Box::new(not_ready()))) };
    let config_age_ms = gateway.state.age_ms();
    let authentic = gateway.authenticator.authenticate(&config, virtual_server, headers, unix_seconds());
    let shown = authentic.and_then(|authentic| {
        let (method, certificate) = (method.as_str(), visit.certificate);
        let sent = SentHead { method, headers, certificate, own: gateway.guard.loopback() };
        let pending = gateway.proofs.look(&authentic, &sent);
        let pending = pending.map_err(|why| authentic.unproven(why))?;
        Ok(Shown { authentic, pending })
    });
    match shown {
        Ok(shown) => {
            let (caller, request_id, cause) = (Arc::clone(&shown.authentic), request_id.to_owned(), Cause::default());
            Ok((Asked { config, caller, request_id, config_age_ms, arrived, cause }, shown))
        }
        Err(refused) => {
            if refused.reason == Reason::TokenSignature
                && let Some(revision) = newer::said_revision(&config, headers)
            {
                return Err(NotNow::KeyUnknown { revision });
            }
            // Its claims are verified: what is unknown is a key that its binding is sealed under.
            if matches!(refused.reason, Reason::ConfigStale | Reason::TokenSignature)
                && let Some(revision) = refused.claims.as_ref().and_then(|claims| claims.min_revision)
                && revision > config.revision
            {
                return Err(NotNow::KeyUnknown { revision });
            }
            let denial = Denial { config: &config, virtual_server, request_id, config_age_ms };
            let response = Box::pin(unauthenticated(visit, calls, &denial, refused)).await;
            Err(NotNow::Refused(Box::new(response)))
        }
    }
}

/// The refusal to send where a request does not show what it should, recorded.
pub(super) async fn refuse(
    visit: &Visit,
    calls: &Calls,
    asked: &Asked,
    virtual_server: &str,
    refused: NotAuthenticated,
) -> Response {
    let Asked { config, request_id, config_age_ms, .. } = asked;
    let denial = Denial { config, virtual_server, request_id, config_age_ms: *config_age_ms };
    unauthenticated(visit, calls, &denial, refused).await
}

/// What a refusal before any message was read is recorded with.
struct Denial<'a> {
    config: &'a Config,
    virtual_server: &'a str,
    request_id: &'a str,
    config_age_ms: u64,
}

async fn unauthenticated(visit: &Visit, calls: &Calls, denial: &Denial<'_>, refused: NotAuthenticated) -> Response {
    let (gateway, client) = (&visit.gateway, visit.client);
    let NotAuthenticated { reason, claims, dpop } = refused;
    gateway.metrics.refused(reason);
    let Denial { request_id, virtual_server, .. } = denial;
    tracing::info!(%reason, request_id, virtual_server, %client, "not authenticated");
    // A client that has no nonce yet asks for one in this way: counted, and nothing to be recorded.
    if dpop != Some(DpopFault::Nonce)
        && let Some(claims) = &claims
        && gateway.attributed_denials.take(1)
    {
        let record = RequestDenial {
            who: Who::Claims(claims),
            virtual_server: denial.virtual_server,
            request_id: denial.request_id,
            reason,
            revision: denial.config.revision,
            config_age_ms: denial.config_age_ms,
        };
        if let Err(unrecorded) = calls.deny_request(record).await {
            tracing::warn!(%unrecorded, "a refusal is not recorded");
        }
    }
    let status = match reason {
        Reason::ScopeInsufficient => StatusCode::FORBIDDEN,
        Reason::ConfigStale => return not_ready(),
        _ => StatusCode::UNAUTHORIZED,
    };
    let issuer = denial.config.issuer.as_ref();
    let mut response = answer::json(status, refusal_body(code::DENIED, reason, denial.request_id));
    let resource = (issuer, denial.virtual_server);
    metadata::challenge_along(&mut response, resource, (reason, dpop), metadata::SCOPE_OFFERED);
    response
}

/// Records that an authenticated caller's request was refused before it was understood.
pub(super) async fn record_refused(calls: &Calls, asked: &Asked, virtual_server: &str, reason: Reason) {
    let record = RequestDenial {
        who: Who::Caller(&asked.caller),
        virtual_server,
        request_id: &asked.request_id,
        reason,
        revision: asked.config.revision,
        config_age_ms: asked.config_age_ms,
    };
    if let Err(unrecorded) = calls.deny_request(record).await {
        tracing::warn!(%unrecorded, "a refusal is not recorded");
    }
}

//! What a server is told of each call, signed: on whose behalf it is made, what was decided, and of which bytes.
//!
//! A [`Context`] is made by `calls` for what was decided for a caller; `route` has it signed each time that a request
//! is written, so that a second attempt has another one, and puts it into the request's header. The answers of clients
//! to what a server asks during a call go with the context of that call. What this node does by itself (handshakes,
//! lists, subscriptions, cancellations) carries none, nor does anything where the server's manifest says so or no key
//! was delivered yet: services that rely on contexts refuse what has none. Deliberately absent: what a context says
//! and how it is signed (`bailiwick_token::context`), keys (control plane).

use std::{
    borrow::Cow,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwapOption;
use bailiwick_data_plane_core::{Caller, Config, edge::PermittedCall, wanted::Found};
use bailiwick_proto::v1;
use bailiwick_token::context::{
    self, ContextClaims, ContextDecision, ContextKey, ContextPolicy, LIFETIME_SECONDS, NAME_BYTES_MAX, POLICIES_MAX,
};
use http::{HeaderName, HeaderValue, Method};

use super::fault::UpstreamFault;

/// The header a context stands in.
pub(super) const HEADER: HeaderName = HeaderName::from_static(context::HEADER);

/// Why something is sent to a server. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) config: Arc<Config>,
    pub(crate) caller: Arc<Caller>,
    pub(crate) permitted: Arc<PermittedCall>,
    pub(crate) request_id: Arc<str>,
}

/// A request as it is written, as far as a context is bound to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written<'a> {
    /// URL of the server, as its manifest has it.
    pub(super) server: &'a str,
    pub(super) method: &'a Method,
    /// Path and query.
    pub(super) target: &'a str,
    pub(super) body: &'a [u8],
}

/// Signs contexts; one per node, with the key that was delivered last.
#[derive(Debug, Default)]
pub(crate) struct Contexts {
    key: ArcSwapOption<ContextKey>,
    signed: AtomicU64,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("request_id", &self.request_id).finish_non_exhaustive()
    }
}

impl Contexts {
    /// Has the first of these sign, if it is another one than before. Without any nothing is signed.
    pub(crate) fn replace(&self, delivered: &[v1::NamedSecret]) {
        let Some(newest) = delivered.first() else {
            self.key.store(None);
            return;
        };
        if self.key.load().as_ref().is_some_and(|known| known.public_jwk().kid == newest.name) {
            return;
        }
        match ContextKey::from_seed(newest.name.clone(), &newest.value) {
            Ok(key) => self.key.store(Some(Arc::new(key))),
            Err(error) => {
                tracing::error!(%error, "the key that signs contexts cannot be used; the one before stays");
            }
        }
    }

    /// The header of a request; `None` while nothing can be signed.
    pub(super) fn header(
        &self,
        context: &Context,
        written: Written<'_>,
        now_unix: i64,
    ) -> Result<Option<HeaderValue>, UpstreamFault> {
        let (Some(key), Some(issuer)) = (&*self.key.load(), &context.config.issuer) else { return Ok(None) };
        let unusable = |why: &dyn fmt::Display| UpstreamFault::Unusable(why.to_string());
        let number = self.signed.fetch_add(1, Ordering::Relaxed);
        let signed = context.signed(key, (issuer, number), written, now_unix).map_err(|error| unusable(&error))?;
        let mut value = HeaderValue::try_from(signed).map_err(|error| unusable(&error))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

impl Context {
    fn signed(
        &self,
        key: &ContextKey,
        (issuer, number): (&v1::Issuer, u64),
        written: Written<'_>,
        now_unix: i64,
    ) -> Result<String, context::ContextError> {
        let Self { config, caller, permitted, request_id } = self;
        let PermittedCall { call, decision, found } = permitted.as_ref();
        let (tool, prompt, uri) = match found {
            Found::Tool(tool) | Found::Task(tool) => (Some(tool.name.as_str()), None, None),
            Found::Prompt(own) => (None, Some(own.name.as_str()), None),
            Found::Resource(own) => (None, None, Some(own.name.as_str())),
        };
        let short = |name: Option<&'_ str>| name.filter(|name| name.len() <= NAME_BYTES_MAX).map(ToOwned::to_owned);
        let policies = decision.policies.iter().take(POLICIES_MAX);
        let policies = policies.map(|policy| ContextPolicy { name: text(&policy.name), version: policy.version });
        key.sign(&ContextClaims {
            iss: text(&issuer.issuer),
            aud: text(written.server),
            iat: now_unix,
            exp: now_unix.saturating_add(LIFETIME_SECONDS),
            jti: Cow::Owned(format!("{request_id}.{number}")),
            sub: text(&caller.user),
            agent: text(&caller.agent),
            earlier_agents: Cow::Borrowed(&decision.earlier_agents),
            client_id: text(&caller.client),
            project: text(decision.project.as_deref().unwrap_or(&caller.project)),
            consent: text(&caller.consent),
            session: text(&caller.session),
            virtual_server: text(&call.virtual_server),
            server: text(found.server()),
            method: text(call.method),
            tool: tool.map(text),
            prompt: short(prompt).map(Cow::Owned),
            uri: short(uri).map(Cow::Owned),
            tier: text(found.tier().as_str()),
            decision: ContextDecision { effect: text("permit"), policies: policies.collect() },
            revision: decision.revision,
            digest: Cow::Owned(hex::encode(&config.digest)),
            request_id: text(request_id),
            binding: text(binding(caller)),
            htm: text(written.method.as_str()),
            target: Cow::Owned(context::digest(written.target.as_bytes())),
            body: Cow::Owned(context::digest(written.body)),
        })
    }
}

const fn text(text: &str) -> Cow<'_, str> {
    Cow::Borrowed(text)
}

/// As the record of the call has it.
const fn binding(caller: &Caller) -> &'static str {
    if caller.bound { "bound" } else { "not_required" }
}

#[cfg(test)]
mod tests;

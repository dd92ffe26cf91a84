//! W3C trace context as MCP carries it: read from a request's `_meta`, decided on, rewritten for the hop to a server.
//!
//! Called by the telemetry of `data-plane/server` and by `forward`. What is not well-formed counts as absent: an
//! invalid `traceparent` takes its `tracestate` with it, and nothing invalid travels on. A node that traces puts its
//! own span into `traceparent`; one that does not passes on what it was given. Ids are arguments. Deliberately absent:
//! what a span says (`operation`), clocks, randomness and exporting (`data-plane/server`, `runtime`).
//! Specification: W3C Trace Context (version 00), W3C Baggage, MCP SEP-414.

use std::fmt;

use bailiwick_proto::mcp::{self, Members};
use serde_json::value::RawValue;

/// Longest `tracestate`: what every participant has to pass on (Trace Context §3.3.1.5).
pub const TRACESTATE_BYTES_MAX: usize = 512;
/// Most members of a `tracestate` (Trace Context §3.3.1.1).
pub const TRACESTATE_MEMBERS_MAX: usize = 32;
/// Longest `baggage`: what every participant has to pass on (Baggage §3.3.2).
pub const BAGGAGE_BYTES_MAX: usize = 8192;
/// Most members of a `baggage` (Baggage §3.3.2).
pub const BAGGAGE_MEMBERS_MAX: usize = 64;

/// Names of the three, in `_meta` and as HTTP headers alike.
const TRACEPARENT: &str = mcp::meta_key::TRACE[0];
const TRACESTATE: &str = mcp::meta_key::TRACE[1];
const BAGGAGE: &str = mcp::meta_key::TRACE[2];
/// Length of a `traceparent` of version 00.
const TRACEPARENT_BYTES: usize = 55;
/// The flag of a trace that is recorded.
const SAMPLED: u8 = 0x01;
/// The flags a later participant has to understand: sampled, and that the trace id is random.
const KNOWN_FLAGS: u8 = 0x03;

/// One span's place in the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanContext {
    /// Not all zero.
    pub trace_id: [u8; 16],
    /// Not all zero.
    pub span_id: [u8; 8],
    /// `traceparent`'s flags, as far as they are known.
    pub flags: u8,
}

/// Fresh random ids for one span, and for a trace if it begins one.
#[derive(Clone, Copy, Debug)]
pub struct FreshIds {
    /// 128 random bits.
    pub trace_id: [u8; 16],
    /// 64 random bits.
    pub span_id: [u8; 8],
}

/// Which traces are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// Of a thousand traces, by their id, so that all nodes decide alike.
    pub thousandths: u32,
    /// Whether the client's own decision counts for the traces it began.
    pub follows_client: bool,
}

/// What a peer sent along.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// The span that asks.
    pub parent: Option<SpanContext>,
    /// Vendors' additions to that.
    pub state: Option<String>,
    /// The application's own key–value pairs.
    pub baggage: Option<String>,
}

impl SpanContext {
    /// Reads a `traceparent`; later versions are read as far as 00 goes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(5, '-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let [version] = lower_hex(version)?;
        let fits = if version == 0 { text.len() == TRACEPARENT_BYTES } else { version != 0xff };
        let (trace_id, span_id, [flags]) = (lower_hex(trace)?, lower_hex(span)?, lower_hex(flags)?);
        let named = trace_id != [0; 16] && span_id != [0; 8];
        (fits && named).then_some(Self { trace_id, span_id, flags: flags & KNOWN_FLAGS })
    }

    /// Whether the trace is recorded.
    #[must_use]
    pub const fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// Another span of the same trace.
    #[must_use]
    pub const fn sibling(&self, span_id: [u8; 8]) -> Self {
        Self { span_id, ..*self }
    }

    /// The span for a request that came with `parent`, or with none.
    #[must_use]
    pub fn begin(parent: Option<&Self>, fresh: FreshIds, sampling: Sampling) -> Self {
        let FreshIds { trace_id, span_id } = fresh;
        let Some(parent) = parent else {
            return Self { trace_id, span_id, flags: u8::from(sampling.takes(&trace_id)) };
        };
        let sampled = if sampling.follows_client { parent.is_sampled() } else { sampling.takes(&parent.trace_id) };
        Self { flags: (parent.flags & !SAMPLED) | u8::from(sampled), ..parent.sibling(span_id) }
    }

    /// The trace's id as it is written.
    #[must_use]
    pub fn trace_id_text(&self) -> String {
        hex::encode(self.trace_id)
    }
}

/// A `traceparent` of version 00.
impl fmt::Display for SpanContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", hex::encode(self.trace_id), hex::encode(self.span_id), self.flags)
    }
}

impl Sampling {
    fn takes(self, trace_id: &[u8; 16]) -> bool {
        // The last seven bytes are the ones a random id has to have random.
        let tail = trace_id.iter().skip(9).fold(0_u64, |tail, byte| (tail << 8) | u64::from(*byte));
        tail % 1_000 < u64::from(self.thousandths)
    }
}

impl Carried {
    /// What a request's `_meta` holds.
    #[must_use]
    pub fn of_meta(meta: Option<&RawValue>) -> Self {
        meta.and_then(Members::of).map(|members| Self::of_members(&members)).unwrap_or_default()
    }

    /// The same, of a `_meta` that is split already.
    #[must_use]
    pub fn of_members(meta: &Members<'_>) -> Self {
        Self::read(|name| meta.string(name).ok().flatten())
    }

    /// What is found under the three names.
    pub fn read(text: impl Fn(&'static str) -> Option<String>) -> Self {
        let parent = text(TRACEPARENT).and_then(|value| SpanContext::parse(&value));
        let state = parent.and_then(|_named| text(TRACESTATE)).filter(|value| is_tracestate(value));
        Self { parent, state, baggage: text(BAGGAGE).filter(|value| is_baggage(value)) }
    }

    /// The same, asked by another span.
    #[must_use]
    pub fn by(&self, parent: SpanContext) -> Self {
        Self { parent: Some(parent), ..self.clone() }
    }

    /// A `_meta` that carries this and nothing else of the kind; all other members stay as they were.
    #[must_use]
    pub fn within(&self, meta: Option<&RawValue>) -> Option<Box<RawValue>> {
        let own = self.to_members();
        let others = meta.and_then(mcp::ordered_members).unwrap_or_default();
        let others = others.iter().filter(|(key, _)| !mcp::meta_key::TRACE.contains(&key.as_ref()));
        let own = own.iter().map(|(key, value)| (*key, &**value));
        let all: Vec<_> = others.map(|(key, value)| (key.as_ref(), *value)).chain(own).collect();
        (meta.is_some() || !all.is_empty()).then(|| mcp::raw_object(all))
    }

    /// Whether [`Self::within`] would leave this `_meta` as it is.
    #[must_use]
    pub fn leaves(&self, meta: Option<&RawValue>) -> bool {
        // A word that stands elsewhere in it costs a rewriting that changes nothing.
        let names_one = |meta: &RawValue| mcp::meta_key::TRACE.iter().any(|key| meta.get().contains(key));
        *self == Self::default() && !meta.is_some_and(names_one)
    }

    /// As members of a `_meta`.
    #[must_use]
    pub fn to_members(&self) -> Vec<(&'static str, Box<RawValue>)> {
        let parent = self.parent.map(|parent| parent.to_string());
        let all = [(TRACEPARENT, &parent), (TRACESTATE, &self.state), (BAGGAGE, &self.baggage)];
        all.into_iter().filter_map(|(name, value)| Some((name, mcp::raw(value.as_ref()?)))).collect()
    }
}

/// `N` bytes from twice as many lower-case digits.
fn lower_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let is_lower = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let mut bytes = [0; N];
    (is_lower && hex::decode_to_slice(text, &mut bytes).is_ok()).then_some(bytes)
}

/// `key=value` members, each key once; empty members are allowed.
fn is_tracestate(text: &str) -> bool {
    let mut keys = Vec::new();
    let mut is_member = |member: &str| {
        let Some((key, value)) = member.split_once('=') else { return false };
        let fits = is_state_key(key) && is_state_value(value) && !keys.contains(&key.to_owned());
        keys.push(key.to_owned());
        fits
    };
    let members: Vec<_> = text.split(',').map(trim).filter(|member| !member.is_empty()).collect();
    text.len() <= TRACESTATE_BYTES_MAX
        && (1..=TRACESTATE_MEMBERS_MAX).contains(&members.len())
        && members.into_iter().all(&mut is_member)
}

fn is_state_key(key: &str) -> bool {
    let inner = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/');
    let part = |text: &str, longest: usize| {
        let starts = text.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        starts && text.len() <= longest && text.bytes().all(inner)
    };
    match key.split_once('@') {
        Some((tenant, system)) => part(tenant, 241) && part(system, 14),
        None => part(key, 256),
    }
}

fn is_state_value(value: &str) -> bool {
    (1..=256).contains(&value.len()) && value.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'=')
}

/// `key=value[;properties]` members.
fn is_baggage(text: &str) -> bool {
    let is_member = |member: &str| {
        let Some((key, rest)) = member.split_once('=') else { return false };
        let is_key = !trim(key).is_empty() && trim(key).bytes().all(is_token);
        is_key && rest.bytes().all(|byte| matches!(byte, b'!'..=b'~' | b' ' | b'\t') && !matches!(byte, b'"' | b'\\'))
    };
    let members = text.split(',').count();
    text.len() <= BAGGAGE_BYTES_MAX && members <= BAGGAGE_MEMBERS_MAX && text.split(',').all(is_member)
}

/// RFC 9110 `tchar`.
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        )
}

fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

#[cfg(test)]
mod tests;

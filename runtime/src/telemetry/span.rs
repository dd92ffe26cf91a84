//! A finished span, as its maker describes it.
//!
//! Made by the server packages, turned into OTLP by `otlp`. All times are nanoseconds since 1970.

use std::borrow::Cow;

/// Which side of an exchange it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// Somebody asked us.
    Server,
    /// We asked somebody.
    Client,
}

/// An attribute's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Bounded by its maker.
    Text(Cow<'static, str>),
    /// An integer.
    Whole(i64),
}

/// A span of any trace, by its ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanRef {
    /// W3C trace id.
    pub trace_id: [u8; 16],
    /// W3C span id.
    pub span_id: [u8; 8],
    /// W3C trace flags.
    pub flags: u8,
}

/// The span that caused another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Within the same trace.
    pub span_id: [u8; 8],
    /// Whether it belongs to another process.
    pub is_remote: bool,
}

/// See the file's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its own ids.
    pub own: SpanRef,
    /// Who caused it; none begins a trace.
    pub parent: Option<Parent>,
    /// W3C `tracestate`.
    pub state: String,
    /// What it is called.
    pub name: String,
    /// Which side.
    pub kind: SpanKind,
    /// When it began.
    pub began: u64,
    /// When it ended.
    pub ended: u64,
    /// What it says.
    pub attributes: Vec<(&'static str, Value)>,
    /// Other spans it belongs to.
    pub links: Vec<SpanRef>,
    /// Why it failed, if it did; may be empty.
    pub failure: Option<Cow<'static, str>>,
}

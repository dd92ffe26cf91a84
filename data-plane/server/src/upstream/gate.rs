//! The last look before a call leaves: asked when its first byte could be written, not before.
//!
//! Connecting to a server and shaking hands with it may take seconds, in which a lease runs out. So the body of a call is
//! a [`Gated`] one: the HTTP client asks it for bytes once the connection stands, and then the gate decides. A call that
//! is withheld so never reached the server whole, and no server acts on half a message. Made by `calls`.

use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use bailiwick_proto::Reason;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};

/// Why a call may not leave now, if so. Cheap to clone; remembers the first refusal.
#[derive(Clone)]
pub(crate) struct Gate {
    ask: Arc<dyn Fn() -> Option<Reason> + Send + Sync>,
    refused: Arc<OnceLock<Reason>>,
}

impl Gate {
    pub(crate) fn new(ask: impl Fn() -> Option<Reason> + Send + Sync + 'static) -> Self {
        Self { ask: Arc::new(ask), refused: Arc::default() }
    }

    /// Why the call did not leave, if the gate kept it.
    pub(super) fn refused(&self) -> Option<Reason> {
        self.refused.get().copied()
    }

    fn opens(&self) -> Result<(), Withheld> {
        match (self.ask)() {
            None => Ok(()),
            Some(reason) => Err(Withheld(*self.refused.get_or_init(|| reason))),
        }
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Gate").field(&self.refused).finish()
    }
}

/// The gate kept the call.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the call was withheld: {0}")]
pub(super) struct Withheld(Reason);

/// A body that leaves through a gate.
#[derive(Debug)]
pub(super) struct Gated {
    pub(super) gate: Gate,
    pub(super) body: Full<Bytes>,
}

impl Body for Gated {
    type Data = Bytes;
    type Error = Withheld;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Withheld>>> {
        if !self.body.is_end_stream() {
            self.gate.opens()?;
        }
        Pin::new(&mut self.body).poll_frame(cx).map_err(|never: Infallible| match never {})
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

//! The last look before a call leaves: asked when its first byte could be written, not before.
//!
//! Connecting to a server and shaking hands with it may take seconds, in which a lease runs out. So the body of a call
//! is a [`Leaving`] one: the HTTP client asks it for bytes once the connection stands, and then the gate decides. A
//! call that is withheld so never reached the server whole, and no server acts on half a message. Made by `calls`.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use bailiwick_proto::Reason;
use bytes::Bytes;
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

    /// Why a call may not leave now, if so; it is the last look.
    pub(super) fn keeps(&self) -> Option<Reason> {
        self.opens().err().map(|Withheld(reason)| reason)
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

/// A body in one piece, that leaves through a gate where there is one.
#[derive(Debug)]
pub(super) struct Leaving {
    pub(super) gate: Option<Gate>,
    /// Until it has left.
    pub(super) data: Option<Bytes>,
}

impl Leaving {
    pub(super) fn new(gate: Option<Gate>, data: Bytes) -> Self {
        Self { gate, data: Some(data).filter(|data| !data.is_empty()) }
    }
}

impl Body for Leaving {
    type Data = Bytes;
    type Error = Withheld;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Withheld>>> {
        if let (Some(gate), Some(_)) = (&self.gate, &self.data) {
            gate.opens()?;
        }
        Poll::Ready(self.data.take().map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.data.as_ref().map_or(0, |data| data.len() as u64))
    }
}

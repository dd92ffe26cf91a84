//! SignalStream: what an administrator asks a transmitter of signals for.
//!
//! Any node asks. What is asked for twice is there once: a stream that is there already is made as the manifest says. A
//! verification comes as a signal, perhaps to another node; whoever waits for it asks again what has come (`seen`), and
//! compares. Absent: how a transmitter is asked (`signals::streams`).

use bailiwick_control_plane_core::signal::Last;
use bailiwick_proto::v1;
use tonic::Status;

use super::AdminService;
use crate::{
    clock,
    signals::streams::{Stream, StreamFault},
    status,
};

impl AdminService {
    pub(super) async fn ask_transmitter(
        &self,
        request: v1::SignalStreamRequest,
    ) -> Result<v1::SignalStreamResponse, Status> {
        let v1::SignalStreamRequest { provider, action, stream, user } = request;
        // A manifest that was applied a moment ago counts.
        self.domain.read_latest(|_| ()).await.map_err(|error| status::of_consensus(&error))?;
        let mut state = String::new();
        let asked = match action.as_str() {
            "create" => self.streams.create(&provider, &stream).await,
            "status" => self.streams.show(&provider, &stream).await,
            "verify" => {
                let random: [u8; 16] =
                    clock::random().map_err(|_| Status::unavailable("there is no randomness now"))?;
                state = hex::encode(random);
                self.streams.verify(&provider, &stream, &state).await
            }
            "delete" => self.streams.delete(&provider, &stream).await,
            "add" => self.streams.subject(&provider, &stream, (&user, true)).await,
            "remove" => self.streams.subject(&provider, &stream, (&user, false)).await,
            "seen" => Ok(Stream::default()),
            _ => return Err(Status::invalid_argument("action must be create, status, verify, delete, add or remove")),
        };
        let Stream { id, status, delivery, endpoint, events, notes } = asked.map_err(|fault| refused(&fault))?;
        let last = self.domain.read(|state| state.signals.last.get(&provider).cloned());
        let (verified, verified_state) = last.map(|Last { verified, state, .. }| (verified, state)).unwrap_or_default();
        let delivery = delivery.to_owned();
        Ok(v1::SignalStreamResponse {
            stream: id,
            status,
            delivery,
            endpoint,
            events,
            notes,
            state,
            verified,
            verified_state,
        })
    }
}

/// Not to be asked again by itself: a transmitter that is away is told of as it is.
fn refused(fault: &StreamFault) -> Status {
    if let StreamFault::Provider = fault {
        return Status::not_found(fault.to_string());
    }
    Status::failed_precondition(fault.to_string())
}

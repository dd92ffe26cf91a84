//! What every Bailiwick process needs to run, and nothing of what it is about.
//!
//! Supervised tasks, ordered shutdown, configuration, telemetry, the operations listener and the event stream.
//! Called by the server packages and the command line. No domain words live here; subjects, messages and limits
//! of the domain arrive as arguments.

pub mod config;
pub mod event_stream;
pub mod listen;
pub mod metrics;
pub mod ops;
pub mod private_file;
pub mod shutdown;
pub mod tasks;
pub mod telemetry;

pub use event_stream::EventStream;
pub use shutdown::Shutdown;
pub use tasks::{OnEnd, Supervisor};

//! What every Bailiwick process needs to run, and nothing of what it is about.
//!
//! Supervised tasks, ordered shutdown, configuration, telemetry, the operations listener, the event stream; the master
//! key and what is sealed under it, this node's identity, and TLS listeners and connectors made from that.
//! Called by the server packages and the command line. No domain words live here; subjects, messages and limits
//! of the domain arrive as arguments.

pub mod authority;
pub mod client_certificate;
pub mod config;
pub mod connect;
pub mod event_stream;
pub mod identity;
pub mod listen;
pub mod master_key;
pub mod metrics;
pub mod ops;
pub mod private_file;
pub mod sealed_file;
pub mod served_certificate;
pub mod shutdown;
pub mod tasks;
pub mod telemetry;
pub mod tls;

pub use event_stream::EventStream;
pub use identity::Identity;
pub use master_key::{MasterKeyConfig, MasterKeys};
pub use shutdown::Shutdown;
pub use tasks::{OnEnd, Supervisor};
pub use tls::PeerIdentity;

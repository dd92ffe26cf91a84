//! What the end-to-end tests stand on: deployments, upstreams, a raw MCP client, and the command line.
//!
//! The tests in `tests/tests/` run real binaries from the target folder they were built into. Every deployment
//! listens on free loopback ports, keeps its data in a temporary folder, and is stopped when dropped. Nothing here
//! sleeps to synchronise: `eventually` polls a condition within a bound.

pub mod browser;
pub mod certificates;
pub mod cluster;
pub mod collector;
pub mod conformance;
pub mod deployment;
pub mod events;
pub mod http3;
pub mod idp;
pub mod inspector;
pub mod knobs;
pub mod load;
pub mod manifests;
pub mod mcp;
pub mod namespaces;
pub mod peers;
pub mod prover;
pub mod records;
pub mod scripted;
pub mod tap;
pub mod task_server;
pub mod tls_proxy;
pub mod upstream;
pub mod visitor;
pub mod wait;

pub use certificates::{ServedCertificate, Trusted};
pub use cluster::Member;
pub use collector::Collector;
pub use deployment::{Deployment, Shape};
pub use events::Events;
pub use http3::Http3Client;
pub use inspector::Inspector;
pub use knobs::Knobs;
pub use load::{Callers, Writers};
pub use mcp::{Answer, McpClient};
pub use namespaces::{BRIDGE, Network, within_namespaces};
pub use scripted::{Reply, ScriptedServer};
pub use tap::{Tap, Tapped};
pub use task_server::TaskServer;
pub use tls_proxy::TlsProxy;
pub use upstream::SampleServer;
pub use wait::eventually;

/// Runs each claim, a function of a [`Shape`], against the embedded deployment and against real processes.
#[macro_export]
macro_rules! both {
    ($($claim:ident)*) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $claim() -> anyhow::Result<()> {
                super::$claim($crate::Shape::Embedded).await
            })*
        }
        mod processes {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $claim() -> anyhow::Result<()> {
                super::$claim($crate::Shape::Processes).await
            })*
        }
    };
}

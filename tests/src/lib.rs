//! What the end-to-end tests stand on: deployments, upstreams, a raw MCP client, and the command line.
//!
//! The tests in `tests/tests/` run real binaries from the target folder they were built into. Every deployment
//! listens on free loopback ports, keeps its data in a temporary folder, and is stopped when dropped. Nothing here
//! sleeps to synchronise: `eventually` polls a condition within a bound.

pub mod deployment;
pub mod mcp;
pub mod peers;
pub mod upstream;
pub mod wait;

pub use deployment::{Deployment, Shape};
pub use mcp::{Answer, McpClient};
pub use upstream::SampleServer;
pub use wait::eventually;

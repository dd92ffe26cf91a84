//! Nodes in one process that reach each other over QUIC on loopback, with certificates of a test authority.

mod cluster;
mod gate;
mod lanes;
mod world;

//! A whole control-plane node, asked over its real listeners; only the data planes and the ledger are played.

mod streams;
mod support;
mod writes;

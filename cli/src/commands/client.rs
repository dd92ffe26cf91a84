//! `client new-secret`: a secret for an OAuth client, and what its manifest says of it. MCP clients on this machine are
//! in `list` and `setup`.

mod list;
mod setup;

use aws_lc_rs::{digest, rand};
use serde_json::json;
use zeroize::Zeroizing;

use crate::{
    args::{ClientCommand, ClientNewSecretArgs},
    failure::Failure,
    output::print,
};

/// Bits enough that a plain hash of it gives nothing away.
const SECRET_BYTES: usize = 32;

pub(crate) async fn run(command: ClientCommand) -> Result<(), Failure> {
    match command {
        ClientCommand::NewSecret(args) => new_secret(&args),
        ClientCommand::List(args) => list::list(&args),
        ClientCommand::Setup(args) if args.undo => setup::undo(&args),
        ClientCommand::Setup(args) => setup::setup(&args).await,
    }
}

fn new_secret(args: &ClientNewSecretArgs) -> Result<(), Failure> {
    let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
    let filled = rand::fill(bytes.as_mut_slice());
    filled.map_err(|_| Failure::Refused("the operating system gives no randomness".to_owned()))?;
    let secret = Zeroizing::new(hex(bytes.as_slice()));
    let hash = hex(digest::digest(&digest::SHA256, secret.as_bytes()).as_ref());
    let value = json!({"client_secret": *secret, "secret_sha256": hash});
    print(args.output, &value, || {
        format!("client secret, shown once: {}\nin the Client's manifest:   secret_sha256: {hash}", *secret)
    });
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

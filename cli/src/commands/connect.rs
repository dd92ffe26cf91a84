//! `connect`: the local MCP bridge, for one client on standard input and output or for several over HTTP.
//!
//! Reads what was asked for and hands over to `bailiwick_connect`. Invariant: standard output has messages of MCP
//! alone, or nothing; what people and logs are told goes to standard error.

use std::{io::IsTerminal as _, path::PathBuf};

use bailiwick_connect::{Binding, Connection, Fault, KeyStore, McpUrl, Options, Reach};
use bailiwick_runtime::{
    config::{default_data_dir, env},
    telemetry::{self, LogFormat},
};

use super::role::stop_on_signal;
use crate::{
    args::{self, ConnectArgs, IdentityArgs, Keys},
    failure::Failure,
    output::printed,
};

/// Below the folder for data.
const FOLDER: &str = "connect";

pub(crate) async fn run(args: ConnectArgs) -> Result<(), Failure> {
    // What people are to know is said to them; a client that shows its servers' logs shows trouble.
    telemetry::init(LogFormat::Auto, &env("BAILIWICK_LOG").unwrap_or_else(|| "warn".to_owned()));
    let url = McpUrl::parse(&args.url).map_err(failure)?;
    check(&args.identity)?;
    let terminal = args.sign_in || (args.http.is_some() && std::io::stdin().is_terminal());
    let options = Options {
        client_id: args.identity.client_id.clone(),
        scope: args.identity.scope.clone(),
        binding: binding(args.identity.binding),
        key_store: key_store(args.identity.keys),
        folder: folder(),
        to_sign_out: args.sign_out,
        reach: Reach::of_this_machine(args.no_browser, terminal),
        sign_in_command: sign_in_command(&url, &args.identity),
        url,
    };
    let connection = Connection::open(options, stop_on_signal()).await.map_err(failure)?;
    if args.sign_out {
        return sign_out(&connection).await;
    }
    if args.sign_in {
        return connection.sign_in().await.map_err(failure);
    }
    match args.http {
        None => connection.serve_stdio().await,
        Some(address) => connection.serve_http(address, announce).await.map_err(failure)?,
    }
    Ok(())
}

async fn sign_out(connection: &Connection) -> Result<(), Failure> {
    let said = if connection.sign_out().await.map_err(failure)? { "signed out" } else { "was not signed in" };
    eprintln!("{said}");
    Ok(())
}

fn announce(url: &str, secret: &str) {
    eprintln!("MCP endpoint for clients on this machine\n\n  {url}   with the header Authorization: Bearer {secret}");
    eprintln!("  {url}/{secret}   for clients without headers\n");
}

/// For locks, and for keys where there is no keyring.
pub(crate) fn folder() -> PathBuf {
    default_data_dir().join(FOLDER)
}

/// What brings a person to the question in a terminal.
pub(crate) fn sign_in_command(url: &McpUrl, identity: &IdentityArgs) -> String {
    command_line(url, &["--sign-in"], identity)
}

/// A command for people to run, each word quoted for a POSIX shell.
pub(crate) fn command_line(url: &McpUrl, more: &[&str], identity: &IdentityArgs) -> String {
    let mut words = vec!["bailiwick".to_owned(), "connect".to_owned(), url.to_string()];
    words.extend(identity_words(identity));
    words.extend(more.iter().map(|&word| word.to_owned()));
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./_-".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// These words go to terminals and into commands.
pub(crate) fn check(identity: &IdentityArgs) -> Result<(), Failure> {
    let given = [("--client-id", &identity.client_id), ("--scope", &identity.scope)];
    let is_bad = |value: &Option<String>| value.as_ref().is_some_and(|value| *value != printed(value));
    match given.into_iter().find(|(_, value)| is_bad(value)) {
        Some((name, _)) => Err(Failure::Usage(format!("{name} must have no control characters"))),
        None => Ok(()),
    }
}

/// The options that say which keys are used, as they are written.
pub(crate) fn identity_words(identity: &IdentityArgs) -> Vec<String> {
    let given = [("--client-id", identity.client_id.clone()), ("--scope", identity.scope.clone())];
    let binding = match identity.binding {
        args::Binding::Auto => None,
        args::Binding::Envelope => Some("envelope".to_owned()),
        args::Binding::Dpop => Some("dpop".to_owned()),
        args::Binding::None => Some("none".to_owned()),
    };
    let keys = match identity.keys {
        Keys::Auto => None,
        Keys::Keyring => Some("keyring".to_owned()),
        Keys::File => Some("file".to_owned()),
    };
    let all = given.into_iter().chain([("--binding", binding), ("--keys", keys)]);
    all.filter_map(|(name, value)| Some([name.to_owned(), value?])).flatten().collect()
}

pub(crate) const fn binding(binding: args::Binding) -> Binding {
    match binding {
        args::Binding::Auto => Binding::Auto,
        args::Binding::Envelope => Binding::Envelope,
        args::Binding::Dpop => Binding::Dpop,
        args::Binding::None => Binding::None,
    }
}

pub(crate) const fn key_store(keys: Keys) -> KeyStore {
    match keys {
        Keys::Auto => KeyStore::Auto,
        Keys::Keyring => KeyStore::Keyring,
        Keys::File => KeyStore::File,
    }
}

pub(crate) fn failure(fault: Fault) -> Failure {
    match fault {
        Fault::Url(_) => Failure::Usage(fault.to_string()),
        Fault::Unreachable { .. } => Failure::Unreachable(fault.to_string()),
        _ => Failure::Refused(fault.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_to_run_are_quoted_word_by_word() {
        let url = McpUrl::parse("https://mcp.example/mcp/shop").unwrap();
        let identity = |client_id: &str| IdentityArgs {
            client_id: Some(client_id.to_owned()),
            scope: Some("a b".to_owned()),
            binding: args::Binding::Dpop,
            keys: Keys::File,
        };
        let plain = "bailiwick connect https://mcp.example/mcp/shop --client-id";
        let command = sign_in_command(&url, &identity("my-client"));
        assert_eq!(command, format!("{plain} my-client --scope 'a b' --binding dpop --keys file --sign-in"));
        let command = sign_in_command(&url, &identity("x'; $(rm -rf ~) `y`"));
        let rest = "--scope 'a b' --binding dpop --keys file --sign-in";
        assert_eq!(command, format!(r"{plain} 'x'\''; $(rm -rf ~) `y`' {rest}"));
        assert!(check(&identity("x\u{1b}[2J")).is_err() && check(&identity("x'y")).is_ok());
    }
}

//! The local bridge: an unmodified MCP client on one side, Bailiwick with sign-in and bound tokens on the other.
//!
//! Called by `bailiwick connect`. A [`Connection`] signs a person in (`sign_in`), keeps what outlives the process
//! (`keeping`), renews tokens (`credentials`), sends each request with a token and its proof (`caller`), and serves a
//! client on standard input and output (`bridge`) or over HTTP on this machine (`endpoint`). Invariants: nothing secret
//! is printed or logged; tokens go to the one MCP URL alone. Absent: deciding anything (the planes), client
//! configuration files (`cli`). Specification: MCP 2026-07-28 and 2025-11-25, authorization and transports.

mod bridge;
mod caller;
mod challenge;
mod credentials;
mod discovery;
mod endpoint;
mod fault;
mod grant;
mod keeping;
mod peer;
mod possession;
mod scope;
mod sign_in;
mod sse;
mod stdio;
mod target;
mod web;

use std::{net::SocketAddr, path::PathBuf};

use bailiwick_runtime::{Shutdown, Supervisor};

use self::{
    caller::Caller,
    credentials::Credentials,
    keeping::Keeper,
    sign_in::{Wish, person::Person},
    web::Web,
};
pub use self::{
    fault::Fault,
    keeping::KeyStore,
    possession::Binding,
    sign_in::{CLIENT_ID, REDIRECT_URI, person::Reach},
    target::McpUrl,
};

/// What a person asked for on the command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// The MCP URL.
    pub url: McpUrl,
    /// The client to be, in place of one that registers itself or the usual one.
    pub client_id: Option<String>,
    /// What to ask for, in place of what the server names.
    pub scope: Option<String>,
    /// How tokens may be bound.
    pub binding: Binding,
    /// Where keys are kept.
    pub key_store: KeyStore,
    /// For locks, and for keys where there is no keyring; made if missing, with mode 0700.
    pub folder: PathBuf,
    /// Whether it is opened to sign out: the folder needs not to be safe then.
    pub to_sign_out: bool,
    /// How the person can be reached.
    pub reach: Reach,
    /// What to run in a terminal to sign in, for those who cannot be reached.
    pub sign_in_command: String,
}

/// A way to one MCP URL.
#[derive(Debug)]
pub struct Connection {
    caller: Caller,
    supervisor: Supervisor,
}

impl Connection {
    /// Opens the place for keys; asks nobody yet.
    ///
    /// # Errors
    /// Keys cannot be kept.
    pub async fn open(options: Options, stop: Shutdown) -> Result<Self, Fault> {
        let Options { url, client_id, scope, binding, key_store, folder, to_sign_out, reach, sign_in_command } =
            options;
        let supervisor = Supervisor::new(stop);
        let web = Web::new()?;
        let wish = Wish { url: url.clone(), client_id, scope, binding };
        let keeper = Keeper::open(key_store, &folder, &wish, to_sign_out).await?;
        let person = Person { reach, command: sign_in_command };
        let credentials = Credentials::new(web.clone(), wish, person, keeper, folder, supervisor.clone());
        Ok(Self { caller: Caller::new(web, url, credentials), supervisor })
    }

    /// Serves a client on standard input and output until it closes them.
    pub async fn serve_stdio(self) {
        bridge::run(self.caller, self.supervisor).await;
    }

    /// Serves clients over HTTP; `announce` is told the endpoint's URL and the secret that they have to show.
    ///
    /// # Errors
    /// The address is not of this machine or taken, or there is no secret. Where it is taken by somebody else, the
    /// secret that there was is worth nothing from now on.
    pub async fn serve_http(self, address: SocketAddr, announce: impl FnOnce(&str, &str)) -> Result<(), Fault> {
        let credentials = std::sync::Arc::clone(&self.caller.credentials);
        let (listener, _lock) = endpoint::bind(address, &credentials).await?;
        let secret = credentials.endpoint_secret().await?;
        announce(&endpoint::url(listener.local_addr()?), &secret);
        let served = endpoint::serve(listener, self.caller, secret, &self.supervisor).await;
        credentials.settled().await;
        served
    }

    /// What clients of the local HTTP endpoint have to show; made if there is none yet.
    ///
    /// # Errors
    /// It cannot be kept.
    pub async fn endpoint_secret(&self) -> Result<zeroize::Zeroizing<String>, Fault> {
        self.caller.credentials.endpoint_secret().await
    }

    /// Makes sure that there is a token, by asking the person where it has to.
    ///
    /// # Errors
    /// There is none, or what it takes to get the next one cannot be kept.
    pub async fn sign_in(&self) -> Result<(), Fault> {
        self.caller.credentials.sign_in().await
    }

    /// Gives back what was granted, and forgets all keys of this URL. `false` if there was nothing to forget.
    ///
    /// # Errors
    /// Keys are forgotten, but the server did not take the grant back.
    pub async fn sign_out(&self) -> Result<bool, Fault> {
        self.caller.credentials.forget().await
    }
}

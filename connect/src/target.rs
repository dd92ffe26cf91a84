//! The MCP URL that a person gives, and which URLs anything is sent to because of it.
//!
//! Called by the command line and by whoever is about to send. Invariant: plain text goes to this machine alone, and a
//! server elsewhere can lead nobody to this machine. Specification: MCP 2026-07-28 authorization, "Communication
//! Security"; RFC 8252 §8.3.

use std::fmt;

use url::{Host, Url};

use crate::fault::Fault;

/// Longest URL that is used.
const URL_BYTES_MAX: usize = 2048;
/// What no URL has unescaped, and what a shell reads as more than itself.
const NOT_IN_URLS: &str = "\"'`;$|<>\\^{}";

/// An MCP endpoint: https, or http on this machine; without user, query and fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct McpUrl(Url);

impl McpUrl {
    /// Reads what a person wrote.
    ///
    /// # Errors
    /// It is no URL, or one that tokens must not be sent to.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        if text.len() > URL_BYTES_MAX {
            return Err(Fault::Url("the URL is too long"));
        }
        // Before a parser repairs them: people and programs copy this URL into commands.
        if text.chars().any(|c| c.is_whitespace() || c.is_control() || NOT_IN_URLS.contains(c)) {
            return Err(Fault::Url("the URL has a character that must be percent-encoded"));
        }
        let url = Url::parse(text).map_err(|_| Fault::Url("this is not a URL: give the MCP URL, https://HOST/PATH"))?;
        if !is_safe(&url) {
            return Err(Fault::Url("the URL must be https (http on this machine only), without a user or fragment"));
        }
        if url.query().is_some() {
            return Err(Fault::Url("the URL must not have a query"));
        }
        Ok(Self(url))
    }

    /// The URL.
    #[must_use]
    pub const fn url(&self) -> &Url {
        &self.0
    }

    /// As tokens name it: without a slash at its end.
    #[must_use]
    pub fn resource(&self) -> &str {
        self.0.as_str().trim_end_matches('/')
    }

    /// Whether a URL that the server, or what it names, gives us may be asked.
    pub(crate) fn may_lead_to(&self, url: &Url) -> bool {
        is_safe(url) && (is_here(&self.0) || !is_here(url))
    }
}

impl fmt::Display for McpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn is_safe(url: &Url) -> bool {
    let by_tls = url.scheme() == "https" || (url.scheme() == "http" && is_here(url));
    by_tls && url.host().is_some() && url.username().is_empty() && url.password().is_none() && url.fragment().is_none()
}

/// Whether a URL is of this machine.
pub(crate) fn is_here(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => {
            address.is_loopback() || address.to_ipv4_mapped().is_some_and(|v4| v4.is_loopback())
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_is_for_this_machine_alone() {
        for good in
            ["https://mcp.example/mcp/finance", "http://127.0.0.1:8420/mcp/x", "http://[::1]:1/x", "http://localhost/x"]
        {
            assert!(McpUrl::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "mcp.example",
            "http://mcp.example/mcp",
            "http://127.0.0.1.evil.example/mcp",
            "https://jane@mcp.example/mcp",
            "https://mcp.example/mcp?token=x",
            "https://mcp.example/mcp#x",
            "file:///etc/passwd",
            "http://10.0.0.1/mcp",
        ] {
            assert!(McpUrl::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_a_shell_obeys_is_no_url() {
        for part in
            ["a b", "a\tb", "a\n", "\u{1b}[2J", "$(x)", "a;x", "a|x", "`x`", "'x", "\"x", "a<x", "a>x", "\\x", "\u{85}"]
        {
            assert!(McpUrl::parse(&format!("https://mcp.example/mcp/{part}")).is_err(), "{part:?}");
        }
        for good in ["https://mcp.example/mcp/a%20b", "https://mcp.example/mcp/a-b_c.d~e/x,y@z:1"] {
            assert!(McpUrl::parse(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_server_elsewhere_leads_nobody_to_this_machine() {
        let leads = |from: &str, to: &str| McpUrl::parse(from).unwrap().may_lead_to(&Url::parse(to).unwrap());
        assert!(leads("https://mcp.example/a", "https://login.example/token"));
        assert!(leads("http://127.0.0.1:1/a", "http://127.0.0.1:2/token"));
        assert!(leads("http://127.0.0.1:1/a", "https://login.example/token"));
        for to in
            ["https://127.0.0.1/token", "https://localhost/x", "https://[::ffff:127.0.0.1]/x", "http://login.example/"]
        {
            assert!(!leads("https://mcp.example/a", to), "{to}");
        }
    }
}

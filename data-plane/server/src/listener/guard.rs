//! Which requests may come in at all: Origin and Host.
//!
//! Called by `visit` before anything else. A browser names the page's origin, so a page of anybody may not drive a
//! gateway it can reach; a gateway bound to loopback is named by loopback names or its configured host, so a foreign
//! name that resolves to loopback (DNS rebinding) is refused. Pure. Specification: MCP 2026-07-28 Streamable HTTP,
//! "Security"; RFC 6454.

use std::net::{IpAddr, SocketAddr};

use crate::config::http_authority;

/// Why a request is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turned {
    Origin,
    Host,
}

/// What the guard compares with.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    pub(crate) allowed_origins: Vec<String>,
    pub(crate) bound_to_loopback: bool,
    /// Where the node listens.
    pub(crate) address: SocketAddr,
}

impl Guard {
    /// Where the node listens, if only this machine reaches it there.
    pub(crate) fn loopback(&self) -> Option<SocketAddr> {
        Some(self.address).filter(|_| self.bound_to_loopback)
    }

    /// Checks a request's `Origin` and host (of the `Host` header or the URI's authority). `mcp_url` is the configured
    /// external URL, where it is known.
    pub(crate) fn check(&self, origin: Option<&[u8]>, host: Option<&str>, mcp_url: Option<&str>) -> Result<(), Turned> {
        if let Some(origin) = origin
            && !self.allows_origin(origin)
        {
            return Err(Turned::Origin);
        }
        if !self.bound_to_loopback {
            return Ok(());
        }
        let host = host.ok_or(Turned::Host)?;
        let is_own = mcp_url.and_then(http_authority).is_some_and(|own| own.eq_ignore_ascii_case(host));
        if is_own || is_loopback(host) { Ok(()) } else { Err(Turned::Host) }
    }

    fn allows_origin(&self, origin: &[u8]) -> bool {
        let Ok(origin) = std::str::from_utf8(origin) else { return false };
        self.allowed_origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin))
            || http_authority(origin).is_some_and(|authority| origin.ends_with(authority) && is_loopback(authority))
    }
}

/// `localhost`, a loopback address, with or without a port.
fn is_loopback(authority: &str) -> bool {
    let Ok(authority) = authority.parse::<http::uri::Authority>() else { return false };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(bound_to_loopback: bool) -> Guard {
        Guard {
            allowed_origins: vec!["https://app.example".into()],
            bound_to_loopback,
            address: ([127, 0, 0, 1], 8420).into(),
        }
    }

    #[test]
    fn pages_of_strangers_are_turned_away() {
        for (origin, allowed) in [
            (None, true),
            (Some("http://localhost:6274"), true),
            (Some("http://127.0.0.1"), true),
            (Some("http://[::1]:80"), true),
            (Some("https://app.example"), true),
            (Some("https://app.example:444"), false),
            (Some("https://evil.example"), false),
            (Some("http://localhost.evil.example"), false),
            (Some("http://localhost@evil.example"), false),
            (Some("http://127.0.0.1/path"), false),
            (Some("null"), false),
            (Some(""), false),
        ] {
            let checked = guard(true).check(origin.map(str::as_bytes), Some("localhost:8420"), None);
            assert_eq!(checked.is_ok(), allowed, "{origin:?}");
        }
        assert_eq!(guard(true).check(Some(b"\xff"), Some("localhost"), None), Err(Turned::Origin));
    }

    #[test]
    fn a_foreign_name_for_loopback_is_turned_away() {
        for (host, allowed) in [
            (Some("127.0.0.1:8420"), true),
            (Some("localhost"), true),
            (Some("LOCALHOST:1"), true),
            (Some("[::1]:8420"), true),
            (Some("gateway.example"), true),
            (Some("gateway.example:8420"), false),
            (Some("rebound.evil.example:8420"), false),
            (None, false),
        ] {
            let checked = guard(true).check(None, host, Some("https://gateway.example/mcp"));
            assert_eq!(checked.is_ok(), allowed, "{host:?}");
            assert_eq!(guard(false).check(None, host, None), Ok(()));
        }
    }
}

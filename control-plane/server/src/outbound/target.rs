//! A URL, read once: to whom to connect, whom to believe there, what to ask for.
//!
//! A host has the one spelling of `bailiwick_proto::address::Host`; what software reads in two ways is refused, and so
//! is a user in a URL. The path is sent as it is written.

use bailiwick_control_plane_core::resource::is_http_url;
use bailiwick_proto::address::Host;
use http::{
    Uri,
    uri::{PathAndQuery, Scheme},
};

use super::FetchError;

/// See the file's header.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) host: Host,
    pub(super) port: u16,
    pub(super) is_tls: bool,
    /// For `Host`: the host as it is written, and the port if that is not the scheme's.
    pub(super) authority: String,
    pub(super) path: PathAndQuery,
}

impl Target {
    pub(super) fn parse(url: &str) -> Result<Self, FetchError> {
        if !is_http_url(url) {
            return Err(FetchError::Url);
        }
        let uri: Uri = url.parse().map_err(|_| FetchError::Url)?;
        let written = uri.host().ok_or(FetchError::Url)?;
        let host = written.parse().map_err(|_| FetchError::Url)?;
        let is_tls = uri.scheme() == Some(&Scheme::HTTPS);
        let usual = if is_tls { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(usual);
        let authority = if port == usual { written.to_owned() } else { format!("{written}:{port}") };
        let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        Ok(Self { host, port, is_tls, authority, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_in_one_way_or_refused() {
        for (url, authority, port, is_tls, path) in [
            ("https://a.example", "a.example", 443, true, "/"),
            ("https://a.example:443/x", "a.example", 443, true, "/x"),
            ("https://a.example:8443/x/../y?z=1", "a.example:8443", 8443, true, "/x/../y?z=1"),
            ("http://127.0.0.1", "127.0.0.1", 80, false, "/"),
            ("http://[::1]:443/", "[::1]:443", 443, false, "/"),
        ] {
            let target = Target::parse(url).unwrap();
            let read = (target.authority.as_str(), target.port, target.is_tls, target.path.as_str());
            assert_eq!(read, (authority, port, is_tls, path), "{url}");
        }
        for url in [
            "",
            "a.example",
            "ftp://a.example/",
            "file:///x",
            "https://user@a.example/",
            "https://user:password@a.example/",
            "https://a.example/#x",
            "https://a.example:0/",
            "https://a.example./",
            "https://0x7f000001/",
            "https://127.1/",
            "https://a.example\\@b.example/",
            "https://a.example/\r\nx: y",
        ] {
            assert!(matches!(Target::parse(url), Err(FetchError::Url)), "{url}");
        }
    }
}

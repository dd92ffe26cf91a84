//! The certificate that a client has shown to the proxy in front of this node (RFC 9440, `Client-Cert`).
//!
//! Asked by `connection` for each request, and read by the token endpoint, which binds tokens to it (RFC 8705). It is
//! heard from proxies that the operator names, and only where the operator says that they set the header themselves and
//! never pass on a client's own: otherwise anybody could claim any certificate. The proxy ends TLS, so it alone knows
//! that the client holds the key.

use std::net::IpAddr;

use aws_lc_rs::digest::{SHA256, digest};
use axum::http::HeaderMap;
use bailiwick_token::Thumbprint;
use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::address::Proxies;

/// RFC 9440 §2.2.
const HEADER: &str = "client-cert";
/// First byte of a DER sequence, which a certificate is.
const DER_SEQUENCE: u8 = 0x30;

/// What the client of a request has shown; in the extensions of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ShownCertificate(pub(crate) Option<Thumbprint>);

impl Proxies {
    /// What the client of a request with these headers has shown to the proxy at `peer`.
    pub(super) fn certificate(&self, peer: IpAddr, headers: &HeaderMap) -> ShownCertificate {
        let is_told = self.tell_certificates && self.holds(peer);
        ShownCertificate(if is_told { thumbprint(headers) } else { None })
    }
}

/// Of a byte sequence (RFC 9651 §3.3.5). Two headers are none: one of them need not be the proxy's.
fn thumbprint(headers: &HeaderMap) -> Option<Thumbprint> {
    let mut values = headers.get_all(HEADER).iter();
    let value = values.next().filter(|_| values.next().is_none())?.to_str().ok()?;
    let encoded = value.trim_matches(' ').strip_prefix(':')?.strip_suffix(':')?;
    let der = STANDARD.decode(encoded).ok().filter(|der| der.first() == Some(&DER_SEQUENCE))?;
    digest(&SHA256, &der).as_ref().try_into().ok().map(Thumbprint)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn shown(told: bool, peer: &str, values: &[&str]) -> Option<Thumbprint> {
        let proxies = Proxies::new(vec!["10.0.0.0/8".parse().unwrap()]).telling_certificates(told);
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(HEADER, HeaderValue::from_str(value).unwrap());
        }
        let ShownCertificate(thumbprint) = proxies.certificate(peer.parse().unwrap(), &headers);
        thumbprint
    }

    #[test]
    fn only_a_proxy_that_is_trusted_with_it_tells_a_certificate() {
        let der = [DER_SEQUENCE, 3, 1, 2, 3];
        let expected = Thumbprint(digest(&SHA256, &der).as_ref().try_into().unwrap());
        let good = format!(":{}:", STANDARD.encode(der));
        assert_eq!(shown(true, "10.0.0.1", &[&good]), Some(expected));
        for (what, told, peer, values) in [
            ("a stranger's word", true, "192.0.2.1", &[good.as_str()][..]),
            ("proxies that do not tell it", false, "10.0.0.1", &[&good]),
            ("nothing", true, "10.0.0.1", &[]),
            ("two", true, "10.0.0.1", &[&good, &good]),
            ("no byte sequence", true, "10.0.0.1", &[good.trim_matches(':')]),
            ("no base64", true, "10.0.0.1", &[":not base64:"]),
            ("empty", true, "10.0.0.1", &["::"]),
            ("no certificate", true, "10.0.0.1", &[":AAAA:"]),
        ] {
            assert_eq!(shown(told, peer, values), None, "{what}");
        }
    }
}

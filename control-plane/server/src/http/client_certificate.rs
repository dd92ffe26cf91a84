//! The certificate that a client has shown to the proxy in front of this node (RFC 9440).
//!
//! Asked by `connection` for each request, and read by the token endpoint, which binds tokens to it (RFC 8705), and
//! where clients prove who they are by it (`oauth::certificate`). It is heard from proxies that the operator names, and
//! only where the operator says that they set the header themselves and never pass on a client's own: otherwise anybody
//! could claim any certificate. The proxy ends TLS, so it alone knows that the client holds the key.

pub(crate) mod header;

use std::{net::IpAddr, sync::Arc};

use axum::http::HeaderMap;

use self::header::Certificate;
use super::address::Proxies;

/// What the client of a request has shown; in the extensions of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShownCertificate(pub(crate) Option<Arc<Certificate>>);

impl Proxies {
    /// What the client of a request with these headers has shown to the proxy at `peer`.
    pub(super) fn certificate(&self, peer: IpAddr, headers: &HeaderMap) -> ShownCertificate {
        let is_told = self.tell_certificates && self.holds(peer);
        ShownCertificate(if is_told { header::read(headers).map(Arc::new) } else { None })
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::digest::{SHA256, digest};
    use axum::http::HeaderValue;
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    use super::{
        header::{CERTIFICATE_BYTES_MAX, CHAIN_MAX},
        *,
    };

    const DER: [u8; 5] = [0x30, 3, 1, 2, 3];

    fn shown(told: bool, peer: &str, values: &[&str], chain: &[&str]) -> Option<Arc<Certificate>> {
        let proxies = Proxies::new(vec!["10.0.0.0/8".parse().unwrap()]).telling_certificates(told);
        let mut headers = HeaderMap::new();
        for (name, values) in [("client-cert", values), ("client-cert-chain", chain)] {
            for value in values {
                headers.append(name, HeaderValue::from_str(value).unwrap());
            }
        }
        let ShownCertificate(certificate) = proxies.certificate(peer.parse().unwrap(), &headers);
        certificate
    }

    fn told(der: &[u8]) -> String {
        format!(":{}:", STANDARD.encode(der))
    }

    #[test]
    fn only_a_proxy_that_is_trusted_with_it_tells_a_certificate() {
        let good = told(&DER);
        let certificate = shown(true, "10.0.0.1", &[&good], &[]).unwrap();
        assert_eq!(certificate.thumbprint.0.as_slice(), digest(&SHA256, &DER).as_ref());
        assert_eq!((certificate.der.as_slice(), certificate.chain.len()), (DER.as_slice(), 0));
        let large = told(&[&[0x30][..], &[0; CERTIFICATE_BYTES_MAX]].concat());
        for (what, told, peer, values) in [
            ("a stranger's word", true, "192.0.2.1", &[good.as_str()][..]),
            ("proxies that do not tell it", false, "10.0.0.1", &[&good]),
            ("nothing", true, "10.0.0.1", &[]),
            ("two", true, "10.0.0.1", &[&good, &good]),
            ("two in one", true, "10.0.0.1", &[&format!("{good}, {good}")]),
            ("with parameters", true, "10.0.0.1", &[&format!("{good};a=1")]),
            ("no byte sequence", true, "10.0.0.1", &[good.trim_matches(':')]),
            ("no base64", true, "10.0.0.1", &[":not base64:"]),
            ("empty", true, "10.0.0.1", &["::"]),
            ("no certificate", true, "10.0.0.1", &[":AAAA:"]),
            ("too large", true, "10.0.0.1", &[&large]),
        ] {
            assert_eq!(shown(told, peer, values, &[]), None, "{what}");
        }
    }

    #[test]
    fn a_chain_is_a_list_over_any_number_of_lines_or_none() {
        let good = told(&DER);
        let chain = |lines: &[&str]| shown(true, "10.0.0.1", &[&good], lines).unwrap().chain.len();
        let three = format!("{good},{good} ,\t{good}");
        assert_eq!(chain(&[&three]), 3);
        assert_eq!(chain(&[&three, &good]), 4);
        let most = vec![good.as_str(); CHAIN_MAX];
        assert_eq!(chain(&most), CHAIN_MAX);
        for none in
            [&["".to_owned()][..], &[format!("{good},")], &[format!("{good};a")], &[most.join(","), good.clone()]]
        {
            let lines: Vec<&str> = none.iter().map(String::as_str).collect();
            assert_eq!(chain(&lines), 0, "{none:?}");
        }
    }
}

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
    use axum::{Extension, Router, http::HeaderValue, routing::get};
    use bailiwick_runtime::{OnEnd, Shutdown, Supervisor, metrics::Registry};
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };

    use super::{
        super::connections::{self, Terms},
        header::{CERTIFICATE_BYTES_MAX, CHAIN_MAX},
        *,
    };
    use crate::{config::ControlPlaneConfig, metrics::Metrics};

    const DER: [u8; 5] = [0x30, 3, 1, 2, 3];
    /// What else is in a head: a proxy's own headers, and a client's.
    const OTHER_BYTES: usize = 4 * 1024;

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

    /// What a request is answered whose client has a certificate of so many bytes, and so many others of as many.
    async fn answer(bytes: usize, chain: usize) -> String {
        let listener = Arc::new(TcpListener::bind("127.0.0.1:0").await.unwrap());
        let at = listener.local_addr().unwrap();
        let shown = async |Extension(ShownCertificate(shown)): Extension<ShownCertificate>| {
            shown.map_or_else(String::new, |shown| format!("{} and {}", shown.der.len(), shown.chain.len()))
        };
        let proxies = Proxies::new(vec!["127.0.0.0/8".parse().unwrap()]).telling_certificates(true);
        let terms = Terms { proxies, ..Terms::of(&ControlPlaneConfig::default()) };
        let (supervisor, metrics) = (Supervisor::new(Shutdown::new()), Metrics::register(&Registry::new()));
        let next = move || {
            let listener = Arc::clone(&listener);
            async move { listener.accept().await }
        };
        let app = Router::new().route("/", get(shown));
        let serving = connections::serve(next, app, terms, metrics, supervisor.clone());
        supervisor.spawn("http", OnEnd::Critical, serving);
        let told = told(&[&[0x30][..], &vec![0; bytes - 1]].concat());
        let (chain, other) = (vec![told.as_str(); chain].join(", "), "x".repeat(OTHER_BYTES));
        let head = format!(
            "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\nclient-cert: {told}\r\nclient-cert-chain: \
             {chain}\r\nother: {other}\r\n\r\n"
        );
        let (mut client, mut answer) = (TcpStream::connect(at).await.unwrap(), Vec::new());
        // One that is too large is not read to its end.
        drop(client.write_all(head.as_bytes()).await);
        drop(client.read_to_end(&mut answer).await);
        supervisor.shutdown().request();
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn what_is_read_at_most_fits_the_head_of_a_request() {
        for (bytes, chain) in [(CERTIFICATE_BYTES_MAX, 1), (2 * 1024, CHAIN_MAX)] {
            let answer = answer(bytes, chain).await;
            assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
            assert!(answer.ends_with(&format!("{bytes} and {chain}")), "{answer}");
        }
        let answer = answer(CERTIFICATE_BYTES_MAX, 2).await;
        assert!(!answer.contains("200 OK"), "{answer}");
    }
}

//! Headers in which a proxy tells a client's certificate (RFC 9440).
//!
//! Promised: a certificate is told in one header that stands there once, and written anew as a byte sequence it is that
//! header; so is a chain over all its lines, or there is none; and everything is bounded.

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    client_certificate::{CERTIFICATE_BYTES_MAX, CHAIN_MAX, read},
    mutate::Random,
    targets::{Checked, from, header_lines, promise},
};

const HEADERS: [&str; 7] = [
    "client-cert: :MAMCAQE=:",
    "Client-Cert::MAMCAQE=:\nClient-Cert-Chain: :MAMCAQI=:, :MAMCAQM=:",
    "client-cert: :MAMCAQE=:\nclient-cert-chain: :MAMCAQI=:\nclient-cert-chain:\t:MAMCAQM=: ,:MAMCAQQ=:",
    "client-cert: :MAMCAQE=:\nclient-cert: :MAMCAQI=:",
    "client-cert: :MAMCAQE:\nx-client-cert: :MAMCAQE=:",
    "client-cert: :MAMCAQE=:;a=1\nclient-cert-chain: :MAMCAQI=:,",
    "client-cert: MAMCAQE=",
];

pub(crate) fn one(random: &mut Random) -> Vec<u8> {
    from(random, &HEADERS)
}

pub(crate) fn check(input: &[u8]) -> Checked {
    let mut headers = HeaderMap::new();
    for (name, value) in header_lines(input) {
        let (name, value) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(&value));
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let Some(told) = read(&headers) else { return Ok(false) };
    let lines = |name: &str| -> Vec<String> {
        headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
    };
    let written = |der: &[u8]| format!(":{}:", STANDARD.encode(der));
    let own = lines("client-cert");
    promise(own.len() == 1, "it is told twice, or not at all")?;
    promise(own.iter().all(|line| line.trim_matches([' ', '\t']) == written(&told.der)), "another than the header's")?;
    promise(told.thumbprint.0.as_slice() == digest(&SHA256, &told.der).as_ref(), "another's thumbprint")?;
    let fits = |der: &Vec<u8>| der.first() == Some(&0x30) && der.len() <= CERTIFICATE_BYTES_MAX;
    promise(fits(&told.der) && told.chain.iter().all(fits), "no certificate, or too large")?;
    promise(told.chain.len() <= CHAIN_MAX, "too long a chain")?;
    let chain: Vec<String> = told.chain.iter().map(|der| written(der)).collect();
    let list = lines("client-cert-chain").join(",");
    let items: Vec<&str> = list.split(',').map(|item| item.trim_matches([' ', '\t'])).collect();
    promise(chain.is_empty() || chain == items, "another chain than the headers'")?;
    Ok(true)
}

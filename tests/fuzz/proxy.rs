//! What a balancer says about a connection, before anything else of it.
//!
//! Promised: it is read as a slow reading of the specification does, whatever follows it stays, and nothing is taken for
//! a header whose end is missing.

use std::net::IpAddr;

use futures::FutureExt as _;

use crate::{
    mutate::Random,
    proxy_protocol,
    targets::{Broken, Checked, from, promise},
};

/// Version 1; `@` stands for the signature of version 2, which is no text.
const HEADERS: [&str; 9] = [
    "PROXY TCP4 192.0.2.7 10.0.0.1 5000 443\r\nGET / HTTP/1.1\r\n",
    "PROXY TCP6 2001:db8::7 ::1 1 65535\r\n",
    "PROXY TCP6 ::ffff:192.0.2.7 ::1 0 443\r\nx",
    "PROXY UNKNOWN\r\nx",
    "PROXY UNKNOWN ffff:f...f:ffff 65535\r\n",
    "@\u{21}\u{11}\0\u{c}\u{1}\u{2}\u{3}\u{4}\u{a}\0\0\u{1}\u{13}88\u{1}GET /",
    "@\u{21}\u{11}\0\u{13}\u{1}\u{2}\u{3}\u{4}\u{a}\0\0\u{1}\u{13}88\u{1}\u{4}\0\u{4}abcdGET /",
    "@\u{21}\u{21}\0\u{24}0123456789abcdef0123456789abcdef\0\u{1}\0\u{2}GET /",
    "@\u{20}\0\0\0GET /",
];
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// As long as a line of version 1 may be.
const LINE_BYTES_MAX: usize = 107;
/// The part of version 2 whose length is written, as long as it is read.
const REST_BYTES_MAX: usize = 2048;

pub(crate) fn one(random: &mut Random) -> Vec<u8> {
    let text = from(random, &HEADERS);
    match text.strip_prefix(b"@") {
        Some(rest) => [SIGNATURE, rest].concat(),
        None => text,
    }
}

pub(crate) fn check(input: &[u8]) -> Checked {
    let mut left = input;
    let read = proxy_protocol::read(&mut left).now_or_never();
    let read = read.ok_or_else(|| Broken("it waits for more than there is".to_owned()))?;
    let expected = expected(input);
    promise(read.is_ok() == expected.is_some(), &format!("{read:?}, but a slow reading: {expected:?}"))?;
    let (Ok(address), Some((slowly, length))) = (read, expected) else { return Ok(false) };
    promise(address == slowly, &format!("{address:?}, but a slow reading: {slowly:?}"))?;
    promise(Some(left) == input.get(length..), "it takes more or less than the header")?;
    Ok(true)
}

/// What the header says, and how long it is.
fn expected(input: &[u8]) -> Option<(Option<IpAddr>, usize)> {
    match input.strip_prefix(SIGNATURE) {
        Some(rest) => version_2(rest).map(|(address, length)| (address, SIGNATURE.len() + length)),
        None => version_1(input),
    }
}

fn version_1(input: &[u8]) -> Option<(Option<IpAddr>, usize)> {
    // The shortest line with a family is longer than what tells the versions apart.
    let length =
        (SIGNATURE.len()..=LINE_BYTES_MAX).find(|end| input.get(..*end).is_some_and(|line| line.ends_with(b"\r\n")))?;
    let line = std::str::from_utf8(input.get(..length - 2)?).ok()?;
    if line.contains(['\r', '\n']) {
        return None;
    }
    let words: Vec<&str> = line.split(' ').collect();
    if let ["PROXY", "UNKNOWN", ..] = words.as_slice() {
        return Some((None, length));
    }
    let ["PROXY", family, source, target, from, to] = words.as_slice() else { return None };
    let (source, target): (IpAddr, IpAddr) = (source.parse().ok()?, target.parse().ok()?);
    let is_v4 = match *family {
        "TCP4" => true,
        "TCP6" => false,
        _ => return None,
    };
    let is_port = |port: &str| {
        let is_plain = port == "0" || !port.starts_with('0');
        is_plain && port.bytes().all(|digit| digit.is_ascii_digit()) && port.parse().is_ok_and(|n: u32| n < 65_536)
    };
    let fits = source.is_ipv4() == is_v4 && target.is_ipv4() == is_v4 && is_port(from) && is_port(to);
    fits.then_some((Some(source.to_canonical()), length))
}

fn version_2(rest: &[u8]) -> Option<(Option<IpAddr>, usize)> {
    let [kind, family, high, low, told @ ..] = rest else { return None };
    let length = usize::from(*high) * 256 + usize::from(*low);
    let told = told.get(..length).filter(|told| told.len() <= REST_BYTES_MAX)?;
    let address = match (kind, family) {
        (0x20, _) | (0x21, 0) => None,
        (0x21, 0x11) if length >= 12 => Some(IpAddr::from(<[u8; 4]>::try_from(told.get(..4)?).ok()?)),
        (0x21, 0x21) if length >= 36 => Some(IpAddr::from(<[u8; 16]>::try_from(told.get(..16)?).ok()?).to_canonical()),
        _ => return None,
    };
    Some((address, 4 + length))
}

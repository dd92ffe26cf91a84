//! Where a connection really comes from, as the balancer that passes it on says: the PROXY protocol, versions 1 and 2.
//!
//! Read by `connection` before anything else, and only on connections from networks that the operator names: from those
//! it is required, because a connection without it would count as the balancer's own; from others it is not read,
//! because anybody could write it. Strict: what is not exactly a header ends the connection. Nothing after the header
//! is consumed. Only the address is taken; what else a header may tell (TLS names, unique ids) is skipped.
//! Specification: HAProxy, "The PROXY protocol, versions 1 & 2" (2020/03/05).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use tokio::io::{AsyncRead, AsyncReadExt};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Longest line of version 1, its end included.
const LINE_BYTES_MAX: usize = 107;
/// Longest part after the fixed one of version 2 that is read: addresses, and what balancers add.
const REST_BYTES_MAX: usize = 2048;

/// What is not a header, or not one that can be followed.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeaderFault {
    /// It ended, or cannot be read.
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
    /// Neither version begins so.
    #[error("it does not begin as one")]
    None,
    /// A line of version 1 that is too long or not as it must be.
    #[error("a line of version 1 is malformed")]
    Line,
    /// A block of version 2 that is too long or not as it must be.
    #[error("a block of version 2 is malformed")]
    Block,
}

/// Reads the header. `None`: the connection is the balancer's own, or it does not know whose.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<IpAddr>, HeaderFault> {
    let mut first = [0; SIGNATURE.len()];
    stream.read_exact(&mut first).await?;
    if first == SIGNATURE {
        let mut fixed = [0; 4];
        stream.read_exact(&mut fixed).await?;
        let [kind, family, high, low] = fixed;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > REST_BYTES_MAX {
            return Err(HeaderFault::Block);
        }
        let mut rest = vec![0; length];
        stream.read_exact(&mut rest).await?;
        return block(kind, family, &rest);
    }
    if !first.starts_with(b"PROXY ") {
        return Err(HeaderFault::None);
    }
    let mut whole = first.to_vec();
    // Byte by byte: what follows the line belongs to somebody else.
    while !whole.ends_with(b"\r\n") {
        if whole.len() >= LINE_BYTES_MAX {
            return Err(HeaderFault::Line);
        }
        whole.push(stream.read_u8().await?);
    }
    line(&whole)
}

/// Version 1, from `PROXY` to the end of the line.
fn line(whole: &[u8]) -> Result<Option<IpAddr>, HeaderFault> {
    let text = std::str::from_utf8(whole).ok().and_then(|text| text.strip_suffix("\r\n")).ok_or(HeaderFault::Line)?;
    if text.contains(['\r', '\n']) {
        return Err(HeaderFault::Line);
    }
    let mut words = text.split(' ').skip(1);
    let family = words.next().ok_or(HeaderFault::Line)?;
    // Whatever follows is to be ignored.
    if family == "UNKNOWN" {
        return Ok(None);
    }
    let (Some(source), Some(target), Some(from), Some(to), None) =
        (words.next(), words.next(), words.next(), words.next(), words.next())
    else {
        return Err(HeaderFault::Line);
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|number| number.to_string() == port);
    if !is_port(from) || !is_port(to) {
        return Err(HeaderFault::Line);
    }
    match family {
        "TCP4" => pair::<Ipv4Addr>(source, target),
        "TCP6" => pair::<Ipv6Addr>(source, target),
        _ => Err(HeaderFault::Line),
    }
}

fn pair<A: FromStr + Into<IpAddr>>(source: &str, target: &str) -> Result<Option<IpAddr>, HeaderFault> {
    match (source.parse::<A>(), target.parse::<A>()) {
        (Ok(source), Ok(_)) => Ok(Some(source.into().to_canonical())),
        _ => Err(HeaderFault::Line),
    }
}

/// Version 2, after its signature.
fn block(kind: u8, family: u8, rest: &[u8]) -> Result<Option<IpAddr>, HeaderFault> {
    match (kind, family) {
        // LOCAL: the balancer asks for itself, whatever follows.
        (0x20, _) | (0x21, 0x00) => Ok(None),
        // TCP over IPv4, over IPv6: source, target, both ports, and what may follow.
        (0x21, 0x11) if rest.len() >= 12 => {
            rest.first_chunk::<4>().map(|source| Some(Ipv4Addr::from(*source).into())).ok_or(HeaderFault::Block)
        }
        (0x21, 0x21) if rest.len() >= 36 => {
            let source = rest.first_chunk::<16>().ok_or(HeaderFault::Block)?;
            Ok(Some(IpAddr::from(*source).to_canonical()))
        }
        _ => Err(HeaderFault::Block),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt as _;

    use super::*;

    /// The address, and what is left to read.
    async fn told(bytes: &[u8]) -> Result<(Option<IpAddr>, Vec<u8>), HeaderFault> {
        let mut stream = bytes;
        let address = read(&mut stream).await?;
        let mut left = Vec::new();
        stream.read_to_end(&mut left).await?;
        Ok((address, left))
    }

    fn version_2(kind: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[kind, family], &length, rest, b"GET / HTTP/1.1"].concat()
    }

    fn v4() -> Vec<u8> {
        [&[192, 0, 2, 7, 10, 0, 0, 1, 0x1f, 0x90, 0, 80][..]].concat()
    }

    fn v6() -> Vec<u8> {
        let ours: Ipv6Addr = "2001:db8::7".parse().unwrap();
        [&ours.octets()[..], &[0; 20]].concat()
    }

    #[tokio::test]
    async fn what_a_balancer_says_is_read_and_nothing_after_it() {
        let longest = format!("PROXY UNKNOWN {}\r\n", "f".repeat(LINE_BYTES_MAX - 16));
        for (bytes, expected) in [
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 5000 443\r\nGET / HTTP/1.1".to_vec(), Some("192.0.2.7")),
            (b"PROXY TCP6 2001:db8::7 ::1 5000 443\r\nGET / HTTP/1.1".to_vec(), Some("2001:db8::7")),
            (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 5000 443\r\nGET / HTTP/1.1".to_vec(), Some("192.0.2.7")),
            (b"PROXY UNKNOWN\r\nGET / HTTP/1.1".to_vec(), None),
            ([longest.as_bytes(), b"GET / HTTP/1.1"].concat(), None),
            (version_2(0x21, 0x11, &v4()), Some("192.0.2.7")),
            (version_2(0x21, 0x11, &[&v4()[..], b"\x04\0\x02ab"].concat()), Some("192.0.2.7")),
            (version_2(0x21, 0x21, &v6()), Some("2001:db8::7")),
            (version_2(0x20, 0x00, &[]), None),
            (version_2(0x20, 0x11, &v4()), None),
            (version_2(0x21, 0x00, b"whatever"), None),
        ] {
            let (address, left) = told(&bytes).await.unwrap();
            assert_eq!(address, expected.map(|text| text.parse().unwrap()), "{:?}", String::from_utf8_lossy(&bytes));
            assert_eq!(left, b"GET / HTTP/1.1");
        }
    }

    #[tokio::test]
    async fn what_is_not_exactly_a_header_is_refused() {
        let line = |rest: &str| format!("PROXY {rest}").into_bytes();
        for bytes in [
            b"".to_vec(),
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            b"PROXY".to_vec(),
            line("TCP4 192.0.2.7 10.0.0.1 5000 443"),
            line("TCP4 192.0.2.7 10.0.0.1 5000 443\n"),
            line("TCP4 192.0.2.7 10.0.0.1 5000\r\n"),
            line("TCP4 192.0.2.7 10.0.0.1 5000 443 1\r\n"),
            line("TCP4  192.0.2.7 10.0.0.1 5000 443\r\n"),
            line("TCP4 192.0.2.7 10.0.0.1 5000 443 \r\n"),
            line("TCP4 192.0.2.7 10.0.0.1 05000 443\r\n"),
            line("TCP4 192.0.2.7 10.0.0.1 5000 65536\r\n"),
            line("TCP4 192.0.2.07 10.0.0.1 5000 443\r\n"),
            line("TCP4 ::1 10.0.0.1 5000 443\r\n"),
            line("TCP6 192.0.2.7 ::1 5000 443\r\n"),
            line("UDP4 192.0.2.7 10.0.0.1 5000 443\r\n"),
            line("TCP4 gateway.example 10.0.0.1 5000 443\r\n"),
            line(&format!("UNKNOWN {}\r\n", "f".repeat(LINE_BYTES_MAX))),
            [&line("TCP4 ")[..], b"\xff\xff\r\n"].concat(),
            version_2(0x21, 0x11, &v4()[..11]),
            version_2(0x21, 0x21, &v6()[..35]),
            version_2(0x21, 0x12, &v4()),
            version_2(0x21, 0x31, &[0; 216]),
            version_2(0x22, 0x11, &v4()),
            version_2(0x11, 0x11, &v4()),
            version_2(0x21, 0x11, &[0; REST_BYTES_MAX + 1]),
            version_2(0x21, 0x11, &v4())[..20].to_vec(),
        ] {
            assert!(told(&bytes).await.is_err(), "{:?}", String::from_utf8_lossy(&bytes));
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..200), begins in 0..3) {
            let begin: &[u8] = [b"".as_slice(), b"PROXY ", &SIGNATURE][begins as usize];
            let bytes = [begin, &bytes].concat();
            let ended = futures::executor::block_on(told(&bytes));
            prop_assert!(ended.is_err() || bytes.len() >= 12);
        }
    }
}

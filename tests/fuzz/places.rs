//! Where servers are: hosts as manifests have them, networks as operators name them, and the address at which a server
//! over HTTP+SSE wants to be talked to.
//!
//! Promised: a host that is read is the one that a browser's reading finds in the same URL, and has one spelling; a
//! network is exactly what it is written as, and has no address in it whose first bits are others; what carries an
//! internal address is never anybody's to call; and an address that is taken leads, by a browser's reading too, to the
//! same path at the stream's own origin.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bailiwick_proto::address::{Host, Network, Reach, reach};
use url::Url;

use crate::{
    mutate::Random,
    sse_address::address,
    targets::{Broken, Checked, from, promise},
};

const HOSTS: [&str; 14] = [
    "a.example",
    "My_server",
    "xn--bcher-kva.example",
    "127.0.0.1",
    "0177.0.0.1",
    "0x7f.1",
    "2130706433",
    "a.example.",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[64:ff9b::a9fe:a9fe]",
    "[2002:7f00:1::]",
    "[fe80::1%25eth0]",
    "1.2.3.4.5",
];
const NETWORKS: [&str; 6] = ["10.1.0.0/16", "0.0.0.0/0", "192.0.2.7/32", "fd00::/8", "::/0", "2001:db8::7/128"];
const ADDRESSES: [&str; 9] = [
    "/messages?sessionId=1",
    "http://h:8080/messages/?session_id=a",
    "HTTP://H:8080/x",
    "messages",
    "?session=1",
    "//other/x",
    "/a/%2e%2e/x",
    "http://h:8080@other/x",
    "./x;y=1",
];
/// The stream that the addresses are said on.
const STREAM: &str = "http://h:8080/a/sse";

pub(crate) fn a_host(random: &mut Random) -> Vec<u8> {
    from(random, &HOSTS)
}

pub(crate) fn a_network(random: &mut Random) -> Vec<u8> {
    from(random, &NETWORKS)
}

pub(crate) fn an_address(random: &mut Random) -> Vec<u8> {
    from(random, &ADDRESSES)
}

pub(crate) fn host(input: &[u8]) -> Checked {
    let Ok(text) = std::str::from_utf8(input) else { return Ok(false) };
    let Ok(host) = text.parse::<Host>() else { return Ok(false) };
    let url = match Url::parse(&format!("http://{text}/")) {
        Ok(url) => url,
        // A name that stands for no other is nobody's; asking for it does no harm.
        Err(url::ParseError::IdnaError) if text.to_ascii_lowercase().contains("xn--") => return Ok(false),
        Err(error) => return Err(Broken(format!("no URL has it: {error}"))),
    };
    let spelt = match &host {
        Host::Name(name) => name.clone(),
        Host::Address(IpAddr::V4(address)) => address.to_string(),
        Host::Address(IpAddr::V6(address)) => format!("[{address}]"),
    };
    promise(spelt.parse::<Host>().as_ref() == Ok(&host), "it has another meaning when written anew")?;
    let by_others = match url.host() {
        Some(url::Host::Domain(name)) => Some(Host::Name(name.to_owned())),
        Some(url::Host::Ipv4(address)) => Some(Host::Address(address.into())),
        Some(url::Host::Ipv6(address)) => Some(Host::Address(address.into())),
        None => None,
    };
    promise(by_others.as_ref() == Some(&host), &format!("{host:?}, and a browser reads {by_others:?}"))?;
    if let Host::Address(address) = host {
        carried(address)?;
    }
    Ok(true)
}

/// Whatever carries an address that is not anybody's to call, is not so either.
fn carried(address: IpAddr) -> Result<(), Broken> {
    let IpAddr::V4(inner) = address.to_canonical() else { return Ok(()) };
    if reach(inner.into()) == Reach::Public {
        return Ok(());
    }
    let [high, low] = [inner.to_bits() >> 16, inner.to_bits() & 0xffff].map(|half| u16::try_from(half).unwrap_or(0));
    let wrapped = [
        Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, high, low),
        Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
        Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
        Ipv6Addr::new(0x2001, 0, 1, 2, 3, 4, !high, !low),
        Ipv6Addr::new(0x2600, 1, 2, 3, 0, 0x5efe, high, low),
    ];
    let open = wrapped.iter().find(|address| reach(IpAddr::V6(**address)) == Reach::Public);
    promise(open.is_none(), &format!("{open:?} carries {inner}"))
}

pub(crate) fn network(input: &[u8]) -> Checked {
    let Ok(text) = std::str::from_utf8(input) else { return Ok(false) };
    let Ok(network) = text.parse::<Network>() else { return Ok(false) };
    promise(network.to_string().parse() == Ok(network), "it is another one when written anew")?;
    let (first, bits) = text.split_once('/').ok_or_else(|| Broken("a network without a slash".to_owned()))?;
    let (Ok(first), Ok(bits)) = (first.parse::<IpAddr>(), bits.parse::<u32>()) else {
        return Err(Broken("a network of something else".to_owned()));
    };
    promise(network.contains(first), "its first address is not in it")?;
    // The neighbour below, and the one that differs in the last bit that counts.
    let (number, width) = match first {
        IpAddr::V4(first) => (u128::from(first.to_bits()), 32),
        IpAddr::V6(first) => (first.to_bits(), 128),
    };
    let at = |number: u128| match first {
        IpAddr::V4(_) => u32::try_from(number).ok().map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
        IpAddr::V6(_) => Some(IpAddr::V6(Ipv6Addr::from_bits(number))),
    };
    let below = number.checked_sub(1);
    let beside = (bits > 0).then(|| number ^ (1 << (width - bits)));
    let outside: Vec<IpAddr> = below.into_iter().chain(beside).filter_map(at).collect();
    let same_family = |address: &IpAddr| address.to_canonical().is_ipv4() == first.is_ipv4();
    let wrong = outside.iter().find(|address| same_family(address) && network.contains(**address));
    promise(wrong.is_none(), &format!("{wrong:?} is in it"))?;
    Ok(true)
}

pub(crate) fn sse_address(input: &[u8]) -> Checked {
    let Ok(path) = address(STREAM, input) else { return Ok(false) };
    let said = String::from_utf8_lossy(input);
    let broken = |error: url::ParseError| Broken(format!("a browser does not read it: {error}"));
    let stream = Url::parse(STREAM).map_err(broken)?;
    let url = stream.join(said.trim()).map_err(broken)?;
    promise(url.origin() == stream.origin(), "a browser finds it at another origin")?;
    let by_others = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
    // A browser writes some signs of a path or query with percent signs.
    let spelt = |text: &str| text.replace("%27", "'").replace("%60", "`").replace("%7B", "{").replace("%7D", "}");
    let same = spelt(&by_others) == spelt(path.as_str());
    promise(same, &format!("{path}, and a browser finds {by_others}"))?;
    Ok(true)
}

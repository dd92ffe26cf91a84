//! Hosts, networks and whom addresses belong to, as tables.

use super::*;

#[test]
fn a_host_has_one_spelling_or_is_refused() {
    let name = |text: &str| Ok(Host::Name(text.to_owned()));
    let address = |text: &str| Ok(Host::Address(text.parse().unwrap()));
    for (text, read) in [
        ("a.example", name("a.example")),
        ("A.Example", name("a.example")),
        ("localhost", name("localhost")),
        ("my_server", name("my_server")),
        ("1password.com", name("1password.com")),
        ("0xyz.example", name("0xyz.example")),
        ("xn--bcher-kva.example", name("xn--bcher-kva.example")),
        ("127.0.0.1", address("127.0.0.1")),
        ("[::1]", address("::1")),
        ("[::ffff:127.0.0.1]", address("::ffff:127.0.0.1")),
        ("2130706433", Err(HostFault::Ipv4)),
        ("0x7f000001", Err(HostFault::Ipv4)),
        ("0x7f.1", Err(HostFault::Ipv4)),
        ("0177.0.0.1", Err(HostFault::Ipv4)),
        ("127.1", Err(HostFault::Ipv4)),
        ("127.0.0.0x1", Err(HostFault::Ipv4)),
        ("127.0.0.01", Err(HostFault::Ipv4)),
        ("127.0.0.1.", Err(HostFault::Ipv4)),
        ("127.0.0.256", Err(HostFault::Ipv4)),
        ("1.2.3.4.5", Err(HostFault::Ipv4)),
        ("a.0x", Err(HostFault::Ipv4)),
        ("a.example.", Err(HostFault::Name)),
        ("a..example", Err(HostFault::Name)),
        (".example", Err(HostFault::Name)),
        ("-a.example", Err(HostFault::Name)),
        ("a%2eexample", Err(HostFault::Name)),
        ("bücher.example", Err(HostFault::Name)),
        ("a b", Err(HostFault::Name)),
        ("", Err(HostFault::Name)),
        ("::1", Err(HostFault::Ipv6)),
        ("[fe80::1%25eth0]", Err(HostFault::Ipv6)),
        ("[fe80::1%eth0]", Err(HostFault::Ipv6)),
        ("[127.0.0.1]", Err(HostFault::Ipv6)),
        ("[::1", Err(HostFault::Ipv6)),
    ] {
        assert_eq!(text.parse::<Host>(), read, "{text}");
    }
    assert_eq!("a".repeat(64).parse::<Host>(), Err(HostFault::Name));
    assert_eq!("a.".repeat(127).parse::<Host>(), Err(HostFault::Name));
}

#[test]
fn networks_hold_what_has_their_first_bits() {
    let network = |text: &str| text.parse::<Network>().unwrap();
    for (text, inside, outside) in [
        ("10.0.0.0/8", "10.255.255.255", "11.0.0.0"),
        ("127.0.0.1/32", "127.0.0.1", "127.0.0.2"),
        ("0.0.0.0/0", "8.8.8.8", "::1"),
        ("fc00::/7", "fdff::1", "fe00::"),
        ("::1/128", "::1", "::2"),
        ("::/0", "2001::1", "10.0.0.1"),
        ("10.0.0.0/8", "::ffff:10.0.0.1", "::10.0.0.1"),
    ] {
        let read = network(text);
        assert!(read.contains(inside.parse().unwrap()) && !read.contains(outside.parse().unwrap()), "{text}");
        assert_eq!(read.to_string(), text);
    }
    assert!(network("169.254.169.254/32").is_only("169.254.169.254".parse().unwrap()));
    assert!(!network("169.254.0.0/16").is_only("169.254.169.254".parse().unwrap()));
    for bad in [
        "10.0.0.0",
        "10.0.0.0/33",
        "10.0.0.1/8",
        "10.0.0.0/",
        "10.0.0.0/+8",
        "::/129",
        "a/8",
        "::ffff:10.0.0.0/104",
        "",
    ] {
        assert!(bad.parse::<Network>().is_err(), "{bad}");
    }
}

#[test]
fn only_what_is_global_may_be_called_by_all() {
    let (public, metadata) = (Reach::Public, Reach::Metadata);
    let internal = Reach::Internal;
    for (text, expected) in [
        ("1.1.1.1", public),
        ("9.255.255.255", public),
        ("11.0.0.0", public),
        ("100.63.255.255", public),
        ("100.128.0.0", public),
        ("172.15.255.255", public),
        ("172.32.0.0", public),
        ("192.167.255.255", public),
        ("223.255.255.255", public),
        ("2606:4700::1111", public),
        ("64:ff9b::1.1.1.1", public),
        ("0.0.0.0", internal("unspecified")),
        ("0.1.2.3", internal("unspecified")),
        ("10.0.0.0", internal("private")),
        ("100.64.0.1", internal("shared by a carrier")),
        ("100.127.255.255", internal("shared by a carrier")),
        ("127.0.0.1", internal("loopback")),
        ("127.255.255.255", internal("loopback")),
        ("169.254.1.1", internal("link-local")),
        ("172.16.0.1", internal("private")),
        ("172.31.255.255", internal("private")),
        ("192.0.0.8", internal("reserved")),
        ("192.0.2.1", internal("for documentation")),
        ("192.88.99.1", internal("reserved")),
        ("192.168.0.1", internal("private")),
        ("198.19.255.255", internal("for benchmarks")),
        ("198.51.100.1", internal("for documentation")),
        ("203.0.113.255", internal("for documentation")),
        ("224.0.0.1", internal("multicast")),
        ("240.0.0.1", internal("reserved")),
        ("255.255.255.255", internal("broadcast")),
        ("::", internal("unspecified")),
        ("::1", internal("loopback")),
        ("::7f00:1", internal("loopback")),
        ("::8.8.8.8", internal("a tunnel to IPv4")),
        ("::ffff:127.0.0.1", internal("loopback")),
        ("::ffff:10.0.0.1", internal("private")),
        ("::ffff:8.8.8.8", public),
        ("64:ff9b::10.0.0.1", internal("private")),
        ("64:ff9b:1::10.0.0.1", internal("reserved")),
        ("2002:7f00:1::", internal("loopback")),
        ("2002:808:808::1", internal("a tunnel to IPv4")),
        // Teredo: the client's address is written inverted.
        ("2001:0:4136:e378:8000:63bf:80ff:fffe", internal("loopback")),
        ("2001:0:4136:e378:8000:63bf:f7f7:f7f7", internal("a tunnel to IPv4")),
        ("2606:4700::5efe:10.0.0.1", internal("private")),
        ("2606:4700::200:5efe:8.8.8.8", public),
        ("2001:db8::1", internal("for documentation")),
        ("3fff::1", internal("for documentation")),
        ("2001:10::1", internal("reserved")),
        ("fc00::1", internal("private")),
        ("fd12:3456::1", internal("private")),
        ("fe80::1", internal("link-local")),
        ("fec0::1", internal("site-local")),
        ("ff02::1", internal("multicast")),
        ("100::1", internal("reserved")),
        ("5f00::1", internal("reserved")),
        ("169.254.169.254", metadata),
        ("169.254.170.2", metadata),
        ("169.254.170.23", metadata),
        ("100.100.100.200", metadata),
        ("168.63.129.16", metadata),
        ("192.0.0.192", metadata),
        ("fd00:ec2::254", metadata),
        ("fd00:ec2::23", metadata),
        ("fd20:ce::254", metadata),
        ("::ffff:169.254.169.254", metadata),
        ("64:ff9b::169.254.169.254", metadata),
        ("2002:a9fe:a9fe::", metadata),
        ("::169.254.169.254", metadata),
    ] {
        assert_eq!(reach(text.parse().unwrap()), expected, "{text}");
    }
}

//! Whose program is at the other end of a connection within this machine.
//!
//! Asked by `callback` and `endpoint`: whatever has to be known to be let in, what runs as another user is not. Linux
//! says of each of its connections whose it is; other systems do not. The superuser may be anybody. Invariant: where
//! the system says it, a connection that it does not list as open is somebody else's.

use std::{
    fs::File,
    io::Read as _,
    net::{IpAddr, SocketAddr},
};

use tokio::net::TcpStream;

/// Open, of the states of a connection.
const ESTABLISHED: &str = "01";
/// By protocol: both, as a program may reach an address of the one by the other.
const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
/// A machine with a hundred thousand connections has tables of 15 MiB.
const TABLE_BYTES_MAX: u64 = 64 * 1024 * 1024;
const SUPERUSER: u32 = 0;

/// See the file's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// This user's, or the superuser's.
    Own,
    Other,
    /// The system does not say.
    Unknown,
}

/// Of a connection that was just taken.
pub(crate) fn of(stream: &TcpStream) -> Peer {
    let (Ok(here), Ok(there)) = (stream.local_addr(), stream.peer_addr()) else { return Peer::Other };
    let tables: Vec<String> = TABLES.iter().filter_map(|path| table(path)).collect();
    if tables.is_empty() {
        return Peer::Unknown;
    }
    let own = rustix::process::geteuid().as_raw();
    match tables.iter().find_map(|table| user(table, there, here)) {
        Some(user) if user == own || user == SUPERUSER => Peer::Own,
        _ => Peer::Other,
    }
}

fn table(path: &str) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(TABLE_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Who has opened the connection from `from` to `to`.
fn user(table: &str, from: SocketAddr, to: SocketAddr) -> Option<u32> {
    let ways = [[short(from), short(to)], [long(from), long(to)]];
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let ends = [fields.next()?, fields.next()?];
        let is_it = ways.iter().any(|way| way.iter().zip(ends).all(|(known, end)| known.as_deref() == Some(end)));
        let is_open = fields.next()? == ESTABLISHED;
        if is_it && is_open { fields.nth(3)?.parse().ok() } else { None }
    })
}

/// As the table of version 4 writes an address: in the order of this machine's bytes.
fn short(address: SocketAddr) -> Option<String> {
    let IpAddr::V4(v4) = address.ip().to_canonical() else { return None };
    Some(format!("{:08X}:{:04X}", u32::from_ne_bytes(v4.octets()), address.port()))
}

/// As that of version 6 does, four bytes at a time.
fn long(address: SocketAddr) -> Option<String> {
    let octets = match address.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let words = octets.chunks_exact(4).map(|word| word.try_into().map(u32::from_ne_bytes));
    let words: String = words.map(|word| word.map(|word| format!("{word:08X}"))).collect::<Result<_, _>>().ok()?;
    Some(format!("{words}:{:04X}", address.port()))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn whose_a_connection_is_stands_in_the_table_of_either_protocol() {
        let (from, to) = ("127.0.0.1:40000".parse().unwrap(), "127.0.0.1:8410".parse().unwrap());
        let line = |one: &Option<String>, other: &Option<String>, state: &str, user: u32| {
            let [one, other] = [one, other].map(|end| end.clone().unwrap());
            format!("  sl …\n   0: {one} {other} {state} 00000000:00000000 00:00000000 00000000  {user}        0 1 1\n")
        };
        assert_eq!(user(&line(&short(from), &short(to), "01", 7), from, to), Some(7));
        assert_eq!(user(&line(&long(from), &long(to), "01", 7), from, to), Some(7));
        assert_eq!(user(&line(&short(to), &short(from), "01", 7), from, to), None, "our own end of it");
        assert_eq!(user(&line(&short(from), &short(to), "05", 0), from, to), None, "no longer anybody's");
        assert_eq!(user("", from, to), None);
        if cfg!(target_endian = "little") {
            assert_eq!(short(to).unwrap(), "0100007F:20DA");
            assert_eq!(long(to).unwrap(), "0000000000000000FFFF00000100007F:20DA");
        }
        let six: SocketAddr = "[::1]:8410".parse().unwrap();
        assert_eq!((short(six), long(six).is_some()), (None, true));
    }

    #[tokio::test]
    async fn a_connection_of_this_process_is_its_user_s() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address).await else { continue };
            let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let expected = if cfg!(target_os = "linux") { Peer::Own } else { Peer::Unknown };
            assert_eq!(of(&stream), expected, "{address}");
            drop(client);
        }
    }
}

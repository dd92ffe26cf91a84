//! Whoever has a bound token and not its key takes no room from the person whose it is.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use super::*;
use crate::{
    config::REQUEST_BYTES_MAX,
    fakes::holder::{Bound, Says},
    listener::BODY_ROOM_BYTES,
};

/// Of these large bodies one caller may have so many on their way at once: half of the room.
const HELD: usize = BODY_ROOM_BYTES / REQUEST_BYTES_MAX / 2;

fn head_of(bound: &Bound, proof: &str, length: usize) -> String {
    let headers = [
        "POST /mcp/finance HTTP/1.1".to_owned(),
        "host: localhost".to_owned(),
        "content-type: application/json".to_owned(),
        "accept: application/json, text/event-stream".to_owned(),
        format!("authorization: Bearer {}", bound.token),
        format!("bailiwick-proof: {proof}"),
        format!("content-length: {length}"),
    ];
    headers.join("\r\n") + "\r\n\r\n"
}

async fn connect(client: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((client, 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

/// The status of the answer to a body of a quarter of a megabyte.
async fn status_from(client: [u8; 4], to: SocketAddr, bound: &Bound, is_proven: bool) -> String {
    let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"none","params":{{"x":"{}"}}}}"#, "x".repeat(1 << 18));
    let says = Says::post(if is_proven { body.as_bytes() } else { b"another" });
    let mut stream = connect(client, to).await;
    stream.write_all(head_of(bound, &bound.proof(says), body.len()).as_bytes()).await.unwrap();
    let (mut answer, mut request) = stream.split();
    let mut start = [0; 12];
    let answered = async {
        // What is refused need not be taken in.
        tokio::select! {
            biased;
            read = answer.read_exact(&mut start) => return read,
            _cut = request.write_all(body.as_bytes()) => {}
        }
        answer.read_exact(&mut start).await
    };
    answered.await.unwrap();
    String::from_utf8_lossy(&start[9..]).into_owned()
}

#[tokio::test]
async fn bodies_that_nobody_has_proved_take_the_room_of_where_they_come_from() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    let to = world.node.running.as_ref().unwrap().mcp_addr;
    let (jane, thief) = ([127, 0, 0, 1], [127, 0, 0, 2]);
    let bound = Bound::new();
    let most = vec![b' '; REQUEST_BYTES_MAX - 1];
    let hold = async || {
        let mut stream = connect(thief, to).await;
        let proof = Bound { token: bound.token.clone(), ..Bound::new() }.proof(Says::post(b""));
        stream.write_all(head_of(&bound, &proof, REQUEST_BYTES_MAX).as_bytes()).await.unwrap();
        let _cut = stream.write_all(&most).await;
        stream
    };
    let full = async {
        let mut held = Vec::new();
        // What is on its way when there is no room gives its own back: so more are sent until all of it stays taken.
        while held.len() < HELD || status_from(thief, to, &bound, false).await != "503" {
            held.push(hold().await);
        }
        held
    };
    let _held = tokio::time::timeout(Duration::from_secs(20), full).await.expect("the thief has all that one may have");
    let status = status_from(jane, to, &bound, true).await;
    assert_eq!(status, "400", "jane's is read and proved, and refused for what it says only");
}

//! Whoever dawdles is shown out, and an answer that still streams counts as a request.

use bailiwick_runtime::Shutdown;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::{
    keeping::{Keeper, KeyStore},
    possession::Binding,
    sign_in::{
        Wish,
        person::{Person, Reach},
    },
    target::McpUrl,
    web::Web,
};

async fn endpoint(folder: &std::path::Path, address: SocketAddr) -> Endpoint {
    let url = McpUrl::parse("https://mcp.example/mcp").unwrap();
    let wish = Wish { url: url.clone(), client_id: None, scope: None, binding: Binding::Auto };
    let keeper = Keeper::open(KeyStore::File, folder, &wish, false).await.unwrap();
    let person = Person { reach: Reach { browser: false, terminal: false }, command: String::new() };
    let (web, supervisor) = (Web::new().unwrap(), Supervisor::new(Shutdown::new()));
    let credentials = Credentials::new(web.clone(), wish, person, keeper, folder.to_owned(), supervisor);
    let (caller, places) = (Caller::new(web, url, credentials), Arc::new(Semaphore::new(1)));
    let secret = Zeroizing::new("secret".to_owned());
    Endpoint { caller, secret, address, places, wait_max: Duration::from_millis(50) }
}

#[tokio::test]
async fn neither_a_head_nor_a_body_may_take_its_time() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (supervisor, stop) = (Supervisor::new(Shutdown::new()), Shutdown::new());
    let endpoint = Arc::new(endpoint(&folder.path().join("connect"), address).await);
    let accepting = stop.or_stop(accept(listener, endpoint, &supervisor));
    let visits = async {
        for (said, heard) in [
            (String::new(), ""),
            ("POST /mcp HTTP/1.1\r\n".to_owned(), ""),
            (
                format!(
                    "POST /mcp/secret HTTP/1.1\r\nhost: {address}\r\ncontent-length: 9\r\nconnection: close\r\n\r\n"
                ),
                "HTTP/1.1 408",
            ),
        ] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(said.as_bytes()).await.unwrap();
            let mut text = Vec::new();
            timeout(Duration::from_secs(10), stream.read_to_end(&mut text)).await.expect("it is shown out").unwrap();
            let text = String::from_utf8(text).unwrap();
            assert!(text.starts_with(heard), "{said}: {text}");
        }
        stop.request();
    };
    tokio::join!(accepting, visits);
}

#[tokio::test]
async fn an_answer_holds_its_place_until_it_has_ended() {
    let places = Arc::new(Semaphore::new(1));
    let place = Arc::clone(&places).try_acquire_owned().unwrap();
    let response = reqwest::Response::from(Response::new("a long stream"));
    let answer = passed_on(response, place);
    assert_eq!(places.available_permits(), 0);
    drop(answer);
    assert_eq!(places.available_permits(), 1);
}

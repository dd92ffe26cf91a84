//! A listener between the gateway and a server: it passes bytes on, and keeps all that the gateway sent.
//!
//! So a test can say what is on the wire, to the byte, and what is not, whatever the server is. Only for HTTP/1.1
//! without TLS, whose requests say how long they are.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinSet,
};

type Kept = Arc<Mutex<Vec<Vec<u8>>>>;

/// See the file's header; stopped when dropped.
#[derive(Debug)]
pub struct Tap {
    /// URL of the server, by way of this.
    pub url: String,
    kept: Kept,
    _task: JoinSet<()>,
}

/// A request, as the gateway wrote it.
#[derive(Clone, Debug)]
pub struct Tapped {
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Tapped {
    /// The values of a header, by its name in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
    }
}

impl Tap {
    /// Before the server with this URL.
    ///
    /// # Errors
    /// The URL has no host and port, or no port is free.
    pub async fn before(url: &str) -> Result<Self> {
        let (server, path) =
            url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).context("no http URL")?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/{path}", listener.local_addr()?);
        let (kept, server, mut task) = (Kept::default(), server.to_owned(), JoinSet::new());
        let keeping = Arc::clone(&kept);
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((gateway, _)) = listener.accept().await {
                let (server, kept) = (server.clone(), Arc::clone(&keeping));
                connections.spawn(async move { drop(pass(gateway, &server, &kept).await) });
            }
        });
        Ok(Self { url, kept, _task: task })
    }

    /// All that the gateway sent, connection by connection.
    #[must_use]
    pub fn bytes(&self) -> Vec<Vec<u8>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The requests that are whole, in the order of their connections.
    #[must_use]
    pub fn requests(&self) -> Vec<Tapped> {
        self.bytes().iter().flat_map(|sent| requests(sent)).collect()
    }

    /// Those whose body names this method of MCP.
    #[must_use]
    pub fn of(&self, rpc_method: &str) -> Vec<Tapped> {
        let named = format!(r#""method":"{rpc_method}""#);
        self.requests().into_iter().filter(|request| request.body.contains(&named)).collect()
    }
}

async fn pass(gateway: TcpStream, server: &str, kept: &Kept) -> Result<()> {
    let (asked, answers) = gateway.into_split();
    let (reading, writing) = TcpStream::connect(server).await?.into_split();
    let number = {
        let mut all = kept.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(Vec::new());
        all.len() - 1
    };
    tokio::select! {
        done = keep(asked, writing, number, kept) => done,
        done = copy(reading, answers) => done,
    }
}

async fn keep(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, number: usize, kept: &Kept) -> Result<()> {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let length = from.read(&mut bytes).await?;
        let read = bytes.get(..length).filter(|read| !read.is_empty()).context("the connection has ended")?;
        if let Some(all) = kept.lock().unwrap_or_else(PoisonError::into_inner).get_mut(number) {
            all.extend_from_slice(read);
        }
        to.write_all(read).await?;
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> Result<()> {
    tokio::io::copy(&mut from, &mut to).await?;
    Ok(())
}

fn requests(mut sent: &[u8]) -> Vec<Tapped> {
    let mut all = Vec::new();
    while let Some((request, rest)) = request(sent) {
        all.push(request);
        sent = rest;
    }
    all
}

/// The first request, and what follows it.
fn request(sent: &[u8]) -> Option<(Tapped, &[u8])> {
    let end = sent.windows(4).position(|four| four == b"\r\n\r\n")?;
    let (head, rest) = sent.split_at_checked(end + 4)?;
    let mut lines = std::str::from_utf8(head).ok()?.trim_end().split("\r\n");
    let mut line = lines.next()?.split(' ');
    let (method, target) = (line.next()?.to_owned(), line.next()?.to_owned());
    let header = |line: &str| line.split_once(':').map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()));
    let headers: Vec<_> = lines.filter_map(header).collect();
    let length = headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, value)| value.parse().ok());
    let (body, rest) = rest.split_at_checked(length.unwrap_or(0))?;
    let body = String::from_utf8(body.to_vec()).ok()?;
    Some((Tapped { method, target, headers, body }, rest))
}

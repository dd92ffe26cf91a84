//! An HTTPS server on this machine with documents by path, which counts who asks.
//!
//! Blocking, with a thread for each connection: nothing else of a test waits for it.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use anyhow::Result;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{ServerConfig, ServerConnection, StreamOwned, pki_types::PrivatePkcs8KeyDer};
use serde_json::Value;
use tempfile::TempDir;

/// What it does when it is asked for a path.
#[derive(Clone, Debug)]
pub(super) enum Page {
    /// Answers so: status, further header lines, body.
    Says(&'static str, String, Vec<u8>),
    /// Takes the request and says nothing.
    Silent,
}

/// The server; it ends with the test's process.
#[derive(Debug)]
pub(super) struct DocumentHost {
    /// `https://` and where it listens.
    pub(super) base: String,
    /// Who believes its certificate.
    pub(super) authority: PathBuf,
    here: Arc<Here>,
    _folder: TempDir,
}

#[derive(Debug, Default)]
struct Here {
    pages: Mutex<BTreeMap<String, Page>>,
    asked: Mutex<Vec<String>>,
    connections: Mutex<usize>,
}

impl Page {
    pub(super) fn json(document: &Value) -> Self {
        Self::Says("200 OK", "content-type: application/json\r\n".to_owned(), document.to_string().into_bytes())
    }
}

impl DocumentHost {
    /// At an address of this machine's.
    pub(super) fn start(address: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec![address.to_owned()])?;
        let authority = folder.path().join("authority.pem");
        fs::write(&authority, cert.pem())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
        let config = builder.with_no_client_auth().with_single_cert(vec![cert.der().clone()], key.into())?;
        let (listener, config, here) = (TcpListener::bind((address, 0))?, Arc::new(config), Arc::<Here>::default());
        let base = format!("https://{}", listener.local_addr()?);
        let serving = Arc::clone(&here);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                *held(&serving.connections) += 1;
                let (here, config) = (Arc::clone(&serving), Arc::clone(&config));
                thread::spawn(move || drop(answer(&here, config, stream)));
            }
        });
        Ok(Self { base, authority, here, _folder: folder })
    }

    /// The URL of a path.
    pub(super) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// Has this at a path from now on.
    pub(super) fn has(&self, path: &str, page: Page) {
        held(&self.here.pages).insert(path.to_owned(), page);
    }

    /// The paths it was asked for since the last time.
    pub(super) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *held(&self.here.asked))
    }

    /// How many connected, whatever came of it.
    pub(super) fn connections(&self) -> usize {
        *held(&self.here.connections)
    }
}

fn answer(here: &Here, config: Arc<ServerConfig>, stream: TcpStream) -> Result<()> {
    let mut stream = StreamOwned::new(ServerConnection::new(config)?, stream);
    let (mut request, mut part) = (Vec::new(), [0; 4_096]);
    while !request.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        let count = stream.read(&mut part)?;
        anyhow::ensure!(count > 0, "no request");
        request.extend_from_slice(&part[..count]);
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let page = held(&here.pages).get(&path).cloned();
    held(&here.asked).push(path);
    match page.unwrap_or(Page::Says("404 Not Found", String::new(), Vec::new())) {
        Page::Says(status, headers, body) => {
            stream.write_all(format!("HTTP/1.1 {status}\r\n{headers}connection: close\r\n\r\n").as_bytes())?;
            stream.write_all(&body)?;
            stream.conn.send_close_notify();
            stream.flush()?;
        }
        // Until whoever asked has had enough.
        Page::Silent => while stream.read(&mut part)? > 0 {},
    }
    Ok(())
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! What the two servers of the load tester have in common: the listener, the runtime, and when they end.
//!
//! They run as processes of their own, so that their processor time is counted apart. The first line on stdout names
//! the address. Started by a run, they end with it: their stdin closes when the run ends, however it ends.

use std::{
    io::{self, Read as _},
    net::SocketAddr,
    process, thread,
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::Args;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use hyper::{body::Incoming, service::Service};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{net::TcpListener, runtime::Builder, task::JoinSet};

use crate::cores::Cores;

/// An answer of either server.
pub(crate) type Answer = Response<BoxBody<Bytes, hyper::Error>>;

/// Where and how to serve.
#[derive(Clone, Debug, Args)]
pub(crate) struct Serving {
    /// Where to listen; port 0 takes a free one, and the line on stdout names it.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Threads. One has no other to wait for or to hand on to.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
    /// The processors to run on, e.g. 0 or 0,2-3.
    #[arg(long, value_name = "LIST")]
    cores: Option<Cores>,
    /// End when stdin ends.
    #[arg(long, hide = true)]
    until_stdin_ends: bool,
}

/// Serves HTTP/1.1 and HTTP/2 in plain text until the process is ended.
pub(crate) fn serve<S>(serving: &Serving, path: &str, service: S) -> Result<()>
where
    S: Service<Request<Incoming>, Response = Answer, Error = hyper::Error> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    if let Some(cores) = &serving.cores {
        cores.pin_this_thread()?;
    }
    let mut runtime = match serving.threads {
        1 => Builder::new_current_thread(),
        threads => {
            let mut several = Builder::new_multi_thread();
            several.worker_threads(threads.into());
            several
        }
    };
    let runtime = runtime.enable_all().build()?;
    let listener = runtime.block_on(TcpListener::bind(serving.listen));
    let listener = listener.with_context(|| format!("cannot listen on {}", serving.listen))?;
    println!("listening at http://{}{path}", listener.local_addr()?);
    if serving.until_stdin_ends {
        thread::spawn(|| {
            let _ = io::stdin().lock().read_to_end(&mut Vec::new());
            process::exit(0);
        });
    }
    runtime.block_on(accept(&listener, service))
}

async fn accept<S>(listener: &TcpListener, service: S) -> Result<()>
where
    S: Service<Request<Incoming>, Response = Answer, Error = hyper::Error> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        while connections.try_join_next().is_some() {}
        let service = service.clone();
        connections.spawn(async move {
            // How a connection ends is the client's affair, which counts it.
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

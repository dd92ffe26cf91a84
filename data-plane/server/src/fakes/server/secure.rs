//! The same server behind TLS, over HTTP/2 or HTTP/1.1.

use std::sync::Arc;

use axum::Router;
use bailiwick_runtime::{OnEnd, Shutdown, Supervisor};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use rcgen::{Certificate, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What such a server shows, and whom it lets in: everybody, or those whom one of these vouches for.
pub(crate) fn with(
    certificate: &Certificate,
    key: &KeyPair,
    clients: Option<&[CertificateDer<'static>]>,
) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let mut roots = RootCertStore::empty();
            clients.iter().for_each(|client| roots.add(client.clone()).unwrap());
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
    };
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let mut config = builder.with_single_cert(vec![certificate.der().clone()], key.into()).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Serves until it is stopped.
pub(super) async fn serve(listener: TcpListener, config: Arc<ServerConfig>, app: Router, stop: Shutdown) {
    let (acceptor, supervisor) = (TlsAcceptor::from(config), Supervisor::new(stop.clone()));
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (acceptor, app, stop) = (acceptor.clone(), app.clone(), stop.clone());
        supervisor.spawn("fake-connection", OnEnd::Finish, async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let http = auto::Builder::new(TokioExecutor::new());
            let serving = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
            drop(stop.or_stop(Box::pin(serving)).await);
        });
    }
}

//! A gRPC client of a running control-plane cluster.
//!
//! Holds several connections to each endpoint, for one carries a bounded number of calls at a time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use bailiwick_proto::v1::{
    ApplyRequest, CreateScimTokenRequest, IssueTokenRequest, ManifestFile, RevokeRequest, admin_client::AdminClient,
};
use tonic::transport::{Channel, Endpoint};

/// With 64 calls on each, a server that allows 128 at a time refuses none.
const CONNECTIONS_PER_ENDPOINT: usize = 4;
const CONNECT_WAIT_MAX: Duration = Duration::from_millis(500);
/// Longer than any single command takes; a client that waited less could not tell slow from gone.
const CALL_WAIT_MAX: Duration = Duration::from_secs(20);
const TOKEN_SECONDS: u64 = 3_600;

/// Clients of all endpoints; clones share the connections.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    clients: Arc<[AdminClient<Channel>]>,
    next: Arc<AtomicUsize>,
}

impl Admin {
    /// Connects when first used, and again whenever a connection is lost.
    pub(crate) async fn connect(urls: &[String]) -> Result<Self> {
        ensure!(!urls.is_empty(), "no endpoint");
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS_PER_ENDPOINT {
            for url in urls {
                let endpoint = Endpoint::from_shared(url.clone())?.connect_timeout(CONNECT_WAIT_MAX);
                clients.push(AdminClient::new(endpoint.timeout(CALL_WAIT_MAX).tcp_nodelay(true).connect_lazy()));
            }
        }
        Ok(Self { clients: clients.into(), next: Arc::default() })
    }

    fn client(&self) -> Result<AdminClient<Channel>> {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.clients.len();
        self.clients.get(next).cloned().context("no endpoint")
    }

    /// Applies manifests, all of them or none; the revision that did it.
    pub(crate) async fn apply(&self, text: &str) -> Result<u64> {
        let files = vec![ManifestFile { name: "loadtest".into(), text: text.into() }];
        let request = ApplyRequest { files, dry_run: false, request_id: String::new() };
        let answer = self.client()?.apply(request).await?.into_inner();
        if answer.problems.is_empty() { Ok(answer.revision) } else { bail!("{:?}", answer.problems) }
    }

    /// Grants a consent with a token. One attempt at the next endpoint.
    pub(crate) async fn issue_token(&self, request_id: String) -> Result<()> {
        let request = token_request(request_id);
        self.client()?.issue_token(request).await?;
        Ok(())
    }

    /// Grants a consent; its id.
    pub(crate) async fn consent(&self) -> Result<String> {
        let request = token_request(String::new());
        Ok(self.client()?.issue_token(request).await?.into_inner().consent_id)
    }

    /// Grants a consent for somebody's agent; the token.
    pub(crate) async fn token_for(&self, user: &str, agent: &str, virtual_server: &str) -> Result<String> {
        let request = IssueTokenRequest {
            user: user.into(),
            agent: agent.into(),
            virtual_server: virtual_server.into(),
            ..token_request(String::new())
        };
        Ok(self.client()?.issue_token(request).await?.into_inner().access_token)
    }

    /// Lets a directory in; its token.
    pub(crate) async fn scim_token(&self, name: &str) -> Result<String> {
        let request = CreateScimTokenRequest { name: name.into(), ttl_seconds: 0, request_id: String::new() };
        Ok(self.client()?.create_scim_token(request).await?.into_inner().token)
    }

    /// Revokes a consent; the revision that did it.
    pub(crate) async fn revoke(&self, consent: &str) -> Result<u64> {
        self.revoke_named("consent", consent).await
    }

    /// Revokes something; the revision that did it.
    pub(crate) async fn revoke_named(&self, kind: &str, name: &str) -> Result<u64> {
        let request = RevokeRequest {
            kind: kind.into(),
            name: name.into(),
            reason: "load test".into(),
            wait: false,
            request_id: String::new(),
        };
        Ok(self.client()?.revoke(request).await?.into_inner().revision)
    }
}

fn token_request(request_id: String) -> IssueTokenRequest {
    IssueTokenRequest {
        user: "loadtest@example.com".into(),
        agent: "loadtest-agent".into(),
        virtual_server: "loadtest".into(),
        level: String::new(),
        ttl_seconds: TOKEN_SECONDS,
        reason: "load test".into(),
        request_id,
        binding_alg: String::new(),
        dpop_jkt: String::new(),
    }
}

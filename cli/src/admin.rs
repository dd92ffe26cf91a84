//! The control planes, as the command line reaches them: any of several, and the next when one does not answer.
//!
//! `http` URLs are for this machine; for `https` ones the administrator's own certificate is used (`enrolled`). Nobody at
//! all answering at first is said at once. After that an answer that was lost, or a cluster without a leader for a
//! moment, is waited out: everything asked through [`ControlPlanes::ask`] may be asked twice, as reads change nothing
//! and writes carry a request id and happen once.

use std::{error::Error, sync::Arc, time::Duration};

use bailiwick_proto::v1::{admin_client::AdminClient, cluster_client::ClusterClient};
use bailiwick_runtime::connect::Targets;
use rustls::ClientConfig;
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status, transport::Channel};

use crate::{enrolled, failure::Failure};

/// An apply may wait for servers to be looked at; nothing takes longer than this.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(60);
/// How long a request without an answer is repeated: several elections, and the restart of a node.
const RETRY_FOR: Duration = Duration::from_secs(30);
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// Answers hold at most every resource of a kind.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The way to the control planes.
#[derive(Debug)]
pub(crate) struct ControlPlanes {
    targets: Targets,
    tls: Option<Arc<ClientConfig>>,
    channel: Channel,
    /// Somebody has answered already: from then on an unreachable one is worth waiting for.
    reached: bool,
}

/// The control planes at these URLs, separated by commas.
pub(crate) async fn connect(urls: &str) -> Result<ControlPlanes, Failure> {
    let list: Vec<&str> = urls.split(',').map(str::trim).filter(|url| !url.is_empty()).collect();
    let targets =
        Targets::parse(&list).map_err(|error| Failure::Usage(format!("`{urls}`, the admin endpoint: {error}")))?;
    let tls = if targets.any_tls() { Some(Box::pin(enrolled::client_config(&targets)).await?) } else { None };
    let channel = targets.channel(tls.clone());
    Ok(ControlPlanes { targets, tls, channel, reached: false })
}

impl ControlPlanes {
    /// Asks until there is an answer. `request` must be one that may be asked twice.
    pub(crate) async fn ask<Q, A, F>(
        &mut self,
        request: Q,
        call: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<A, Failure>
    where
        Q: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let until = Instant::now() + RETRY_FOR;
        loop {
            let mut asked = Request::new(request.clone());
            asked.set_timeout(ANSWER_WAIT_MAX);
            let status = match call(self.channel.clone(), asked).await {
                Ok(answer) => {
                    self.reached = true;
                    return Ok(answer.into_inner());
                }
                Err(status) => status,
            };
            if never_sent(&status) && !self.reached {
                return Err(self.unreachable());
            }
            self.reached = true;
            if !may_change(&status) || Instant::now() >= until {
                return Err(refusal(status));
            }
            // Another one may know more, and this connection may be what is broken.
            self.targets.advance();
            self.channel = self.targets.channel(self.tls.clone());
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// A channel for what may not simply be repeated.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    fn unreachable(&self) -> Failure {
        let urls = self.targets.urls().join(", ");
        let advice = "is it running? Set BAILIWICK_ADMIN or --admin to its address";
        Failure::Unreachable(format!("no control plane answers at {urls}; {advice}"))
    }
}

/// The service Admin.
pub(crate) fn admin(channel: Channel) -> AdminClient<Channel> {
    AdminClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// The service Cluster.
pub(crate) fn cluster(channel: Channel) -> ClusterClient<Channel> {
    ClusterClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

#[expect(clippy::needless_pass_by_value, reason = "used as a mapping function")]
pub(crate) fn refusal(status: Status) -> Failure {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => {
            Failure::Unreachable(format!("the control plane did not answer: {}", status.message()))
        }
        _ => Failure::Refused(status.message().to_owned()),
    }
}

/// Whether asking again may bring another answer.
fn may_change(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown)
}

/// Whether no control plane was reached at all.
fn never_sent(status: &Status) -> bool {
    std::iter::successors(status.source(), |error| (*error).source()).any(|cause| cause.is::<tonic::ConnectError>())
}

//! The connection to a control plane's admin endpoint.

use std::time::Duration;

use bailiwick_proto::v1::admin_client::AdminClient;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use crate::failure::Failure;

/// A control plane that does not take the connection by then counts as unreachable.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(5);
/// An apply may wait for servers to be looked at; nothing takes longer than this.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(60);
/// Answers hold at most every resource of a kind.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

pub(crate) type Admin = AdminClient<Channel>;

pub(crate) async fn connect(url: &str) -> Result<Admin, Failure> {
    let endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(|error| Failure::Usage(format!("`{url}` is no admin endpoint: {error}")))?
        .connect_timeout(CONNECT_WAIT_MAX)
        .timeout(ANSWER_WAIT_MAX);
    let channel = endpoint.connect().await.map_err(|_| {
        let advice = "is it running? Set BAILIWICK_ADMIN or --admin to its address";
        Failure::Unreachable(format!("no control plane answers at {url}; {advice}"))
    })?;
    Ok(AdminClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
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

//! The client's side of enrolment: redeem a token once, renew for ever.
//!
//! Both go over TLS to a control plane whose authority is the pinned one, without a certificate of one's own: the proof
//! of the key is in the request, so an expired certificate is no obstacle. Time comes from the [`Identity`], so a test
//! can move it.

use std::{sync::Arc, time::Duration};

use bailiwick_proto::v1::{self, enrolment_client::EnrolmentClient};
use bailiwick_runtime::{
    Identity, Shutdown,
    connect::{Targets, TargetsError},
    identity::{IdentityError, NodeKey, Role, fingerprint},
    sealed_file,
};
use tonic::{Code, Status, transport::Channel};

use crate::{
    store::{MemberAddress, Membership, Store, StoreError},
    token::{JoinToken, enrol_message, renew_message},
};

/// Longest wait for one answer; the leader may have to be elected meanwhile.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(10);
/// Between attempts to enrol while no control plane can be reached.
const ENROL_PAUSE: Duration = Duration::from_secs(1);
/// That many attempts: a cluster that is starting has a minute.
const ENROL_ATTEMPTS_MAX: u32 = 60;
/// How often it is looked whether the certificate is to be renewed, and whether the master key has changed.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often a failed renewal is logged: each minute; it is tried at every look.
const COMPLAIN_EVERY: u32 = 12;
const ALPN_H2: &[u8] = b"h2";

/// Who wants to be a member, and where to ask.
#[derive(Clone, Debug)]
pub struct Wish {
    /// What it will be.
    pub role: Role,
    /// Its name.
    pub name: String,
    /// APIs of control planes, `https` all of them.
    pub urls: Vec<String>,
    /// Leave to join; not needed once a membership is kept.
    pub token: Option<JoinToken>,
    /// Control planes: where peers reach it.
    pub peer_address: String,
    /// Control planes: where its gRPC listens.
    pub api_address: String,
    /// The program's version.
    pub version: String,
}

/// Why somebody is no member. Holds no token.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// Neither a membership nor a token.
    #[error(
        "this node is not enrolled: create a token with `bailiwick cluster join-token --role {0}` and set `join_token` \
         or `join_token_file`"
    )]
    NoToken(&'static str),
    /// What is kept here belongs to somebody else.
    #[error("the membership kept in {folder} is that of {kept}, but the configuration says {wanted}")]
    SomebodyElse {
        /// Where.
        folder: String,
        /// Who.
        kept: String,
        /// Role and name.
        wanted: String,
    },
    /// The token cannot be read.
    #[error("join_token: {0}")]
    Token(String),
    /// The token is for another role.
    #[error("the join token is for the role {0}")]
    OtherRole(&'static str),
    /// A token is never sent in clear.
    #[error("enrolment needs https URLs of control planes")]
    NotTls,
    /// Not URLs.
    #[error(transparent)]
    Targets(#[from] TargetsError),
    /// What is kept here.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// TLS, or an answer that does not hold together.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The server is not one of the cluster that made the token; nothing was sent to it.
    #[error("the control plane's authority is not the one of the join token: nothing was sent ({0})")]
    Impostor(String),
    /// A control plane refuses.
    #[error("the control plane refuses: {}", .0.message())]
    Refused(Status),
    /// Nobody answers.
    #[error("no control plane can be reached: {0}")]
    Unreachable(String),
    /// It certifies somebody else.
    #[error("the control plane answers with a certificate for somebody else")]
    WrongAnswer,
}

/// Becomes a member, or remembers that this is one; `identity` is that member from then on.
///
/// # Errors
/// [`EnrolError`].
pub async fn enrol(store: &Store, wish: &Wish, identity: &Identity) -> Result<Membership, EnrolError> {
    let key = store.key()?;
    if let Some(kept) = store.membership()? {
        if (kept.id.role, kept.id.name.as_str()) != (wish.role, wish.name.as_str()) {
            let (folder, wanted) =
                (store.folder().display().to_string(), format!("{}/{}", wish.role.as_str(), wish.name));
            return Err(EnrolError::SomebodyElse { folder, kept: kept.id.to_string(), wanted });
        }
        identity.install(&kept.certificate, &kept.authority, &key)?;
        return Ok(kept);
    }
    let token = wish.token.as_ref().ok_or(EnrolError::NoToken(wish.role.as_str()))?;
    if token.role != wish.role {
        return Err(EnrolError::OtherRole(token.role.as_str()));
    }
    let targets = targets(&wish.urls)?;
    let text = token.expose();
    let request = v1::EnrolRequest {
        token: text.to_string(),
        role: wish.role.as_str().to_owned(),
        name: wish.name.clone(),
        public_key: key.public_key().to_vec(),
        proof: key.sign(&enrol_message(&text))?,
        peer_address: wish.peer_address.clone(),
        api_address: wish.api_address.clone(),
        version: wish.version.clone(),
    };
    let answer = redeem(&targets, identity, token.fingerprint, &request).await?;
    if fingerprint(&answer.authority) != token.fingerprint {
        return Err(EnrolError::WrongAnswer);
    }
    let id = identity.install(&answer.certificate, &answer.authority, &key)?;
    let node_id = Some(answer.node_id).filter(|id| *id > 0);
    if (&id.cluster, id.role, &id.name, id.node_id) != (&answer.cluster_id, wish.role, &wish.name, node_id) {
        return Err(EnrolError::WrongAnswer);
    }
    let membership = Membership {
        id,
        incarnation: answer.incarnation,
        certificate: answer.certificate,
        authority: answer.authority,
        members: answer.members.into_iter().map(address).collect(),
    };
    store.keep(&membership)?;
    tracing::info!(id = %membership.id, "enrolled");
    Ok(membership)
}

/// Sends the request until somebody answers it: the same request twice is one enrolment.
async fn redeem(
    targets: &Targets,
    identity: &Identity,
    pin: [u8; 32],
    request: &v1::EnrolRequest,
) -> Result<v1::EnrolResponse, EnrolError> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let mut client = client(targets, identity, pin)?;
        let answered = tokio::time::timeout(ANSWER_WAIT_MAX, client.enrol(request.clone())).await;
        let why = match answered {
            Ok(Ok(answer)) => return Ok(answer.into_inner()),
            Ok(Err(status)) if is_impostor(&status) => return Err(EnrolError::Impostor(causes(&status))),
            Ok(Err(status)) if is_refusal(&status) => return Err(EnrolError::Refused(status)),
            Ok(Err(status)) => causes(&status),
            Err(_) => "no answer".to_owned(),
        };
        if attempts >= ENROL_ATTEMPTS_MAX {
            return Err(EnrolError::Unreachable(why));
        }
        tracing::warn!(error = why, "not enrolled yet; trying again");
        targets.advance();
        tokio::time::sleep(ENROL_PAUSE).await;
    }
}

/// Gets a fresh certificate for the key and installs it; the membership with it.
///
/// # Errors
/// [`EnrolError`]; then what was installed stays.
pub async fn renew(
    membership: &Membership,
    key: &NodeKey,
    identity: &Identity,
    targets: &Targets,
    version: &str,
) -> Result<Membership, EnrolError> {
    let (role, name) = (membership.id.role.as_str(), membership.id.name.as_str());
    let time = identity.now().saturating_mul(1_000);
    let request = v1::RenewRequest {
        role: role.to_owned(),
        name: name.to_owned(),
        public_key: key.public_key().to_vec(),
        time,
        proof: key.sign(&renew_message(role, name, time, ["", ""]))?,
        peer_address: String::new(),
        api_address: String::new(),
        version: version.to_owned(),
    };
    let mut client = client(targets, identity, fingerprint(&membership.authority))?;
    let answer = match tokio::time::timeout(ANSWER_WAIT_MAX, client.renew(request)).await {
        Ok(Ok(answer)) => answer.into_inner(),
        Ok(Err(status)) if is_refusal(&status) => return Err(EnrolError::Refused(status)),
        Ok(Err(status)) => return Err(EnrolError::Unreachable(causes(&status))),
        Err(_) => return Err(EnrolError::Unreachable("no answer".to_owned())),
    };
    // Another authority would be another cluster.
    if answer.authority != membership.authority {
        return Err(EnrolError::WrongAnswer);
    }
    let leaf = rustls::pki_types::CertificateDer::from(answer.certificate.as_slice());
    if bailiwick_runtime::identity::read(&leaf)?.0 != membership.id {
        return Err(EnrolError::WrongAnswer);
    }
    identity.install(&answer.certificate, &answer.authority, key)?;
    let members = answer.members.into_iter().map(address).collect();
    Ok(Membership { certificate: answer.certificate, members, ..membership.clone() })
}

/// Renews the certificate whenever half of its life is over, and has the sealed files (those of `store`, and `others`)
/// follow the master key; until shutdown.
pub async fn keep(
    store: Store,
    mut membership: Membership,
    identity: Identity,
    targets: Targets,
    others: Vec<std::path::PathBuf>,
    version: String,
    shutdown: Shutdown,
) {
    let key = match store.key() {
        Ok(key) => Arc::new(key),
        Err(error) => {
            tracing::error!(%error, "the certificate cannot be renewed without the key");
            return;
        }
    };
    let (mut failures, mut newest) = (0_u32, store.master_keys().newest());
    loop {
        follow_master_key(&store, &others, &mut newest);
        if identity.validity().is_none_or(|validity| validity.is_due(identity.now())) {
            match renew(&membership, &key, &identity, &targets, &version).await {
                Ok(renewed) => {
                    failures = 0;
                    membership = renewed;
                    tracing::info!(id = %membership.id, "certificate renewed");
                    if let Err(error) = store.keep(&membership) {
                        tracing::error!(%error, "the renewed certificate cannot be kept; it is renewed again later");
                    }
                }
                Err(error) => {
                    if failures.is_multiple_of(COMPLAIN_EVERY) {
                        tracing::warn!(%error, "the certificate cannot be renewed yet; trying again");
                    }
                    failures = failures.saturating_add(1);
                    targets.advance();
                }
            }
        }
        if shutdown.or_stop(tokio::time::sleep(LOOK_EVERY)).await.is_none() {
            return;
        }
    }
}

fn follow_master_key(store: &Store, others: &[std::path::PathBuf], newest: &mut String) {
    if let Err(error) = store.master_keys().reload() {
        tracing::warn!(%error, "the master key cannot be read again; the one in memory is used");
    }
    let now = store.master_keys().newest();
    if now == *newest {
        return;
    }
    for file in store.files().iter().chain(others) {
        if let Err(error) = sealed_file::reseal(file, store.master_keys()) {
            tracing::error!(%error, "a sealed file does not follow the master key; keep the older one");
            return;
        }
    }
    tracing::info!(master_key = now, "sealed files follow the newest master key");
    *newest = now;
}

fn targets(urls: &[String]) -> Result<Targets, EnrolError> {
    let targets = Targets::parse(urls)?;
    if targets.all_tls() { Ok(targets) } else { Err(EnrolError::NotTls) }
}

fn client(targets: &Targets, identity: &Identity, pin: [u8; 32]) -> Result<EnrolmentClient<Channel>, EnrolError> {
    let tls = Arc::new(identity.pinned_client_config(&[ALPN_H2], pin)?);
    Ok(EnrolmentClient::new(targets.channel(Some(tls))))
}

fn address(member: v1::MemberAddress) -> MemberAddress {
    let v1::MemberAddress { node_id, name, peer_address, api_address } = member;
    MemberAddress { node_id, name, peer: peer_address, api: api_address }
}

/// Whether asking again would get the same answer.
fn is_refusal(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::Unauthenticated
            | Code::Unimplemented
    )
}

/// Whether the handshake failed over the server's certificate, before anything was sent.
fn is_impostor(status: &Status) -> bool {
    sources(status).any(|error| {
        error.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == std::io::ErrorKind::InvalidData)
    })
}

fn causes(status: &Status) -> String {
    sources(status).last().map_or_else(|| status.message().to_owned(), ToString::to_string)
}

fn sources(status: &Status) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(std::error::Error::source(status), |error| error.source())
}

//! A control plane that listens elsewhere than the state says tells the cluster, until the state says so too.
//!
//! It asks as any member does that renews its certificate, signed with the key it enrolled with. The others may not be
//! able to reach it, so it asks them: any colleague hands the request to the leader. Called once, at start, by `serve`.

use std::time::Duration;

use bailiwick_control_plane_core::{
    Command,
    member::{RenewMember, Role},
};
use bailiwick_enrolment::renew_message;
use bailiwick_proto::v1::{self, enrolment_client::EnrolmentClient};
use bailiwick_runtime::Shutdown;

use crate::{
    authority::Own,
    birth::Addresses,
    domain::{Caller, Domain},
    links::{Links, colleagues},
};

/// Between attempts.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest wait for one colleague.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(5);

/// Returns once the state names these addresses, or this node is to stop.
pub(crate) async fn run(domain: Domain, links: Links, own: Own, addresses: Addresses, shutdown: Shutdown) {
    loop {
        let known = domain.read(|state| {
            let member = state.members.get(&own.id.name)?;
            Some(member.peer == addresses.peer && member.api == addresses.api)
        });
        match known {
            Some(true) => return,
            // Not heard of oneself yet.
            None => {}
            Some(false) => {
                if let Err(why) = say(&domain, &links, &own, &addresses).await {
                    tracing::warn!(why, "this node's new address is not known to the cluster yet; trying again");
                }
            }
        }
        if shutdown.or_stop(tokio::time::sleep(PAUSE)).await.is_none() {
            return;
        }
    }
}

async fn say(domain: &Domain, links: &Links, own: &Own, addresses: &Addresses) -> Result<(), String> {
    let name = own.id.name.clone();
    let consensus = domain.consensus();
    if consensus.is_leader() {
        let command = Command::RenewMember(RenewMember {
            role: Role::ControlPlane,
            name: name.clone(),
            public_key: own.key.public_key().to_vec(),
            peer: addresses.peer.clone(),
            api: addresses.api.clone(),
        });
        let caller = Caller { actor: format!("node:{name}"), request_id: String::new() };
        return domain.write(command, caller).await.map(drop).map_err(|error| error.to_string());
    }
    let (role, time) = (Role::ControlPlane.as_str(), own.identity.now().saturating_mul(1_000));
    let message = renew_message(role, &name, time, [&addresses.peer, &addresses.api]);
    let proof = own.key.sign(&message).map_err(|error| error.to_string())?;
    let request = v1::RenewRequest {
        role: role.to_owned(),
        name,
        public_key: own.key.public_key().to_vec(),
        time,
        proof,
        peer_address: addresses.peer.clone(),
        api_address: addresses.api.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let mut last = "no other control plane is known".to_owned();
    for colleague in domain.read(|state| colleagues(state, consensus.node_id())) {
        let Ok(channel) = links.to(&colleague) else { continue };
        match tokio::time::timeout(ANSWER_WAIT_MAX, EnrolmentClient::new(channel).renew(request.clone())).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(status)) => last = format!("{}: {}", colleague.name, status.message()),
            Err(_) => last = format!("{}: no answer", colleague.name),
        }
        links.forget(colleague.node_id);
    }
    Err(last)
}

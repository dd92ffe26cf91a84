//! SetSecret, DeleteSecret and ListSecrets: what data planes show to servers, and control planes to identity providers.
//!
//! The value is sealed here, on the leader, and from then on is nowhere in clear but in the vaults of control planes
//! and, if it is for servers, with data planes. First the word that there is one is committed, which the ledger records, then the sealing;
//! deleting commits the word and then seals nothing under the name, which voids the ciphertext there was. Asked again,
//! both go on where they broke off. No answer, error or log line holds a value.

use bailiwick_control_plane_core::{
    Command, Rejection, State,
    credential::{self, Audience, VALUE_BYTES_MAX},
};
use bailiwick_proto::v1;
use tonic::Status;
use zeroize::Zeroizing;

use super::AdminService;
use crate::{
    domain::{Caller, WriteError},
    status,
    vault::VaultError,
};

impl AdminService {
    pub(super) async fn seal_secret(
        &self,
        actor: String,
        request: v1::SetSecretRequest,
    ) -> Result<v1::SetSecretResponse, Status> {
        let v1::SetSecretRequest { name, value, request_id, audience } = request;
        let value = Zeroizing::new(value);
        if value.is_empty() || value.len() > VALUE_BYTES_MAX {
            return Err(Status::invalid_argument(format!("a secret has 1 to {VALUE_BYTES_MAX} bytes")));
        }
        let audience = Audience::of_word(&audience)
            .ok_or_else(|| Status::invalid_argument("a secret is for \"servers\" or for \"identity-provider\""))?;
        let command = Command::SetCredential { name: name.clone(), audience };
        self.domain.write(command, Caller { actor, request_id }).await.map_err(status::of_write)?;
        let sealed = self.vault.put(&self.domain, audience.column(), &name, &value).await;
        sealed.map_err(|error| of_vault(&error))?;
        Ok(v1::SetSecretResponse { revision: self.domain.read(|state| state.revision) })
    }

    pub(super) async fn forget_secret(
        &self,
        actor: String,
        request: v1::DeleteSecretRequest,
    ) -> Result<v1::DeleteSecretResponse, Status> {
        let v1::DeleteSecretRequest { name, request_id } = request;
        let known = self.domain.read(|state| state.credentials.get(&name).map(|known| known.audience));
        let command = Command::DeleteCredential { name: name.clone() };
        let written = match self.domain.write(command, Caller { actor, request_id }).await {
            // Perhaps an earlier attempt broke off here.
            Err(error @ WriteError::Rejected(Rejection::SecretUnknown { .. })) => Err(status::of_write(error)),
            written => Ok(written.map_err(status::of_write)?),
        };
        for audience in Audience::ALL {
            let voided = self.vault.void(&self.domain, audience.column(), &name).await;
            voided.map_err(|error| of_vault(&error))?;
        }
        let revision = written?.revision;
        let used_by = known.map(|audience| self.domain.read(|state| used_by(state, &name, audience)));
        let audience = known.map(|audience| audience.word().to_owned());
        let (used_by, audience) = (used_by.unwrap_or_default(), audience.unwrap_or_default());
        Ok(v1::DeleteSecretResponse { revision, used_by, audience })
    }

    pub(super) async fn secrets(&self) -> Result<v1::ListSecretsResponse, Status> {
        let listed = self.domain.read_latest(|state| {
            let secrets = state.credentials.iter().map(|(name, set)| v1::SecretInfo {
                name: name.clone(),
                actor: set.actor.clone(),
                time: set.changed.time,
                revision: set.changed.revision,
                used_by: used_by(state, name, set.audience),
                audience: set.audience.word().to_owned(),
            });
            v1::ListSecretsResponse { revision: state.revision, secrets: secrets.collect() }
        });
        listed.await.map_err(|error| status::of_consensus(&error))
    }
}

fn used_by(state: &State, name: &str, audience: Audience) -> Vec<String> {
    credential::used_by(state, name, audience).into_iter().map(|resource| resource.name).collect()
}

/// What cannot be sealed is for the operator's log, not for who asked.
fn of_vault(error: &VaultError) -> Status {
    tracing::error!(%error, "a secret cannot be sealed");
    Status::internal("the secret could not be sealed; see the control plane's log, and try again")
}

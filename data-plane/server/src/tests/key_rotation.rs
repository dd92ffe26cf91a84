//! Rotation of the key that signs tokens, as a data plane sees it.

use bailiwick_proto::v1::{self, resource::Resource};
use bailiwick_token::{Claims, SigningKey, mint};

use super::*;
use crate::fakes::world::entry;

fn other_key() -> SigningKey {
    SigningKey::from_ed25519_seed(&[2; 32]).unwrap()
}

/// Lists the tools by a token of another key than this node began with; status and body.
async fn list(world: &World, min_revision: Option<u64>) -> (u16, Value) {
    let mut request = world.modern("tools/list", None, "").build().unwrap();
    let token = mint(&Claims { min_revision, ..claims() }, &other_key()).unwrap();
    request.headers_mut().insert("authorization", format!("Bearer {}", token.expose()).parse().unwrap());
    let (status, body) = json_of(Client::new().execute(request).await.unwrap()).await;
    (status, body)
}

#[tokio::test]
async fn a_token_that_comes_faster_than_its_key_waits_for_it_and_is_not_called_bad_while_this_node_is_behind() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    let held = world.control.change(policy(PERMIT_READS), true).await;
    let jwk = serde_json::to_string(other_key().public_jwk()).unwrap();
    let (kid, alg) = (other_key().kid().to_owned(), "EdDSA".to_owned());
    let key = entry(&format!("token_key/{kid}"), Resource::TokenKey(v1::TokenKey { kid, alg, jwk }));
    let (answer, next) = tokio::join!(list(&world, Some(held + 1)), world.control.change(key, true));
    assert_eq!(next, held + 1);
    assert_eq!(answer.0, 200, "{}", answer.1);
    assert_eq!(list(&world, None).await.0, 200);
}

#[tokio::test]
async fn a_token_of_a_key_that_never_comes_is_refused() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    let held = world.control.change(policy(PERMIT_READS), true).await;
    let (status, body) = list(&world, Some(held + 1_000)).await;
    assert_eq!((status, &body["error"]), (503, &json!("not_ready")), "this node may be behind");
    for known in [None, Some(0), Some(1)] {
        assert_eq!(list(&world, known).await.0, 401, "it has that revision, and no such key");
    }
}

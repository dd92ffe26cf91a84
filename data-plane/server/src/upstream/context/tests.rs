//! Contexts as they are made: which key signs, and what is said of calls of every kind.

use bailiwick_data_plane_core::{Decision, naming::Own};
use bailiwick_proto::{
    Tier,
    mcp::{Era, RequestId, method},
    v1::NamedSecret,
};
use bailiwick_token::{
    VerifyingKeys,
    context::{ContextError, ExpectContext, verify},
};

use super::*;
use crate::fakes::world::{ISSUER, now_unix};

const URL: &str = "https://finance.internal/mcp";
const BODY: &[u8] = b"{}";

fn named(name: &str, seed: u8) -> NamedSecret {
    NamedSecret { name: name.into(), value: vec![seed; 32] }
}

fn context(found: Found) -> Context {
    let offer = bailiwick_data_plane_core::config::Offer {
        issuer: Some(v1::Issuer { issuer: ISSUER.into(), mcp_url: String::new() }),
        ..Default::default()
    };
    let contents = bailiwick_data_plane_core::config::Contents { offer: offer.into(), ..Default::default() };
    let claims = crate::fakes::world::claims();
    let decision = Decision {
        reason: None,
        policies: Arc::default(),
        scope_needed: None,
        policy_error: None,
        revision: 7,
        rollout: None,
        earlier_agents: Arc::from(["planner".to_owned()]),
        owner: None,
        project: None,
        found: Some(found.clone()),
    };
    let call = bailiwick_data_plane_core::Call {
        id: RequestId::from(1),
        era: Era::Modern,
        virtual_server: "finance".into(),
        method: method::RESOURCES_READ,
        name: "x".into(),
        arguments: None,
        completion: None,
        task: None,
        retry: bailiwick_data_plane_core::edge::Retry::default(),
        meta: None,
        client_name: None,
        client_version: None,
        trace_id: None,
        capabilities: None,
        unrecognised_params: Vec::new(),
    };
    Context {
        config: Arc::new(Config { revision: 7, contents: Arc::new(contents) }),
        caller: Arc::new(Caller::from_claims(&claims, "finance").unwrap()),
        permitted: Arc::new(PermittedCall { call, decision, found }),
        request_id: "r-1".into(),
    }
}

fn resource(uri: &str) -> Context {
    context(Found::Resource(Own { server: "finance".into(), name: uri.into() }))
}

fn written() -> Written<'static> {
    Written { server: URL, method: &Method::POST, target: "/mcp", body: BODY }
}

fn told(header: &HeaderValue, kid: &str, seed: u8) -> Result<ContextClaims<'static>, ContextError> {
    let key = ContextKey::from_seed(kid.into(), &[seed; 32]).unwrap();
    let keys = VerifyingKeys::from_jwks([(kid, "EdDSA", key.public_jwk().to_json().unwrap().as_str())]).unwrap();
    let expect = ExpectContext { issuer: ISSUER, audience: URL, htm: "POST", target: "/mcp", body: BODY };
    verify(&keys, header.to_str().unwrap(), &expect, now_unix())
}

#[test]
fn the_first_key_signs_a_bad_one_replaces_nothing_and_without_one_nothing_is_said() {
    let (contexts, context) = (Contexts::default(), resource("file:///a"));
    let signed = || contexts.header(&context, written(), now_unix()).unwrap();
    assert!(signed().is_none(), "no key yet");
    contexts.replace(&[named("one", 1), named("two", 2)]);
    let (first, second) = (signed().unwrap(), signed().unwrap());
    assert!(first.is_sensitive());
    let (first, second) = (told(&first, "one", 1).unwrap(), told(&second, "one", 1).unwrap());
    assert!(first.jti != second.jti && first.request_id == second.request_id);
    contexts.replace(&[NamedSecret { name: "bad".into(), value: vec![1] }]);
    assert!(told(&signed().unwrap(), "one", 1).is_ok(), "the one before stays");
    contexts.replace(&[named("two", 2)]);
    assert_eq!(told(&signed().unwrap(), "one", 1), Err(ContextError::Signature));
    assert!(told(&signed().unwrap(), "two", 2).is_ok());
    contexts.replace(&[]);
    assert!(signed().is_none());
}

#[test]
fn long_names_are_left_out_so_that_a_header_stays_one() {
    let contexts = Contexts::default();
    contexts.replace(&[named("one", 1)]);
    let signed = |context: &Context| contexts.header(context, written(), now_unix()).unwrap().unwrap();
    let short = told(&signed(&resource("file:///a")), "one", 1).unwrap();
    assert_eq!((short.uri.as_deref(), short.tier.as_ref()), (Some("file:///a"), Tier::Retrieval.as_str()));
    assert_eq!(short.earlier_agents.as_ref(), ["planner"]);
    let long = Found::Prompt(Own { server: "finance".into(), name: "p".repeat(NAME_BYTES_MAX + 1) });
    assert_eq!(told(&signed(&context(long)), "one", 1).unwrap().prompt, None);
}

#[test]
fn without_an_issuer_nothing_is_said_and_nothing_of_it_is_printed() {
    let contexts = Contexts::default();
    contexts.replace(&[named("one", 1)]);
    let config = Arc::new(Config::default());
    let unnamed = Context { config, ..resource("file:///a") };
    assert!(contexts.header(&unnamed, written(), now_unix()).unwrap().is_none());
    let printed = format!("{unnamed:?} {contexts:?}");
    assert!(!printed.contains("jane") && !printed.contains("[1, 1"), "{printed}");
}

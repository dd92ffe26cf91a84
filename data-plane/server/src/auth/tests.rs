//! Tokens: good, bad, cached, and no longer good.

use bailiwick_data_plane_core::{config::Contents, people::People, table::Table};
use bailiwick_proto::{
    Tier,
    v1::{self, resource::Resource as Kind},
};
use bailiwick_token::{Actor, Algorithm, SigningKey, VerifyingKeys, mint};
use http::{HeaderValue, header};

use super::*;

const NOW: i64 = 1_800_000_000;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_ed25519_seed(&[seed; 32]).unwrap()
}

pub(super) fn config(keys: &[u8]) -> Config {
    config_with(keys, false)
}

fn config_with(keys: &[u8], revoked: bool) -> Config {
    let jwks: Vec<_> = keys
        .iter()
        .map(|seed| (key(*seed).kid().to_owned(), serde_json::to_string(&key(*seed).public_jwk()).unwrap()))
        .collect();
    let keys = jwks.iter().map(|(kid, jwk)| (kid.as_str(), Algorithm::EdDsa.as_str(), jwk.as_str()));
    let offer = Offer {
        issuer: Some(Issuer { issuer: "http://issuer".into(), mcp_url: "http://mcp/mcp".into() }),
        token_keys: VerifyingKeys::from_jwks(keys).unwrap(),
        ..Offer::default()
    };
    let contents = Contents { people: people(revoked), offer: Arc::new(offer), ..Contents::default() };
    Config { contents: Arc::new(contents), ..Config::default() }
}

fn people(revoked: bool) -> People {
    let user = v1::User { name: "jane@example.com".into(), groups: Vec::new(), active: true };
    let (name, owner, project) = ("coder".into(), "jane@example.com".into(), "platform".into());
    let agent = v1::Agent { name, owner, project, ceiling: "destructive".into(), active: true };
    let (user_name, agent_name, virtual_server) = ("jane@example.com".into(), "coder".into(), "finance".into());
    let consent = v1::Consent {
        id: "c-1".into(),
        user: user_name,
        agent: agent_name,
        virtual_server,
        level: "destructive".into(),
        expires_at: NOW + 100,
        revoked,
        client: "cli".into(),
        ..v1::Consent::default()
    };
    let entries = [
        ("user/jane@example.com", Kind::User(user)),
        ("agent/coder", Kind::Agent(agent)),
        ("consent/c-1", Kind::Consent(consent)),
    ];
    let encode = |(key, kind): (&str, Kind)| {
        (key.to_owned(), prost::Message::encode_to_vec(&v1::Resource { resource: Some(kind) }))
    };
    People::new(entries.into_iter().map(encode).collect(), Table::default())
}

pub(super) fn claims() -> Claims {
    Claims {
        iss: "http://issuer".into(),
        aud: "http://mcp/mcp/finance".into(),
        sub: "jane@example.com".into(),
        agent_sub: "coder".into(),
        project_id: "platform".into(),
        client_id: "cli".into(),
        consent_id: "c-1".into(),
        sid: "s-1".into(),
        scope: "mcp:tools".into(),
        act: Actor { sub: "coder".into(), act: None },
        jti: "t-1".into(),
        iat: NOW - 10,
        nbf: None,
        exp: NOW + 100,
        min_revision: None,
        cnf: None,
        binding_alg: None,
        binding: None,
    }
}

pub(super) fn headers(value: &str) -> HeaderMap {
    HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap())])
}

pub(super) fn with_token(claims: &Claims, seed: u8) -> HeaderMap {
    headers(&format!("Bearer {}", mint(claims, &key(seed)).unwrap().expose()))
}

fn reason(config: &Config, headers: &HeaderMap, now: i64) -> Option<Reason> {
    let refused = Authenticator::default().authenticate(config, "finance", headers, now);
    refused.err().map(|refused| refused.reason)
}

#[test]
fn a_good_token_names_its_caller_and_stops_at_its_expiry_even_when_cached() {
    let (config, authenticator) = (config(&[1]), Authenticator::default());
    let good = with_token(&claims(), 1);
    for now in [NOW, NOW + 1, NOW + 99] {
        let caller = authenticator.authenticate(&config, "finance", &good, now).unwrap();
        assert_eq!((caller.user.as_str(), caller.virtual_server.as_str()), ("jane@example.com", "finance"));
    }
    let expired = authenticator.authenticate(&config, "finance", &good, NOW + 100).unwrap_err();
    assert_eq!(expired.reason, Reason::TokenExpired);
    assert_eq!(expired.claims.unwrap().sub, "jane@example.com");
    let other = authenticator.authenticate(&config, "hr", &good, NOW).unwrap_err();
    assert_eq!(other.reason, Reason::TokenAudience);
}

#[test]
fn tokens_of_one_consent_keep_their_own_scopes() {
    let (config, authenticator) = (config(&[1]), Authenticator::default());
    for (scope, level) in [("mcp:read", Tier::Retrieval), ("mcp:write mcp:read", Tier::Transactional)] {
        let (narrow, wide) = (with_token(&Claims { scope: scope.into(), ..claims() }, 1), with_token(&claims(), 1));
        for (headers, expected) in [(&narrow, level), (&wide, Tier::Destructive), (&narrow, level)] {
            let caller = authenticator.authenticate(&config, "finance", headers, NOW).unwrap();
            assert_eq!(caller.scope_level, expected, "{scope}");
        }
    }
}

#[test]
fn a_withdrawn_key_ends_cached_tokens_at_once() {
    let authenticator = Authenticator::default();
    let good = with_token(&claims(), 1);
    for _ in 0..2 {
        assert!(authenticator.authenticate(&config(&[1]), "finance", &good, NOW).is_ok());
    }
    let refused = authenticator.authenticate(&config(&[2]), "finance", &good, NOW).unwrap_err();
    assert_eq!(refused, NotAuthenticated { reason: Reason::TokenSignature, claims: None, dpop: None });
}

#[test]
fn a_token_that_was_verified_while_its_key_was_withdrawn_is_not_kept() {
    let (before, after, authenticator) = (config(&[1]), config(&[2]), Authenticator::default());
    let good = with_token(&claims(), 1);
    let (_, token) = credentials(&good).unwrap();
    let hash = || TokenHash::of(token);
    assert!(authenticator.known(&before, &hash()).is_none(), "a request begins under the old keys");
    assert!(authenticator.known(&after, &hash()).is_none(), "another one comes under the new");
    let issuer = before.issuer.clone().unwrap();
    assert!(authenticator.verify(&before, &issuer, "finance", (token, hash()), NOW).is_ok());
    let refused = authenticator.authenticate(&after, "finance", &good, NOW).unwrap_err();
    assert_eq!(refused.reason, Reason::TokenSignature);
}

#[test]
fn a_token_whose_consent_was_revoked_is_not_kept() {
    let authenticator = Authenticator::default();
    let (good, kept) = (with_token(&claims(), 1), || authenticator.0.lock().unwrap().tokens.len());
    for (revoked, expected) in [(false, 1), (true, 0), (true, 0), (false, 1)] {
        let caller = authenticator.authenticate(&config_with(&[1], revoked), "finance", &good, NOW).unwrap();
        assert_eq!((caller.consent.as_str(), kept()), ("c-1", expected), "admission says why not");
    }
}

#[test]
fn forged_and_misplaced_tokens_are_refused_by_name() {
    let config = config(&[1]);
    let token = mint(&claims(), &key(1)).unwrap();
    let token = token.expose();
    let unsigned = format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), token.split('.').nth(1).unwrap());
    let mut twice = headers(&format!("Bearer {token}"));
    twice.append(header::AUTHORIZATION, HeaderValue::from_static("Bearer x"));
    let narrow = Claims { scope: "openid".into(), ..claims() };
    let early = Claims { nbf: Some(NOW + 50), ..claims() };
    for (headers, expected) in [
        (HeaderMap::new(), Reason::TokenMissing),
        (headers("Basic abc"), Reason::TokenMissing),
        (headers("Bearer "), Reason::TokenMissing),
        (headers("Bearer x"), Reason::TokenMalformed),
        (headers(&format!("Bearer {unsigned}")), Reason::TokenMalformed),
        (headers(&format!("Bearer {}", token.strip_suffix(|_: char| true).unwrap())), Reason::TokenMalformed),
        (twice, Reason::TokenMalformed),
        (with_token(&claims(), 9), Reason::TokenSignature),
        (with_token(&narrow, 1), Reason::ScopeInsufficient),
        (with_token(&early, 1), Reason::TokenNotYetValid),
    ] {
        assert_eq!(reason(&config, &headers, NOW), Some(expected), "{headers:?}");
    }
    assert_eq!(reason(&config, &headers(&format!("bearer  {token}")), NOW), None, "the scheme has no case");
}

#[test]
fn a_token_of_another_key_never_gets_attributed() {
    let forged = Claims { exp: NOW - 1, ..claims() };
    let refused = Authenticator::default().authenticate(&config(&[1]), "finance", &with_token(&forged, 9), NOW);
    assert_eq!(refused.unwrap_err().claims, None);
}

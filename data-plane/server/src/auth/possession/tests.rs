//! What tokens are bound to, and what shows it.

use bailiwick_token::{Confirmation, TokenHash, proof::prove};
use http::HeaderValue;

use super::*;
use crate::{
    auth::{Authenticator, tests as auth},
    fakes::holder::{BINDING, Bound, DpopKey, Says, binding_keys, seal},
};

const NOW: i64 = 1_800_000_000;
const NOW_MS: u64 = 1_800_000_000_000;

fn keys() -> SealingKeys {
    SealingKeys::new(&[v1::SealingKey { id: "k".into(), key: vec![5; 32] }]).unwrap()
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

/// A token, `token`, that is bound so, at the public URL of its resource.
fn authentic(possession: Possession, aud: &str) -> Authentic {
    let claims = Claims { aud: aud.into(), ..auth::claims() };
    Authentic {
        caller: Arc::new(bailiwick_data_plane_core::Caller::from_claims(&claims, "finance").unwrap()),
        person: person_key(&claims.sub),
        claims: Arc::new(claims),
        possession,
        token: TokenHash::of("token"),
    }
}

const URL: &str = "http://gateway.test/mcp/finance";

/// A look at a POST's head.
fn look_at(possession: &Possession, headers: &HeaderMap, certificate: Option<Thumbprint>) -> Result<Pending, Unproven> {
    let sent = SentHead { method: "POST", headers, certificate, own: None };
    look(&authentic(possession.clone(), URL), &sent, &keys(), NOW_MS)
}

fn bound(change: impl FnOnce(&mut Claims)) -> Claims {
    let mut claims = auth::claims();
    seal(BINDING).seal(&mut claims, &BindingKey::new([7; 32]), [3; 32]).unwrap();
    change(&mut claims);
    claims
}

fn refused(claims: &Claims) -> Option<Reason> {
    Possession::of(claims, Some(&seal(BINDING))).err()
}

#[test]
fn a_binding_opens_in_the_token_it_was_made_for_and_in_no_other() {
    assert!(matches!(Possession::of(&auth::claims(), None), Ok(Possession::Nothing)));
    assert!(matches!(Possession::of(&bound(|_| ()), Some(&seal(BINDING))), Ok(Possession::Key(_))));
    let changes: [fn(&mut Claims); 6] = [
        |claims| claims.sub = "eve@example.com".into(),
        |claims| claims.agent_sub = "other".into(),
        |claims| claims.project_id = "other".into(),
        |claims| claims.exp += 1,
        |claims| claims.binding_alg = None,
        |claims| claims.binding_alg = Some("none".into()),
    ];
    for change in changes {
        assert_eq!(refused(&bound(change)), Some(Reason::ProofInvalid), "also if it were signed with our key");
    }
    let both = bound(|claims| claims.cnf = Some(Confirmation::Key(Thumbprint([1; 32]))));
    assert_eq!(refused(&both), Some(Reason::ProofInvalid), "bound in two ways");
    assert_eq!(Possession::of(&bound(|_| ()), Some(&seal(9))).err(), Some(Reason::TokenSignature));
    assert_eq!(Possession::of(&bound(|_| ()), None).err(), Some(Reason::ConfigStale), "before any key has come");
}

#[test]
fn a_token_is_good_in_its_own_scheme_only() {
    let (key, dpop) = (Possession::Key(Arc::new(BindingKey::new([7; 32]))), Possession::Dpop(Thumbprint([1; 32])));
    for (possession, scheme, expected) in [
        (&Possession::Nothing, Scheme::Bearer, None),
        (&Possession::Nothing, Scheme::Dpop, Some(Reason::ProofInvalid)),
        (&key, Scheme::Bearer, None),
        (&key, Scheme::Dpop, Some(Reason::ProofInvalid)),
        (&dpop, Scheme::Dpop, None),
        (&dpop, Scheme::Bearer, Some(Reason::ProofMissing)),
        (&Possession::Certificate(Thumbprint([1; 32])), Scheme::Dpop, Some(Reason::ProofInvalid)),
    ] {
        assert_eq!(possession.fits(scheme).err().map(|why| why.reason), expected, "{possession:?} {scheme:?}");
    }
}

#[test]
fn a_tag_is_refused_by_its_form_and_time_before_a_body_is_read() {
    let key = BindingKey::new([7; 32]);
    let possession = Possession::Key(Arc::new(key.clone()));
    let proof = |unix_ms| {
        let proven = Proven { token: &TokenHash::of("t"), method: "POST", path: "/", body: &[0; 32] };
        prove(&key, &proven, unix_ms, [1; 12]).unwrap().to_string()
    };
    let good = proof(NOW_MS);
    let look = |pairs: &[(&'static str, &str)]| look_at(&possession, &headers(pairs), None).err().map(|why| why.reason);
    assert_eq!(look(&[(PROOF_HEADER, &good)]), None);
    for (pairs, expected) in [
        (vec![], Reason::ProofMissing),
        (vec![(PROOF_HEADER, good.as_str()), (PROOF_HEADER, good.as_str())], Reason::ProofInvalid),
        (vec![(PROOF_HEADER, good.as_str()), ("dpop", "x")], Reason::ProofInvalid),
        (vec![(PROOF_HEADER, "v1.1.2.3")], Reason::ProofInvalid),
        (vec![("dpop", "x")], Reason::ProofMissing),
    ] {
        assert_eq!(look(&pairs), Some(expected), "{pairs:?}");
    }
    for (unix_ms, is_near) in [
        (NOW_MS - PROOF_AGE_MS_MAX, true),
        (NOW_MS - PROOF_AGE_MS_MAX - 1, false),
        (NOW_MS + PROOF_AHEAD_MS_MAX, true),
        (NOW_MS + PROOF_AHEAD_MS_MAX + 1, false),
    ] {
        let refused = look(&[(PROOF_HEADER, &proof(unix_ms))]);
        assert_eq!(refused, (!is_near).then_some(Reason::ProofStale), "{unix_ms}");
    }
}

#[test]
fn a_certificate_is_the_connection_s_or_the_token_is_refused() {
    let possession = Possession::Certificate(Thumbprint([1; 32]));
    for (shown, expected) in [
        (Some(Thumbprint([1; 32])), None),
        (Some(Thumbprint([2; 32])), Some(Reason::ProofInvalid)),
        (None, Some(Reason::ProofMissing)),
    ] {
        let looked = look_at(&possession, &HeaderMap::new(), shown);
        assert_eq!(looked.err().map(|why| why.reason), expected);
    }
}

#[test]
fn a_dpop_proof_needs_a_nonce_of_ours_that_is_young_and_not_from_the_future() {
    let key = DpopKey::new(1);
    let possession = Possession::Dpop(key.thumbprint());
    let nonce = |unix_ms| ProofNonce::seal(&keys(), unix_ms, [2; 24]).unwrap();
    let look = |nonce: Option<&str>| {
        let mut claims = key.claims("token", nonce);
        claims["iat"] = NOW.into();
        let headers = headers(&[("authorization", "DPoP token"), ("dpop", &key.sign(&claims))]);
        look_at(&possession, &headers, None).err()
    };
    assert_eq!(look(Some(&nonce(NOW_MS - 299_000))), None);
    for bad in [None, Some("x".to_owned()), Some(nonce(NOW_MS - 300_000)), Some(nonce(NOW_MS + 6_000))] {
        assert_eq!(look(bad.as_deref()), Some(Unproven::nonce()), "{bad:?}");
    }
    let looked = look_at(&possession, &headers(&[("dpop", "no.jwt")]), None);
    assert_eq!(looked.err(), Some(Unproven::of_dpop(Reason::ProofInvalid, DpopFault::Proof)));
}

#[test]
fn all_of_a_dpop_proof_but_what_it_says_of_the_body_is_looked_at_before_that_is_there() {
    let (key, thief) = (DpopKey::new(1), DpopKey::new(2));
    let authentic = authentic(Possession::Dpop(key.thumbprint()), URL);
    let nonce = ProofNonce::seal(&keys(), NOW_MS, [2; 24]).unwrap();
    let digest = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";
    let look = |signer: &DpopKey, name: &str, value: serde_json::Value| {
        let mut claims = key.claims("token", Some(&nonce));
        claims["iat"] = NOW.into();
        claims[name] = value;
        let headers = headers(&[("authorization", "DPoP token"), ("dpop", &signer.sign(&claims))]);
        let sent = SentHead { method: "POST", headers: &headers, certificate: None, own: None };
        super::look(&authentic, &sent, &keys(), NOW_MS)
    };
    let is_of = |pending: Pending, body| Sent { method: "POST", body }.is_of(&pending, &authentic);
    let plain = look(&key, "x", 1.into()).unwrap();
    assert!(plain.is_proven() && is_of(plain, b"anything"), "its sender is known before the body is there");
    for (name, value, reason) in [
        ("htm", "GET".into(), Reason::ProofInvalid),
        ("htu", "http://gateway.test/mcp/hr".into(), Reason::ProofInvalid),
        ("htu", "http://gateway.test/mcp/finance/".into(), Reason::ProofInvalid),
        ("ath", "x".into(), Reason::ProofInvalid),
        ("iat", (NOW - 301).into(), Reason::ProofStale),
        ("content_digest", "sha-256=:x:".into(), Reason::ProofInvalid),
    ] {
        assert_eq!(look(&key, name, value).err(), Some(Unproven::of_dpop(reason, DpopFault::Proof)), "{name}");
    }
    assert_eq!(look(&thief, "x", 1.into()).err().map(|why| why.reason), Some(Reason::ProofInvalid));
    assert!(is_of(look(&key, "content_digest", digest.into()).unwrap(), b""));
    assert!(!is_of(look(&key, "content_digest", digest.into()).unwrap(), b"{}"), "which is another body");
    let tag = Possession::Key(Arc::new(BindingKey::new([7; 32])));
    let proof = format!("v1.{NOW_MS}.{}.{}", "A".repeat(16), "A".repeat(22));
    let pending = look_at(&tag, &headers(&[(PROOF_HEADER, &proof)]), None).unwrap();
    assert!(!pending.is_proven(), "whoever has the token can write such a header");
}

#[test]
fn a_proof_for_a_place_of_somebody_else_never_counts_here() {
    let key = DpopKey::new(1);
    let nonce = ProofNonce::seal(&keys(), NOW_MS, [2; 24]).unwrap();
    let check = |audience: &str, htu: &str, own: Option<&str>| {
        let mut claims = key.claims("token", Some(&nonce));
        (claims["htu"], claims["iat"]) = (htu.into(), NOW.into());
        let headers = headers(&[("authorization", "DPoP token"), ("dpop", &key.sign(&claims))]);
        let own = own.map(|own| own.parse().unwrap());
        let sent = SentHead { method: "POST", headers: &headers, certificate: None, own };
        look(&authentic(Possession::Dpop(key.thumbprint()), audience), &sent, &keys(), NOW_MS).is_ok()
    };
    let public = "https://gateway.example/mcp/finance";
    let own = Some("127.0.0.1:8420");
    for htu in [public, "https://gateway.example:443/mcp/finance?x", "HTTPS://Gateway.Example/mcp/%66inance#y"] {
        assert!(check(public, htu, None) && check(public, htu, own), "{htu}");
    }
    assert!(check(public, "http://127.0.0.1:8420/mcp/finance", own), "asked by its own address");
    assert!(check(public, "http://[::1]:8420/mcp/finance", Some("[::1]:8420")));
    for htu in [
        "https://evil.example/mcp/finance",
        "http://gateway.example/mcp/finance",
        "https://gateway.example:8420/mcp/finance",
        "https://gateway.example/mcp/hr",
        "https://gateway.example/mcp/finance/",
        "http://127.0.0.1/mcp/finance",
        "http://127.0.0.1:1/mcp/finance",
        "http://127.0.0.1:8421/mcp/finance",
        "http://127.0.0.2:8420/mcp/finance",
        "http://localhost:8420/mcp/finance",
        "http://[::1]:8420/mcp/finance",
        "http://127.0.0.1:8420/mcp/hr",
    ] {
        assert!(!check(public, htu, own) && !check(public, htu, None), "{htu}");
    }
    assert!(!check(public, "http://127.0.0.1:8420/mcp/finance", None), "not where others could have been asked");
    let reached = Some("192.0.2.1:8420");
    assert!(!check(public, "http://192.0.2.1:8420/mcp/finance", reached), "nor at an address that others may have");
    let local = "http://localhost:8420/mcp/finance";
    assert!(check(local, local, own), "where the public URL says so, that counts");
}

#[test]
fn whose_a_proof_is_says_the_person_and_which_the_key() {
    let id = |user: &str, key: u8, which: &[u8]| id_of(&person_key(user), &[&[key; 32], which]);
    let (jane, joe) = ("jane@example.com", "joe@example.com");
    assert_eq!(id(jane, 1, b"n"), id(jane, 1, b"n"));
    for other in [id(joe, 1, b"n"), id(jane, 2, b"n"), id(jane, 1, b"m")] {
        assert_ne!(id(jane, 1, b"n"), other);
    }
    assert_eq!(id(jane, 1, b"n")[..PERSON_BYTES], id(jane, 2, b"m")[..PERSON_BYTES], "many tokens, one person");
    assert_ne!(person_key(jane), person_key(joe));
}

#[test]
fn rotated_keys_open_what_they_sealed_and_withdrawn_ones_end_tokens_at_once() {
    let held = Arc::new(BindingKeys::default());
    let authenticator = Authenticator::new(Arc::clone(&held));
    let config = auth::config(&[1]);
    let claims = bound(|_| ());
    let good = auth::with_token(&claims, 1);
    let reason = || authenticator.authenticate(&config, "finance", &good, NOW).err().map(|refused| refused.reason);
    assert_eq!(reason(), Some(Reason::ConfigStale), "its key may be on its way");
    held.replace(&binding_keys(BINDING));
    for _ in 0..2 {
        assert_eq!(reason(), None);
    }
    let both = [binding_keys(9), binding_keys(BINDING)].concat();
    held.replace(&both);
    assert_eq!(reason(), None, "a newer one came");
    held.replace(&[v1::SealingKey { id: "b".into(), key: vec![1] }]);
    assert_eq!(reason(), None, "what is no key changes nothing");
    held.replace(&binding_keys(9));
    assert_eq!(reason(), Some(Reason::TokenSignature), "the one that it was sealed under is gone");
    let mut newer = auth::claims();
    newer.min_revision = Some(config.revision + 1);
    seal(BINDING).seal(&mut newer, &BindingKey::new([7; 32]), [3; 32]).unwrap();
    let newer = auth::with_token(&newer, 1);
    let refused = authenticator.authenticate(&config, "finance", &newer, NOW).unwrap_err();
    assert_eq!(refused.reason, Reason::ConfigStale, "its key may come with the revision that it names");
}

#[test]
fn the_path_of_a_resource_is_that_of_its_public_url() {
    for (url, path) in [
        ("https://gw.example/mcp/finance", "/mcp/finance"),
        ("http://127.0.0.1:8420/a/mcp/finance", "/a/mcp/finance"),
        ("https://gw.example", ""),
    ] {
        assert_eq!(path_of(url), path);
    }
    let bound = Bound::new();
    let says = Says::post(b"{}");
    assert_ne!(bound.proof(says), bound.proof(says), "each has a nonce of its own");
}

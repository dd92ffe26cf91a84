//! What tokens are bound to, and what shows it.

use bailiwick_token::{Confirmation, proof::prove};
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
    let look = |pairs: &[(&'static str, &str)]| {
        look(&possession, &headers(pairs), None, &keys(), NOW_MS).err().map(|why| why.reason)
    };
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
        let looked = look(&possession, &HeaderMap::new(), shown, &keys(), NOW_MS);
        assert_eq!(looked.err().map(|why| why.reason), expected);
    }
}

#[test]
fn a_dpop_proof_needs_a_nonce_of_ours_that_is_young_and_not_from_the_future() {
    let key = DpopKey::new(1);
    let possession = Possession::Dpop(key.thumbprint());
    let nonce = |unix_ms| ProofNonce::seal(&keys(), unix_ms, [2; 24]).unwrap();
    let look = |nonce: Option<&str>| {
        let proof = key.sign(&key.claims("t", nonce));
        look(&possession, &headers(&[("dpop", &proof)]), None, &keys(), NOW_MS).err()
    };
    assert_eq!(look(Some(&nonce(NOW_MS - 299_000))), None);
    for bad in [None, Some("x".to_owned()), Some(nonce(NOW_MS - 300_000)), Some(nonce(NOW_MS + 6_000))] {
        assert_eq!(look(bad.as_deref()), Some(Unproven::nonce()), "{bad:?}");
    }
    let looked = super::look(&possession, &headers(&[("dpop", "no.jwt")]), None, &keys(), NOW_MS);
    assert_eq!(looked.err(), Some(Unproven::of_dpop(Reason::ProofInvalid, DpopFault::Proof)));
}

#[test]
fn a_proof_for_a_place_of_somebody_else_never_counts_here() {
    let key = DpopKey::new(1);
    let audience = "https://gateway.example/mcp/finance";
    let claims = Claims { aud: audience.into(), cnf: Some(Confirmation::Key(key.thumbprint())), ..auth::claims() };
    let authentic = Authentic {
        caller: Arc::new(bailiwick_data_plane_core::Caller::from_claims(&claims, "finance").unwrap()),
        claims: Arc::new(claims),
        possession: Possession::Dpop(key.thumbprint()),
        token: TokenHash::of("token"),
    };
    let check = |htu: &str, local_host: Option<&str>| {
        let mut claims = key.claims("token", None);
        (claims["htu"], claims["iat"]) = (htu.into(), NOW.into());
        let headers = headers(&[("authorization", "DPoP token"), ("dpop", &key.sign(&claims))]);
        let sent = Sent { method: "POST", headers: &headers, body: b"", local_host };
        sent.dpop_proof(key.thumbprint(), &authentic, NOW_MS).is_ok()
    };
    assert!(check(audience, None) && check("https://gateway.example:443/mcp/finance?x", None));
    assert!(check("http://127.0.0.1:8420/mcp/finance", Some("127.0.0.1:8420")), "asked by its own address");
    for htu in ["https://evil.example/mcp/finance", "https://gateway.example/mcp/hr", "http://127.0.0.1:1/mcp/finance"]
    {
        assert!(!check(htu, Some("127.0.0.1:8420")) && !check(htu, None), "{htu}");
    }
    assert!(!check("http://127.0.0.1:8420/mcp/finance", None), "not where others could have been asked");
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

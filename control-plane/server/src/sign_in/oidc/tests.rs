//! Tickets of other browsers and providers, and ID tokens as no honest provider gives them.

use std::collections::BTreeMap;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use bailiwick_control_plane_core::resource::ProviderAuth;
use bailiwick_token::assertion::{AssertionAlgorithm, AssertionKeys};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::{person::Expected, *};
use crate::seal::Seal;

const ISSUER: &str = "https://login.acme.example";
const CLIENT: &str = "gateway";
const NOW: i64 = 1_800_000_000;

fn sign_in() -> SignInSpec {
    SignInSpec {
        title: None,
        client_id: CLIENT.to_owned(),
        auth: ProviderAuth::None,
        secret: None,
        scopes: ["openid", "email"].map(str::to_owned).into(),
        authorization_url: None,
        token_url: None,
    }
}

fn fresh() -> Fresh {
    Ticket::fresh("acme", "/consents?x=1").unwrap()
}

#[test]
fn the_way_to_the_provider_says_what_it_must_and_keeps_what_proves_something() {
    let Fresh { ticket, browser } = fresh();
    let redirect = redirect_uri("https://gw.example", "acme");
    for (at, begins) in
        [("https://p.example/auth", "https://p.example/auth?"), ("https://p.example/a?p=1", "https://p.example/a?p=1&")]
    {
        let url = ticket.authorization_url(at, &sign_in(), &redirect, "sealed");
        let query = url.strip_prefix(begins).unwrap_or_else(|| panic!("{url}"));
        let said: BTreeMap<_, _> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        assert_eq!(said.len(), 9, "{query}");
        for (name, value) in [
            ("response_type", "code"),
            ("response_mode", "query"),
            ("client_id", CLIENT),
            ("redirect_uri", "https://gw.example/sign-in/callback/acme"),
            ("scope", "email openid"),
            ("state", "sealed"),
            ("nonce", &ticket.nonce),
            ("code_challenge_method", "S256"),
        ] {
            assert_eq!(said[name], value, "{name}");
        }
        let challenge = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, ticket.verifier.as_bytes());
        assert_eq!(said["code_challenge"], URL_SAFE_NO_PAD.encode(challenge));
        assert!(!url.contains(&ticket.verifier) && !url.contains(&browser));
    }
}

#[test]
fn a_ticket_is_good_in_its_browser_at_its_provider_in_its_time_and_as_it_is() {
    let (seal, Fresh { ticket, browser }) = (Seal::new(&[&[7; 32]]).unwrap(), fresh());
    let until = NOW + TICKET_SECONDS;
    let state = seal.close(Purpose::SignIn, &ticket, until).unwrap();
    for told in [&ticket.nonce, &ticket.verifier, &browser] {
        assert!(!state.contains(told.as_str()));
    }
    let open = |state: &str, now| seal.open::<Ticket>(Purpose::SignIn, state, now);
    let opened = open(&state, until - 1).unwrap();
    assert_eq!((opened.to.as_str(), &opened.nonce), ("/consents?x=1", &ticket.nonce));
    assert!(open(&state, until).is_none(), "too late");
    assert!(open(&format!("A{state}"), NOW).is_none());
    let elsewhere = seal.close(Purpose::Request, &ticket, until).unwrap();
    assert!(open(&elsewhere, NOW).is_none(), "sealed for something else");
    assert!(opened.check("acme", Some(&browser)).is_ok());
    let another = fresh();
    assert!(matches!(opened.check("acme", Some(&another.browser)), Err(Fault::OtherBrowser)));
    assert!(matches!(opened.check("acme", Some("")), Err(Fault::OtherBrowser)));
    assert!(matches!(opened.check("acme", None), Err(Fault::OtherBrowser)));
    assert!(matches!(opened.check("other", Some(&browser)), Err(Fault::MixedUp)));
    assert!(matches!(another.ticket.check("acme", Some(&browser)), Err(Fault::OtherBrowser)), "another tab's cookie");
}

/// A provider's key, and tokens signed with it.
struct Signer(Ed25519KeyPair);

impl Signer {
    fn new() -> Self {
        Self(Ed25519KeyPair::generate().unwrap())
    }

    fn keys(&self) -> AssertionKeys {
        let x = URL_SAFE_NO_PAD.encode(self.0.public_key());
        let key = json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": "k-1", "x": x});
        let jwks = json!({"keys": [key]}).to_string();
        AssertionKeys::from_jwks(jwks.as_bytes(), &[AssertionAlgorithm::EdDsa]).unwrap()
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = URL_SAFE_NO_PAD.encode(self.0.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }
}

fn header() -> Value {
    json!({"alg": "EdDSA", "kid": "k-1", "typ": "JWT"})
}

/// The usual claims, with some replaced; `null` leaves one out.
fn claims(other: Value) -> Value {
    let mut claims = json!({
        "iss": ISSUER, "sub": "u1", "aud": CLIENT, "iat": NOW - 1, "exp": NOW + 300, "nonce": "n-1",
    });
    for (name, value) in other.as_object().unwrap().clone() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(&name);
        } else {
            claims[name] = value;
        }
    }
    claims
}

#[test]
fn an_id_token_is_for_us_about_this_sign_in_or_it_is_nothing() {
    let (signer, stranger) = (Signer::new(), Signer::new());
    let keys = signer.keys();
    let check = |jwt: &str| {
        let expected = Expected { issuer: ISSUER, client_id: CLIENT, nonce: "n-1" };
        expected.check(jwt, &keys, NOW).map(|assertion| assertion.sub).map_err(|fault| fault.to_string())
    };
    let signed = |other: Value| check(&signer.sign(&header(), &claims(other)));
    for good in [json!({}), json!({"aud": [CLIENT]}), json!({"azp": CLIENT}), json!({"exp": NOW + 80_000})] {
        assert_eq!(signed(good.clone()), Ok("u1".to_owned()), "{good}");
    }
    for (bad, why) in [
        (json!({"nonce": "n-2"}), "another nonce"),
        (json!({"nonce": ""}), "another nonce"),
        (json!({"nonce": null}), "lacks the claim nonce"),
        (json!({"nonce": ["n-1"]}), "claim nonce is not of the form"),
        (json!({"aud": "another-client"}), "another audience"),
        (json!({"aud": [CLIENT, "another-client"]}), "another audience"),
        (json!({"aud": [CLIENT, "another-client"], "azp": CLIENT}), "another audience"),
        (json!({"azp": "another-client"}), "another party"),
        (json!({"iss": "https://evil.example"}), "another issuer"),
        (json!({"iss": format!("{ISSUER}/")}), "another issuer"),
        (json!({"exp": NOW}), "expired"),
        (json!({"exp": null}), "lacks the claim exp"),
        (json!({"iat": null}), "lacks the claim iat"),
        (json!({"iat": NOW + 31}), "not valid yet"),
        (json!({"exp": NOW + 200_000}), "lifetime"),
        (json!({"sub": null}), "lacks the claim sub"),
    ] {
        let said = signed(bad.clone()).unwrap_err();
        assert!(said.contains(why), "{bad}: {said}");
    }
    let honest = claims(json!({}));
    let with_header = |other: Value| check(&signer.sign(&other, &honest)).unwrap_err();
    assert!(with_header(json!({"alg": "none"})).contains("algorithm"));
    assert!(with_header(json!({"alg": "HS256", "kid": "k-1"})).contains("algorithm"));
    assert!(with_header(json!({"alg": "EdDSA", "kid": "k-1", "typ": "oauth-id-jag+jwt"})).contains("another type"));
    assert!(with_header(json!({"alg": "EdDSA", "kid": "k-1", "jku": "https://evil.example"})).contains("header"));
    assert!(with_header(json!({"alg": "EdDSA", "kid": "k-2"})).contains("unknown key"));
    assert!(check(&stranger.sign(&header(), &honest)).unwrap_err().contains("signature"));
    let whole = signer.sign(&header(), &honest);
    let unsigned = whole.rsplit_once('.').unwrap().0;
    assert!(check(&format!("{unsigned}.")).is_err() && check(unsigned).is_err() && check("").is_err());
}

//! What the browser brings back, and what the provider gives for it: a code, and an ID token.
//!
//! Called by `oidc`. Invariants: an answer is looked at only once it is known to be the provider's; of several ways to
//! prove who we are one is used, the manifest's; access and refresh tokens of the provider are not even read.
//! Specifications: RFC 6749 §2.3.1, §4.1.2, §4.1.3, §5.2; RFC 7523 §2.2; RFC 9207 §2.4; OpenID Connect Core 1.0 §3.1.3.

use bailiwick_control_plane_core::resource::ProviderAuth;
use bailiwick_proto::mcp::check_json;
use bailiwick_token::client_assertion;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::StatusCode;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{Known, fault::Fault, ticket::Ticket};
use crate::{
    clock,
    oauth::{Services, form::Form},
    outbound,
    providers::Endpoints,
};

/// Longest code: some providers' are signed JWTs.
const CODE_BYTES_MAX: usize = 8 * 1024;
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// Words of RFC 6749 §4.1.2.1 and §5.2, and of OpenID Connect Core §3.1.2.6: others are not repeated.
const WORDS: [&str; 14] = [
    "access_denied",
    "account_selection_required",
    "consent_required",
    "interaction_required",
    "invalid_client",
    "invalid_grant",
    "invalid_request",
    "invalid_scope",
    "login_required",
    "server_error",
    "temporarily_unavailable",
    "unauthorized_client",
    "unsupported_grant_type",
    "unsupported_response_type",
];

/// A code that the provider sent along.
pub(super) struct Code(String);

impl Code {
    /// From the answer of the provider that signs as `issuer`; `names_itself`: all its answers say so.
    pub(super) fn read(form: &Form, issuer: &str, names_itself: bool) -> Result<Self, Fault> {
        let one = |name: &'static str| form.one(name).map_err(|_| Fault::NotOurs);
        match one("iss")? {
            Some(iss) if iss != issuer => return Err(Fault::MixedUp),
            None if names_itself => return Err(Fault::MixedUp),
            Some(_) | None => {}
        }
        match (one("error")?, one("code")?) {
            (Some(error), _) => Err(Fault::Declined(word(error))),
            (None, Some(code)) if code.len() <= CODE_BYTES_MAX => Ok(Self(code.to_owned())),
            (None, Some(_) | None) => Err(Fault::NotOurs),
        }
    }
}

/// What is read of the answer.
#[derive(Deserialize)]
struct Tokens {
    id_token: String,
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
}

/// Exchanges a code for an ID token, unverified as yet.
pub(super) async fn id_token(
    services: &Services,
    known: &Known,
    endpoints: &Endpoints,
    code: &Code,
    ticket: &Ticket,
) -> Result<Zeroizing<String>, Fault> {
    let redirect_uri = known.redirect_uri();
    let usual = [
        ("grant_type", "authorization_code"),
        ("code", code.0.as_str()),
        ("redirect_uri", &redirect_uri),
        ("code_verifier", &ticket.verifier),
    ];
    let proof = Proof::new(services, known, endpoints)?;
    let members: Vec<_> = usual.into_iter().chain(proof.members(&known.sign_in.client_id)).collect();
    let form = outbound::Form::new(&members, proof.header().map(|text| text.as_str())).ok_or(Fault::NoSecret)?;
    let answer = services.providers.send(&known.spec, &endpoints.token_url, &form).await.map_err(Fault::Provider)?;
    read(answer.status, &answer.body)
}

fn read(status: StatusCode, body: &[u8]) -> Result<Zeroizing<String>, Fault> {
    const UNREADABLE: &str = "its answer cannot be read";
    let json = check_json(body).map_err(|_| Fault::Exchange(UNREADABLE))?;
    if status != StatusCode::OK {
        let refusal = serde_json::from_str::<Refusal>(json);
        return Err(Fault::Exchange(refusal.map_or(UNREADABLE, |refusal| word(&refusal.error))));
    }
    let tokens: Tokens = serde_json::from_str(json).map_err(|_| Fault::Exchange("its answer has no ID token"))?;
    Ok(Zeroizing::new(tokens.id_token))
}

/// How we prove at the provider who we are.
enum Proof {
    None,
    /// HTTP's own way.
    Header(Zeroizing<String>),
    /// The secret in the form.
    Form(Zeroizing<String>),
    Signed(Zeroizing<String>),
}

impl Proof {
    fn new(services: &Services, known: &Known, endpoints: &Endpoints) -> Result<Self, Fault> {
        let client_id = &known.sign_in.client_id;
        match known.sign_in.auth {
            ProviderAuth::None => Ok(Self::None),
            ProviderAuth::ClientSecret => {
                let name = known.spec.secret().ok_or(Fault::NoSecret)?;
                let secret = services.keys.for_provider(name).ok_or(Fault::NoSecret)?;
                let secret = std::str::from_utf8(&secret).map_err(|_| Fault::NoSecret)?;
                Ok(if endpoints.secret_in_form {
                    Self::Form(Zeroizing::new(secret.to_owned()))
                } else {
                    Self::Header(basic(client_id, secret))
                })
            }
            ProviderAuth::PrivateKeyJwt => {
                let key = services.domain.read(|state| services.keys.signing(state)).ok_or(Fault::NotNow)?;
                let jti = clock::random_id("").map_err(|_| Fault::NotNow)?;
                let signed = client_assertion(client_id, &known.spec.issuer, &jti, clock::now_seconds(), &key);
                let signed = signed.map_err(|_| Fault::NotNow)?;
                Ok(Self::Signed(Zeroizing::new(signed.expose().to_owned())))
            }
        }
    }

    fn header(&self) -> Option<&Zeroizing<String>> {
        match self {
            Self::Header(header) => Some(header),
            Self::None | Self::Form(_) | Self::Signed(_) => None,
        }
    }

    fn members<'a>(&'a self, client_id: &'a str) -> Vec<(&'static str, &'a str)> {
        let named = ("client_id", client_id);
        match self {
            Self::Header(_) => vec![],
            Self::None => vec![named],
            Self::Form(secret) => vec![named, ("client_secret", secret)],
            Self::Signed(jwt) => {
                vec![named, ("client_assertion_type", ASSERTION_TYPE), ("client_assertion", jwt)]
            }
        }
    }
}

/// Each part escaped as in a form (RFC 6749 §2.3.1).
fn basic(client_id: &str, secret: &str) -> Zeroizing<String> {
    let escaped = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let pair = Zeroizing::new(format!("{}:{}", escaped(client_id), escaped(secret)));
    Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())))
}

/// A provider's error, if it is a known one.
fn word(error: &str) -> &'static str {
    WORDS.into_iter().find(|word| *word == error).unwrap_or("with an error of its own")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUER: &str = "https://login.acme.example";

    fn read_code(query: &str, names_itself: bool) -> String {
        match Code::read(&Form::of_query(query).unwrap(), ISSUER, names_itself) {
            Ok(Code(code)) => format!("code {code}"),
            Err(fault) => fault.to_string(),
        }
    }

    #[test]
    fn an_answer_counts_only_if_it_is_the_provider_s_and_then_it_is_a_code_or_an_error() {
        let here = "iss=https%3A%2F%2Flogin.acme.example";
        let long = format!("code={}", "x".repeat(CODE_BYTES_MAX + 1));
        let mixed_up = "the answer is of another provider than was asked";
        let not_ours = "the request is not one that a page of ours or a provider makes";
        for (query, names_itself, said) in [
            ("code=c-1", false, "code c-1"),
            (&format!("code=c-1&{here}"), true, "code c-1"),
            (&format!("code=c-1&{here}"), false, "code c-1"),
            ("code=c-1", true, mixed_up),
            ("code=c-1&iss=https%3A%2F%2Fevil.example", false, mixed_up),
            ("code=c-1&iss=https%3A%2F%2Flogin.acme.example%2F", false, mixed_up),
            ("error=access_denied&iss=https%3A%2F%2Fevil.example", true, mixed_up),
            ("error=access_denied", false, "the provider declined: access_denied"),
            ("error=access_denied&code=c-1", false, "the provider declined: access_denied"),
            ("error=%3Cscript%3E&error_description=hush", false, "the provider declined: with an error of its own"),
            ("", false, not_ours),
            ("code=", false, not_ours),
            ("code=a&code=b", false, not_ours),
            (&format!("code=a&{here}&{here}"), false, not_ours),
            (&long, false, not_ours),
        ] {
            assert_eq!(read_code(query, names_itself), said, "{query:.80}");
        }
    }

    #[test]
    fn of_the_answer_to_a_code_the_id_token_is_read_and_an_error_only_if_it_is_known() {
        let said = |status: StatusCode, body: &str| match read(status, body.as_bytes()) {
            Ok(token) => token.to_string(),
            Err(fault) => fault.to_string(),
        };
        let refused = |why: &str| format!("the provider does not take the code: {why}");
        let (ok, bad) = (StatusCode::OK, StatusCode::BAD_REQUEST);
        assert_eq!(said(ok, r#"{"id_token":"a.b.c","access_token":"hush","expires_in":5}"#), "a.b.c");
        assert_eq!(said(ok, r#"{"access_token":"hush"}"#), refused("its answer has no ID token"));
        assert_eq!(said(ok, r#"{"id_token":"a","id_token":"b"}"#), refused("its answer cannot be read"));
        assert_eq!(said(ok, "<html>"), refused("its answer cannot be read"));
        let error = r#"{"error":"invalid_grant","error_description":"hush"}"#;
        assert_eq!(said(bad, error), refused("invalid_grant"));
        assert_eq!(said(bad, r#"{"error":"hush"}"#), refused("with an error of its own"));
        assert_eq!(said(StatusCode::FOUND, r#"{"id_token":"a.b.c"}"#), refused("its answer cannot be read"));
    }

    #[test]
    fn a_secret_goes_where_the_provider_takes_it_and_nowhere_else() {
        let header = basic("a b", "p:s%");
        assert_eq!(header.as_str(), format!("Basic {}", STANDARD.encode("a+b:p%3As%25")));
        assert_eq!(Proof::Header(header).members("c"), []);
        let in_form = Proof::Form(Zeroizing::new("hush".to_owned()));
        assert_eq!(in_form.members("c"), [("client_id", "c"), ("client_secret", "hush")]);
        assert!(in_form.header().is_none());
        assert_eq!(Proof::None.members("c"), [("client_id", "c")]);
    }
}

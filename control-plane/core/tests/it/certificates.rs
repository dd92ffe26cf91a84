//! Clients that prove who they are by a certificate (RFC 8705 §2): what their manifests may say, and that they get
//! tokens of their own.

use bailiwick_control_plane_core::{
    Answer, Command, Context, Decision, Fulfilled, Rejection, Wish,
    headless::UseCredentials,
    resource::client_auth::{CertificateName, CertificateSpec, ClientAuth, DistinguishedName, certificates_in},
};

use crate::world::{World, document, lines};

const HASH: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
const HEADLESS: &str = ", headless: {virtual_servers: [finance]}";

fn client(spec: &str) -> String {
    document("Client", "nightly", &format!("{{agent: coding-assistant, {spec}}}").replace("HASH", HASH))
}

fn credentials(world: &mut World) -> Result<Decision, Rejection> {
    let wish =
        UseCredentials { client: "nightly".into(), uses: Vec::new(), virtual_server: "finance".into(), wanted: None };
    let context = Context { request_id: String::new(), actor: "client:nightly".into(), ..world.context() };
    world.run_as(Command::Wish(Wish::UseCredentials(wish)), &context)
}

#[test]
fn a_manifest_says_which_certificate_is_the_clients() {
    let good = [
        "auth: tls_client_auth, certificate: {subject_dn: 'CN=reports,O=Acme'}",
        "auth: tls_client_auth, certificate: {san_dns: reports.acme.example}, binding: certificate",
        "auth: tls_client_auth, certificate: {san_uri: 'spiffe://acme.example/reports'}",
        "auth: tls_client_auth, certificate: {san_ip: '2001:db8::1'}",
        "auth: tls_client_auth, certificate: {san_email: reports@acme.example}, exchange: {agents: [other]}",
        "auth: self_signed_tls_client_auth, certificate: {sha256: [HASH]}",
        "auth: self_signed_tls_client_auth, jwks: '{\"keys\":[{\"kty\":\"EC\",\"x5c\":[\"MIIB\"]}]}'",
    ];
    for spec in good {
        let mut world = World::example();
        let other = document("Agent", "other", "{owner: jane@example.com, project: platform, ceiling: retrieval}");
        world.apply(&(other + &client(&format!("{spec}{HEADLESS}")))).unwrap();
        let known = &world.state.clients.get("nightly").unwrap().spec;
        assert!(known.auth.is_by_certificate(), "{spec}");
        let event = serde_json::to_string(known).unwrap();
        assert_eq!(&serde_json::from_str::<bailiwick_control_plane_core::resource::ClientSpec>(&event).unwrap(), known);
    }
}

#[test]
fn what_names_no_certificate_or_several_ways_to_tell_one_is_refused() {
    let (key, own) = ("spec.certificate", "auth: self_signed_tls_client_auth");
    let named = |text: &str| format!("auth: tls_client_auth, certificate: {text}");
    let listed = |text: &str| format!("{own}, certificate: {text}");
    let many: Vec<_> = (0..17).map(|number| format!("\"{number:064x}\"")).collect();
    let cases = [
        ("auth: tls_client_auth".to_owned(), key),
        (named("{}"), key),
        (named("{san_dns: a.example, san_ip: 10.0.0.1}"), key),
        (named("{sha256: [HASH]}"), "spec.certificate.sha256"),
        (named("{subject_dn: reports}"), "spec.certificate.subject_dn"),
        (named("{subject_dn: ''}"), "spec.certificate.subject_dn"),
        (named("{san_dns: '*.acme.example'}"), "spec.certificate.san_dns"),
        (named("{san_dns: ''}"), "spec.certificate.san_dns"),
        (named("{san_uri: reports}"), "spec.certificate.san_uri"),
        (named("{san_ip: 10.0.0.0/8}"), "spec.certificate.san_ip"),
        (named("{san_email: acme.example}"), "spec.certificate.san_email"),
        (named("{san_dns: a.example}, jwks: '{\"keys\":[{}]}'"), "spec.jwks"),
        (named("{san_dns: a.example}, secret_sha256: HASH"), "spec.secret_sha256"),
        (own.to_owned(), key),
        (listed("{}"), "spec.certificate.sha256"),
        (listed("{sha256: [hunter2]}"), "spec.certificate.sha256"),
        (listed(&format!("{{sha256: [{}]}}", many.join(", "))), "spec.certificate.sha256"),
        (listed("{sha256: [HASH], san_dns: a.example}"), "spec.certificate.san_dns"),
        (listed("{sha256: [HASH]}, jwks: '{\"keys\":[{\"x5c\":[\"MIIB\"]}]}'"), key),
        (format!("{own}, jwks: '{{\"keys\":[{{\"kty\":\"EC\"}}]}}'"), "spec.jwks"),
        (format!("{own}, jwks: '{{\"keys\":[{{\"x5c\":[]}}]}}'"), "spec.jwks"),
        ("auth: client_secret, secret_sha256: HASH, certificate: {sha256: [HASH]}".to_owned(), key),
        ("auth: none, redirect_uris: ['https://x.example/'], certificate: {san_dns: a.example}".to_owned(), key),
        ("auth: tls_client_auth, certificate: {san_dns: a.example}, self_registered: true".to_owned(), "spec.auth"),
    ];
    for (spec, key) in cases {
        let mut world = World::example();
        let problems = match world.apply(&client(&spec)) {
            Err(Rejection::Invalid(problems)) => problems,
            other => panic!("{spec}: {other:?}"),
        };
        assert!(problems.iter().any(|problem| problem.key == key), "{spec}: {:?}", lines(&problems));
    }
}

#[test]
fn a_spec_has_one_name_or_none() {
    let name = |json: &str| serde_json::from_str::<CertificateSpec>(json).unwrap();
    let subject = name(r#"{"subject_dn": "CN=a,O=b"}"#);
    let expected = CertificateName::Subject(DistinguishedName::parse("CN=a,O=b").unwrap());
    assert_eq!(subject.name(), Some(expected));
    assert_eq!(name(r#"{"san_ip": "::1"}"#).name(), Some(CertificateName::Ip("::1".parse().unwrap())));
    // An event of a laxer version must not become a certificate of everybody.
    for nobody in [r#"{}"#, r#"{"san_dns": ""}"#, r#"{"san_dns": "a", "san_uri": "b:c"}"#, r#"{"san_dns": "*.a"}"#] {
        assert_eq!(name(nobody).name(), None, "{nobody}");
    }
    assert_eq!(certificates_in(r#"{"keys":[{"x5c":["A","B"]},{"x5c":["C"]}]}"#), Some(vec!["A".into(), "C".into()]));
    for none in [r#"{"keys":[]}"#, r#"{"keys":[{"x5c":["A"]},{}]}"#, r#"{"keys":[{"x5c":"A"}]}"#, "{"] {
        assert_eq!(certificates_in(none), None, "{none}");
    }
}

#[test]
fn a_headless_client_uses_nothing_up_by_its_certificate_and_others_must() {
    let mut world = World::example();
    let by = |world: &mut World, auth: &str| world.apply(&client(&format!("{auth}{HEADLESS}"))).unwrap();
    by(&mut world, "auth: self_signed_tls_client_auth, certificate: {sha256: [HASH]}");
    for _ in 0..2 {
        let given = credentials(&mut world).unwrap();
        assert!(matches!(given.answer, Answer::Fulfilled(Fulfilled::Token(_))), "{:?}", given.answer);
    }
    by(&mut world, "auth: private_key_jwt, jwks: '{\"keys\":[{\"kty\":\"OKP\"}]}'");
    assert!(matches!(credentials(&mut world).unwrap_err(), Rejection::Malformed { .. }));
    assert!(!ClientAuth::PrivateKeyJwt.is_by_certificate());
}

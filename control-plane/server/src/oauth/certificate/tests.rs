//! Which certificates prove who a client is: chains, names, times, lists.

use std::fs;

use rcgen::{
    BasicConstraints, Certificate as Made, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType, date_time_ymd,
};
use serde_json::json;

use super::*;
use crate::http::client_certificate::header;

/// 2027-01-15.
const NOW: Duration = Duration::from_secs(1_800_000_000);

struct Authority {
    certificate: Made,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    }

    fn new(name: &str) -> Self {
        let (params, key) = (Self::params(name), KeyPair::generate().unwrap());
        let certificate = params.self_signed(&key).unwrap();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// One that this one has signed.
    fn below(&self, name: &str) -> Self {
        let (params, key) = (Self::params(name), KeyPair::generate().unwrap());
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    fn signs(&self, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let params = client(change);
        params.signed_by(&KeyPair::generate().unwrap(), &self.issuer).unwrap().der().to_vec()
    }
}

/// What a client's certificate says: O=Acme and CN=reports, with an alternative name of each kind.
fn client(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["reports.acme.example".to_owned(), "10.1.2.3".to_owned()]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Acme");
    params.distinguished_name.push(DnType::CommonName, "reports");
    params.subject_alt_names.push(SanType::URI("spiffe://acme.example/reports".try_into().unwrap()));
    params.subject_alt_names.push(SanType::Rfc822Name("reports@acme.example".try_into().unwrap()));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    change(&mut params);
    params
}

fn alone(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    client(change).self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

/// A node that believes this authority.
fn believing(authority: &Authority) -> ClientCertificates {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    fs::write(&file, authority.certificate.pem()).unwrap();
    let config = ControlPlaneConfig {
        http_client_certificates: true,
        http_client_ca_file: Some(file),
        ..ControlPlaneConfig::default()
    };
    ClientCertificates::of(&config).unwrap()
}

fn spec(value: serde_json::Value) -> ClientSpec {
    let mut whole = json!({"agent": "assistant"});
    whole.as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
    serde_json::from_value(whole).unwrap()
}

fn named(certificate: serde_json::Value) -> ClientSpec {
    spec(json!({"auth": "tls_client_auth", "certificate": certificate}))
}

/// As a proxy would tell it.
fn shown(der: &[u8], chain: &[&[u8]]) -> Certificate {
    let told = |der: &[u8]| format!(":{}:", STANDARD.encode(der)).parse().unwrap();
    let mut headers = axum::http::HeaderMap::new();
    headers.insert("client-cert", told(der));
    for der in chain {
        headers.append("client-cert-chain", told(der));
    }
    header::read(&headers).unwrap()
}

fn name() -> ClientSpec {
    named(json!({"san_dns": "reports.acme.example"}))
}

#[test]
fn a_certificate_of_an_authority_proves_the_name_that_it_has() {
    let acme = Authority::new("Acme CA");
    let (node, der) = (believing(&acme), acme.signs(|_| {}));
    let check = |spec: &ClientSpec| node.check(spec, &shown(&der, &[]), NOW);
    for good in [
        json!({"subject_dn": "CN=reports,O=Acme"}),
        json!({"san_dns": "Reports.acme.example"}),
        json!({"san_uri": "spiffe://acme.example/reports"}),
        json!({"san_ip": "10.1.2.3"}),
        json!({"san_email": "reports@acme.example"}),
    ] {
        assert_eq!(check(&named(good.clone())), Ok(()), "{good}");
    }
    for other in [
        json!({"subject_dn": "CN=reports"}),
        json!({"subject_dn": "O=Acme,CN=reports"}),
        json!({"subject_dn": "CN=Reports,O=Acme"}),
        json!({"san_dns": "acme.example"}),
        json!({"san_dns": "reports"}),
        json!({"san_uri": "spiffe://acme.example/reports/"}),
        json!({"san_ip": "10.1.2.4"}),
        json!({"san_ip": "::ffff:10.1.2.3"}),
        json!({"san_email": "Reports@acme.example"}),
    ] {
        assert_eq!(check(&named(other.clone())), Err(NotIts::Other), "{other}");
    }
    for nobodys in [json!({}), json!({"san_dns": "reports.acme.example", "san_ip": "10.1.2.3"})] {
        assert_eq!(check(&named(nobodys)), Err(NotIts::Manifest));
    }
    assert_eq!(check(&spec(json!({"auth": "none"}))), Err(NotIts::Manifest));
}

#[test]
fn a_pattern_in_a_certificate_is_no_name_of_anybody() {
    let acme = Authority::new("Acme CA");
    let der =
        acme.signs(|params| params.subject_alt_names = vec![SanType::DnsName("*.acme.example".try_into().unwrap())]);
    assert_eq!(believing(&acme).check(&name(), &shown(&der, &[]), NOW), Err(NotIts::Other));
}

#[test]
fn only_a_chain_to_an_authority_that_is_believed_counts_within_its_time_and_for_clients() {
    let acme = Authority::new("Acme CA");
    let (node, middle) = (believing(&acme), acme.below("Acme Clients"));
    let der = middle.signs(|_| {});
    let check = |der: &[u8], chain: &[&[u8]]| node.check(&name(), &shown(der, chain), NOW);
    assert_eq!(check(&der, &[middle.certificate.der()]), Ok(()));
    assert_eq!(check(&der, &[]), Err(NotIts::Untrusted), "there is no way to the authority");
    // Another authority of the same name has signed the same.
    let namesake = Authority::new("Acme CA");
    let forged = namesake.signs(|_| {});
    assert_eq!(check(&forged, &[]), Err(NotIts::Untrusted));
    assert_eq!(check(&forged, &[namesake.certificate.der()]), Err(NotIts::Untrusted), "a chain is no authority");
    assert_eq!(check(&alone(|_| {}), &[]), Err(NotIts::Untrusted));
    let past = |params: &mut CertificateParams| params.not_after = date_time_ymd(2026, 12, 31);
    let future = |params: &mut CertificateParams| params.not_before = date_time_ymd(2027, 2, 1);
    assert_eq!(check(&acme.signs(past), &[]), Err(NotIts::Untrusted));
    assert_eq!(check(&acme.signs(future), &[]), Err(NotIts::Untrusted));
    let of_server = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    };
    assert_eq!(check(&acme.signs(of_server), &[]), Err(NotIts::Untrusted));
    let authority = |params: &mut CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    assert_eq!(check(&acme.signs(authority), &[]), Err(NotIts::Untrusted), "an authority's is no client's");
    // Who was given a certificate here is no authority.
    let (params, key) = (client(|_| {}), KeyPair::generate().unwrap());
    let own = params.signed_by(&key, &acme.issuer).unwrap();
    let child = Authority { certificate: own, issuer: Issuer::new(params, key) };
    assert_eq!(check(&child.signs(|_| {}), &[child.certificate.der()]), Err(NotIts::Untrusted));
    let mut longer = acme.signs(|_| {});
    longer.push(0);
    assert!(check(&longer, &[]).is_err(), "something stands behind it");
    assert_eq!(check(&[0x30, 0x00], &[]), Err(NotIts::Untrusted));
}

#[test]
fn without_authorities_no_name_counts() {
    let acme = Authority::new("Acme CA");
    let node = ClientCertificates { are_told: true, verifier: None, url: None };
    let der = acme.signs(|_| {});
    assert_eq!(node.check(&name(), &shown(&der, &[]), NOW), Err(NotIts::NoAuthorities));
    assert_eq!(node.methods().collect::<Vec<_>>(), ["self_signed_tls_client_auth"]);
    assert_eq!(believing(&acme).methods().count(), 2);
    assert_eq!(ClientCertificates { are_told: false, ..node }.methods().count(), 0);
    let config = ControlPlaneConfig { http_client_ca_file: Some("/nowhere/ca.pem".into()), ..Default::default() };
    assert!(matches!(ClientCertificates::of(&config), Err(ControlPlaneError::ClientAuthorities(_))));
}

#[test]
fn a_certificate_of_the_clients_own_counts_byte_for_byte_and_within_its_time() {
    let acme = Authority::new("Acme CA");
    let node = believing(&acme);
    let (own, namesake) = (alone(|_| {}), alone(|_| {}));
    let listed = |der: &[u8]| {
        let hash = hex::encode(digest(&SHA256, der));
        spec(json!({"auth": "self_signed_tls_client_auth", "certificate": {"sha256": [hash]}}))
    };
    let in_keys = |der: &[u8]| {
        let jwks = json!({"keys": [{"kty": "EC", "x5c": [STANDARD.encode(der)]}]}).to_string();
        spec(json!({"auth": "self_signed_tls_client_auth", "jwks": jwks}))
    };
    for spec in [listed(&own), in_keys(&own)] {
        assert_eq!(node.check(&spec, &shown(&own, &[]), NOW), Ok(()));
        for other in [namesake.clone(), acme.signs(|_| {})] {
            assert_eq!(node.check(&spec, &shown(&other, &[&own]), NOW), Err(NotIts::Other));
        }
    }
    // Whoever signed it.
    let signed = acme.signs(|_| {});
    assert_eq!(node.check(&listed(&signed), &shown(&signed, &[]), NOW), Ok(()));
    let old = alone(|params| params.not_after = date_time_ymd(2026, 12, 31));
    assert_eq!(node.check(&listed(&old), &shown(&old, &[]), NOW), Err(NotIts::Time));
    let early = alone(|params| params.not_before = date_time_ymd(2027, 2, 1));
    assert_eq!(node.check(&listed(&early), &shown(&early, &[]), NOW), Err(NotIts::Time));
    let none = [0x30, 0x00];
    assert_eq!(node.check(&listed(&none), &shown(&none, &[]), NOW), Err(NotIts::Unreadable));
    for empty in [json!({}), json!({"certificate": {}}), json!({"jwks": "{\"keys\":[]}"})] {
        let mut nobodys = empty;
        nobodys["auth"] = json!("self_signed_tls_client_auth");
        assert_eq!(node.check(&spec(nobodys), &shown(&own, &[]), NOW), Err(NotIts::Other));
    }
}

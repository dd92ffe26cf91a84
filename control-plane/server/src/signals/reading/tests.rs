//! Whom a subject names, when something happened, and what is a change for the worse.

use serde_json::json;

use super::*;

fn spec(people: Value) -> IdentityProviderSpec {
    let signals = json!({"issuer": "https://ssf.acme.example", "audience": "a", "push": {"secrets_sha256": []}});
    serde_json::from_value(json!({"issuer": "https://acme.example", "people": people, "signals": signals})).unwrap()
}

fn said(event_type: &str, event: Value, subject: Value) -> SecurityEvent {
    let object = |value: Value| value.as_object().unwrap().clone();
    SecurityEvent {
        iss: "https://ssf.acme.example".into(),
        jti: "j-1".into(),
        iat: 1_000_000,
        toe: None,
        event_type: format!("https://schemas.openid.net/secevent/caep/event-type/{event_type}"),
        event: object(event),
        subject: object(subject),
    }
}

fn read(spec: &IdentityProviderSpec, said: &SecurityEvent) -> TakeSignal {
    wish("acme", spec, spec.signals.as_ref().unwrap(), said, Delivery::Push).unwrap()
}

fn named(people: Value, subject: Value) -> Option<String> {
    read(&spec(people), &said("session-revoked", json!({}), subject)).user
}

#[test]
fn a_subject_names_a_user_only_in_the_way_of_the_manifest() {
    let email = |address: &str| json!({"format": "email", "email": address});
    let sub = |iss: &str, sub: &str| json!({"format": "iss_sub", "iss": iss, "sub": sub});
    let (by_email, by_sub, by_oid) = (json!({"user": "email"}), json!({}), json!({"user": "oid"}));
    let acme = json!({"user": "email", "domains": ["acme.example"]});
    let opaque = json!({"format": "opaque", "id": "u-1"});
    let aliases = |all: &[Value]| json!({"format": "aliases", "identifiers": all});
    let jane = "jane@acme.example";
    for (people, subject, user) in [
        (&by_email, email(jane), Some(jane)),
        (&acme, email(jane), Some(jane)),
        (&acme, email("jane@ACME.example"), Some("jane@ACME.example")),
        (&acme, email("jane@other.example"), None),
        (&acme, email("jane@evil.acme.example"), None),
        (&acme, email("acme.example"), None),
        (&by_email, email("two words@acme.example"), None),
        (&by_email, json!({"format": "email", "email": 7}), None),
        (&by_email, sub("https://acme.example", jane), None),
        (&by_email, opaque.clone(), None),
        (&by_sub, email(jane), None),
        (&by_sub, sub("https://acme.example", "u-1"), Some("u-1")),
        (&by_sub, sub("https://ssf.acme.example", "u-1"), Some("u-1")),
        (&by_sub, sub("https://other.example", "u-1"), None),
        (&by_sub, json!({"format": "iss_sub", "sub": "u-1"}), None),
        (&by_sub, opaque.clone(), Some("u-1")),
        (&by_oid, opaque, Some("u-1")),
        (&by_oid, sub("https://acme.example", "u-1"), None),
        (
            &by_email,
            json!({"format": "complex", "user": email(jane), "device": {"format": "opaque", "id": "d"}}),
            Some(jane),
        ),
        (&by_email, json!({"user": email(jane)}), Some(jane)),
        (&by_email, json!({"format": "complex", "tenant": {"format": "opaque", "id": "t"}}), None),
        (&by_email, json!({"user": {"user": email(jane)}}), None),
        (&by_email, json!({"user": {"format": "complex", "user": email(jane)}}), None),
        (&by_email, aliases(&[sub("https://acme.example", "u-1"), email(jane)]), Some(jane)),
        (&by_email, aliases(&[email(jane), email("john@acme.example")]), None),
        (&by_email, aliases(&[aliases(&[email(jane)])]), None),
        (&by_email, aliases(&[]), None),
        (&by_email, json!({"format": "phone_number", "phone_number": "+1"}), None),
        (&by_email, json!({"format": "account", "uri": "acct:jane@acme.example"}), None),
        (&by_email, json!({"format": 7, "email": jane}), None),
        (&by_email, json!({}), None),
    ] {
        assert_eq!(named(people.clone(), subject.clone()).as_deref(), user, "{people} {subject}");
    }
}

#[test]
fn the_moment_is_the_events_or_else_the_tokens() {
    let at = |event: Value, toe: Option<i64>| {
        let said = SecurityEvent { toe, ..said("session-revoked", event, json!({})) };
        read(&spec(json!({})), &said).happened_at
    };
    for (event, toe, expected) in [
        (json!({"event_timestamp": 900_000}), Some(1), 900_000),
        (json!({"event_timestamp": 900_000.7}), None, 900_000),
        (json!({"event_timestamp": "then"}), Some(950_000), 950_000),
        (json!({"event_timestamp": 1e300}), None, 1_000_000),
        (json!({"event_timestamp": -5}), None, 0),
        (json!({}), Some(950_000), 950_000),
        (json!({}), None, 1_000_000),
    ] {
        assert_eq!(at(event.clone(), toe), expected, "{event}");
    }
    let wish = read(&spec(json!({})), &said("session-revoked", json!({}), json!({})));
    assert_eq!(wish.used.until, 1_000_000 + 7 * 24 * 3_600);
    assert_eq!(wish.used.key, hex::encode(replay_key("https://ssf.acme.example", "", "j-1")));
}

#[test]
fn what_cannot_be_read_is_a_change_for_the_worse() {
    for (kind, event, worse) in [
        ("credential-change", json!({"change_type": "create"}), false),
        ("credential-change", json!({"change_type": "update"}), true),
        ("credential-change", json!({"change_type": "revoke"}), true),
        ("credential-change", json!({"change_type": "delete"}), true),
        ("credential-change", json!({}), true),
        ("device-compliance-change", json!({"current_status": "compliant"}), false),
        ("device-compliance-change", json!({"current_status": "not-compliant"}), true),
        ("device-compliance-change", json!({"current_status": 1}), true),
        ("assurance-level-change", json!({"change_direction": "increase"}), false),
        ("assurance-level-change", json!({"change_direction": "decrease"}), true),
        ("risk-level-change", json!({"current_level": "LOW"}), false),
        ("risk-level-change", json!({"current_level": "HIGH"}), true),
        ("session-revoked", json!({}), true),
    ] {
        let wish = read(&spec(json!({})), &said(kind, event.clone(), json!({})));
        assert_eq!(wish.is_worse, worse, "{kind} {event}");
    }
}

#[test]
fn changed_claims_are_groups_or_are_named() {
    let people = json!({"groups": {"claim": "groups", "map": {"id-1": "finance"}}, "require": {"hd": "acme.example"}});
    for (claims, groups, others, worse) in [
        (json!({"groups": ["id-1", "id-2"]}), Some(vec!["finance"]), vec![], false),
        (json!({"groups": []}), Some(vec![]), vec![], false),
        (json!({"groups": null, "role": "x"}), Some(vec![]), vec!["role"], false),
        (json!({"groups": {"a": 1}}), None, vec![], true),
        (json!({"groups": ["id-1"], "hasgroups": true}), None, vec!["hasgroups"], true),
        (json!({"role": "x", "dept\n": "y"}), None, vec!["role"], false),
        (json!({"hd": "acme.example"}), None, vec!["hd"], false),
        (json!({"hd": "other.example"}), None, vec!["hd"], true),
        (json!({"hd": null, "groups": ["id-1"]}), Some(vec!["finance"]), vec!["hd"], true),
        (json!({}), None, vec![], false),
    ] {
        let wish = read(&spec(people.clone()), &said("token-claims-change", json!({"claims": claims}), json!({})));
        let groups = groups.map(|names| names.into_iter().map(str::to_owned).collect::<BTreeSet<_>>());
        let others: BTreeSet<_> = others.into_iter().map(str::to_owned).collect();
        assert_eq!((wish.groups, wish.claims, wish.is_worse), (groups, others, worse), "{claims}");
    }
    let many: Map<String, Value> = (0..100).map(|n| (format!("c{n}{}", "x".repeat(300)), json!(1))).collect();
    let wish = read(&spec(json!({})), &said("token-claims-change", json!({"claims": many}), json!({})));
    assert!(wish.claims.len() == CLAIMS_MAX && wish.claims.iter().all(|name| name.len() <= TEXT_BYTES_MAX));
}

#[test]
fn what_is_kept_for_people_is_short_and_on_one_line() {
    let reason = json!({"reason_admin": {"de": "weg", "en": format!("gone\n{}", "x".repeat(1_000))}});
    let subject = json!({"format": "email", "email": format!("a\u{7}{}", "b".repeat(1_000))});
    let wish = read(&spec(json!({})), &said("session-revoked", reason, subject));
    assert!(wish.reason.starts_with("gone xxx") && wish.reason.len() == TEXT_BYTES_MAX);
    assert!(wish.subject.starts_with("email a b") && wish.subject.len() == TEXT_BYTES_MAX);
    for (reason, kept) in [(json!("plain"), "plain"), (json!({"de": "weg"}), "weg"), (json!(7), ""), (json!({}), "")] {
        let wish = read(&spec(json!({})), &said("session-revoked", json!({"reason_admin": reason}), json!({})));
        assert_eq!(wish.reason, kept);
    }
    let unknown = SecurityEvent { event_type: "https://example.com/e".into(), ..said("x", json!({}), json!({})) };
    let of_acme = spec(json!({}));
    assert_eq!(super::wish("acme", &of_acme, of_acme.signals.as_ref().unwrap(), &unknown, Delivery::Poll), None);
}

#[test]
fn polled_signals_are_sorted_by_when_they_happened() {
    let token = |payload: Value| format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(payload.to_string()));
    for (payload, expected) in [
        (json!({"iat": 9, "toe": 7, "events": {"x": {"event_timestamp": 5}}}), (5, 9)),
        (json!({"iat": 9, "toe": 7, "events": {"x": {}}}), (7, 9)),
        (json!({"iat": 9, "events": {"x": {}}}), (9, 9)),
        (json!({"iat": 9}), (9, 9)),
        (json!({}), (0, 0)),
        (json!([]), (0, 0)),
    ] {
        assert_eq!(order(&token(payload.clone())), expected, "{payload}");
    }
    assert_eq!((order(""), order("a.b"), order("..")), ((0, 0), (0, 0), (0, 0)));
}

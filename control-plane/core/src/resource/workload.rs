//! Workloads: programs that their platform says what they are (Kubernetes service accounts, SPIFFE), and that need no
//! key of their own here.
//!
//! What a provider's manifest says of that (`WorkloadsSpec`), and a client's (`WorkloadSpec`). Called by `identity`,
//! `crate::workload` and the server, with claims whose signature holds. Invariant: a workload is told by its whole
//! subject, byte for byte; there are no patterns. Absent: signatures (server), and what exists (`crate::workload`).
//! Specifications: RFC 6901; SPIFFE-ID §2; SPIFFE JWT-SVID §3.

use std::collections::BTreeMap;

use bailiwick_proto::names;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    checks::{Fault, RESOURCE_RULE, clip},
    identity::{ClientAuth, ClientSpec, KEY_SET_BYTES_MAX, is_key_set},
};

/// How long a workload's assertion may be good where the manifest says nothing: Kubernetes makes them for an hour.
const LIFETIME_SECONDS_DEFAULT: u64 = 3_600;
/// Longest that a manifest may allow: for so long a stolen one is good for tokens.
const LIFETIME_SECONDS_MAX: u64 = 24 * 3_600;
/// Longest subject, as the server reads them.
const SUBJECT_BYTES_MAX: usize = 1_024;
/// Longest trust domain (SPIFFE-ID §2.1).
const TRUST_DOMAIN_BYTES_MAX: usize = 255;
/// Most claims that must have a value, the longest pointer to one, and the longest value.
const REQUIRED_MAX: usize = 16;
const POINTER_BYTES_MAX: usize = 256;
const VALUE_BYTES_MAX: usize = 256;
/// What SPIFFE IDs begin with.
const SPIFFE: &str = "spiffe://";

/// That a provider's word about workloads counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkloadsSpec {
    /// The SPIFFE trust domain that it speaks for, e.g. "acme.example": all its workloads are in there. Where absent,
    /// none of them has a SPIFFE ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_domain: Option<String>,
    /// How long what it signs for a workload may be good, e.g. "1h" (the default); at most "24h".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime_max: Option<String>,
    /// Its public keys for this, a JSON Web Key Set as text, where nobody can fetch them; those at `jwks_url`, or where
    /// its metadata says, where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks: Option<String>,
}

/// The workload that a client is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkloadSpec {
    /// The identity provider that says so.
    pub provider: String,
    /// Its `sub` there, byte for byte, e.g. "system:serviceaccount:agents:report-writer".
    pub subject: String,
    /// Claims that must be there with just these texts, each by its JSON Pointer, e.g. "/kubernetes.io/namespace".
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub require: BTreeMap<String, String>,
}

impl WorkloadsSpec {
    /// How long an assertion may be good, in seconds.
    #[must_use]
    pub fn lifetime_seconds_max(&self) -> u64 {
        self.lifetime_max.as_deref().and_then(seconds).unwrap_or(LIFETIME_SECONDS_DEFAULT)
    }

    pub(super) fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if self.trust_domain.as_deref().is_some_and(|name| !is_trust_domain(name)) {
            let message = "must be a SPIFFE trust domain without \"spiffe://\", e.g. \"acme.example\"";
            faults.push(Fault::new("spec.workloads.trust_domain", message));
        }
        if self.lifetime_max.as_deref().is_some_and(|text| seconds(text).is_none()) {
            let message = "must be a whole number with a unit, from \"1s\" to \"24h\"";
            faults.push(Fault::new("spec.workloads.lifetime_max", message));
        }
        if self.jwks.as_deref().is_some_and(|keys| !is_key_set(keys)) {
            let message = format!("must be a JSON Web Key Set of public keys, of at most {KEY_SET_BYTES_MAX} bytes");
            faults.push(Fault::new("spec.workloads.jwks", message));
        }
        faults
    }
}

impl WorkloadSpec {
    /// Whether verified claims have every value that they must.
    #[must_use]
    pub fn takes(&self, claims: &Map<String, Value>) -> bool {
        self.require.iter().all(|(pointer, value)| at(claims, pointer).and_then(Value::as_str) == Some(value))
    }

    pub(super) fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if !names::is_resource_name(&self.provider) {
            let message = format!("\"{}\" {RESOURCE_RULE}", clip(&self.provider));
            faults.push(Fault::new("spec.workload.provider", message));
        }
        if !is_subject(&self.subject) {
            let message =
                format!("must be 1 to {SUBJECT_BYTES_MAX} bytes of text, and a whole SPIFFE ID if it begins as one");
            faults.push(Fault::new("spec.workload.subject", message));
        }
        if self.require.len() > REQUIRED_MAX {
            faults.push(Fault::new("spec.workload.require", format!("at most {REQUIRED_MAX} claims are accepted")));
        }
        for (pointer, value) in &self.require {
            if !is_pointer(pointer) {
                let message =
                    format!("\"{}\" must be a JSON Pointer, e.g. \"/kubernetes.io/namespace\"", clip(pointer));
                faults.push(Fault::new("spec.workload.require", message));
            }
            if value.is_empty() || value.len() > VALUE_BYTES_MAX {
                let message = format!("values have 1 to {VALUE_BYTES_MAX} bytes; that of \"{}\" not", clip(pointer));
                faults.push(Fault::new("spec.workload.require", message));
            }
        }
        faults
    }
}

/// What is wrong with the workload of a client, or with there being none.
pub(super) fn faults_of_client(client: &ClientSpec) -> Vec<Fault> {
    let fault = |message: &str| vec![Fault::new("spec.workload", message)];
    match (&client.workload, client.auth) {
        (None, ClientAuth::Workload) => fault("missing; name its provider, and its subject there"),
        (Some(_), ClientAuth::Workload) if client.self_registered => fault("is for registered clients"),
        (Some(workload), ClientAuth::Workload) => workload.faults(),
        (Some(_), _) => fault("is for auth: workload"),
        (None, _) => Vec::new(),
    }
}

/// The trust domain of a SPIFFE ID, if it begins as one.
#[must_use]
pub fn trust_domain_of(subject: &str) -> Option<&str> {
    let rest = subject.strip_prefix(SPIFFE)?;
    Some(rest.split_once('/').map_or(rest, |(domain, _)| domain))
}

/// The value that a JSON Pointer leads to.
fn at<'a>(claims: &'a Map<String, Value>, pointer: &str) -> Option<&'a Value> {
    let path = pointer.strip_prefix('/')?;
    let (first, deeper) = path.find('/').and_then(|end| path.split_at_checked(end)).unwrap_or((path, ""));
    claims.get(&first.replace("~1", "/").replace("~0", "~"))?.pointer(deeper)
}

fn is_pointer(text: &str) -> bool {
    let is_escaped = |after: &str| after.starts_with(['0', '1']);
    let is_plain = text.len() <= POINTER_BYTES_MAX && !text.chars().any(char::is_control);
    is_plain && text.len() > 1 && text.starts_with('/') && text.split('~').skip(1).all(is_escaped)
}

fn is_subject(text: &str) -> bool {
    let is_text = !text.is_empty() && text.len() <= SUBJECT_BYTES_MAX && !text.chars().any(char::is_control);
    is_text && trust_domain_of(text).is_none_or(|domain| is_spiffe_path(text, domain))
}

/// Whether what stands behind the trust domain is a path of a SPIFFE ID.
fn is_spiffe_path(id: &str, domain: &str) -> bool {
    let is_char = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let is_segment = |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(is_char);
    let path = id.strip_prefix(SPIFFE).and_then(|rest| rest.strip_prefix(domain)?.strip_prefix('/'));
    is_trust_domain(domain) && path.is_some_and(|path| path.split('/').all(is_segment))
}

fn is_trust_domain(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_');
    !name.is_empty() && name.len() <= TRUST_DOMAIN_BYTES_MAX && name.bytes().all(fits)
}

/// Seconds of a lifetime as written; `None` where it is none within bounds.
fn seconds(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(digits)?;
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return None,
    };
    let seconds = number.parse::<u64>().ok()?.checked_mul(factor)?;
    (1..=LIFETIME_SECONDS_MAX).contains(&seconds).then_some(seconds)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lifetimes_have_a_unit_and_bounds() {
        for (text, expected) in [("1s", Some(1)), ("90m", Some(5_400)), ("24h", Some(86_400))] {
            assert_eq!(seconds(text), expected, "{text}");
        }
        for bad in ["", "1", "h", "0s", "25h", "1441m", "1.5h", "-1h", "1 h", "500ms", "99999999999999999999h"] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
        assert_eq!(WorkloadsSpec::default().lifetime_seconds_max(), 3_600);
    }

    #[test]
    fn a_subject_is_a_text_or_a_whole_spiffe_id() {
        for good in [
            "system:serviceaccount:agents:report-writer",
            "repo:acme/agents:ref:refs/heads/main",
            "spiffe://acme.example/ns/agents/sa/report-writer",
            "spiffe://acme.example/a.b_c-D",
        ] {
            assert!(is_subject(good), "{good}");
        }
        let long = "x".repeat(SUBJECT_BYTES_MAX + 1);
        for bad in [
            "",
            "a\nb",
            &long,
            "spiffe://",
            "spiffe://acme.example",
            "spiffe://acme.example/",
            "spiffe://ACME.example/a",
            "spiffe://acme.example:443/a",
            "spiffe://acme.example/a/",
            "spiffe://acme.example//a",
            "spiffe://acme.example/../a",
            "spiffe://acme.example/a*",
            "spiffe:///a",
        ] {
            assert!(!is_subject(bad), "{bad}");
        }
        assert_eq!(trust_domain_of("spiffe://acme.example/a/b"), Some("acme.example"));
        assert_eq!(trust_domain_of("spiffe://acme.example"), Some("acme.example"));
        assert_eq!(trust_domain_of("system:serviceaccount:a:b"), None);
    }

    #[test]
    fn required_claims_are_there_as_just_these_texts_at_any_depth() {
        let claims = json!({
            "kubernetes.io": {"namespace": "agents", "pod": {"name": "p"}, "n": 7},
            "a/b": "slash", "a~b": "tilde", "list": ["x"], "env": "prod",
        });
        let claims = claims.as_object().unwrap();
        let takes = |pointer: &str, value: &str| {
            let require = BTreeMap::from([(pointer.to_owned(), value.to_owned())]);
            WorkloadSpec { provider: "k".into(), subject: "s".into(), require }.takes(claims)
        };
        let good = [
            ("/kubernetes.io/namespace", "agents"),
            ("/kubernetes.io/pod/name", "p"),
            ("/a~1b", "slash"),
            ("/a~0b", "tilde"),
            ("/list/0", "x"),
            ("/env", "prod"),
        ];
        for (pointer, value) in good {
            assert!(is_pointer(pointer) && takes(pointer, value), "{pointer}");
            assert!(!takes(pointer, "other"), "{pointer}");
        }
        for (pointer, value) in
            [("/kubernetes.io/n", "7"), ("/kubernetes.io", "agents"), ("/list", "x"), ("/none", "x"), ("env", "prod")]
        {
            assert!(!takes(pointer, value), "{pointer}");
        }
        for bad in ["", "/", "env", "a/b", "/a~", "/a~2", "/a\nb"] {
            assert!(!is_pointer(bad), "{bad}");
        }
    }
}

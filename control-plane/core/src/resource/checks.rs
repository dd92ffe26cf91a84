//! What the values of a spec must look like: one fault per value that does not, with its key.
//!
//! Called by `manifest` for every document whose keys and types are right. Bounds are here, so that whatever reaches
//! an event is small. Absent: whether what is named exists (`apply`), and Cedar (`policy`).

use bailiwick_proto::{address::Host, names};

use super::{Endpoint, Kind, ServerSpec, Spec, TIMEOUT_MS_MAX, UserSpec};

/// Longest endpoint URL.
const URL_BYTES_MAX: usize = 2_048;

/// The client of tokens that administrators issue.
pub const ADMINISTRATORS_CLIENT: &str = "bailiwick-admin";

/// What is wrong with a value: its dotted key from the document's root, and a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// E.g. `spec.endpoint.url`.
    pub key: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Fault {
    pub(super) fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { key: key.into(), message: message.into() }
    }
}

/// What is wrong with a resource's name.
#[must_use]
pub fn name_fault(kind: Kind, name: &str) -> Option<Fault> {
    let (fits, rule) = match kind {
        Kind::Server | Kind::VirtualServer => {
            (names::is_server_name(name), "must be 1 to 32 lower-case letters, digits and inner hyphens")
        }
        Kind::User | Kind::Group => (names::is_person_name(name), PERSON_RULE),
        Kind::Client if name == ADMINISTRATORS_CLIENT => (false, "is the name under which administrators issue tokens"),
        Kind::Agent
        | Kind::Project
        | Kind::Policy
        | Kind::Client
        | Kind::IdentityProvider
        | Kind::DecisionClient
        | Kind::Node => (names::is_resource_name(name), RESOURCE_RULE),
        Kind::Consent => (crate::requests::is_id(name), "must be 1 to 128 visible ASCII characters"),
    };
    (!fits).then(|| Fault::new("metadata.name", format!("\"{}\" {rule}", clip(name))))
}

pub(super) const PERSON_RULE: &str =
    "must be 1 to 254 visible characters without spaces, quotes, slashes or angle brackets";
pub(super) const RESOURCE_RULE: &str =
    "must be 1 to 63 lower-case letters, digits and inner hyphens, dots or underscores";

impl Spec {
    /// Everything that is wrong with the values; empty where the spec may stand in an event.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        match self {
            Self::Server(spec) => server_faults(spec),
            Self::VirtualServer(spec) => spec.faults(),
            Self::User(spec) => user_faults(spec),
            Self::Agent(spec) => {
                let owner = (!names::is_person_name(&spec.owner))
                    .then(|| Fault::new("spec.owner", format!("\"{}\" {PERSON_RULE}", clip(&spec.owner))));
                let successor = spec.successor.iter().filter_map(|successor| {
                    if *successor == spec.owner {
                        return Some(Fault::new("spec.successor", "is the owner; name somebody else"));
                    }
                    let rule = || format!("\"{}\" {PERSON_RULE}", clip(successor));
                    (!names::is_person_name(successor)).then(|| Fault::new("spec.successor", rule()))
                });
                let project = (!names::is_resource_name(&spec.project))
                    .then(|| Fault::new("spec.project", format!("\"{}\" {RESOURCE_RULE}", clip(&spec.project))));
                let review = spec.review_by.as_deref().filter(|text| date(text).is_none());
                let review = review.map(|_| Fault::new("spec.review_by", "must be a day, e.g. \"2027-06-30\""));
                owner.into_iter().chain(successor).chain(project).chain(review).chain(spec.clients.faults()).collect()
            }
            Self::Client(spec) => spec.faults(),
            Self::IdentityProvider(spec) => spec.faults(),
            Self::DecisionClient(spec) => spec.faults(),
            Self::Policy(spec) => {
                let odd = spec.cedar.contains(|c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t'));
                let message = "must not contain control characters other than line ends and tabs";
                odd.then(|| Fault::new("spec.cedar", message)).into_iter().collect()
            }
        }
    }
}

fn server_faults(spec: &ServerSpec) -> Vec<Fault> {
    let mut faults = Vec::new();
    faults.extend(endpoint_faults(&spec.endpoint));
    faults.extend(spec.transport_faults());
    faults.extend(only_over_http(spec));
    if spec.timeout.as_deref().is_some_and(|timeout| timeout_ms(timeout).is_none()) {
        let message = "must be a whole number with a unit, from \"1ms\" to \"10m\", e.g. \"30s\"";
        faults.push(Fault::new("spec.timeout", message));
    }
    for (tool, said) in &spec.tools {
        if !names::is_upstream_tool_name(tool) {
            let message = "a tool's name has 1 to 128 characters, none of them a control character";
            faults.push(Fault::new(format!("spec.tools.{tool}"), message));
        }
        if said.cost.as_deref().is_some_and(|cost| !bailiwick_policy::is_cost(cost)) {
            let message = "must be a decimal with at most 14 digits before and 4 after the point, e.g. \"0.02\"";
            faults.push(Fault::new(format!("spec.tools.{tool}.cost"), message));
        }
    }
    faults
}

/// A server is in one place.
fn endpoint_faults(endpoint: &Endpoint) -> Vec<Fault> {
    match &endpoint.command {
        None if endpoint.url.is_empty() => vec![Fault::new("spec.endpoint", "needs a `url` or a `command`")],
        None if !is_http_url(&endpoint.url) => {
            let message = "must be an http or https URL with a host and without user, password or fragment";
            vec![Fault::new("spec.endpoint.url", message)]
        }
        None => host_fault(&endpoint.url).into_iter().chain(openapi_faults(endpoint)).collect(),
        Some(command) => {
            let alone = endpoint.url.is_empty() && endpoint.transport.is_default() && endpoint.openapi.is_none();
            let message = "stands without `url`, `transport` and `openapi`";
            let both = (!alone).then(|| Fault::new("spec.endpoint.command", message));
            both.into_iter().chain(command.faults()).collect()
        }
    }
}

/// A program has no connections.
fn only_over_http(spec: &ServerSpec) -> Vec<Fault> {
    if spec.endpoint.command.is_none() {
        return Vec::new();
    }
    let said = [
        ("spec.endpoint.networks", !spec.endpoint.networks.is_empty()),
        ("spec.credential", spec.credential.is_some()),
        ("spec.limits", spec.limits.is_some()),
        ("spec.breaker", spec.breaker.is_some()),
        ("spec.retry", spec.retry.is_some()),
        ("spec.context", spec.context.is_some()),
    ];
    let message = "is for servers over HTTP, which a program is not";
    said.into_iter().filter(|(_, is_said)| *is_said).map(|(key, _)| Fault::new(key, message)).collect()
}

/// An API's URL is what its operations' paths are appended to.
fn openapi_faults(endpoint: &Endpoint) -> Vec<Fault> {
    let Some(openapi) = &endpoint.openapi else { return Vec::new() };
    let mut faults = openapi.faults();
    if endpoint.url.contains('?') {
        faults.push(Fault::new("spec.endpoint.url", "of an API must be without a query"));
    }
    if !endpoint.transport.is_default() {
        faults.push(Fault::new("spec.endpoint.transport", "is for MCP servers, which an API is not"));
    }
    faults
}

fn user_faults(spec: &UserSpec) -> Vec<Fault> {
    let unfit = spec.groups.iter().filter(|group| !names::is_person_name(group));
    unfit.map(|group| Fault::new("spec.groups", format!("\"{}\" {PERSON_RULE}", clip(group)))).collect()
}

/// What is wrong with the host of a URL: that different software would read it differently.
fn host_fault(url: &str) -> Option<Fault> {
    let uri = url.parse::<http::Uri>().ok()?;
    let fault = uri.host()?.parse::<Host>().err()?;
    Some(Fault::new("spec.endpoint.url", format!("the host cannot stand there: {fault}")))
}

/// Whether this is an http or https URL with a host, and without user, password, fragment, spaces or control
/// characters.
#[must_use]
pub fn is_http_url(text: &str) -> bool {
    let visible = text.len() <= URL_BYTES_MAX && text.chars().all(|c| c.is_ascii_graphic() && c != '#' && c != '\\');
    let Ok(uri) = text.parse::<http::Uri>() else { return false };
    // The crate takes a port it cannot read for no port; a number may have a sign in Rust, and a port none.
    let is_port = |text: &str| !text.starts_with('+') && text.parse::<u16>().is_ok_and(|port| port > 0);
    let plain_host = |authority: &http::uri::Authority| match authority.as_str().strip_prefix(authority.host()) {
        Some("") => !authority.host().is_empty(),
        Some(rest) => !authority.host().is_empty() && rest.strip_prefix(':').is_some_and(is_port),
        // A user stands before the host.
        None => false,
    };
    visible && matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some_and(plain_host)
}

/// A day as written, and in no other way.
pub(super) fn date(text: &str) -> Option<jiff::civil::Date> {
    text.parse::<jiff::civil::Date>().ok().filter(|date| date.to_string() == text)
}

/// Milliseconds of a timeout as written; `None` where it is no timeout within bounds.
pub(super) fn timeout_ms(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let factor = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => return None,
    };
    let ms = number.parse::<u64>().ok()?.checked_mul(factor)?;
    (1..=TIMEOUT_MS_MAX).contains(&ms).then_some(ms)
}

/// The start of a text, for a message.
pub(super) fn clip(text: &str) -> String {
    const SHOWN_MAX: usize = 80;
    let mut shown: String = text.chars().take(SHOWN_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN_MAX).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_plain_http_urls() {
        for good in ["http://127.0.0.1:9801/mcp", "https://a.example/x?y=1", "http://[::1]:80/mcp", "https://h"] {
            assert!(is_http_url(good), "{good}");
        }
        let bad = [
            "",
            "ftp://h/",
            "http://",
            "http:///x",
            "//h/x",
            "h",
            "http://u:p@h/",
            "http://u@h/",
            "http://h/#f",
            "http://h:0/",
            "http://h:99999/",
            "http://h:/",
            "http://h /",
            "http://h/\n",
            "javascript:alert(1)",
            "file:///etc",
        ];
        for bad in bad {
            assert!(!is_http_url(bad), "{bad}");
        }
    }

    #[test]
    fn a_host_that_software_reads_differently_is_refused() {
        for good in ["http://127.0.0.1/", "http://[::1]:80/", "https://a.example/", "http://localhost:1/"] {
            assert_eq!(host_fault(good), None, "{good}");
        }
        for bad in ["http://0x7f.1/", "http://127.1/", "http://2130706433/", "http://0177.0.0.1/", "http://a.example./"]
        {
            assert!(host_fault(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn what_is_for_connections_is_refused_for_programs() {
        let text = r#"{"endpoint": {"command": {"program": "/s"}, "networks": ["10.0.0.0/8"]}, "credential": {"secret": "a"},
            "limits": {}, "breaker": {}, "retry": {"attempts": 2}, "context": true}"#;
        let keys: Vec<_> =
            server_faults(&serde_json::from_str(text).unwrap()).into_iter().map(|fault| fault.key).collect();
        let told = ["credential", "limits", "breaker", "retry", "context"].map(|key| format!("spec.{key}"));
        assert!(keys[0] == "spec.endpoint.networks" && keys[1..] == told, "{keys:?}");
    }

    #[test]
    fn timeouts_have_a_unit_and_bounds() {
        let table = [("30s", Some(30_000)), ("500ms", Some(500)), ("10m", Some(600_000)), ("1ms", Some(1))];
        for (text, ms) in table {
            assert_eq!(timeout_ms(text), ms, "{text}");
        }
        for bad in ["", "30", "s", "0s", "11m", "-1s", "1.5s", "1h", "99999999999999999999s", "30 s"] {
            assert_eq!(timeout_ms(bad), None, "{bad}");
        }
    }
}

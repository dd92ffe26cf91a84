//! What a transmitter of signals says of itself: where its streams are made, shown, verified and ended.
//!
//! Called by `providers`; used by `signals::streams`. Invariants: the metadata counts if it is of the very issuer of
//! the manifest, and is fetched through the guard of `outbound`; an issuer on https cannot name anything on http.
//! Absent: its keys (`source`), and asking it (`signals::streams`). Specification: OpenID SSF 1.0 §7.

use bailiwick_control_plane_core::resource::{IdentityProviderSpec, is_http_url};
use bailiwick_proto::mcp::check_json;
use serde::Deserialize;

use super::{ProviderUnavailable, source::Source};

/// Longest URL of a transmitter's that something is sent to.
const URL_BYTES_MAX: usize = 2_048;
/// Most ways of delivery that are looked at.
const METHODS_MAX: usize = 16;

/// Where a transmitter is asked for what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StreamEndpoints {
    pub(crate) configuration: Option<String>,
    pub(crate) status: Option<String>,
    pub(crate) verification: Option<String>,
    pub(crate) add_subject: Option<String>,
    pub(crate) remove_subject: Option<String>,
    /// URIs of the ways of delivery there are; empty: it does not say.
    pub(crate) methods: Vec<String>,
    /// A new stream is about nobody until subjects are added.
    pub(crate) begins_empty: bool,
}

#[derive(Deserialize)]
struct Written {
    issuer: String,
    configuration_endpoint: Option<String>,
    status_endpoint: Option<String>,
    verification_endpoint: Option<String>,
    add_subject_endpoint: Option<String>,
    remove_subject_endpoint: Option<String>,
    #[serde(default)]
    delivery_methods_supported: Vec<String>,
    default_subjects: Option<String>,
}

/// One look at the metadata of the transmitter of a provider's signals.
pub(super) async fn look(
    source: &dyn Source,
    spec: &IdentityProviderSpec,
) -> Result<StreamEndpoints, ProviderUnavailable> {
    let signals = spec.signals.as_ref().ok_or(ProviderUnavailable::NoEndpoints)?;
    let issuer = signals.issuer(&spec.issuer);
    read(&super::source::transmitter_metadata(source, spec, issuer).await?, issuer)
}

fn read(json: &[u8], issuer: &str) -> Result<StreamEndpoints, ProviderUnavailable> {
    let text = check_json(json).map_err(|_| ProviderUnavailable::Metadata)?;
    let written: Written = serde_json::from_str(text).map_err(|_| ProviderUnavailable::Metadata)?;
    if written.issuer != issuer {
        return Err(ProviderUnavailable::Issuer);
    }
    let is_https = |url: &str| url.split_once("://").is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("https"));
    let is_fit = |url: &String| is_http_url(url) && url.len() <= URL_BYTES_MAX && (is_https(url) || !is_https(issuer));
    let mut methods = written.delivery_methods_supported;
    methods.truncate(METHODS_MAX);
    Ok(StreamEndpoints {
        configuration: written.configuration_endpoint.filter(is_fit),
        status: written.status_endpoint.filter(is_fit),
        verification: written.verification_endpoint.filter(is_fit),
        add_subject: written.add_subject_endpoint.filter(is_fit),
        remove_subject: written.remove_subject_endpoint.filter(is_fit),
        methods,
        begins_empty: written.default_subjects.is_some_and(|word| word == "NONE"),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn endpoints_are_those_of_the_very_issuer_and_as_safe_as_it() {
        let said = |issuer: &str, url: &str| json!({"issuer": issuer, "configuration_endpoint": url}).to_string();
        let at = |issuer: &str, url: &str| read(said(issuer, url).as_bytes(), "https://ssf.example/t");
        let good = at("https://ssf.example/t", "https://ssf.example/streams").unwrap();
        assert_eq!(good.configuration.as_deref(), Some("https://ssf.example/streams"));
        assert_eq!(at("https://ssf.example", "https://ssf.example/streams"), Err(ProviderUnavailable::Issuer));
        for unsafe_url in ["http://ssf.example/streams", "file:///etc/passwd", "https://a:b@ssf.example/streams"] {
            assert_eq!(at("https://ssf.example/t", unsafe_url).unwrap().configuration, None, "{unsafe_url}");
        }
        assert_eq!(read(b"{\"issuer\": 1}", "https://ssf.example/t"), Err(ProviderUnavailable::Metadata));
    }
}

//! The parameters of a request: each at most once (RFC 6749 §3.2), from a body or a query, never from both.

use std::collections::BTreeMap;

use axum::http::{HeaderMap, header};

use super::error::OAuthError;

/// Most parameters: the longest grant has a dozen; a person may tick some hundred tools.
const PARAMETERS_MAX: usize = 600;
/// Longest text they are read from.
const TEXT_BYTES_MAX: usize = 64 * 1024;

/// What a client sent. Not printable: there are secrets in it.
pub(crate) struct Form(BTreeMap<String, Vec<String>>);

impl std::fmt::Debug for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Form {
    /// Reads a body of `application/x-www-form-urlencoded`.
    pub(crate) fn read(headers: &HeaderMap, body: &[u8]) -> Result<Self, OAuthError> {
        let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return Err(OAuthError::request("the body must be application/x-www-form-urlencoded"));
        }
        let text = std::str::from_utf8(body).map_err(|_| OAuthError::request("the body is not UTF-8"))?;
        Self::of_query(text)
    }

    /// Reads the query of a URL.
    pub(crate) fn of_query(text: &str) -> Result<Self, OAuthError> {
        let mut parameters = BTreeMap::<String, Vec<String>>::new();
        for (count, (name, value)) in form_urlencoded::parse(text.as_bytes()).enumerate() {
            if count >= PARAMETERS_MAX || text.len() > TEXT_BYTES_MAX {
                return Err(OAuthError::request("there are too many parameters"));
            }
            // Without a value is as if it were not there.
            if !value.is_empty() {
                parameters.entry(name.into_owned()).or_default().push(value.into_owned());
            }
        }
        Ok(Self(parameters))
    }

    /// A parameter that may be there once.
    pub(crate) fn one(&self, name: &'static str) -> Result<Option<&str>, OAuthError> {
        match self.0.get(name).map(Vec::as_slice) {
            None => Ok(None),
            Some([value]) => Ok(Some(value)),
            Some(_) => Err(OAuthError::request("a parameter is there more than once")),
        }
    }

    /// Whether it is there.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// One that may be repeated (`resource`, RFC 8707 §2).
    pub(crate) fn all(&self, name: &str) -> &[String] {
        self.0.get(name).map(Vec::as_slice).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: &str, body: &str) -> Result<Form, OAuthError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, kind.parse().unwrap());
        Form::read(&headers, body.as_bytes())
    }

    #[test]
    fn a_parameter_is_there_once_or_the_request_is_none() {
        let kind = "application/x-www-form-urlencoded; charset=UTF-8";
        let form = read(kind, "a=1&b=x%20y+z&c=&resource=r&resource=s&d=1&d=2").unwrap();
        assert_eq!(form.one("a").unwrap(), Some("1"));
        assert_eq!(form.one("b").unwrap(), Some("x y z"));
        assert_eq!((form.one("c").unwrap(), form.one("e").unwrap()), (None, None));
        assert_eq!(form.all("resource"), ["r", "s"]);
        assert!(form.one("d").is_err());
        assert!(read("application/json", "{}").is_err());
        assert!(read(kind, &"a=1&".repeat(PARAMETERS_MAX + 1)).is_err());
        assert!(!format!("{form:?}").contains("x y z"));
    }
}

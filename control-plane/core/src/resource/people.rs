//! Who a provider's people are here, and how they sign in: by which claim they are named, whose word about groups
//! counts, and what we are called at the provider.
//!
//! Reading claims is here too, so that assertions and sign-ins name a person by one rule. Called by `identity`, `apply`
//! and the server, with claims whose signature holds. Invariant: an address counts only where the provider says that
//! it is verified. Absent: signatures, and asking the provider (server).
//! Specifications: OpenID Connect Core 1.0 §5.1, §9; RFC 6749 §2.3, §3.3.

use std::collections::{BTreeMap, BTreeSet};

use bailiwick_proto::names;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::checks::{Fault, PERSON_RULE, RESOURCE_RULE, clip, is_http_url};
use crate::sign_in::GROUPS_MAX;

/// Longest name of a claim.
const CLAIM_BYTES_MAX: usize = 64;
/// Longest value of a claim that a manifest names.
const VALUE_BYTES_MAX: usize = 256;
/// Most of the provider's groups that are called something else here.
const MAPPED_MAX: usize = 512;
/// Most claims that must have a value, and most domains.
const REQUIRED_MAX: usize = 16;
/// Most scopes, and the longest of them.
const SCOPES_MAX: usize = 32;
const SCOPE_BYTES_MAX: usize = 128;
/// Longest `client_id`: providers give some 40 to 80 characters.
const CLIENT_ID_BYTES_MAX: usize = 256;
/// Longest name that people are shown: of a button, of a client.
pub(super) const TITLE_BYTES_MAX: usize = 128;

/// Who a provider's people are here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PeopleSpec {
    /// The claim that is the user's name; `email` counts only where `email_verified` is true.
    #[serde(default = "subject")]
    pub user: String,
    /// Users whom the provider may speak for, by what stands behind the last "@" of their names, e.g. "acme.example";
    /// all where absent.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub domains: BTreeSet<String>,
    /// Claims that must be there with just these values, e.g. Google's `hd` or Entra ID's `tid`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub require: BTreeMap<String, String>,
    /// The groups that people are in, by the provider's word; it does not say where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<GroupsSpec>,
    /// Whether who signs in and is no user yet becomes one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub join: bool,
}

/// Where the provider says which groups somebody is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupsSpec {
    /// The claim that lists them.
    pub claim: String,
    /// From what the provider calls a group to what it is called here; others do not count. All that can be a group's
    /// name count where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub map: Option<BTreeMap<String, String>>,
}

/// How people sign in at a provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SignInSpec {
    /// What people choose it by; the provider's name here where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What we are called at the provider.
    pub client_id: String,
    /// How we prove at the provider who we are.
    pub auth: ProviderAuth,
    /// The secret that we show there: a name that was sealed with `bailiwick secret set NAME --for identity-provider`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// What we ask for, `openid` among it.
    #[serde(default = "usual_scopes")]
    pub scopes: BTreeSet<String>,
    /// Where people are sent; where absent, the provider's metadata says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization_url: Option<String>,
    /// Where their codes are exchanged; where absent, the provider's metadata says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_url: Option<String>,
}

/// How we prove at a provider who we are (OpenID Connect Core §9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProviderAuth {
    /// By a secret.
    ClientSecret,
    /// By a JWT that we sign with the key of our tokens; it is at `/.well-known/jwks.json` below our issuer.
    PrivateKeyJwt,
    /// Not at all.
    None,
}

impl Default for PeopleSpec {
    fn default() -> Self {
        Self { user: subject(), domains: BTreeSet::new(), require: BTreeMap::new(), groups: None, join: false }
    }
}

/// Why claims name nobody here. Nothing of them stands in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Nobody {
    /// The claim that names the user is missing, or cannot be a user's name.
    #[error("the provider does not say who this is in the way it is known for here")]
    Unnamed,
    /// An address that nobody has looked at.
    #[error("the provider does not say that the e-mail address is verified")]
    Unverified,
    /// Of a domain that the provider does not speak for.
    #[error("the provider does not speak for users of this domain here")]
    Domain,
    /// A claim lacks the value that it must have.
    #[error("a claim that the provider's people must have is missing, or has another value")]
    Required,
    /// The provider lists groups elsewhere, as there are too many.
    #[error("the provider left out the groups, as there are too many of them")]
    GroupsElsewhere,
    /// What should list the groups is no list of texts, or too long.
    #[error("the provider's list of groups cannot be read")]
    GroupsUnreadable,
}

impl PeopleSpec {
    /// The user that verified claims are about.
    ///
    /// # Errors
    /// There is none by the manifest's rules.
    pub fn user_of<'a>(&self, claims: &'a Map<String, Value>) -> Result<&'a str, Nobody> {
        let named = claims.get(&self.user).and_then(Value::as_str).filter(|name| names::is_person_name(name));
        let name = named.ok_or(Nobody::Unnamed)?;
        if self.user == "email" && claims.get("email_verified") != Some(&Value::Bool(true)) {
            return Err(Nobody::Unverified);
        }
        let is_of = |domain: &String| name.rsplit_once('@').is_some_and(|(_, of)| of.eq_ignore_ascii_case(domain));
        if !self.domains.is_empty() && !self.domains.iter().any(is_of) {
            return Err(Nobody::Domain);
        }
        let has = |(claim, value): (&String, &String)| claims.get(claim).and_then(Value::as_str) == Some(value);
        if self.require.iter().all(has) { Ok(name) } else { Err(Nobody::Required) }
    }

    /// All groups that verified claims put the person in; `None` where the provider has no say in that.
    ///
    /// # Errors
    /// The provider does not list them here, or not in a way that can be read: they are not guessed.
    pub fn groups_of(&self, claims: &Map<String, Value>) -> Result<Option<BTreeSet<String>>, Nobody> {
        let Some(GroupsSpec { claim, map }) = &self.groups else { return Ok(None) };
        if is_elsewhere(claims, claim) {
            return Err(Nobody::GroupsElsewhere);
        }
        let listed = match claims.get(claim) {
            // Providers leave the claim out for who is in no group.
            None | Some(Value::Null) => Vec::new(),
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(values)) => {
                let texts = values.iter().map(|value| match value {
                    Value::String(text) => Ok(text),
                    _ => Err(Nobody::GroupsUnreadable),
                });
                texts.collect::<Result<_, _>>()?
            }
            Some(_) => return Err(Nobody::GroupsUnreadable),
        };
        let here = |group: &String| match map {
            Some(map) => map.get(group).cloned(),
            None => names::is_person_name(group).then(|| group.clone()),
        };
        let groups: BTreeSet<String> = listed.into_iter().filter_map(here).collect();
        if groups.len() > GROUPS_MAX { Err(Nobody::GroupsUnreadable) } else { Ok(Some(groups)) }
    }

    pub(super) fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if !is_claim(&self.user) {
            faults.push(Fault::new("spec.people.user", "must be the name of a claim, e.g. \"sub\" or \"email\""));
        }
        if self.domains.len() > REQUIRED_MAX || self.require.len() > REQUIRED_MAX {
            let message = format!("at most {REQUIRED_MAX} domains and {REQUIRED_MAX} claims are accepted");
            faults.push(Fault::new("spec.people", message));
        }
        for domain in self.domains.iter().filter(|domain| !is_domain(domain)) {
            let message = format!("\"{}\" must be a domain without \"@\", e.g. \"acme.example\"", clip(domain));
            faults.push(Fault::new("spec.people.domains", message));
        }
        let is_value = |value: &String| !value.is_empty() && value.len() <= VALUE_BYTES_MAX;
        if self.require.iter().any(|(claim, value)| !is_claim(claim) || !is_value(value)) {
            let message = format!("must map names of claims to values of 1 to {VALUE_BYTES_MAX} bytes");
            faults.push(Fault::new("spec.people.require", message));
        }
        faults.extend(self.groups.iter().flat_map(GroupsSpec::faults));
        faults
    }
}

/// Whether the claim is left out for its size: aggregated and distributed claims (OpenID Connect Core §5.6.2), and
/// what Entra ID says instead of them.
fn is_elsewhere(claims: &Map<String, Value>, claim: &str) -> bool {
    let named = claims.get("_claim_names").is_some_and(|names| match names {
        Value::Object(names) => names.contains_key(claim),
        _ => true,
    });
    let has_groups = matches!(claims.get("hasgroups"), Some(said) if *said != Value::Bool(false));
    named || has_groups
}

impl GroupsSpec {
    fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if !is_claim(&self.claim) {
            faults.push(Fault::new("spec.people.groups.claim", "must be the name of a claim, e.g. \"groups\""));
        }
        let Some(map) = &self.map else { return faults };
        let key = "spec.people.groups.map";
        if map.is_empty() || map.len() > MAPPED_MAX {
            faults.push(Fault::new(key, format!("must have 1 to {MAPPED_MAX} groups; leave it out to take all")));
        }
        for (theirs, here) in map {
            if theirs.is_empty() || theirs.len() > VALUE_BYTES_MAX {
                let message = format!("a provider's group has 1 to {VALUE_BYTES_MAX} bytes, \"{}\" not", clip(theirs));
                faults.push(Fault::new(key, message));
            }
            if !names::is_person_name(here) {
                faults.push(Fault::new(key, format!("the group \"{}\" {PERSON_RULE}", clip(here))));
            }
        }
        faults
    }
}

impl SignInSpec {
    /// What is wrong, at a provider of this issuer.
    pub(super) fn faults(&self, issuer: &str) -> Vec<Fault> {
        let mut faults = Vec::new();
        let is_id = |byte: u8| matches!(byte, 0x20..=0x7e);
        if self.client_id.is_empty() || self.client_id.len() > CLIENT_ID_BYTES_MAX || !self.client_id.bytes().all(is_id)
        {
            let message =
                format!("must be 1 to {CLIENT_ID_BYTES_MAX} printable ASCII characters, as the provider says");
            faults.push(Fault::new("spec.sign_in.client_id", message));
        }
        if self.title.as_deref().is_some_and(|title| !is_title(title)) {
            let message = format!("must be 1 to {TITLE_BYTES_MAX} bytes of text on one line");
            faults.push(Fault::new("spec.sign_in.title", message));
        }
        faults.extend(self.secret_fault());
        let is_scope = |scope: &String| {
            let fits = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
            !scope.is_empty() && scope.len() <= SCOPE_BYTES_MAX && scope.bytes().all(fits)
        };
        if !self.scopes.contains("openid") || self.scopes.len() > SCOPES_MAX || !self.scopes.iter().all(is_scope) {
            let message = format!("must be at most {SCOPES_MAX} scopes, `openid` among them");
            faults.push(Fault::new("spec.sign_in.scopes", message));
        }
        let urls = [("authorization_url", &self.authorization_url), ("token_url", &self.token_url)];
        for (key, url) in urls.into_iter().filter_map(|(key, url)| Some((key, url.as_deref()?))) {
            if !is_http_url(url) || is_https(issuer) && !is_https(url) {
                let message =
                    "must be an https URL with a host and without user or fragment; http only if the issuer is";
                faults.push(Fault::new(format!("spec.sign_in.{key}"), message));
            }
        }
        faults
    }

    fn secret_fault(&self) -> Option<Fault> {
        let key = "spec.sign_in.secret";
        match (self.auth, self.secret.as_deref()) {
            (ProviderAuth::ClientSecret, Some(name)) => {
                (!names::is_resource_name(name)).then(|| Fault::new(key, format!("\"{}\" {RESOURCE_RULE}", clip(name))))
            }
            (ProviderAuth::ClientSecret, None) => {
                Some(Fault::new(key, "missing; name the secret that the provider gave for this client_id"))
            }
            (ProviderAuth::PrivateKeyJwt | ProviderAuth::None, Some(_)) => {
                Some(Fault::new(key, "is for auth: client_secret"))
            }
            (ProviderAuth::PrivateKeyJwt | ProviderAuth::None, None) => None,
        }
    }
}

/// Whether people can be shown it as a name.
pub(super) fn is_title(text: &str) -> bool {
    !text.trim().is_empty() && text.len() <= TITLE_BYTES_MAX && !text.chars().any(char::is_control)
}

fn is_https(url: &str) -> bool {
    url.split_once("://").is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("https"))
}

fn is_claim(name: &str) -> bool {
    !name.is_empty() && name.len() <= CLAIM_BYTES_MAX && name.bytes().all(|byte| byte.is_ascii_graphic())
}

fn is_domain(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    !name.is_empty() && name.len() <= VALUE_BYTES_MAX && name.bytes().all(fits)
}

fn usual_scopes() -> BTreeSet<String> {
    ["openid", "email", "profile"].map(str::to_owned).into()
}

fn subject() -> String {
    "sub".to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn people(value: Value) -> PeopleSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_person_is_named_by_the_claim_of_the_manifest_and_by_an_address_only_if_it_is_verified() {
        let email = || people(json!({"user": "email"}));
        let acme = || people(json!({"user": "email", "domains": ["acme.example"], "require": {"hd": "acme.example"}}));
        let known = json!({"email": "jane@acme.example", "email_verified": true, "hd": "acme.example"});
        let with = |name: &str, value: Value| {
            let mut claims = known.clone();
            claims[name] = value;
            claims
        };
        for (people, said, user) in [
            (people(json!({})), json!({"sub": "u1"}), Ok("u1")),
            (people(json!({})), json!({"sub": "a b"}), Err(Nobody::Unnamed)),
            (people(json!({})), json!({"sub": 7}), Err(Nobody::Unnamed)),
            (people(json!({"user": "upn"})), json!({"sub": "u1"}), Err(Nobody::Unnamed)),
            (email(), json!({"email": "j@a.example", "email_verified": true}), Ok("j@a.example")),
            (email(), json!({"email": "j@a.example", "email_verified": "true"}), Err(Nobody::Unverified)),
            (email(), json!({"email": "j@a.example", "email_verified": false}), Err(Nobody::Unverified)),
            (email(), json!({"email": "j@a.example"}), Err(Nobody::Unverified)),
            (acme(), known.clone(), Ok("jane@acme.example")),
            (acme(), with("email", json!("jane@other.example")), Err(Nobody::Domain)),
            (acme(), with("email", json!("acme.example")), Err(Nobody::Domain)),
            (acme(), with("email", json!("jane@evil.acme.example")), Err(Nobody::Domain)),
            (acme(), with("email", json!("acme.example@other.example")), Err(Nobody::Domain)),
            (acme(), with("hd", json!("other.example")), Err(Nobody::Required)),
            (acme(), with("hd", json!(["acme.example"])), Err(Nobody::Required)),
            (acme(), with("hd", Value::Null), Err(Nobody::Required)),
        ] {
            assert_eq!(people.user_of(&claims(said.clone())), user, "{said}");
        }
    }

    #[test]
    fn groups_are_the_mapped_ones_or_all_that_have_a_name_and_never_guessed() {
        let all = || people(json!({"groups": {"claim": "groups"}}));
        let mapped = || people(json!({"groups": {"claim": "groups", "map": {"id-1": "finance", "id-2": "finance"}}}));
        let set = |names: &[&str]| Ok(Some(names.iter().map(ToString::to_string).collect::<BTreeSet<_>>()));
        let many: Vec<String> = (0..=GROUPS_MAX).map(|number| format!("g{number}")).collect();
        for (people, said, groups) in [
            (people(json!({})), json!({"groups": ["a"]}), Ok(None)),
            (all(), json!({"groups": ["b", "a", "a", "no name", "/x"]}), set(&["a", "b"])),
            (all(), json!({"groups": "a"}), set(&["a"])),
            (all(), json!({}), set(&[])),
            (all(), json!({"groups": []}), set(&[])),
            (mapped(), json!({"groups": ["id-1", "id-2", "finance", "id-3"]}), set(&["finance"])),
            (all(), json!({"groups": ["a", 7]}), Err(Nobody::GroupsUnreadable)),
            (all(), json!({"groups": {"a": true}}), Err(Nobody::GroupsUnreadable)),
            (all(), json!({"groups": many}), Err(Nobody::GroupsUnreadable)),
            (mapped(), json!({"groups": many}), set(&[])),
            (all(), json!({"_claim_names": {"groups": "src1"}}), Err(Nobody::GroupsElsewhere)),
            (all(), json!({"_claim_names": {"groups": "src1"}, "groups": ["a"]}), Err(Nobody::GroupsElsewhere)),
            (all(), json!({"_claim_names": "groups"}), Err(Nobody::GroupsElsewhere)),
            (all(), json!({"hasgroups": true}), Err(Nobody::GroupsElsewhere)),
            (all(), json!({"hasgroups": "true"}), Err(Nobody::GroupsElsewhere)),
            (all(), json!({"hasgroups": false, "_claim_names": {"other": "src1"}}), set(&[])),
        ] {
            assert_eq!(people.groups_of(&claims(said.clone())), groups, "{said}");
        }
    }
}

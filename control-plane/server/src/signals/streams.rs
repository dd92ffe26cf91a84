//! Streams of signals at their transmitters, asked for from here: made and changed, shown, verified and ended.
//!
//! Called by `admin` (and `verifying`), on any node. Nothing of it is kept: which stream is ours, the transmitter's
//! own list says, by our audience and where it delivers. Invariants: every request goes through the guard of
//! `outbound` with the manifest's networks, has one deadline and a largest answer, and follows nothing; secrets go to
//! the transmitter alone, and nothing that it answers is told but what is named in [`Stream`], bounded. Absent:
//! signals themselves (`signals`). Specification: OpenID SSF 1.0 §7, §8.1.

use std::{sync::Arc, time::Duration};

use bailiwick_control_plane_core::{
    resource::{IdentityProviderSpec, SignalsSpec, StreamSpec},
    signal::clip,
};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use self::answers::{Audience, Configured, Delivery, Listed, Status, is_text, read};
use super::push;
use crate::{
    domain::Domain,
    keys::Keys,
    minting,
    outbound::{Fetched, Form, Limits},
    providers::{ProviderUnavailable, Providers, StreamEndpoints},
};

mod answers;

/// Longest wait for one answer, and the largest: a list of streams.
const LIMITS: Limits = Limits { bytes_max: 128 * 1024, wait_max: Duration::from_secs(10) };
/// Most streams of a transmitter's list that are looked at.
const STREAMS_MAX: usize = 100;
/// Longest name of a stream, and longest text of a transmitter's that is told.
const TEXT_BYTES_MAX: usize = 512;
/// Most events that are told.
const EVENTS_MAX: usize = 64;
const PUSH: &str = "urn:ietf:rfc:8935";
const POLL: &str = "urn:ietf:rfc:8936";

/// Asks transmitters; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Streams {
    pub(crate) domain: Domain,
    pub(crate) keys: Keys,
    pub(crate) providers: Arc<Providers>,
}

/// What is told of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stream {
    pub(crate) id: String,
    /// `enabled`, `paused` or `disabled`; empty: the transmitter does not say.
    pub(crate) status: String,
    /// `push` or `poll`.
    pub(crate) delivery: &'static str,
    pub(crate) endpoint: String,
    pub(crate) events: Vec<String>,
    /// What an operator should know or do.
    pub(crate) notes: Vec<String>,
}

/// Why a transmitter did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StreamFault {
    #[error("there is no active identity provider of that name with signals")]
    Provider,
    #[error("its manifest does not say that the stream is set up from here: spec.signals.stream")]
    ByHand,
    #[error("the secret that spec.signals.{0} names is not known on this node, or cannot stand in a header")]
    Secret(&'static str),
    #[error("the hash of the secret that stream.push_secret names is not in spec.signals.push.secrets_sha256")]
    PushSecret,
    #[error("the transmitter cannot be asked ({word}): {0}", word = .0.word())]
    Unavailable(#[from] ProviderUnavailable),
    #[error("the transmitter's metadata names no {0}, or none on https: set the stream up at the transmitter")]
    Unnamed(&'static str),
    #[error("the transmitter does not deliver by {0}")]
    Method(&'static str),
    #[error("the transmitter does not accept the secret that spec.signals.stream.secret names (status {0})")]
    Unauthorized(u16),
    #[error("the transmitter has a stream of ours and makes no other: see `bailiwick signals stream status`")]
    Another,
    #[error("the transmitter was asked too often; try again later")]
    Often,
    #[error("the transmitter answers with status {0}")]
    Status(u16),
    #[error("the transmitter's answer cannot be read")]
    Answer,
    #[error("the transmitter has no such stream of ours")]
    Nothing,
    #[error("the transmitter has several streams of ours, name one with --stream: {0}")]
    Several(String),
    #[error("the provider's manifest does not let it speak for that user")]
    User,
}

/// A transmitter that is asked about one provider's stream.
struct Asked<'a> {
    streams: &'a Streams,
    provider: &'a str,
    spec: IdentityProviderSpec,
    signals: SignalsSpec,
    stream: Box<StreamSpec>,
    endpoints: StreamEndpoints,
    authorization: Zeroizing<String>,
}

impl Streams {
    /// Makes a stream as the manifest says, or makes the one there is so.
    pub(crate) async fn create(&self, provider: &str, named: &str) -> Result<Stream, StreamFault> {
        let asked = self.asked(provider).await?;
        let (method, delivery) = asked.delivery()?;
        let methods = &asked.endpoints.methods;
        if !methods.is_empty() && !methods.iter().any(|one| one == method) {
            return Err(StreamFault::Method(word(method)));
        }
        let mut wanted = json!({"delivery": delivery, "events_requested": asked.signals.events_wanted()});
        let url = asked.configuration()?;
        let configured: Configured = match asked.find(named, true).await? {
            Some(known) => {
                if let Some(members) = wanted.as_object_mut() {
                    members.insert("stream_id".to_owned(), known.stream_id.into());
                }
                read(&asked.call(Method::PATCH, url, Some(&wanted)).await?)?
            }
            None => read(&asked.call(Method::POST, url, Some(&wanted)).await?)?,
        };
        if !is_text(&configured.stream_id) {
            return Err(StreamFault::Answer);
        }
        let stream = asked.told(configured).await;
        tracing::info!(provider, stream = stream.id, "a stream of signals is set up at its transmitter");
        Ok(stream)
    }

    /// What the transmitter says of our stream.
    pub(crate) async fn show(&self, provider: &str, named: &str) -> Result<Stream, StreamFault> {
        let asked = self.asked(provider).await?;
        let known = asked.find(named, false).await?.ok_or(StreamFault::Nothing)?;
        Ok(asked.told(known).await)
    }

    /// Has a verification event sent that repeats `state`.
    pub(crate) async fn verify(&self, provider: &str, named: &str, state: &str) -> Result<Stream, StreamFault> {
        let asked = self.asked(provider).await?;
        let url = asked.endpoints.verification.as_deref().ok_or(StreamFault::Unnamed("verification_endpoint"))?;
        let known = asked.find(named, true).await?.ok_or(StreamFault::Nothing)?;
        asked.call(Method::POST, url, Some(&json!({"stream_id": known.stream_id, "state": state}))).await?;
        Ok(asked.told(known).await)
    }

    /// Ends our stream.
    pub(crate) async fn delete(&self, provider: &str, named: &str) -> Result<Stream, StreamFault> {
        let asked = self.asked(provider).await?;
        let known = asked.find(named, true).await?.ok_or(StreamFault::Nothing)?;
        asked.call(Method::DELETE, &about(asked.configuration()?, &known.stream_id), None).await?;
        tracing::info!(provider, stream = known.stream_id, "a stream of signals is ended at its transmitter");
        Ok(Stream { id: known.stream_id, ..Stream::default() })
    }

    /// Makes the stream be about a user, or not any more.
    pub(crate) async fn subject(
        &self,
        provider: &str,
        named: &str,
        (user, added): (&str, bool),
    ) -> Result<Stream, StreamFault> {
        let asked = self.asked(provider).await?;
        let (endpoint, unnamed) = match added {
            true => (&asked.endpoints.add_subject, "add_subject_endpoint"),
            false => (&asked.endpoints.remove_subject, "remove_subject_endpoint"),
        };
        let url = endpoint.as_deref().ok_or(StreamFault::Unnamed(unnamed))?;
        let subject = subject(&asked.spec, user).ok_or(StreamFault::User)?;
        let known = asked.find(named, true).await?.ok_or(StreamFault::Nothing)?;
        let mut body = json!({"stream_id": known.stream_id, "subject": subject});
        if let Some(members) = body.as_object_mut().filter(|_| added) {
            members.insert("verified".to_owned(), true.into());
        }
        asked.call(Method::POST, url, Some(&body)).await?;
        Ok(asked.told(known).await)
    }

    async fn asked<'a>(&'a self, provider: &'a str) -> Result<Asked<'a>, StreamFault> {
        let known = self.domain.read(|state| state.identity_providers.get(provider).map(|known| known.spec.clone()));
        let spec = known.filter(|spec| spec.active).ok_or(StreamFault::Provider)?;
        let signals = spec.signals.clone().ok_or(StreamFault::Provider)?;
        let stream = signals.stream.clone().ok_or(StreamFault::ByHand)?;
        let authorization = self.bearer(&stream.secret).ok_or(StreamFault::Secret("stream.secret"))?;
        let endpoints = self.providers.stream_endpoints(&spec).await?;
        Ok(Asked { streams: self, provider, spec, signals, stream, endpoints, authorization })
    }

    fn bearer(&self, name: &str) -> Option<Zeroizing<String>> {
        let secret = self.keys.for_provider(name)?;
        let secret = std::str::from_utf8(&secret).ok()?.trim();
        (!secret.is_empty()).then(|| Zeroizing::new(format!("Bearer {secret}")))
    }
}

impl Asked<'_> {
    fn configuration(&self) -> Result<&str, StreamFault> {
        self.endpoints.configuration.as_deref().ok_or(StreamFault::Unnamed("configuration_endpoint"))
    }

    /// How it is to be delivered, by the manifest.
    fn delivery(&self) -> Result<(&'static str, Value), StreamFault> {
        let Some(name) = &self.stream.push_secret else { return Ok((POLL, json!({"method": POLL}))) };
        let shown = self.streams.bearer(name).ok_or(StreamFault::Secret("stream.push_secret"))?;
        let counts = self.signals.push.as_ref().is_some_and(|push| push::is_known(push, &shown));
        if !counts {
            return Err(StreamFault::PushSecret);
        }
        let delivery = json!({"method": PUSH, "endpoint_url": self.endpoint(), "authorization_header": shown.as_str()});
        Ok((PUSH, delivery))
    }

    /// Where signals of this provider are pushed to.
    fn endpoint(&self) -> String {
        let issuer = self.streams.domain.read(|state| minting::issuer(state).map(|(issuer, _)| issuer));
        format!("{}{}/{}", issuer.unwrap_or_default(), push::PATH, self.provider)
    }

    async fn call(&self, method: Method, url: &str, body: Option<&Value>) -> Result<Fetched, StreamFault> {
        let form = Form::by(method, body.map(ToString::to_string), &self.authorization);
        let form = form.ok_or(StreamFault::Secret("stream.secret"))?;
        let fetched = self.streams.providers.ask(&self.spec, url, &form, LIMITS).await?;
        match fetched.status {
            status if status.is_success() => Ok(fetched),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(StreamFault::Unauthorized(fetched.status.as_u16())),
            StatusCode::CONFLICT => Err(StreamFault::Another),
            StatusCode::TOO_MANY_REQUESTS => Err(StreamFault::Often),
            StatusCode::NOT_FOUND => Err(StreamFault::Nothing),
            status => Err(StreamFault::Status(status.as_u16())),
        }
    }

    /// Our stream, of those that the transmitter lists to us. With `exactly` another's is none of ours.
    async fn find(&self, named: &str, exactly: bool) -> Result<Option<Configured>, StreamFault> {
        let listed = match self.call(Method::GET, self.configuration()?, None).await {
            Ok(listed) => read(&listed)?,
            Err(StreamFault::Nothing) => Listed::Several(Vec::new()),
            Err(fault) => return Err(fault),
        };
        let mut all = match listed {
            Listed::One(one) => vec![*one],
            Listed::Several(all) => all,
        };
        all.truncate(STREAMS_MAX);
        all.retain(|one| is_text(&one.stream_id));
        if !named.is_empty() {
            let found = all.into_iter().find(|one| one.stream_id == named);
            return found.map(Some).ok_or(StreamFault::Nothing);
        }
        let (fit, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|one| self.is_ours(one));
        let (same, otherwise): (Vec<_>, Vec<_>) = fit.into_iter().partition(|one| self.is_delivered_so(one));
        // One that is delivered otherwise than the manifest says now was made by an earlier one.
        for mut found in [same, otherwise, others].into_iter().take(if exactly { 2 } else { 3 }) {
            match found.len() {
                0 => {}
                1 => return Ok(found.pop()),
                _ => {
                    let ids: Vec<_> = found.iter().map(|one| one.stream_id.as_str()).collect();
                    return Err(StreamFault::Several(clip(&ids.join(", "), TEXT_BYTES_MAX)));
                }
            }
        }
        Ok(None)
    }

    fn is_ours(&self, one: &Configured) -> bool {
        one.aud.has(&self.signals.audience)
            || one.delivery.as_ref().is_some_and(|to| to.endpoint_url.as_ref() == Some(&self.endpoint()))
    }

    fn is_delivered_so(&self, one: &Configured) -> bool {
        let Some(Delivery { method, endpoint_url }) = &one.delivery else { return false };
        match &self.stream.push_secret {
            Some(_) => method == PUSH && endpoint_url.as_ref() == Some(&self.endpoint()),
            None => method == POLL,
        }
    }

    /// What is told of it, with what does not fit the manifest.
    async fn told(&self, one: Configured) -> Stream {
        let Configured { stream_id, iss, aud, delivery, mut events_delivered } = one;
        events_delivered.truncate(EVENTS_MAX);
        let mut notes = Vec::new();
        let issuer = self.signals.issuer(&self.spec.issuer);
        if iss.as_deref().is_some_and(|iss| iss != issuer) {
            notes.push("its signals have another issuer than the manifest says: spec.signals.issuer".to_owned());
        }
        let audience = match &aud {
            Audience::Unsaid => None,
            Audience::One(one) => Some(one.as_str()),
            Audience::Several(all) => all.first().map(String::as_str),
        };
        if let Some(audience) = audience.filter(|_| !aud.has(&self.signals.audience)) {
            notes.push(format!("we are called {} there: spec.signals.audience", clip(audience, TEXT_BYTES_MAX)));
        }
        let missing = self.signals.events_wanted().into_iter().filter(|event| !events_delivered.contains(event));
        let missing: Vec<_> = missing.filter_map(|event| Some(event.rsplit_once('/')?.1.to_owned())).collect();
        if !missing.is_empty() {
            notes.push(format!("not sent there: {}", missing.join(", ")));
        }
        let (delivery, endpoint) = match delivery {
            Some(Delivery { method, endpoint_url }) => (word(&method), endpoint_url.unwrap_or_default()),
            None => ("", String::new()),
        };
        let endpoint = clip(&endpoint, TEXT_BYTES_MAX);
        let polled = self.signals.poll.as_ref().map(|poll| poll.url.as_str());
        if delivery == "poll" && polled != Some(endpoint.as_str()) {
            notes.push(format!("to poll it, the manifest has to say so: spec.signals.poll.url: {endpoint}"));
        }
        if self.endpoints.begins_empty {
            notes.push("it is about nobody but those who are added: `bailiwick signals stream add`".to_owned());
        }
        let status = self.status(&stream_id).await;
        let events = events_delivered.iter().map(|event| clip(event, TEXT_BYTES_MAX)).collect();
        Stream { id: stream_id, status, delivery, endpoint, events, notes }
    }

    /// A transmitter need not say how a stream does.
    async fn status(&self, stream_id: &str) -> String {
        let Some(url) = &self.endpoints.status else { return String::new() };
        let fetched = self.call(Method::GET, &about(url, stream_id), None).await;
        let status = fetched.and_then(|fetched| read::<Status>(&fetched)).map(|said| said.status);
        let known = ["enabled", "paused", "disabled"];
        status.ok().filter(|word| known.contains(&word.as_str())).unwrap_or_else(|| "unknown".to_owned())
    }
}

fn word(method: &str) -> &'static str {
    match method {
        PUSH => "push",
        POLL => "poll",
        _ => "other",
    }
}

/// The URL of what is about one stream.
fn about(url: &str, stream_id: &str) -> String {
    let query = form_urlencoded::Serializer::new(String::new()).append_pair("stream_id", stream_id).finish();
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}{query}")
}

/// A user as the transmitter knows them, if the provider may speak for them.
fn subject(spec: &IdentityProviderSpec, user: &str) -> Option<Value> {
    let people = &spec.people;
    let is_of = |domain: &String| user.rsplit_once('@').is_some_and(|(_, of)| of.eq_ignore_ascii_case(domain));
    let may =
        bailiwick_proto::names::is_person_name(user) && (people.domains.is_empty() || people.domains.iter().any(is_of));
    may.then(|| match people.user.as_str() {
        "email" => json!({"format": "email", "email": user}),
        "sub" => json!({"format": "iss_sub", "iss": spec.issuer, "sub": user}),
        _ => json!({"format": "opaque", "id": user}),
    })
}

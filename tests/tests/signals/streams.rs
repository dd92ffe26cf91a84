//! Streams that are set up at their transmitter from here (OpenID SSF 1.0 §8.1): made, verified, changed and ended; and
//! transmitters that lie, hang, or send elsewhere.

use std::{collections::BTreeMap, process::Output, sync::Arc};

use axum::{
    Router,
    body::Bytes,
    extract::{Query, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{any, post},
};

use super::*;
use crate::transmitter::{AUDIENCE, PUSH_SECRET, SSF, Shared, held};

/// What the transmitter wants to be shown where its streams are made.
const API_SECRET: &str = "66cc55dd44ee33ff2211";
const PUSH: &str = "urn:ietf:rfc:8935";
const POLL: &str = "urn:ietf:rfc:8936";

/// How the transmitter answers where its streams are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Api {
    #[default]
    Honestly,
    /// With a verification event that repeats something else.
    OtherState,
    /// And sends no verification event.
    Silent,
    Redirect,
    Giant,
    Lie,
    Refuse,
    /// It has another stream for us, which it does not list.
    Conflict,
}

/// What it was asked for.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    pub(crate) how: Api,
    pub(crate) streams: Vec<Value>,
    pub(crate) subjects: Vec<Value>,
    pub(crate) methods: Vec<String>,
    pub(crate) unauthorized: usize,
    /// Where its metadata says that streams are made, if not there.
    pub(crate) elsewhere: Option<String>,
    pub(crate) begins_empty: bool,
    number: usize,
}

pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/streams", any(streams))
        .route("/status", any(status))
        .route("/verify", post(verify))
        .route("/subjects/{what}", post(subjects))
}

pub(crate) fn metadata(shared: &Shared, metadata: &mut Value) {
    let base = &shared.base;
    let asked = held(&shared.asked);
    let configuration = asked.elsewhere.clone().unwrap_or_else(|| format!("{base}/streams"));
    metadata["configuration_endpoint"] = json!(configuration);
    metadata["status_endpoint"] = json!(format!("{base}/status"));
    metadata["verification_endpoint"] = json!(format!("{base}/verify"));
    metadata["add_subject_endpoint"] = json!(format!("{base}/subjects/add"));
    metadata["remove_subject_endpoint"] = json!(format!("{base}/subjects/remove"));
    metadata["default_subjects"] = json!(if asked.begins_empty { "NONE" } else { "ALL" });
}

fn answered(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

/// The answer of one that is not honest.
fn hostile(shared: &Shared, headers: &HeaderMap) -> Option<Response> {
    let mut asked = held(&shared.asked);
    let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if shown != Some(&format!("Bearer {API_SECRET}")) {
        asked.unauthorized += 1;
        return Some(StatusCode::UNAUTHORIZED.into_response());
    }
    match asked.how {
        Api::Honestly | Api::OtherState | Api::Silent | Api::Conflict => None,
        Api::Redirect => {
            let to = format!("{}/elsewhere", shared.base);
            Some((StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, to)]).into_response())
        }
        Api::Giant => Some(answered(&json!([{"stream_id": "x".repeat(1_000_000)}]))),
        Api::Lie => Some(answered(&json!({"stream_id": ["no", "text"]}))),
        Api::Refuse => Some(StatusCode::INTERNAL_SERVER_ERROR.into_response()),
    }
}

async fn streams(
    State(shared): State<Arc<Shared>>,
    method: Method,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    held(&shared.asked).methods.push(method.to_string());
    if let Some(response) = hostile(&shared, &headers) {
        return response;
    }
    let sent: Value = serde_json::from_slice(&body).unwrap_or_default();
    let mut asked = held(&shared.asked);
    match method.as_str() {
        "GET" => {
            // As the specification says, a secret that was given does not come back; this one is careless.
            answered(&json!(asked.streams))
        }
        "POST" if asked.how == Api::Conflict => StatusCode::CONFLICT.into_response(),
        "POST" => {
            asked.number += 1;
            let stream = made(&shared, &sent, &format!("stream {}", asked.number));
            asked.streams.push(stream.clone());
            (StatusCode::CREATED, answered(&stream)).into_response()
        }
        "PATCH" => {
            let known = asked.streams.iter_mut().find(|stream| stream["stream_id"] == sent["stream_id"]);
            let Some(known) = known else { return StatusCode::NOT_FOUND.into_response() };
            *known = made(&shared, &sent, sent["stream_id"].as_str().unwrap_or_default());
            answered(known)
        }
        "DELETE" => {
            let before = asked.streams.len();
            asked.streams.retain(|stream| query.get("stream_id").is_none_or(|id| stream["stream_id"] != id.as_str()));
            if asked.streams.len() < before { StatusCode::NO_CONTENT } else { StatusCode::NOT_FOUND }.into_response()
        }
        _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
    }
}

fn made(shared: &Shared, sent: &Value, id: &str) -> Value {
    let mut delivery = sent["delivery"].clone();
    if delivery["method"] == POLL {
        delivery["endpoint_url"] = json!(format!("{}/poll", shared.base));
    }
    // All but one.
    let wanted = sent["events_requested"].as_array().into_iter().flatten();
    let delivered: Vec<_> =
        wanted.clone().filter(|uri| !uri.as_str().unwrap_or_default().ends_with("purged")).collect();
    json!({
        "stream_id": id, "iss": format!("{}/tenant", shared.base), "aud": AUDIENCE, "delivery": delivery,
        "events_requested": sent["events_requested"], "events_delivered": delivered,
    })
}

async fn status(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    hostile(&shared, &headers).unwrap_or_else(|| answered(&json!({"stream_id": "stream 1", "status": "enabled"})))
}

async fn subjects(
    State(shared): State<Arc<Shared>>,
    axum::extract::Path(what): axum::extract::Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Some(response) = hostile(&shared, &headers) {
        return response;
    }
    let mut sent: Value = serde_json::from_slice(&body).unwrap_or_default();
    sent["what"] = json!(what);
    held(&shared.asked).subjects.push(sent);
    StatusCode::OK.into_response()
}

/// Sends the event that is asked for as the stream says.
async fn verify(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    if let Some(response) = hostile(&shared, &headers) {
        return response;
    }
    let sent: Value = serde_json::from_slice(&body).unwrap_or_default();
    let (how, stream) = {
        let asked = held(&shared.asked);
        let stream = asked.streams.iter().find(|stream| stream["stream_id"] == sent["stream_id"]).cloned();
        (asked.how, stream)
    };
    let Some(stream) = stream else { return StatusCode::NOT_FOUND.into_response() };
    if how == Api::Silent {
        return StatusCode::NO_CONTENT.into_response();
    }
    let state = if how == Api::OtherState { json!("another") } else { sent["state"].clone() };
    let jti = format!("verify-{}", sent["state"].as_str().unwrap_or_default());
    let claims = json!({
        "iss": format!("{}/tenant", shared.base), "aud": AUDIENCE, "jti": jti, "iat": transmitter::now(),
        "sub_id": {"format": "opaque", "id": stream["stream_id"]},
        "events": {format!("{SSF}/verification"): {"state": state}},
    });
    let Ok(jwt) = shared.sign(&claims) else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    if stream["delivery"]["method"] == POLL {
        held(&shared.said).queue.insert(jti, jwt);
        return StatusCode::NO_CONTENT.into_response();
    }
    let text = |name: &str| stream["delivery"][name].as_str().unwrap_or_default().to_owned();
    let request = shared.http.post(text("endpoint_url")).header("authorization", text("authorization_header"));
    let request = request.header("content-type", "application/secevent+jwt").header("accept", "application/json");
    match request.body(jwt).send().await {
        Ok(answer) if answer.status() == StatusCode::ACCEPTED => StatusCode::NO_CONTENT.into_response(),
        _ => StatusCode::BAD_GATEWAY.into_response(),
    }
}

impl World {
    /// With a stream that is set up from here, as soon as somebody says so.
    async fn to_be_set_up(push: bool) -> Result<Self> {
        let world = Self::start(Shape::Embedded, true, false).await?;
        Transmitter::seal_as(&world.deployment, "acme-api", API_SECRET)?;
        Transmitter::seal_as(&world.deployment, "acme-push", PUSH_SECRET)?;
        Transmitter::seal(&world.deployment)?;
        let stream = if push {
            json!({"secret": "acme-api", "push_secret": "acme-push"})
        } else {
            json!({"secret": "acme-api"})
        };
        world.deployment.apply(&world.transmitter.manifest(push, false, &json!({"stream": stream})))?;
        Ok(world)
    }

    fn asked(&self, arguments: &[&str]) -> Result<(Value, Output)> {
        let arguments = [&["signals", "stream"], arguments, &["-o", "json"]].concat();
        let output = self.deployment.cli(&arguments)?;
        let value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        Ok((value, output))
    }

    /// That it is refused, and why.
    fn refused(&self, arguments: &[&str]) -> Result<String> {
        let (value, output) = self.asked(arguments)?;
        ensure!(output.status.code() == Some(1), "{arguments:?}: {value} {output:?}");
        Ok(String::from_utf8(output.stderr)?)
    }

    fn how(&self, how: Api) {
        held(&self.transmitter.shared.asked).how = how;
    }

    /// What nobody is to read who may read logs, events and outputs.
    fn invariant_secrets_stay_secret(&self, outputs: &[String]) -> Result<()> {
        let records = self.deployment.audit(&["--limit", "1000"])?;
        let manifests = self.deployment.cli_ok(&["get", "identityprovider", "-o", "json"])?;
        for secret in [API_SECRET, PUSH_SECRET] {
            ensure!(!self.deployment.log().contains(secret), "a log");
            ensure!(!records.iter().any(|record| record.to_string().contains(secret)), "a record");
            ensure!(!manifests.contains(secret) && !outputs.iter().any(|text| text.contains(secret)), "an output");
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_made_verified_changed_and_ended_from_here() -> Result<()> {
    let world = World::to_be_set_up(true).await?;
    let (made, output) = world.asked(&["create", "acme"])?;
    ensure!(output.status.success(), "{made} {output:?}\n{}", world.deployment.log());
    ensure!(made["verified"] == true && made["status"] == "enabled" && made["delivery"] == "push", "{made}");
    let notes = made["notes"].to_string();
    ensure!(notes.contains("account-purged") && !notes.contains("account-disabled"), "{notes}");
    let to = format!("{}/ssf/events/acme", world.node().await?);
    {
        let asked = held(&world.transmitter.shared.asked);
        let [stream] = &asked.streams[..] else { anyhow::bail!("{asked:?}") };
        ensure!(stream["delivery"]["method"] == PUSH && stream["delivery"]["endpoint_url"] == to, "{stream}");
        ensure!(stream["delivery"]["authorization_header"] == format!("Bearer {PUSH_SECRET}"), "{stream}");
        let events = stream["events_requested"].to_string();
        ensure!(events.contains("/session-revoked") && events.contains("/sessions-revoked"), "{events}");
        ensure!(!events.contains("session-established") && !events.contains("verification"), "{events}");
        ensure!(asked.methods == ["GET", "POST", "GET"], "{:?}", asked.methods);
    }
    // Again: the same stream, as the manifest says now.
    let mut more = json!({"stream": {"secret": "acme-api", "push_secret": "acme-push"}});
    more["events"] = json!({"session-revoked": "end_sessions"});
    world.deployment.apply(&world.transmitter.manifest(true, false, &more))?;
    let (again, output) = world.asked(&["create", "acme"])?;
    ensure!(output.status.success() && again["stream"] == made["stream"] && again["notes"] == json!([]), "{again}");
    ensure!(held(&world.transmitter.shared.asked).streams.len() == 1, "another stream");
    ensure!(held(&world.transmitter.shared.asked).methods.contains(&"PATCH".to_owned()));
    let (verified, output) = world.asked(&["verify", "acme"])?;
    ensure!(
        output.status.success() && verified["verified"] == true && verified["verified_at"].is_string(),
        "{verified}"
    );
    // Whom it is about, where that is to be said.
    held(&world.transmitter.shared.asked).begins_empty = true;
    let (added, output) = world.asked(&["add", "acme", JANE])?;
    ensure!(output.status.success() && added["notes"].to_string().contains("signals stream add"), "{added}");
    ensure!(world.asked(&["remove", "acme", JANE])?.1.status.success());
    let subjects = held(&world.transmitter.shared.asked).subjects.clone();
    ensure!(subjects[0]["subject"] == json!({"format": "email", "email": JANE}), "{subjects:?}");
    ensure!(subjects[0]["verified"] == true && subjects[1]["what"] == "remove", "{subjects:?}");
    ensure!(world.refused(&["add", "acme", "jane@elsewhere.example"])?.contains("speak for"));
    let (shown, output) = world.asked(&["status", "acme"])?;
    ensure!(output.status.success() && shown["verified_at"].is_string(), "{shown}");
    ensure!(world.asked(&["delete", "acme"])?.1.status.success());
    ensure!(held(&world.transmitter.shared.asked).streams.is_empty());
    ensure!(world.refused(&["status", "acme"])?.contains("no such stream"));
    let received = world.events("signal_received", 3).await?;
    let repeats =
        |event: &Value| event["event"] == "verification" && event["state"].as_str().is_some_and(|s| s.len() == 32);
    ensure!(received.iter().all(repeats), "{received:?}");
    world.invariant_secrets_stay_secret(&[made, again, verified, shown].map(|value| value.to_string()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_polled_is_made_before_it_is_known_where_and_verified_then() -> Result<()> {
    let world = World::to_be_set_up(false).await?;
    let (made, output) = world.asked(&["create", "acme"])?;
    ensure!(output.status.success() && made["delivery"] == "poll", "{made} {output:?}");
    let url = made["endpoint"].as_str().context("endpoint")?.to_owned();
    ensure!(made["notes"].to_string().contains(&format!("spec.signals.poll.url: {url}")), "{made}");
    world.deployment.apply(&world.transmitter.manifest(false, true, &json!({"stream": {"secret": "acme-api"}})))?;
    let (verified, output) = world.asked(&["verify", "acme"])?;
    ensure!(
        output.status.success() && verified["verified"] == true,
        "{verified} {output:?}\n{}",
        world.deployment.log()
    );
    ensure!(!verified["notes"].to_string().contains("poll.url"), "{verified}");
    world.invariant_secrets_stay_secret(&[made.to_string(), verified.to_string()])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transmitter_that_lies_is_told_of_and_followed_nowhere() -> Result<()> {
    let world = World::to_be_set_up(true).await?;
    ensure!(world.asked(&["create", "acme", "--wait", "0s"])?.1.status.success());
    for how in [Api::OtherState, Api::Silent] {
        world.how(how);
        let why = world.refused(&["verify", "acme", "--wait", "2s"])?;
        ensure!(why.contains("has not come"), "{how:?}: {why}");
    }
    for (how, expected) in [
        (Api::Redirect, "status 307"),
        (Api::Giant, "answer_too_large"),
        (Api::Lie, "cannot be read"),
        (Api::Refuse, "status 500"),
    ] {
        world.how(how);
        for action in ["create", "status", "verify", "delete"] {
            let why = world.refused(&[action, "acme"])?;
            ensure!(why.contains(expected), "{how:?}, {action}: {why}");
        }
    }
    ensure!(world.transmitter.said().elsewhere == 0, "a redirect was followed");
    world.how(Api::Conflict);
    held(&world.transmitter.shared.asked).streams.clear();
    ensure!(world.refused(&["create", "acme"])?.contains("makes no other"));
    world.how(Api::Honestly);
    // Addresses that the manifest does not allow, and the node's own cloud, are asked for nothing.
    for elsewhere in ["http://169.254.169.254/latest", "http://10.1.2.3/streams"] {
        held(&world.transmitter.shared.asked).elsewhere = Some(elsewhere.to_owned());
        let why = world.refused(&["create", "acme"])?;
        ensure!(why.contains("address"), "{why}");
    }
    held(&world.transmitter.shared.asked).elsewhere = Some("file:///etc/passwd".to_owned());
    ensure!(world.refused(&["create", "acme"])?.contains("configuration_endpoint"));
    held(&world.transmitter.shared.asked).elsewhere = None;
    // Another secret than the manifest's hash is of, and another than the transmitter's.
    Transmitter::seal_as(&world.deployment, "acme-push", "another-secret-of-ours")?;
    ensure!(world.refused(&["create", "acme"])?.contains("secrets_sha256"));
    Transmitter::seal_as(&world.deployment, "acme-api", "not-what-it-wants")?;
    ensure!(world.refused(&["status", "acme"])?.contains("does not accept the secret"));
    ensure!(held(&world.transmitter.shared.asked).unauthorized > 0);
    ensure!(world.refused(&["status", "nobody"])?.contains("no active identity provider"));
    world.deployment.apply(&world.transmitter.manifest(true, false, &json!({})))?;
    ensure!(world.refused(&["status", "acme"])?.contains("spec.signals.stream"));
    world.invariant_secrets_stay_secret(&[])
}

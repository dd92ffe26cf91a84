//! What is fuzzed, and what is promised of each.

use std::time::Duration;

use bailiwick_data_plane_core::{
    listening::{Change, Wishes},
    sealed::request_state::salient,
};
use bailiwick_proto::mcp::{
    self, Headers, ID_BYTES_MAX, Incoming, JSON_DEPTH_MAX, METHOD_BYTES_MAX, Members, Message, PARAM_BYTES_MAX,
    PARAMS_MAX, RequestId, check_json, read_incoming, read_message,
};
use serde_json::{Value, value::RawValue};

use crate::{
    assertions, certificates, clients, conversation, edge, envelopes,
    mutate::{Random, changed},
    openapi, oracles, places, proofs, proxy,
    scim::fuzzed as directories,
    seeds,
    signals::fuzzed as events,
    sse::{Mark, SseReader},
};

/// A promise that was not kept.
#[derive(Debug)]
pub(crate) struct Broken(pub(crate) String);

/// True when the input was accepted.
pub(crate) type Checked = Result<bool, Broken>;

/// One thing that reads bytes of strangers.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) name: &'static str,
    seeds: fn(&mut Random) -> Vec<u8>,
    pub(crate) check: fn(&[u8]) -> Checked,
}

pub(crate) const TARGETS: [Target; 25] = [
    Target { name: "json", seeds: json_or_message, check: json },
    Target { name: "message", seeds: a_message, check: message },
    Target { name: "answer", seeds: a_message, check: answer },
    Target { name: "headers", seeds: some_headers, check: headers },
    Target { name: "stream", seeds: a_stream, check: stream },
    Target { name: "envelope", seeds: envelopes::one, check: envelopes::check },
    Target { name: "wishes", seeds: a_message, check: wishes },
    Target { name: "edge", seeds: edge::one, check: edge::check },
    Target { name: "openapi", seeds: openapi::one, check: openapi::check },
    Target { name: "conversation", seeds: conversation::one, check: conversation::check },
    Target { name: "proxy", seeds: proxy::one, check: proxy::check },
    Target { name: "host", seeds: places::a_host, check: places::host },
    Target { name: "network", seeds: places::a_network, check: places::network },
    Target { name: "sse-address", seeds: places::an_address, check: places::sse_address },
    Target { name: "assertion", seeds: assertions::one, check: assertions::assertion },
    Target { name: "key-set", seeds: assertions::a_set, check: assertions::key_set },
    Target { name: "redirect", seeds: clients::redirects, check: clients::redirect },
    Target { name: "form", seeds: clients::a_form, check: clients::form },
    Target { name: "filter", seeds: directories::a_filter, check: directories::filter },
    Target { name: "patch", seeds: directories::a_patch, check: directories::check_patch },
    Target { name: "event", seeds: events::one, check: events::check },
    Target { name: "dpop", seeds: proofs::a_dpop_proof, check: proofs::dpop },
    Target { name: "proof", seeds: proofs::a_proof, check: proofs::proof },
    Target { name: "context", seeds: proofs::a_context, check: proofs::check_context },
    Target { name: "client-cert", seeds: certificates::one, check: certificates::check },
];

/// What a case is about.
pub(crate) fn input(target: &Target, seed: u64, case: u64) -> Vec<u8> {
    (target.seeds)(&mut Random::new(seed, target.name, case))
}

/// Says what is broken unless `held`.
pub(crate) fn promise(held: bool, what: &str) -> Result<(), Broken> {
    if held { Ok(()) } else { Err(Broken(what.to_owned())) }
}

pub(crate) fn from(random: &mut Random, texts: &[&str]) -> Vec<u8> {
    let seed = random.pick(texts).copied().unwrap_or_default();
    changed(random, seed.as_bytes(), texts)
}

fn json_or_message(random: &mut Random) -> Vec<u8> {
    if random.below(2) == 0 { from(random, &seeds::JSON) } else { from(random, &seeds::MESSAGES) }
}

pub(crate) fn a_message(random: &mut Random) -> Vec<u8> {
    from(random, &seeds::MESSAGES)
}

pub(crate) fn some_headers(random: &mut Random) -> Vec<u8> {
    from(random, &seeds::HEADERS)
}

fn a_stream(random: &mut Random) -> Vec<u8> {
    from(random, &seeds::STREAMS)
}

/// What passes is what an ordinary reader takes, with every member written once and within the depth; all of that
/// passes.
fn json(input: &[u8]) -> Checked {
    let strict = check_json(input);
    let ordinary = std::str::from_utf8(input).ok().zip(serde_json::from_slice::<Value>(input).ok());
    let expected = ordinary.is_some_and(|(text, value)| {
        oracles::members_written(text) == oracles::members_kept(&value) && oracles::depth(&value) <= JSON_DEPTH_MAX
    });
    promise(strict.is_ok() == expected, &format!("{strict:?}, but two readings: {}", !expected))?;
    Ok(expected)
}

/// What passes has one reading, within bounds, and says the same when it is written anew. (Numbers count as they are
/// written, so texts with digits are left out where that matters.)
fn message(input: &[u8]) -> Checked {
    let Ok(message) = read_message(input) else { return Ok(false) };
    let Ok(value) = serde_json::from_slice::<Value>(input) else { return Err(Broken("not even JSON".to_owned())) };
    let (id, method, params) = match &message {
        Message::Request(request) => (Some(&request.id), Some(&request.method), request.params.as_deref()),
        Message::Notification(notification) => (None, Some(&notification.method), notification.params.as_deref()),
        Message::Reply(reply) => (Some(&reply.id), None, None),
    };
    promise(value.get("jsonrpc") == Some(&Value::from("2.0")), "another protocol")?;
    promise(id.is_some() == value.get("id").is_some(), "an id is made up or lost")?;
    promise(id.is_none_or(|id| id.to_json().len() <= 6 * ID_BYTES_MAX), "the id is too long")?;
    promise(
        id.is_none_or(|id| serde_json::from_str::<Value>(&id.to_json()).ok().as_ref() == value.get("id")),
        "another id",
    )?;
    let Some(method) = method else { return Ok(true) };
    promise(!method.is_empty() && method.len() <= METHOD_BYTES_MAX, "the method is too long")?;
    promise(value.get("method").and_then(Value::as_str) == Some(method), "another method")?;
    let again = mcp::request_body(id, method, params);
    promise(
        serde_json::from_slice::<Value>(&again).ok().as_ref() == Some(&value),
        "says something else when written anew",
    )?;
    promise(read_message(&again).is_ok(), "what was written is not read")?;
    let written_anew = value.get("params").and_then(|params| RawValue::from_string(params.to_string()).ok());
    if let (Some(members), Some(anew)) = (params.and_then(Members::of), written_anew.as_deref().and_then(Members::of))
        && !params.is_some_and(|params| params.get().contains(|c: char| c.is_ascii_digit()))
    {
        promise(salient(&anew) == salient(&members), "spaces and escapes count")?;
    }
    Ok(true)
}

/// A server's message is an answer to what was asked, or it is no answer.
fn answer(input: &[u8]) -> Checked {
    let asked = RequestId::from(7);
    match read_incoming(input, &asked) {
        Ok(Incoming::Response(mcp::Response::Result(result))) => {
            let value = serde_json::from_slice::<Value>(input).unwrap_or_default();
            promise(value.get("id") == Some(&Value::from(7)), "an answer to something else")?;
            promise(value.get("error").is_none() && value.get("method").is_none(), "more than an answer")?;
            promise(read_incoming(&mcp::result_body(&asked, &result), &asked).is_ok(), "what was written is not read")?;
            Ok(true)
        }
        Ok(Incoming::Response(mcp::Response::Error(error))) => {
            promise(error.message.chars().count() <= mcp::ERROR_MESSAGE_CHARS_MAX, "the error is too long")?;
            promise(
                read_incoming(&mcp::error_body(Some(&asked), &error), &asked).is_ok(),
                "what was written is not read",
            )?;
            Ok(true)
        }
        Ok(Incoming::Request(_) | Incoming::Notification(_)) => Ok(true),
        Err(_) => Ok(false),
    }
}

/// Header lines as pairs; a line without a colon is a name without a value.
pub(crate) fn header_lines(input: &[u8]) -> Vec<(String, Vec<u8>)> {
    let lines = input.split(|byte| *byte == b'\n').map(|line| {
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (name, value) = line.split_at(colon);
        (String::from_utf8_lossy(name).into_owned(), value.strip_prefix(b":").unwrap_or(value).to_vec())
    });
    lines.collect()
}

/// What is picked is visible and stood there once; every value survives being sent.
fn headers(input: &[u8]) -> Checked {
    let text = String::from_utf8_lossy(input);
    let encoded = mcp::encode_value(&text);
    promise(encoded.bytes().all(|byte| matches!(byte, 0x20..=0x7e | b'\t')), "an encoded value is not visible")?;
    promise(mcp::decode_value(&encoded).ok().as_deref() == Some(&*text), "an encoded value decodes to something else")?;
    let lines = header_lines(input);
    let Ok(picked) = Headers::pick(lines.iter().map(|(name, value)| (name.as_str(), value.as_slice()))) else {
        return Ok(false);
    };
    let Headers { protocol_version, session_id, method, name, params } = picked;
    let slots = [protocol_version, session_id, method, name];
    let times = |wanted: &str| lines.iter().filter(|(name, _)| name.eq_ignore_ascii_case(wanted)).count();
    let names = ["mcp-protocol-version", "mcp-session-id", "mcp-method", "mcp-name"];
    for (slot, name) in slots.iter().zip(names) {
        promise(times(name) == usize::from(slot.is_some()), "a header is made up, lost or repeated")?;
    }
    promise(params.len() <= PARAMS_MAX && params.values().all(|value| value.len() <= PARAM_BYTES_MAX), "too much")?;
    let visible = |value: &String| value.bytes().all(|byte| matches!(byte, 0x20..=0x7e | b'\t'));
    promise(slots.iter().flatten().chain(params.values()).all(visible), "a value is not visible")?;
    Ok(slots.iter().flatten().next().is_some())
}

/// However a stream is cut into chunks, its events are those that a slow reading of the whole finds.
fn stream(input: &[u8]) -> Checked {
    let expected = oracles::events(input);
    let (mut whole, mut mark) = (SseReader::default(), Mark::default());
    promise(whole.feed(input) == expected, "other events than in the text")?;
    whole.note(&mut mark);
    let noted = (mark.last_id.map(|id| id.as_bytes().to_vec()), mark.retry);
    let (last_id, retry) = oracles::goes_on(input);
    promise(noted == (last_id, retry.map(Duration::from_millis)), "it goes on elsewhere than the text says")?;
    let mut reader = SseReader::default();
    let bytewise: Vec<Vec<u8>> = input.iter().flat_map(|byte| reader.feed(&[*byte])).collect();
    promise(bytewise == expected, "other events when it comes byte by byte")?;
    Ok(!expected.is_empty())
}

/// Wishes that are read are within bounds, and say the same when they are written.
fn wishes(input: &[u8]) -> Checked {
    let Ok(message) = read_message(input) else { return Ok(false) };
    let params = match &message {
        Message::Request(request) => request.members(),
        Message::Notification(notification) => {
            drop(Change::of(notification));
            notification.members()
        }
        Message::Reply(_) => return Ok(false),
    };
    let Ok(wishes) = Wishes::of(&params) else { return Ok(false) };
    let written = mcp::raw_object([("notifications", &*wishes.json())]);
    let again = Members::of(&written).and_then(|again| Wishes::of(&again).ok());
    promise(again.as_ref() == Some(&wishes), "other wishes when written anew")?;
    Ok(true)
}

//! Listeners and servers of both eras, in virtual time: whatever the pair, what changes is told, once, in bounds.

mod pair;
mod sights;
mod tasks;

use std::collections::BTreeSet;

use bailiwick_proto::mcp::{
    Era, Incoming, Members, Message, Notification, RequestId, Response, VERSION_2025_11_25, raw, read_incoming,
    read_message,
};
use serde_json::{Value, json};

use self::pair::World;
use super::{
    source::{Closed, GOOD_MS, Offers, PAUSE_MS_MAX, PAUSE_MS_MIN, Source, SourceOutput},
    *,
};

const LEGACY: Era = Era::Legacy(VERSION_2025_11_25);
const HOUR: u64 = 60 * 60 * 1_000;
const ALL: Offers = Offers { tools: true, prompts: true, resources: true, subscribe: true, tasks: true };

fn wishes(uris: &[&str]) -> Wishes {
    Wishes { uris: uris.iter().map(|uri| (*uri).to_owned()).collect(), ..Wishes::lists() }
}

fn updated(uri: &str) -> Change {
    Change::Updated(uri.to_owned())
}

fn notification(change: &Change) -> Notification {
    let params = match change {
        Change::Updated(uri) => Some(raw(&json!({"uri": uri}))),
        _ => None,
    };
    Notification { method: change.method().to_owned(), params }
}

fn modern(wishes: Wishes, servers: &[&str]) -> Listening {
    let id = RequestId::Text("l-1".into());
    let servers = servers.iter().map(|server| (*server).to_owned());
    Listening::new(0, Listener::Modern(id), wishes, Sight::default(), servers, HOUR)
}

fn legacy() -> Listening {
    Listening::new(0, Listener::Legacy, Wishes::lists(), Sight::default(), ["s".to_owned()], HOUR)
}

fn drain(listening: &mut Listening, now: u64) -> Vec<Output> {
    std::iter::from_fn(|| listening.poll_output(now)).collect()
}

fn text(output: &Output) -> Value {
    match output {
        Output::Message(body) | Output::News(_, _, body) => serde_json::from_slice(body).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// What messages tell, after the acknowledgement.
fn told(outputs: &[Output]) -> Vec<Change> {
    let changes = outputs.iter().filter_map(|output| match output {
        Output::Message(body) => match read_message(body) {
            Ok(Message::Notification(told)) => Change::of(&told),
            _ => None,
        },
        Output::News(id, ..) => Some(Change::Task(id.clone())),
        Output::KeepAlive | Output::End => None,
    });
    changes.collect()
}

#[test]
fn every_pair_of_eras_tells_what_changes() {
    for era in [Era::Modern, LEGACY] {
        for is_modern in [true, false] {
            let mut listening = if is_modern { modern(wishes(&["file:///a"]), &["s"]) } else { legacy() };
            if !is_modern {
                listening.subscribe("file:///a").unwrap();
            }
            let mut world = World::new(listening, era, ALL);
            world.pass(10);
            world.take();
            let all = [Change::Tools, Change::Prompts, Change::Resources, updated("file:///a")];
            all.iter().for_each(|change| world.changes(change));
            world.changes(&updated("file:///other"));
            assert_eq!(told(&world.take()), all, "{era:?}, modern client: {is_modern}");
        }
    }
}

#[test]
fn a_modern_client_is_first_told_what_is_honoured_and_every_message_names_its_subscription() {
    let offers = Offers { prompts: false, subscribe: true, ..Offers::default() };
    for era in [Era::Modern, LEGACY] {
        let mut world = World::new(modern(wishes(&["file:///a"]), &["s"]), era, offers);
        world.changes(&updated("file:///a"));
        world.changes(&Change::Prompts);
        let written = world.take();
        let meta = json!({"io.modelcontextprotocol/subscriptionId": "l-1"});
        let honoured = json!({"toolsListChanged": true, "resourceSubscriptions": ["file:///a"]});
        assert_eq!(
            text(&written[0]),
            json!({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged",
                   "params": {"notifications": honoured, "_meta": meta}})
        );
        assert_eq!(
            text(&written[1]),
            json!({"jsonrpc": "2.0", "method": "notifications/resources/updated",
                   "params": {"uri": "file:///a", "_meta": meta}})
        );
        assert_eq!(written.len(), 2);
    }
}

#[test]
fn a_server_that_says_nothing_does_not_hold_up_the_acknowledgement() {
    let mut listening = modern(wishes(&[]), &["s", "dead"]);
    listening.handle_settled("s", &Wishes { resources: true, ..Wishes::default() });
    assert_eq!(drain(&mut listening, SETTLING_MS_MAX - 1), []);
    assert_eq!(listening.poll_timeout(), Some(SETTLING_MS_MAX));
    let written = drain(&mut listening, SETTLING_MS_MAX);
    let honoured = &text(&written[0])["params"]["notifications"];
    assert_eq!(*honoured, json!({"toolsListChanged": true, "resourcesListChanged": true}));
    listening.handle_settled("dead", &wishes(&[]));
    listening.handle_change(SETTLING_MS_MAX, Change::Prompts);
    assert_eq!(drain(&mut listening, SETTLING_MS_MAX), [], "what was not promised is not told");
}

#[test]
fn a_stream_on_which_nothing_can_come_ends_with_its_acknowledgement() {
    let asked = Wishes { prompts: true, ..Wishes::default() };
    let mut world = World::new(modern(asked, &["s"]), Era::Modern, Offers::default());
    let written = world.take();
    assert_eq!(text(&written[0])["params"]["notifications"], json!({}));
    assert_eq!(text(&written[1])["result"]["resultType"], "complete");
    assert_eq!(written[2..], [Output::End]);
    assert_eq!(world.listening.poll_timeout(), None);
}

#[test]
fn a_stream_ends_with_the_token_with_the_authority_and_after_an_hour() {
    let ends = |mut listening: Listening, at: u64| {
        listening.handle_settled("s", &wishes(&[]));
        drain(&mut listening, 0);
        assert!(!drain(&mut listening, at - 1).contains(&Output::End));
        let written = drain(&mut listening, at);
        assert_eq!(written.last(), Some(&Output::End));
        assert!(listening.poll_output(at + 1).is_none() && listening.poll_timeout().is_none());
        written
    };
    let until = |ends_at| {
        Listening::new(0, Listener::Modern(7.into()), wishes(&[]), Sight::default(), ["s".to_owned()], ends_at)
    };
    let written = ends(until(5_000), 5_000);
    let farewell = match &written[0] {
        Output::Message(body) => read_incoming(body, &7.into()).unwrap(),
        other => panic!("{other:?}"),
    };
    let Incoming::Response(Response::Result(result)) = farewell else { panic!("no result") };
    let meta = Members::of(&result).unwrap().object("_meta").unwrap().unwrap();
    assert_eq!(meta.read::<u64>("io.modelcontextprotocol/subscriptionId"), Ok(Some(7)));
    ends(until(u64::MAX), STREAM_MS_MAX);
    assert_eq!(ends(legacy(), STREAM_MS_MAX), [Output::End]);

    let mut revoked = modern(wishes(&[]), &["s"]);
    revoked.handle_end();
    let written = drain(&mut revoked, 1);
    assert_eq!(text(&written[0])["method"], "notifications/subscriptions/acknowledged", "it comes first, always");
    assert_eq!(written.last(), Some(&Output::End));
}

#[test]
fn an_id_comes_back_exactly_as_it_was_sent() {
    for id in ["123456789012345678901234567890", "-0", "\"a\\\"b\\u2028\"", "\"7\""] {
        let read = RequestId::read(serde_json::from_str(id).unwrap()).unwrap();
        let mut listening = Listening::new(0, Listener::Modern(read.clone()), wishes(&[]), Sight::default(), [], 1);
        listening.handle_end();
        for output in drain(&mut listening, 0) {
            let Output::Message(body) = output else { continue };
            let body = String::from_utf8(body).unwrap();
            assert!(body.contains(&format!("\"io.modelcontextprotocol/subscriptionId\":{}", read.to_json())), "{body}");
        }
    }
}

#[test]
fn silence_is_broken_in_time_for_proxies() {
    for listening in [modern(wishes(&[]), &["s"]), legacy()] {
        let mut world = World::new(listening, Era::Modern, ALL);
        world.take();
        world.pass(4 * KEEP_ALIVE_MS + 1);
        assert_eq!(world.take(), vec![Output::KeepAlive; 4]);
    }
}

#[test]
fn a_change_of_what_is_shown_is_told_without_any_server() {
    let mut listening = legacy();
    listening.handle_sight(0, Sight { tools: 1, others: 0 });
    assert_eq!(told(&drain(&mut listening, 0)), [Change::Tools]);
    listening.handle_sight(1_000, Sight { tools: 1, others: 5 });
    assert_eq!(told(&drain(&mut listening, 1_000)), [Change::Prompts, Change::Resources]);
    listening.handle_sight(2_000, Sight { tools: 1, others: 5 });
    assert_eq!(drain(&mut listening, 2_000), []);
}

#[test]
fn a_flood_is_told_four_times_a_second_and_its_last_change_is_not_lost() {
    let mut world = World::new(legacy(), LEGACY, ALL);
    for _ in 0..10_000 {
        world.changes(&Change::Resources);
    }
    assert_eq!(world.take().len(), 1);
    world.pass(COALESCE_MS);
    assert_eq!(told(&world.take()), [Change::Resources], "what came after the first is told too");
    world.pass(HOUR / 100);
    assert_eq!(told(&world.take()), []);
}

#[test]
fn a_flood_of_different_parts_is_bounded_and_a_slow_reader_gets_a_change_of_the_whole() {
    let mut listening = legacy();
    listening.subscribe("file:///a/").unwrap();
    for n in 0..100_000 {
        listening.handle_change(0, updated(&format!("file:///a/{n}")));
    }
    assert!(listening.pending.len() <= PENDING_MAX + URIS_MAX);
    let first = drain(&mut listening, 0);
    assert_eq!(first.len(), BURST_MAX);
    let mut all: BTreeSet<Change> = told(&first).into_iter().collect();
    let mut now = 0;
    while let Some(next) = listening.poll_timeout().filter(|next| *next < 10_000) {
        assert!(next > now, "time goes on");
        now = next;
        all.extend(told(&drain(&mut listening, now)));
    }
    assert!(all.contains(&updated("file:///a/")), "{}", all.len());
}

#[test]
fn a_broken_stream_is_opened_again_and_what_may_have_been_missed_counts_as_changed() {
    for era in [Era::Modern, LEGACY] {
        let mut listening = legacy();
        listening.subscribe("file:///a").unwrap();
        let mut world = World::new(listening, era, ALL);
        world.pass(GOOD_MS + 1);
        world.take();
        world.breaks();
        world.pass(10 * PAUSE_MS_MAX);
        let tries = world.opened.len() - 1;
        assert!((10..=17).contains(&tries), "{tries}");
        assert_eq!(told(&world.take()), [], "nothing is known to have changed yet");
        world.up = true;
        world.pass(PAUSE_MS_MAX);
        let missed = told(&world.take());
        assert_eq!(missed, [Change::Tools, Change::Prompts, Change::Resources, updated("file:///a")], "{era:?}");
        if !era.is_modern() {
            assert_eq!(world.subscribed, BTreeSet::from(["file:///a".to_owned()]), "a new stream, a new subscription");
        }
        world.pass(GOOD_MS);
        let opened = world.opened.len();
        world.breaks();
        world.up = true;
        world.pass(PAUSE_MS_MIN);
        assert_eq!(world.opened.len(), opened + 1, "after a good stream the pause is short");
    }
}

#[test]
fn a_server_without_streams_is_not_asked_again_and_promises_nothing() {
    let mut source = Source::new(LEGACY, ALL, wishes(&[]));
    assert_eq!(source.poll_output(), Some(SourceOutput::Open(1, wishes(&[]))));
    source.handle_closed(0, 1, Closed::Refused);
    assert_eq!(source.poll_output(), Some(SourceOutput::Settled(Wishes::default())));
    assert_eq!((source.poll_output(), source.poll_timeout()), (None, None));
}

#[test]
fn a_legacy_client_subscribes_and_unsubscribes_at_servers_of_both_eras() {
    for era in [Era::Modern, LEGACY] {
        let mut world = World::new(legacy(), era, ALL);
        world.listening.subscribe("file:///a").unwrap();
        world.source.handle_wishes(world.listening.wishes().clone());
        world.settle();
        world.take();
        world.changes(&updated("file:///a"));
        world.changes(&updated("file:///b"));
        assert_eq!(told(&world.take()), [updated("file:///a")], "{era:?}");
        assert_eq!(world.streams.len(), 1, "the old stream is closed when the new one is there");
        world.listening.unsubscribe("file:///a");
        world.source.handle_wishes(world.listening.wishes().clone());
        world.settle();
        world.changes(&updated("file:///a"));
        assert_eq!(told(&world.take()), []);
        assert_eq!(world.subscribed, BTreeSet::new());
    }
}

#[test]
fn a_legacy_client_that_listens_again_anywhere_is_told_what_it_may_have_missed() {
    let mut before = legacy();
    before.subscribe("file:///a").unwrap();
    before.handle_sight(0, Sight { tools: 1, others: 1 });
    let seen = before.seen();
    let again = |tools| {
        let sight = Sight { tools, others: 1 };
        let mut elsewhere = Listening::new(0, Listener::Legacy, Wishes::lists(), sight, [], HOUR);
        elsewhere.handle_resumed(0, &seen);
        told(&drain(&mut elsewhere, 0))
    };
    assert_eq!(again(1), [updated("file:///a")]);
    assert_eq!(again(2), [Change::Tools, Change::Prompts, Change::Resources, updated("file:///a")]);
}

#[test]
fn wishes_are_read_strictly_and_within_bounds() {
    let read = |params: Value| Wishes::of(&Members::of(&raw(&params)).unwrap());
    let some = json!({"notifications": {"toolsListChanged": true, "promptsListChanged": false,
        "resourceSubscriptions": ["file:///a", "file:///a"], "vendor/other": {}}});
    let expected = Wishes { tools: true, uris: BTreeSet::from(["file:///a".to_owned()]), ..Wishes::default() };
    assert_eq!(read(some), Ok(expected.clone()));
    assert_eq!(expected.json().get(), r#"{"toolsListChanged":true,"resourceSubscriptions":["file:///a"]}"#);
    for malformed in [
        json!({}),
        json!({"notifications": null}),
        json!({"notifications": []}),
        json!({"notifications": {"toolsListChanged": 1}}),
        json!({"notifications": {"resourceSubscriptions": "file:///a"}}),
        json!({"notifications": {"resourceSubscriptions": [1]}}),
    ] {
        assert_eq!(read(malformed.clone()), Err(WishesFault::Malformed), "{malformed}");
    }
    let uris = |count: usize| (0..count).map(|n| format!("file:///{n}")).collect::<Vec<_>>();
    assert!(read(json!({"notifications": {"resourceSubscriptions": uris(URIS_MAX)}})).is_ok());
    for too_much in [json!(uris(URIS_MAX + 1)), json!(["x".repeat(URI_BYTES_MAX + 1)]), json!([""])] {
        let params = json!({"notifications": {"resourceSubscriptions": too_much}});
        assert_eq!(read(params), Err(WishesFault::TooMuch));
    }
}

#[test]
fn a_change_of_a_part_is_a_change_of_the_whole_that_was_asked_for() {
    for (asked, changed, tells) in [
        ("file:///a", "file:///a", true),
        ("file:///a", "file:///a/b", true),
        ("file:///a/", "file:///a/b", true),
        ("file:///a", "file:///a#x", true),
        ("file:///a", "file:///ab", false),
        ("file:///a/b", "file:///a", false),
    ] {
        let covers = wishes(&[asked]).covers(&updated(changed));
        assert_eq!(covers, tells, "{asked} {changed}");
    }
}

#[test]
fn what_servers_offer_is_read_from_their_capabilities() {
    let of = |value: Value| Offers::of(&Members::of(&raw(&value)).unwrap());
    assert_eq!(of(json!({})), Offers::default());
    assert_eq!(of(json!({"tools": {}, "resources": {"subscribe": 1}, "prompts": []})), Offers::default());
    let some =
        json!({"tools": {"listChanged": true}, "resources": {"subscribe": true}, "prompts": {"listChanged": false}});
    assert_eq!(of(some), Offers { tools: true, subscribe: true, ..Offers::default() });
}

//! Whole rounds against a small server of the test's own, which stalls or refuses when it is told to.

use std::{
    io::{BufReader, Read as _, Write as _},
    net::TcpListener,
    thread,
    time::Duration,
};

use serde_json::json;

use super::{
    figures::{Scenario, TargetRounds},
    markdown, plot,
    possession::Possession,
    report::{Report, Settings},
    round::{self, Load, Round},
    target::{Call, Era, Http, Target, Token},
};

const GOOD: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[]}}"#;
const REFUSED: &str = r#"{"jsonrpc":"2.0","id":1,"error":{"code":403,"message":"no"}}"#;
const STALL: Duration = Duration::from_millis(400);

/// Answers over connections that stay open; `answer` gets the number of the request on its connection.
fn server(answer: fn(u32) -> &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/mcp", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut number = 0;
                while let Some(length) = head(&mut reader) {
                    reader.read_exact(&mut vec![0; length]).unwrap();
                    let body = answer(number);
                    number += 1;
                    let length = body.len();
                    let _ = write!(&stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
                }
            });
        }
    });
    url
}

/// Reads one request's head; its content length.
fn head(reader: &mut impl std::io::BufRead) -> Option<usize> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end().split_once(": ") {
            Some(("content-length", value)) => length = value.parse().unwrap(),
            None if line.trim_end().is_empty() => return Some(length),
            _ => {}
        }
    }
}

fn target(url: &str) -> Target {
    let call = Call { tool: Some("t".to_owned()), arguments: json!({}), era: Era::Modern, http: Http::One, ca: None };
    Target::new("gateway", url, Some((Token("secret".to_owned()), Possession::Bearer)), &call).unwrap()
}

fn measure(url: &str, callers: u32, rate: Option<f64>) -> Round {
    let (warm_up, measured) = (Duration::ZERO, Duration::from_millis(800));
    round::run(&target(url), &Load { callers, streams: 1, rate, threads: 2, warm_up, measured }, &[]).unwrap()
}

fn report(round: Round) -> Report {
    let mut rounds = TargetRounds::new("gateway");
    rounds.add(round);
    let settings = Settings {
        http: 1,
        streams: 1,
        era: "modern".to_owned(),
        method: "tools/call".to_owned(),
        rounds: 1,
        seconds: 0.8,
        warm_up: 0.0,
        cores: None,
        load_cores: None,
    };
    Report::of(settings, vec![Scenario::new(1, Some(100.0), &[], &[rounds])])
}

fn stalls_once(number: u32) -> &'static str {
    if number == 5 {
        thread::sleep(STALL);
    }
    GOOD
}

#[test]
fn calls_that_had_to_wait_for_a_stalled_server_count_their_waiting_in_an_open_loop() {
    let url = server(stalls_once);
    let open = measure(&url, 1, Some(100.0));
    // Calls were due all along the stall: a good part of all, not the one that met it.
    assert!(open.micros_at(80.0) > 100_000.0, "{}", open.micros_at(80.0));
    assert_eq!((open.refused, open.failed, open.unsent), (0, 0, 0));
    let closed = measure(&url, 1, None);
    assert!(closed.micros_at(80.0) < 100_000.0, "one call alone met it: {}", closed.micros_at(80.0));
}

#[test]
fn an_open_loop_sends_what_its_rate_says_however_many_threads_there_are() {
    let round = measure(&server(|_| GOOD), 4, Some(200.0));
    assert!((150..=161).contains(&round.latencies.len()), "{}", round.latencies.len());
}

#[test]
fn refused_calls_are_counted_apart_and_fail_the_run() {
    let round = measure(&server(|_| REFUSED), 2, None);
    assert!(round.refused > 0 && round.ended == 0 && round.failed == 0);
    let report = report(round);
    let trouble = report.troubles().unwrap_err().to_string();
    assert!(trouble.contains("403"), "{trouble}");
    assert!(markdown::of(&report, false).contains("refused"));
}

#[test]
fn broken_connections_are_failures_and_do_not_end_the_round() {
    // Less than it announces: the connection ends in the middle of an answer.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/mcp", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            if let Some(length) = head(&mut reader) {
                let _ = reader.read_exact(&mut vec![0; length]);
                let _ = write!(&stream, "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf");
            }
        }
    });
    let round = measure(&url, 2, None);
    assert!(round.failed > 1 && round.ended == 0, "{round:?}");
}

#[test]
fn a_report_is_read_again_as_it_was_written_and_holds_no_token() {
    let report = report(measure(&server(|_| GOOD), 1, Some(100.0)));
    report.troubles().unwrap();
    let text = serde_json::to_string(&report).unwrap();
    let again: Report = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_json::to_string(&again).unwrap(), text);
    let shown = markdown::of(&report, true) + &plot::of(&report.scenarios[0]) + &format!("{:?}", target("http://x/"));
    assert!(!(text + &shown).contains("secret"));
    assert!(shown.contains("open-1-at-100.svg") && shown.contains("<polyline"));
}

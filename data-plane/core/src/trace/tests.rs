//! Trace contexts: which are read, which are dropped, and what a hop makes of them.

use proptest::prelude::*;

use super::*;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";
const FRESH: FreshIds = FreshIds { trace_id: [7; 16], span_id: [9; 8] };
const ALL: Sampling = Sampling { thousandths: 1_000, follows_client: true };
const NONE: Sampling = Sampling { thousandths: 0, follows_client: true };

fn carried(meta: &str) -> Carried {
    let meta = RawValue::from_string(meta.to_owned()).unwrap();
    Carried::of_meta(Some(&meta))
}

fn context() -> SpanContext {
    SpanContext::parse(&format!("00-{TRACE}-{SPAN}-01")).unwrap()
}

#[test]
fn a_well_formed_traceparent_is_read_and_written_alike() {
    let text = format!("00-{TRACE}-{SPAN}-01");
    let context = context();
    assert_eq!((context.to_string(), context.trace_id_text()), (text, TRACE.to_owned()));
    assert!(context.is_sampled() && !SpanContext::parse(&format!("00-{TRACE}-{SPAN}-00")).unwrap().is_sampled());
}

#[test]
fn later_versions_are_read_as_far_as_the_first_goes() {
    for later in [format!("01-{TRACE}-{SPAN}-01"), format!("cc-{TRACE}-{SPAN}-01-more-of-it")] {
        assert_eq!(SpanContext::parse(&later), Some(context()), "{later}");
    }
    assert_eq!(SpanContext::parse(&format!("00-{TRACE}-{SPAN}-ff")).unwrap().flags, 3, "unknown flags do not travel");
}

#[test]
fn what_is_no_traceparent_is_dropped() {
    let zeros = "0".repeat(32);
    for wrong in [
        String::new(),
        "00-1".into(),
        format!("ff-{TRACE}-{SPAN}-01"),
        format!("00-{TRACE}-{SPAN}-01-"),
        format!("00-{TRACE}-{SPAN}-1"),
        format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
        format!("00-{zeros}-{SPAN}-01"),
        format!("00-{TRACE}-0000000000000000-01"),
        format!("00-{TRACE}-{SPAN}-01 "),
        format!("01-{TRACE}-{SPAN}-01x"),
        format!("00-{TRACE}\u{e9}-{SPAN}-01"),
    ] {
        assert_eq!(SpanContext::parse(&wrong), None, "{wrong}");
    }
}

#[test]
fn without_a_parent_there_is_no_state_and_invalid_parts_do_not_travel() {
    let sent = format!(
        r#"{{"traceparent":"00-{TRACE}-{SPAN}-01","tracestate":"rojo=00f0,t@sys=x y","baggage":"a=1;p,b=%20"}}"#
    );
    let read = carried(&sent);
    assert_eq!((read.parent, read.state.as_deref()), (Some(context()), Some("rojo=00f0,t@sys=x y")));
    assert_eq!(read.baggage.as_deref(), Some("a=1;p,b=%20"));
    assert_eq!(carried(r#"{"traceparent":"00-1","tracestate":"rojo=1"}"#), Carried::default());
    assert_eq!(carried(r#"{"traceparent":7,"baggage":["a"]}"#), Carried::default());
    for state in ["", "novalue", "UP=1", "a=1,a=2", "a==", "a=\u{e9}", "-a=1", "a="] {
        assert!(!is_tracestate(state), "{state}");
    }
    assert!(!is_tracestate(&"a=1,".repeat(TRACESTATE_BYTES_MAX)) && is_tracestate(" a=1 ,, b=2"));
    let crowded: Vec<_> = (0..=TRACESTATE_MEMBERS_MAX).map(|at| format!("k{at}=1")).collect();
    assert!(!is_tracestate(&crowded.join(",")));
    for baggage in ["", "novalue", "=1", "a b=1", "a=\"x\"", "a=1,,b=2", "a=\n", "a=\u{e9}"] {
        assert!(!is_baggage(baggage), "{baggage}");
    }
    assert!(!is_baggage(&format!("a={}", "x".repeat(BAGGAGE_BYTES_MAX))));
    assert!(!is_baggage(&vec!["a=1"; BAGGAGE_MEMBERS_MAX + 1].join(",")));
}

#[test]
fn a_hop_keeps_the_trace_and_names_its_own_span() {
    let own = SpanContext::begin(Some(&context()), FRESH, NONE);
    assert_eq!(own.to_string(), format!("00-{TRACE}-0909090909090909-01"), "the client's decision counts");
    let ours = Sampling { follows_client: false, ..NONE };
    assert!(!SpanContext::begin(Some(&context()), FRESH, ours).is_sampled());
    let read = carried(&format!(r#"{{"traceparent":"00-{TRACE}-{SPAN}-01","tracestate":"a=1","baggage":"b=2"}}"#));
    let sent: Vec<_> =
        read.by(own).to_members().into_iter().map(|(name, value)| (name, value.get().to_owned())).collect();
    let parent = format!("\"{own}\"");
    assert_eq!(
        sent,
        [("traceparent", parent), ("tracestate", r#""a=1""#.to_owned()), ("baggage", r#""b=2""#.to_owned())]
    );
}

#[test]
fn a_hop_rewrites_the_trace_context_and_nothing_else() {
    let meta = format!(
        r#"{{"com.example/a":{{"b":1.0}},"traceparent":"00-{TRACE}-{SPAN}-01","baggage":"no pair","progressToken":7}}"#
    );
    let meta = RawValue::from_string(meta).unwrap();
    let read = Carried::of_meta(Some(&meta));
    let within = |carried: &Carried, meta| carried.within(meta).map(|written| written.get().to_owned());
    let own = SpanContext::begin(read.parent.as_ref(), FRESH, ALL);
    let expected = format!(r#"{{"com.example/a":{{"b":1.0}},"progressToken":7,"traceparent":"{own}"}}"#);
    assert_eq!(within(&read.by(own), Some(&meta)), Some(expected));
    let dropped = Some(r#"{"com.example/a":{"b":1.0},"progressToken":7}"#.to_owned());
    assert_eq!(within(&Carried::default(), Some(&meta)), dropped);
    assert_eq!(within(&Carried::default(), None), None);
    assert_eq!(within(&read.by(own), None), Some(format!(r#"{{"traceparent":"{own}"}}"#)));
}

#[test]
fn a_trace_that_begins_here_is_sampled_by_its_id() {
    let begun = SpanContext::begin(None, FRESH, ALL);
    assert_eq!((begun.trace_id, begun.span_id, begun.is_sampled()), ([7; 16], [9; 8], true));
    assert!(!SpanContext::begin(None, FRESH, NONE).is_sampled());
    let half = Sampling { thousandths: 500, follows_client: true };
    let taken = (0..1_000_u16).filter(|number| {
        let mut trace_id = [1; 16];
        trace_id[14..].copy_from_slice(&number.to_be_bytes());
        SpanContext::begin(None, FreshIds { trace_id, ..FRESH }, half).is_sampled()
    });
    assert_eq!(taken.count(), 500);
}

proptest! {
    #[test]
    fn any_text_is_read_or_dropped_without_panic(text in any::<String>()) {
        drop(Carried::read(|_| Some(text.clone())));
        prop_assert!(SpanContext::parse(&text).is_none_or(|read| read.trace_id != [0; 16]));
    }

    #[test]
    fn what_travels_on_is_always_well_formed((trace_id, span_id, flags) in any::<([u8; 16], [u8; 8], u8)>()) {
        let text = format!("00-{}-{}-{flags:02x}", hex::encode(trace_id), hex::encode(span_id));
        let read = SpanContext::parse(&text);
        prop_assert_eq!(read.is_some(), trace_id != [0; 16] && span_id != [0; 8]);
        if let Some(read) = read {
            let own = SpanContext::begin(Some(&read), FRESH, ALL);
            prop_assert_eq!(SpanContext::parse(&own.to_string()), Some(own));
            prop_assert_eq!(own.trace_id, trace_id);
        }
    }
}

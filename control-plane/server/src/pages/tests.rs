//! What the pages hold against hostile texts, and what they owe to people without a mouse, a script or eyes.
//!
//! `samples` fills every field of every page with one text; `markup` takes the result apart. Real browsers look at the
//! pages in `tests/tests/browser.rs` and the tests of signing in.

use std::collections::BTreeSet;

use axum::{
    body::to_bytes,
    http::{StatusCode, header},
    response::IntoResponse,
};

use self::{
    markup::{Tag, tags},
    samples::{consent_request, everywhere},
};
use super::*;

mod markup;
mod samples;

const HOSTILE: [&str; 5] = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "' onfocus=alert(1) autofocus x='",
    "javascript:alert(1)//\u{202E}gnp.exe\u{2066}\0",
    "]]>--><style>*{display:none}</style>{{ 7*7 }}",
];
/// All that pages are made of.
const ELEMENTS: &str = "html head meta title link body header svg path span strong em code main h1 h2 p ul li a
    section form div label select option input button bdi dl dt dd fieldset legend table caption thead tbody tr th td";
const ATTRIBUTES: &str = "lang charset name content rel href class viewBox width height aria-hidden focusable d fill
    stroke stroke-width stroke-linejoin stroke-linecap role aria-labelledby id method action type value for required
    maxlength autocomplete autocapitalize autocorrect spellcheck aria-describedby aria-label formmethod hidden checked
    selected formnovalidate scope data-of";

#[test]
fn no_text_from_outside_becomes_markup() {
    let elements: BTreeSet<_> = ELEMENTS.split_whitespace().collect();
    let attributes: BTreeSet<_> = ATTRIBUTES.split_whitespace().collect();
    for text in HOSTILE {
        for (page, html) in everywhere(text) {
            let seen = tags(&html);
            for tag in &seen {
                assert!(elements.contains(tag.name.as_str()), "{page}: {text:?} made a {}", tag.name);
                for (name, value) in &tag.attributes {
                    assert!(attributes.contains(name.as_str()), "{page}: {text:?} made {name}={value}");
                    let leads = matches!(name.as_str(), "href" | "action");
                    assert!(!leads || value.starts_with(['/', '#']), "{page}: leads to {value}");
                }
            }
            // As many as a harmless text makes.
            let harmless = everywhere("text").into_iter().find(|(name, _)| *name == page).unwrap().1;
            assert_eq!(seen.len(), tags(&harmless).len(), "{page}: {text:?}");
        }
    }
}

#[test]
fn what_is_read_is_clipped_and_turns_nothing() {
    let long = format!("\u{202E}{}", "W".repeat(10_000));
    for (page, html) in everywhere(&long) {
        for read in html.split('<').filter_map(|part| part.split_once('>')).map(|(_, text)| text) {
            assert!(!read.contains('\u{202E}') && read.len() < 1_000, "{page}: {read}");
        }
    }
}

#[test]
fn what_comes_back_is_what_was_given() {
    let text = "a \"b\" <c> & 'd' \u{202E}\u{200B} é";
    let (_, html) = everywhere(text).into_iter().find(|(page, _)| *page == "consent").unwrap();
    for name in ["request", "tool", "agent"] {
        let field = tags(&html).into_iter().find(|tag| tag.name == "input" && tag.is("name", name)).unwrap();
        assert_eq!(field.value("value"), Some(text), "{name}");
    }
}

#[tokio::test]
async fn every_page_tells_the_browser_to_trust_nothing() {
    let check = |targets: &[&str], form_action: &str| {
        let response = respond(SignedOut {}, StatusCode::BAD_REQUEST, targets);
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        let mut seen: Vec<_> =
            response.headers().iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        seen.sort();
        let policy = format!(
            "content-security-policy: default-src 'none'; style-src 'self'; form-action {form_action}; \
             frame-ancestors 'none'; base-uri 'none'"
        );
        let expected = [
            "cache-control: no-store",
            &policy,
            "content-type: text/html; charset=utf-8",
            "cross-origin-opener-policy: same-origin",
            "referrer-policy: no-referrer",
            "x-content-type-options: nosniff",
            "x-frame-options: DENY",
        ];
        assert_eq!(seen, expected);
    };
    check(&[], "'self'");
    check(&["https://app.example:8443", "cursor:"], "'self' https://app.example:8443 cursor:");
    let hostile = ["*", "https://a; script-src *", "https://a\r\nSet-Cookie: a=b", "'unsafe-inline'", "", "a b:"];
    check(&hostile, "'self'");
}

#[tokio::test]
async fn a_page_that_cannot_be_rendered_is_guarded_too() {
    struct Failing;
    impl std::fmt::Display for Failing {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            Err(std::fmt::Error)
        }
    }
    #[derive(askama::Template)]
    #[template(source = "{{ value }}", ext = "html")]
    struct Broken {
        value: Failing,
    }
    let response = respond(Broken { value: Failing }, StatusCode::OK, &[]);
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(response.headers()[header::X_FRAME_OPTIONS], "DENY");
}

#[tokio::test]
async fn the_style_loads_nothing() {
    let response = style().await.into_response();
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/css; charset=utf-8");
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    let text = std::str::from_utf8(&body).unwrap();
    assert!(!["url(", "@import", "http:", "https:", "//"].iter().any(|word| text.contains(word)));
    for needed in ["prefers-color-scheme: dark", ":focus-visible"] {
        assert!(text.contains(needed), "{needed}");
    }
}

#[test]
fn every_field_has_its_label_and_every_page_its_heading() {
    for (page, html) in everywhere("text") {
        let tags = tags(&html);
        let count = |name: &str| tags.iter().filter(|tag| tag.name == name).count();
        assert_eq!((count("h1"), count("title"), count("main")), (1, 1, 1), "{page}");
        assert!(tags.iter().any(|tag| tag.is("name", "viewport")), "{page}");
        let ids: Vec<_> = tags.iter().filter_map(|tag| tag.value("id")).collect();
        assert_eq!(ids.len(), ids.iter().collect::<BTreeSet<_>>().len(), "{page}: an id is there twice");
        for reference in ["for", "aria-labelledby", "aria-describedby"] {
            let named = tags.iter().filter_map(|tag| tag.value(reference));
            named.for_each(|id| assert!(ids.contains(&id), "{page}: {reference}={id}"));
        }
        let labelled: BTreeSet<_> = tags.iter().filter_map(|tag| tag.value("for")).collect();
        let is_labelled = |tag: &Tag| tag.within("label") || tag.value("id").is_some_and(|id| labelled.contains(id));
        for field in tags.iter().filter(|tag| tag.is_field()) {
            assert!(is_labelled(field) && !field.text().is_empty(), "{page}: {field:?}");
            assert!(!field.is("type", "radio") || field.within("fieldset"), "{page}: {field:?}");
        }
        for button in tags.iter().filter(|tag| matches!(tag.name.as_str(), "button" | "a" | "legend" | "th")) {
            assert!(!button.text().is_empty(), "{page}: {button:?}");
        }
        assert_eq!(count("fieldset"), count("legend"), "{page}");
    }
}

#[test]
fn enter_in_a_field_allows_and_revokes_nothing() {
    for (page, html) in everywhere("text").into_iter().filter(|(page, _)| page.starts_with("consent")) {
        let first = tags(&html).into_iter().find(|tag| tag.name == "button" && tag.within("main")).unwrap();
        // Browsers press the first of the form's buttons that can be pressed.
        assert!(first.is("formmethod", "dialog") && first.value("hidden").is_some(), "{page}");
        assert_eq!(first.value("disabled"), None, "{page}");
    }
}

#[test]
fn the_question_has_all_answers() {
    let mut request = consent_request("text");
    let fields = |request: &ConsentRequest| -> Vec<(String, String, String)> {
        let html = askama::Template::render(request).unwrap();
        let of = |tag: &Tag, name| tag.value(name).unwrap_or_default().to_owned();
        let named = |tag: &Tag| (of(tag, "name"), of(tag, "type"), of(tag, "value"));
        tags(&html).iter().filter(|tag| tag.value("name").is_some() && tag.within("form")).map(named).collect()
    };
    let has = |request: &ConsentRequest, name: &str, kind: &str, value: &str| {
        fields(request).contains(&(name.into(), kind.into(), value.into()))
    };
    for (name, kind, value) in [
        ("request", "hidden", "text"),
        ("agent", "radio", "text"),
        ("level", "radio", "retrieval"),
        ("level", "radio", "destructive"),
        ("only", "radio", "all"),
        ("only", "radio", "listed"),
        ("tool", "checkbox", "text"),
        ("duration", "radio", "3600"),
        ("reason", "text", "text"),
        ("decision", "submit", "allow"),
        ("decision", "submit", "deny"),
    ] {
        assert!(has(&request, name, kind, value), "{name} {value}: {:?}", fields(&request));
    }
    request.agents.truncate(1);
    assert!(has(&request, "agent", "hidden", "text") && !has(&request, "agent", "radio", "text"));
}

#[test]
fn each_tool_says_in_words_what_it_can_do() {
    let html = askama::Template::render(&consent_request("text")).unwrap();
    let seen: Vec<String> =
        tags(&html).iter().filter(|tag| tag.is("name", "tool")).map(|tag| tag.text().to_owned()).collect();
    for (tool, words) in seen.iter().zip(["reads", "changes things", "may destroy"]) {
        assert!(tool.contains(words), "{tool}");
    }
    assert_eq!(seen.len(), 3);
}

#[test]
fn the_client_is_shown_for_what_it_is() {
    let check = |origin, is_loopback, words: &str, warned| {
        let mut request = consent_request("text");
        (request.client.origin, request.client.is_loopback) = (origin, is_loopback);
        let html = askama::Template::render(&request).unwrap();
        assert!(html.contains(words), "{words}");
        assert_eq!(html.contains("runs on this computer"), warned);
    };
    check(ClientOrigin::Administrator, false, "registered by an administrator", false);
    check(ClientOrigin::Itself, true, "registered itself, nobody vouched for it", true);
    check(ClientOrigin::Document("https://a.example".into()), false, "described at", false);
}

#[test]
fn what_is_in_force_comes_first_and_only_that_can_be_revoked() {
    let page = samples::consents("text", [ConsentState::Revoked, ConsentState::Expired, ConsentState::Live]);
    let html = askama::Template::render(&page).unwrap();
    let at = |words: &str| html.find(&format!(">{words}</span>")).unwrap();
    assert!(at("in force") < at("revoked") && at("revoked") < at("expired"));
    let tags = tags(&html);
    let ids = |name: &str| -> Vec<_> {
        tags.iter().filter(|tag| tag.is("name", name)).filter_map(|tag| tag.value("value")).collect()
    };
    assert_eq!((ids("consent"), ids("one"), ids("revoke")), (vec!["id-2"], vec!["id-2"], vec!["ticked"]));
    assert_eq!(ids("token"), ["text"]);
}

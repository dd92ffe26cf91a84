//! What clients of the authorization server send: where answers are to go, and parameters.
//!
//! Promised: whoever may be sent somewhere is sent where the client registered, by a browser's reading too, or to
//! another port of the same machine; nowhere that a browser makes something else of; and parameters are those that a
//! slow reading of the text finds, each once or not at all.

use bailiwick_control_plane_core::resource::redirect::{
    REDIRECT_URI_BYTES_MAX, is_loopback, is_redirect_uri, is_registered,
};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use url::{Host, Url};

use crate::{
    form::Form,
    mutate::{Random, changed},
    targets::{Broken, Checked, from, promise},
};

const URIS: [&str; 16] = [
    "https://app.example/done",
    "https://app.example:8443/done?x=1&y=%2F",
    "http://127.0.0.1:3333/callback",
    "http://127.0.0.1/callback",
    "http://[::1]:9/",
    "http://localhost:6274/oauth/callback",
    "com.example.app:/done",
    "cursor://anysphere.cursor-retrieval/oauth/callback",
    "http://127.0.0.1.evil.example/",
    "https://user@app.example/",
    "javascript:alert(1)",
    "http://127.0.0.1:3333@evil.example/callback",
    "https://app.example/a/../done",
    "http://0x7f.1:3333/callback",
    "https://ap[]p.example:8443/done",
    "http://127.0.0.1:+3333/callback",
];
const FORMS: [&str; 5] = [
    "grant_type=authorization_code&code=a%2Bb&redirect_uri=http%3A%2F%2F127.0.0.1%3A3000%2Fcb&code_verifier=x-._~",
    "response_type=code&client_id=editor&scope=mcp%3Aread+mcp:write&state=a%00b&resource=r&resource=s",
    "a=1&a=2&&=&b&c=&%61=3&d=%zz%4",
    "client_assertion=e30.e30.AA&client_assertion_type=urn%3Aietf",
    "one=x&one=y;z=1&two=%c3%a9%ff",
];
/// Schemes that a browser does something with by itself.
const OF_BROWSERS: [&str; 8] = ["javascript", "data", "vbscript", "file", "blob", "about", "ws", "ftp"];

/// Where a client wants its answer, and where it registered: often the same, or nearly.
pub(crate) fn redirects(random: &mut Random) -> Vec<u8> {
    let registered = random.pick(&URIS).copied().unwrap_or_default().as_bytes().to_vec();
    let wanted = match random.below(4) {
        0 => from(random, &URIS),
        _ => changed(random, &registered, &URIS),
    };
    [wanted, registered].join(b"\n".as_slice())
}

pub(crate) fn redirect(input: &[u8]) -> Checked {
    let Ok(text) = std::str::from_utf8(input) else { return Ok(false) };
    // The last line is what is registered: what somebody wants may have lines.
    let (wanted, registered) = text.rsplit_once('\n').unwrap_or((text, text));
    for uri in [wanted, registered].into_iter().filter(|uri| is_redirect_uri(uri) && !is_nobodys(uri)) {
        is_somebodys(uri)?;
        promise(is_registered(uri, [uri.to_owned()].iter()), "what is registered is not itself")?;
    }
    // Nothing else is ever registered.
    if !is_redirect_uri(registered) || !is_registered(wanted, [registered.to_owned()].iter()) {
        return Ok(false);
    }
    promise(is_redirect_uri(wanted), "what could not be registered is")?;
    if wanted != registered {
        let [there, known] = [browsers(wanted)?, browsers(registered)?];
        promise(there.scheme() == "http" && known.scheme() == "http", "another, and not of this machine")?;
        promise(is_address_here(&there) && there.host() == known.host(), "at another host")?;
        promise(there.path() == known.path() && there.query() == known.query(), "at another path")?;
    }
    Ok(true)
}

fn browsers(uri: &str) -> Result<Url, Broken> {
    Url::parse(uri).map_err(|error| Broken(format!("a browser does not read it: {error}")))
}

/// A name that stands for no other is nobody's; sending somebody there does no harm.
fn is_nobodys(uri: &str) -> bool {
    let named = uri.to_ascii_lowercase().contains("xn--");
    named && matches!(Url::parse(uri), Err(url::ParseError::IdnaError))
}

fn is_address_here(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => {
            address.is_loopback() || address.to_ipv4_mapped().is_some_and(|v4| v4.is_loopback())
        }
        Some(Host::Domain(_)) | None => false,
    }
}

/// A place that a browser finds where it is said to be, and that is a web server's or a program's.
fn is_somebodys(uri: &str) -> Result<(), Broken> {
    promise(uri.len() <= REDIRECT_URI_BYTES_MAX && uri.is_ascii(), "it is too long, or not visible")?;
    let scheme = uri.split(':').next().unwrap_or_default();
    if !["http", "https"].contains(&scheme) {
        // What follows is the program's business.
        let of_browsers = OF_BROWSERS.contains(&&*scheme.to_ascii_lowercase());
        return promise(!of_browsers && !is_loopback(uri), "a browser does something else");
    }
    let url = browsers(uri)?;
    promise(url.username().is_empty() && url.password().is_none(), "a user is in it")?;
    promise(url.fragment().is_none(), "a fragment is in it")?;
    let here = is_address_here(&url) || url.host_str() == Some("localhost");
    promise(url.scheme() == scheme && url.has_host(), "it is somewhere else")?;
    promise(scheme == "https" || here, "it is not of this machine, and in the open")?;
    promise(is_loopback(uri) == (scheme == "http"), "it is taken for what a browser does not find")
}

pub(crate) fn a_form(random: &mut Random) -> Vec<u8> {
    from(random, &FORMS)
}

pub(crate) fn form(input: &[u8]) -> Checked {
    let Ok(text) = std::str::from_utf8(input) else { return Ok(false) };
    let body = |kind| Form::read(&HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]), input);
    promise(body("text/plain").is_err(), "a text is taken for a form")?;
    let (of_query, of_body) = (Form::of_query(text), body("application/x-www-form-urlencoded; charset=utf-8"));
    promise(of_query.is_ok() == of_body.is_ok(), "a body is read otherwise than a query")?;
    let Ok(form) = of_body else { return Ok(false) };
    let found = slowly(text);
    for (name, _) in &found {
        let values: Vec<&str> =
            found.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect();
        promise(form.all(name) == values.as_slice(), "other values than in the text")?;
        promise(form.has(name), "a parameter is lost")?;
    }
    for name in ["grant_type", "client_id", "scope", "resource", "a", "one"] {
        let mut values = found.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str());
        match (form.one(name), values.next(), values.next()) {
            (Ok(None), None, _) | (Err(_), Some(_), Some(_)) => {}
            (Ok(Some(value)), Some(only), None) => promise(value == only, "another value")?,
            _ => return Err(Broken(format!("{name} is read in two ways"))),
        }
    }
    Ok(!found.is_empty())
}

/// Names and values that are not empty, in order; a percent sign without two digits stands for itself.
fn slowly(text: &str) -> Vec<(String, String)> {
    let pairs = text.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.map(|(name, value)| (decoded(name), decoded(value))).filter(|(_, value)| !value.is_empty()).collect()
}

fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let digits = digits.filter(|two| two.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match (first, digits.and_then(|two| u8::from_str_radix(two, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
                continue;
            }
            (b'+', _) => bytes.push(b' '),
            (other, _) => bytes.push(*other),
        }
        rest = after;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

//! One question to an authorization server, and which answers are its answers.
//!
//! Made for each sign-in. An answer counts if it has the question's `state`, compared in constant time, and says who it
//! is from where the server promised to (RFC 9207); of a server that does not fit, not even the error is shown.
//! Invariant: neither verifier nor state can be printed. Specifications: OAuth 2.1 §4.1; RFC 7636 §4, 9207 §2.4.

use aws_lc_rs::{digest, rand};
use bailiwick_token::same_secret;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use url::{Url, form_urlencoded};
use zeroize::Zeroizing;

use crate::{
    discovery::Authority,
    fault::{Fault, printable},
};

/// Bytes of randomness of a verifier and of a state.
const RANDOM_BYTES: usize = 32;
/// Longest answer: a code, and what else servers add.
pub(crate) const ANSWER_BYTES_MAX: usize = 8 * 1024;

/// See the file's header.
pub(crate) struct Question {
    url: Url,
    redirect_uri: String,
    verifier: Zeroizing<String>,
    state: Zeroizing<String>,
    issuer: String,
    names_itself: bool,
}

/// What came back, not looked at yet but for its `state`.
pub(crate) struct Answer {
    code: Option<Zeroizing<String>>,
    error: Option<String>,
    description: String,
    issuer: Option<String>,
}

impl Question {
    pub(crate) fn new(
        authority: &Authority,
        client_id: &str,
        scope: Option<&str>,
        jkt: Option<&str>,
        redirect_uri: &str,
    ) -> Result<Self, Fault> {
        let (verifier, state) = (random()?, random()?);
        let challenge = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, verifier.as_bytes()));
        let mut url = authority.authorization_endpoint.clone();
        let mut query = url.query_pairs_mut();
        query.extend_pairs([
            ("response_type", "code"),
            ("client_id", client_id),
            ("redirect_uri", redirect_uri),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
            ("resource", &authority.resource),
            ("state", &state),
        ]);
        query.extend_pairs(scope.map(|scope| ("scope", scope)));
        // RFC 9449 §10: the code is for the holder of this key.
        query.extend_pairs(jkt.map(|jkt| ("dpop_jkt", jkt)));
        drop(query);
        let (issuer, names_itself) = (authority.issuer.clone(), authority.names_itself);
        Ok(Self { url, redirect_uri: redirect_uri.to_owned(), verifier, state, issuer, names_itself })
    }

    /// Where the person goes.
    pub(crate) const fn url(&self) -> &Url {
        &self.url
    }

    pub(crate) fn verifier(&self) -> &str {
        &self.verifier
    }

    pub(crate) fn redirect_uri(&self) -> &str {
        &self.redirect_uri
    }

    /// The query of a request to the callback; `None` if it does not answer this question.
    pub(crate) fn answer(&self, query: &str) -> Option<Answer> {
        let answer = read(query)?;
        let state = answer.1.filter(|state| same_secret(state.as_bytes(), self.state.as_bytes()));
        state.map(|_| answer.0)
    }

    /// What a person pasted: the address that the browser was sent to, its query, or the bare code. A bare code has no
    /// state; that it is this question's, the verifier holds.
    pub(crate) fn pasted(&self, line: &str) -> Result<Answer, Fault> {
        let line = line.trim();
        if line.is_empty() || line.len() > ANSWER_BYTES_MAX {
            return Err(Fault::Pasted("paste the address that the browser was sent to at the end"));
        }
        let query = line.split_once('?').map_or(line, |(_, query)| query);
        if query.contains('=') && (query.contains("code=") || query.contains("error=")) {
            let another = Fault::Pasted("this answers another question: paste the address of this sign-in");
            return self.answer(query.split('#').next().unwrap_or_default()).ok_or(another);
        }
        if self.names_itself || !line.bytes().all(|byte| byte.is_ascii_graphic()) || line.contains("://") {
            return Err(Fault::Pasted("paste the whole address that the browser was sent to at the end"));
        }
        let code = Some(Zeroizing::new(line.to_owned()));
        Ok(Answer { code, error: None, description: String::new(), issuer: None })
    }

    /// The code, if the answer is from whom it should be and says yes.
    pub(crate) fn code(&self, answer: Answer) -> Result<Zeroizing<String>, Fault> {
        let is_ours = match &answer.issuer {
            Some(issuer) => *issuer == self.issuer,
            None => !self.names_itself,
        };
        if !is_ours {
            return Err(Fault::answer(&self.url, "the answer to the sign-in is from another server"));
        }
        if let Some(error) = answer.error {
            return Err(Fault::Refused { word: printable(&error), said: printable(&answer.description) });
        }
        answer.code.ok_or(Fault::answer(&self.url, "the answer to the sign-in has no code"))
    }
}

/// An answer and its state; `None` where something stands there twice, or it is too long.
fn read(query: &str) -> Option<(Answer, Option<Zeroizing<String>>)> {
    if query.len() > ANSWER_BYTES_MAX {
        return None;
    }
    let [mut code, mut error, mut description, mut issuer, mut state] = [None, None, None, None, None];
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let place = match name.as_ref() {
            "code" => &mut code,
            "error" => &mut error,
            "error_description" => &mut description,
            "iss" => &mut issuer,
            "state" => &mut state,
            _ => continue,
        };
        if place.replace(value.into_owned()).is_some() {
            return None;
        }
    }
    let code = code.map(Zeroizing::new);
    (code.is_some() != error.is_some()).then_some(())?;
    Some((Answer { code, error, description: description.unwrap_or_default(), issuer }, state.map(Zeroizing::new)))
}

/// Fresh, in base64url.
pub(crate) fn random() -> Result<Zeroizing<String>, Fault> {
    let mut bytes = Zeroizing::new([0; RANDOM_BYTES]);
    rand::fill(bytes.as_mut_slice()).map_err(|_| Fault::Randomness)?;
    Ok(Zeroizing::new(URL_SAFE_NO_PAD.encode(bytes.as_slice())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::possession::Offers;

    fn question(names_itself: bool) -> Question {
        let authority = Authority {
            resource: "https://mcp.example/mcp/shop".to_owned(),
            issuer: "https://login.example".to_owned(),
            authorization_endpoint: Url::parse("https://login.example/a?tenant=1").unwrap(),
            token_endpoint: Url::parse("https://login.example/t").unwrap(),
            registration_endpoint: None,
            revocation_endpoint: None,
            names_itself,
            scope: None,
            offers: Offers::default(),
        };
        Question::new(&authority, "c", Some("mcp:read"), Some("t"), "http://127.0.0.1:1/callback").unwrap()
    }

    fn query(question: &Question, more: &str) -> String {
        format!("state={}&{more}", *question.state)
    }

    #[test]
    fn the_question_asks_for_a_code_for_this_resource_with_pkce() {
        let question = question(true);
        let asked: std::collections::BTreeMap<_, _> = question.url().query_pairs().collect();
        let challenge = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, question.verifier().as_bytes()));
        for (name, value) in [
            ("tenant", "1"),
            ("response_type", "code"),
            ("resource", "https://mcp.example/mcp/shop"),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
            ("scope", "mcp:read"),
            ("dpop_jkt", "t"),
        ] {
            assert_eq!(asked.get(name).map(AsRef::as_ref), Some(value), "{name}");
        }
        assert!(asked["state"].len() >= 43 && question.verifier().len() >= 43);
        assert!(!question.url().as_str().contains(question.verifier()));
    }

    #[test]
    fn only_the_answer_with_the_state_answers() {
        let asked = question(true);
        assert!(asked.answer(&query(&asked, "code=x&iss=y")).is_some());
        let other = question(true);
        for forged in [
            "code=x".to_owned(),
            "code=x&state=".to_owned(),
            query(&other, "code=x"),
            query(&asked, &format!("code=x&state={}", *asked.state)),
            query(&asked, "code=x&code=y"),
            query(&asked, "code=x&error=y"),
            query(&asked, "iss=y"),
            query(&asked, &format!("code={}", "x".repeat(ANSWER_BYTES_MAX))),
        ] {
            assert!(asked.answer(&forged).is_none(), "{forged}");
        }
    }

    #[test]
    fn who_promised_to_name_itself_has_to() {
        for (names_itself, said, good) in [
            (true, "code=x&iss=https%3A%2F%2Flogin.example", true),
            (true, "code=x&iss=https%3A%2F%2Flogin.example%2F", false),
            (true, "code=x&iss=https%3A%2F%2Fevil.example", false),
            (true, "code=x", false),
            (false, "code=x", true),
            (false, "code=x&iss=https%3A%2F%2Fevil.example", false),
        ] {
            let question = question(names_itself);
            let code = question.code(question.answer(&query(&question, said)).unwrap());
            assert_eq!(code.is_ok(), good, "{names_itself} {said}");
        }
        let question = question(true);
        let refused =
            question.answer(&query(&question, "error=access_denied&error_description=pwned&iss=evil")).unwrap();
        assert!(
            !question.code(refused).unwrap_err().to_string().contains("pwned"),
            "of another server nothing is shown"
        );
    }

    #[test]
    fn an_address_a_query_or_a_bare_code_may_be_pasted() {
        let strict = question(true);
        let address =
            format!("http://127.0.0.1:1/callback?{}", query(&strict, "code=x&iss=https%3A%2F%2Flogin.example"));
        assert_eq!(*strict.code(strict.pasted(&format!(" {address}\n")).unwrap()).unwrap(), "x");
        assert!(strict.pasted("bare-code").is_err(), "the server says who it is, a bare code does not");
        assert!(strict.pasted("http://127.0.0.1:1/callback?code=x&state=other").is_err());
        assert!(strict.pasted("").is_err());
        let old = question(false);
        assert_eq!(*old.code(old.pasted("bare-code").unwrap()).unwrap(), "bare-code");
        assert!(old.pasted("https://login.example/a").is_err());
    }
}

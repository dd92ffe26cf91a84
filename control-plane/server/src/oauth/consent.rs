//! The question to a person, whether a client may act for them, and their answer.
//!
//! What was asked travels with the page, sealed to the session it is shown to, and names the consent that the answer
//! would make: an answer that is sent twice makes one. The person can narrow all of it; what they may allow at most is
//! the leader's decision (`authorization::decide_grant`). Called by `authorize`, and for the form.

use std::collections::BTreeSet;

use axum::{
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use bailiwick_control_plane_core::{
    Fulfilled, Rejection, State as Domain, Wish,
    authorization::{DeclineConsent, GrantConsent},
    client,
    refusal::Refusal,
    resource::redirect,
    virtual_server,
};
use bailiwick_proto::Tier;
use serde::{Deserialize, Serialize};

use super::{
    CONSENT_PATH, Services,
    clients::{self, KnownClient},
    form::Form,
    request::{Back, Fault, Holder, Request},
};
use crate::{
    clock,
    decisions::{Decided, Undecided},
    minting,
    pages::{self, AgentChoice, ClientShown, ConsentRequest, DurationChoice, Leaving, LevelChoice, ToolChoice},
    refusals::told_why,
    seal::Purpose,
    sign_in::{self, Session},
};

/// How long a question stands, in seconds.
const QUESTION_SECONDS: i64 = 600;
/// Most tools that are shown to be left out one by one.
const TOOLS_SHOWN_MAX: usize = 256;
/// Shortest reason that says something.
const REASON_CHARS_MIN: usize = 3;
/// For how long people may consent.
const DURATIONS: [(u64, &str); 4] =
    [(3_600, "One hour"), (8 * 3_600, "Eight hours"), (7 * 86_400, "Seven days"), (30 * 86_400, "Thirty days")];
const DURATION_DEFAULT: u64 = 8 * 3_600;
/// What is chosen at first, at most: nobody allows what destroys by a mere click.
const LEVEL_AT_FIRST: Tier = Tier::Transactional;

/// What a person is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Question {
    session: Session,
    /// What the consent will be called.
    consent: String,
    client: String,
    back: Back,
    holder: Holder,
    virtual_server: String,
    wanted: Tier,
}

/// What was answered before, when it has to be asked again.
#[derive(Clone, Debug, Default)]
pub(super) struct Answered {
    agent: Option<String>,
    level: Option<Tier>,
    listed: Option<BTreeSet<String>>,
    seconds: Option<u64>,
    reason: String,
    problem: Option<String>,
}

impl Question {
    /// `None` where there is no randomness.
    pub(super) fn new(
        session: &Session,
        client: &KnownClient,
        back: Back,
        asked: Request,
        virtual_server: String,
    ) -> Option<Self> {
        Some(Self {
            session: session.clone(),
            consent: clock::random_id("c-").ok()?,
            client: client.id.clone(),
            back,
            holder: asked.holder,
            virtual_server,
            wanted: asked.wanted,
        })
    }

    /// What is said of it where it is refused.
    fn about(&self) -> Refusal {
        Refusal { client: self.client.clone(), claimed: true, ..self.session.about() }
    }
}

/// The page.
pub(super) fn show(
    services: &Services,
    issuer: &str,
    client: &KnownClient,
    question: &Question,
    before: Answered,
) -> Response {
    let until = clock::now_seconds().saturating_add(QUESTION_SECONDS);
    let request = services.keys.seal().and_then(|seal| seal.close(Purpose::Request, question, until));
    let Some(request) = request else { return sign_in::not_now() };
    let page = services.domain.read(|state| page(state, issuer, client, question, before, request));
    let Some(page) = page else {
        let problem = pages::Problem {
            title: "No agent takes this program".to_owned(),
            sentence: format!("{} may not act as any agent here.", client.title()),
            hint: Some("An administrator can let an agent take it: see `clients` in the agent's manifest.".to_owned()),
        };
        let page = pages::respond(problem, StatusCode::FORBIDDEN, &[]);
        return told_why(page, "no agent takes this client", question.about());
    };
    // A program's own scheme is redirected to; a page of ours leads to all else.
    let scheme = pages::form_target(&question.back.redirect_uri).filter(|target| !target.starts_with("http"));
    pages::respond(page, StatusCode::OK, scheme.as_deref().as_slice())
}

fn page(
    state: &Domain,
    issuer: &str,
    client: &KnownClient,
    question: &Question,
    before: Answered,
    request: String,
) -> Option<ConsentRequest> {
    let agents = agents(state, client, before.agent.as_deref());
    let most = agents.iter().map(|agent| agent.ceiling).max()?;
    let most = client.spec.ceiling.map_or(most, |ceiling| ceiling.min(most)).min(question.wanted);
    let tools: Vec<_> = state.virtual_servers.get(&question.virtual_server).map_or_else(Vec::new, |place| {
        virtual_server::shown_tools(state, &place.spec).filter(|tool| tool.tier <= most).collect()
    });
    let chosen = before.level.unwrap_or(LEVEL_AT_FIRST).min(most);
    let levels = Tier::ALL.into_iter().filter(|tier| *tier <= most).map(|tier| LevelChoice {
        value: tier.as_str().to_owned(),
        title: title(tier).to_owned(),
        explanation: explanation(tier).to_owned(),
        tools: tools.iter().filter(|tool| tool.tier <= tier).count(),
        chosen: tier == chosen,
    });
    let shown = if tools.len() > TOOLS_SHOWN_MAX { Vec::new() } else { tools.clone() };
    let tools = shown.iter().map(|tool| ToolChoice {
        value: tool.id(),
        title: tool.id(),
        description: description(tool.definition),
        tier: tool.tier,
        ticked: before.listed.as_ref().is_none_or(|listed| listed.contains(&tool.id())),
    });
    let seconds = before.seconds.unwrap_or(DURATION_DEFAULT);
    let durations = DURATIONS.into_iter().map(|(value, title)| DurationChoice {
        seconds: value,
        title: title.to_owned(),
        chosen: value == seconds,
    });
    let redirect_uri = &question.back.redirect_uri;
    Some(ConsentRequest {
        user: question.session.user.clone(),
        client: ClientShown {
            title: client.title().to_owned(),
            origin: client.origin.clone(),
            redirect_host: host(redirect_uri),
            is_loopback: redirect::is_loopback(redirect_uri),
        },
        agents,
        virtual_server: question.virtual_server.clone(),
        levels: levels.collect(),
        tools: tools.collect(),
        listed: before.listed.is_some(),
        durations: durations.collect(),
        reason: before.reason,
        reason_required: true,
        problem: before.problem,
        action: format!("{issuer}{CONSENT_PATH}"),
        request,
    })
}

/// The agents it may act as, of those that may act.
fn agents(state: &Domain, client: &KnownClient, chosen: Option<&str>) -> Vec<AgentChoice> {
    let may_act = |name: &String| {
        let spec = &state.agents.get(name)?.spec;
        let answered_for = state.users.get(&spec.owner).is_some_and(|owner| owner.spec.active);
        (spec.acts() && answered_for).then(|| AgentChoice {
            name: name.clone(),
            owner: spec.owner.clone(),
            project: spec.project.clone(),
            ceiling: spec.ceiling,
            chosen: chosen == Some(name),
        })
    };
    let mut agents: Vec<_> = client::agents_of(state, &client.id).iter().filter_map(may_act).collect();
    if let Some(first) = agents.first_mut().filter(|_| chosen.is_none()) {
        first.chosen = true;
    }
    agents
}

/// The person's answer.
pub(super) async fn answer(State(services): State<Services>, headers: HeaderMap, body: Bytes) -> Response {
    let Some((issuer, _)) = services.domain.read(minting::issuer) else { return sign_in::not_now() };
    let session = sign_in::session(&services, &headers);
    let about = || session.as_ref().map(Session::about).unwrap_or_default();
    let Ok(form) = Form::read(&headers, &body) else { return stale(about()) };
    let field = |name| form.one(name).ok().flatten();
    let opened = services.keys.seal().and_then(|seal| {
        seal.open::<Question>(Purpose::Request, field("request").unwrap_or_default(), clock::now_seconds())
    });
    // What was asked of one session is not answered by another.
    let question = opened.filter(|question| session.as_ref() == Some(&question.session));
    let Some(question) = question.filter(|_| sign_in::is_from_us(&headers, &issuer)) else { return stale(about()) };
    if let Err(error) = services.limits.person(&question.session.user) {
        return told_why(sign_in::too_often(error.retry_after()), error.why(), question.about());
    }
    match field("decision") {
        Some("allow") => allow(&services, &issuer, question, &form).await,
        Some("deny") => deny(&services, &issuer, question, field("reason").unwrap_or_default()).await,
        _ => stale(question.about()),
    }
}

async fn deny(services: &Services, issuer: &str, question: Question, reason: &str) -> Response {
    let Question { session, client, virtual_server, back, .. } = question;
    let (actor, reason) = (session.actor(), reason.trim().to_owned());
    let wish = DeclineConsent { user: session.user, provider: session.provider, client, virtual_server, reason };
    match services.decisions.ask(&Wish::DeclineConsent(wish), actor).await {
        // The client learns of it in any case.
        Ok(_) | Err(Undecided::Refused(_)) => {
            leave(&back, back.error(issuer, Fault("access_denied", "the person did not allow it")))
        }
        Err(Undecided::Unavailable) => sign_in::not_now(),
    }
}

async fn allow(services: &Services, issuer: &str, question: Question, form: &Form) -> Response {
    let found = clients::find(services, &question.client).await;
    let Ok(found) = found else { return sign_in::not_now() };
    // Perhaps it was changed while the person thought.
    let still = |client: &KnownClient| {
        client.spec.active && redirect::is_registered(&question.back.redirect_uri, client.spec.redirect_uris.iter())
    };
    let Some(client) = found.filter(still) else { return stale(question.about()) };
    let mut answered = read(form);
    let wish = match wish(services, &question, &answered) {
        Ok(wish) => wish,
        Err(problem) => {
            answered.problem = Some(problem.to_owned());
            let page = show(services, issuer, &client, &question, answered);
            return told_why(page, problem, question.about());
        }
    };
    let actor = question.session.actor();
    match services.decisions.ask(&question.holder.wish(wish), actor).await {
        Ok(Decided { what: Fulfilled::Consent(consent), .. }) => match services.keys.seal() {
            Some(seal) => leave(&question.back, question.back.url(issuer, &[("code", &seal.code(&consent))])),
            None => sign_in::not_now(),
        },
        Ok(_) | Err(Undecided::Unavailable) => sign_in::not_now(),
        Err(Undecided::Refused(why)) if why == Rejection::AnsweredBefore.to_string() => {
            answered_before(services, issuer, &question).await
        }
        Err(Undecided::Refused(why)) => {
            answered.problem = Some(format!("This cannot be allowed: {why}."));
            told_why(show(services, issuer, &client, &question, answered), &why, question.about())
        }
    }
}

/// Somebody clicked twice, and the first answer's way back was broken off by the second: the same code is given as long
/// as the client has not come with it.
async fn answered_before(services: &Services, issuer: &str, question: &Question) -> Response {
    let waits = services.domain.read_latest(|state| {
        let consent = state.consents.get(&question.consent)?;
        let code = consent.code.as_ref().filter(|code| !code.redeemed)?;
        Some(consent.granted.user == question.session.user && code.issued.redirect_uri == question.back.redirect_uri)
    });
    match (waits.await.ok().flatten(), services.keys.seal()) {
        (Some(true), Some(seal)) => {
            leave(&question.back, question.back.url(issuer, &[("code", &seal.code(&question.consent))]))
        }
        _ => stale(question.about()),
    }
}

/// Back to the client. A program's own scheme is only followed while the browser knows that somebody clicked.
fn leave(back: &Back, url: String) -> Response {
    if !url.starts_with("http") {
        return sign_in::see_other(&url);
    }
    pages::respond(Leaving { url, host: host(&back.redirect_uri) }, StatusCode::OK, &[])
}

fn read(form: &Form) -> Answered {
    let field = |name| form.one(name).ok().flatten();
    let listed = (field("only") == Some("listed")).then(|| form.all("tool").iter().cloned().collect());
    Answered {
        agent: field("agent").map(str::to_owned),
        level: field("level").and_then(|word| word.parse().ok()),
        listed,
        seconds: field("duration").and_then(|text| text.parse().ok()),
        reason: field("reason").unwrap_or_default().trim().to_owned(),
        problem: None,
    }
}

fn wish(services: &Services, question: &Question, answered: &Answered) -> Result<GrantConsent, &'static str> {
    let is_one = |agent: &String| services.domain.read(|state| state.agents.contains_key(agent));
    let agent = answered.agent.clone().filter(is_one).ok_or("Choose an agent.")?;
    let level = answered.level.ok_or("Choose how much harm the agent's calls may do.")?;
    if level > question.wanted {
        return Err("That is more than the program asked for.");
    }
    if answered.reason.chars().count() < REASON_CHARS_MIN {
        return Err("Say why, in a few words or with a ticket's number: it stays with the consent.");
    }
    let seconds = answered.seconds.filter(|seconds| DURATIONS.iter().any(|(known, _)| known == seconds));
    let tools = match &answered.listed {
        Some(ticked) => within(services, question, ticked, level),
        None => BTreeSet::new(),
    };
    if answered.listed.is_some() && tools.is_empty() {
        return Err("Tick at least one tool within the level, or allow all of them.");
    }
    Ok(GrantConsent {
        consent: question.consent.clone(),
        user: question.session.user.clone(),
        provider: question.session.provider.clone(),
        session_since: Some(question.session.since),
        client: question.client.clone(),
        agent,
        virtual_server: question.virtual_server.clone(),
        level,
        tools,
        lifetime_seconds: seconds.ok_or("Choose for how long.")?,
        reason: answered.reason.clone(),
        wanted: question.wanted,
        redirect_uri: question.back.redirect_uri.clone(),
        challenge: question.holder.challenge.clone(),
    })
}

/// What was ticked above the level is not meant.
fn within(services: &Services, question: &Question, ticked: &BTreeSet<String>, level: Tier) -> BTreeSet<String> {
    services.domain.read(|state| {
        let place = state.virtual_servers.get(&question.virtual_server);
        let shown = place.into_iter().flat_map(|place| virtual_server::shown_tools(state, &place.spec));
        shown.filter(|tool| tool.tier <= level).map(|tool| tool.id()).filter(|id| ticked.contains(id)).collect()
    })
}

fn stale(about: Refusal) -> Response {
    let sentence = "The page is too old, was answered before, or is of another sign-in. \
                    Go back to the program you came from and begin again.";
    let page = sign_in::problem(StatusCode::FORBIDDEN, "This page does not count any more", sentence);
    told_why(page, "the page is too old, was answered before, or is of another sign-in", about)
}

const fn title(tier: Tier) -> &'static str {
    match tier {
        Tier::Retrieval => "Read",
        Tier::Transactional => "Read and change",
        Tier::Destructive => "Everything, also what destroys",
    }
}

const fn explanation(tier: Tier) -> &'static str {
    match tier {
        Tier::Retrieval => "Tools that look something up and change nothing.",
        Tier::Transactional => "Also tools that create and change things.",
        Tier::Destructive => "Also tools that delete or cannot be undone.",
    }
}

/// What a tool says of itself, in a line.
fn description(definition: &str) -> String {
    let definition: serde_json::Value = serde_json::from_str(definition).unwrap_or_default();
    let said = definition.get("description").and_then(serde_json::Value::as_str).unwrap_or_default();
    said.lines().next().unwrap_or_default().chars().take(160).collect()
}

/// Where a redirect URI leads, as people read it.
fn host(redirect_uri: &str) -> String {
    let (scheme, rest) = redirect_uri.split_once(':').unwrap_or_default();
    match rest.strip_prefix("//") {
        Some(rest) if matches!(scheme, "http" | "https") => {
            rest.split(['/', '?']).next().unwrap_or_default().to_owned()
        }
        Some(_) | None => format!("{scheme}:"),
    }
}

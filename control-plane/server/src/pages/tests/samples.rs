//! Every page, with one text in each of its fields.

use askama::Template;
use bailiwick_proto::Tier;

use crate::pages::{
    AgentChoice, Choice, Choose, ClientOrigin, ClientShown, ConsentRequest, ConsentShown, ConsentState, Consents,
    DurationChoice, LevelChoice, LocalSignIn, Problem, SignIn, SignedOut, Timeline, TimelineFilters, TimelineRow,
    ToolChoice,
};

/// The pages by name, rendered.
pub(super) fn everywhere(text: &str) -> Vec<(&'static str, String)> {
    let states = [ConsentState::Live, ConsentState::Expired, ConsentState::Revoked];
    vec![
        ("sign-in", sign_in(text).render().unwrap()),
        ("choose", choose(text).render().unwrap()),
        ("consent", consent_request(text).render().unwrap()),
        ("consents", consents(text, states).render().unwrap()),
        ("timeline", timeline(text).render().unwrap()),
        ("problem", problem(text).render().unwrap()),
        ("signed-out", SignedOut {}.render().unwrap()),
    ]
}

fn choices(text: &str) -> Vec<Choice> {
    vec![Choice { title: text.into(), url: text.into() }, Choice { title: text.into(), url: "/oauth/x?y=1".into() }]
}

fn sign_in(text: &str) -> SignIn {
    let local = LocalSignIn { action: text.into(), request: text.into(), users: vec![text.into(), text.into()] };
    SignIn { problem: Some(text.into()), providers: choices(text), local: Some(local) }
}

fn choose(text: &str) -> Choose {
    Choose { question: text.into(), explanation: text.into(), choices: choices(text) }
}

fn problem(text: &str) -> Problem {
    Problem { title: text.into(), sentence: text.into(), hint: Some(text.into()) }
}

/// With two agents, and every level, tier and duration once.
pub(super) fn consent_request(text: &str) -> ConsentRequest {
    let agent = |chosen| AgentChoice {
        name: text.into(),
        owner: text.into(),
        project: text.into(),
        ceiling: Tier::Transactional,
        chosen,
    };
    let level = |tier: Tier| LevelChoice {
        value: tier.as_str().into(),
        title: text.into(),
        explanation: text.into(),
        tools: 1,
        chosen: tier == Tier::Retrieval,
    };
    let tool =
        |tier| ToolChoice { value: text.into(), title: text.into(), description: text.into(), tier, ticked: true };
    ConsentRequest {
        user: text.into(),
        client: ClientShown {
            title: text.into(),
            origin: ClientOrigin::Document(text.into()),
            redirect_host: text.into(),
            is_loopback: true,
        },
        agents: vec![agent(true), agent(false)],
        virtual_server: text.into(),
        levels: Tier::ALL.map(level).into(),
        tools: Tier::ALL.map(tool).into(),
        listed: true,
        durations: vec![DurationChoice { seconds: 3_600, title: text.into(), chosen: true }],
        reason: text.into(),
        reason_required: true,
        problem: Some(text.into()),
        action: text.into(),
        request: text.into(),
    }
}

/// One in each of these states.
pub(super) fn consents(text: &str, states: [ConsentState; 3]) -> Consents {
    let consent = |(number, state)| ConsentShown {
        id: format!("id-{number}"),
        client: text.into(),
        agent: text.into(),
        virtual_server: text.into(),
        level: text.into(),
        tools: vec![text.into()],
        reason: text.into(),
        granted: text.into(),
        expires: text.into(),
        state,
    };
    Consents {
        user: text.into(),
        consents: states.into_iter().enumerate().map(consent).collect(),
        action: text.into(),
        token: text.into(),
        notice: Some(text.into()),
    }
}

fn timeline(text: &str) -> Timeline {
    let row = TimelineRow {
        time: text.into(),
        outcome: text.into(),
        user: text.into(),
        agent: text.into(),
        client: text.into(),
        virtual_server: text.into(),
        level: text.into(),
        tools: vec![text.into(), text.into()],
        consent: text.into(),
        redirect_uri: text.into(),
        challenge: text.into(),
        actor: text.into(),
        reason: text.into(),
        refused: text.into(),
    };
    let filters = TimelineFilters {
        outcome: text.into(),
        client: text.into(),
        subject: text.into(),
        since: text.into(),
        until: text.into(),
    };
    Timeline {
        rows: vec![row],
        filters,
        outcomes: vec![text.into()],
        action: text.into(),
        csv_url: text.into(),
        more_url: Some(text.into()),
        is_everybodys: true,
        fallen_out: (1, 1),
        problem: Some(text.into()),
    }
}

//! `--check`: an assertion that is brought to several nodes at the same moment is worth one token, whoever wins.
//!
//! Every pair of nodes in turn, and every fourth time all of them. Exactly one answer must be a token and each other
//! one the refusal that says it was used; anything else is a finding.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde_json::{Value, json};
use tokio::{sync::Barrier, task::JoinSet};

use super::{
    grants::assertion_form,
    world::{Node, World},
};

/// Assertions under way at a time: most of the time something else is being decided, too.
const AT_ONCE: usize = 8;
/// Findings that are told one by one.
const TOLD_MAX: usize = 20;

/// What came of all rounds.
#[derive(Debug)]
pub(super) struct Found {
    rounds: usize,
    /// How many answers there were in all.
    answers: usize,
    took: Duration,
    /// A sentence for each round that went wrong.
    pub(super) wrong: Vec<String>,
}

impl Found {
    pub(super) fn json(&self) -> Value {
        json!({"rounds": self.rounds, "answers": self.answers, "seconds": self.took.as_secs_f64(),
               "wrong": self.wrong.len(), "findings": self.wrong.iter().take(TOLD_MAX).collect::<Vec<_>>()})
    }

    pub(super) fn line(&self) -> String {
        let told: String = self.wrong.iter().take(TOLD_MAX).map(|wrong| format!("\n  {wrong}")).collect();
        format!(
            "{} assertions, {} answers in {:.1} s: {} assertions not worth exactly one token{told}",
            self.rounds,
            self.answers,
            self.took.as_secs_f64(),
            self.wrong.len()
        )
    }
}

/// Brings so many assertions to several nodes each.
pub(super) async fn check(world: &Arc<World>, rounds: usize) -> Result<Found> {
    let began = Instant::now();
    let (mut under_way, mut begun, mut found) = (JoinSet::new(), 0, Vec::new());
    let mut answers = 0;
    loop {
        while under_way.len() < AT_ONCE && begun < rounds {
            under_way.spawn(round(Arc::clone(world), begun));
            begun += 1;
        }
        let Some(ended) = under_way.join_next().await else { break };
        let (asked, wrong) = ended??;
        answers += asked;
        found.extend(wrong);
    }
    Ok(Found { rounds, answers, took: began.elapsed(), wrong: found })
}

async fn round(world: Arc<World>, number: usize) -> Result<(usize, Option<String>)> {
    let assertion: Arc<str> = world.assertion()?.into();
    let wanted = if number % 4 == 3 { world.nodes.len() } else { 2 };
    let nodes: Vec<Node> = world.nodes.iter().cycle().skip(number).take(wanted).cloned().collect();
    let (asked, together, mut asking) = (nodes.len(), Arc::new(Barrier::new(nodes.len())), JoinSet::new());
    for node in nodes {
        let (world, assertion, together) = (Arc::clone(&world), Arc::clone(&assertion), Arc::clone(&together));
        asking.spawn(async move {
            together.wait().await;
            bring(&world, &node, &assertion).await
        });
    }
    let mut said = Vec::new();
    while let Some(answer) = asking.join_next().await {
        said.push(answer?);
    }
    Ok((asked, (!is_right(&said)).then(|| format!("assertion {number}: {said:?}"))))
}

/// One token, and for everybody else that it was used.
fn is_right(said: &[Said]) -> bool {
    let count = |wanted: &Said| said.iter().filter(|answer| *answer == wanted).count();
    count(&Said::Token) == 1 && count(&Said::Used) + 1 == said.len()
}

#[derive(Debug, PartialEq, Eq)]
enum Said {
    Token,
    Used,
    Other(String),
}

/// What a node says to an assertion. One that does not answer leaves open what the assertion was worth: a finding, too.
async fn bring(world: &World, node: &Node, assertion: &str) -> Said {
    let request = world.http.post(format!("{}/oauth/token", node.http)).form(&assertion_form(assertion));
    let answered = async {
        let answer = request.send().await?;
        Ok::<_, reqwest::Error>((answer.status().as_u16(), answer.text().await?))
    };
    let (status, text) = match answered.await {
        Ok(answer) => answer,
        Err(error) => return Said::Other(format!("{}: {:#}", node.name, anyhow::Error::from(error))),
    };
    let body: Value = serde_json::from_str(&text).unwrap_or_default();
    let member = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
    match status {
        200 if !member("access_token").is_empty() => Said::Token,
        400 if member("error") == "invalid_grant" && member("error_description").contains("used") => Said::Used,
        _ => Said::Other(format!("{}: {status} {text}", node.name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assertion_is_worth_one_token_and_everybody_else_is_told_that_it_was_used() {
        assert!(is_right(&[Said::Used, Said::Token]) && is_right(&[Said::Used, Said::Used, Said::Token]));
        assert!(!is_right(&[Said::Token, Said::Token]) && !is_right(&[Said::Used, Said::Used]) && !is_right(&[]));
        assert!(!is_right(&[Said::Token, Said::Other("503".into())]), "nobody knows what that one came to");
    }
}

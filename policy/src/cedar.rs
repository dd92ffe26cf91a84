//! The one place that names Cedar, with `cedar/`: parsing, schema validation and evaluation behind our own types.
//!
//! Called by `compiled.rs` only. Everything Cedar would do by default and we do not want is turned off here: templates
//! are refused, and a policy that fails during evaluation makes the whole verdict a denial.
//!
//! Each kind of use is evaluated over the statements that are about it (`check.rs` says which), and of those over the
//! ones that can match (`slices.rs`). Tools are numbered by what can tell them apart (`alike.rs`).
//!
//! Entities: tools, actions and servers that policies name are built once, and given to a request that meets the
//! statements naming them; what is used, its server, the user, the agent and its owner are added for each request.
//! Nothing else is ever asked for an attribute or a parent (`references.rs` sees to it). A statement's id is the
//! policy's name and, beyond the first, `#n`; no policy name holds a `#`.

mod alike;
mod check;
mod entities;
mod slices;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
};

use cedar_policy::{
    ActionConstraint, AuthorizationError, Authorizer, Context, Decision, Entities, Entity, EntityUid, Policy, PolicyId,
    PolicySet, RestrictedExpression,
};
use miette::Diagnostic;

use alike::Alike;
pub(crate) use alike::words;
pub(crate) use check::{Checker, Findings};
use entities::{ToolEntities, Types, uid};
use slices::Slices;

use crate::{
    catalogue::CatalogueTool,
    references::Literal,
    request::{Request, Use},
    schema::{self, Kind},
    text::{PolicyProblem, PolicyText},
};

/// One parsed statement of a policy text.
pub(crate) struct Statement(Policy);

impl Statement {
    /// Every entity written out in the statement.
    pub(crate) fn literals(&self) -> impl Iterator<Item = Literal> {
        let literals = self.0.entity_literals().into_iter();
        literals.map(|uid| Literal { kind: uid.type_name().to_string(), id: uid.id().unescaped().to_owned() })
    }

    /// The kinds of use the scope's action belongs to; `None` where the action is left open.
    fn scope(&self) -> Option<Vec<Kind>> {
        let kinds = |actions: &[EntityUid]| actions.iter().map(|uid| Kind::of_action(uid.id().unescaped())).collect();
        match self.0.action_constraint() {
            ActionConstraint::Any => None,
            ActionConstraint::Eq(action) => Some(kinds(&[action])),
            ActionConstraint::In(actions) => Some(kinds(&actions)),
        }
    }

    /// The statement's syntax tree as JSON.
    pub(crate) fn syntax(&self) -> Option<serde_json::Value> {
        self.0.to_json().ok()
    }
}

/// Parses a text that is within its bounds into at least one statement, in the order of the text.
pub(crate) fn parse(text: &PolicyText) -> Result<Vec<Statement>, Vec<PolicyProblem>> {
    let set: PolicySet = text.cedar.parse().map_err(|errors: cedar_policy::ParseErrors| {
        errors.iter().map(|error| problem(text, error, "")).collect::<Vec<_>>()
    })?;
    if set.templates().next().is_some() {
        let line = text.line_of("?principal").or_else(|| text.line_of("?resource"));
        return Err(vec![
            text.problem(line, "templates (`?principal`, `?resource`) are not accepted: write the policy out"),
        ]);
    }
    let count = set.num_of_policies();
    if count == 0 {
        return Err(vec![text.problem(None, "the text holds no policy: write `permit (…);` or `forbid (…);`")]);
    }
    // The parser numbers statements in the order of the text.
    let numbered = (0..count).map(|n| (n, set.policy(&PolicyId::new(format!("policy{n}")))));
    let id = |n: usize| if n == 0 { text.name.clone() } else { format!("{}#{}", text.name, n + 1) };
    let statements = numbered.map(|(n, policy)| Some(Statement(policy?.new_id(PolicyId::new(id(n))))));
    statements.collect::<Option<_>>().ok_or_else(|| vec![text.problem(None, "the statements could not be told apart")])
}

/// Turns one of Cedar's errors into ours; `prefix` repeats what the problem says already.
fn problem(text: &PolicyText, error: &dyn Diagnostic, prefix: &str) -> PolicyProblem {
    let offset = error.labels().and_then(|mut labels| labels.next()).map(|label| label.offset());
    let said = error.to_string();
    let mut message = said.strip_prefix(prefix).unwrap_or(&said).to_owned();
    if let Some(help) = error.help() {
        message = format!("{message} ({help})");
    }
    text.problem(offset.and_then(|offset| text.line_at(offset)), message)
}

/// What Cedar says to one request. Statements are named by the index of their policy.
pub(crate) struct Evaluation {
    pub(crate) permit: bool,
    pub(crate) matched: BTreeSet<usize>,
    /// Policies that failed, with what they said. Not empty: nothing else counts.
    pub(crate) failed: BTreeMap<usize, String>,
}

/// A statement with the index of its policy, what it is about and the words it has.
pub(crate) struct Placed {
    pub(crate) policy: usize,
    pub(crate) statement: Statement,
    pub(crate) about: Vec<Kind>,
    pub(crate) words: Vec<String>,
}

/// Statements and tools, ready to evaluate.
pub(crate) struct Engine {
    /// By what they are about, in the order of [`Kind::ALL`].
    policies: [Slices; Kind::ALL.len()],
    /// From a statement's id to the index of its policy.
    origin: HashMap<PolicyId, usize>,
    types: Types,
    /// By server and the tool's own name, with its number.
    tools: HashMap<String, HashMap<String, (u32, ToolEntities)>>,
    /// Tools, with their servers, actions and servers that policies name, for questions such as
    /// `Tool::"finance__pay".tier`.
    named: HashMap<EntityUid, Vec<Entity>>,
    authorizer: Authorizer,
}

/// What one request is about, as Cedar has it.
struct Wanted<'a> {
    action: EntityUid,
    resource: EntityUid,
    /// Of the context, beyond what every request has.
    asked: Option<(&'static str, &'a str)>,
    tool: Option<&'a ToolEntities>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("statements", &self.origin.len()).finish_non_exhaustive()
    }
}

impl Engine {
    /// Takes statements and the tools that may be asked about.
    pub(crate) fn new(statements: &[Placed], catalogue: &[CatalogueTool]) -> Result<Self, String> {
        let types = Types::new()?;
        let literals: HashSet<EntityUid> =
            statements.iter().flat_map(|placed| placed.statement.0.entity_literals()).collect();
        let mut alike = Alike::default();
        for Placed { statement, words, .. } in statements.iter().filter(|placed| placed.about.contains(&Kind::Tool)) {
            alike.learn(&statement.0, words);
        }
        let mut tools: HashMap<String, HashMap<String, _>> = HashMap::new();
        let mut named = HashMap::new();
        for tool in catalogue {
            let entities = types.tool(tool)?;
            let number = alike.number(&entities, &types.objects(&entities, &tool.server))?;
            if literals.contains(&entities.tool.uid()) {
                let server = types.server_entity(&tool.server)?;
                named.insert(entities.tool.uid(), vec![entities.tool.clone(), server]);
            }
            if literals.contains(&entities.action.uid()) {
                named.insert(entities.action.uid(), vec![entities.action.clone()]);
            }
            tools.entry(tool.server.clone()).or_default().insert(tool.name.clone(), (number, entities));
        }
        for literal in literals.into_iter().filter(|literal| *literal.type_name() == types.server) {
            let server = types.server_entity(literal.id().unescaped())?;
            named.insert(literal, vec![server]);
        }
        let origin = statements.iter().map(|placed| (placed.statement.0.id().clone(), placed.policy)).collect();
        let about = |kind: Kind| {
            let statements = statements.iter().filter(move |placed| placed.about.contains(&kind));
            let mut slices = Slices::default();
            statements.map(|placed| &placed.statement.0).try_for_each(|statement| slices.add(statement))?;
            Ok::<_, String>(slices)
        };
        let policies = [about(Kind::Tool)?, about(Kind::Prompt)?, about(Kind::Resource)?];
        Ok(Self { policies, origin, types, tools, named, authorizer: Authorizer::new() })
    }

    /// The number of a tool of the catalogue, and of all that no statement tells apart from it.
    pub(crate) fn number(&self, server: &str, tool: &str) -> Option<u32> {
        self.tools.get(server)?.get(tool).map(|(number, _)| *number)
    }

    /// Evaluates all statements about this kind of use. An error means that the question itself could not be put.
    pub(crate) fn evaluate(&self, request: &Request<'_>) -> Result<Evaluation, String> {
        let wanted = self.wanted(request.wanted)?;
        let [tools, prompts, resources] = &self.policies;
        let policies = match request.wanted {
            Use::Tool { .. } => tools,
            Use::Prompt { .. } => prompts,
            Use::Resource { .. } => resources,
        };
        let slices = policies.about(&self.principals(request), &self.objects(request, &wanted));
        let literals = slices.iter().flat_map(|slice| &slice.literals);
        let named = literals.filter_map(|literal| self.named.get(literal)).flatten();
        let entities = self.entities(request, &wanted, named)?;
        let question = self.question(request, wanted)?;
        Ok(self.ask(&question, slices.iter().map(|slice| &slice.statements), &entities))
    }

    /// The same, of all statements about this kind of use at once and with all entities there are.
    #[cfg(test)]
    pub(crate) fn evaluate_all(&self, request: &Request<'_>) -> Result<Evaluation, String> {
        let wanted = self.wanted(request.wanted)?;
        let [tools, prompts, resources] = &self.policies;
        let policies = match request.wanted {
            Use::Tool { .. } => tools,
            Use::Prompt { .. } => prompts,
            Use::Resource { .. } => resources,
        };
        let mut all = PolicySet::new();
        let statements: BTreeMap<_, _> =
            policies.all().flat_map(PolicySet::policies).map(|statement| (statement.id(), statement)).collect();
        statements.into_values().try_for_each(|statement| all.add(statement.clone()).map_err(text_of))?;
        let tools = self.tools.values().flat_map(HashMap::values).flat_map(|(_, tool)| [&tool.tool, &tool.action]);
        let entities = self.entities(request, &wanted, self.named.values().flatten().chain(tools))?;
        let question = self.question(request, wanted)?;
        Ok(self.ask(&question, std::iter::once(&all), &entities))
    }

    fn ask<'a>(
        &self,
        question: &cedar_policy::Request,
        statements: impl Iterator<Item = &'a PolicySet>,
        entities: &Entities,
    ) -> Evaluation {
        let index = |id: &PolicyId| self.origin.get(id).copied().unwrap_or(usize::MAX);
        let (mut permits, mut forbids, mut failed) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::new());
        for statements in statements {
            let response = self.authorizer.is_authorized(question, statements, entities);
            let matched = response.diagnostics().reason().map(index);
            match response.decision() {
                Decision::Allow => permits.extend(matched),
                Decision::Deny => forbids.extend(matched),
            }
            failed.extend(response.diagnostics().errors().map(|AuthorizationError::PolicyEvaluationError(error)| {
                (index(error.policy_id()), error.inner().to_string())
            }));
        }
        let permit = forbids.is_empty() && !permits.is_empty();
        Evaluation { failed, permit, matched: if forbids.is_empty() { permits } else { forbids } }
    }

    /// The user and their groups, each once.
    fn principals(&self, request: &Request<'_>) -> Vec<EntityUid> {
        let groups: BTreeSet<&String> = request.groups.iter().collect();
        let groups = groups.into_iter().map(|group| uid(&self.types.group, group));
        groups.chain([self.types.user(request.user)]).collect()
    }

    /// What is used and how, with what these are in, each once.
    fn objects(&self, request: &Request<'_>, wanted: &Wanted<'_>) -> Vec<EntityUid> {
        match wanted.tool {
            Some(tool) => self.types.objects(tool, request.wanted.server()).to_vec(),
            None => vec![wanted.resource.clone(), wanted.action.clone()],
        }
    }

    fn wanted<'a>(&'a self, wanted: Use<'a>) -> Result<Wanted<'a>, String> {
        let of_server = |action, server, asked| Wanted {
            action: uid(&self.types.action, action),
            resource: uid(&self.types.server, server),
            asked: Some(asked),
            tool: None,
        };
        match wanted {
            Use::Tool { server, tool } => {
                let tool = self.tools.get(server).and_then(|tools| tools.get(tool));
                let (_, tool) = tool.ok_or("the tool is not in the catalogue")?;
                Ok(Wanted { action: tool.action.uid(), resource: tool.tool.uid(), asked: None, tool: Some(tool) })
            }
            Use::Prompt { server, name } => Ok(of_server(schema::GET_PROMPT, server, ("name", name))),
            Use::Resource { server, uri } => Ok(of_server(schema::READ_RESOURCE, server, ("uri", uri))),
        }
    }

    fn question(&self, request: &Request<'_>, wanted: Wanted<'_>) -> Result<cedar_policy::Request, String> {
        let string = |text: &str| RestrictedExpression::new_string(text.to_owned());
        let always = [
            ("agent".to_owned(), RestrictedExpression::new_entity_uid(self.types.agent(request.agent.name))),
            ("virtual_server".to_owned(), string(request.virtual_server)),
            ("level".to_owned(), string(request.level.as_str())),
            ("bound".to_owned(), RestrictedExpression::new_bool(request.bound)),
        ];
        let asked = wanted.asked.map(|(name, value)| (name.to_owned(), string(value)));
        let context = Context::from_pairs(always.into_iter().chain(asked)).map_err(text_of)?;
        let principal = self.types.user(request.user);
        cedar_policy::Request::new(principal, wanted.action, wanted.resource, context, None).map_err(text_of)
    }

    /// Those of the request, and those that statements name.
    fn entities<'a>(
        &'a self,
        request: &Request<'_>,
        wanted: &Wanted<'a>,
        named: impl Iterator<Item = &'a Entity>,
    ) -> Result<Entities, String> {
        let agent = &request.agent;
        let of_tool = wanted.tool.into_iter().flat_map(|tool| [&tool.tool, &tool.action]);
        let mut entities: HashMap<EntityUid, Entity> =
            named.chain(of_tool).map(|entity| (entity.uid(), entity.clone())).collect();
        let user = self.types.user_in(request.user, request.groups);
        let owner = (agent.owner != request.user).then(|| self.types.user_in(agent.owner, agent.owner_groups));
        let server = self.types.server_entity(request.wanted.server())?;
        let own = [Some(user), owner, Some(self.types.agent_of(agent)?), Some(server)];
        entities.extend(own.into_iter().flatten().map(|entity| (entity.uid(), entity)));
        Entities::from_entities(entities.into_values(), None).map_err(text_of)
    }
}

fn text_of(error: impl fmt::Display) -> String {
    error.to_string()
}

//! The one place that names Cedar, with `cedar/`: parsing, schema validation and evaluation behind our own types.
//!
//! Called by `compiled.rs` only. Everything Cedar would do by default and we do not want is turned off here:
//! templates are refused, and a policy that fails during evaluation makes the whole verdict a denial.
//!
//! Each kind of use is evaluated over the statements that are about it (`check.rs` says which), and of those over the ones
//! that can match (`slices.rs`).
//!
//! Entities: tools, actions and servers that policies name are built once; what is used, its server, the user, the
//! agent and its owner are added for each request. Nothing else is ever asked for an attribute or a parent
//! (`references.rs` sees to it). A statement's id is the policy's name and, beyond the first, `#n`; no policy name
//! holds a `#`.

mod check;
mod entities;
mod slices;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
};

use cedar_policy::{
    ActionConstraint, AuthorizationError, Authorizer, Context, Decision, Entities, EntityUid, Policy, PolicyId,
    PolicySet, RestrictedExpression,
};
use miette::Diagnostic;

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

/// A statement with the index of its policy and what it is about.
pub(crate) struct Placed {
    pub(crate) policy: usize,
    pub(crate) statement: Statement,
    pub(crate) about: Vec<Kind>,
}

/// Statements and tools, ready to evaluate.
pub(crate) struct Engine {
    /// By what they are about, in the order of [`Kind::ALL`].
    policies: [Slices; Kind::ALL.len()],
    /// From a statement's id to the index of its policy.
    origin: HashMap<PolicyId, usize>,
    types: Types,
    tools: BTreeMap<String, BTreeMap<String, ToolEntities>>,
    /// Tools, actions and servers that policies name, for questions such as `Tool::"finance__pay".tier`.
    named: Entities,
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
        let literals: BTreeSet<Literal> = statements.iter().flat_map(|placed| placed.statement.literals()).collect();
        let named_as = |kind: &str, id: &str| literals.contains(&Literal { kind: kind.to_owned(), id: id.to_owned() });
        let mut tools: BTreeMap<String, BTreeMap<String, ToolEntities>> = BTreeMap::new();
        let mut named = Vec::new();
        let servers = literals.iter().filter(|literal| literal.kind == schema::SERVER);
        let mut servers: BTreeSet<&str> = servers.map(|literal| literal.id.as_str()).collect();
        for tool in catalogue {
            let name = tool.policy_name();
            let entities = types.tool(tool, &name)?;
            if named_as(schema::TOOL, &name) {
                named.push(entities.tool.clone());
                servers.insert(&tool.server);
            }
            if named_as(schema::ACTION, &name) {
                named.push(entities.action.clone());
            }
            tools.entry(tool.server.clone()).or_default().insert(tool.name.clone(), entities);
        }
        for server in servers {
            named.push(types.server_entity(server)?);
        }
        let origin = statements.iter().map(|placed| (placed.statement.0.id().clone(), placed.policy)).collect();
        let about = |kind: Kind| {
            let statements = statements.iter().filter(move |placed| placed.about.contains(&kind));
            let mut slices = Slices::default();
            statements.map(|placed| placed.statement.0.clone()).try_for_each(|statement| slices.add(statement))?;
            Ok::<_, String>(slices)
        };
        let policies = [about(Kind::Tool)?, about(Kind::Prompt)?, about(Kind::Resource)?];
        let named = Entities::from_entities(named, None).map_err(text_of)?;
        Ok(Self { policies, origin, types, tools, named, authorizer: Authorizer::new() })
    }

    /// Evaluates all statements about this kind of use. An error means that the question itself could not be put.
    pub(crate) fn evaluate(&self, request: &Request<'_>) -> Result<Evaluation, String> {
        let wanted = self.wanted(request.wanted)?;
        let parties = self.parties(request, &wanted);
        let entities = self.entities(request, &wanted)?;
        let question = self.question(request, wanted)?;
        let [tools, prompts, resources] = &self.policies;
        let policies = match request.wanted {
            Use::Tool { .. } => tools,
            Use::Prompt { .. } => prompts,
            Use::Resource { .. } => resources,
        };
        let index = |id: &PolicyId| self.origin.get(id).copied().unwrap_or(usize::MAX);
        let (mut permits, mut forbids, mut failed) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::new());
        for slice in policies.about(parties.iter()) {
            let response = self.authorizer.is_authorized(&question, slice, &entities);
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
        Ok(Evaluation { failed, permit, matched: if forbids.is_empty() { permits } else { forbids } })
    }

    /// Whom and what the request is about, each once: the user and their groups, what is used and its server.
    fn parties(&self, request: &Request<'_>, wanted: &Wanted<'_>) -> BTreeSet<EntityUid> {
        let groups = request.groups.iter().map(|group| uid(&self.types.group, group));
        let used = [wanted.resource.clone(), uid(&self.types.server, request.wanted.server())];
        groups.chain([self.types.user(request.user)]).chain(used).collect()
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
                let tool = tool.ok_or("the tool is not in the catalogue")?;
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
        ];
        let asked = wanted.asked.map(|(name, value)| (name.to_owned(), string(value)));
        let context = Context::from_pairs(always.into_iter().chain(asked)).map_err(text_of)?;
        let principal = self.types.user(request.user);
        cedar_policy::Request::new(principal, wanted.action, wanted.resource, context, None).map_err(text_of)
    }

    fn entities(&self, request: &Request<'_>, wanted: &Wanted<'_>) -> Result<Entities, String> {
        let agent = &request.agent;
        let mut entities = vec![self.types.user_in(request.user, request.groups), self.types.agent_of(agent)?];
        if agent.owner != request.user {
            entities.push(self.types.user_in(agent.owner, agent.owner_groups));
        }
        let is_new = |uid: &EntityUid| self.named.get(uid).is_none();
        let of_tool = wanted.tool.into_iter().flat_map(|tool| [&tool.tool, &tool.action]);
        entities.extend(of_tool.filter(|entity| is_new(&entity.uid())).cloned());
        let server = request.wanted.server();
        if is_new(&uid(&self.types.server, server)) {
            entities.push(self.types.server_entity(server)?);
        }
        self.named.clone().add_entities(entities, None).map_err(text_of)
    }
}

fn text_of(error: impl fmt::Display) -> String {
    error.to_string()
}

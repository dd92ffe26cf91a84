//! The one file that names Cedar: parsing, schema validation and evaluation behind our own types.
//!
//! Called by `compiled.rs` only. Everything Cedar would do by default and we do not want is turned off here:
//! templates are refused, and a policy that fails during evaluation makes the whole verdict a denial.
//!
//! Entities: tools and actions that policies name are built once; the tool called, the user, the agent and its owner
//! are added for each request. Nothing else is ever asked for an attribute or a parent (`references.rs` sees to it).
//! A statement's id is the policy's name and, beyond the first, `#n`; no policy name holds a `#`.
//!
//! Deliberately absent for now: picking only the statements that can match the tool before Cedar sees them;
//! `Engine::evaluate` is the place for it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
};

use cedar_policy::{
    AuthorizationError, Authorizer, Context, Decision, Entities, Entity, EntityId, EntityTypeName, EntityUid, Policy,
    PolicyId, PolicySet, RestrictedExpression, Schema, ValidationMode, ValidationResult, ValidationWarning, Validator,
};
use miette::Diagnostic;

use crate::{
    catalogue::CatalogueTool,
    references::Literal,
    request::{Request, RequestAgent},
    schema,
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

/// What Cedar's validator finds.
pub(crate) struct Findings {
    /// Against the schema: the text means nothing.
    pub(crate) errors: Vec<PolicyProblem>,
    /// Statements that no request can ever match, such as a `forbid` with a principal that is no user.
    pub(crate) futile: Vec<PolicyProblem>,
}

/// Cedar's validator for texts that name no action but the group of all, built once; for the others as they come.
pub(crate) struct Checker {
    plain: Validator,
}

impl Checker {
    pub(crate) fn new() -> Result<Self, String> {
        Ok(Self { plain: validator(&BTreeSet::new())? })
    }

    /// Strict validation of statements against the schema in which `actions` exist.
    pub(crate) fn check(&self, text: &PolicyText, statements: &[Statement], actions: &BTreeSet<String>) -> Findings {
        let statements = statements.iter().map(|statement| statement.0.clone());
        let result = PolicySet::from_policies(statements).map_err(text_of).and_then(|set| {
            if actions.is_empty() {
                return Ok(self.plain.validate(&set, ValidationMode::Strict));
            }
            Ok(validator(actions)?.validate(&set, ValidationMode::Strict))
        });
        match result {
            Ok(result) => findings(text, &result),
            Err(message) => Findings { errors: vec![text.problem(None, message)], futile: Vec::new() },
        }
    }
}

fn validator(actions: &BTreeSet<String>) -> Result<Validator, String> {
    Schema::from_json_value(schema::schema(actions)).map(Validator::new).map_err(text_of)
}

fn findings(text: &PolicyText, result: &ValidationResult) -> Findings {
    let prefix = |id: &PolicyId| format!("for policy `{id}`, ");
    let errors = result.validation_errors().map(|error| problem(text, error, &prefix(error.policy_id())));
    let futile = result.validation_warnings().filter(|warning| {
        matches!(warning, ValidationWarning::ImpossiblePolicy(_) | ValidationWarning::InvalidActionApplication(_))
    });
    let futile = futile.map(|warning| PolicyProblem {
        message: "this statement can never match: see the types of principal, action and resource".to_owned(),
        ..problem(text, warning, "")
    });
    Findings { errors: sorted(errors.collect()), futile: sorted(futile.collect()) }
}

fn sorted(mut problems: Vec<PolicyProblem>) -> Vec<PolicyProblem> {
    problems.sort();
    problems.dedup();
    problems
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

/// Statements and tools, ready to evaluate.
pub(crate) struct Engine {
    policies: PolicySet,
    /// From a statement's id to the index of its policy.
    origin: HashMap<PolicyId, usize>,
    types: Types,
    tools: BTreeMap<String, BTreeMap<String, ToolEntities>>,
    /// Tools and actions that policies name, for questions such as `Tool::"finance__pay".tier`.
    named: Entities,
    authorizer: Authorizer,
}

struct ToolEntities {
    tool: Entity,
    action: Entity,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("statements", &self.origin.len()).finish_non_exhaustive()
    }
}

impl Engine {
    /// Takes statements with the index of their policy, and the tools that may be asked about.
    pub(crate) fn new(statements: Vec<(usize, Statement)>, catalogue: &[CatalogueTool]) -> Result<Self, String> {
        let types = Types::new()?;
        let literals: BTreeSet<Literal> = statements.iter().flat_map(|(_, statement)| statement.literals()).collect();
        let named_as = |kind: &str, id: &str| literals.contains(&Literal { kind: kind.to_owned(), id: id.to_owned() });
        let mut tools: BTreeMap<String, BTreeMap<String, ToolEntities>> = BTreeMap::new();
        let mut named = Vec::new();
        for tool in catalogue {
            let name = tool.policy_name();
            let entities = types.tool(tool, &name)?;
            if named_as(schema::TOOL, &name) {
                named.push(entities.tool.clone());
            }
            if named_as(schema::ACTION, &name) {
                named.push(entities.action.clone());
            }
            tools.entry(tool.server.clone()).or_default().insert(tool.name.clone(), entities);
        }
        let origin = statements.iter().map(|(policy, statement)| (statement.0.id().clone(), *policy)).collect();
        let policies =
            PolicySet::from_policies(statements.into_iter().map(|(_, statement)| statement.0)).map_err(text_of)?;
        let named = Entities::from_entities(named, None).map_err(text_of)?;
        Ok(Self { policies, origin, types, tools, named, authorizer: Authorizer::new() })
    }

    /// Evaluates all statements. An error means that the question itself could not be put.
    pub(crate) fn evaluate(&self, request: &Request<'_>) -> Result<Evaluation, String> {
        let (server, tool) = request.tool;
        let tool =
            self.tools.get(server).and_then(|tools| tools.get(tool)).ok_or("the tool is not in the catalogue")?;
        let entities = self.entities(request, tool)?;
        let question = self.question(request, tool)?;
        let response = self.authorizer.is_authorized(&question, &self.policies, &entities);
        let index = |id: &PolicyId| self.origin.get(id).copied().unwrap_or(usize::MAX);
        let failed = response.diagnostics().errors().map(|AuthorizationError::PolicyEvaluationError(error)| {
            (index(error.policy_id()), error.inner().to_string())
        });
        Ok(Evaluation {
            failed: failed.collect(),
            permit: response.decision() == Decision::Allow,
            matched: response.diagnostics().reason().map(index).collect(),
        })
    }

    fn question(&self, request: &Request<'_>, tool: &ToolEntities) -> Result<cedar_policy::Request, String> {
        let string = |text: &str| RestrictedExpression::new_string(text.to_owned());
        let context = Context::from_pairs([
            ("agent".to_owned(), RestrictedExpression::new_entity_uid(self.types.agent(request.agent.name))),
            ("virtual_server".to_owned(), string(request.virtual_server)),
            ("level".to_owned(), string(request.level.as_str())),
        ]);
        let principal = self.types.user(request.user);
        let context = context.map_err(text_of)?;
        cedar_policy::Request::new(principal, tool.action.uid(), tool.tool.uid(), context, None).map_err(text_of)
    }

    fn entities(&self, request: &Request<'_>, tool: &ToolEntities) -> Result<Entities, String> {
        let agent = &request.agent;
        let mut entities = vec![self.types.user_in(request.user, request.groups), self.types.agent_of(agent)?];
        if agent.owner != request.user {
            entities.push(self.types.user_in(agent.owner, agent.owner_groups));
        }
        let static_ones = [&tool.tool, &tool.action].into_iter();
        entities.extend(static_ones.filter(|entity| self.named.get(&entity.uid()).is_none()).cloned());
        self.named.clone().add_entities(entities, None).map_err(text_of)
    }
}

/// The parsed names of our entity types.
struct Types {
    user: EntityTypeName,
    group: EntityTypeName,
    agent: EntityTypeName,
    project: EntityTypeName,
    server: EntityTypeName,
    tool: EntityTypeName,
    action: EntityTypeName,
}

impl Types {
    fn new() -> Result<Self, String> {
        let name = |word: &str| word.parse::<EntityTypeName>().map_err(text_of);
        Ok(Self {
            user: name(schema::USER)?,
            group: name(schema::GROUP)?,
            agent: name(schema::AGENT)?,
            project: name(schema::PROJECT)?,
            server: name(schema::SERVER)?,
            tool: name(schema::TOOL)?,
            action: name(schema::ACTION)?,
        })
    }

    fn user(&self, name: &str) -> EntityUid {
        uid(&self.user, name)
    }

    fn agent(&self, name: &str) -> EntityUid {
        uid(&self.agent, name)
    }

    fn user_in(&self, name: &str, groups: &[String]) -> Entity {
        Entity::new_no_attrs(self.user(name), groups.iter().map(|group| uid(&self.group, group)).collect())
    }

    fn agent_of(&self, agent: &RequestAgent<'_>) -> Result<Entity, String> {
        let attributes = HashMap::from([
            ("owner".to_owned(), RestrictedExpression::new_entity_uid(self.user(agent.owner))),
            ("project".to_owned(), RestrictedExpression::new_entity_uid(uid(&self.project, agent.project))),
            ("ceiling".to_owned(), RestrictedExpression::new_string(agent.ceiling.as_str().to_owned())),
        ]);
        Entity::new(self.agent(agent.name), attributes, HashSet::new()).map_err(text_of)
    }

    fn tool(&self, tool: &CatalogueTool, policy_name: &str) -> Result<ToolEntities, String> {
        let server = uid(&self.server, &tool.server);
        let mut attributes = HashMap::from([
            ("tier".to_owned(), RestrictedExpression::new_string(tool.tier.as_str().to_owned())),
            ("name".to_owned(), RestrictedExpression::new_string(tool.name.clone())),
            ("server".to_owned(), RestrictedExpression::new_entity_uid(server.clone())),
        ]);
        if let Some(cost) = &tool.cost {
            // Cedar wants a point in a decimal; we do not.
            let cost = if cost.contains('.') { cost.clone() } else { format!("{cost}.0") };
            attributes.insert("cost".to_owned(), RestrictedExpression::new_decimal(cost));
        }
        let resource = uid(&self.tool, policy_name);
        let call_tool = HashSet::from([uid(&self.action, schema::CALL_TOOL)]);
        Ok(ToolEntities {
            tool: Entity::new(resource, attributes, HashSet::from([server])).map_err(text_of)?,
            action: Entity::new_no_attrs(uid(&self.action, policy_name), call_tool),
        })
    }
}

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

fn text_of(error: impl fmt::Display) -> String {
    error.to_string()
}

//! Rejections: why a command has no effect, as data.
//!
//! Made by the aggregates' `decide` functions; the server maps [`Rejection::class`] to a status and shows
//! [`Rejection::problems`]. Absent: reasons for which calls are refused (`bailiwick_proto::Reason`).

use bailiwick_proto::Tier;

use crate::{Problem, ResourceRef, credential::Audience, problem::PROBLEMS_MAX};

/// Why nothing happened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// What was written cannot be applied.
    #[error("{} of what was written cannot be applied; nothing was changed", count(.0, "problem"))]
    Invalid(Vec<Problem>),
    /// What should go is still referred to.
    #[error("what should go is still referred to ({}); nothing was changed", count(.0, "reference"))]
    InUse(Vec<Problem>),
    /// What is named does not exist.
    #[error("not found: {}", list(.0))]
    NotFound(Vec<ResourceRef>),
    /// Resources of this kind cannot be deleted this way.
    #[error("{resource} cannot be deleted: {instead}")]
    NotDeletable {
        /// Which.
        resource: ResourceRef,
        /// What to do instead.
        instead: &'static str,
    },
    /// A deactivated user or agent can be given no token.
    #[error("{0} is not active")]
    Inactive(ResourceRef),
    /// Whoever is activated begins anew, and that takes further changes.
    #[error("{0} is not activated yet: consents or agents of before are still being ended; try again")]
    StillEnding(ResourceRef),
    /// More was asked for than the agent may ever use.
    #[error("level {level} is above the ceiling {ceiling} of Agent {agent}")]
    LevelAboveCeiling {
        /// What was asked for.
        level: Tier,
        /// What the agent may use.
        ceiling: Tier,
        /// The agent.
        agent: String,
    },
    /// The lifetime is out of bounds.
    #[error("a lifetime of {seconds} s is out of bounds: use 1 s to {max} s")]
    LifetimeOutOfBounds {
        /// What was asked for.
        seconds: u64,
        /// The longest.
        max: u64,
    },
    /// It is good once.
    #[error("the assertion was used before")]
    AssertionUsed,
    /// What a provider or a browser says of a person was so before their sessions ended.
    #[error("the sessions of {0} were ended after this: sign in again")]
    SessionsEnded(ResourceRef),
    /// No such code, or not any more, or not for this client, redirect URI or verifier.
    #[error("the code is not known, has expired, or was made for another client, redirect URI, resource or verifier")]
    CodeUnknown,
    /// No such refresh token, or not any more.
    #[error("the refresh token is not known, or what it was good for has ended")]
    RefreshUnknown,
    /// Nothing is handed on.
    #[error(transparent)]
    Exchange(#[from] crate::exchange::NotHandedOn),
    /// The token would not be bound as it must be.
    #[error(transparent)]
    Binding(#[from] crate::binding::NotBound),
    /// The person has answered this question.
    #[error("this was answered before")]
    AnsweredBefore,
    /// It acts never again.
    #[error("Agent {agent} is retired, which is for ever; its successor needs a name of its own")]
    Retired {
        /// The agent.
        agent: String,
    },
    /// Somebody should have looked at the agent.
    #[error("Agent {agent} was to be reviewed by {date}: look at it, and write a later day into spec.review_by")]
    ReviewDue {
        /// The agent.
        agent: String,
        /// The day.
        date: String,
    },
    /// The client's manifest does not say that it runs without a person there.
    #[error("client {client} gets no tokens of its own for {virtual_server}: its manifest names that under `headless`")]
    NotHeadless {
        /// The client.
        client: String,
        /// Where.
        virtual_server: String,
    },
    /// The client is no workload, or another one.
    #[error("client {client} is not the workload that is vouched for")]
    NotItsWorkload {
        /// The client.
        client: String,
    },
    /// The client is not software of the agent.
    #[error("client {client} may not act as Agent {agent}")]
    NotItsAgent {
        /// The client.
        client: String,
        /// The agent.
        agent: String,
    },
    /// Somebody took it away; the provider's word does not bring it back.
    #[error("consent {consent} for this was revoked here")]
    ConsentHeld {
        /// Its id.
        consent: String,
    },
    /// No consent is of this session.
    #[error("there is no session \"{0}\", or all that it was good for ended long ago")]
    SessionUnknown(String),
    /// The server shows no such tool.
    #[error("Server {server} shows no tool \"{tool}\"")]
    ToolUnknown {
        /// The server.
        server: String,
        /// The tool.
        tool: String,
    },
    /// Approving the tool would make two tools have one name.
    #[error("tool \"{tool}\" of Server {server} collides with {other}")]
    ToolCollision {
        /// The server.
        server: String,
        /// The tool.
        tool: String,
        /// What has the name.
        other: String,
    },
    /// There is no room for more.
    #[error("at most {max} of {what} are kept")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        max: usize,
    },
    /// A field of the request is not what it must be.
    #[error("the {what} is not acceptable: it must be {rule}")]
    Malformed {
        /// Which field.
        what: &'static str,
        /// What is acceptable.
        rule: &'static str,
    },
    /// Another key is registered under this key id.
    #[error("another token key has the id {0}")]
    TokenKeyConflict(String),
    /// The node's name belongs to another role.
    #[error("the node {node} is registered in another role")]
    NodeRoleConflict {
        /// The node.
        node: String,
    },
    /// The node is started again and again.
    #[error("the node {node} was started too often lately; it is registered once a minute until it stays up")]
    TooManyRuns {
        /// The node.
        node: String,
    },
    /// Another run, or none, is the present one.
    #[error("this is not the present run of a data plane {node}: another has registered since, or none")]
    NotThatRun {
        /// The node.
        node: String,
    },
    /// The reserved run is not the node's to begin any more.
    #[error("node {node} has no such reserve: it was used, or another run or reserve was registered since")]
    ReserveGone {
        /// The node.
        node: String,
    },
    /// The checkpoint does not start where the last one ended: somebody else committed, or a backup was restored.
    #[error("the last checkpoint of {origin} has size {size}; the one given does not extend it")]
    CheckpointConflict {
        /// Of which log.
        origin: String,
        /// The committed size.
        size: u64,
    },
    /// The proof does not show that the last checkpoint is a prefix: the log was rewritten.
    #[error("the consistency proof of {origin} from size {old_size} to {size} does not verify")]
    CheckpointProof {
        /// Of which log.
        origin: String,
        /// From.
        old_size: u64,
        /// To.
        size: u64,
    },
    /// There is no such secret.
    #[error("there is no secret \"{name}\"")]
    SecretUnknown {
        /// Its name.
        name: String,
    },
    /// A SCIM token has the name.
    #[error("there is a SCIM token \"{name}\", whose text was shown once; revoke it first, or take another name")]
    ScimTokenTaken {
        /// Its name.
        name: String,
    },
    /// There is no such SCIM token.
    #[error("there is no SCIM token \"{name}\"")]
    ScimTokenUnknown {
        /// Its name.
        name: String,
    },
    /// A secret's name is one for others.
    #[error("secret \"{name}\" is for {}; delete it first, or take another name", .audience.word())]
    SecretForOthers {
        /// Its name.
        name: String,
        /// For whom it is.
        audience: Audience,
    },
    /// A secret was sealed meanwhile.
    #[error("{column}/{key} was sealed meanwhile: its next edition is {next}")]
    SecretEdition {
        /// Kind of secret.
        column: String,
        /// Which of its kind.
        key: String,
        /// The edition that would be taken.
        next: u64,
    },
    /// The keys stay as they are.
    #[error(transparent)]
    Keys(#[from] crate::key_rotation::KeysStay),
    /// Not all secrets are sealed under the key.
    #[error("not all secrets are sealed under master key {master} yet")]
    SecretsUnderOther {
        /// Name of the key.
        master: String,
    },
    /// There is a cluster already.
    #[error("the cluster is founded already")]
    ClusterFounded,
    /// The join token was shown to an earlier request with this id, and nobody keeps its secret.
    #[error("this request made a join token already, which is shown only once; ask for another")]
    JoinTokenShown,
    /// No such token, or not any more.
    #[error(
        "the join token is not known, was used or has expired (it is good once, for ten minutes); \
         create another with `bailiwick cluster join-token`"
    )]
    JoinTokenInvalid,
    /// The token was made for somebody else.
    #[error("the join token is for the {what} \"{wanted}\"")]
    JoinTokenForOther {
        /// Role or name.
        what: &'static str,
        /// Which.
        wanted: String,
    },
    /// There is a member of this name.
    #[error(
        "there is a member \"{name}\" already; remove it first, or use a join token made for that name and role \
         if the same node comes back with an empty disk (never a control plane)"
    )]
    MemberNameTaken {
        /// The name.
        name: String,
    },
    /// There is no such member.
    #[error("there is no member \"{0}\"")]
    MemberUnknown(String),
    /// The key is not the one the member enrolled with.
    #[error("member \"{name}\" enrolled with another key")]
    MemberKeyDiffers {
        /// The member.
        name: String,
    },
    /// There is one rollout at a time.
    #[error(
        "rollout {rollout} is under way, and there is one at a time: see it through with `bailiwick rollout advance`, \
         or take it back with `bailiwick rollout back`"
    )]
    RolloutUnderWay {
        /// Its id.
        rollout: u64,
    },
    /// What is being rolled out is changed by nothing else.
    #[error(
        "{resource} is being rolled out in stages (rollout {rollout}): see that through with \
         `bailiwick rollout advance`, or take it back with `bailiwick rollout back`, and then change it"
    )]
    RolledOut {
        /// Which resource.
        resource: ResourceRef,
        /// The rollout's id.
        rollout: u64,
    },
    /// Nobody would be in the share.
    #[error("no data plane is registered, so there is no share of them: apply it without shares")]
    NobodyToRollOutTo,
    /// There is nothing to go on with or to take back.
    #[error("no rollout is under way")]
    NoRollout,
    /// There was none, or it is forgotten.
    #[error("there is no rollout {0}")]
    RolloutUnknown(u64),
    /// It is no longer under way.
    #[error("rollout {rollout} is {} already", outcome.replace('_', " "))]
    RolloutEnded {
        /// Its id.
        rollout: u64,
        /// How it ended.
        outcome: &'static str,
    },
    /// Without it nobody could vote.
    #[error("member \"{member}\" is the last voter; a cluster without one could change nothing ever after")]
    LastVoter {
        /// The member.
        member: String,
    },
    /// Too few of the voters that remain answer.
    #[error(
        "without \"{member}\" only {answering} of {voters} voters answer, which is no majority; bring others back \
         first, or use --force"
    )]
    MajorityLost {
        /// The member.
        member: String,
        /// Voters that would remain.
        voters: usize,
        /// Of those, how many answer.
        answering: usize,
    },
}

/// What kind of answer a rejection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The request itself is wrong.
    Invalid,
    /// What it names is not there.
    NotFound,
    /// The state does not allow it.
    Conflict,
    /// It asks for more than is allowed.
    Forbidden,
}

impl Rejection {
    /// What kind of answer this is.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::Invalid(_) | Self::LifetimeOutOfBounds { .. } | Self::Malformed { .. } => Class::Invalid,
            Self::SecretUnknown { .. }
            | Self::ScimTokenUnknown { .. }
            | Self::NotFound(_)
            | Self::ToolUnknown { .. }
            | Self::MemberUnknown(_)
            | Self::SessionUnknown(_)
            | Self::NoRollout
            | Self::RolloutUnknown(_) => Class::NotFound,
            Self::InUse(_)
            | Self::NotDeletable { .. }
            | Self::ToolCollision { .. }
            | Self::TooMany { .. }
            | Self::TokenKeyConflict(_)
            | Self::NodeRoleConflict { .. }
            | Self::TooManyRuns { .. }
            | Self::NotThatRun { .. }
            | Self::ReserveGone { .. }
            | Self::CheckpointConflict { .. }
            | Self::CheckpointProof { .. }
            | Self::SecretForOthers { .. }
            | Self::ScimTokenTaken { .. }
            | Self::SecretEdition { .. }
            | Self::SecretsUnderOther { .. }
            | Self::Keys(_)
            | Self::ClusterFounded
            | Self::JoinTokenShown
            | Self::Retired { .. }
            | Self::MemberNameTaken { .. }
            | Self::RolloutUnderWay { .. }
            | Self::RolledOut { .. }
            | Self::NobodyToRollOutTo
            | Self::RolloutEnded { .. }
            | Self::LastVoter { .. }
            | Self::MajorityLost { .. } => Class::Conflict,
            Self::Inactive(_)
            | Self::StillEnding(_)
            | Self::AssertionUsed
            | Self::SessionsEnded(_)
            | Self::CodeUnknown
            | Self::AnsweredBefore
            | Self::RefreshUnknown
            | Self::NotItsAgent { .. }
            | Self::ReviewDue { .. }
            | Self::NotHeadless { .. }
            | Self::NotItsWorkload { .. }
            | Self::Exchange(_)
            | Self::Binding(_)
            | Self::ConsentHeld { .. }
            | Self::LevelAboveCeiling { .. }
            | Self::JoinTokenInvalid
            | Self::JoinTokenForOther { .. }
            | Self::MemberKeyDiffers { .. } => Class::Forbidden,
        }
    }

    /// Everything that is wrong, one problem each; at least one.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        match self {
            Self::Invalid(problems) | Self::InUse(problems) if !problems.is_empty() => problems.clone(),
            Self::NotFound(resources) if !resources.is_empty() => resources
                .iter()
                .take(PROBLEMS_MAX)
                .map(|resource| Problem { message: format!("{resource} does not exist"), ..Problem::default() })
                .collect(),
            other => vec![Problem { message: other.to_string(), ..Problem::default() }],
        }
    }
}

fn count(problems: &[Problem], noun: &str) -> String {
    format!("{} {noun}{}", problems.len(), if problems.len() == 1 { "" } else { "s" })
}

fn list(resources: &[ResourceRef]) -> String {
    resources.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

//! Which attributes people, groups and agents (`agents`) have, as one table: schemas, resource types and the service's
//! description are told from it (RFC 7643 §4, §6, §7; RFC 7644 §4), and what is sent is read by it.
//!
//! Invariant: what is not in the table is not kept. Absent: `photos`, `ims`, `x509Certificates` and other attributes
//! that say nothing here.

mod agents;

use serde_json::{Map, Value, json};

pub(super) use self::agents::{AGENT, AGENT_EXTENSION};
use crate::config::Draft;

pub(super) const USER: &str = "urn:ietf:params:scim:schemas:core:2.0:User";
pub(super) const ENTERPRISE: &str = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User";
pub(super) const GROUP: &str = "urn:ietf:params:scim:schemas:core:2.0:Group";
pub(super) const ERROR: &str = "urn:ietf:params:scim:api:messages:2.0:Error";
pub(super) const LIST: &str = "urn:ietf:params:scim:api:messages:2.0:ListResponse";
pub(super) const SEARCH: &str = "urn:ietf:params:scim:api:messages:2.0:SearchRequest";
pub(super) const PATCH: &str = "urn:ietf:params:scim:api:messages:2.0:PatchOp";
pub(super) const BULK: &str = "urn:ietf:params:scim:api:messages:2.0:BulkRequest";
pub(super) const BULK_RESPONSE: &str = "urn:ietf:params:scim:api:messages:2.0:BulkResponse";
/// Of which a resource has one at most.
pub(super) const EXTENSIONS: [&str; 2] = [ENTERPRISE, AGENT_EXTENSION];
const CONFIG: &str = "urn:ietf:params:scim:schemas:core:2.0:ServiceProviderConfig";
const RESOURCE_TYPE: &str = "urn:ietf:params:scim:schemas:core:2.0:ResourceType";
const SCHEMA: &str = "urn:ietf:params:scim:schemas:core:2.0:Schema";

/// What a value of an attribute is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Flag,
    Reference,
    Complex,
}

/// Who may write an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mutability {
    ReadWrite,
    ReadOnly,
    WriteOnly,
    Immutable,
}

/// An attribute (RFC 7643 §7).
#[derive(Clone, Copy, Debug)]
pub(super) struct Attribute {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) multi: bool,
    pub(super) required: bool,
    pub(super) exact: bool,
    pub(super) mutability: Mutability,
    pub(super) sub: &'static [Self],
    unique: bool,
    description: &'static str,
    canonical: &'static [&'static str],
    references: &'static [&'static str],
}

const fn attribute(name: &'static str, kind: Kind, description: &'static str) -> Attribute {
    Attribute {
        name,
        kind,
        multi: false,
        required: false,
        exact: false,
        mutability: Mutability::ReadWrite,
        sub: &[],
        unique: false,
        description,
        canonical: &[],
        references: &[],
    }
}

const fn text(name: &'static str, description: &'static str) -> Attribute {
    attribute(name, Kind::Text, description)
}

const fn complex(name: &'static str, sub: &'static [Attribute], description: &'static str) -> Attribute {
    Attribute { sub, ..attribute(name, Kind::Complex, description) }
}

const fn several(name: &'static str, sub: &'static [Attribute], description: &'static str) -> Attribute {
    Attribute { multi: true, ..complex(name, sub, description) }
}

const fn reference(name: &'static str, to: &'static [&'static str], description: &'static str) -> Attribute {
    Attribute { references: to, exact: true, ..attribute(name, Kind::Reference, description) }
}

impl Attribute {
    const fn with(self, mutability: Mutability) -> Self {
        Self { mutability, ..self }
    }

    const fn required(self) -> Self {
        Self { required: true, ..self }
    }

    const fn exact(self) -> Self {
        Self { exact: true, ..self }
    }

    const fn of(self, canonical: &'static [&'static str]) -> Self {
        Self { canonical, ..self }
    }

    /// The sub-attribute of a name, in any case.
    pub(super) fn part(&self, name: &str) -> Option<&'static Self> {
        find(self.sub, name)
    }
}

/// The attribute of a name, in any case.
pub(super) fn find(attributes: &'static [Attribute], name: &str) -> Option<&'static Attribute> {
    attributes.iter().find(|attribute| attribute.name.eq_ignore_ascii_case(name))
}

const VALUE: Attribute = text("value", "The value itself.");
const DISPLAY: Attribute = text("display", "How people are shown it.");
const KIND: Attribute = text("type", "What it is for.").of(&["work", "home", "other"]);
const PRIMARY: Attribute = attribute("primary", Kind::Flag, "Whether it is the one to prefer; at most one is.");

/// Of all resources (RFC 7643 §3.1), and so of no schema.
pub(super) const EXTERNAL_ID: Attribute = text("externalId", "What the directory calls it.").exact();

const USER_ATTRIBUTES: &[Attribute] = &[
    Attribute { unique: true, ..text("userName", "The name of the user here; unique whatever its case.").required() },
    complex(
        "name",
        &[
            text("formatted", "The whole name."),
            text("familyName", "The family name."),
            text("givenName", "The given name."),
            text("middleName", "The middle names."),
            text("honorificPrefix", "Titles before the name."),
            text("honorificSuffix", "Suffixes behind the name."),
        ],
        "The parts of the person's name.",
    ),
    text("displayName", "The name that people are shown."),
    text("nickName", "What the person is called."),
    reference("profileUrl", &["external"], "Where more is said of the person."),
    text("title", "What the person is in the company."),
    text("userType", "How the person belongs to the company."),
    text("preferredLanguage", "The person's languages."),
    text("locale", "How numbers and dates are written for the person."),
    text("timezone", "The person's time zone."),
    attribute("active", Kind::Flag, "Whether agents may act for the person; false ends all they were allowed."),
    text("password", "Accepted and not kept: nobody signs in with a password here.")
        .with(Mutability::WriteOnly)
        .exact(),
    several("emails", &[VALUE, DISPLAY, KIND, PRIMARY], "Addresses of electronic mail."),
    several("phoneNumbers", &[VALUE, DISPLAY, KIND, PRIMARY], "Telephone numbers."),
    several(
        "addresses",
        &[
            text("formatted", "The whole address."),
            text("streetAddress", "Street and number."),
            text("locality", "The town."),
            text("region", "The region."),
            text("postalCode", "The postal code."),
            text("country", "The country."),
            KIND,
            PRIMARY,
        ],
        "Postal addresses.",
    ),
    several("roles", &[VALUE, DISPLAY, text("type", "What it is for."), PRIMARY], "What the person does there."),
    several("entitlements", &[VALUE, DISPLAY, text("type", "What it is for."), PRIMARY], "What the person has there."),
    several(
        "groups",
        &[
            VALUE.exact().with(Mutability::ReadOnly),
            reference("$ref", &["Group"], "Where the group is.").with(Mutability::ReadOnly),
            DISPLAY.with(Mutability::ReadOnly),
        ],
        "The groups that the person is in; they change with the groups.",
    )
    .with(Mutability::ReadOnly),
];

const ENTERPRISE_ATTRIBUTES: &[Attribute] = &[
    text("employeeNumber", "The person's number."),
    text("costCenter", "The cost center."),
    text("organization", "The organization."),
    text("division", "The division."),
    text("department", "The department."),
    complex(
        "manager",
        &[
            text("value", "The id of the manager.").exact(),
            reference("$ref", &["User"], "Where the manager is."),
            text("displayName", "The manager's name.").with(Mutability::ReadOnly),
        ],
        "The person's manager.",
    ),
];

const GROUP_ATTRIBUTES: &[Attribute] = &[
    text("displayName", "The name of the group; here with hyphens for what a group's name cannot have.").required(),
    several(
        "members",
        &[
            text("value", "The id of a user.").exact().with(Mutability::Immutable),
            reference("$ref", &["User"], "Where the user is.").with(Mutability::Immutable),
            text("type", "Always User.").of(&["User"]).with(Mutability::Immutable),
        ],
        "Who is in the group: users, no groups.",
    ),
];

/// A type of resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Type {
    User,
    Group,
    Agent(Draft),
}

impl Type {
    /// Those that are served, with agents by the draft that the operator named, if any.
    pub(super) fn served(agents: Option<Draft>) -> Vec<Self> {
        [Self::User, Self::Group].into_iter().chain(agents.map(Self::Agent)).collect()
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::User => "User",
            Self::Group => "Group",
            Self::Agent(_) => "Agent",
        }
    }

    /// Where they are, below the service.
    pub(super) const fn folder(self) -> &'static str {
        match self {
            Self::User => "Users",
            Self::Group => "Groups",
            Self::Agent(_) => "Agents",
        }
    }

    pub(super) const fn schema(self) -> &'static str {
        match self {
            Self::User => USER,
            Self::Group => GROUP,
            Self::Agent(_) => AGENT,
        }
    }

    pub(super) const fn attributes(self) -> &'static [Attribute] {
        match self {
            Self::User => USER_ATTRIBUTES,
            Self::Group => GROUP_ATTRIBUTES,
            Self::Agent(Draft::Resource) => agents::OF_RESOURCE_DRAFT,
            Self::Agent(Draft::Extension) => agents::OF_EXTENSION_DRAFT,
        }
    }

    /// Its extension, with the attributes of that.
    pub(super) const fn extension(self) -> Option<(&'static str, &'static [Attribute])> {
        match self {
            Self::User => Some((ENTERPRISE, ENTERPRISE_ATTRIBUTES)),
            Self::Group => None,
            Self::Agent(_) => Some((AGENT_EXTENSION, agents::EXTENDED)),
        }
    }

    fn resource_type(self, base: &str) -> Value {
        let name = self.name();
        let extension = |(schema, _)| vec![json!({"schema": schema, "required": false})];
        json!({
            "schemas": [RESOURCE_TYPE],
            "id": name,
            "name": name,
            "endpoint": format!("/{}", self.folder()),
            "description": match self {
                Self::User => "People on whose behalf agents act",
                Self::Group => "Groups of people, which policies name",
                Self::Agent(_) => "Agents, each with a user who answers for it",
            },
            "schema": self.schema(),
            "schemaExtensions": self.extension().map(extension).unwrap_or_default(),
            "meta": {"resourceType": "ResourceType", "location": format!("{base}/ResourceTypes/{name}")},
        })
    }
}

/// Whether case matters in values of an attribute, as filters name it.
pub(super) fn is_exact(name: &str, part: Option<&str>) -> bool {
    if ["id", "externalId"].iter().any(|exact| exact.eq_ignore_ascii_case(name)) {
        return true;
    }
    let agents = [agents::OF_RESOURCE_DRAFT, agents::OF_EXTENSION_DRAFT, agents::EXTENDED];
    let all = [USER_ATTRIBUTES, ENTERPRISE_ATTRIBUTES, GROUP_ATTRIBUTES].into_iter().chain(agents);
    let Some(attribute) = all.into_iter().find_map(|attributes| find(attributes, name)) else { return false };
    let part = if attribute.kind == Kind::Complex { Some(part.unwrap_or("value")) } else { part };
    part.map_or(attribute.exact, |part| attribute.part(part).is_some_and(|part| part.exact))
}

/// All resource types, or the one of a name.
pub(super) fn resource_types(base: &str, agents: Option<Draft>) -> Vec<Value> {
    Type::served(agents).into_iter().map(|one| one.resource_type(base)).collect()
}

/// All schemas; agents may be put into these projects.
pub(super) fn schemas(base: &str, agents: Option<Draft>, projects: &[String]) -> Vec<Value> {
    let of_agents = agents.into_iter().flat_map(|draft| {
        let own = (AGENT, "Agent", "Agents", Type::Agent(draft).attributes());
        [own, (AGENT_EXTENSION, "BailiwickAgent", "What decides about agents here", agents::EXTENDED)]
    });
    let all = [
        (USER, "User", "People on whose behalf agents act", USER_ATTRIBUTES),
        (GROUP, "Group", "Groups of people", GROUP_ATTRIBUTES),
        (ENTERPRISE, "EnterpriseUser", "What companies say of people", ENTERPRISE_ATTRIBUTES),
    ];
    let schema = |(id, name, description, attributes): (&str, &str, &str, &'static [Attribute])| {
        json!({
            "schemas": [SCHEMA],
            "id": id,
            "name": name,
            "description": description,
            "attributes": attributes.iter().map(described).collect::<Vec<_>>(),
            "meta": {"resourceType": "Schema", "location": format!("{base}/Schemas/{id}")},
        })
    };
    let mut schemas: Vec<Value> = all.into_iter().chain(of_agents).map(schema).collect();
    schemas.iter_mut().for_each(|schema| agents::name_projects(schema, projects));
    schemas
}

fn described(attribute: &Attribute) -> Value {
    let kind = match attribute.kind {
        Kind::Text => "string",
        Kind::Flag => "boolean",
        Kind::Reference => "reference",
        Kind::Complex => "complex",
    };
    let mutability = match attribute.mutability {
        Mutability::ReadWrite => "readWrite",
        Mutability::ReadOnly => "readOnly",
        Mutability::WriteOnly => "writeOnly",
        Mutability::Immutable => "immutable",
    };
    let mut shown = Map::new();
    let mut say = |key: &str, value: Value| shown.insert(key.to_owned(), value);
    say("name", attribute.name.into());
    say("type", kind.into());
    say("multiValued", attribute.multi.into());
    say("description", attribute.description.into());
    say("required", attribute.required.into());
    say("mutability", mutability.into());
    let is_kept = attribute.mutability != Mutability::WriteOnly;
    say("returned", if is_kept { "default" } else { "never" }.into());
    if attribute.kind != Kind::Flag && attribute.kind != Kind::Complex {
        say("caseExact", attribute.exact.into());
    }
    if attribute.kind != Kind::Flag {
        say("uniqueness", if attribute.unique { "server" } else { "none" }.into());
    }
    if !attribute.canonical.is_empty() {
        say("canonicalValues", attribute.canonical.into());
    }
    if !attribute.references.is_empty() {
        say("referenceTypes", attribute.references.into());
    }
    if !attribute.sub.is_empty() {
        say("subAttributes", attribute.sub.iter().map(described).collect());
    }
    Value::Object(shown)
}

/// What the service can do.
pub(super) fn configuration(base: &str, operations: usize, bytes: usize, results: usize) -> Map<String, Value> {
    let described = json!({
        "schemas": [CONFIG],
        "patch": {"supported": true},
        "bulk": {"supported": true, "maxOperations": operations, "maxPayloadSize": bytes},
        "filter": {"supported": true, "maxResults": results},
        "changePassword": {"supported": false},
        "sort": {"supported": false},
        "etag": {"supported": true},
        "authenticationSchemes": [{
            "type": "oauthbearertoken",
            "name": "OAuth Bearer Token",
            "description": "A token made by `bailiwick scim token create`",
            "specUri": "https://www.rfc-editor.org/info/rfc6750",
            "primary": true,
        }],
        "meta": {"resourceType": "ServiceProviderConfig", "location": format!("{base}/ServiceProviderConfig")},
    });
    if let Value::Object(described) = described { described } else { Map::new() }
}

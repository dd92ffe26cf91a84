//! What directories send over SCIM: filters, and changes of a person (RFC 7644 §3.4.2.2, §3.5.2).
//!
//! Promised: a filter that is read is bounded, and printed and read again it is the same; negated it matches whom it
//! did not. A change of a person writes nothing that a directory must not write, leaves no more values and no larger a
//! document than it may, and what it leaves is read again as it is.

use serde_json::{Map, Value, json};

use super::{
    budget::Budget,
    document,
    filter::{Filter, Operator, Path, TEXT_BYTES_MAX, Target},
    patch,
    schema::{self, Type},
};
use crate::{
    mutate::Random,
    targets::{Broken, Checked, from, promise},
};

/// As the reader counts them.
const TERMS_MAX: usize = 128;
const DEPTH_MAX: usize = 16;
/// Most values of one attribute.
const VALUES_MAX: usize = 500;

const FILTERS: [&str; 12] = [
    r#"userName eq "jane@example.com""#,
    r#"emails[type eq "work" and value co "@example.com"] or title pr"#,
    r#"not (active eq true) and (meta.lastModified gt "2011-05-13T04:42:34Z" or name.familyName sw "O\u0027M")"#,
    r#"urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:manager.value eq "M1""#,
    r#"urn:ietf:params:scim:schemas:core:2.0:User:userName ne null"#,
    r#"a pr and b pr or c pr and (d pr and (e pr or f pr))"#,
    r#"title eq -1.50e3 or title ge 12345678901234567890"#,
    r#"NOT(userName Eq "x") AND emails[not (primary eq "True")]"#,
    r#"((((((((((((((((a pr))))))))))))))))"#,
    r#"externalId eq "\"\\)( or x""#,
    r#"emails.value ew "net" and $ref pr"#,
    r#"displayName lt "\ud83e\udd80" or emails[value eq "a"].display pr"#,
];
const PATCHES: [&str; 7] = [
    r#"{"schemas":["urn:ietf:params:scim:api:messages:2.0:PatchOp"],"Operations":[{"op":"replace","path":"active","value":"False"},{"op":"Add","path":"emails[type eq \"home\"].value","value":"j@home.example"}]}"#,
    r#"{"schemas":["urn:ietf:params:scim:api:messages:2.0:PatchOp"],"operations":[{"op":"add","value":{"name.familyName":"Doe","emails":[{"value":"a@b.example","primary":true},{"value":"a@b.example"}],"urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:department":"Sales"}}]}"#,
    r#"{"schemas":["urn:ietf:params:scim:api:messages:2.0:PatchOp"],"Operations":[{"op":"remove","path":"emails[value eq \"jane@example.com\"]"},{"op":"remove","path":"name.givenName"},{"op":"remove","path":"emails","value":[{"value":"j@home.net"}]}]}"#,
    r#"{"schemas":["urn:ietf:params:scim:api:messages:2.0:PatchOp"],"Operations":[{"op":"replace","path":"urn:ietf:params:scim:schemas:extension:enterprise:2.0:User","value":{"manager":"M1","costCenter":"7"}},{"op":"replace","path":"emails.type","value":"other"}]}"#,
    r#"{"schemas":["urn:ietf:params:scim:api:messages:2.0:PatchOp"],"Operations":[{"op":"replace","value":{"id":"x","meta":{"a":1},"groups":[{"value":"g"}],"password":"p","userName":"j"}},{"op":"replace","path":"name","value":{"FAMILYNAME":"X","shoe":43}}]}"#,
    r#"{"schemas":["urn:ietf:params:scim:api:messages:2.0:PatchOp"],"Operations":[{"op":"add","path":"phoneNumbers[type eq \"work\"]","value":{"value":"+1","display":"office"}},{"op":"replace","path":"userName","value":null},{"op":"replace","path":"id","value":"x"}]}"#,
    r#"{"schemas":["urn:ietf:params:scim:api:messages:2.0:PatchOp"],"Operations":[{"op":"add","path":"roles","value":["admin",{"value":"b","primary":"true"},"admin"]},{"op":"add","path":"addresses","value":[{"locality":"Bern","type":"work"}]},{"op":"replace","path":"roles[primary eq true].display","value":"B"}]}"#,
];

fn jane() -> Map<String, Value> {
    let jane = json!({
        "externalId": "E1", "userName": "jane@example.com", "active": true, "title": "CFO",
        "name": {"familyName": "O'Malley", "givenName": "Jane"},
        "emails": [{"value": "jane@example.com", "type": "work", "primary": true}, {"value": "j@home.net", "type": "home"}],
        (schema::ENTERPRISE): {"department": "Finance", "manager": {"value": "M1"}},
    });
    jane.as_object().cloned().unwrap_or_default()
}

pub(crate) fn a_filter(random: &mut Random) -> Vec<u8> {
    from(random, &FILTERS)
}

pub(crate) fn filter(input: &[u8]) -> Checked {
    let Ok(text) = std::str::from_utf8(input) else { return Ok(false) };
    // A path of a change is read by the same functions.
    if let Ok(target) = Target::parse(text, Type::User) {
        let among = target.among.as_ref().map(|among| format!("[{}]", printed(among))).unwrap_or_default();
        let part = target.path.part.as_ref().map(|part| format!(".{part}")).unwrap_or_default();
        let whole = Path { part: None, ..target.path.clone() };
        let anew = format!("{}{among}{part}", path(&whole));
        let again = Target::parse(&anew, Type::User);
        promise(anew.len() > TEXT_BYTES_MAX || again.as_ref() == Ok(&target), "a path printed and read is another")?;
    }
    let Ok(read) = Filter::parse(text, Type::User) else { return Ok(false) };
    promise(text.len() <= TEXT_BYTES_MAX && comparisons(&read) <= TERMS_MAX, "it is too large")?;
    // Each bracket leads at most three levels down: to a list of alternatives, one of them, and what that is about.
    promise(depth(&read) <= 3 * (DEPTH_MAX + 1), "it is too deep")?;
    let anew = printed(&read);
    if anew.len() <= TEXT_BYTES_MAX {
        let again = Filter::parse(&anew, Type::User).map_err(|_fault| Broken(format!("not read again: {anew}")))?;
        promise(again == read, "printed and read it is another")?;
    }
    let jane = jane();
    promise(Filter::Not(Box::new(read.clone())).matches(&jane) != read.matches(&jane), "it matches and does not")?;
    if let Some(wanted) = read.wants("userName") {
        let is_she = wanted.to_lowercase() == "jane@example.com";
        promise(is_she || !read.matches(&jane), "it matches somebody of another name than it wants")?;
    }
    Ok(true)
}

fn comparisons(filter: &Filter) -> usize {
    match filter {
        Filter::All(all) | Filter::Any(all) => all.iter().map(comparisons).sum(),
        Filter::Not(inner) | Filter::Among(_, inner) => comparisons(inner),
        Filter::Present(_) | Filter::Compare(..) => 1,
    }
}

fn depth(filter: &Filter) -> usize {
    match filter {
        Filter::All(all) | Filter::Any(all) => 1 + all.iter().map(depth).max().unwrap_or(0),
        Filter::Not(inner) | Filter::Among(_, inner) => 1 + depth(inner),
        Filter::Present(_) | Filter::Compare(..) => 1,
    }
}

/// With as few brackets as it can be read with.
fn printed(filter: &Filter) -> String {
    let joined = |all: &[Filter], word: &str, within: &dyn Fn(&Filter) -> bool| {
        let one = |one: &Filter| if within(one) { format!("({})", printed(one)) } else { printed(one) };
        all.iter().map(one).collect::<Vec<_>>().join(word)
    };
    match filter {
        Filter::Any(all) => joined(all, " or ", &|one| matches!(one, Filter::Any(_))),
        Filter::All(all) => joined(all, " and ", &|one| matches!(one, Filter::Any(_) | Filter::All(_))),
        Filter::Not(inner) => format!("not ({})", printed(inner)),
        Filter::Present(of) => format!("{} pr", path(of)),
        Filter::Compare(of, operator, literal) => format!("{} {} {}", path(of), word(*operator), literal.value),
        Filter::Among(of, inner) => format!("{}[{}]", path(of), printed(inner)),
    }
}

fn path(Path { extension, name, part }: &Path) -> String {
    let schema = match (extension, name.is_empty()) {
        (true, true) => schema::ENTERPRISE.to_owned(),
        (true, false) => format!("{}:", schema::ENTERPRISE),
        (false, _) => String::new(),
    };
    format!("{schema}{name}{}", part.as_ref().map(|part| format!(".{part}")).unwrap_or_default())
}

const fn word(operator: Operator) -> &'static str {
    match operator {
        Operator::Equal => "eq",
        Operator::NotEqual => "ne",
        Operator::Contains => "co",
        Operator::Starts => "sw",
        Operator::Ends => "ew",
        Operator::Greater => "gt",
        Operator::GreaterOrEqual => "ge",
        Operator::Less => "lt",
        Operator::LessOrEqual => "le",
    }
}

pub(crate) fn a_patch(random: &mut Random) -> Vec<u8> {
    from(random, &PATCHES)
}

pub(crate) fn check_patch(input: &[u8]) -> Checked {
    let Ok(Value::Object(sent)) = serde_json::from_slice::<Value>(input) else { return Ok(false) };
    let Ok(operations) = patch::read(&sent, Type::User) else { return Ok(false) };
    let (before, mut after) = (jane(), jane());
    let count = operations.len();
    // What an operation writes, it may write into each value of an attribute: of Jane's there are as many as she has,
    // and as were sent.
    let sent_values = input.iter().filter(|byte| **byte == b'{' || **byte == b'"').count();
    let grown_max = input.len().saturating_mul(2 + sent_values.min(VALUES_MAX));
    if patch::apply(&mut after, operations, Type::User, &mut Budget::default()).is_err() {
        return Ok(false);
    }
    let length = |document: &Map<String, Value>| Value::Object(document.clone()).to_string().len();
    promise(count > 0 && length(&after) <= length(&before) + grown_max, "it has grown beyond its bound")?;
    for (name, value) in &after {
        let is_extension = name == schema::ENTERPRISE;
        let is_known = is_extension
            || name == "externalId"
            || schema::find(Type::User.attributes(), name).is_some_and(|known| known.name == name);
        promise(is_known && !["id", "meta", "schemas", "groups"].contains(&name.as_str()), "an attribute is made up")?;
        promise(value.as_array().is_none_or(|values| values.len() <= VALUES_MAX), "too many values")?;
    }
    let Ok(read) = document::read(&after, Type::User) else { return Ok(false) };
    promise(!read.contains_key("password"), "a password is kept")?;
    promise(document::read(&read, Type::User).as_ref() == Ok(&read), "what is kept is read otherwise")?;
    promise(length(&read) <= length(&after) + read.len() * 64, "reading makes it longer")?;
    Ok(true)
}

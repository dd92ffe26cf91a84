//! PATCH (RFC 7644 §3.5.2), also as Okta and Entra ID write it: operations in any case, values under dotted or
//! qualified names without a path, removals that name values.
//!
//! Called by `service` and `agents` with what is written of a resource, and by `groups` with all but members. All
//! operations or none: the caller keeps the document only if all could be applied. Invariant: what is written into
//! several values is small, of parts that are known, and charged to the request's `budget`, as is what is looked for.
//! Absent: whether the outcome may be so (`document`).

use bailiwick_control_plane_core::provisioning::PROFILE_BYTES_MAX;
use serde_json::{Map, Value};

use super::{
    budget::Budget,
    document,
    fault::Fault,
    filter::{Filter, Operator, Path, Target, member},
    schema::{self, Attribute, Mutability, Type, find},
};

/// Most operations of one request.
const OPERATIONS_MAX: usize = 1_000;

/// Most operations of one request that look for values, but those on members (`groups`): each part of each kind of
/// address, number and e-mail has room.
const FILTERED_MAX: usize = 64;

/// Most values of one attribute: as many short ones fit into what is kept of a person.
const VALUES_MAX: usize = 500;

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Add,
    Replace,
    Remove,
}

/// One operation.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub(super) op: Op,
    pub(super) target: Option<Target>,
    pub(super) value: Option<Value>,
}

/// Reads a request's operations.
///
/// # Errors
/// They cannot be read, or are too many.
pub(super) fn read(sent: &Map<String, Value>, of: Type) -> Result<Vec<Operation>, Fault> {
    document::check_schemas(sent, schema::PATCH)?;
    let Some(Value::Array(operations)) = member(sent, "Operations") else {
        return Err(Fault::syntax("`Operations` must be a list"));
    };
    if operations.is_empty() || operations.len() > OPERATIONS_MAX {
        return Err(Fault::too_many(format!("a request has 1 to {OPERATIONS_MAX} operations")));
    }
    let operations: Vec<Operation> =
        operations.iter().map(|operation| read_one(operation, of)).collect::<Result<_, _>>()?;
    let filters = operations.iter().filter_map(|operation| operation.target.as_ref()?.among.as_ref());
    if of != Type::Group && filters.count() > FILTERED_MAX {
        return Err(Fault::too_many(format!("at most {FILTERED_MAX} operations of a request have a value filter")));
    }
    Ok(operations)
}

fn read_one(operation: &Value, of: Type) -> Result<Operation, Fault> {
    let operation = operation.as_object().ok_or_else(|| Fault::syntax("an operation must be an object"))?;
    let op = member(operation, "op").and_then(Value::as_str).unwrap_or_default();
    let op = match op.to_ascii_lowercase().as_str() {
        "add" => Op::Add,
        "replace" => Op::Replace,
        "remove" => Op::Remove,
        _ => return Err(Fault::syntax("`op` must be add, replace or remove")),
    };
    let target = match member(operation, "path") {
        None | Some(Value::Null) => None,
        Some(Value::String(path)) => Some(Target::parse(path, of)?),
        Some(_) => return Err(Fault::path("`path` must be a text")),
    };
    let value = member(operation, "value").cloned();
    match (op, &target, &value) {
        (Op::Remove, None, _) => Err(Fault::target("what should be removed needs a path")),
        (Op::Add | Op::Replace, _, None) => Err(Fault::value("there is no value")),
        (Op::Add | Op::Replace, None, Some(Value::Object(_))) | (_, Some(_), _) => Ok(Operation { op, target, value }),
        (Op::Add | Op::Replace, None, Some(_)) => Err(Fault::value("without a path, the value must be an object")),
    }
}

/// Applies operations to what is written of a resource.
///
/// # Errors
/// One cannot be applied; then `document` is of no use any more.
pub(super) fn apply(
    document: &mut Map<String, Value>,
    operations: Vec<Operation>,
    of: Type,
    budget: &mut Budget,
) -> Result<(), Fault> {
    for Operation { op, target, value } in operations {
        match (target, value) {
            (Some(target), value) => apply_one(document, op, &target, value, of, budget)?,
            (None, Some(Value::Object(members))) => {
                for (key, value) in members {
                    if is_common(&key) {
                        continue;
                    }
                    let path =
                        Path::parse(&key, of).ok_or_else(|| Fault::path("a name of an attribute cannot be read"))?;
                    if known(&path, of).is_some_and(|known| known.mutability != Mutability::ReadOnly)
                        || path.name.is_empty()
                    {
                        apply_one(document, op, &Target { path, among: None }, Some(value), of, budget)?;
                    }
                }
            }
            (None, _) => return Err(Fault::value("without a path, the value must be an object")),
        }
    }
    Ok(())
}

/// What the service says of a resource, which directories send back.
fn is_common(key: &str) -> bool {
    ["schemas", "id", "meta"].iter().any(|common| common.eq_ignore_ascii_case(key))
}

static EXTERNAL_ID: Attribute = schema::EXTERNAL_ID;

fn known(path: &Path, of: Type) -> Option<&'static Attribute> {
    if path.extension {
        return of.extension().and_then(|(_, attributes)| find(attributes, &path.name));
    }
    let is_external_id = path.name.eq_ignore_ascii_case(EXTERNAL_ID.name);
    if is_external_id { Some(&EXTERNAL_ID) } else { find(of.attributes(), &path.name) }
}

fn apply_one(
    document: &mut Map<String, Value>,
    op: Op,
    target: &Target,
    value: Option<Value>,
    of: Type,
    budget: &mut Budget,
) -> Result<(), Fault> {
    let Target { path, among } = target;
    if path.extension && path.name.is_empty() {
        return apply_extension(document, op, value, of, budget);
    }
    if !path.extension && is_common(&path.name) {
        return Err(Fault::mutability(format!("{} is not to be written", path.name)));
    }
    let attribute = known(path, of).ok_or_else(|| Fault::path("there is no such attribute"))?;
    let part = match &path.part {
        Some(part) => Some(attribute.part(part).ok_or_else(|| Fault::path("there is no such part of the attribute"))?),
        None => None,
    };
    if attribute.mutability == Mutability::ReadOnly || part.is_some_and(|part| part.mutability == Mutability::ReadOnly)
    {
        return Err(Fault::mutability(format!("{} is not to be written", attribute.name)));
    }
    if among.is_some() && !attribute.multi {
        return Err(Fault::path(format!("{} has one value", attribute.name)));
    }
    if op == Op::Remove && attribute.required && part.is_none() {
        return Err(Fault::mutability(format!("{} cannot be removed", attribute.name)));
    }
    let document = if path.extension { extension(document, of)? } else { document };
    let value = value.filter(|value| !value.is_null());
    if let Some(Value::Array(values)) = &value {
        check_number(values, attribute)?;
    }
    if let Some(among) = among {
        let known = document.get(attribute.name).and_then(Value::as_array).map_or(0, Vec::len);
        budget.compare(known, among)?;
    }
    match (op, value) {
        (Op::Remove, value) => remove(document, attribute, among.as_ref(), part, value.as_ref()),
        // Nothing in place of something.
        (Op::Add | Op::Replace, None) => remove(document, attribute, among.as_ref(), part, None),
        (op, Some(value)) if attribute.multi => {
            let written = Written { attribute, part, value };
            return put_several(document, op, among.as_ref(), written, budget);
        }
        (_, Some(value)) => put_one(document, attribute, part, value)?,
    }
    Ok(())
}

fn check_number(values: &[Value], attribute: &'static Attribute) -> Result<(), Fault> {
    let is_too_many = || Fault::too_many(format!("{} has at most {VALUES_MAX} values", attribute.name));
    if values.len() > VALUES_MAX { Err(is_too_many()) } else { Ok(()) }
}

fn extension(document: &mut Map<String, Value>, of: Type) -> Result<&mut Map<String, Value>, Fault> {
    let (schema, _) = of.extension().ok_or_else(|| Fault::path("there is no such attribute"))?;
    let extension = document.entry(schema).or_insert_with(|| Value::Object(Map::new()));
    extension.as_object_mut().ok_or_else(|| Fault::value("the extension must be an object"))
}

fn apply_extension(
    document: &mut Map<String, Value>,
    op: Op,
    value: Option<Value>,
    of: Type,
    budget: &mut Budget,
) -> Result<(), Fault> {
    match (op, value) {
        (Op::Remove, _) => {
            of.extension().and_then(|(schema, _)| document.remove(schema));
        }
        (Op::Add | Op::Replace, Some(Value::Object(members))) => {
            for (name, value) in members {
                let path = Path { extension: true, name, part: None };
                if known(&path, of).is_some() {
                    apply_one(document, op, &Target { path, among: None }, Some(value), of, budget)?;
                }
            }
        }
        (Op::Add | Op::Replace, _) => return Err(Fault::value("the value of an extension must be an object")),
    }
    Ok(())
}

fn put_one(
    document: &mut Map<String, Value>,
    attribute: &'static Attribute,
    part: Option<&'static Attribute>,
    value: Value,
) -> Result<(), Fault> {
    let name = attribute.name;
    let Some(part) = part else {
        match (document.get_mut(name), value) {
            // Parts that are not named stay as they are.
            (Some(Value::Object(known)), Value::Object(members)) => known.extend(parts(members, attribute)?),
            (_, value) => {
                document.insert(name.to_owned(), value);
            }
        }
        return Ok(());
    };
    let whole = document.entry(name).or_insert_with(|| Value::Object(Map::new()));
    let whole = whole.as_object_mut().ok_or_else(|| Fault::value(format!("{name} has no parts")))?;
    whole.insert(part.name.to_owned(), value);
    Ok(())
}

/// The parts of a value in the case of the table; those that are not in it are not kept.
fn parts(members: Map<String, Value>, of: &'static Attribute) -> Result<Map<String, Value>, Fault> {
    let mut parts = Map::new();
    for (key, value) in members {
        let Some(part) = of.part(&key) else { continue };
        if parts.insert(part.name.to_owned(), value).is_some() {
            return Err(Fault::syntax(format!("{} is there twice", part.name)));
        }
    }
    Ok(parts)
}

/// What an operation writes of an attribute with several values.
struct Written {
    attribute: &'static Attribute,
    part: Option<&'static Attribute>,
    value: Value,
}

impl Written {
    /// The parts of a value that it says.
    fn parts(self) -> Result<Map<String, Value>, Fault> {
        let Self { attribute, part, value } = self;
        let parts = match (part, value) {
            (Some(part), value) => Map::from_iter([(part.name.to_owned(), value)]),
            (None, Value::Object(members)) => parts(members, attribute)?,
            (None, _) => return Err(Fault::value("the value must be an object")),
        };
        // Values of values are small when they are sent, and large when they are kept.
        if parts.values().any(|value| value.is_array() || value.is_object()) {
            return Err(Fault::value(format!("a part of {} must be one value", attribute.name)));
        }
        Ok(parts)
    }
}

fn put_several(
    document: &mut Map<String, Value>,
    op: Op,
    among: Option<&Filter>,
    written: Written,
    budget: &mut Budget,
) -> Result<(), Fault> {
    let Written { attribute, part, .. } = written;
    let elements = document.entry(attribute.name).or_insert_with(|| Value::Array(Vec::new()));
    let elements = elements.as_array_mut().ok_or_else(|| Fault::value(format!("{} is a list", attribute.name)))?;
    if among.is_none() && part.is_none() {
        let more = if let Value::Array(values) = written.value { values } else { vec![written.value] };
        if op == Op::Replace {
            elements.clear();
        }
        for value in more {
            // Read before it is compared, so that it equals what was read of it before.
            let value = normal(&value, attribute)?;
            if let Value::Object(parts) = &value {
                yield_primary(elements, parts);
            }
            if !elements.contains(&value) {
                elements.push(value);
                check_number(elements, attribute)?;
            }
        }
        return Ok(());
    }
    // Written into each of them it must not become so much that nothing is left for others.
    if written.value.to_string().len() > PROFILE_BYTES_MAX {
        return Err(Fault::too_many(format!("a value of {} has at most {PROFILE_BYTES_MAX} bytes", attribute.name)));
    }
    let parts = written.parts()?;
    if part.is_some() {
        yield_primary(elements, &parts);
    }
    let bytes = Value::Object(parts.clone()).to_string().len();
    let matches = |one: &Map<String, Value>| among.is_none_or(|among| among.matches(one));
    let mut put = 0;
    for element in elements.iter_mut().filter_map(Value::as_object_mut).filter(|one| matches(one)) {
        budget.write(1, bytes)?;
        element.extend(parts.clone());
        put += 1;
    }
    if put > 0 {
        return Ok(());
    }
    if op == Op::Replace && among.is_some() {
        return Err(Fault::target("no value matches the filter of the path"));
    }
    // Entra ID adds `emails[type eq "work"].value` where there is none yet.
    let mut element = Map::new();
    if let Some(among) = among {
        suppose(among, attribute, &mut element)?;
    }
    element.extend(parts);
    elements.push(Value::Object(element));
    check_number(elements, attribute)
}

fn normal(value: &Value, attribute: &'static Attribute) -> Result<Value, Fault> {
    let sent = Map::from_iter([(attribute.name.to_owned(), Value::Array(vec![value.clone()]))]);
    let read = document::read_attribute(&sent, attribute)?;
    match read {
        Some(Value::Array(mut values)) if values.len() == 1 => Ok(values.remove(0)),
        Some(_) | None => Err(Fault::value(format!("a value of {} is empty", attribute.name))),
    }
}

/// There is one primary value: the one that is written last.
fn yield_primary(elements: &mut [Value], newer: &Map<String, Value>) {
    if newer.get("primary") == Some(&Value::Bool(true)) {
        for element in elements.iter_mut().filter_map(Value::as_object_mut) {
            element.remove("primary");
        }
    }
}

/// What must be so for a filter to match, where it says only that.
fn suppose(filter: &Filter, of: &'static Attribute, element: &mut Map<String, Value>) -> Result<(), Fault> {
    match filter {
        Filter::All(filters) => filters.iter().try_for_each(|filter| suppose(filter, of, element)),
        Filter::Compare(path, Operator::Equal, literal) if path.part.is_none() => {
            let part = of.part(&path.name).ok_or_else(|| Fault::path("there is no such part of the attribute"))?;
            element.insert(part.name.to_owned(), literal.value.clone());
            Ok(())
        }
        Filter::Compare(..) | Filter::Any(_) | Filter::Not(_) | Filter::Present(_) | Filter::Among(..) => {
            Err(Fault::target("no value matches the filter of the path"))
        }
    }
}

/// Whatever is not there is removed already: directories ask twice.
fn remove(
    document: &mut Map<String, Value>,
    attribute: &'static Attribute,
    among: Option<&Filter>,
    part: Option<&'static Attribute>,
    value: Option<&Value>,
) {
    let Some(known) = document.get_mut(attribute.name) else { return };
    match (known, among, part, value) {
        (Value::Array(elements), among, Some(part), _) => {
            let elements = elements.iter_mut().filter_map(Value::as_object_mut);
            for element in elements.filter(|one| among.is_none_or(|among| among.matches(one))) {
                element.remove(part.name);
            }
        }
        (Value::Array(elements), Some(among), None, _) => {
            elements.retain(|one| !one.as_object().is_some_and(|one| among.matches(one)));
        }
        (Value::Array(elements), None, None, Some(value)) => {
            let named = value.as_array().map_or_else(|| std::slice::from_ref(value), Vec::as_slice);
            elements.retain(|one| !named.iter().any(|named| is_same(one, named)));
        }
        (Value::Object(members), _, Some(part), _) => {
            members.remove(part.name);
        }
        _ => {
            document.remove(attribute.name);
        }
    }
}

/// Whether what is named is this: by its value, or as a whole.
fn is_same(one: &Value, named: &Value) -> bool {
    match (one.get("value"), named.get("value")) {
        (Some(one), Some(named)) => one == named,
        _ => one == named,
    }
}

#[cfg(test)]
mod tests;

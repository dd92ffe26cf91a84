//! Bulk requests (RFC 7644 §3.7): many operations in one request, as few changes as that takes.
//!
//! What refers to something by its `bulkId`, also further on, gets its id before anything is carried out; operations
//! come after those that make what they name. Each is decided in the order that results, several in one change, and
//! none after as many have failed as the request allows. Invariants: bounded, with one `budget` for all; what depends on
//! itself is refused.

use std::collections::{BTreeMap, BTreeSet};

use bailiwick_control_plane_core::{
    State,
    provisioning::wish::{self, Operation, Outcome},
};
use serde_json::{Map, Value, json};

use super::{
    apart::Purpose,
    budget::Budget,
    document,
    fault::Fault,
    filter::member,
    resource::{location, tag},
    schema::{self, Type},
    service::{self, Service, Versions},
};

/// Most operations of one request.
pub(super) const OPERATIONS_MAX: usize = 1_000;
/// Longest `bulkId`.
const BULK_ID_BYTES_MAX: usize = 128;
/// How references to what the request makes begin.
const REFERENCE: &str = "bulkId:";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Post,
    Put,
    Patch,
    Delete,
}

impl Method {
    const fn word(self) -> &'static str {
        match self {
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// One operation as it was sent.
#[derive(Clone, Debug)]
struct Item {
    method: Method,
    of: Type,
    /// Of what it is about; of what is new, drawn.
    id: String,
    bulk_id: Option<String>,
    versions: Versions,
    data: Map<String, Value>,
    /// What it names that the request makes.
    needs: BTreeSet<String>,
}

/// Carries a request out; its answer.
pub(super) async fn carry_out(service: &Service, sent: &Map<String, Value>) -> Result<Value, Fault> {
    document::check_schemas(sent, schema::BULK)?;
    let Some(Value::Array(operations)) = member(sent, "Operations") else {
        return Err(Fault::syntax("`Operations` must be a list"));
    };
    if operations.len() > OPERATIONS_MAX {
        return Err(Fault::large(format!("a bulk request has at most {OPERATIONS_MAX} operations")));
    }
    let faults_max = match member(sent, "failOnErrors") {
        None | Some(Value::Null) => None,
        Some(number) => {
            let number = number.as_u64().filter(|number| *number > 0);
            let number = number.ok_or_else(|| Fault::value("failOnErrors must be a positive number"))?;
            Some(usize::try_from(number).unwrap_or(usize::MAX))
        }
    };
    let types = Type::served(service.rules().draft());
    let mut read: Vec<(Value, Result<Item, Fault>)> = Vec::with_capacity(operations.len());
    for operation in operations {
        read.push((told_of(operation), item(operation, &types)));
    }
    resolve(&mut read);
    let order = order(&mut read);
    let mut run = Run {
        service,
        faults_max,
        faults: 0,
        told: BTreeMap::new(),
        pending: Vec::new(),
        touched: BTreeSet::new(),
        budget: Budget::default(),
    };
    for at in order {
        let Some((_, item)) = read.get(at) else { continue };
        if run.is_over() || !run.take(at, item).await? {
            break;
        }
    }
    run.flush().await?;
    let told = run.told;
    let results = read.into_iter().enumerate().filter_map(|(at, (mut said, item))| {
        let outcome = told.get(&at)?;
        let members = said.as_object_mut()?;
        tell(service, members, item.ok().as_ref(), outcome);
        Some(said)
    });
    Ok(json!({"schemas": [schema::BULK_RESPONSE], "Operations": results.collect::<Vec<_>>()}))
}

/// What an answer repeats of an operation.
fn told_of(operation: &Value) -> Value {
    let text = |key: &str| member(operation.as_object()?, key)?.as_str().map(str::to_owned);
    let mut told = Map::new();
    told.insert("method".to_owned(), text("method").unwrap_or_default().chars().take(16).collect::<String>().into());
    if let Some(bulk_id) = text("bulkId") {
        told.insert("bulkId".to_owned(), bulk_id.chars().take(BULK_ID_BYTES_MAX).collect::<String>().into());
    }
    Value::Object(told)
}

fn item(operation: &Value, types: &[Type]) -> Result<Item, Fault> {
    let operation = operation.as_object().ok_or_else(|| Fault::syntax("an operation must be an object"))?;
    let text = |key: &str| member(operation, key).and_then(Value::as_str);
    let method = [Method::Post, Method::Put, Method::Patch, Method::Delete];
    let said = text("method").unwrap_or_default();
    let method = method.into_iter().find(|method| method.word().eq_ignore_ascii_case(said));
    let method = method.ok_or_else(|| Fault::syntax("`method` must be POST, PUT, PATCH or DELETE"))?;
    let mut parts = text("path").unwrap_or_default().strip_prefix('/').unwrap_or_default().splitn(2, '/');
    let (folder, named) = (parts.next().unwrap_or_default(), parts.next());
    let of = types.iter().copied().find(|of| of.folder() == folder);
    let of = of.ok_or_else(|| Fault::path("`path` must begin with /Users, /Groups or another type's endpoint"))?;
    let id = match (method, named) {
        (Method::Post, None) => service::fresh_id()?,
        (Method::Put | Method::Patch | Method::Delete, Some(id)) if !id.is_empty() => id.to_owned(),
        (Method::Post, Some(_)) | (Method::Put | Method::Patch | Method::Delete, _) => {
            return Err(Fault::path("`path` must be of a resource, or for POST of all of a type"));
        }
    };
    let bulk_id = text("bulkId").map(str::to_owned);
    if bulk_id.as_ref().is_some_and(|id| id.is_empty() || id.len() > BULK_ID_BYTES_MAX) {
        return Err(Fault::value(format!("a bulkId has 1 to {BULK_ID_BYTES_MAX} bytes")));
    }
    if method == Method::Post && bulk_id.is_none() {
        return Err(Fault::syntax("a POST needs a bulkId"));
    }
    let data = match (method, member(operation, "data")) {
        (Method::Delete, _) => Map::new(),
        (_, Some(Value::Object(data))) => data.clone(),
        (_, _) => return Err(Fault::syntax("`data` must be an object")),
    };
    let versions = text("version").map(Versions::of).unwrap_or_default();
    Ok(Item { method, of, id, bulk_id, versions, data, needs: BTreeSet::new() })
}

/// Puts ids in place of references, and notes which operations need others to be first.
fn resolve(read: &mut [(Value, Result<Item, Fault>)]) {
    let mut made = BTreeMap::<String, String>::new();
    let mut twice = BTreeSet::new();
    for item in read.iter().filter_map(|(_, item)| item.as_ref().ok()) {
        if let (Some(bulk_id), Method::Post) = (&item.bulk_id, item.method)
            && made.insert(bulk_id.clone(), item.id.clone()).is_some()
        {
            twice.insert(bulk_id.clone());
        }
    }
    for (_, read) in read.iter_mut() {
        let Ok(item) = read else { continue };
        if item.method == Method::Post && item.bulk_id.as_ref().is_some_and(|id| twice.contains(id)) {
            *read = Err(Fault::value("two operations have this bulkId"));
            continue;
        }
        let mut unknown = false;
        let mut resolved = |text: &str| {
            let bulk_id = text.strip_prefix(REFERENCE)?;
            let id = made.get(bulk_id).cloned();
            unknown |= id.is_none();
            Some((bulk_id.to_owned(), id.unwrap_or_default()))
        };
        if let Some((bulk_id, id)) = resolved(&item.id) {
            item.id = id;
            item.needs.insert(bulk_id);
        }
        let is_person = item.of == Type::User;
        for value in item.data.values_mut() {
            put_ids(value, &mut resolved, &mut |bulk_id| {
                // A manager may come later: nothing is looked up by it.
                if !is_person {
                    item.needs.insert(bulk_id);
                }
            });
        }
        if unknown {
            *read = Err(Fault::value("a bulkId is referred to that no operation has"));
        }
    }
}

fn put_ids(
    value: &mut Value,
    resolved: &mut impl FnMut(&str) -> Option<(String, String)>,
    need: &mut impl FnMut(String),
) {
    match value {
        Value::String(text) => {
            if let Some((bulk_id, id)) = resolved(text) {
                *text = id;
                need(bulk_id);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| put_ids(value, resolved, need)),
        Value::Object(members) => members.values_mut().for_each(|value| put_ids(value, resolved, need)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The operations in an order in which each comes after what it needs; those that wait for themselves are refused.
fn order(read: &mut [(Value, Result<Item, Fault>)]) -> Vec<usize> {
    let maker: BTreeMap<&str, usize> = read
        .iter()
        .enumerate()
        .filter_map(|(at, (_, item))| {
            let item = item.as_ref().ok().filter(|item| item.method == Method::Post)?;
            Some((item.bulk_id.as_deref()?, at))
        })
        .collect();
    let mut waits: Vec<BTreeSet<usize>> = Vec::with_capacity(read.len());
    let mut waited_for = BTreeMap::<usize, Vec<usize>>::new();
    for (at, (_, item)) in read.iter().enumerate() {
        let needs = item.iter().flat_map(|item| &item.needs).filter_map(|bulk_id| maker.get(bulk_id.as_str()).copied());
        let needs: BTreeSet<usize> = needs.collect();
        needs.iter().for_each(|needed| waited_for.entry(*needed).or_default().push(at));
        waits.push(needs);
    }
    let mut ready: BTreeSet<usize> =
        waits.iter().enumerate().filter(|(_, waits)| waits.is_empty()).map(|(at, _)| at).collect();
    let mut order = Vec::with_capacity(read.len());
    while let Some(next) = ready.pop_first() {
        order.push(next);
        for waiting in waited_for.remove(&next).unwrap_or_default() {
            if let Some(waits) = waits.get_mut(waiting) {
                waits.remove(&next);
                if waits.is_empty() {
                    ready.insert(waiting);
                }
            }
        }
    }
    let ordered: BTreeSet<usize> = order.iter().copied().collect();
    for (at, (_, item)) in read.iter_mut().enumerate().filter(|(at, _)| !ordered.contains(at)) {
        *item = Err(Fault::conflict("operations refer to each other in a circle"));
        order.push(at);
    }
    order
}

/// A request under way.
struct Run<'a> {
    service: &'a Service,
    faults_max: Option<usize>,
    faults: usize,
    told: BTreeMap<usize, Result<String, Fault>>,
    /// To be decided together.
    pending: Vec<(usize, Operation)>,
    /// What these are about, which nothing else is to be made from before.
    touched: BTreeSet<String>,
    /// For all operations together.
    budget: Budget,
}

impl Run<'_> {
    fn is_over(&self) -> bool {
        self.faults_max.is_some_and(|max| self.faults >= max)
    }

    fn fail(&mut self, at: usize, fault: Fault) {
        self.faults += 1;
        self.told.insert(at, Err(fault));
    }

    /// Takes an operation in; false once enough have failed.
    async fn take(&mut self, at: usize, item: &Result<Item, Fault>) -> Result<bool, Fault> {
        let item = match item {
            Ok(item) => item,
            Err(fault) => {
                // What comes before it counts first.
                if !self.flush().await? {
                    return Ok(false);
                }
                self.fail(at, fault.clone());
                return Ok(true);
            }
        };
        let is_full = self.pending.len() >= wish::OPERATIONS_MAX;
        if (is_full || self.touched.contains(&item.id)) && !self.flush().await? {
            return Ok(false);
        }
        match self.operation(item).await {
            Ok(operation) => {
                self.touched.insert(item.id.clone());
                self.pending.push((at, operation));
                // Members may be many: each such operation has a change of its own.
                if item.of == Type::Group { self.flush().await } else { Ok(true) }
            }
            Err(fault) => {
                if !self.flush().await? {
                    return Ok(false);
                }
                self.fail(at, fault);
                Ok(true)
            }
        }
    }

    async fn operation(&mut self, item: &Item) -> Result<Operation, Fault> {
        if item.method == Method::Post {
            return service::created(item.of, item.id.clone(), &item.data, &self.service.rules());
        }
        let (Item { method, of, id, versions, data, .. }, rules) = (item.clone(), self.service.rules());
        let mut budget = self.budget.clone();
        let make = move |state: &State, budget: &mut Budget| {
            let now = service::version(state, of, &id).ok_or_else(Fault::missing)?;
            if !versions.hold(now) {
                return Err(Fault::version());
            }
            let version = (versions != Versions::Any).then_some(now);
            match method {
                Method::Put => service::replaced(state, of, &id, &data, version, &rules),
                Method::Patch => service::patched(state, of, &id, &data, version, &rules, budget),
                Method::Post | Method::Delete => Ok(service::deleted(of, &id, version)),
            }
        };
        // What a refusal has cost is gone, too.
        let make = move |state: &State| Ok((make(state, &mut budget), budget));
        let (made, left) = self.service.apart(Purpose::Change, make).await?;
        self.budget = left;
        made
    }

    /// Has what is pending decided; false once enough have failed.
    async fn flush(&mut self) -> Result<bool, Fault> {
        if self.pending.is_empty() {
            return Ok(!self.is_over());
        }
        self.touched.clear();
        let (places, operations): (Vec<usize>, Vec<Operation>) = std::mem::take(&mut self.pending).into_iter().unzip();
        let left = self.faults_max.map(|max| max.saturating_sub(self.faults));
        let outcomes = match self.service.carry_out(operations.clone(), left).await {
            // What is refused as a whole is asked for one by one, so that nothing keeps a leaver.
            Err(fault) if fault != Fault::unavailable() => return self.one_by_one(places, operations).await,
            outcomes => outcomes?,
        };
        for (at, outcome) in places.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Done(id) => {
                    self.told.insert(at, Ok(id));
                }
                Outcome::Refused(fault) => self.fail(at, fault.into()),
            }
        }
        Ok(!self.is_over())
    }

    async fn one_by_one(&mut self, places: Vec<usize>, operations: Vec<Operation>) -> Result<bool, Fault> {
        for (at, operation) in places.into_iter().zip(operations) {
            if self.is_over() {
                return Ok(false);
            }
            match self.service.one(operation).await {
                Ok(id) => {
                    self.told.insert(at, Ok(id));
                }
                Err(fault) if fault == Fault::unavailable() => return Err(fault),
                Err(fault) => self.fail(at, fault),
            }
        }
        Ok(!self.is_over())
    }
}

/// Says in the answer what came of an operation.
fn tell(service: &Service, told: &mut Map<String, Value>, item: Option<&Item>, outcome: &Result<String, Fault>) {
    let mut say = |key: &str, value: Value| told.insert(key.to_owned(), value);
    let Some(item) = item else {
        if let Err(fault) = outcome {
            say("status", fault.status.as_str().into());
            say("response", fault.body());
        }
        return;
    };
    match outcome {
        Ok(id) => {
            say("location", location(&service.base, item.of, id).into());
            let version = service.services.domain.read(|state| service::version(state, item.of, id));
            if let Some(version) = version {
                say("version", tag(version).into());
            }
            let status = match item.method {
                Method::Post => "201",
                Method::Put | Method::Patch => "200",
                Method::Delete => "204",
            };
            say("status", status.into());
        }
        Err(fault) => {
            if item.method != Method::Post {
                say("location", location(&service.base, item.of, &item.id).into());
            }
            say("status", fault.status.as_str().into());
            say("response", fault.body());
        }
    }
}

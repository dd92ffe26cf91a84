//! Whether a value fits a JSON Schema, as far as that can be told with bounded work.
//!
//! Asked by `virtual_server` about arguments that a view fixes, against the parameters of an approved tool. Schemas come
//! from servers, so nothing here is looked up elsewhere, no pattern of theirs is run, and the steps are counted. Where
//! the answer depends on what is not read here (patterns, conditions, references elsewhere), it is that it is not
//! known: then the server itself has to say. Specification: JSON Schema 2020-12 validation; unknown keywords and
//! `format` are annotations.

use serde_json::{Map, Value};

/// Most schemas looked at for one value; real ones need a few dozen.
const STEPS_MAX: u32 = 10_000;
/// Deepest nesting of schemas, references followed: each level is a frame on the stack.
const DEPTH_MAX: u32 = 64;
/// Most items compared with each other.
const UNIQUE_ITEMS_MAX: usize = 256;

/// Keywords that decide about a value but are not read here.
const UNREAD: [&str; 15] = [
    "$dynamicRef",
    "$recursiveRef",
    "contains",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "else",
    "if",
    "maxContains",
    "minContains",
    "pattern",
    "patternProperties",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
];

/// What is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// The value fits.
    Fits,
    /// It does not; what it must be.
    Unfit(String),
    /// That depends on this part of the schema, which is not read here.
    Unknown(String),
}

impl Fit {
    fn of(fits: bool, rule: impl FnOnce() -> String) -> Self {
        if fits { Self::Fits } else { Self::Unfit(rule()) }
    }

    /// Both must hold.
    fn and(self, other: impl FnOnce() -> Self) -> Self {
        match self {
            Self::Unfit(_) => self,
            Self::Fits => other(),
            Self::Unknown(_) => match other() {
                Self::Unfit(rule) => Self::Unfit(rule),
                Self::Fits | Self::Unknown(_) => self,
            },
        }
    }
}

/// Whether `value` fits `schema`, a part of `root`.
pub(crate) fn fit(root: &Value, schema: &Value, value: &Value) -> Fit {
    Check { root, steps: 0, depth: 0 }.fit(schema, value)
}

struct Check<'a> {
    root: &'a Value,
    steps: u32,
    depth: u32,
}

impl Check<'_> {
    fn fit(&mut self, schema: &Value, value: &Value) -> Fit {
        self.steps = self.steps.saturating_add(1);
        if self.steps > STEPS_MAX || self.depth >= DEPTH_MAX {
            return Fit::Unknown("its size".to_owned());
        }
        self.depth += 1;
        let fit = self.fit_all(schema, value);
        self.depth -= 1;
        fit
    }

    fn fit_all(&mut self, schema: &Value, value: &Value) -> Fit {
        let keywords = match schema {
            Value::Object(keywords) => keywords,
            Value::Bool(true) => return Fit::Fits,
            Value::Bool(false) => return Fit::Unfit("must be absent".to_owned()),
            Value::Null | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                return Fit::Unknown("a schema that is none".to_owned());
            }
        };
        let unread = UNREAD.into_iter().find(|keyword| keywords.contains_key(*keyword));
        let fit = unread.map_or(Fit::Fits, |keyword| Fit::Unknown(format!("`{keyword}`")));
        fit.and(|| kind(keywords, value))
            .and(|| one_of_given(keywords, value))
            .and(|| match value {
                Value::Number(_) => number(keywords, value),
                Value::String(text) => sized(keywords, text.chars().count(), ["minLength", "maxLength"], "characters"),
                Value::Array(items) => self.items(keywords, items),
                Value::Object(members) => self.members(keywords, members),
                Value::Null | Value::Bool(_) => Fit::Fits,
            })
            .and(|| self.reference(keywords, value))
            .and(|| self.combined(keywords, value))
    }

    fn reference(&mut self, keywords: &Map<String, Value>, value: &Value) -> Fit {
        let Some(target) = keywords.get("$ref") else { return Fit::Fits };
        let target = target.as_str().and_then(|target| target.strip_prefix('#')).filter(|part| !part.contains('%'));
        let root = self.root;
        match target.and_then(|pointer| root.pointer(pointer)) {
            Some(schema) => self.fit(schema, value),
            None => Fit::Unknown("`$ref`".to_owned()),
        }
    }

    fn items(&mut self, keywords: &Map<String, Value>, items: &[Value]) -> Fit {
        let mut fit = sized(keywords, items.len(), ["minItems", "maxItems"], "items");
        let is_repeated = |(index, item): (usize, &Value)| items.iter().take(index).any(|other| same(other, item));
        if keywords.get("uniqueItems") == Some(&Value::Bool(true)) {
            fit = fit.and(|| match items.len() {
                0..=UNIQUE_ITEMS_MAX => {
                    let is_unique = !items.iter().enumerate().any(is_repeated);
                    Fit::of(is_unique, || "must not hold an item twice".to_owned())
                }
                _ => Fit::Unknown("`uniqueItems`".to_owned()),
            });
        }
        // Older revisions list the first items' schemas under `items`.
        let listed = |keyword| keywords.get(keyword).and_then(Value::as_array);
        let first: &[Value] = listed("prefixItems").or_else(|| listed("items")).map_or(&[], Vec::as_slice);
        let rest = keywords.get("items").filter(|rest| !rest.is_array()).or_else(|| keywords.get("additionalItems"));
        for (index, item) in items.iter().enumerate() {
            let schema = first.get(index).or(rest);
            fit = fit.and(|| schema.map_or(Fit::Fits, |schema| self.fit(schema, item)));
        }
        fit
    }

    fn members(&mut self, keywords: &Map<String, Value>, members: &Map<String, Value>) -> Fit {
        let mut fit = sized(keywords, members.len(), ["minProperties", "maxProperties"], "members");
        let required = keywords.get("required").and_then(Value::as_array).into_iter().flatten();
        let missing = required.filter_map(Value::as_str).find(|name| !members.contains_key(*name));
        fit = fit.and(|| missing.map_or(Fit::Fits, |name| Fit::Unfit(format!("must have the member \"{name}\""))));
        let properties = keywords.get("properties").and_then(Value::as_object);
        let others = keywords.get("additionalProperties").filter(|_| !keywords.contains_key("patternProperties"));
        for (name, member) in members {
            let schema = properties.and_then(|known| known.get(name)).or(others);
            fit = fit.and(|| match schema {
                Some(Value::Bool(false)) => Fit::Unfit(format!("must not have the member \"{name}\"")),
                Some(schema) => self.fit(schema, member),
                None => Fit::Fits,
            });
        }
        fit
    }

    fn combined(&mut self, keywords: &Map<String, Value>, value: &Value) -> Fit {
        let schemas = |keyword| keywords.get(keyword).and_then(Value::as_array);
        let mut fit = Fit::Fits;
        for schema in schemas("allOf").into_iter().flatten() {
            fit = fit.and(|| self.fit(schema, value));
        }
        for (keyword, is_one) in [("anyOf", false), ("oneOf", true)] {
            let Some(schemas) = schemas(keyword) else { continue };
            let fits: Vec<Fit> = schemas.iter().map(|schema| self.fit(schema, value)).collect();
            let fitting = fits.iter().filter(|fit| matches!(fit, Fit::Fits)).count();
            let unknown = fits.into_iter().find(|fit| matches!(fit, Fit::Unknown(_)));
            fit = fit.and(|| match (fitting, unknown) {
                (0, None) => Fit::Unfit(format!("must fit one of the schemas under `{keyword}`")),
                (2.., _) if is_one => Fit::Unfit(format!("must fit only one of the schemas under `{keyword}`")),
                (1.., _) if !is_one => Fit::Fits,
                (_, Some(unknown)) => unknown,
                (_, None) => Fit::Fits,
            });
        }
        fit.and(|| match keywords.get("not").map(|schema| self.fit(schema, value)) {
            Some(Fit::Fits) => Fit::Unfit("must not fit the schema under `not`".to_owned()),
            Some(unknown @ Fit::Unknown(_)) => unknown,
            Some(Fit::Unfit(_)) | None => Fit::Fits,
        })
    }
}

fn kind(keywords: &Map<String, Value>, value: &Value) -> Fit {
    let is = |word: &str| match word {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        _ => false,
    };
    match keywords.get("type") {
        None => Fit::Fits,
        Some(Value::String(word)) => Fit::of(is(word), || format!("must be of type {word}")),
        Some(Value::Array(words)) => {
            let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
            Fit::of(words.iter().any(|word| is(word)), || format!("must be of type {}", words.join(" or ")))
        }
        Some(_) => Fit::Unknown("`type`".to_owned()),
    }
}

fn one_of_given(keywords: &Map<String, Value>, value: &Value) -> Fit {
    let given = keywords.get("enum").and_then(Value::as_array);
    let listed = given.is_none_or(|given| given.iter().any(|given| same(given, value)));
    let is_const = keywords.get("const").is_none_or(|given| same(given, value));
    Fit::of(listed, || "must be one of the values under `enum`".to_owned())
        .and(|| Fit::of(is_const, || "must be the value under `const`".to_owned()))
}

/// Whether a number keeps to a bound.
type Rule = fn(f64, f64) -> bool;

fn number(keywords: &Map<String, Value>, value: &Value) -> Fit {
    // Fixed values are whole and of at most 53 bits, so nothing is lost here.
    let value = value.as_f64().unwrap_or_default();
    let bound = |keyword: &str| keywords.get(keyword).and_then(Value::as_f64);
    let holds = |keyword, rule: Rule| bound(keyword).is_none_or(|bound| rule(value, bound));
    let rules: [(&str, Rule); 5] = [
        ("minimum", |value, bound| value >= bound),
        ("maximum", |value, bound| value <= bound),
        ("exclusiveMinimum", |value, bound| value > bound),
        ("exclusiveMaximum", |value, bound| value < bound),
        ("multipleOf", |value, bound| bound > 0.0 && value % bound == 0.0),
    ];
    let broken = rules.into_iter().find(|(keyword, rule)| !holds(keyword, *rule));
    broken.map_or(Fit::Fits, |(keyword, _)| {
        Fit::Unfit(format!("must keep to `{keyword}`: {}", keywords.get(keyword).unwrap_or(&Value::Null)))
    })
}

fn sized(keywords: &Map<String, Value>, size: usize, [least, most]: [&str; 2], what: &str) -> Fit {
    let bound =
        |keyword: &str| keywords.get(keyword).and_then(Value::as_u64).and_then(|size| usize::try_from(size).ok());
    let (least, most) = (bound(least), bound(most));
    Fit::of(least.is_none_or(|least| size >= least), || format!("must have at least {} {what}", least.unwrap_or(0)))
        .and(|| {
            Fit::of(most.is_none_or(|most| size <= most), || format!("must have at most {} {what}", most.unwrap_or(0)))
        })
}

/// Equal as JSON Schema has it: numbers by their value.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one == other || one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            let has = |(name, value): (&String, &Value)| other.get(name).is_some_and(|other| same(value, other));
            one.len() == other.len() && one.iter().all(has)
        }
        (one, other) => one == other,
    }
}

#[cfg(test)]
mod tests;

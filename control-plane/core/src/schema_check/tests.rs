//! What fits which schema.

use serde_json::json;

use super::*;

/// '+' fits, '-' does not, '?' is not known.
fn verdict(schema: &Value, value: &Value) -> char {
    match fit(schema, schema, value) {
        Fit::Fits => '+',
        Fit::Unfit(_) => '-',
        Fit::Unknown(_) => '?',
    }
}

#[test]
fn values_are_told_to_fit_or_not() {
    for (schema, values) in [
        (json!({}), vec![(json!("x"), '+'), (json!([1]), '+')]),
        (json!(true), vec![(json!(1), '+')]),
        (json!(false), vec![(json!(1), '-')]),
        (json!({"type": "string"}), vec![(json!("eu"), '+'), (json!(1), '-'), (json!(["eu"]), '-')]),
        (json!({"type": ["integer", "boolean"]}), vec![(json!(1), '+'), (json!(true), '+'), (json!("1"), '-')]),
        (json!({"type": "number"}), vec![(json!(1), '+'), (json!("1"), '-')]),
        (json!({"enum": ["eu", 1.0]}), vec![(json!("eu"), '+'), (json!(1), '+'), (json!("us"), '-')]),
        (json!({"const": {"a": [1]}}), vec![(json!({"a": [1]}), '+'), (json!({"a": [2]}), '-')]),
        (json!({"minimum": 2, "maximum": 4}), vec![(json!(2), '+'), (json!(5), '-'), (json!("x"), '+')]),
        (json!({"exclusiveMinimum": 2, "multipleOf": 3}), vec![(json!(3), '+'), (json!(2), '-'), (json!(4), '-')]),
        (json!({"minLength": 2, "maxLength": 3}), vec![(json!("äö"), '+'), (json!("a"), '-'), (json!("abcd"), '-')]),
        (
            json!({"type": "array", "items": {"type": "integer"}, "minItems": 1, "uniqueItems": true}),
            vec![(json!([1, 2]), '+'), (json!([]), '-'), (json!([1, 1]), '-'), (json!(["a"]), '-')],
        ),
        (
            json!({"prefixItems": [{"type": "string"}], "items": false}),
            vec![(json!(["a"]), '+'), (json!(["a", 1]), '-'), (json!([1]), '-')],
        ),
        (
            json!({"required": ["a"], "properties": {"a": {"type": "string"}}, "additionalProperties": false}),
            vec![(json!({"a": "x"}), '+'), (json!({}), '-'), (json!({"a": 1}), '-'), (json!({"a": "x", "b": 1}), '-')],
        ),
        (json!({"allOf": [{"type": "string"}, {"minLength": 2}]}), vec![(json!("ab"), '+'), (json!("a"), '-')]),
        (json!({"anyOf": [{"type": "string"}, {"minimum": 2}]}), vec![(json!("a"), '+'), (json!(1), '-')]),
        (json!({"oneOf": [{"minimum": 1}, {"minimum": 5}]}), vec![(json!(2), '+'), (json!(7), '-'), (json!(0), '-')]),
        (json!({"not": {"type": "string"}}), vec![(json!(1), '+'), (json!("a"), '-')]),
        (json!({"$ref": "#/$defs/a", "$defs": {"a": {"type": "string"}}}), vec![(json!("x"), '+'), (json!(1), '-')]),
        (json!({"format": "date", "title": 7, "x-mcp-header": "A"}), vec![(json!("x"), '+')]),
    ] {
        for (value, expected) in values {
            assert_eq!(verdict(&schema, &value), expected, "{schema} {value}");
        }
    }
}

#[test]
fn what_is_not_read_is_not_known_unless_the_rest_decides() {
    for (schema, value, expected) in [
        (json!({"pattern": "^a"}), json!("b"), '?'),
        (json!({"pattern": "^a", "type": "integer"}), json!("b"), '-'),
        (json!({"$ref": "https://elsewhere.example/schema"}), json!("b"), '?'),
        (json!({"$ref": "#/$defs/absent"}), json!("b"), '?'),
        (json!({"anyOf": [{"pattern": "^a"}, {"type": "string"}]}), json!("b"), '+'),
        (json!({"anyOf": [{"pattern": "^a"}, {"type": "integer"}]}), json!("b"), '?'),
        (json!({"oneOf": [{"pattern": "^a"}, {"type": "string"}]}), json!("b"), '?'),
        (json!({"not": {"pattern": "^a"}}), json!("b"), '?'),
        (json!({"if": {}, "then": false}), json!("b"), '?'),
        (json!(7), json!("b"), '?'),
    ] {
        assert_eq!(verdict(&schema, &value), expected, "{schema} {value}");
    }
}

#[test]
fn hostile_schemas_cost_bounded_work() {
    let itself = json!({"$ref": "#"});
    assert_eq!(verdict(&itself, &json!("x")), '?');
    let mut defs = Map::new();
    for n in 0..40 {
        let next = json!({"$ref": format!("#/$defs/d{}", n + 1)});
        defs.insert(format!("d{n}"), json!({"allOf": [next, next]}));
    }
    defs.insert("d40".to_owned(), json!({}));
    let exponential = json!({"$ref": "#/$defs/d0", "$defs": defs});
    assert_eq!(verdict(&exponential, &json!("x")), '?');
}

//! JSON values shown as YAML, for people and for applying again.

use saphyr::{Mapping, Scalar, Yaml, YamlEmitter};
use serde_json::Value;

/// `value` as one YAML document, without a leading `---`.
pub(crate) fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    let mut emitter = YamlEmitter::new(&mut out);
    if emitter.dump(&convert(value)).is_err() {
        return value.to_string();
    }
    let body = out.strip_prefix("---\n").unwrap_or(&out);
    format!("{body}\n")
}

fn convert(value: &Value) -> Yaml<'static> {
    match value {
        Value::Null => Yaml::Value(Scalar::Null),
        Value::Bool(flag) => Yaml::Value(Scalar::Boolean(*flag)),
        Value::Number(number) => number.as_i64().map_or_else(
            || Yaml::Value(Scalar::String(number.to_string().into())),
            |integer| Yaml::Value(Scalar::Integer(integer)),
        ),
        Value::String(text) => Yaml::Value(Scalar::String(text.clone().into())),
        Value::Array(items) => Yaml::Sequence(items.iter().map(convert).collect()),
        Value::Object(members) => {
            let entries =
                members.iter().map(|(key, value)| (Yaml::Value(Scalar::String(key.clone().into())), convert(value)));
            Yaml::Mapping(entries.collect::<Mapping<'static>>())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_as_they_can_be_read_again() {
        let value = serde_json::json!({"a": {"b": [1, "yes", "0.02", true]}, "c": "two\nlines\n", "d": {}});
        let shown = to_yaml(&value);
        assert!(shown.contains("\"yes\"") && shown.contains("\"0.02\""), "{shown}");
    }
}

//! What may be sent to a server a second time: that doing it twice is doing it once.
//!
//! Asked by the server's connector where a manifest allows retries, after a connection broke and nothing was answered.
//! A tool's approved definition decides (`readOnlyHint`, `idempotentHint`), never what the server shows since; a tool
//! that says nothing is never called twice. Prompts and resources are read. What begins a task begins another each
//! time.

use bailiwick_proto::mcp::Members;
use serde_json::value::RawValue;

use crate::{edge::PermittedCall, wanted::Found};

/// Whether a permitted request may reach its server twice.
#[must_use]
pub fn may_repeat(permitted: &PermittedCall) -> bool {
    match &permitted.found {
        Found::Tool(tool) => permitted.call.task.is_none() && tool.definition.as_deref().is_some_and(is_idempotent),
        Found::Prompt(_) | Found::Resource(_) => true,
        Found::Task(_) => false,
    }
}

/// Whether a tool's definition says that its effects are those of one call, or none.
fn is_idempotent(definition: &RawValue) -> bool {
    let Some(annotations) = Members::of(definition).and_then(|members| Members::of(members.get("annotations")?)) else {
        return false;
    };
    let says = |hint: &str| annotations.get(hint).is_some_and(|value| value.get().trim() == "true");
    says("readOnlyHint") || says("idempotentHint")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_definition_that_says_so_in_as_many_words_may_be_called_twice() {
        for (annotations, expected) in [
            (r#""annotations":{"readOnlyHint":true}"#, true),
            (r#""annotations":{"idempotentHint": true}"#, true),
            (r#""annotations":{"idempotentHint":false}"#, false),
            (r#""annotations":{"idempotentHint":"true"}"#, false),
            (r#""annotations":{"destructiveHint":false}"#, false),
            (r#""annotations":true"#, false),
            (r#""readOnlyHint":true"#, false),
        ] {
            let definition = RawValue::from_string(format!(r#"{{"name":"t",{annotations}}}"#)).unwrap();
            assert_eq!(is_idempotent(&definition), expected, "{annotations}");
        }
    }
}

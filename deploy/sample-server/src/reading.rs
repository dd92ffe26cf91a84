//! What the sample finance server gives out to read: two prompts, two documents, and a template of datasets.
//!
//! Called by `finance`. The documents lie below `finance://handbook/public/` and `finance://handbook/internal/`, so that a
//! policy can permit one and not the other. Answers are a pure function of what was asked.

use rmcp::ErrorData;
use rmcp::model::{
    GetPromptRequestParams, GetPromptResult, Prompt, PromptArgument, PromptMessage, ReadResourceResult, Resource,
    ResourceContents, ResourceTemplate, Role,
};
use serde_json::Value;

const PUBLIC: &str = "finance://handbook/public/expenses";
const INTERNAL: &str = "finance://handbook/internal/margins";
const DATASET: &str = "finance://datasets/";

/// `summarise_invoices` and `draft_reminder`, both about a customer.
pub(crate) fn prompts() -> Vec<Prompt> {
    let prompt = |name: &str, description: &str| {
        let customer = PromptArgument::new("customer").with_description("Whose.").with_required(true);
        Prompt::new(name, Some(description), Some(vec![customer]))
    };
    vec![
        prompt("summarise_invoices", "Summarise what a customer owes."),
        prompt("draft_reminder", "Draft a reminder to a customer who has not paid."),
    ]
}

/// One of them, filled in.
pub(crate) fn prompt(wanted: &GetPromptRequestParams) -> Result<GetPromptResult, ErrorData> {
    let customer = wanted.arguments.as_ref().and_then(|arguments| arguments.get("customer")).and_then(Value::as_str);
    let customer = customer.ok_or_else(|| ErrorData::invalid_params("`customer` must be a string", None))?;
    let text = match wanted.name.as_str() {
        "summarise_invoices" => format!("Summarise the open invoices of {customer} in three sentences."),
        "draft_reminder" => format!("Draft a friendly reminder to {customer} about their open invoices."),
        other => return Err(ErrorData::invalid_params(format!("there is no prompt {other:?}"), None)),
    };
    Ok(GetPromptResult::new(vec![PromptMessage::new_text(Role::User, text)]))
}

/// The two documents.
pub(crate) fn resources() -> Vec<Resource> {
    vec![
        Resource::new(PUBLIC, "expenses").with_title("How expenses are claimed").with_mime_type("text/plain"),
        Resource::new(INTERNAL, "margins").with_title("Margins by product").with_mime_type("text/plain"),
    ]
}

/// The datasets of `query_data`, as text.
pub(crate) fn templates() -> Vec<ResourceTemplate> {
    let template = format!("{DATASET}{{dataset}}");
    vec![ResourceTemplate::new(template, "dataset").with_description("One dataset.").with_mime_type("text/plain")]
}

/// What is under a URI.
pub(crate) fn resource(uri: &str) -> Result<ReadResourceResult, ErrorData> {
    let text = match uri {
        PUBLIC => "Expenses are claimed within thirty days.".to_owned(),
        INTERNAL => "Margins are nobody's business but ours.".to_owned(),
        _ => match uri.strip_prefix(DATASET) {
            Some(dataset @ ("invoices" | "payments" | "customers")) => format!("The dataset {dataset}."),
            Some(_) | None => return Err(ErrorData::resource_not_found(format!("there is no {uri}"), None)),
        },
    };
    Ok(ReadResourceResult::new(vec![ResourceContents::text(text, uri).with_mime_type("text/plain")]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_listed_can_be_read() {
        for listed in resources() {
            assert!(resource(&listed.uri).is_ok(), "{}", listed.uri);
        }
        assert!(resource("finance://datasets/invoices").is_ok());
        assert!(resource("finance://datasets/salaries").is_err() && resource("finance://").is_err());
        for listed in prompts() {
            let mut wanted = GetPromptRequestParams::new(listed.name);
            assert!(prompt(&wanted).is_err(), "a customer is required");
            wanted.arguments = serde_json::json!({"customer": "acme"}).as_object().cloned();
            assert!(prompt(&wanted).is_ok());
        }
    }
}

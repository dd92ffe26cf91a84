//! The sample "finance" MCP server: one tool of each tier, told apart by their MCP annotations alone.
//!
//! `query_data` is read-only (tier retrieval), `create_charge` writes but destroys nothing (transactional),
//! `delete_ledger` is destructive. Answers are a pure function of the arguments and of how many charges there were,
//! so a test can compare what came through Bailiwick with what the server said. No money moves and nothing is stored.
//! Who may call what is deliberately not this server's business: that is what Bailiwick is put in front of it for.

use std::borrow::Cow;
use std::sync::Arc;

use rmcp::handler::server::wrapper::{Json, Parameters};
use rmcp::model::{
    GetPromptRequestParams, GetPromptResponse, Implementation, ListPromptsResult, ListResourceTemplatesResult,
    ListResourcesResult, PaginatedRequestParams, ProtocolVersion, ReadResourceRequestParams, ReadResourceResponse,
    ServerCapabilities, ServerConfig,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer, ServerHandler, schemars, tool, tool_handler, tool_router};
use serde::{Deserialize, Serialize};

use crate::calls::{CallLog, Read, Tool};
use crate::reading;

/// Most rows one query returns; keeps an answer within one screen of a chat.
const QUERY_ROWS_MAX: u32 = 100;
const QUERY_ROWS_DEFAULT: u32 = 5;
const DATASETS: [&str; 3] = ["invoices", "payments", "customers"];

/// One handler per request; all share the log.
#[derive(Clone, Debug)]
pub(crate) struct Finance {
    calls: Arc<CallLog>,
    modern_only: bool,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct QueryData {
    /// Which data to read: invoices, payments or customers.
    dataset: String,
    /// At most this many rows (default 5, at most 100).
    limit: Option<u32>,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(crate) struct Rows {
    dataset: String,
    rows: Vec<Row>,
}

#[derive(Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
struct Row {
    id: String,
    customer: String,
    #[schemars(with = "i64")]
    amount_cents: u64,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateCharge {
    /// Who is charged.
    customer: String,
    /// The amount in cents; more than zero.
    #[schemars(with = "i64")]
    amount_cents: u64,
    /// Three-letter currency code (default eur).
    currency: Option<String>,
    /// What appears on the statement.
    description: Option<String>,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(crate) struct Charge {
    charge_id: String,
    customer: String,
    #[schemars(with = "i64")]
    amount_cents: u64,
    currency: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    status: String,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeleteLedger {
    /// The name of the ledger to delete.
    ledger: String,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(crate) struct Deleted {
    deleted: String,
}

impl Finance {
    /// `modern_only` leaves out every revision that begins with `initialize`.
    pub(crate) fn new(calls: Arc<CallLog>, modern_only: bool) -> Self {
        Self { calls, modern_only }
    }
}

#[tool_router]
impl Finance {
    #[tool(
        description = "Read rows of a finance dataset: invoices, payments or customers.",
        annotations(title = "Query data", read_only_hint = true, idempotent_hint = true, open_world_hint = false)
    )]
    async fn query_data(&self, Parameters(query): Parameters<QueryData>) -> Result<Json<Rows>, String> {
        self.calls.add(Tool::QueryData);
        if !DATASETS.contains(&query.dataset.as_str()) {
            return Err(format!("there is no dataset {:?}; there are {}", query.dataset, DATASETS.join(", ")));
        }
        let count = query.limit.unwrap_or(QUERY_ROWS_DEFAULT).min(QUERY_ROWS_MAX);
        let rows = (1..=count).map(|number| row(&query.dataset, number)).collect();
        Ok(Json(Rows { dataset: query.dataset, rows }))
    }

    #[tool(
        description = "Charge a customer. Adds a charge; changes no existing one.",
        annotations(
            title = "Create charge",
            read_only_hint = false,
            destructive_hint = false,
            open_world_hint = false
        )
    )]
    async fn create_charge(&self, Parameters(charge): Parameters<CreateCharge>) -> Result<Json<Charge>, String> {
        let number = self.calls.add(Tool::CreateCharge);
        if charge.amount_cents == 0 {
            return Err("amount_cents must be more than zero".to_owned());
        }
        Ok(Json(Charge {
            charge_id: format!("ch_{number:04}"),
            customer: charge.customer,
            amount_cents: charge.amount_cents,
            currency: charge.currency.unwrap_or_else(|| "eur".to_owned()),
            description: charge.description,
            status: "created".to_owned(),
        }))
    }

    #[tool(
        description = "Delete a whole ledger. This cannot be undone.",
        annotations(title = "Delete ledger", read_only_hint = false, destructive_hint = true, open_world_hint = false)
    )]
    async fn delete_ledger(&self, Parameters(deletion): Parameters<DeleteLedger>) -> Result<Json<Deleted>, String> {
        self.calls.add(Tool::DeleteLedger);
        Ok(Json(Deleted { deleted: deletion.ledger }))
    }
}

#[tool_handler]
impl ServerHandler for Finance {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder().enable_tools().enable_prompts().enable_resources().build();
        ServerConfig::new(capabilities)
            .with_server_info(Implementation::new("bailiwick-sample-finance", env!("CARGO_PKG_VERSION")))
            .with_instructions("A sample finance system. No money moves.")
    }

    async fn list_prompts(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        Ok(ListPromptsResult::with_all_items(reading::prompts()))
    }

    async fn get_prompt(
        &self,
        wanted: GetPromptRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        self.calls.add_read(Read::Prompt);
        reading::prompt(&wanted).map(GetPromptResponse::from)
    }

    async fn list_resources(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        Ok(ListResourcesResult::with_all_items(reading::resources()))
    }

    async fn list_resource_templates(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        Ok(ListResourceTemplatesResult::with_all_items(reading::templates()))
    }

    async fn read_resource(
        &self,
        wanted: ReadResourceRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        self.calls.add_read(Read::Resource);
        reading::resource(&wanted.uri).map(ReadResourceResponse::from)
    }

    fn supported_protocol_versions(&self) -> Cow<'static, [ProtocolVersion]> {
        if self.modern_only {
            Cow::Owned(vec![ProtocolVersion::V_2026_07_28])
        } else {
            Cow::Borrowed(ProtocolVersion::KNOWN_VERSIONS)
        }
    }
}

fn row(dataset: &str, number: u32) -> Row {
    let customers = ["acme", "globex", "initech", "umbrella"];
    let customer = customers.into_iter().cycle().nth(number as usize % customers.len()).unwrap_or("acme");
    Row {
        id: format!("{}-{number:04}", dataset.trim_end_matches('s')),
        customer: customer.to_owned(),
        amount_cents: u64::from(number) * 1_250,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(dataset: &str, limit: Option<u32>) -> Parameters<QueryData> {
        Parameters(QueryData { dataset: dataset.to_owned(), limit })
    }

    #[tokio::test]
    async fn a_query_returns_no_more_than_the_bound() {
        let finance = Finance::new(Arc::default(), false);
        let Ok(Json(rows)) = finance.query_data(query("invoices", Some(1_000_000))).await else { panic!("refused") };
        assert_eq!(rows.rows.len(), 100);
        assert_eq!(
            rows.rows[0],
            Row { id: "invoice-0001".to_owned(), customer: "globex".to_owned(), amount_cents: 1_250 }
        );
    }

    #[tokio::test]
    async fn an_unknown_dataset_is_a_tool_error_and_still_a_call() {
        let calls = Arc::new(CallLog::default());
        let finance = Finance::new(Arc::clone(&calls), false);
        assert!(finance.query_data(query("salaries", None)).await.is_err());
        assert_eq!(calls.counts()["query_data"], 1);
    }

    #[test]
    fn annotations_tell_the_three_tiers_apart() {
        let hints = |name: &str| {
            let tool = Finance::tool_router().get(name).cloned().unwrap();
            let annotations = tool.annotations.unwrap();
            (annotations.read_only_hint, annotations.destructive_hint)
        };
        assert_eq!(hints("query_data").0, Some(true));
        assert_eq!(hints("create_charge"), (Some(false), Some(false)));
        assert_eq!(hints("delete_ledger"), (Some(false), Some(true)));
    }
}

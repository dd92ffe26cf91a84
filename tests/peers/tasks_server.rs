//! `tasks-server`: an MCP server with the tools that the conformance suite's scenarios for tasks ask for, on the
//! published Rust SDK (crate `rmcp`), which keeps the tasks.
//!
//! Started by the tests (`peers::PeerServer::tasks`); prints its URL and lives until it is killed. With `--stdio` it
//! speaks over its standard input and output instead, until its input ends. `greet` is answered
//! at once; the others go on as tasks for clients that declare the extension, and `slow_compute` and
//! `protocol_error_job` answer other clients when they are done. Specification: extension
//! `io.modelcontextprotocol/tasks`; the tools, in the suite's `src/scenarios/server/tasks`.

use std::{future::Future, time::Duration};

use rmcp::{
    ErrorData, RoleServer, ServerHandler, ServiceExt,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, CancelTaskParams, ClientCapabilities, ContentBlock,
        CreateTaskResult, GetTaskParams, GetTaskResult, Implementation, InputRequest, InputRequests,
        InputRequiredResult, JsonObject, ListToolsResult, PaginatedRequestParams, ServerCapabilities, ServerConfig,
        Tool, UpdateTaskParams,
    },
    service::RequestContext,
    task_manager::{TaskContext, TaskExit, TaskManager, TaskOptions},
    transport::{
        StreamableHttpServerConfig, StreamableHttpService, stdio,
        streamable_http_server::session::local::LocalSessionManager,
    },
};
use serde_json::{Value, json};

/// Name, and whether a client without tasks can be answered.
const TOOLS: [(&str, bool); 7] = [
    ("greet", true),
    ("slow_compute", true),
    ("failing_job", false),
    ("protocol_error_job", true),
    ("confirm_delete", false),
    ("multi_input", false),
    ("test_tool_with_task", false),
];
/// How long the jobs take whose length the suite leaves open.
const JOB: Duration = Duration::from_millis(300);
/// Longest computation: the suite asks for a minute and cancels it.
const SECONDS_MAX: f64 = 600.0;

#[derive(Clone, Default)]
struct Tasks(TaskManager);

/// What a job ends with.
type Done = Result<CallToolResult, TaskExit>;

fn said(text: String) -> CallToolResult {
    CallToolResult::success(vec![ContentBlock::text(text)])
}

/// What the client is asked: one text under one name.
fn question(name: &str) -> Result<InputRequest, ErrorData> {
    let schema = json!({"type": "object", "properties": {name: {"type": "string"}}, "required": [name]});
    let params = json!({"mode": "form", "message": format!("What is {name}?"), "requestedSchema": schema});
    let request = serde_json::from_value(json!({"method": "elicitation/create", "params": params}));
    request.map_err(|error| ErrorData::internal_error(error.to_string(), None))
}

/// What the client answered to it.
fn answer(given: &Value, name: &str) -> String {
    given.pointer(&format!("/content/{name}")).map_or_else(|| "nothing".to_owned(), Value::to_string)
}

async fn ask(context: &TaskContext, name: &str) -> Result<String, TaskExit> {
    let given = context.request_input(name, question(name)?).await?;
    Ok(answer(&given, name))
}

async fn compute(length: Duration) -> CallToolResult {
    tokio::time::sleep(length).await;
    said(format!("computed for {} ms", length.as_millis()))
}

async fn fail_as_a_tool() -> CallToolResult {
    tokio::time::sleep(JOB).await;
    CallToolResult::error(vec![ContentBlock::text("the job did not work out")])
}

async fn fail_as_a_request() -> Result<CallToolResult, ErrorData> {
    tokio::time::sleep(JOB).await;
    Err(ErrorData::internal_error("the job could not be done", None))
}

async fn fan_out(context: TaskContext) -> Done {
    let (first, second) = tokio::join!(ask(&context, "first"), ask(&context, "second"));
    Ok(said(format!("{} and {}", first?, second?)))
}

impl Tasks {
    /// The call goes on as a task.
    fn begin<F>(&self, work: impl FnOnce(TaskContext) -> F) -> CallToolResponse
    where
        F: Future<Output = Done> + Send + 'static,
    {
        let task = self.0.spawn(TaskOptions::default(), |context| Box::pin(work(context)));
        CreateTaskResult::new(task).into()
    }

    /// Answers a client that has tasks.
    fn as_task(&self, request: &CallToolRequestParams) -> Result<CallToolResponse, ErrorData> {
        let length = length(request);
        Ok(match request.name.as_ref() {
            "slow_compute" => self.begin(move |context| async move {
                tokio::select! {
                    () = context.cancelled() => Err(TaskExit::Cancelled),
                    done = compute(length) => Ok(done),
                }
            }),
            "failing_job" => self.begin(|_| async { Ok(fail_as_a_tool().await) }),
            "protocol_error_job" => self.begin(|_| async { fail_as_a_request().await.map_err(TaskExit::Error) }),
            "confirm_delete" => {
                self.begin(|context| async move { Ok(said(format!("deleted: {}", ask(&context, "confirm").await?))) })
            }
            "multi_input" => self.begin(fan_out),
            _ => match request.input_responses.as_ref().and_then(|given| given.get("user_name")) {
                // What must be known beforehand is asked before there is a task.
                None => {
                    let asked = InputRequests::from([("user_name".to_owned(), question("name")?)]);
                    InputRequiredResult::from_input_requests(asked).into()
                }
                Some(given) => {
                    let name = answer(given, "name");
                    self.begin(|_| async move { Ok(said(format!("Hello, {name}!"))) })
                }
            },
        })
    }

    /// Answers one that has none.
    async fn at_once(request: &CallToolRequestParams) -> Result<CallToolResponse, ErrorData> {
        match request.name.as_ref() {
            "slow_compute" => Ok(compute(length(request)).await.into()),
            _ => fail_as_a_request().await.map(Into::into),
        }
    }
}

fn length(request: &CallToolRequestParams) -> Duration {
    let arguments = request.arguments.as_ref();
    let seconds = arguments.and_then(|arguments| arguments.get("seconds")).and_then(Value::as_f64).unwrap_or(1.0);
    Duration::from_secs_f64(seconds.clamp(0.0, SECONDS_MAX))
}

impl ServerHandler for Tasks {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder().enable_tools().enable_tasks().build();
        ServerConfig::new(capabilities).with_server_info(Implementation::new("tasks-server", "1"))
    }

    async fn list_tools(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let schema = JsonObject::from_iter([("type".to_owned(), json!("object"))]);
        let tools = TOOLS.map(|(name, _)| Tool::new(name, "For the conformance suite.", schema.clone()));
        Ok(ListToolsResult::with_all_items(tools.to_vec()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let has_tasks = context.client_capabilities().is_some_and(|declared| declared.supports_tasks());
        match TOOLS.iter().find(|(name, _)| *name == request.name) {
            None => Err(ErrorData::invalid_params("there is no such tool", None)),
            Some(("greet", _)) => {
                let name = request.arguments.as_ref().and_then(|arguments| arguments.get("name")?.as_str());
                Ok(said(format!("Hello, {}!", name.unwrap_or("you"))).into())
            }
            Some(_) if has_tasks => self.as_task(&request),
            Some((_, true)) => Self::at_once(&request).await,
            Some((_, false)) => {
                Err(ErrorData::missing_required_client_capability(ClientCapabilities::builder().enable_tasks().build()))
            }
        }
    }

    async fn get_task(
        &self,
        request: GetTaskParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<GetTaskResult, ErrorData> {
        self.0.get_task(&request.task_id).map(GetTaskResult::new)
    }

    async fn update_task(
        &self,
        request: UpdateTaskParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.0.update_task(&request.task_id, request.input_responses)
    }

    async fn cancel_task(
        &self,
        request: CancelTaskParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.0.cancel_task(&request.task_id)
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let server = Tasks::default();
    if std::env::args().any(|argument| argument == "--stdio") {
        server.serve(stdio()).await?.waiting().await?;
        return Ok(());
    }
    let config = StreamableHttpServerConfig::default().with_legacy_session_mode(false);
    let mcp: StreamableHttpService<Tasks, LocalSessionManager> =
        StreamableHttpService::new(move || Ok(server.clone()), std::sync::Arc::default(), config);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}/mcp", listener.local_addr()?);
    axum::serve(listener, axum::Router::new().nest_service("/mcp", mcp)).await?;
    Ok(())
}

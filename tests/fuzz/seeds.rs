//! What fuzzing starts from: texts as peers of both eras write them.

/// Messages of clients and servers.
pub(crate) const MESSAGES: [&str; 16] = [
    r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"roots":{"listChanged":true},"elicitation":{}},"clientInfo":{"name":"c","version":"1"}}}"#,
    r#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"query_data","arguments":{"q":"x","n":[1,2.5,-0,1e3]},"_meta":{"progressToken":7,"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}}"#,
    r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"query_data","arguments":{},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{"form":{}}},"io.modelcontextprotocol/clientInfo":{"name":"c","version":"1"}}}}"#,
    r#"{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"query_data","inputResponses":{"k":{"action":"accept"}},"requestState":"r2.AAAA","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}"#,
    r#"{"jsonrpc":"2.0","id":4,"method":"tools/list","params":{"cursor":"c2.AAAA"}}"#,
    r#"{"jsonrpc":"2.0","id":5,"method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true,"resourceSubscriptions":["file:///a"]},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}"#,
    r#"{"jsonrpc":"2.0","id":6,"method":"server/discover","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}"#,
    r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1,"reason":"x"}}"#,
    r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":7,"progress":0.5,"total":1}}"#,
    r#"{"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"text","text":"ok"}],"isError":false}}"#,
    r#"{"jsonrpc":"2.0","id":7,"result":{"resultType":"input_required","inputRequests":{"k":{"method":"elicitation/create","params":{"message":"?","requestedSchema":{"type":"object"}}}},"requestState":"s"}}"#,
    r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32602,"message":"no","data":{"x":1}}}"#,
    r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"no"}}"#,
    r#"{"jsonrpc":"2.0","id":"s-1","method":"sampling/createMessage","params":{"messages":[],"maxTokens":1}}"#,
    r#"{"jsonrpc":"2.0","id":8,"method":"tools/call","params":{"name":"call_tool","arguments":{"name":"query_data","arguments":{"q":[1.50]}}}}"#,
    r#"{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"search_tools","arguments":{"query":"queryData: all","limit":2,"offset":0}}}"#,
];

/// JSON of all shapes.
pub(crate) const JSON: [&str; 6] = [
    r#"{"a":{"a":{"a":1}},"b":[{"a":1},{"a":2}],"c":"\u00e9\n"}"#,
    r#"[1,-0,2.50,1e3,null,true,"",{"":""},[[[]]]]"#,
    r#"{"\u0061":1,"b":"\ud83e\udd80"}"#,
    "12345678901234567890123",
    "\"x\"",
    " { } \n",
];

/// Headers, one per line.
pub(crate) const HEADERS: [&str; 5] = [
    "content-type: application/json\naccept: application/json, text/event-stream\nmcp-protocol-version: 2025-11-25\nmcp-session-id: @session",
    "content-type: application/json\naccept: application/json, text/event-stream\nmcp-protocol-version: 2026-07-28\nmcp-method: tools/call\nmcp-name: query_data",
    "content-type: application/json; charset=utf-8\naccept: */*\nmcp-protocol-version: 2026-07-28\nmcp-method: tools/call\nmcp-name: =?base64?cXVlcnlfZGF0YQ==?=\nmcp-param-region: us-west1",
    "content-type: application/json\naccept: application/json, text/event-stream\nmcp-protocol-version: 2026-07-28\nmcp-method: subscriptions/listen",
    "content-type: application/json\naccept: application/json\naccept: text/event-stream\nmcp-protocol-version: 2026-07-28\nmcp-method: server/discover",
];

/// Event streams.
pub(crate) const STREAMS: [&str; 6] = [
    "event: message\nid: 1\ndata: {\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{}}\n\n",
    "\u{feff}: keep-alive\r\n\r\ndata: {\"jsonrpc\":\"2.0\",\r\ndata: \"id\":7,\"result\":{}}\r\n\r\n",
    "retry: 10\rdata\r\rdata: x\r\r",
    "data:1\ndata:2\n\ndata: unfinished",
    "id: 7\nretry: 500\ndata:\n\nid\nretry:9x\n\nid: 8\n",
    "event: a\ndatax: no\n:data\ndata: \u{fffd}\n\n",
];

//! Documents as tools, arguments as requests, answers as results.

use bailiwick_proto::mcp::raw;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{document::DOCUMENT_BYTES_MAX, *};

fn document(paths: Value) -> Value {
    json!({"openapi": "3.1.0", "info": {"title": "t", "version": "1"}, "paths": paths})
}

fn definitions(document: &Value) -> Vec<Value> {
    let listed = tools(&document.to_string(), None).unwrap();
    listed.tools.iter().map(|tool| serde_json::from_str(&tool.json).unwrap()).collect()
}

/// The one tool of a document with this operation at this path.
fn only(path: &str, method: &str, operation: Value) -> Value {
    let all = definitions(&document(json!({path: {method: operation}})));
    assert_eq!(all.len(), 1);
    all[0].clone()
}

fn left_out(path: &str, method: &str, operation: Value) -> &'static str {
    let good = json!({"get": {"operationId": "good"}});
    let mut paths = json!({"/good": good});
    paths[path] = json!({method: operation});
    let listed = tools(&document(paths).to_string(), None).unwrap();
    assert_eq!(listed.tools.len(), 1, "the others stay");
    listed.left_out[0].why
}

fn sent(definition: &Value, arguments: Value) -> Result<HttpRequest, ArgumentFault> {
    let binding = Binding::of(&raw(definition)).unwrap();
    request(&binding, Some(&raw(&arguments)))
}

fn petstore() -> Value {
    json!({
        "openapi": "3.0.3",
        "info": {"title": "Pets", "version": "1"},
        "paths": {"/pets/{petId}": {
            "parameters": [{"$ref": "#/components/parameters/PetId"}],
            "get": {
                "operationId": "getPet", "summary": "One pet", "description": "Finds a pet.",
                "parameters": [{"name": "fields", "in": "query", "schema": {"type": "array", "items": {"type": "string"}}}],
            },
            "put": {
                "operationId": "replacePet",
                "requestBody": {"required": true, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Pet"}}}},
            },
            "delete": {"operationId": "deletePet"},
        }},
        "components": {
            "parameters": {"PetId": {"name": "petId", "in": "path", "required": true, "schema": {"type": "integer"}}},
            "schemas": {"Pet": {
                "type": "object",
                "required": ["id", "name"],
                "properties": {
                    "id": {"type": "integer", "readOnly": true},
                    "name": {"type": "string", "nullable": true, "example": "Rex", "x-mcp-header": "Name"},
                    "parent": {"$ref": "#/components/schemas/Pet"},
                    "weight": {"type": "number", "minimum": 0, "exclusiveMinimum": true},
                },
            }},
        },
    })
}

#[test]
fn a_definition_never_changes_while_its_operation_does_not() {
    // Approved definitions are compared by their bytes: another form of the same would put every tool in quarantine.
    let tools = tools(&petstore().to_string(), None).unwrap().tools;
    let names: Vec<_> = tools.iter().map(|tool| tool.name.as_str()).collect();
    assert_eq!(names, ["deletePet", "getPet", "replacePet"]);
    assert_eq!(
        tools[1].json,
        r#"{"_meta":{"bailiwick/http":{"method":"GET","parameters":[{"argument":"petId","in":"path","name":"petId","required":true,"style":"commas"},{"argument":"fields","in":"query","name":"fields","style":"repeated"}],"path":"/pets/{petId}"}},"annotations":{"readOnlyHint":true},"description":"Finds a pet.","inputSchema":{"additionalProperties":false,"properties":{"fields":{"items":{"type":"string"},"type":"array"},"petId":{"type":"integer"}},"required":["petId"],"type":"object"},"name":"getPet","title":"One pet"}"#
    );
    assert_eq!(
        tools[2].json,
        r##"{"_meta":{"bailiwick/http":{"body":{"argument":"body","required":true,"type":"application/json"},"method":"PUT","parameters":[{"argument":"petId","in":"path","name":"petId","required":true,"style":"commas"}],"path":"/pets/{petId}"}},"annotations":{"idempotentHint":true,"readOnlyHint":false},"description":"PUT /pets/{petId}","inputSchema":{"$defs":{"Pet":{"properties":{"name":{"type":["string","null"]},"parent":{"$ref":"#/$defs/Pet"},"weight":{"exclusiveMinimum":0,"type":"number"}},"required":["name"],"type":"object"}},"additionalProperties":false,"properties":{"body":{"$ref":"#/$defs/Pet"},"petId":{"type":"integer"}},"required":["petId","body"],"type":"object"},"name":"replacePet"}"##
    );
}

#[test]
fn methods_say_what_a_tool_does() {
    let hints = |method: &str| only("/x", method, json!({}))["annotations"].clone();
    assert_eq!(hints("get"), json!({"readOnlyHint": true}));
    assert_eq!(hints("head"), json!({"readOnlyHint": true}));
    assert_eq!(hints("post"), json!({"readOnlyHint": false}));
    assert_eq!(hints("delete"), json!({"readOnlyHint": false, "idempotentHint": true, "destructiveHint": true}));
}

#[test]
fn names_are_ids_or_method_and_path_and_fit() {
    let long = "x".repeat(200);
    for (path, operation, name) in [
        ("/a", json!({"operationId": "list_pets-2"}), "list_pets-2"),
        ("/a", json!({"operationId": "pets.list all"}), "pets_list_all_4ac869f0"),
        ("/pets/{id}/x", json!({"parameters": [{"name": "id", "in": "path", "schema": {}}]}), "get_pets_id_x_fd3fa7fe"),
    ] {
        assert_eq!(only(path, "get", operation)["name"], name);
    }
    let name = only("/a", "get", json!({"operationId": long}))["name"].as_str().unwrap().to_owned();
    assert_eq!(name.len(), 64);
    let twice = document(json!({"/a": {"get": {"operationId": "a"}}, "/b": {"get": {"operationId": "a"}}}));
    assert_eq!(tools(&twice.to_string(), None).unwrap_err(), DocumentFault::Repeated("a".into()));
}

#[test]
fn parameters_of_one_name_in_two_places_are_two_arguments() {
    let parameter = |name: &str, place: &str| json!({"name": name, "in": place, "required": true, "schema": {}});
    let parameters = json!([parameter("id", "path"), parameter("id", "query"), parameter("body", "query")]);
    let tool = only("/a/{id}", "get", json!({"parameters": parameters}));
    assert_eq!(tool["inputSchema"]["required"], json!(["id_path", "body_query", "id_query"]));
    let sent = sent(&tool, json!({"id_path": 1, "id_query": 2, "body_query": 3})).unwrap();
    assert_eq!(sent.target, "/a/1?body=3&id=2");
    let unlucky = json!([parameter("id", "path"), parameter("id", "query"), parameter("id_path", "query")]);
    let why = left_out("/a/{id}", "get", json!({"parameters": unlucky}));
    assert_eq!(why, "two of its parameters would have the same name");
}

#[test]
fn what_cannot_be_sent_in_one_sure_way_is_left_out() {
    let parameter = |of: Value| json!({"parameters": [of]});
    let body = |of: Value| json!({"requestBody": of});
    let large = json!({"content": {"application/json": {"schema": {"enum": ["x".repeat(70_000)]}}}});
    for (path, operation, why) in [
        ("/a/{id}", json!({}), "the parameters in its path"),
        ("/a", parameter(json!({"name": "id", "in": "path", "schema": {}})), "the parameters in its path"),
        ("/a/{id", json!({}), "its path cannot be read"),
        ("/a/../b", json!({}), "its path cannot be read"),
        ("/a//b", json!({}), "its path cannot be read"),
        ("/a?b=c", json!({}), "its path cannot be read"),
        ("/a#b", json!({}), "its path cannot be read"),
        ("/a b", json!({}), "its path cannot be read"),
        ("/%zz", json!({}), "its path cannot be read"),
        ("a", json!({}), "begins with a slash"),
        ("/a", parameter(json!({"name": "s", "in": "cookie", "required": true, "schema": {}})), "needs a cookie"),
        ("/a", parameter(json!({"name": "Authorization", "in": "header", "required": true, "schema": {}})), "a header"),
        (
            "/a",
            parameter(json!({"name": "X-Forwarded-For", "in": "header", "required": true, "schema": {}})),
            "a header",
        ),
        ("/a", parameter(json!({"name": "a\r\nb", "in": "header", "required": true, "schema": {}})), "a header"),
        ("/a", parameter(json!({"name": "q", "in": "query", "style": "matrix", "schema": {}})), "a style"),
        ("/a/{p}", parameter(json!({"name": "p", "in": "path", "style": "matrix", "schema": {}})), "a style"),
        ("/a/{p}", parameter(json!({"name": "p", "in": "path", "style": "label", "schema": {}})), "a style"),
        ("/a", parameter(json!({"name": "q", "in": "query", "content": {"text/xml": {}}})), "a media type"),
        ("/a", parameter(json!({"name": "q", "in": "moon", "schema": {}})), "an unknown place"),
        ("/a", parameter(json!({"in": "query", "schema": {}})), "no name"),
        ("/a", parameter(json!({"$ref": "https://elsewhere.example/x.json"})), "another document"),
        ("/a", parameter(json!({"$ref": "#/nowhere"})), "not in the document"),
        ("/a", json!({"parameters": [{"name": "q", "in": "query"}, {"name": "q", "in": "query"}]}), "of one name"),
        ("/a", body(json!({"required": true, "content": {"multipart/form-data": {}}})), "its body is of a media type"),
        ("/a", body(json!({"required": true, "content": {"application/xml": {}}})), "its body is of a media type"),
        (
            "/a",
            body(json!({"content": {"application/json": {"schema": {"$ref": "#/nowhere"}}}})),
            "not in the document",
        ),
        ("/a", body(json!({"content": {"application/json": {"schema": {"$ref": "x.json#/X"}}}})), "another document"),
        ("/a", body(large), "its definition is too large"),
    ] {
        let told = left_out(path, "post", operation);
        assert!(told.contains(why), "{path}: {told}, not {why}");
    }
    for method in ["options", "trace"] {
        assert_eq!(left_out("/a", method, json!({})), "its method is none that a tool can have");
    }
    // A body that need not be sent, and cannot be written, is none of the tool's.
    let optional = only("/a", "post", body(json!({"content": {"multipart/form-data": {}}})));
    assert!(optional["inputSchema"]["properties"].as_object().unwrap().is_empty());
    let optional = parameter(json!({"name": "Cookie", "in": "header", "schema": {}}));
    assert!(only("/a", "get", optional)["inputSchema"]["properties"].as_object().unwrap().is_empty());
}

#[test]
fn the_header_of_a_credential_is_not_a_clients_to_send() {
    let parameters = json!([{"name": "X-Api-Key", "in": "header", "required": true, "schema": {}}]);
    let document = document(json!({"/a": {"get": {"parameters": parameters}}})).to_string();
    let input = |shown| -> Value {
        let tool = tools(&document, shown).unwrap().tools.remove(0);
        serde_json::from_str::<Value>(&tool.json).unwrap()["inputSchema"]["properties"].clone()
    };
    assert_eq!(input(None), json!({"X-Api-Key": {}}));
    assert_eq!(input(Some("x-api-key")), json!({}));
}

#[test]
fn documents_that_cannot_be_used_say_why() {
    for (text, why) in [
        ("{".to_owned(), "not JSON"),
        ("openapi: 3.0.0".to_owned(), "not JSON"),
        (r#"{"openapi": "3.1.0", "openapi": "3.0.0"}"#.to_owned(), "repeated"),
        (json!({"swagger": "2.0", "paths": {}}).to_string(), "3.0 or 3.1"),
        (document(json!({})).to_string(), "no operation"),
        (document(json!({"/a/{b}": {"get": {}}})).to_string(), "`GET /a/{b}`: the parameters in its path"),
        (" ".repeat(DOCUMENT_BYTES_MAX + 1), "larger"),
        (format!("{}{}", "[".repeat(1_000), "]".repeat(1_000)), "nested"),
    ] {
        let fault = tools(&text, None).unwrap_err().to_string();
        assert!(fault.contains(why), "{fault}");
    }
    let many: serde_json::Map<_, _> = (0..=OPERATIONS_MAX).map(|n| (format!("/{n}"), json!({"get": {}}))).collect();
    assert_eq!(tools(&document(many.into()).to_string(), None).unwrap_err(), DocumentFault::TooMany);
}

#[test]
fn hostile_references_end() {
    let mut looping = document(json!({"/a": {"get": {"parameters": [{"$ref": "#/components/parameters/A"}]}}}));
    looping["components"]["parameters"] =
        json!({"A": {"$ref": "#/components/parameters/B"}, "B": {"$ref": "#/components/parameters/A"}});
    assert!(tools(&looping.to_string(), None).is_err());
    // A row of schemas, each of which refers to the next: read one after the other, not one inside the other.
    let schemas: serde_json::Map<_, _> = (0..20_000)
        .map(|n| (format!("S{n}"), json!({"items": {"$ref": format!("#/components/schemas/S{}", n + 1)}})))
        .collect();
    let operation =
        json!({"requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/S0"}}}}});
    let mut long = document(json!({"/a": {"post": operation}, "/b": {"get": {}}}));
    long["components"]["schemas"] = schemas.into();
    let listed = tools(&long.to_string(), None).unwrap();
    assert_eq!(listed.left_out[0].why, "its schemas are too large");
    // Many large schemas, which many operations use, are not multiplied.
    let wide: serde_json::Map<_, _> = (0..9_000).map(|n| (format!("p{n}"), json!({}))).collect();
    let paths: serde_json::Map<_, _> = (0..900).map(|n| (format!("/{n}"), json!({"post": operation}))).collect();
    let mut wide_document = document(paths.into());
    wide_document["components"]["schemas"] = json!({"S0": {"properties": wide}});
    assert!(tools(&wide_document.to_string(), None).is_err(), "none is offered, and none of them took long");
}

#[test]
fn schemas_of_one_name_stay_apart() {
    let refers = |to: &str| json!({"$ref": format!("#/components/{to}/X/schema")});
    let operation = json!({"parameters": [
        {"name": "a", "in": "query", "schema": refers("one")},
        {"name": "b", "in": "query", "schema": refers("two")},
    ]});
    let mut document = document(json!({"/a": {"get": operation}}));
    document["components"] =
        json!({"one": {"X": {"schema": {"type": "string"}}}, "two": {"X": {"schema": {"type": "integer"}}}});
    let tool = &definitions(&document)[0];
    assert_eq!(tool["inputSchema"]["$defs"], json!({"schema": {"type": "string"}, "schema-2": {"type": "integer"}}));
}

#[test]
fn values_are_written_as_the_document_says() {
    let parameter = |of: Value| {
        let mut all = json!({"name": "p", "schema": {}});
        all.as_object_mut().unwrap().extend(of.as_object().unwrap().clone());
        let path = if all["in"] == "path" { "/a/{p}" } else { "/a" };
        only(path, "get", json!({"parameters": [all]}))
    };
    let query = |style: &str, explode: bool| json!({"in": "query", "style": style, "explode": explode});
    for (of, value, target) in [
        (json!({"in": "query"}), json!("a b&c=d#é/"), "/a?p=a%20b%26c%3Dd%23%C3%A9%2F"),
        (json!({"in": "query"}), json!([1, "x,y"]), "/a?p=1&p=x%2Cy"),
        (json!({"in": "query"}), json!({"x": 1, "y z": true}), "/a?x=1&y%20z=true"),
        (query("form", false), json!(["a", "b,c"]), "/a?p=a,b%2Cc"),
        (query("spaceDelimited", false), json!(["a", "b"]), "/a?p=a%20b"),
        (query("pipeDelimited", false), json!(["a", "b"]), "/a?p=a%7Cb"),
        (query("deepObject", true), json!({"x": 1}), "/a?p%5Bx%5D=1"),
        (
            json!({"in": "query", "content": {"application/json": {}}}),
            json!({"x": [1]}),
            "/a?p=%7B%22x%22%3A%5B1%5D%7D",
        ),
        (json!({"in": "path", "explode": false}), json!("../x"), "/a/..%2Fx"),
        (json!({"in": "path", "explode": false}), json!(["a", "b/c"]), "/a/a,b%2Fc"),
        (json!({"in": "path"}), json!("{p}?x#y%2e"), "/a/%7Bp%7D%3Fx%23y%252e"),
        (json!({"in": "path"}), json!(12.50), "/a/12.5"),
        (json!({"in": "query"}), Value::Null, "/a"),
    ] {
        assert_eq!(sent(&parameter(of), json!({"p": value})).unwrap().target, target);
    }
    let number = RawValue::from_string(r#"{"p":12345678901234567890.10}"#.into()).unwrap();
    let binding = Binding::of(&raw(&parameter(json!({"in": "query"})))).unwrap();
    assert_eq!(request(&binding, Some(&number)).unwrap().target, "/a?p=12345678901234567890.10");
}

#[test]
fn arguments_that_do_not_fit_are_refused_by_name() {
    let path = only("/a/{p}", "get", json!({"parameters": [{"name": "p", "in": "path", "schema": {}}]}));
    let header = only("/a", "get", json!({"parameters": [{"name": "X-P", "in": "header", "schema": {}}]}));
    for (tool, arguments) in [
        (&path, json!({})),
        (&path, json!({"p": null})),
        (&path, json!({"p": ""})),
        (&path, json!({"p": "."})),
        (&path, json!({"p": ".."})),
        (&path, json!({"p": []})),
        (&path, json!({"p": [[1]]})),
        (&path, json!({"p": "a", "q": "b"})),
        (&path, json!({"p": "x".repeat(9_000)})),
        (&header, json!({"X-P": "a\r\nb: c"})),
        (&header, json!({"X-P": "é"})),
        (&header, json!({"X-P": " a"})),
        (&header, json!({"X-P": "x".repeat(5_000)})),
    ] {
        assert!(sent(tool, arguments.clone()).is_err(), "{arguments}");
    }
    let good = sent(&header, json!({"X-P": "a b"})).unwrap();
    assert_eq!(good.headers, [("x-p".to_owned(), "a b".to_owned())]);
}

#[test]
fn bodies_are_sent_as_they_were_authorised() {
    let body = |kind: &str| only("/a", "post", json!({"requestBody": {"required": true, "content": {kind: {}}}}));
    let json = body("application/vnd.x+json; charset=utf-8");
    let binding = Binding::of(&raw(&json)).unwrap();
    let arguments = RawValue::from_string(r#"{"body":{"b": 1.10,"a":[ ]}}"#.into()).unwrap();
    let sent_json = request(&binding, Some(&arguments)).unwrap().body.unwrap();
    assert_eq!(sent_json, ("application/vnd.x+json; charset=utf-8".into(), br#"{"b": 1.10,"a":[ ]}"#.to_vec()));
    let form = body("application/x-www-form-urlencoded");
    let sent_form = sent(&form, json!({"body": {"a": "x y", "b": [1, 2], "c": null}})).unwrap().body.unwrap();
    assert_eq!(sent_form.1, b"a=x%20y&b=1&b=2");
    assert!(sent(&form, json!({"body": "x"})).is_err() && sent(&form, json!({"body": {"a": {"b": 1}}})).is_err());
    let text = body("text/plain");
    assert_eq!(sent(&text, json!({"body": "é"})).unwrap().body.unwrap().1, "é".as_bytes());
    assert!(sent(&text, json!({"body": 1})).is_err() && sent(&text, json!({})).is_err());
}

#[test]
fn answers_are_content_and_errors_are_the_tools() {
    let shown = |status, kind, body: &str| -> Value {
        serde_json::from_str(answer(status, Some(kind), body.as_bytes()).get()).unwrap()
    };
    let text = |text: &str| json!([{"type": "text", "text": text}]);
    let object = shown(200, "application/json; charset=utf-8", r#" {"a": 1.0} "#);
    assert_eq!(object, json!({"content": text(r#" {"a": 1.0} "#), "structuredContent": {"a": 1.0}, "isError": false}));
    assert_eq!(shown(200, "application/json", "[1]"), json!({"content": text("[1]"), "isError": false}));
    let twice = shown(200, "application/json", r#"{"a":1,"a":2}"#);
    assert!(twice.get("structuredContent").is_none(), "what has two readings is text");
    assert_eq!(shown(204, "", ""), json!({"content": text("HTTP 204"), "isError": false}));
    assert_eq!(
        shown(200, "image/png", "x")["content"],
        json!([{"type": "image", "data": "eA==", "mimeType": "image/png"}])
    );
    assert_eq!(
        shown(404, "application/json", r#"{"no": "pet"}"#),
        json!({"content": text(r#"HTTP 404: {"no": "pet"}"#), "isError": true})
    );
    assert_eq!(shown(500, "text/html", &"x".repeat(100_000))["content"][0]["text"].as_str().unwrap().len(), 4_010);
    assert_eq!(shown(200, "application/zip", "PK")["isError"], true);
    let not_text: Value = serde_json::from_str(answer(200, Some("text/plain"), &[0xff]).get()).unwrap();
    assert_eq!(not_text["isError"], true);
}

proptest! {
    #[test]
    fn no_value_leaves_its_place(text in ".{0,40}") {
        let parameters = json!([
            {"name": "p", "in": "path", "schema": {}}, {"name": "q", "in": "query", "schema": {}},
        ]);
        let tool = only("/a/{p}/z", "get", json!({"parameters": parameters}));
        if let Ok(sent) = sent(&tool, json!({"p": text, "q": text})) {
            let (path, query) = sent.target.split_once('?').unwrap();
            let segments: Vec<_> = path.split('/').collect();
            prop_assert_eq!(segments.len(), 4);
            prop_assert!(!["", ".", ".."].contains(&segments[2]));
            prop_assert!(query.starts_with("q=") && !query.contains(['&', '#']));
            prop_assert!(sent.target.bytes().all(|byte| byte.is_ascii_graphic()));
        }
    }

    #[test]
    fn no_document_breaks_the_reader(text in r#"[\{\}\[\]:,"a-z$#/0-9 ]{0,200}"#) {
        let _ = tools(&text, None);
        let _ = tools(&format!(r##"{{"openapi":"3.1.0","paths":{{"/a":{{"get":{text}}}}}}}"##), None);
    }
}

//! What a service makes of requests about agents with a state at hand.

use bailiwick_control_plane_core::{
    Command, State, Wish,
    command::{Context, FreshIds},
    decide, evolve,
    provisioning::wish::{Operation, PersonWritten, Provision, SuccessorWritten, Whom},
    resource::AgentState,
};
use serde_json::{Map, Value, json};

use super::{super::schema, *};
use crate::scim::service;

const DRAFTS: [Draft; 2] = [Draft::Resource, Draft::Extension];

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn rules() -> ScimAgents {
    let projects = ["sandbox", "lab"].map(str::to_owned).into();
    ScimAgents { draft: String::new(), projects, owner: String::new() }
}

fn carried_out(state: &mut State, operation: Operation) {
    let context = Context {
        now_micros: 1_000_000,
        actor: "scim:okta".to_owned(),
        request_id: String::new(),
        ids: FreshIds::default(),
    };
    let wish = Provision { operations: vec![operation], faults_max: None, reserved: std::collections::BTreeSet::new() };
    let revision = state.revision + 1;
    let decision = decide(state, Command::Wish(Wish::Provision(wish)), &context).unwrap();
    decision.events.iter().for_each(|event| evolve(state, event, revision));
}

fn sent(draft: Draft, more: Value) -> Map<String, Value> {
    let mut sent = object(json!({"schemas": [schema::AGENT], "owners": [{"value": "p-1"}]}));
    sent.insert(name_of(draft).to_owned(), "helper".into());
    sent.extend(object(more));
    sent.retain(|_, value| !value.is_null());
    sent
}

fn made(draft: Draft, more: Value, rules: &ScimAgents) -> Result<AgentWritten, Fault> {
    let operation = service::created(Type::Agent(draft), "a-1".to_owned(), &sent(draft, more), rules)?;
    let Operation::CreateAgent { agent, .. } = operation else { panic!("{operation:?}") };
    Ok(agent)
}

/// Two people, and an agent of the first.
fn state(draft: Draft) -> State {
    let mut state = State::default();
    for (id, name) in [("p-1", "jane@example.com"), ("p-2", "sue@example.com")] {
        let (external_id, profile) = (String::new(), "{}".to_owned());
        let person = PersonWritten { user_name: name.to_owned(), external_id, active: true, profile };
        carried_out(&mut state, Operation::CreatePerson { id: id.to_owned(), person });
    }
    let agent = made(draft, json!({"displayName": "A", "externalId": "x-1"}), &rules()).unwrap();
    carried_out(&mut state, Operation::CreateAgent { id: "a-1".to_owned(), agent });
    state
}

fn see(state: &State, draft: Draft) -> Value {
    let (name, known) = state.provisioned.agent("a-1").unwrap();
    Value::Object(shown(state, draft, name, known, "https://x/scim/v2").unwrap())
}

fn put(state: &State, draft: Draft, more: Value) -> Result<AgentWritten, Fault> {
    let operation = service::replaced(state, Type::Agent(draft), "a-1", &sent(draft, more), None, &rules())?;
    let Operation::ReplaceAgent { agent, .. } = operation else { panic!("{operation:?}") };
    Ok(agent)
}

fn patch_one(state: &State, draft: Draft, operation: Value) -> Result<AgentWritten, Fault> {
    let sent = object(json!({"schemas": [schema::PATCH], "Operations": [operation]}));
    let operation = service::patched(state, Type::Agent(draft), "a-1", &sent, None, &rules(), &mut Budget::default())?;
    let Operation::ReplaceAgent { agent, version, .. } = operation else { panic!("{operation:?}") };
    assert_eq!(version, version_of_agent(state, "helper"));
    Ok(agent)
}

fn kind(fault: &Fault) -> String {
    fault.body()["scimType"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn an_agent_is_shown_with_its_owner_and_what_decides_about_it() {
    for draft in DRAFTS {
        let mut state = state(draft);
        let mut expected = json!({
            "schemas": [schema::AGENT, AGENT_EXTENSION],
            "id": "a-1", "externalId": "x-1", "displayName": "A", "active": true,
            "owners": [{"value": "p-1", "$ref": "https://x/scim/v2/Users/p-1"}],
            (AGENT_EXTENSION): {"project": "sandbox", "ceiling": "retrieval"},
            "meta": {"resourceType": "Agent", "created": "1970-01-01T00:00:01Z", "lastModified": "1970-01-01T00:00:01Z",
                "location": "https://x/scim/v2/Agents/a-1", "version": format!("W/\"{}\"", state.revision)},
        });
        expected[name_of(draft)] = "helper".into();
        assert_eq!(see(&state, draft), expected);
        state.agents.get_mut("helper").unwrap().spec.state = AgentState::Paused;
        assert_eq!(see(&state, draft)["active"], false);
        state.agents.get_mut("helper").unwrap().spec.successor = Some("nobody@example.com".to_owned());
        let successor = json!({"value": "nobody@example.com"});
        assert_eq!(see(&state, draft)[AGENT_EXTENSION]["successor"], successor);
    }
}

#[test]
fn what_is_missing_comes_of_the_configuration_or_is_asked_for() {
    for draft in DRAFTS {
        let agent = made(draft, json!({}), &rules()).unwrap();
        assert_eq!((agent.project.as_deref(), agent.active), (Some("sandbox"), true));
        assert_eq!((agent.owner, agent.successor), (Some(Whom::Said("p-1".to_owned())), SuccessorWritten::AsItIs));
        let nameless = json!({(name_of(draft)): null});
        assert_eq!(kind(&made(draft, nameless, &rules()).unwrap_err()), "invalidValue");
        assert_eq!(kind(&made(draft, json!({"owners": null}), &rules()).unwrap_err()), "invalidValue");
        let configured = ScimAgents { owner: "ops@example.com".to_owned(), ..rules() };
        let agent = made(draft, json!({"owners": []}), &configured).unwrap();
        assert_eq!(agent.owner, Some(Whom::Name("ops@example.com".to_owned())));
        let none = ScimAgents { projects: Vec::new(), ..rules() };
        assert_eq!(kind(&made(draft, json!({}), &none).unwrap_err()), "invalidValue");
    }
}

#[test]
fn owners_are_one_and_projects_those_of_the_list() {
    for draft in DRAFTS {
        let state = state(draft);
        for owners in [
            json!([{"value": "p-1"}, {"value": "p-2"}]),
            json!([{"$ref": "https://x/scim/v2/Users/p-1"}]),
            json!([{"value": ""}]),
            json!([{"value": 7}]),
            json!({"a": {}}),
            json!(7),
        ] {
            for refused in
                [made(draft, json!({"owners": owners}), &rules()), put(&state, draft, json!({"owners": owners}))]
            {
                match refused {
                    Err(fault) => assert_eq!(kind(&fault), "invalidValue", "{owners}"),
                    // An object without anything of the table is as good as none.
                    Ok(agent) => assert!(owners == json!({"a": {}}) && agent.owner.is_none(), "{owners}"),
                }
            }
        }
        let in_project = |project: &str| json!({(AGENT_EXTENSION): {"project": project}});
        assert!(made(draft, in_project("lab"), &rules()).is_ok());
        assert!(made(draft, in_project("payments"), &rules()).is_err());
        assert!(put(&state, draft, in_project("payments")).is_err());
        // Where an administrator put it, it may stay.
        let mut moved = state.clone();
        moved.agents.get_mut("helper").unwrap().spec.project = "payments".to_owned();
        assert_eq!(put(&moved, draft, in_project("payments")).unwrap().project, None);
        assert!(put(&moved, draft, in_project("secret")).is_err());
    }
}

#[test]
fn the_ceiling_is_read_and_the_name_stays() {
    for draft in DRAFTS {
        let state = state(draft);
        let ceiling = json!({(AGENT_EXTENSION): {"ceiling": "destructive"}});
        let plain = put(&state, draft, json!({(AGENT_EXTENSION): {}})).unwrap();
        assert_eq!(put(&state, draft, ceiling.clone()).unwrap(), plain, "as RFC 7644 §3.5.1 wants it");
        for operation in [
            json!({"op": "replace", "path": format!("{AGENT_EXTENSION}:ceiling"), "value": "destructive"}),
            json!({"op": "add", "path": AGENT_EXTENSION, "value": {"ceiling": "destructive"}}),
            json!({"op": "add", "value": ceiling}),
            json!({"op": "replace", "path": name_of(draft), "value": "other"}),
            json!({"op": "remove", "path": name_of(draft)}),
            json!({"op": "replace", "path": "id", "value": "a-2"}),
            json!({"op": "remove", "path": "owners"}),
            json!({"op": "remove", "path": "owners[value eq \"p-1\"]"}),
            json!({"op": "remove", "path": format!("{AGENT_EXTENSION}:project")}),
            json!({"op": "remove", "path": AGENT_EXTENSION}),
        ] {
            assert_eq!(kind(&patch_one(&state, draft, operation.clone()).unwrap_err()), "mutability", "{operation}");
        }
        let other = json!({(name_of(draft)): "other"});
        assert_eq!(kind(&put(&state, draft, other).unwrap_err()), "mutability");
        assert_eq!(kind(&put(&state, draft, json!({"id": "a-2"})).unwrap_err()), "mutability");
    }
}

#[test]
fn a_patch_changes_what_it_names_and_leaves_the_rest() {
    let draft = Draft::Resource;
    let state = state(draft);
    let patched = |operation: Value| patch_one(&state, draft, operation).unwrap();
    let off = patched(json!({"op": "Replace", "path": "active", "value": "False"}));
    assert_eq!((off.active, off.external_id.as_str(), off.profile.as_str()), (false, "x-1", r#"{"displayName":"A"}"#));
    assert_eq!(
        (off.owner, off.project, off.successor),
        (Some(Whom::Said("p-1".into())), None, SuccessorWritten::Nobody)
    );
    let owners = patched(json!({"op": "replace", "path": "owners", "value": [{"value": "p-2"}]}));
    assert_eq!(owners.owner, Some(Whom::Said("p-2".to_owned())));
    let more = json!({"op": "add", "path": "owners", "value": [{"value": "p-2"}]});
    assert_eq!(kind(&patch_one(&state, draft, more).unwrap_err()), "invalidValue", "two owners");
    let successor = json!({"op": "add", "path": format!("{AGENT_EXTENSION}:successor"), "value": {"value": "p-2"}});
    assert_eq!(patched(successor).successor, SuccessorWritten::User(Whom::Said("p-2".to_owned())));
    let whole = json!({"op": "add", "value": {"description": "d", (AGENT_EXTENSION): {"project": "lab"}}});
    let whole = patched(whole);
    assert_eq!((whole.project.as_deref(), whole.active), (Some("lab"), true));
    assert!(whole.profile.contains("\"description\":\"d\""));
    let unknown = json!({"op": "add", "path": "roles", "value": [{"value": "admin"}]});
    assert_eq!(kind(&patch_one(&state, draft, unknown).unwrap_err()), "invalidPath");
}

#[test]
fn without_agents_nothing_names_them() {
    let texts = |draft: &str| {
        let rules = ScimAgents { draft: draft.to_owned(), ..rules() };
        let types = Type::served(rules.draft());
        format!(
            "{types:?} {:?} {:?}",
            schema::resource_types("", rules.draft()),
            schema::schemas("", rules.draft(), &rules.projects)
        )
    };
    assert!(!texts("").contains("gent\"") && !texts("").contains("sandbox"), "{}", texts(""));
    let [resource, extension] = ["draft-wzdk-scim-agent-resource-00", "draft-abbey-scim-agent-extension-00"].map(texts);
    assert!(resource.contains("/Agents") && resource.contains("agentUserName") && resource.contains("sandbox"));
    assert!(extension.contains("/Agents") && !extension.contains("agentUserName"));
}

//! Commands: what each does, and what each refuses, on states that were themselves made by commands.

use std::collections::BTreeMap;

use bailiwick_control_plane_core::{
    Answer, Command, Kind, Rejection, Spec, manifest,
    node::{RUNS_AT_ONCE_MAX, Role},
    rejection::Class,
    token_key::{Issuer, TokenKey},
};
use bailiwick_proto::Tier;

use crate::world::{EXAMPLE, World, actions, document, finance_tools, lines, parse, types, wish};

#[test]
fn the_example_is_created_and_then_unchanged() {
    let mut world = World::default();
    let first = world.apply_seen(EXAMPLE, "finance", &finance_tools()).unwrap();
    assert_eq!(
        actions(&first),
        [
            "created Server/finance",
            "created VirtualServer/finance",
            "created User/jane@example.com",
            "created Agent/coding-assistant",
            "created Policy/finance-reads"
        ]
    );
    let again = world.apply_seen(EXAMPLE, "finance", &finance_tools()).unwrap();
    assert_eq!(again.events, []);
    assert!(actions(&again).iter().all(|line| line.starts_with("unchanged ")), "{:?}", actions(&again));
    let changed = world.apply(&EXAMPLE.replace("groups: [finance]", "groups: [finance, ops]")).unwrap();
    assert_eq!(types(&changed), ["user_applied"]);
    assert_eq!(actions(&changed)[2], "configured User/jane@example.com");
}

#[test]
fn a_change_shows_before_and_after() {
    let mut world = World::example();
    let decision = world.apply(&document("User", "jane@example.com", "{active: false}")).unwrap();
    let Answer::Changes(changes) = decision.answer else { unreachable!() };
    let spec = |manifest: &Option<serde_json::Value>| manifest.as_ref().unwrap()["spec"].to_string();
    assert_eq!(spec(&changes[0].before), r#"{"groups":["finance"],"active":true}"#);
    assert_eq!(spec(&changes[0].after), r#"{"groups":[],"active":false}"#);
}

#[test]
fn what_is_named_must_exist_here_or_in_the_same_apply() {
    let mut world = World::default();
    let yaml = [
        document("Agent", "a", "{owner: jame, project: p}"),
        document("User", "jane", "{}"),
        document("VirtualServer", "v", "{servers: [{server: finanec}]}"),
        document("Server", "finance", "{endpoint: {url: 'http://h/'}}"),
    ]
    .concat();
    let rejection = world.apply(&yaml).unwrap_err();
    assert_eq!(
        lines(&rejection.problems()),
        [
            "f.yaml:5: spec.owner: User \"jame\" does not exist; did you mean \"jane\"?",
            "f.yaml:15: spec.servers[0].server: Server \"finanec\" does not exist; did you mean \"finance\"?",
        ]
    );
    assert_eq!(world.state, <_>::default(), "something was half applied");
    world.apply(&yaml.replace("jame", "jane").replace("finanec", "finance")).unwrap();
}

#[test]
fn cedar_that_does_not_validate_is_refused_at_its_line() {
    let mut world = World::example();
    let table = [
        ("permit (principal, action, resource) when { resource.teir == \"x\" };", 7),
        ("permit (principal == User::\"nobody\", action, resource);", 7),
        ("// fine\n    permit (principal, action in Action::\"finance__no_tool\", resource);", 8),
        ("permit (principal, action, resource == Server::\"nowhere\");", 7),
        ("permit (", 7),
        ("\n\n    permit (principal == User::\"nobody\", action, resource);", 9),
    ];
    for (cedar, line) in table {
        let yaml = document("Policy", "p", &format!("\n  cedar: |\n    {cedar}\n"));
        let rejection = world.apply(&yaml).unwrap_err();
        let problems = rejection.problems();
        assert!(!problems.is_empty());
        for problem in problems {
            assert_eq!(
                (problem.file.as_str(), problem.line, problem.key.as_str()),
                ("f.yaml", line, "spec.cedar"),
                "{problem}"
            );
        }
    }
}

#[test]
fn policies_about_prompts_and_resources_are_checked_like_those_about_tools() {
    let mut world = World::example();
    let apply = |world: &mut World, cedar: &str| {
        world.apply(&document("Policy", "reads", &format!("\n  cedar: |\n    {cedar}\n")))
    };
    for cedar in [
        r#"permit (principal, action == Action::"get_prompt", resource == Server::"finance");"#,
        r#"permit (principal, action == Action::"get_prompt", resource) when { context.name == "summary" };"#,
        r#"permit (principal, action == Action::"read_resource", resource) when { context.uri like "file:///public/*" };"#,
        r#"forbid (principal, action in [Action::"get_prompt", Action::"read_resource"], resource);"#,
    ] {
        apply(&mut world, cedar).unwrap();
    }
    for cedar in [
        r#"permit (principal, action == Action::"get_prompts", resource);"#,
        r#"permit (principal, action == Action::"get_prompt", resource == Server::"nowhere");"#,
        r#"permit (principal, action == Action::"get_prompt", resource) when { context.uri like "x" };"#,
        r#"permit (principal, action == Action::"read_resource", resource) when { context.uri == 1 };"#,
        r#"permit (principal, action == Action::"read_resource", resource == Tool::"finance__query_data");"#,
    ] {
        let problems = apply(&mut world, cedar).unwrap_err().problems();
        assert!(!problems.is_empty() && problems.iter().all(|problem| problem.line == 7), "{cedar}: {problems:?}");
    }
    let said = lines(&world.delete(&[(Kind::Server, "finance")]).unwrap_err().problems());
    assert!(!said.iter().any(|line| line.starts_with("Policy reads")), "{said:?}");
    apply(&mut world, r#"permit (principal, action == Action::"get_prompt", resource == Server::"finance");"#).unwrap();
    let said = lines(&world.delete(&[(Kind::Server, "finance")]).unwrap_err().problems());
    assert!(said.iter().any(|line| line.starts_with("Policy reads refers to what should go: ")), "{said:?}");
}

#[test]
fn a_policy_may_name_a_tool_that_is_declared_though_never_seen() {
    let mut world = World::default();
    world.apply(EXAMPLE).unwrap();
    let on = |tool: &str| {
        document(
            "Policy",
            "p",
            &format!("{{cedar: 'permit (principal, action == Action::\"finance__{tool}\", resource);'}}"),
        )
    };
    world.apply(&on("create_charge")).unwrap();
    let rejection = world.apply(&on("query_data")).unwrap_err();
    assert_eq!(rejection.class(), Class::Invalid);
    // Taking the declaration away would leave the policy pointing nowhere.
    let rejection = world.apply(&document("Server", "finance", "{endpoint: {url: 'http://h/'}}")).unwrap_err();
    assert!(rejection.problems()[0].message.contains("finance__create_charge"), "{rejection:?}");
}

#[test]
fn what_is_referred_to_cannot_be_deleted_and_the_referrer_is_named() {
    let mut world = World::example();
    let on_jane = "{cedar: 'permit (principal == User::\"jane@example.com\", action, resource);'}";
    world.apply(&document("Policy", "for-jane", on_jane)).unwrap();
    let said = |rejection: Rejection| lines(&rejection.problems());
    let server = said(world.delete(&[(Kind::Server, "finance")]).unwrap_err());
    assert_eq!(server[0], "Server finance cannot be deleted: VirtualServer finance refers to it");
    assert!(server[1].starts_with("Policy finance-reads refers to what should go: "), "{server:?}");
    let user = said(world.delete(&[(Kind::User, "jane@example.com")]).unwrap_err());
    assert_eq!(user[0], "User jane@example.com cannot be deleted: Agent coding-assistant refers to it");
    assert!(user[1].starts_with("Policy for-jane refers to what should go: "), "{user:?}");
    let missing = world.delete(&[(Kind::Server, "nope"), (Kind::Policy, "nope")]).unwrap_err();
    assert_eq!(said(missing), ["Server nope does not exist", "Policy nope does not exist"]);
    for (kind, name) in [(Kind::Group, "finance"), (Kind::Project, "platform")] {
        assert!(matches!(world.delete(&[(kind, name)]), Err(Rejection::NotDeletable { .. })));
    }
}

#[test]
fn everything_can_be_deleted_together() {
    let mut world = World::example();
    world.run(Command::IssueToken(wish())).unwrap();
    let all = [
        (Kind::Server, "finance"),
        (Kind::VirtualServer, "finance"),
        (Kind::User, "jane@example.com"),
        (Kind::Agent, "coding-assistant"),
        (Kind::Policy, "finance-reads"),
    ];
    let decision = world.delete(&all).unwrap();
    assert!(types(&decision).contains(&"consent_revoked"));
    assert!(actions(&decision).iter().all(|line| line.starts_with("deleted ")));
    let kept: Vec<_> = world.entries.iter().map(|(key, _)| key.to_owned()).collect();
    assert_eq!(kept, ["consent/c-2"], "a revoked consent goes on being known as revoked");
}

#[test]
fn a_person_who_comes_back_inherits_no_consent() {
    let mut world = World::example();
    world.run(Command::IssueToken(wish())).unwrap();
    world.delete(&[(Kind::Agent, "coding-assistant")]).unwrap();
    world.apply(EXAMPLE).unwrap();
    assert_eq!(world.show(Kind::Consent, "c-2")["status"]["state"], "revoked");
}

#[test]
fn a_token_is_granted_within_the_agents_ceiling() {
    let mut world = World::example();
    let decision = world.run(Command::IssueToken(wish())).unwrap();
    assert_eq!(types(&decision), ["consent_granted", "token_issued"]);
    let Answer::Granted(grant) = decision.answer else { unreachable!() };
    assert_eq!((grant.level, grant.project.as_str()), (Tier::Destructive, "platform"));
    assert_eq!(grant.expires_at - grant.issued_at, 600);
    let consent = world.show(Kind::Consent, &grant.consent);
    assert_eq!(consent["status"]["state"], "live");
    assert_eq!(consent["status"]["expires_at"], "2026-11-21T00:10:00Z");
    world.seconds = 600;
    assert_eq!(world.show(Kind::Consent, &grant.consent)["status"]["state"], "expired");
}

#[test]
fn a_token_beyond_what_is_allowed_is_refused() {
    let mut world = World::example();
    let limited = "{owner: jane@example.com, project: p, ceiling: transactional}";
    let yaml = [
        document("Agent", "limited", limited),
        document("Agent", "off", "{owner: jane@example.com, project: p, active: false}"),
        document("User", "gone", "{active: false}"),
    ];
    world.apply(&yaml.concat()).unwrap();
    type Alter = fn(&mut bailiwick_control_plane_core::command::IssueToken);
    let table: &[(Alter, Class)] = &[
        (|wish| wish.user = "nobody".into(), Class::NotFound),
        (|wish| wish.agent = "nobody".into(), Class::NotFound),
        (|wish| wish.virtual_server = "nowhere".into(), Class::NotFound),
        (|wish| wish.user = "gone".into(), Class::Forbidden),
        (|wish| wish.agent = "off".into(), Class::Forbidden),
        (|wish| (wish.agent, wish.level) = ("limited".into(), Some(Tier::Destructive)), Class::Forbidden),
        (|wish| wish.ttl_seconds = 0, Class::Invalid),
        (|wish| wish.ttl_seconds = 30 * 24 * 3600 + 1, Class::Invalid),
        (|wish| wish.ttl_seconds = u64::MAX, Class::Invalid),
        (|wish| wish.reason = "x".repeat(1025), Class::Invalid),
        (|wish| wish.client = String::new(), Class::Invalid),
    ];
    for (number, (alter, class)) in table.iter().enumerate() {
        let mut wish = wish();
        alter(&mut wish);
        let rejection = world.run(Command::IssueToken(wish)).unwrap_err();
        assert_eq!(rejection.class(), *class, "row {number}: {rejection}");
    }
    let mut below = wish();
    (below.agent, below.ttl_seconds) = ("limited".into(), 30 * 24 * 3600);
    let Answer::Granted(grant) = world.run(Command::IssueToken(below)).unwrap().answer else { unreachable!() };
    assert_eq!(grant.level, Tier::Transactional);
}

#[test]
fn a_repeated_request_happens_once_and_gets_the_same_grant() {
    let mut world = World::example();
    let mut context = world.context();
    let first = world.run_as(Command::IssueToken(wish()), &context).unwrap();
    let revision = world.state.revision;
    world.apply(&document("User", "later", "{}")).unwrap();
    context.now_micros += 5_000_000;
    context.ids.consent = "c-other".into();
    let again = world.run_as(Command::IssueToken(wish()), &context).unwrap();
    assert_eq!((again.events.len(), again.repeated), (0, Some(revision)));
    assert_eq!(again.answer, first.answer);
}

#[test]
fn consents_that_ended_long_ago_are_forgotten_as_new_ones_come() {
    let mut world = World::example();
    for _ in 0..3 {
        world.run(Command::IssueToken(wish())).unwrap();
    }
    world.seconds = 600 + 7 * 24 * 3600;
    world.run(Command::IssueToken(wish())).unwrap();
    assert_eq!(world.state.consents.len(), 4, "the last moment is kept");
    world.seconds += 1;
    world.run(Command::IssueToken(wish())).unwrap();
    assert_eq!(world.state.consents.len(), 2);
    assert_eq!(world.state.consent_expiries.len(), 2);
}

#[test]
fn a_node_gets_a_new_epoch_for_every_run_and_keeps_it_when_it_asks_again() {
    let mut world = World::example();
    let register =
        |key: u8| Command::RegisterNode { node: "dp-1".into(), role: Role::DataPlane, public_key: [key; 32] };
    world.run(register(1)).unwrap();
    let first = world.state.nodes.get("dp-1").unwrap().epoch;
    assert_eq!(first, world.state.revision);
    assert_eq!(world.run(register(1)).unwrap().repeated, Some(first));
    world.run(register(2)).unwrap();
    assert!(world.state.nodes.get("dp-1").unwrap().epoch > first);
    let other = Command::RegisterNode { node: "dp-1".into(), role: Role::Ledger, public_key: [3; 32] };
    assert_eq!(world.run(other).unwrap_err(), Rejection::NodeRoleConflict { node: "dp-1".into() });
    for name in ["control-plane", "", "A", "a/b"] {
        let odd = Command::RegisterNode { node: name.into(), role: Role::Ledger, public_key: [3; 32] };
        assert_eq!(world.run(odd).unwrap_err().class(), Class::Invalid, "{name}");
    }
    assert_eq!(types(&world.delete(&[(Kind::Node, "dp-1")]).unwrap()), ["node_deleted"]);
}

#[test]
fn a_node_that_crashes_at_every_start_cannot_fill_the_log() {
    let mut world = World::default();
    let mut key = 0_u8;
    let mut register = |world: &mut World| {
        key += 1;
        world.run(Command::RegisterNode { node: "dp-1".into(), role: Role::DataPlane, public_key: [key; 32] })
    };
    let opened = (0..100).filter(|_| register(&mut world).is_ok()).count() as u64;
    assert_eq!(opened, RUNS_AT_ONCE_MAX);
    assert_eq!(register(&mut world).unwrap_err(), Rejection::TooManyRuns { node: "dp-1".into() });
    world.seconds += 60;
    assert!(register(&mut world).is_ok() && register(&mut world).is_err(), "once a minute");
    // A clock that was wrong and is right again locks nobody out.
    world.seconds += 1_000_000_000;
    register(&mut world).unwrap();
    world.seconds -= 1_000_000_000;
    register(&mut world).unwrap();
}

#[test]
fn token_keys_are_added_and_never_changed() {
    let mut world = World::default();
    let key = |x: &str| TokenKey {
        kid: "k1".into(),
        alg: "EdDSA".into(),
        jwk: format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}"}}"#),
    };
    world.run(Command::RegisterTokenKey(key("a"))).unwrap();
    assert_eq!(world.run(Command::RegisterTokenKey(key("a"))).unwrap().events, []);
    assert_eq!(world.run(Command::RegisterTokenKey(key("b"))).unwrap_err(), Rejection::TokenKeyConflict("k1".into()));
    let private = TokenKey { kid: "k2".into(), jwk: r#"{"kty":"OKP","d":"secret"}"#.into(), ..key("a") };
    assert_eq!(world.run(Command::RegisterTokenKey(private)).unwrap_err().class(), Class::Invalid);
}

#[test]
fn the_issuer_is_set_once_until_it_differs() {
    let mut world = World::default();
    let issuer =
        |url: &str| Command::SetIssuer(Issuer { issuer: url.into(), mcp_url: "http://127.0.0.1:8420/mcp".into() });
    assert_eq!(types(&world.run(issuer("http://127.0.0.1:8430")).unwrap()), ["issuer_set"]);
    assert_eq!(world.run(issuer("http://127.0.0.1:8430")).unwrap().events, []);
    for bad in ["", "http://h/", "http://h?x", "h"] {
        assert_eq!(world.run(issuer(bad)).unwrap_err().class(), Class::Invalid, "{bad}");
    }
}

#[test]
fn a_context_that_could_not_stand_in_a_record_is_refused() {
    let mut world = World::default();
    let manifests = || parse(&document("User", "u", "{}")).unwrap();
    for (request_id, actor) in [("a b", "admin"), ("r", ""), ("r", "a\nb"), (&*"r".repeat(129), "admin")] {
        let mut context = world.context();
        (context.request_id, context.actor) = (request_id.into(), actor.into());
        let command = Command::Apply { manifests: manifests(), discovered: BTreeMap::new() };
        assert_eq!(world.run_as(command, &context).unwrap_err().class(), Class::Invalid);
    }
}

#[test]
fn policies_that_were_read_ahead_are_judged_as_if_they_had_not_been() {
    let policy = |name: &str, cedar: &str| document("Policy", name, &format!("\n  cedar: |\n    {cedar}\n"));
    let pays = r#"permit (principal == User::"jane@example.com", action == Action::"finance__pay", resource);"#;
    for yaml in [
        policy("fits", r#"permit (principal, action, resource in Server::"finance");"#),
        policy("names-nobody", r#"permit (principal == User::"nobody@example.com", action, resource);"#),
        policy("names-no-tool", pays),
        policy("no-syntax", "permit (principal action resource);"),
        policy("no-sense", r#"permit (principal, action, resource) when { resource.colour == "red" };"#),
    ] {
        let [mut plain, mut ahead] = [World::example(), World::example()];
        let mut manifests = parse(&yaml).unwrap();
        manifest::read_policies(&mut manifests);
        let decided = ahead.run(Command::Apply { manifests, discovered: BTreeMap::new() });
        assert_eq!(decided, plain.apply(&yaml), "{yaml}");
    }
    // What was read of another text counts for nothing.
    let mut manifests = parse(&policy("p", "permit (principal, action, resource);")).unwrap();
    manifest::read_policies(&mut manifests);
    let Spec::Policy(spec) = &mut manifests[0].spec else { panic!("a policy") };
    spec.cedar = "permit (".to_owned();
    let decided = World::example().run(Command::Apply { manifests, discovered: BTreeMap::new() });
    assert_eq!(decided.unwrap_err().class(), Class::Invalid);
}

#[test]
fn kinds_are_known_as_people_type_them() {
    for (word, kind) in [
        ("server", Kind::Server),
        ("Servers", Kind::Server),
        ("virtual-servers", Kind::VirtualServer),
        ("virtualserver", Kind::VirtualServer),
        ("policies", Kind::Policy),
        ("CONSENT", Kind::Consent),
    ] {
        assert_eq!(word.parse(), Ok(kind));
    }
    assert!("serverz".parse::<Kind>().is_err());
}

#[test]
fn groups_and_projects_are_while_they_are_named() {
    let mut world = World::example();
    assert_eq!(world.show(Kind::Group, "finance")["status"]["members"][0], "jane@example.com");
    assert_eq!(world.show(Kind::Project, "platform")["status"]["agents"][0], "coding-assistant");
    world.apply(&document("User", "jane@example.com", "{}")).unwrap();
    assert!(bailiwick_control_plane_core::show::names(&world.state, Kind::Group).is_empty());
}

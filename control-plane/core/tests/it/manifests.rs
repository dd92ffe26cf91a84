//! Manifests: what is accepted, and that everything wrong is reported at its line and key.

use bailiwick_control_plane_core::{Kind, Spec, manifest};
use bailiwick_proto::Tier;

use crate::world::{EXAMPLE, document, is_user, lines, parse};

fn check(yaml: &str, expected: &[&str]) {
    let problems = parse(yaml).err().unwrap_or_default();
    assert_eq!(lines(&problems), expected, "{yaml}");
}

#[test]
fn the_issues_example_is_accepted_as_written() {
    let manifests = parse(EXAMPLE).unwrap();
    let kinds: Vec<_> = manifests.iter().map(|manifest| manifest.kind()).collect();
    assert_eq!(kinds, [Kind::Server, Kind::VirtualServer, Kind::User, Kind::Agent, Kind::Policy]);
    let Spec::Server(server) = &manifests[0].spec else { unreachable!() };
    assert_eq!(server.tools["create_charge"].tier, Some(Tier::Transactional));
    assert_eq!(server.tools["create_charge"].cost.as_deref(), Some("0.02"));
    assert_eq!(server.timeout_ms(), 30_000);
    let Spec::User(user) = &manifests[2].spec else { unreachable!() };
    assert!(user.active);
    let Spec::Policy(policy) = &manifests[4].spec else { unreachable!() };
    assert!(policy.cedar.starts_with("permit (") && policy.cedar.ends_with("};\n"));
}

#[test]
fn what_is_left_out_gets_the_safe_default() {
    let manifests = parse(&document("Agent", "a", "{owner: o, project: p}")).unwrap();
    let Spec::Agent(agent) = &manifests[0].spec else { unreachable!() };
    assert_eq!((agent.ceiling, agent.active), (Tier::Retrieval, true));
    assert!(is_user(&parse("apiVersion: bailiwick/v1\nkind: User\nmetadata:\n  name: u\n").unwrap()[0]));
}

#[test]
fn a_misspelt_key_is_named_with_its_line_and_the_right_key() {
    let misspelt = EXAMPLE.replace("{tier: transactional", "{teir: transactional");
    check(&misspelt, &["f.yaml:6: spec.tools.create_charge.teir: unknown key; did you mean \"tier\"?"]);
}

#[test]
fn every_document_reports_its_own_problems() {
    let yaml = "apiVersion: bailiwick/v2\nkind: Sever\nmetadata: {nam: x}\nspce: {}\n---\n- a list\n---\nkind: [\n---\n\
                apiVersion: bailiwick/v1\nkind: User\nmetadata: {name: 'a b'}\nspec:\n  groups: x\n  activ: true\n  active: 1\n";
    check(
        yaml,
        &[
            "f.yaml:1: apiVersion: must be \"bailiwick/v1\"",
            "f.yaml:2: kind: unknown kind \"Sever\"; did you mean \"Server\"?",
            "f.yaml:3: metadata.nam: unknown key; did you mean \"name\"?",
            "f.yaml:3: metadata.name: missing",
            "f.yaml:4: spce: unknown key; did you mean \"spec\"?",
            "f.yaml:6: a manifest must be a mapping with apiVersion, kind, metadata and spec",
            "f.yaml:9: kind: not YAML: while parsing a node, did not find expected node content",
            "f.yaml:12: metadata.name: \"a b\" must be 1 to 254 visible characters without spaces, quotes, slashes or angle brackets",
            "f.yaml:14: spec.groups: must be a sequence, not string \"x\"",
            "f.yaml:15: spec.activ: unknown key; did you mean \"active\"?",
            "f.yaml:16: spec.active: must be a boolean, not integer 1",
        ],
    );
}

#[test]
fn wrong_specs_are_told_by_line_and_key() {
    let table: &[(&str, &str, &[&str])] = &[
        ("Server", "{}", &["f.yaml:5: spec.endpoint: missing"]),
        ("Server", "[]", &["f.yaml:5: spec: must be a mapping"]),
        ("Server", "{endpoint: {}}", &["f.yaml:5: spec.endpoint: needs a `url` or a `command`"]),
        ("Server", "{endpoint: http://h/}", &["f.yaml:5: spec.endpoint: must be a mapping, not string \"http://h/\""]),
        (
            "Server",
            "{endpoint: {url: 'ftp://h/'}, timeout: 1h, tools: {t: {cost: '1.23456'}}}",
            &[
                "f.yaml:5: spec.endpoint.url: must be an http or https URL with a host and without user, password or fragment",
                "f.yaml:5: spec.timeout: must be a whole number with a unit, from \"1ms\" to \"10m\", e.g. \"30s\"",
                "f.yaml:5: spec.tools.t.cost: must be a decimal with at most 14 digits before and 4 after the point, e.g. \"0.02\"",
            ],
        ),
        (
            "Server",
            "{endpoint: {url: 'http://h/'}, tools: {t: {cost: 0.02, tier: harmless}}}",
            &[
                "f.yaml:5: spec.tools.t.cost: must be a string, not floating point 0.02; put it in quotes",
                "f.yaml:5: spec.tools.t.tier: unknown word \"harmless\"; use one of retrieval, transactional, destructive",
            ],
        ),
        (
            "VirtualServer",
            "{servers: [{server: a}, {server: a}]}",
            &["f.yaml:5: spec.servers[1].server: \"a\" is named twice"],
        ),
        (
            "VirtualServer",
            "{servers: [{serve: a}]}",
            &[
                "f.yaml:5: spec.servers[0].serve: unknown key; did you mean \"server\"?",
                "f.yaml:5: spec.servers[0].server: missing",
            ],
        ),
        (
            "VirtualServer",
            "{naming: plian, servers: []}",
            &["f.yaml:5: spec.naming: unknown word \"plian\"; did you mean \"plain\"?"],
        ),
        ("Agent", "{owner: o}", &["f.yaml:5: spec.project: missing"]),
        (
            "Agent",
            "{owner: 'o o', project: P}",
            &[
                "f.yaml:5: spec.owner: \"o o\" must be 1 to 254 visible characters without spaces, quotes, slashes or angle brackets",
                "f.yaml:5: spec.project: \"P\" must be 1 to 63 lower-case letters, digits and inner hyphens, dots or underscores",
            ],
        ),
        ("Group", "{}", &["f.yaml:3: kind: Group cannot be applied: a group exists while a User names it"]),
        ("Consent", "{}", &["f.yaml:3: kind: Consent cannot be applied: a consent comes from issuing a token"]),
    ];
    for (kind, spec, expected) in table {
        check(&document(kind, "x", spec), expected);
    }
}

#[test]
fn yaml_beyond_plain_trees_is_refused() {
    let table: &[(&str, &[&str])] = &[
        (
            "a: &x 1\nb: *x\n",
            &[
                "f.yaml:1: a: anchors are not accepted; write the value out",
                "f.yaml:2: b: aliases are not accepted; write the value out",
            ],
        ),
        ("a: 1\nb:\n  c: 1\n  c: 2\n", &["f.yaml:4: b.c: given twice; first in line 3"]),
        ("a: !!str 1\n", &["f.yaml:1: a: tags are not accepted; put texts in quotes"]),
        ("? [a]\n: 1\n", &["f.yaml:1: a key must be a text"]),
        ("a:\n\t- b\n", &["f.yaml:2: a: not YAML: tabs disallowed within this context (block indentation)"]),
    ];
    for (yaml, expected) in table {
        check(yaml, expected);
    }
    let deep = format!("a: {}1{}\n", "[".repeat(40), "]".repeat(40));
    let problems = parse(&deep).unwrap_err();
    assert!(problems[0].message.contains("nested deeper than 16 levels"), "{problems:?}");
}

#[test]
fn one_resource_is_written_once() {
    let twice = format!("{}{}", document("User", "u", "{}"), document("User", "u", "{groups: [g]}"));
    check(&twice, &["f.yaml:9: metadata.name: User u is written twice; first at f.yaml:2"]);
}

#[test]
fn missing_basics_are_named() {
    check(
        "kind: User\n",
        &[
            "f.yaml:1: apiVersion: missing; write apiVersion: bailiwick/v1",
            "f.yaml:1: metadata.name: missing; write metadata: {name: …}",
        ],
    );
    check("", &[]);
    check("# nothing\n---\n---\n# still nothing\n", &[]);
}

#[test]
fn what_is_too_large_is_refused_before_it_is_read() {
    let large = format!("a: {}\n", "x".repeat(manifest::MANIFEST_BYTES_MAX));
    assert!(parse(&large).unwrap_err()[0].message.contains("bytes of manifests"));
    let spec = format!("{{cedar: \"{}\"}}", "x".repeat(21 * 1024));
    let problems = parse(&document("Policy", "p", &spec)).unwrap_err();
    assert!(problems[0].message.ends_with("at most 20480 are accepted: divide the resource"), "{problems:?}");
}

#[test]
fn a_manifest_with_its_status_can_be_applied_again() {
    let yaml = format!("{}status: {{revision: '3', anything: [1, 2]}}\n", document("User", "u", "{groups: [g]}"));
    assert!(parse(&yaml).is_ok());
}

#[test]
fn windows_line_ends_and_a_byte_order_mark_are_accepted() {
    let yaml = format!("\u{feff}{}", EXAMPLE.replace('\n', "\r\n"));
    assert_eq!(parse(&yaml).unwrap().len(), 5);
}

#[test]
fn the_committed_schema_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/manifest.schema.json");
    let expected = manifest::schema();
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    if serde_json::from_str::<serde_json::Value>(&committed).ok().as_ref() != Some(&expected) {
        std::fs::write(path, format!("{expected:#}\n")).unwrap();
        panic!("docs/reference/manifest.schema.json was out of date; it is written anew: look at the difference");
    }
}

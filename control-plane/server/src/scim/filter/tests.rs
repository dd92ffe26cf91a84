//! Filters of the specification and of hostile people.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn jane() -> Map<String, Value> {
    let value = json!({
        "id": "Ab1", "externalId": "E1", "userName": "Jane@Example.com", "active": true, "title": "CFO",
        "name": {"familyName": "O'Malley"},
        "emails": [{"value": "jane@example.com", "type": "work", "primary": true},
            {"value": "j@home.net", "type": "home"}],
        "meta": {"lastModified": "2011-05-13T04:42:34Z", "resourceType": "User"},
        (schema::ENTERPRISE): {"department": "Finance", "manager": {"value": "M1"}},
    });
    value.as_object().unwrap().clone()
}

#[test]
fn filters_find_what_they_say_and_nothing_else() {
    let enterprise = schema::ENTERPRISE;
    let table = [
        (r#"userName eq "jane@example.com""#.to_owned(), true),
        (r#"USERNAME Eq "JANE@EXAMPLE.COM""#.to_owned(), true),
        (r#"urn:ietf:params:scim:schemas:core:2.0:User:userName sw "J""#.to_owned(), true),
        (r#"id eq "ab1""#.to_owned(), false),
        (r#"id eq "Ab1""#.to_owned(), true),
        (r#"name.familyName co "O'Malley""#.to_owned(), true),
        (r#"title pr"#.to_owned(), true),
        (r#"nickName pr"#.to_owned(), false),
        (r#"nickName eq "x""#.to_owned(), false),
        (r#"nickName ne "x""#.to_owned(), true),
        (r#"nickName eq null"#.to_owned(), true),
        (r#"title eq null"#.to_owned(), false),
        (r#"active eq true"#.to_owned(), true),
        (r#"active eq "True""#.to_owned(), true),
        (r#"active eq false"#.to_owned(), false),
        (r#"meta.lastModified gt "2011-05-13T04:42:34Z""#.to_owned(), false),
        (r#"meta.lastModified ge "2011-05-13T06:42:34+02:00""#.to_owned(), true),
        (r#"meta.lastModified lt "2012-01-01T00:00:00Z""#.to_owned(), true),
        (r#"emails eq "j@home.net""#.to_owned(), true),
        (r#"emails.type eq "home""#.to_owned(), true),
        (r#"emails[type eq "work" and value co "@example.com"]"#.to_owned(), true),
        (r#"emails[type eq "home" and value co "@example.com"]"#.to_owned(), false),
        (r#"emails[not (type eq "work")]"#.to_owned(), true),
        (r#"title eq "x" or title ew "fo" and active eq true"#.to_owned(), true),
        (r#"(title eq "x" or title eq "CFO") and not (active eq true)"#.to_owned(), false),
        (format!(r#"{enterprise}:department eq "finance""#), true),
        (format!(r#"{enterprise}:manager.value eq "M1""#), true),
        (format!(r#"{enterprise}:manager eq "M1""#), true),
        (r#"department eq "finance""#.to_owned(), false),
        (r#"userName eq "a\" or userName pr or title eq \"b""#.to_owned(), false),
        (r#"title gt 5"#.to_owned(), false),
    ];
    for (text, expected) in table {
        let filter = Filter::parse(&text, Type::User).unwrap_or_else(|fault| panic!("{text}: {fault:?}"));
        assert_eq!(filter.matches(&jane()), expected, "{text}");
    }
}

#[test]
fn what_is_no_filter_or_too_much_of_one_is_refused() {
    let deep = format!("{}title pr{}", "(".repeat(5_000), ")".repeat(5_000));
    let nested = format!("{}title pr{}", "not (".repeat(17), ")".repeat(17));
    let wide = vec!["a pr"; 129].join(" or ");
    let long = format!(r#"title eq "{}""#, "x".repeat(5_000));
    let texts = [
        "",
        " ",
        "title",
        "title eq",
        "title eq x",
        r#"title eq "x"#,
        r#"title zz "x""#,
        "title pr pr",
        "(title pr",
        "title pr)",
        "title pr and",
        "and title pr",
        "title pr or or title pr",
        "emails[",
        "emails[]",
        "emails[type pr",
        r#""x" eq "y""#,
        "a.b.c pr",
        "not title pr",
        "1x pr",
        r#"userName eq "x"; DROP TABLE users"#,
        r#"userName eq 'x'"#,
        "a pr b pr",
        r#"title eq "\u12""#,
        "\u{0}",
        "title\tpr",
        r#"title eq "a" "b""#,
        &deep,
        &nested,
        &wide,
        &long,
    ];
    for text in texts {
        assert!(Filter::parse(text, Type::User).is_err(), "{}", text.chars().take(60).collect::<String>());
    }
    assert!(Filter::parse(&format!("{}title pr{}", "(".repeat(16), ")".repeat(16)), Type::User).is_ok());
}

#[test]
fn what_must_equal_is_known_without_looking_at_everybody() {
    let wants = |text: &str, name: &str| Filter::parse(text, Type::User).unwrap().wants(name).map(str::to_owned);
    assert_eq!(wants(r#"userName eq "x""#, "userName").as_deref(), Some("x"));
    assert_eq!(wants(r#"active eq true and username eq "x""#, "userName").as_deref(), Some("x"));
    assert_eq!(wants(r#"userName eq "x" or active eq true"#, "userName"), None);
    assert_eq!(wants(r#"not (userName eq "x")"#, "userName"), None);
    assert_eq!(wants(r#"userName sw "x""#, "userName"), None);
}

#[test]
fn paths_of_operations_name_an_attribute_values_of_it_and_a_part() {
    let target = Target::parse(r#"emails[type eq "work"].value"#, Type::User).unwrap();
    assert_eq!((target.path.name.as_str(), target.path.part.as_deref()), ("emails", Some("value")));
    assert!(target.among.is_some());
    let whole = Target::parse(schema::ENTERPRISE, Type::User).unwrap();
    assert!(whole.path.extension && whole.path.name.is_empty());
    for bad in
        ["", "emails[type", "emails[type pr].", "emails[type pr]x", "a.b.c", "emails.value[type pr]", "[a pr]", "a b"]
    {
        assert!(Target::parse(bad, Type::User).is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_fail_otherwise_than_by_saying_so(text in "(?s).{0,200}") {
        if let Ok(filter) = Filter::parse(&text, Type::User) {
            let _ = filter.matches(&jane());
        }
        let _ = Target::parse(&text, Type::Group);
    }

    #[test]
    fn what_looks_like_a_filter_neither(words in proptest::collection::vec(
        prop::sample::select(vec!["(", ")", "[", "]", "and", "or", "not", "title", "emails", "pr", "eq",
            "\"x\"", "true", ".", "\""]), 0..40)
    ) {
        if let Ok(filter) = Filter::parse(&words.join(" "), Type::User) {
            let _ = filter.matches(&jane());
        }
    }
}

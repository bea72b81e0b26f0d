//! The JSON Schema of rule sets against the examples and against the model that parses them.
use std::collections::BTreeSet;

use gateway::config::{Format, RuleSetFile};
use serde_json::{Value, json};

const SCHEMA: &str = include_str!("../schema/rules.schema.json");
const EXAMPLES: [&str; 5] = [
    include_str!("../examples/rules.toml"),
    include_str!("../examples/rules-objects.toml"),
    include_str!("../examples/rules-internet.toml"),
    include_str!("../examples/rules-directions.toml"),
    include_str!("../examples/rules.json"),
];

fn schema() -> Value {
    serde_json::from_str(SCHEMA).expect("the schema is JSON")
}

fn value(text: &str) -> Value {
    match Format::of(text) {
        Format::Json => serde_json::from_str(text).expect("JSON"),
        Format::Toml => toml::from_str(text).expect("TOML"),
    }
}

/// As much of JSON Schema as the schema uses; a keyword that is not known here fails.
fn faults(root: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (keyword, rule) in schema.as_object().expect("a schema is an object") {
        match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" => {}
            "$ref" => {
                let name = rule.as_str().expect("a string").trim_start_matches("#/$defs/");
                found.extend(faults(root, &root["$defs"][name], value, at));
            }
            "type" => {
                let is = |kind: &Value| match kind.as_str().expect("a string") {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "integer" => value.is_i64() || value.is_u64(),
                    "boolean" => value.is_boolean(),
                    other => panic!("type {other}"),
                };
                let fits = rule
                    .as_array()
                    .map_or_else(|| is(rule), |kinds| kinds.iter().any(is));
                found.extend((!fits).then(|| format!("{at}: not of type {rule}")));
            }
            "enum" => {
                let fits = rule.as_array().expect("a list").contains(value);
                found.extend((!fits).then(|| format!("{at}: not one of {rule}")));
            }
            "pattern" => {
                assert_eq!(rule, "^[0-2][0-9]:[0-5][0-9]$", "the only pattern");
                let bytes = value.as_str().unwrap_or_default().as_bytes();
                let fits = matches!(bytes, [b'0'..=b'2', b'0'..=b'9', b':', b'0'..=b'5', b'0'..=b'9']);
                found.extend((!fits).then(|| format!("{at}: no time")));
            }
            "minItems" => found
                .extend((value.as_array().is_some_and(Vec::is_empty)).then(|| format!("{at}: empty list"))),
            "items" => {
                let items = value.as_array().into_iter().flatten().enumerate();
                found.extend(items.flat_map(|(n, item)| faults(root, rule, item, &format!("{at}[{n}]"))));
            }
            "anyOf" => {
                let fits = rule
                    .as_array()
                    .expect("a list")
                    .iter()
                    .any(|one| faults(root, one, value, at).is_empty());
                found.extend((!fits).then(|| format!("{at}: fits no alternative")));
            }
            "required" => {
                let missing = rule
                    .as_array()
                    .expect("a list")
                    .iter()
                    .filter(|key| value.get(key.as_str().expect("a string")).is_none());
                found.extend(missing.map(|key| format!("{at}: no {key}")));
            }
            "properties" => {
                for (key, inner) in value.as_object().into_iter().flatten() {
                    match rule.get(key) {
                        Some(rule) => found.extend(faults(root, rule, inner, &format!("{at}.{key}"))),
                        None => found.push(format!("{at}: unknown key {key}")),
                    }
                }
            }
            "additionalProperties" => assert_eq!(rule, false),
            other => panic!("keyword {other}"),
        }
    }
    found
}

#[test]
fn examples_fit_the_schema_and_the_model() {
    for text in EXAMPLES {
        let schema = schema();
        assert_eq!(
            faults(&schema, &schema, &value(text), "file"),
            Vec::<String>::new()
        );
        RuleSetFile::parse("example", text).expect("an example is right");
    }
}

/// What either refuses, the other refuses too: unknown keys, missing keys, wrong types.
#[test]
fn schema_and_model_refuse_the_same() {
    let schema = schema();
    let rule = json!({ "name": "r", "action": "allow" });
    let with = |key: &str, value: Value| {
        let mut rule = rule.clone();
        rule[key] = value;
        json!({ "rule": [rule] })
    };
    let cases = [
        json!({ "rules": [] }),
        json!({ "rule": [{ "name": "r" }] }),
        json!({ "rule": [{ "action": "allow" }] }),
        with("action", json!("permit")),
        with("log", json!("yes")),
        with("lag", json!(true)),
        with("source", json!([])),
        with("source", json!({})),
        with("destination", json!(10)),
        with("schedule", json!(["a"])),
        json!({ "address": [{ "name": "a" }] }),
        json!({ "schedule": [{ "name": "a" }] }),
        json!({ "site_group": [{ "name": "a" }] }),
        json!({ "site_group": [{ "name": "a", "members": "b" }] }),
        json!({ "service": [{ "members": "b" }] }),
    ];
    for case in cases {
        assert!(
            !faults(&schema, &schema, &case, "file").is_empty(),
            "the schema takes {case}"
        );
        assert!(
            RuleSetFile::parse("case", &case.to_string()).is_err(),
            "the model takes {case}"
        );
    }
}

/// Every key that the schema names is one that the model knows, and the other way round: serde names the keys that it
/// expects when it meets an unknown one.
#[test]
fn schema_and_model_have_the_same_keys() {
    let schema = schema();
    let keys = |table: &Value| -> BTreeSet<String> {
        table["properties"]
            .as_object()
            .expect("keys")
            .keys()
            .cloned()
            .collect()
    };
    let expected = |text: &str| -> BTreeSet<String> {
        let fault = RuleSetFile::parse("keys", text)
            .expect_err("an unknown key")
            .to_string();
        let (_, list) = fault
            .split_once("expected one of ")
            .expect("serde lists the keys");
        list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    assert_eq!(keys(&schema), expected("{\"?\": 1}"));
    for table in ["address", "service", "site_group", "schedule", "rule"] {
        let known = expected(&format!("{{\"{table}\": [{{\"?\": 1}}]}}"));
        assert_eq!(keys(&schema["$defs"][table]), known, "{table}");
    }
}

#[test]
fn both_formats_say_the_same() {
    for text in EXAMPLES {
        let file = RuleSetFile::parse("example", text).expect("right");
        let [toml, json] = [Format::Toml, Format::Json].map(|format| file.write(format));
        assert_eq!(
            (Format::of(&toml), Format::of(&json)),
            (Format::Toml, Format::Json)
        );
        for written in [toml, json] {
            let again = RuleSetFile::parse("written", &written).expect("what is written can be read");
            assert_eq!(
                value(&again.write(Format::Json)),
                value(&file.write(Format::Json))
            );
            assert_eq!(again.rules.len(), file.rules.len());
        }
    }
}

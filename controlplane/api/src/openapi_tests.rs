//! The OpenAPI document against the code it describes and the manual.

use crate::routes::openapi_document;
use crate::sample::recording;
use serde_json::Value;
use sidetone_model::{CaptureTime, Hold, MerkleRoot, Proof, Retention};
use std::collections::BTreeSet;

fn document() -> Value {
    serde_json::from_str(&openapi_document()).unwrap()
}

/// Follows `$ref`, and takes the schema that is not null out of a choice.
fn resolved<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    if let Some(reference) = schema["$ref"].as_str() {
        return resolved(document, document.pointer(reference.trim_start_matches('#')).expect(reference));
    }
    match schema["oneOf"].as_array() {
        Some(choices) if choices.iter().any(|choice| choice["type"] == "null") => {
            resolved(document, choices.iter().find(|choice| choice["type"] != "null").unwrap())
        }
        _ => schema,
    }
}

/// Every field of `value` is in `schema` and the other way round, all the way down; enums hold the value.
fn check(document: &Value, schema: &Value, value: &Value, at: &str) {
    let schema = resolved(document, schema);
    match value {
        Value::Object(fields) if schema["additionalProperties"].is_object() => {
            for (name, field) in fields {
                check(document, &schema["additionalProperties"], field, &format!("{at}.{name}"));
            }
        }
        Value::Object(fields) => {
            let described: BTreeSet<_> =
                schema["properties"].as_object().unwrap_or_else(|| panic!("{at}: {schema}")).keys().collect();
            assert_eq!(fields.keys().collect::<BTreeSet<_>>(), described, "{at}");
            for (name, field) in fields {
                check(document, &schema["properties"][name], field, &format!("{at}.{name}"));
            }
        }
        Value::Array(items) => {
            for item in items {
                check(document, &schema["items"], item, &format!("{at}[]"));
            }
        }
        Value::Null => {}
        scalar => {
            let actual = match scalar {
                Value::String(_) => "string",
                Value::Bool(_) => "boolean",
                number if number.is_f64() => "number",
                _ => "integer",
            };
            let types = &schema["type"];
            let fits = types == actual || types.as_array().is_some_and(|types| types.iter().any(|kind| kind == actual));
            assert!(fits, "{at}: {scalar} is {actual}, and described as {schema}");
            if let Some(values) = schema["enum"].as_array() {
                assert!(values.contains(scalar), "{at}: {scalar} is not among {values:?}");
            }
            if let Some(choices) = schema["oneOf"].as_array() {
                assert!(
                    choices.iter().any(|choice| choice["enum"][0] == *scalar),
                    "{at}: {scalar} is none of {choices:?}"
                );
            }
        }
    }
}

#[test]
fn the_recording_schema_describes_the_recording_document() {
    let document = document();
    let schema = &document["components"]["schemas"]["Recording"];
    let mut recording = recording(1);
    recording.annotations.tags.insert("case".into(), "17".into());
    recording.annotations.hold = Some(Hold { reason: "court".into(), by: "Ada".into(), at: CaptureTime(5) });
    recording.annotations.retention = Some(Retention { class: "long".into(), expires_at: Some(CaptureTime(9)) });
    recording.proof = Some(Proof { chunks: 7, bytes: 8, merkle_root: MerkleRoot([1; 32]) });
    check(&document, schema, &serde_json::to_value(recording).unwrap(), "recording");
}

/// Method, path and description of each operation.
fn operations(document: &Value) -> impl Iterator<Item = (&String, &String, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    paths.iter().flat_map(|(path, item)| {
        item.as_object().unwrap().iter().map(move |(method, operation)| (method, path, operation))
    })
}

#[test]
fn every_address_of_the_manual_is_described_and_the_other_way_round() {
    let manual = include_str!("../../../docs/api.md");
    let in_manual: BTreeSet<_> = manual
        .lines()
        .filter_map(|line| line.strip_prefix("### `")?.split('`').next())
        .filter(|heading| heading.contains(' '))
        .map(str::to_owned)
        .collect();
    let document = document();
    let described: BTreeSet<_> =
        operations(&document).map(|(method, path, _)| format!("{} {path}", method.to_uppercase())).collect();
    assert_eq!(in_manual, described);
    assert!(described.len() >= 10, "{described:?}");
}

#[test]
fn every_query_parameter_is_in_the_manual() {
    let manual = include_str!("../../../docs/api.md");
    let document = document();
    for (_, path, operation) in operations(&document) {
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let name = parameter["name"].as_str().unwrap();
            assert!(manual.contains(&format!("`{name}`")), "{path}: `{name}` is not in docs/api.md");
        }
    }
}

#[test]
fn every_operation_says_what_it_does_and_how_it_is_refused() {
    let document = document();
    for (method, path, operation) in operations(&document) {
        let said = operation["summary"].as_str().or(operation["description"].as_str());
        assert!(said.is_some_and(|text| text.len() > 10), "{method} {path}");
        assert!(operation["responses"]["200"].is_object(), "{method} {path}");
    }
    // Every reference in the document leads somewhere.
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|field| references(field, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(!found.is_empty());
    for reference in found {
        assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
    }
}

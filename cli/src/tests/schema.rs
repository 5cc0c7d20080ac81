// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether JSON is what docs/schema says: the part of JSON Schema (2020-12) that these files use. A
//! word that is not known here is an error, so nothing goes unchecked.

use std::path::Path;

use serde_json::{Map, Value};

/// What says nothing about values.
const NOTES: &[&str] = &["$schema", "$id", "$defs", "title", "description"];

/// Fails unless `value` is what the command's schema says.
pub fn check(command: &str, value: &Value) {
    let schema = read(command);
    if let Err(why) = valid(&schema, &schema, value, "") {
        panic!("docs/schema/{command}.json: {why}\n{value:#}");
    }
}

fn read(command: &str) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schema");
    let text = std::fs::read_to_string(folder.join(format!("{command}.json"))).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn valid(root: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let schema = schema.as_object().ok_or(format!("{at}: not a schema"))?;
    for (word, rule) in schema {
        let wrong = |what: &str| Err(format!("{at}: {what}: {value}"));
        match word.as_str() {
            note if NOTES.contains(&note) => {}
            "$ref" => {
                let path = rule.as_str().and_then(|text| text.strip_prefix('#')).unwrap();
                valid(root, root.pointer(path).ok_or(format!("no {path}"))?, value, at)?;
            }
            "type" => {
                let types = match rule {
                    Value::Array(types) => types.as_slice(),
                    one => std::slice::from_ref(one),
                };
                if !types.iter().any(|name| is_of_type(name.as_str().unwrap(), value)) {
                    return wrong(&format!("not of type {rule}"));
                }
            }
            "const" if rule != value => return wrong("another constant"),
            "enum" if !rule.as_array().unwrap().contains(value) => return wrong("not listed"),
            "const" | "enum" => {}
            "minimum" => {
                if value.as_f64().is_some_and(|number| number < rule.as_f64().unwrap()) {
                    return wrong("too small");
                }
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    valid(root, rule, item, &format!("{at}/{index}"))?;
                }
            }
            "anyOf" => {
                let all: Vec<_> =
                    rule.as_array().unwrap().iter().map(|it| valid(root, it, value, at)).collect();
                if all.iter().all(Result::is_err) {
                    return wrong(&format!("none fits: {all:?}"));
                }
            }
            "properties" | "additionalProperties" => {}
            "required" => {
                for name in rule.as_array().unwrap() {
                    if value.is_object() && value.get(name.as_str().unwrap()).is_none() {
                        return wrong(&format!("no member {name}"));
                    }
                }
            }
            _ => return Err(format!("{at}: unknown word {word}")),
        }
    }
    members(root, schema, value, at)
}

fn members(
    root: &Value,
    schema: &Map<String, Value>,
    value: &Value,
    at: &str,
) -> Result<(), String> {
    let nothing = Map::new();
    let known = schema.get("properties").and_then(Value::as_object).unwrap_or(&nothing);
    for (name, member) in value.as_object().into_iter().flatten() {
        let at = format!("{at}/{name}");
        match (known.get(name), schema.get("additionalProperties")) {
            (Some(rule), _) | (None, Some(rule @ Value::Object(_))) => {
                valid(root, rule, member, &at)?;
            }
            // Documented as open to new members, but this version has only those that are named.
            (None, _) if schema.contains_key("properties") => {
                return Err(format!("{at}: a member that is not documented"));
            }
            (None, _) => {}
        }
    }
    Ok(())
}

fn is_of_type(name: &str, value: &Value) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => panic!("no type {name}"),
    }
}

#[test]
fn what_is_missing_added_or_of_another_type_is_found() {
    let schema = serde_json::json!({
        "type": "object", "required": ["a"],
        "properties": { "a": { "type": ["integer", "null"], "minimum": 1 } },
    });
    let fits =
        |text: &str| valid(&schema, &schema, &serde_json::from_str(text).unwrap(), "").is_ok();
    assert!(fits(r#"{"a": 1}"#) && fits(r#"{"a": null}"#));
    for wrong in ["{}", r#"{"a": 0}"#, r#"{"a": "1"}"#, r#"{"a": 1, "b": 2}"#, "[]"] {
        assert!(!fits(wrong), "{wrong}");
    }
}

/// The lists of members in docs/probe.md and the schema are of the same output.
#[test]
fn a_probe_is_what_its_schema_says() {
    let machine = super::Machine::new([super::small(1)]);
    let ran = machine.run(&["probe", "--json"]);
    assert_eq!(ran.json().as_array().unwrap().len(), 1);
    check("probe", &ran.json());
    let mut machine = machine;
    machine.taken = vec![1];
    check("probe", &machine.run(&["probe", "--json"]).json());
}

/// Histories of the library, of devices and groups, in migrations that fail at each call in turn.
#[test]
fn histories_are_what_their_schema_says() {
    use vfiomig::device::DeviceOptions;
    use vfiomig::session::{LoadOptions, SaveOptions, SaveStatus};
    use vfiomig::{Code, Device};
    use vfiomig_sim::{Effect, Op, Sim};

    let mut seen = std::collections::BTreeSet::new();
    let mut look = |text: String| {
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            check("history", &line);
            seen.insert(line["event"].as_str().unwrap().to_owned());
        }
    };
    let open = |sim: &Sim| Device::new(sim.transport(), DeviceOptions::default()).unwrap();
    for (op, nth) in
        [(Op::Any, 1000), (Op::SetState, 2), (Op::Read, 1), (Op::Write, 1), (Op::Reset, 1)]
    {
        let [here, there] = [1, 2].map(|seed| Sim::new(super::small(seed)).unwrap());
        let (source, target) = (open(&here), open(&there));
        for sim in [&here, &there] {
            sim.inject(op, nth, libc::EIO, Effect::Once);
        }
        let migrate = || -> vfiomig::Result<()> {
            let mut save = source.save(SaveOptions::default())?;
            let mut load = target.load(LoadOptions::default())?;
            let mut buf = vec![0; 1 << 20];
            loop {
                let next = save.next(&mut buf)?;
                load.push(&buf[..next.len])?;
                match next.status {
                    SaveStatus::More => {}
                    SaveStatus::Drained => save.stop()?,
                    SaveStatus::End => break,
                }
            }
            load.commit()?;
            save.finish(vfiomig::session::Ending::Release)?;
            target.run()
        };
        let failed = migrate().err().map(|error| error.code());
        assert_eq!(failed, (nth < 1000 && op != Op::Reset).then_some(Code::Io), "{op:?}");
        let _ = source.reset();
        for device in [&source, &target] {
            look(device.history().unwrap().json().to_string());
        }
    }
    let group =
        vfiomig::Group::new(vfiomig::group::GroupOptions::new(vfiomig::group::Role::Source));
    let group = group.unwrap();
    let sim = Sim::new(super::small(1)).unwrap();
    group.add_save(&open(&sim), SaveOptions::default()).unwrap();
    group.begin().unwrap();
    group.stop().unwrap();
    look(group.history().unwrap().json().to_string());
    for event in ["history", "driver_failed", "recovered", "reset", "error", "committed", "phase"] {
        assert!(seen.contains(event), "no {event}: {seen:?}");
    }
    // Every name that there is.
    let schema = read("history");
    let names = schema.pointer("/$defs/event/properties/event/enum").unwrap();
    let all: Vec<&str> = vfiomig::history::What::ALL.iter().map(|what| what.name()).collect();
    assert_eq!(names, &serde_json::json!(all));
}

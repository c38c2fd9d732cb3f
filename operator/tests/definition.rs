//! The generated definition, its copies in the repository, and the rights that the chart grants.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests; clippy.toml only covers the tests themselves

fn file(path: &str) -> String {
    std::fs::read_to_string(format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"))).unwrap_or_default()
}

#[test]
fn the_definition_in_crds_is_what_the_types_say() {
    assert!(
        file("crds/stockpipelines.yaml") == operator::crd::yaml().unwrap(),
        "crds/stockpipelines.yaml is stale: run `make crd`"
    );
}

#[test]
fn the_chart_installs_the_same_definition() {
    assert!(
        file("charts/stockpipeline/files/stockpipelines.yaml") == file("crds/stockpipelines.yaml"),
        "the chart's definition is stale: run `make crd`"
    );
}

#[test]
fn the_definition_knows_the_symbols_that_the_programs_know() {
    assert!(
        file("crds/stockpipelines.yaml").contains(wire::symbol::SYMBOL_PATTERN),
        "Company::symbol's rule differs from wire::SYMBOL_PATTERN"
    );
}

/// The README's table of fields is the first thing a user reads; a field that is not in it does not exist for them.
#[test]
fn the_readme_names_every_field_of_the_resource() {
    let readme = file("README.md");
    let definition = serde_json::to_value(operator::crd::definition()).unwrap();
    let spec = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let mut missing = Vec::new();
    let mut fields = Vec::new();
    collect(spec, "", &mut fields);
    for field in fields {
        if !readme.contains(&format!("`{field}`")) {
            missing.push(field);
        }
    }
    assert!(missing.is_empty(), "README.md does not name {missing:?}");
}

/// Paths of all fields, down to the one `template`, which the README explains once.
fn collect(schema: &serde_json::Value, path: &str, fields: &mut Vec<String>) {
    let properties = schema["properties"].as_object().or_else(|| schema["items"]["properties"].as_object());
    let Some(properties) = properties else { return };
    for (name, property) in properties {
        let list = if property["type"] == "array" { "[]" } else { "" };
        let field = if path.is_empty() { format!("{name}{list}") } else { format!("{path}.{name}{list}") };
        if name == "template" {
            for name in property["properties"].as_object().unwrap().keys() {
                let field = format!("template.{name}");
                if !fields.contains(&field) {
                    fields.push(field);
                }
            }
            continue;
        }
        fields.push(field.clone());
        // Peers of Kubernetes' own.
        if name.ends_with("From") {
            continue;
        }
        collect(property, &field, fields);
    }
}

/// A right the operator lacks shows only on the day it is needed, so the chart's rules are read here.
#[test]
fn the_chart_grants_what_every_kind_of_child_needs() {
    let rules = file("charts/stockpipeline/templates/_helpers.tpl");
    for verb in ["list", "watch", "patch", "delete"] {
        let rule = rules.split("apiGroups").find(|rule| rule.contains("persistentvolumeclaims")).unwrap_or_default();
        assert!(rule.contains(verb), "the rule of persistentvolumeclaims lacks {verb}");
    }
    let logs = rules.split("apiGroups").find(|rule| rule.contains("pods/log")).unwrap_or_default();
    assert!(logs.contains("get"), "a full disk is read of in logs");
    let kinds = [
        "secrets",
        "configmaps",
        "services",
        "networkpolicies",
        "podmonitors",
        "certificates",
        "poddisruptionbudgets",
        "statefulsets",
        "deployments",
        "ingresses",
        "httproutes",
    ];
    for resource in kinds {
        let rule = rules
            .split("apiGroups")
            .find(|rule| rule.contains(resource))
            .unwrap_or_else(|| panic!("no rule names {resource}"));
        for verb in ["get", "list", "watch", "create", "patch", "delete"] {
            assert!(rule.contains(verb), "the rule of {resource} lacks {verb}");
        }
    }
}

//! Each example, run through the real plan and the real builders, against the reviewed YAML of all its children.
//! `make golden` writes the files anew; read the diff before you commit it.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests; clippy.toml only covers the tests themselves

use kube::Resource;
use operator::crd::StockPipeline;
use operator::objects::{self, Objects};
use operator::plan::{Images, Plan};
use operator::read::Credentials;
use serde::Serialize;

fn images() -> Images {
    Images {
        workloads: "registry.example.com/workloads:1".into(),
        broker: "docker.io/library/rabbitmq:4.0-management".into(),
        database: "docker.io/library/mongo:7.0".into(),
        edge: "docker.io/nginxinc/nginx-unprivileged:1.28".into(),
        pull_policy: None,
    }
}

fn credentials() -> Credentials {
    Credentials {
        broker_password: "hush-broker".into(),
        broker_cookie: "hush-cookie".into(),
        database_keyfile: "hush-keyfile".into(),
        database_administrator: "hush-administrator".into(),
        database_application: "hush-application".into(),
        database_monitoring: "hush-monitoring".into(),
    }
}

/// Reads an example as the API server would hand it out.
fn read(example: &str) -> StockPipeline {
    let path = format!("{}/../examples/{example}.yaml", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let mut pipeline: StockPipeline = serde_saphyr::from_str(&text).unwrap();
    pipeline.meta_mut().namespace = Some("markets".into());
    pipeline.meta_mut().uid = Some("00000000-0000-4000-8000-000000000000".into());
    pipeline
}

fn build(pipeline: &StockPipeline) -> Objects {
    objects::build(&Plan::new(pipeline, &images(), credentials()).unwrap())
}

fn documents(objects: Objects) -> String {
    let Objects { secrets, config_maps, services, pod_disruption_budgets, stateful_sets, deployments } = objects;
    let mut text = String::new();
    let mut add = |document: String| text.push_str(&format!("---\n{document}"));
    secrets.iter().for_each(|object| add(yaml(object)));
    config_maps.iter().for_each(|object| add(yaml(object)));
    services.iter().for_each(|object| add(yaml(object)));
    pod_disruption_budgets.iter().for_each(|object| add(yaml(object)));
    stateful_sets.iter().for_each(|object| add(yaml(object)));
    deployments.iter().for_each(|object| add(yaml(object)));
    text
}

fn yaml(object: &impl Serialize) -> String {
    let mut text = serde_saphyr::to_string(object).unwrap();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

fn matches_its_golden_file(example: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("golden");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(example, documents(build(&read(example)))));
}

#[test]
fn the_minimal_example_builds_what_was_reviewed() {
    matches_its_golden_file("minimal");
}

#[test]
fn the_demo_example_builds_what_was_reviewed() {
    matches_its_golden_file("demo");
}

#[test]
fn the_symbols_example_builds_what_was_reviewed() {
    matches_its_golden_file("symbols");
}

#[test]
fn the_production_example_builds_what_was_reviewed() {
    matches_its_golden_file("production");
}

#[test]
fn every_example_has_a_golden_file() {
    let folder = |path: &str, ending: &str| {
        let path = format!("{}/{path}", env!("CARGO_MANIFEST_DIR"));
        let mut names: Vec<String> = std::fs::read_dir(path)
            .unwrap()
            .filter_map(|entry| Some(entry.unwrap().file_name().to_str()?.strip_suffix(ending)?.to_owned()))
            .collect();
        names.sort();
        names
    };
    assert_eq!(folder("../examples", ".yaml"), folder("tests/golden", ".snap"));
}

/// The template hash decides whether Kubernetes replaces pods.
fn templates_of_sets(objects: &Objects) -> Vec<String> {
    objects.stateful_sets.iter().map(|set| yaml(&set.spec.as_ref().unwrap().template)).collect()
}

#[test]
fn the_number_of_replicas_is_in_no_pod_template_of_broker_and_database() {
    let one = read("demo");
    let mut other = one.clone();
    other.spec.broker.replicas = 3;
    other.spec.database.replicas = 5;
    assert_eq!(templates_of_sets(&build(&one)), templates_of_sets(&build(&other)));
}

#[test]
fn a_password_is_in_no_pod_template_and_in_no_config_map() {
    let objects = build(&read("production"));
    let mut text = templates_of_sets(&objects).join("");
    objects.deployments.iter().for_each(|deployment| text.push_str(&yaml(deployment)));
    objects.config_maps.iter().for_each(|config_map| text.push_str(&yaml(config_map)));
    let found: Vec<&str> = text.lines().filter(|line| line.contains("hush")).collect();
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn a_new_company_changes_no_object_of_the_others() {
    let before = build(&read("demo"));
    let mut pipeline = read("demo");
    pipeline.spec.companies.push(operator::crd::Company { symbol: "NVDA".into(), rate: None, price: None });
    let after = build(&pipeline);
    for old in &before.deployments {
        let new = after.deployments.iter().find(|new| new.metadata.name == old.metadata.name).unwrap();
        assert_eq!(yaml(old), yaml(new));
    }
    assert_eq!(templates_of_sets(&before), templates_of_sets(&after));
}

#[test]
fn every_pod_passes_the_restricted_pod_security_standard_whatever_its_template_says() {
    for example in ["minimal", "demo", "symbols", "production"] {
        let objects = build(&read(example));
        let templates = objects
            .stateful_sets
            .iter()
            .map(|set| &set.spec.as_ref().unwrap().template)
            .chain(objects.deployments.iter().map(|deployment| &deployment.spec.as_ref().unwrap().template));
        for template in templates {
            let pod = template.spec.as_ref().unwrap();
            let security = pod.security_context.as_ref().unwrap();
            assert_eq!(security.run_as_non_root, Some(true));
            assert_eq!(security.seccomp_profile.as_ref().unwrap().type_, "RuntimeDefault");
            assert_eq!(pod.automount_service_account_token, Some(false));
            for container in &pod.containers {
                let security = container.security_context.as_ref().unwrap();
                assert_eq!(security.allow_privilege_escalation, Some(false));
                assert_eq!(security.read_only_root_filesystem, Some(true));
                assert_eq!(security.capabilities.as_ref().unwrap().drop.as_deref(), Some(&["ALL".to_owned()][..]));
            }
        }
    }
}

//! Each example, run through the real plan and the real builders, against the reviewed YAML of all its children.
//! `make golden` writes the files anew; read the diff before you commit it.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests; clippy.toml only covers the tests themselves

use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{Resource, ResourceExt};
use operator::apply;
use operator::certificates::x509::Pair;
use operator::certificates::{self, Authority, Server, Tls};
use operator::crd::{IssuerReference, StockPipeline};
use operator::credentials::{Credentials, PartCredentials};
use operator::names::{self, Part};
use operator::objects::{self, DatabaseForm, Objects};
use operator::plan::{Images, Plan};
use serde::Serialize;
use serde_json::json;

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
    let of = |part, data: serde_json::Value| {
        let secret: Secret = serde_json::from_value(json!({"stringData": data})).unwrap();
        let data = secret.string_data.unwrap().into_iter().map(|(key, text)| (key, ByteString(text.into_bytes())));
        PartCredentials::read(part, &Secret { data: Some(data.collect()), ..Secret::default() }).unwrap()
    };
    let broker = json!({
        "password": "hush-broker", "application-password": "hush-broker-application", "erlang-cookie": "hush-cookie",
    });
    let database = json!({
        "keyfile": "hush-keyfile", "administrator-password": "hush-administrator",
        "application-password": "hush-application", "monitoring-password": "hush-monitoring",
    });
    Credentials { broker: of(Part::Broker, broker), database: of(Part::Database, database) }
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
    objects::build(&plan(pipeline))
}

fn plan(pipeline: &StockPipeline) -> Plan {
    let mut plan = Plan::new(pipeline, &images(), credentials()).unwrap();
    plan.operator_namespace = "stockpipeline".into();
    // As on a cluster with the Gateway API.
    plan.edge_way.routes_are_served = true;
    plan.tls = (!certificates::parts(pipeline, false).is_empty()).then(|| tls(pipeline));
    plan
}

/// What the operator makes anew for each pipeline, or cert-manager has issued.
fn tls(pipeline: &StockPipeline) -> Tls {
    let trusted: String = include_str!("certificates/authority.crt").into();
    let pair = |of: &str| Pair { certificate: format!("certificate of {of}\n"), key: format!("hush-{of}\n") };
    let server = |part: Part| (part, Server { pair: pair(part.name()), trusted: trusted.clone() });
    let issuer = pipeline.spec.tls.issuer_ref.clone();
    let authority = Authority {
        pair: Pair { certificate: trusted.clone(), key: "hush-authority\n".into() },
        since: "2026-11-25T12:00:00Z".parse().unwrap(),
        trusted: trusted.clone(),
    };
    let authority = issuer.is_none().then_some(authority);
    let servers = certificates::parts(pipeline, false).into_iter().map(server).collect();
    Tls { issuer, authority, servers, ..Tls::default() }
}

fn documents(objects: Objects) -> String {
    let Objects {
        secrets,
        config_maps,
        services,
        network_policies,
        pod_disruption_budgets,
        stateful_sets,
        deployments,
        jobs,
        ingresses,
        http_routes,
        pod_monitors,
        certificates,
    } = objects;
    let mut text = String::new();
    let mut add = |document: String| text.push_str(&format!("---\n{document}"));
    secrets.iter().for_each(|object| add(yaml(object)));
    config_maps.iter().for_each(|object| add(yaml(object)));
    services.iter().for_each(|object| add(yaml(object)));
    network_policies.iter().for_each(|object| add(yaml(object)));
    pod_disruption_budgets.iter().for_each(|object| add(yaml(object)));
    stateful_sets.iter().for_each(|object| add(yaml(object)));
    deployments.iter().for_each(|object| add(yaml(object)));
    jobs.iter().for_each(|object| add(yaml(object)));
    ingresses.iter().for_each(|object| add(yaml(object)));
    http_routes.iter().for_each(|object| add(yaml(object)));
    pod_monitors.iter().for_each(|object| add(yaml(object)));
    certificates.iter().for_each(|object| add(yaml(object)));
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
    matches_golden_file(example, documents(build(&read(example))));
}

fn matches_golden_file(name: &str, text: String) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("golden");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
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
fn the_tls_example_builds_what_was_reviewed() {
    matches_its_golden_file("tls");
}

#[test]
fn an_issuer_of_cert_manager_is_asked_for_the_certificates_that_were_reviewed() {
    let mut pipeline = read("tls");
    pipeline.spec.tls.issuer_ref =
        Some(IssuerReference { name: "markets".into(), kind: "Issuer".into(), group: "cert-manager.io".into() });
    let objects = build(&pipeline);
    matches_golden_file("of-an-issuer", objects.certificates.iter().map(yaml).collect::<Vec<_>>().join("---\n"));
    let (own, issued) = (build(&read("tls")), objects);
    assert_eq!(templates_of_sets(&own), templates_of_sets(&issued));
    assert!(issued.secrets.iter().all(|secret| secret.type_.is_none()), "the certificates are cert-manager's to keep");
}

#[test]
fn a_renewed_certificate_changes_no_pod_template() {
    let before = plan(&read("tls"));
    let mut after = before.clone();
    for server in after.tls.as_mut().unwrap().servers.values_mut() {
        server.pair = Pair { certificate: "another\n".into(), key: "another\n".into() };
    }
    let templates = |plan: &Plan| {
        let objects = objects::build(plan);
        let deployments =
            objects.deployments.iter().map(|deployment| yaml(&deployment.spec.as_ref().unwrap().template));
        templates_of_sets(&objects).into_iter().chain(deployments).collect::<Vec<_>>()
    };
    assert_eq!(templates(&before), templates(&after));
}

#[test]
fn a_program_gets_whom_it_trusts_and_no_key() {
    let objects = build(&read("tls"));
    for deployment in objects.deployments {
        let text = yaml(&deployment);
        let edge = deployment.metadata.name.unwrap() == "encrypted-edge";
        assert!(text.contains("tls.key") == edge && !text.contains("tls-combined.pem"), "{text}");
        assert_eq!(text.contains("/run/tls"), !edge);
    }
}

#[test]
fn the_external_example_builds_what_was_reviewed() {
    matches_its_golden_file("external");
}

#[test]
fn the_ingress_example_builds_what_was_reviewed() {
    matches_its_golden_file("ingress");
}

#[test]
fn the_gateway_example_builds_what_was_reviewed() {
    matches_its_golden_file("gateway");
}

#[test]
fn a_broker_keeps_a_fifth_of_its_volumes_free_and_not_of_what_they_are_to_become() {
    let reserve = |size: &str, volume: Option<f64>| {
        let mut plan = plan(&read("minimal"));
        plan.broker.storage.size = size.into();
        plan.broker_volume = volume;
        let configuration =
            objects::build(&plan).config_maps.iter().find_map(|map| map.data.as_ref()?.get("rabbitmq.conf").cloned());
        let line = configuration
            .unwrap()
            .lines()
            .find_map(|line| line.strip_prefix("disk_free_limit.absolute = ").map(str::to_owned));
        line.unwrap()
    };
    assert_eq!(reserve("1G", None), "200000000");
    assert_eq!(reserve("10G", Some(1e9)), "200000000", "the storage class may refuse the growth");
    assert_eq!(reserve("1G", Some(5e9)), "200000000", "a claim may have got more than it asked for");
}

/// Three nodes become one, and the last of them leaves.
fn leaving() -> Objects {
    let mut plan = plan(&read("demo"));
    plan.broker_size.pods = 3;
    plan.broker_leaves = Some(2);
    objects::build(&plan)
}

#[test]
fn a_node_that_leaves_is_taken_out_by_the_job_that_was_reviewed() {
    let objects = leaving();
    matches_golden_file("of-a-leaving-node", yaml(&objects.jobs[0]));
    assert_eq!(objects.stateful_sets[0].spec.as_ref().unwrap().replicas, Some(3));
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
    let mut goldens = folder("tests/golden", ".snap");
    goldens.retain(|name| !name.starts_with("of-"));
    assert_eq!(folder("../examples", ".yaml"), goldens);
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

/// A new operator that builds another template replaces the pods of every broker and database there is. Whoever changes these
/// fingerprints gives the database, or the broker, a further form, so that the sets which exist keep theirs.
#[test]
fn another_version_of_the_operator_replaces_no_pod_of_broker_and_database() {
    let mut text = String::new();
    for (example, form) in FORMS.into_iter().flat_map(|form| EXAMPLES_OF_SETS.map(|example| (example, form))) {
        for set in objects::build(&Plan { database_form: form, ..plan(&read(example)) }).stateful_sets {
            let template = serde_json::to_string(&set.spec.unwrap().template).unwrap();
            let (name, fingerprint) = (set.metadata.name.unwrap(), objects::fingerprint(&template));
            text.push_str(&format!("{example} {name} {form:?} {fingerprint}\n"));
        }
    }
    matches_golden_file("of-templates", text);
}

const FORMS: [DatabaseForm; 2] = [DatabaseForm::First, DatabaseForm::Second];
const EXAMPLES_OF_SETS: [&str; 4] = ["demo", "minimal", "production", "symbols"];

#[test]
fn a_database_keeps_the_form_it_was_made_in_until_something_else_of_its_template_changes() {
    let pipeline = read("production");
    let of = |form| Plan { database_form: form, ..plan(&pipeline) };
    let live = |form| objects::build(&of(form)).stateful_sets.pop().unwrap();
    let mut scaled = pipeline.clone();
    scaled.spec.database.replicas = 5;
    let mut changed = pipeline.clone();
    changed.spec.database.template.image = Some("docker.io/library/mongo:8.0".into());
    for form in FORMS {
        let mut live = live(form);
        let of = |live: &StatefulSet, wish| DatabaseForm::of(Some(live), &[], &plan(wish));
        assert_eq!(of(&live, &pipeline), form, "an upgrade alone");
        assert_eq!(of(&live, &scaled), form, "another number of members");
        assert_eq!(of(&live, &changed), DatabaseForm::Second, "another image");

        let applied = apply::applied(&live);
        live.annotations_mut().insert(names::APPLIED.into(), applied);
        let template = &mut live.spec.as_mut().unwrap().template;
        template.spec.as_mut().unwrap().containers.push(Container { name: "somebodys".into(), ..Container::default() });
        assert_eq!(of(&live, &pipeline), form, "an upgrade of a set to which somebody has added something");
        assert_eq!(of(&live, &changed), DatabaseForm::Second, "another image of it");
    }
}

#[test]
fn while_its_set_is_made_anew_a_database_has_the_form_of_its_pods() {
    let pipeline = read("production");
    let pod = |form| {
        let built = objects::build(&Plan { database_form: form, ..plan(&pipeline) });
        let template = built.stateful_sets.into_iter().next_back().unwrap().spec.unwrap().template;
        let metadata = ObjectMeta { name: Some("trading-database-0".into()), ..template.metadata.unwrap() };
        Pod { metadata, ..Pod::default() }
    };
    let of = |pods: &[Pod]| DatabaseForm::of(None, pods, &plan(&pipeline));
    for form in FORMS {
        assert_eq!(of(&[pod(form)]), form);
    }
    let brokers = Pod {
        metadata: ObjectMeta { name: Some("trading-broker-0".into()), ..ObjectMeta::default() },
        ..Pod::default()
    };
    assert_eq!(of(&[brokers]), DatabaseForm::Second, "nobody's form has to be kept");
}

#[test]
fn a_password_is_in_no_pod_template_and_in_no_config_map() {
    let objects = build(&read("tls"));
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
    pipeline.spec.companies.push(operator::crd::Company::named("NVDA"));
    let after = build(&pipeline);
    for old in &before.deployments {
        let new = after.deployments.iter().find(|new| new.metadata.name == old.metadata.name).unwrap();
        assert_eq!(yaml(old), yaml(new));
    }
    assert_eq!(templates_of_sets(&before), templates_of_sets(&after));
}

/// Per Deployment of the consumers: its name, its pods, and whether a disruption budget selects the same pods.
fn consumers(pipeline: &StockPipeline) -> Vec<(String, i32, bool)> {
    let objects = build(pipeline);
    let consumers = objects
        .deployments
        .iter()
        .filter(|deployment| deployment.metadata.name.as_ref().unwrap().contains("-consumer-"));
    consumers
        .map(|deployment| {
            let spec = deployment.spec.as_ref().unwrap();
            let mut budgets = objects.pod_disruption_budgets.iter().map(|budget| budget.spec.as_ref().unwrap());
            let protected = budgets.any(|budget| budget.selector.as_ref() == Some(&spec.selector));
            (deployment.metadata.name.clone().unwrap(), spec.replicas.unwrap(), protected)
        })
        .collect()
}

#[test]
fn each_company_has_the_consumers_it_asks_for_and_several_share_a_disruption_budget_of_their_own() {
    let mut pipeline = read("demo");
    let of = |company: &str, replicas: i32| (format!("demo-consumer-{company}"), replicas, replicas > 1);
    assert_eq!(consumers(&pipeline), [of("msft", 1), of("tsla", 1), of("aapl", 1)]);
    pipeline.spec.consumer.replicas = 2;
    pipeline.spec.companies[1].consumers = Some(1);
    pipeline.spec.companies[2].consumers = Some(3);
    assert_eq!(consumers(&pipeline), [of("msft", 2), of("tsla", 1), of("aapl", 3)]);
}

#[test]
fn a_consumer_that_replaces_another_is_up_before_that_one_ends() {
    for deployment in build(&read("demo")).deployments {
        let rolling = deployment.spec.unwrap().strategy.unwrap().rolling_update;
        if deployment.metadata.name.unwrap().contains("-consumer-") {
            assert_eq!(rolling.unwrap().max_unavailable, Some(IntOrString::Int(0)));
        }
    }
}

#[test]
fn a_duration_as_people_write_it_reaches_the_consumers_in_milliseconds() {
    let mut pipeline = read("demo");
    assert!(!documents(build(&pipeline)).contains(wire::env::FLUSH_AFTER), "unset: windows of exactly batchSize");
    for (text, milliseconds) in [("30s", "30000"), ("1m30s", "90000"), ("1.5s", "1500"), ("2h", "7200000")] {
        pipeline.spec.consumer.flush_after = Some(text.parse().unwrap());
        let objects = build(&pipeline);
        let consumer =
            objects.deployments.iter().find(|one| one.metadata.name.as_deref() == Some("demo-consumer-msft"));
        let pod = consumer.unwrap().spec.as_ref().unwrap().template.spec.as_ref().unwrap();
        let variables = pod.containers[0].env.as_ref().unwrap();
        let value = variables.iter().find(|variable| variable.name == wire::env::FLUSH_AFTER).unwrap().value.clone();
        assert_eq!(value.as_deref(), Some(milliseconds), "{text}");
    }
}

#[test]
fn every_pod_passes_the_restricted_pod_security_standard_whatever_its_template_says() {
    let mut worlds: Vec<Objects> =
        ["minimal", "demo", "symbols", "production", "external", "ingress", "gateway", "tls"]
            .iter()
            .map(|example| build(&read(example)))
            .collect();
    worlds.push(leaving());
    for objects in worlds {
        let templates = objects
            .stateful_sets
            .iter()
            .map(|set| &set.spec.as_ref().unwrap().template)
            .chain(objects.deployments.iter().map(|deployment| &deployment.spec.as_ref().unwrap().template))
            .chain(objects.jobs.iter().map(|job| &job.spec.as_ref().unwrap().template));
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

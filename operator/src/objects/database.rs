//! The MongoDB replica set: Secret, Service, StatefulSet, disruption budget.
//! Rule: the pods only start mongod; the replica set is initiated and looked after by `crate::database`, through the driver.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, KeyToPath, Secret, SecretVolumeSource, Volume};

use super::{Objects, certificates, pod};
use crate::certificates::key as tls_key;
use crate::credentials::{REPLICA_SET, key};
use crate::names::{self, Part};
use crate::plan::Plan;

pub(super) const PORT: u16 = 27017;
/// The container of a member.
pub(super) const SERVER: &str = "mongod";
/// User of the upstream image.
const USER: i64 = 999;

/// Adds the database's objects; none when somebody else runs it.
pub(super) fn build(plan: &Plan, objects: &mut Objects) {
    if plan.database.external.is_some() {
        return;
    }
    let selector = names::selector(&plan.name, Part::Database);
    let name = names::part(&plan.name, Part::Database);
    let credentials = names::credentials(&plan.name, Part::Database);
    let metadata = |name: &str| super::metadata(plan, name.to_owned(), &selector);

    objects.secrets.push(Secret {
        metadata: super::credentials_metadata(plan, Part::Database, &selector),
        data: Some(plan.secret(Part::Database)),
        ..Secret::default()
    });
    objects.services.push(super::peers_service(metadata(&name), &selector, &[("mongodb", PORT)]));
    objects.pod_disruption_budgets.push(super::disruption_budget(
        metadata(&name),
        &selector,
        plan.may_lose_one.database.unwrap_or(plan.database.replicas == 1),
    ));

    let tls = certificates::of_server(plan, Part::Database);
    let template = pod::template(pod::Pod {
        selector: &selector,
        annotations: BTreeMap::new(),
        user: USER,
        // On SIGTERM a primary steps down and serves its running operations for up to 15 s before it closes its files. Not longer than
        // needed: half of it is how long Kubernetes waits until it looks again whether a namespace is empty.
        grace: 30,
        container: container(plan, &name),
        image: &plan.images.database,
        pull_policy: plan.images.pull_policy.as_deref(),
        resources: pod::resources("200m", "512Mi", "1Gi"),
        volumes: [
            Volume {
                name: "credentials".into(),
                secret: Some(SecretVolumeSource {
                    secret_name: Some(credentials),
                    items: Some(vec![KeyToPath { key: key::KEYFILE.into(), path: key::KEYFILE.into(), mode: None }]),
                    default_mode: Some(0o440),
                    optional: None,
                }),
                ..Volume::default()
            },
            pod::memory_volume("temporary", "16Mi"),
        ]
        .into_iter()
        .chain(tls.map(|(volume, _)| volume))
        .collect(),
        template: &plan.database.template,
    });
    let database = &plan.database;
    let set = super::stateful_set(plan, Part::Database, name, plan.database_size.pods, &database.storage, template);
    objects.stateful_sets.push(set);
}

/// A member that starts before its own name leads to it does not find itself in the set's configuration and stays out of the set
/// (state REMOVED), so it waits for its name, at most a minute; until it was found some times in a row, for a cluster has several name servers
/// and each learns of it in its own time. The key file must be readable by its owner alone, which a
/// mounted Secret never is.
fn start(service: &str, tls: &str) -> String {
    format!(
        "\
set -eu
host=$POD_NAME.{service}.$POD_NAMESPACE.svc
tries=0 found=0
until [ $found -ge 4 ] || [ $tries -ge 200 ]; do
    tries=$((tries + 1))
    case \"$(getent ahosts \"$host\")\" in *\"$POD_IP \"*) found=$((found + 1)) ;; *) found=0 ;; esac
    sleep 0.3
done
umask 077
rm -f /tmp/keyfile
cp /run/database/{keyfile} /tmp/keyfile
exec mongod --replSet {REPLICA_SET} --bind_ip_all --port {PORT} --dbpath /data/db --keyFile /tmp/keyfile --unixSocketPrefix /tmp{tls}
",
        keyfile = key::KEYFILE,
    )
}

/// Members show each other the certificate they show to programs, and ask for it; programs log in by password and need none.
fn tls(plan: &Plan) -> String {
    let Some(_) = plan.tls else { return String::new() };
    let folder = certificates::FOLDER;
    format!(
        " --tlsMode requireTLS --tlsCertificateKeyFile {folder}/{} --tlsCAFile {folder}/{} --tlsAllowConnectionsWithoutCertificates",
        tls_key::COMBINED,
        tls_key::TRUSTED,
    )
}

fn container(plan: &Plan, service: &str) -> Container {
    Container {
        name: SERVER.into(),
        command: Some(vec!["sh".into(), "-c".into(), start(service, &tls(plan))]),
        env: Some(vec![
            pod::env("HOME", "/tmp"),
            pod::env_field("POD_NAME", "metadata.name"),
            pod::env_field("POD_NAMESPACE", "metadata.namespace"),
            pod::env_field("POD_IP", "status.podIP"),
        ]),
        ports: Some(vec![pod::port("mongodb", PORT)]),
        readiness_probe: Some(pod::tcp_probe("mongodb", 3, 3)),
        volume_mounts: Some(
            [
                pod::mount("data", "/data/db", false),
                pod::mount("credentials", "/run/database", true),
                pod::mount("temporary", "/tmp", false),
            ]
            .into_iter()
            .chain(certificates::of_server(plan, Part::Database).map(|(_, mount)| mount))
            .collect(),
        ),
        ..Container::default()
    }
}

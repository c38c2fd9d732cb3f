//! The MongoDB replica set: Secret, Service, StatefulSet, disruption budget.
//! Rule: the pods only start mongod; the replica set is initiated and looked after by `crate::database`, through the driver.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Container, KeyToPath, Pod, PodTemplateSpec, Secret, SecretVolumeSource, Volume};
use kube::ResourceExt;
use serde_json::to_value;

use super::{Objects, certificates, pod};
use crate::apply;
use crate::certificates::key as tls_key;
use crate::claims;
use crate::compare::contains;
use crate::credentials::{REPLICA_SET, key};
use crate::names::{self, Part};
use crate::plan::Plan;

pub(super) const PORT: u16 = 27017;
/// The container of a member.
pub(super) const SERVER: &str = "mongod";
/// User of the upstream image.
const USER: i64 = 999;

/// What the pods' template says of how a member starts. A set keeps the form it has until something else of its template changes: a newer operator
/// alone replaces no pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// As the first operators made it.
    First,
    /// With [`LEAVES_LOST_SOURCE`] and [`LOOKS_UP_SOON`].
    #[default]
    Second,
}

impl Form {
    /// That of the set there is, as far as the plan still wants it so. While a set is away, to be made anew around its `pods`, they tell.
    pub fn of(set: Option<&StatefulSet>, pods: &[Pod], plan: &Plan) -> Self {
        let Some(live) = set else {
            let name = names::part(&plan.name, Part::Database);
            let first = |pod: &Pod| {
                claims::ordinal(&name, &pod.name_any()).is_some() && !pod.labels().contains_key(names::FORM)
            };
            return if pods.iter().any(first) { Self::First } else { Self::Second };
        };
        // As nearly every set says: it costs no set to be built and compared in each pass.
        let labels = live.spec.as_ref().and_then(|spec| spec.template.metadata.as_ref()?.labels.as_ref());
        if labels.is_some_and(|labels| labels.contains_key(names::FORM)) {
            return Self::Second;
        }
        let first = stateful_set(plan, Self::First);
        let template =
            |set: &StatefulSet| set.spec.as_ref().and_then(|spec| to_value(&spec.template).ok()).unwrap_or_default();
        // Somebody else may have added something to the set: then it does not say the same, but was applied as the same.
        let is_first = apply::was_applied(live, &first) || contains(&template(live), &template(&first));
        if is_first { Self::First } else { Self::Second }
    }
}

/// A secondary copies from one member, and when that one vanishes it goes on asking it for six seconds and then once more; meanwhile the new primary of
/// three members has nobody who acknowledges, so nothing has a majority. With these it asks another one after three seconds (a second's wait for news,
/// half the election time-out, and these two) and does not ask again. Both are read at the start only (mongod 6.0, `repl_server_parameters.idl`).
const LEAVES_LOST_SOURCE: &str =
    " --setParameter oplogNetworkTimeoutBufferSeconds=2 --setParameter oplogFetcherSteadyStateMaxFetcherRestarts=0";

/// A name server of a node that was lost is asked in vain until Kubernetes gives the node up, and a member that needs a new connection, to copy from the
/// new primary, waited for it half a minute and more. So it does not wait for an answer longer than a second, and tries the cluster's own domain first,
/// which completes a member's name at once; both as the programs do (`workloads::name_service`), and unless the template's `env` says otherwise.
const LOOKS_UP_SOON: &str = "\
while read -r word first others; do
    cluster=${first#\"$POD_NAMESPACE\".svc.}
    if [ \"$word\" = search ] && [ \"$cluster\" != \"$first\" ] && [ -z \"${LOCALDOMAIN-}${RES_OPTIONS-}\" ]; then
        export LOCALDOMAIN=\"$cluster $first $others\" RES_OPTIONS='timeout:1 attempts:1'
    fi
done </etc/resolv.conf
";

/// Adds the database's objects; none when somebody else runs it.
pub(super) fn build(plan: &Plan, objects: &mut Objects) {
    if plan.database.external.is_some() {
        return;
    }
    let selector = names::selector(&plan.name, Part::Database);
    let name = names::part(&plan.name, Part::Database);
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

    objects.stateful_sets.push(stateful_set(plan, plan.database_form));
}

fn stateful_set(plan: &Plan, form: Form) -> StatefulSet {
    let (service, storage) = (names::part(&plan.name, Part::Database), &plan.database.storage);
    super::stateful_set(plan, Part::Database, service, plan.database_size.pods, storage, template(plan, form))
}

fn template(plan: &Plan, form: Form) -> PodTemplateSpec {
    let tls = certificates::of_server(plan, Part::Database);
    let selector = names::selector(&plan.name, Part::Database);
    let mut template = pod::template(pod::Pod {
        selector: &selector,
        annotations: BTreeMap::new(),
        user: USER,
        // On SIGTERM a primary steps down and serves its running operations for up to 15 s before it closes its files. Not longer than
        // needed: half of it is how long Kubernetes waits until it looks again whether a namespace is empty.
        grace: 30,
        container: container(plan, form),
        image: &plan.images.database,
        pull_policy: plan.images.pull_policy.as_deref(),
        resources: pod::resources("200m", "512Mi", "1Gi"),
        volumes: [
            Volume {
                name: "credentials".into(),
                secret: Some(SecretVolumeSource {
                    secret_name: Some(names::credentials(&plan.name, Part::Database)),
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
    if form == Form::Second {
        let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        labels.insert(names::FORM.into(), "second".into());
    }
    template
}

/// A member that starts before its own name leads to it does not find itself in the set's configuration and stays out of the set
/// (state REMOVED), so it waits for its name, at most a minute; until it was found some times in a row, for a cluster has several name servers
/// and each learns of it in its own time. The key file must be readable by its owner alone, which a
/// mounted Secret never is.
fn start(service: &str, tls: &str, form: Form) -> String {
    let (looks_up, lost_source) = match form {
        Form::First => ("", ""),
        Form::Second => (LOOKS_UP_SOON, LEAVES_LOST_SOURCE),
    };
    format!(
        "\
set -eu
{looks_up}host=$POD_NAME.{service}.$POD_NAMESPACE.svc
tries=0 found=0
until [ $found -ge 4 ] || [ $tries -ge 200 ]; do
    tries=$((tries + 1))
    case \"$(getent ahosts \"$host\")\" in *\"$POD_IP \"*) found=$((found + 1)) ;; *) found=0 ;; esac
    sleep 0.3
done
umask 077
rm -f /tmp/keyfile
cp /run/database/{keyfile} /tmp/keyfile
exec mongod --replSet {REPLICA_SET} --bind_ip_all --port {PORT} --dbpath /data/db --keyFile /tmp/keyfile --unixSocketPrefix /tmp{tls}{lost_source}
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

fn container(plan: &Plan, form: Form) -> Container {
    let service = names::part(&plan.name, Part::Database);
    Container {
        name: SERVER.into(),
        command: Some(vec!["sh".into(), "-c".into(), start(&service, &tls(plan), form)]),
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

//! The certificates of broker, database and edge: Secrets of our own making, or Certificates for cert-manager.
//! Rule: a pod template names a Secret and depends on nothing in it; clients get whom they trust, and no key.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{
    ConfigMap, KeyToPath, ProjectedVolumeSource, Secret, SecretProjection, SecretVolumeSource, Volume, VolumeMount,
    VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Objects, pod};
use crate::cert_manager::{Certificate, CertificateSpec, OutputFormat, PrivateKey, SecretTemplate};
use crate::certificates::{self, Tls, decision, key, x509::Pair};
use crate::crd::IssuerReference;
use crate::names::{self, Part};
use crate::plan::{Plan, run_by_us};

/// Folder of the certificates in a pod.
pub(super) const FOLDER: &str = "/run/tls";
const VOLUME: &str = "tls";

/// Adds the Secrets, or what makes them.
pub(super) fn build(plan: &Plan, objects: &mut Objects) {
    let Some(tls) = &plan.tls else { return };
    let Tls { issuer, authority, servers, missing, before: _ } = tls;
    if !servers.is_empty() {
        // Beside the Secrets, which hold keys and are for few to read.
        let trusted = BTreeMap::from([(key::TRUSTED.into(), tls.published())]);
        let metadata = super::metadata(plan, names::authority(&plan.name), &names::authority_selector(&plan.name));
        objects.config_maps.push(ConfigMap { metadata, data: Some(trusted), ..ConfigMap::default() });
    }
    if let Some(authority) = authority {
        let labels = names::authority_selector(&plan.name);
        let mut metadata = super::metadata(plan, names::authority(&plan.name), &labels);
        let since = certificates::since_annotation(authority);
        metadata.annotations = Some(BTreeMap::from([(names::TRUSTED_SINCE.into(), since)]));
        objects.secrets.push(secret(metadata, &authority.pair, &authority.trusted, false));
    }
    let parts = servers.keys().chain(missing.keys());
    match issuer {
        Some(issuer) => objects.certificates.extend(parts.map(|part| issued_by(plan, *part, issuer))),
        None => objects.secrets.extend(
            servers.iter().map(|(part, server)| secret(metadata(plan, *part), &server.pair, &server.trusted, true)),
        ),
    }
}

fn metadata(plan: &Plan, part: Part) -> ObjectMeta {
    super::metadata(plan, names::certificate(&plan.name, part), &names::selector(&plan.name, part))
}

fn secret(metadata: ObjectMeta, pair: &Pair, trusted: &str, combined: bool) -> Secret {
    let Pair { certificate, key: private } = pair;
    let mut data =
        vec![(key::CERTIFICATE, certificate.clone()), (key::KEY, private.clone()), (key::TRUSTED, trusted.to_owned())];
    if combined {
        data.push((key::COMBINED, format!("{private}{certificate}")));
    }
    let data = data.into_iter().map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes())));
    Secret { metadata, type_: Some("kubernetes.io/tls".into()), data: Some(data.collect()), ..Secret::default() }
}

fn issued_by(plan: &Plan, part: Part, issuer: &IssuerReference) -> Certificate {
    let metadata = metadata(plan, part);
    let hours = |seconds: u64| format!("{}h0m0s", seconds / 3600);
    let life = decision::SERVER_LIFE.as_secs();
    let hostnames = plan.edge.tls.as_ref().map_or(&[][..], |tls| &tls.hostnames);
    let (addresses, names) = certificates::names_of(&plan.name, &plan.namespace, part, hostnames)
        .into_iter()
        .partition(|name| name.parse::<IpAddr>().is_ok());
    Certificate {
        spec: CertificateSpec {
            secret_name: names::certificate(&plan.name, part),
            secret_template: SecretTemplate { labels: names::certificate_labels(&plan.name) },
            issuer_ref: Some(issuer.clone()),
            dns_names: names,
            ip_addresses: addresses,
            usages: ["digital signature", "server auth", "client auth"].map(str::to_owned).into(),
            private_key: PrivateKey {
                algorithm: "ECDSA".into(),
                size: 256,
                encoding: "PKCS8".into(),
                rotation_policy: "Always".into(),
            },
            duration: hours(life),
            renew_before: hours(life / 3),
            additional_output_formats: vec![OutputFormat { type_: "CombinedPEM".into() }],
        },
        metadata,
    }
}

/// The edge's certificate and key alone. A pod without them serves in the clear, and takes them when they come.
pub(super) fn of_edge(secret: String) -> SecretVolumeSource {
    SecretVolumeSource {
        secret_name: Some(secret),
        items: Some([key::CERTIFICATE, key::KEY].map(|file| item(file, file.to_owned())).into()),
        default_mode: Some(0o440),
        optional: Some(true),
    }
}

/// What a server's pod mounts; nothing without TLS.
pub(super) fn of_server(plan: &Plan, part: Part) -> Option<(Volume, VolumeMount)> {
    plan.tls.as_ref()?;
    let files = [key::CERTIFICATE, key::KEY, key::TRUSTED, key::COMBINED];
    // Only mongod wants key and certificate in one file.
    let files = files.into_iter().filter(|file| part == Part::Database || *file != key::COMBINED);
    let volume = Volume {
        name: VOLUME.into(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(names::certificate(&plan.name, part)),
            items: Some(files.map(|file| item(file, file.to_owned())).collect()),
            default_mode: Some(0o440),
            optional: None,
        }),
        ..Volume::default()
    };
    Some((volume, pod::mount(VOLUME, FOLDER, true)))
}

/// What a program's pod mounts that uses `parts`: whom it trusts there. Nothing without TLS, and of parts that somebody else runs and who has
/// named no authority.
pub(super) fn of_client(plan: &Plan, parts: &[Part]) -> Option<(Volume, VolumeMount)> {
    let own = run_by_us(&plan.broker, &plan.database).filter(|_| plan.tls.is_some());
    let own = own.map(|part| (part, names::certificate(&plan.name, part), key::TRUSTED));
    let broker = plan.broker.external.iter().filter_map(|broker| Some((Part::Broker, broker.ca_key.as_ref()?)));
    let database = plan.database.external.iter();
    let database = database.filter_map(|database| Some((Part::Database, database.ca_key.as_ref()?)));
    let others = broker.chain(database).map(|(part, key)| (part, plan.address(part).0, key.as_str()));
    let sources: Vec<VolumeProjection> = own
        .chain(others)
        .filter(|(part, ..)| parts.contains(part))
        .map(|(part, secret, key)| VolumeProjection {
            secret: Some(SecretProjection {
                name: secret,
                items: Some(vec![item(key, format!("{}/{}", part.name(), key::TRUSTED))]),
                optional: None,
            }),
            ..VolumeProjection::default()
        })
        .collect();
    let volume = Volume {
        name: VOLUME.into(),
        projected: Some(ProjectedVolumeSource {
            sources: Some(sources).filter(|sources| !sources.is_empty()),
            default_mode: Some(0o444),
        }),
        ..Volume::default()
    };
    volume.projected.as_ref()?.sources.as_ref()?;
    Some((volume, pod::mount(VOLUME, FOLDER, true)))
}

/// Where a program finds whom it trusts in broker or database.
pub(crate) fn trusted_file(part: Part) -> String {
    format!("{FOLDER}/{}/{}", part.name(), key::TRUSTED)
}

fn item(key: &str, path: String) -> KeyToPath {
    KeyToPath { key: key.into(), path, mode: None }
}

//! Fragments that all pods share.
//! Rule: every pod of ours passes the restricted pod security standard, whatever the template says.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource, HTTPGetAction,
    ObjectFieldSelector, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceRequirements, SeccompProfile,
    SecretKeySelector, SecurityContext, TCPSocketAction, TopologySpreadConstraint, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::crd::Template;
use crate::names;

/// What differs between the pods of two parts.
pub struct Pod<'a> {
    /// What selects the pods.
    pub selector: &'a BTreeMap<String, String>,
    /// Annotations of ours.
    pub annotations: BTreeMap<String, String>,
    /// User and group of the processes and of their volumes.
    pub user: i64,
    /// Seconds from SIGTERM to SIGKILL.
    pub grace: i64,
    /// The one container, without image, security context and resources.
    pub container: Container,
    /// Image unless the template names one.
    pub image: &'a str,
    /// Pull policy unless the template names one.
    pub pull_policy: Option<&'a str>,
    /// Requests and limits unless the template has its own.
    pub resources: ResourceRequirements,
    /// Volumes.
    pub volumes: Vec<Volume>,
    /// The user's choices.
    pub template: &'a Template,
}

/// Builds the pod template.
pub fn template(pod: Pod<'_>) -> PodTemplateSpec {
    let Pod { selector, mut annotations, user, grace, container, image, pull_policy, resources, volumes, template } =
        pod;
    let Template {
        image: own_image,
        pull_policy: own_pull_policy,
        pull_secrets,
        resources: own_resources,
        env,
        labels: own_labels,
        annotations: own_annotations,
        node_selector,
        tolerations,
        affinity,
        topology_spread,
        priority_class,
        service_account,
    } = template.clone();

    let mut labels = names::labels(selector);
    labels.extend(own_labels.into_iter().filter(|(key, _)| !selector.contains_key(key) && key != names::MANAGED_BY));
    annotations.extend(own_annotations);
    let container = Container {
        image: Some(own_image.unwrap_or_else(|| image.to_owned())),
        image_pull_policy: own_pull_policy.or_else(|| pull_policy.map(str::to_owned)),
        resources: Some(own_resources.unwrap_or(resources)),
        env: Some(merge_env(container.env.unwrap_or_default(), env)).filter(|env| !env.is_empty()),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
            read_only_root_filesystem: Some(true),
            ..SecurityContext::default()
        }),
        ..container
    };
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels),
            annotations: Some(annotations).filter(|annotations| !annotations.is_empty()),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            affinity,
            automount_service_account_token: Some(false),
            containers: vec![container],
            // The names of neighbouring Services would only fill the environment, and collide with PORT-like settings.
            enable_service_links: Some(false),
            image_pull_secrets: Some(pull_secrets).filter(|secrets| !secrets.is_empty()),
            node_selector: Some(node_selector).filter(|selector| !selector.is_empty()),
            priority_class_name: priority_class,
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(user),
                run_as_group: Some(user),
                fs_group: Some(user),
                // Changing the owner of every file at each start of a large volume takes minutes.
                fs_group_change_policy: Some("OnRootMismatch".into()),
                seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
                ..PodSecurityContext::default()
            }),
            service_account_name: service_account,
            termination_grace_period_seconds: Some(grace),
            tolerations: Some(tolerations).filter(|tolerations| !tolerations.is_empty()),
            topology_spread_constraints: Some(topology_spread.unwrap_or_else(|| vec![over_nodes(selector)])),
            volumes: Some(volumes).filter(|volumes| !volumes.is_empty()),
            ..PodSpec::default()
        }),
    }
}

/// As even over the nodes as they allow; one node alone must still do, so it is a wish and not a demand.
fn over_nodes(selector: &BTreeMap<String, String>) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        max_skew: 1,
        topology_key: "kubernetes.io/hostname".into(),
        when_unsatisfiable: "ScheduleAnyway".into(),
        label_selector: Some(LabelSelector { match_labels: Some(selector.clone()), match_expressions: None }),
        ..TopologySpreadConstraint::default()
    }
}

/// Ours first, in order; the user's replace those of the same name in place and follow otherwise.
fn merge_env(mut ours: Vec<EnvVar>, users: Vec<EnvVar>) -> Vec<EnvVar> {
    for variable in users {
        match ours.iter_mut().find(|own| own.name == variable.name) {
            Some(own) => *own = variable,
            None => ours.push(variable),
        }
    }
    ours
}

/// A variable with a plain value.
pub fn env(name: &str, value: impl Into<String>) -> EnvVar {
    EnvVar { name: name.into(), value: Some(value.into()), value_from: None }
}

/// A variable with a value of a Secret.
pub fn env_secret(name: &str, secret: &str, key: &str) -> EnvVar {
    let selector = SecretKeySelector { name: secret.into(), key: key.into(), optional: None };
    EnvVar {
        name: name.into(),
        value: None,
        value_from: Some(EnvVarSource { secret_key_ref: Some(selector), ..EnvVarSource::default() }),
    }
}

/// A variable with a field of the pod.
pub fn env_field(name: &str, path: &str) -> EnvVar {
    let field = ObjectFieldSelector { field_path: path.into(), api_version: Some("v1".into()) };
    EnvVar {
        name: name.into(),
        value: None,
        value_from: Some(EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() }),
    }
}

/// Requests of processor and memory, and a limit of memory. There is no limit of processor: throttling a broker
/// or a database stalls everything behind it, and the requests already share a busy node fairly.
pub fn resources(cpu: &str, memory: &str, memory_limit: &str) -> ResourceRequirements {
    let quantity = |text: &str| Quantity(text.to_owned());
    ResourceRequirements {
        requests: Some(BTreeMap::from([("cpu".into(), quantity(cpu)), ("memory".into(), quantity(memory))])),
        limits: Some(BTreeMap::from([("memory".into(), quantity(memory_limit))])),
        claims: None,
    }
}

/// A named port of the container.
pub fn port(name: &str, number: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.into()),
        container_port: i32::from(number),
        protocol: Some("TCP".into()),
        ..ContainerPort::default()
    }
}

/// A probe of an HTTP path on a named port.
pub fn http_probe(path: &str, port: &str, period: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.into()),
            port: IntOrString::String(port.into()),
            scheme: Some("HTTP".into()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        failure_threshold: Some(failures),
        timeout_seconds: Some(3),
        ..Probe::default()
    }
}

/// A probe that connects to a named port.
pub fn tcp_probe(port: &str, period: i32, failures: i32) -> Probe {
    Probe {
        tcp_socket: Some(TCPSocketAction { port: IntOrString::String(port.into()), host: None }),
        period_seconds: Some(period),
        failure_threshold: Some(failures),
        timeout_seconds: Some(3),
        ..Probe::default()
    }
}

/// An empty directory in memory of at most `size`.
pub fn memory_volume(name: &str, size: &str) -> Volume {
    let empty_dir = EmptyDirVolumeSource { medium: Some("Memory".into()), size_limit: Some(Quantity(size.into())) };
    Volume { name: name.into(), empty_dir: Some(empty_dir), ..Volume::default() }
}

/// Mounts a volume.
pub fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.into(),
        mount_path: path.into(),
        read_only: Some(read_only).filter(|only| *only),
        ..VolumeMount::default()
    }
}

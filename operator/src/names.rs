//! Every child's name, label and selector: nowhere else.
//! Rule: two different symbols never share a name, and a name never changes while its symbol stays.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use kube::ResourceExt;
use sha2::{Digest, Sha256};

/// Field manager of every write, and the value of the managed-by label.
pub const MANAGER: &str = "stockpipeline-operator";
/// Label that marks every object of ours; watches select by it.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Label with the product's name, here and on the operator's own pods.
pub const NAME: &str = "app.kubernetes.io/name";
/// Label with the pipeline's name.
pub const INSTANCE: &str = "app.kubernetes.io/instance";
/// Label with the part's name.
pub const COMPONENT: &str = "app.kubernetes.io/component";
/// Label of the children of one company, with its slug.
pub const COMPANY: &str = "stockpipeline.io/company";
/// Annotation of the children of one company, with its symbol as written: a symbol may not fit into a label.
pub const SYMBOL: &str = "stockpipeline.io/symbol";
/// Label of a pod that uses the broker or database of the pipeline named.
pub const CLIENT_OF: &str = "stockpipeline.io/client-of";
/// Annotation of a company's consumers: the company as it was written, for when it has left the resource.
pub const WRITTEN: &str = "stockpipeline.io/written";
/// Annotation of a claim whose member left, and whose data is to be retained.
pub const KEPT: &str = "stockpipeline.io/kept-after-its-member";
/// Label of pods whose template has another form than the first operators gave it.
pub const FORM: &str = "stockpipeline.io/form";
/// Annotation with the hash of what was applied last.
pub const APPLIED: &str = "stockpipeline.io/applied";
/// Annotation of a pod template with the hash of the configuration its pods read at start only.
pub const CONFIGURATION: &str = "stockpipeline.io/configuration";

/// Annotation of a pod template with a fingerprint of the external broker's address, which its pods read at start only; of our own broker with the
/// generation of its users, from the first rotation on.
pub const BROKER_ADDRESS: &str = "stockpipeline.io/broker-address";
/// The same of the database's.
pub const DATABASE_ADDRESS: &str = "stockpipeline.io/database-address";

/// Annotation of a pod template with a fingerprint of the authority whom its programs, which read it at start only, trust in a database.
pub const TRUSTED: &str = "stockpipeline.io/trusted";
/// Label of a Secret that cert-manager keeps, with the pipeline it asked for. It is not labelled as a child: it is cert-manager's.
pub const CERTIFICATE_OF: &str = "stockpipeline.io/certificate-of";
/// Annotation of an authority's Secret: its key, and since when clients are told of it.
pub const TRUSTED_SINCE: &str = "stockpipeline.io/trusted-since";
/// Annotation of a pipeline: a wish for other users and passwords, a new one with each new value.
pub const ROTATE_CREDENTIALS: &str = "stockpipeline.io/rotate-credentials";

/// Value of [`COMPONENT`] of what takes a node out of the broker's cluster.
pub const BROKER_LEAVE: &str = "broker-leave";

/// A part of a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// RabbitMQ.
    Broker,
    /// MongoDB.
    Database,
    /// The publishers.
    Publisher,
    /// The consumers.
    Consumer,
    /// The live page.
    Liveview,
    /// NGINX.
    Edge,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Broker, Self::Database, Self::Publisher, Self::Consumer, Self::Liveview, Self::Edge];

    /// The part's name in labels and in the names of children.
    pub fn name(self) -> &'static str {
        match self {
            Part::Broker => "broker",
            Part::Database => "database",
            Part::Publisher => "publisher",
            Part::Consumer => "consumer",
            Part::Liveview => "liveview",
            Part::Edge => "edge",
        }
    }
}

/// The pipeline that an object is for, by its labels.
pub fn pipeline_of<K: ResourceExt>(object: &K) -> Option<&str> {
    object.labels().get(INSTANCE).or_else(|| object.labels().get(CERTIFICATE_OF)).map(String::as_str)
}

/// Whether an object is of a part, by its label.
pub fn is_of<K: ResourceExt>(object: &K, part: Part) -> bool {
    object.labels().get(COMPONENT).is_some_and(|component| component == part.name())
}

/// `<pipeline>-<part>`: the StatefulSet or Deployment of a part, its ConfigMap and its Service.
pub fn part(pipeline: &str, part: Part) -> String {
    format!("{pipeline}-{}", part.name())
}

/// `<pipeline>-<part>-<slug>`: the Deployment of a part for one company.
pub fn company(pipeline: &str, of: Part, slug: &str) -> String {
    format!("{pipeline}-{}-{slug}", of.name())
}

/// The Service with an address that leads to any pod of liveview: for an Ingress, a route, and NGINX when its list of pods is old.
pub fn page(pipeline: &str) -> String {
    format!("{pipeline}-page")
}

/// The headless Service that gives the broker's nodes their host names.
pub fn broker_nodes(pipeline: &str) -> String {
    format!("{pipeline}-broker-nodes")
}

/// The Job that takes a node out of the broker's cluster.
pub fn broker_leave(pipeline: &str, ordinal: i32) -> String {
    format!("{pipeline}-broker-leave-{ordinal}")
}

/// What selects the pods of [`broker_leave`]. They are none of the broker's: no Service leads to them.
pub fn broker_leave_selector(pipeline: &str) -> BTreeMap<String, String> {
    let mut labels = selector(pipeline, Part::Broker);
    labels.insert(COMPONENT.into(), BROKER_LEAVE.into());
    labels
}

/// The Secret with the generated credentials of the broker or the database.
pub fn credentials(pipeline: &str, of: Part) -> String {
    format!("{pipeline}-{}-credentials", of.name())
}

/// The Secret with the certificate of broker, database or edge, and the Certificate by which cert-manager makes it.
pub fn certificate(pipeline: &str, of: Part) -> String {
    format!("{pipeline}-{}-tls", of.name())
}

/// The Secret with the pipeline's own authority, and the ConfigMap that tells clients whom to trust.
pub fn authority(pipeline: &str) -> String {
    format!("{pipeline}-ca")
}

/// What an authority's Secret is labelled with: it is of no part.
pub fn authority_selector(pipeline: &str) -> BTreeMap<String, String> {
    let mut labels = selector(pipeline, Part::Broker);
    labels.remove(COMPONENT);
    labels
}

/// The host name of one pod of a StatefulSet under its headless Service. It carries no cluster domain, which
/// the operator cannot know: the resolver's search list completes it.
pub fn pod_host(statefulset: &str, ordinal: i32, service: &str, namespace: &str) -> String {
    format!("{statefulset}-{ordinal}.{service}.{namespace}.svc")
}

/// A DNS-safe name for a symbol, at most 22 characters.
///
/// Up to 20 capital letters and digits become small letters and nothing else, so those names are as many as the symbols. Every other
/// symbol gets a `-` and 10 hexadecimal digits of its SHA-256 behind what is left of it, and so meets no name of the first kind.
pub fn slug(symbol: &str) -> String {
    if symbol.len() <= 20 && symbol.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit()) {
        return symbol.to_ascii_lowercase();
    }
    let readable: String =
        symbol.chars().filter(char::is_ascii_alphanumeric).take(11).collect::<String>().to_ascii_lowercase();
    let digest: String = Sha256::digest(symbol.as_bytes()).iter().take(5).map(|byte| format!("{byte:02x}")).collect();
    match readable.as_str() {
        "" => format!("x-{digest}"),
        readable => format!("{readable}-{digest}"),
    }
}

/// What selects the pods of a part; it never changes, as the selectors of Deployments and StatefulSets cannot.
pub fn selector(pipeline: &str, part: Part) -> BTreeMap<String, String> {
    BTreeMap::from([
        (NAME.into(), "stockpipeline".into()),
        (INSTANCE.into(), pipeline.into()),
        (COMPONENT.into(), part.name().into()),
    ])
}

/// What selects the pods of several components of a pipeline.
pub fn components_selector(pipeline: &str, components: &[&str]) -> LabelSelector {
    let mut labels = selector(pipeline, Part::Broker);
    labels.remove(COMPONENT);
    LabelSelector {
        match_labels: Some(labels),
        match_expressions: Some(vec![LabelSelectorRequirement {
            key: COMPONENT.into(),
            operator: "In".into(),
            values: Some(components.iter().map(|component| (*component).to_owned()).collect()),
        }]),
    }
}

/// [`selector`] of a part for one company.
pub fn company_selector(pipeline: &str, part: Part, slug: &str) -> BTreeMap<String, String> {
    let mut labels = selector(pipeline, part);
    labels.insert(COMPANY.into(), slug.into());
    labels
}

/// What opens the way to a pipeline's broker and database to any pod of its namespace.
pub fn client_of(pipeline: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(CLIENT_OF.into(), pipeline.into())])
}

/// The labels of a Secret that cert-manager keeps for us: those by which the watch sees it.
pub fn certificate_labels(pipeline: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(MANAGED_BY.into(), MANAGER.into()), (CERTIFICATE_OF.into(), pipeline.into())])
}

/// The labels of an object: its selector and who manages it.
pub fn labels(selector: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut labels = selector.clone();
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn legal_symbol() -> impl Strategy<Value = String> {
        proptest::string::string_regex("[A-Za-z0-9^][A-Za-z0-9.^=_-]{0,63}").unwrap()
    }

    fn is_dns_label(name: &str) -> bool {
        let bytes = name.as_bytes();
        !bytes.is_empty()
            && bytes.len() <= 63
            && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
            && bytes[0] != b'-'
            && bytes[bytes.len() - 1] != b'-'
    }

    #[test]
    fn a_plain_symbol_is_its_own_name_in_small_letters() {
        assert_eq!(slug("MSFT"), "msft");
    }

    #[test]
    fn symbols_that_look_alike_get_different_names() {
        let alike = ["BRK.B", "BRK-B", "BRKB", "brk.b", "BRK_B", "BRK=B", "BRK^B", "^BRKB", "Brkb"];
        let names: std::collections::BTreeSet<_> = alike.iter().map(|symbol| slug(symbol)).collect();
        assert_eq!(names.len(), alike.len(), "{names:?}");
    }

    proptest! {
        #[test]
        fn any_legal_symbol_gives_a_legal_object_name(symbol in legal_symbol()) {
            let slug = slug(&symbol);
            prop_assert!(slug.len() <= 22, "{slug}");
            let longest_pipeline = "p".repeat(40);
            // Deployment names are DNS subdomains of up to 253 characters, but each of ours also is the prefix of a pod's host name.
            prop_assert!(is_dns_label(&slug), "{slug}");
            prop_assert!(company(&longest_pipeline, Part::Publisher, &slug).len() <= 253);
        }

        #[test]
        fn two_symbols_never_share_a_name(one in legal_symbol(), other in legal_symbol()) {
            prop_assume!(one != other);
            prop_assert_ne!(slug(&one), slug(&other));
        }
    }
}

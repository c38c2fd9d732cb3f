//! The certificates of a pipeline's servers: of an authority of its own, or of the issuer that the user names.
//! Rule: made only when what the API server holds, not the memory of a watch, says so; a key is in its Secret and nowhere else.

pub mod decision;
pub mod x509;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, ResourceExt};

use crate::children::Children;
use crate::crd::{EdgeMode, IssuerReference, StockPipeline};
use crate::error::Error;
use crate::names::{self, Part};
use crate::ownership;
use crate::plan::{MEMBERS_MAX, NODES_MAX, run_by_us};
use decision::{Authority as Act, Server as Found};
use x509::Pair;

/// Keys of the Secrets, as of type kubernetes.io/tls and as cert-manager has them.
pub mod key {
    /// The certificate.
    pub const CERTIFICATE: &str = "tls.crt";
    /// Its private key.
    pub const KEY: &str = "tls.key";
    /// Whom clients trust.
    pub const TRUSTED: &str = "ca.crt";
    /// Key and certificate in one file, as mongod takes them (cert-manager's additional output format `CombinedPEM`).
    pub const COMBINED: &str = "tls-combined.pem";
}

/// TLS of a pipeline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Who issues; the pipeline's own authority unless somebody is named.
    pub issuer: Option<IssuerReference>,
    /// The pipeline's own authority.
    pub authority: Option<Authority>,
    /// What the servers show; of an issuer, what it has issued so far.
    pub servers: BTreeMap<Part, Server>,
    /// Whom the operator trusted in earlier passes, and until when it does.
    pub before: BTreeMap<String, Timestamp>,
    /// Of those that show nothing yet, why and what a person can do.
    pub missing: BTreeMap<Part, String>,
}

/// A pipeline's own authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// Its certificate and key.
    pub pair: Pair,
    /// Since when clients are told of its key.
    pub since: Timestamp,
    /// Its certificate, and those of earlier ones as long as a server may show what they signed.
    pub trusted: String,
}

/// What a server shows, and whom its clients trust.
#[derive(Clone, PartialEq, Eq)]
pub struct Server {
    /// Its certificate and key.
    pub pair: Pair,
    /// Certificates of authorities, in PEM.
    pub trusted: String,
}

impl fmt::Debug for Server {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pair.fmt(formatter)
    }
}

impl Tls {
    /// With what was there before, in place of what an issuer makes anew at the moment, and with whom clients trusted so far: a server shows what an
    /// earlier authority signed until it has taken over the new, for which it has as long as clients have to learn of an authority, twice.
    #[must_use]
    pub fn or_remembered(mut self, before: Option<&Self>, now: Timestamp) -> Self {
        let Some(before) = before.filter(|before| before.issuer == self.issuer) else { return self };
        for (part, server) in &before.servers {
            if self.missing.remove(part).is_some() {
                self.servers.insert(*part, server.clone());
            }
        }
        self.before = before.before.clone();
        let until = now.saturating_add(2 * decision::SPREAD).unwrap_or(Timestamp::MAX);
        self.before.extend(before.servers.values().map(|server| (server.trusted.clone(), until)));
        self.before.retain(|_, until| now < *until);
        self
    }

    /// All whom the operator trusts; nobody before there is a certificate.
    pub fn trusted(&self) -> Option<String> {
        let bundles = self.servers.values().map(|server| &server.trusted).chain(self.before.keys());
        let mut bundles: Vec<&String> = bundles.collect();
        bundles.dedup();
        (!bundles.is_empty()).then(|| bundles.into_iter().map(String::as_str).collect())
    }

    /// Whom clients of all parts trust, for whoever wants to know: the operator's memory is not in it, so it is the same in each pass.
    pub fn published(&self) -> String {
        let bundles = self.servers.values().map(|server| &server.trusted);
        bundles.collect::<BTreeSet<_>>().into_iter().map(String::as_str).collect()
    }

    /// Whether a part shows a certificate of ours, or will.
    pub fn is_of(&self, part: Part) -> bool {
        self.servers.contains_key(&part) || self.missing.contains_key(&part)
    }

    /// Tells the authority of a part's server from another one; a renewed one keeps its key.
    pub fn authority_of(&self, part: Part) -> Option<String> {
        x509::key_of(&self.servers.get(&part)?.trusted)
    }
}

/// The names a server is called by. All that may ever run are named, so that no certificate depends on their number. `hostnames` are the
/// edge's outside of the cluster.
pub fn names_of(pipeline: &str, namespace: &str, part: Part, hostnames: &[String]) -> Vec<String> {
    let set = names::part(pipeline, part);
    let (service, most) = match part {
        Part::Broker => (names::broker_nodes(pipeline), NODES_MAX),
        Part::Database => (set.clone(), MEMBERS_MAX),
        // Pods without names of their own.
        _ => (set.clone(), 0),
    };
    let addresses = [format!("{set}.{namespace}.svc"), format!("{set}.{namespace}"), set.clone()];
    let pods = (0..most).map(|ordinal| names::pod_host(&set, ordinal, &service, namespace));
    let outside = hostnames.iter().filter(|_| part == Part::Edge).cloned();
    // That name is for whoever forwards a port.
    addresses.into_iter().chain(pods).chain(["localhost".to_owned()]).chain(outside).collect()
}

/// The parts that show a certificate of ours: those that somebody else runs have their own, and so has an edge that a Secret is named for.
/// `nginx`: one runs, though the mode may be another by now.
pub fn parts(pipeline: &StockPipeline, nginx: bool) -> Vec<Part> {
    let spec = &pipeline.spec;
    let own = spec.edge.tls.as_ref().is_none_or(|tls| tls.secret_name.is_none());
    let edge = (own && (nginx || spec.edge.mode == EdgeMode::Nginx)).then_some(Part::Edge);
    run_by_us(&spec.broker, &spec.database).chain(edge).filter(|_| spec.tls.enabled).collect()
}

/// The names by which the edge is reached from outside, as written.
fn hostnames(pipeline: &StockPipeline) -> &[String] {
    pipeline.spec.edge.tls.as_ref().map_or(&[], |tls| &tls.hostnames)
}

/// What the pipeline's servers show, some of it made anew; none without TLS.
///
/// # Errors
/// [`Error::Foreign`] when a Secret of that name belongs to someone else, [`Error::Kubernetes`] when the API server does not answer.
pub async fn of(
    client: &Client,
    store: &Children<Secret>,
    pipeline: &StockPipeline,
    (nginx, issuers_are_known): (bool, bool),
    now: Timestamp,
) -> Result<Option<Tls>, Error> {
    let parts = parts(pipeline, nginx);
    if parts.is_empty() {
        return Ok(None);
    }
    let secrets = Secrets { client, store, pipeline };
    if let Some(issuer) = &pipeline.spec.tls.issuer_ref {
        return secrets.issued(issuer.clone(), &parts, issuers_are_known).await.map(Some);
    }
    let (tls, made) = complete(pipeline, &parts, &secrets.stored(&parts), now)?;
    if !made {
        return Ok(Some(tls));
    }
    // The store may lag behind: before anything is made, ask.
    let (tls, _) = complete(pipeline, &parts, &secrets.asked(&parts).await?, now)?;
    Ok(Some(tls))
}

/// The Secrets of a pipeline's certificates.
struct Secrets<'a> {
    client: &'a Client,
    store: &'a Children<Secret>,
    pipeline: &'a StockPipeline,
}

/// Secrets by name.
type ByName = BTreeMap<String, Secret>;

impl Secrets<'_> {
    fn names(&self, parts: &[Part]) -> Vec<String> {
        let name = self.pipeline.name_any();
        parts.iter().map(|part| names::certificate(&name, *part)).chain([names::authority(&name)]).collect()
    }

    fn store_has(&self, name: &str) -> Option<Secret> {
        let namespace = self.pipeline.namespace().unwrap_or_default();
        self.store.get(&namespace, &self.pipeline.name_any(), name)
    }

    async fn server_has(&self, name: &str) -> Result<Option<Secret>, Error> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.pipeline.namespace().unwrap_or_default());
        api.get_opt(name).await.map_err(Error::kubernetes("get", "Secret", name))
    }

    fn check(&self, secret: &Secret) -> Result<(), Error> {
        ownership::check("Secret", secret, &self.pipeline.name_any(), &self.pipeline.uid().unwrap_or_default())
    }

    fn stored(&self, parts: &[Part]) -> ByName {
        let found = self.names(parts).into_iter().filter_map(|name| Some((name.clone(), self.store_has(&name)?)));
        found.filter(|(_, secret)| self.check(secret).is_ok()).collect()
    }

    async fn asked(&self, parts: &[Part]) -> Result<ByName, Error> {
        let mut found = ByName::new();
        for name in self.names(parts) {
            if let Some(secret) = self.server_has(&name).await? {
                self.check(&secret)?;
                found.insert(name, secret);
            }
        }
        Ok(found)
    }

    /// What an issuer has issued. Its Secrets are cert-manager's, which gives them our labels (see `objects::certificates`).
    async fn issued(&self, issuer: IssuerReference, parts: &[Part], known: bool) -> Result<Tls, Error> {
        let mut tls = Tls { issuer: Some(issuer), ..Tls::default() };
        for part in parts {
            let name = names::certificate(&self.pipeline.name_any(), *part);
            let secret = match self.store_has(&name) {
                Some(secret) => Some(secret),
                None => self.server_has(&name).await?,
            };
            match secret.as_ref().map(usable) {
                Some(Ok(server)) => drop(tls.servers.insert(*part, server)),
                Some(Err(fault)) => drop(tls.missing.insert(*part, format!("secret {name} {fault}"))),
                None if known => drop(tls.missing.insert(*part, not_issued(&name))),
                None => drop(tls.missing.insert(*part, NO_CERT_MANAGER.to_owned())),
            }
        }
        Ok(tls)
    }
}

/// What the status says where cert-manager is not installed.
const NO_CERT_MANAGER: &str = "the cluster does not know the kind Certificate of cert-manager.io/v1, which spec.tls.issuerRef needs: \
                               install cert-manager";

fn not_issued(name: &str) -> String {
    format!(
        "cert-manager has not issued certificate {name} yet: kubectl describe certificate {name} says what it waits for"
    )
}

/// A server's Secret, or what it lacks.
fn usable(secret: &Secret) -> Result<Server, String> {
    for (key, remedy) in [
        (key::CERTIFICATE, "cert-manager has to issue it"),
        (key::KEY, "cert-manager has to issue it"),
        (key::TRUSTED, "name an issuer that tells its own certificate, as those of type CA and Vault do"),
        (key::COMBINED, "cert-manager 1.15 or newer writes it"),
    ] {
        if text(secret, key).is_none_or(|text| text.trim().is_empty()) {
            return Err(format!("lacks {key}: {remedy}"));
        }
    }
    server(secret).ok_or_else(|| "cannot be read".to_owned())
}

fn text(secret: &Secret, key: &str) -> Option<String> {
    String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok()
}

fn pair(secret: &Secret) -> Option<Pair> {
    Some(Pair { certificate: text(secret, key::CERTIFICATE)?, key: text(secret, key::KEY)? })
}

fn server(secret: &Secret) -> Option<Server> {
    Some(Server { pair: pair(secret)?, trusted: text(secret, key::TRUSTED)? })
}

/// Since when clients are told of an authority, as its Secret has it: the key it is about, and the time.
pub fn since_annotation(authority: &Authority) -> String {
    format!("{} {}", x509::key_of(&authority.pair.certificate).unwrap_or_default(), authority.since)
}

fn since(secret: &Secret, certificate: &str) -> Option<Timestamp> {
    let (key, since) = secret.annotations().get(names::TRUSTED_SINCE)?.split_once(' ')?;
    (x509::key_of(certificate).as_deref() == Some(key)).then(|| since.parse().ok())?
}

/// Completes what was found; also whether anything had to be made.
fn complete(pipeline: &StockPipeline, parts: &[Part], found: &ByName, now: Timestamp) -> Result<(Tls, bool), Error> {
    let (name, namespace) = (pipeline.name_any(), pipeline.namespace().unwrap_or_default());
    let failed = |error: rcgen::Error| Error::CertificateNotMade(error.to_string());
    let servers: BTreeMap<Part, Server> =
        parts.iter().filter_map(|part| Some((*part, server(found.get(&names::certificate(&name, *part))?)?))).collect();
    let secret = found.get(&names::authority(&name));
    let old = secret.and_then(pair).and_then(|pair| Some((x509::validity(&pair)?, pair)));
    let act = decision::authority(old.as_ref().map(|(validity, _)| *validity), now);
    let common = format!("{namespace}/{name}");
    let pair = match (act, old) {
        (Act::Keep, Some((_, pair))) => pair,
        (Act::Renew, Some((_, pair))) => x509::renew_authority(&common, &pair, now).map_err(failed)?,
        (_, _) => x509::make_authority(&common, now).map_err(failed)?,
    };
    let known_since = secret.and_then(|secret| since(secret, &pair.certificate));
    let since = known_since.unwrap_or(now);

    let mut made = act != Act::Keep || known_since.is_none();
    let mut shown = BTreeMap::new();
    let mut all_of_authority = true;
    for part in parts {
        let wanted = names_of(&name, &namespace, *part, hostnames(pipeline));
        let old = servers.get(part).map(|server| &server.pair);
        let judged = old.and_then(|old| {
            Some(Found {
                validity: x509::validity(old)?,
                named: x509::has_names(&old.certificate, &wanted),
                of_authority: x509::is_signed_by(&old.certificate, &pair.certificate),
            })
        });
        let (server, of_authority) = match old {
            Some(old) if !decision::is_to_be_issued(judged, since, now) => {
                (old.clone(), judged.is_some_and(|judged| judged.of_authority))
            }
            _ => {
                made = true;
                (x509::issue(&pair, &wanted, now).map_err(failed)?, true)
            }
        };
        all_of_authority &= of_authority;
        shown.insert(*part, server);
    }

    // Of a lost authority the servers' Secrets still tell.
    let earlier = secret
        .and_then(|secret| text(secret, key::TRUSTED))
        .into_iter()
        .chain(servers.into_values().map(|server| server.trusted));
    let mut keys = BTreeSet::from([x509::key_of(&pair.certificate)]);
    let mut trusted = pair.certificate.clone();
    if decision::are_earlier_trusted(all_of_authority, since, now) {
        for certificate in earlier.flat_map(|bundle| x509::each(&bundle)) {
            if keys.insert(x509::key_of(&certificate)) {
                trusted.push_str(&certificate);
            }
        }
    }
    let servers = shown.into_iter().map(|(part, pair)| (part, Server { pair, trusted: trusted.clone() })).collect();
    let authority = Some(Authority { pair, since, trusted });
    Ok((Tls { authority, servers, ..Tls::default() }, made))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use k8s_openapi::ByteString;
    use kube::api::ObjectMeta;

    use super::*;

    const PARTS: [Part; 2] = [Part::Broker, Part::Database];

    fn pipeline() -> StockPipeline {
        let spec = serde_json::json!({"companies": [{"symbol": "MSFT"}], "tls": {"enabled": true}});
        let mut pipeline = StockPipeline::new("demo", serde_json::from_value(spec).unwrap());
        pipeline.metadata.namespace = Some("markets".into());
        pipeline
    }

    fn start() -> Timestamp {
        "2026-11-25T12:00:00Z".parse().unwrap()
    }

    fn days(days: u64) -> Duration {
        Duration::from_secs(days * 24 * 3600)
    }

    /// What was made, as the API server would have it.
    fn stored(tls: &Tls) -> ByName {
        let secret = |pair: &Pair, trusted: &str, annotation: Option<String>| Secret {
            metadata: ObjectMeta {
                annotations: annotation.map(|since| [(names::TRUSTED_SINCE.to_owned(), since)].into()),
                ..ObjectMeta::default()
            },
            data: Some(
                [(key::CERTIFICATE, pair.certificate.as_str()), (key::KEY, pair.key.as_str()), (key::TRUSTED, trusted)]
                    .map(|(key, text)| (key.to_owned(), ByteString(text.as_bytes().to_vec())))
                    .into(),
            ),
            ..Secret::default()
        };
        let authority = tls.authority.as_ref().unwrap();
        let own = secret(&authority.pair, &authority.trusted, Some(since_annotation(authority)));
        let servers = tls.servers.iter();
        let servers = servers
            .map(|(part, server)| (names::certificate("demo", *part), secret(&server.pair, &server.trusted, None)));
        servers.chain([(names::authority("demo"), own)]).collect()
    }

    fn pass(found: &ByName, now: Timestamp) -> (Tls, bool) {
        complete(&pipeline(), &PARTS, found, now).unwrap()
    }

    fn keys(bundle: &str) -> Vec<Option<String>> {
        x509::each(bundle).iter().map(|certificate| x509::key_of(certificate)).collect()
    }

    #[test]
    fn what_is_there_is_taken_and_only_what_is_due_is_made_anew() {
        let (first, made) = pass(&ByName::new(), start());
        assert!(made);
        assert_eq!(pass(&stored(&first), start()), (first.clone(), false));
        assert_eq!(pass(&stored(&first), start() + days(59)), (first.clone(), false));
        let (renewed, made) = pass(&stored(&first), start() + days(60));
        assert!(made);
        assert_eq!(renewed.authority, first.authority);
        for part in PARTS {
            assert_ne!(renewed.servers[&part].pair, first.servers[&part].pair);
            assert_eq!(renewed.servers[&part].trusted, first.servers[&part].trusted);
        }
    }

    #[test]
    fn an_authority_with_a_new_term_signs_what_is_due_and_nobody_has_to_learn_of_another_key() {
        let (first, _) = pass(&ByName::new(), start());
        let late = start() + days(2500);
        let (renewed, _) = pass(&stored(&first), late);
        let (old, new) = (first.authority.unwrap(), renewed.authority.clone().unwrap());
        assert_ne!(old.pair.certificate, new.pair.certificate);
        assert_eq!(keys(&new.trusted), keys(&old.trusted));
        assert_eq!(new.since, old.since);
        assert_eq!(pass(&stored(&renewed), late), (renewed, false));
    }

    #[test]
    fn after_a_lost_authority_the_servers_change_when_everybody_trusts_the_next_and_the_old_one_is_forgotten_in_the_end()
     {
        let (first, _) = pass(&ByName::new(), start());
        let mut found = stored(&first);
        found.remove("demo-ca");
        let (lost, made) = pass(&found, start() + days(1));
        assert!(made);
        let now = |after: Duration| start() + days(1) + after;
        let (old, new) =
            (keys(&first.authority.unwrap().trusted), keys(&lost.authority.clone().unwrap().pair.certificate));
        assert_ne!(old, new);
        for part in PARTS {
            assert_eq!(lost.servers[&part].pair, first.servers[&part].pair);
            assert_eq!(keys(&lost.servers[&part].trusted), [new.clone(), old.clone()].concat());
        }
        let second = Duration::from_secs(1);
        let (before, made) = pass(&stored(&lost), now(decision::SPREAD - second));
        assert_eq!((&before, made), (&lost, false));
        let (changed, made) = pass(&stored(&before), now(decision::SPREAD));
        assert!(made);
        for part in PARTS {
            let Server { pair, trusted } = &changed.servers[&part];
            assert!(x509::is_signed_by(&pair.certificate, &changed.authority.as_ref().unwrap().pair.certificate));
            assert_eq!(keys(trusted), [new.clone(), old.clone()].concat());
        }
        let (forgotten, _) = pass(&stored(&changed), now(2 * decision::SPREAD));
        assert_eq!(forgotten.servers[&Part::Broker].pair, changed.servers[&Part::Broker].pair);
        assert_eq!(keys(&forgotten.authority.unwrap().trusted), new);
    }

    #[test]
    fn a_secret_with_the_key_of_another_or_with_nothing_in_it_counts_as_not_there() {
        let (first, _) = pass(&ByName::new(), start());
        let mut tampered = first.clone();
        let foreign = tampered.servers[&Part::Database].pair.key.clone();
        tampered.servers.get_mut(&Part::Broker).unwrap().pair.key = foreign;
        let (mended, made) = pass(&stored(&tampered), start());
        assert!(made);
        assert_ne!(mended.servers[&Part::Broker].pair, tampered.servers[&Part::Broker].pair);
        assert_eq!(mended.servers[&Part::Database].pair, first.servers[&Part::Database].pair);
    }

    #[test]
    fn the_operator_trusts_a_lost_authority_as_long_as_a_server_may_take_to_change_and_no_longer() {
        let (first, _) = pass(&ByName::new(), start());
        // All of its Secrets are gone at once, and what runs still shows what was in them.
        let (second, _) = pass(&ByName::new(), start());
        let old = keys(&first.authority.as_ref().unwrap().trusted);
        let trusts = |tls: &Tls| keys(&tls.trusted().unwrap()).iter().any(|key| *key == old[0]);
        let after = second.clone().or_remembered(Some(&first), start());
        assert!(trusts(&after));
        let later = |after: &Tls, passed| second.clone().or_remembered(Some(after), start() + passed);
        let after = later(&after, decision::SPREAD);
        assert!(trusts(&after));
        let after = later(&after, 2 * decision::SPREAD);
        assert!(!trusts(&after));
    }

    #[test]
    fn every_node_and_member_there_may_ever_be_is_named() {
        let names = names_of("demo", "markets", Part::Broker, &[]);
        assert!(names.contains(&"demo-broker.markets.svc".to_owned()));
        assert!(names.contains(&"demo-broker-4.demo-broker-nodes.markets.svc".to_owned()));
        let names = names_of("demo", "markets", Part::Database, &[]);
        assert!(names.contains(&"demo-database-6.demo-database.markets.svc".to_owned()));
    }

    #[test]
    fn the_edge_gets_a_certificate_unless_the_user_names_one_and_a_new_outside_name_is_a_new_certificate() {
        let parts = |edge: serde_json::Value, nginx: bool| {
            let mut pipeline = pipeline();
            pipeline.spec.edge = serde_json::from_value(edge).unwrap();
            super::parts(&pipeline, nginx)
        };
        let all = [Part::Broker, Part::Database, Part::Edge];
        assert_eq!(parts(serde_json::json!({}), false), all);
        assert_eq!(parts(serde_json::json!({"tls": {}}), false), all);
        assert_eq!(parts(serde_json::json!({"tls": {"secretName": "mine"}}), true), PARTS);
        assert_eq!(parts(serde_json::json!({"mode": "Ingress"}), false), PARTS);
        assert_eq!(parts(serde_json::json!({"mode": "Ingress"}), true), all, "NGINX serves until the Ingress does");

        let mut pipeline = pipeline();
        let mut pass = |hostnames: serde_json::Value, found: &ByName| {
            pipeline.spec.edge = serde_json::from_value(serde_json::json!({"tls": {"hostnames": hostnames}})).unwrap();
            complete(&pipeline, &all, found, start()).unwrap()
        };
        let (first, _) = pass(serde_json::json!(["prices.example.com"]), &ByName::new());
        assert!(!pass(serde_json::json!(["prices.example.com"]), &stored(&first)).1);
        let (second, made) =
            pass(serde_json::json!(["prices.example.com", "192.0.2.1", "2001:db8::1"]), &stored(&first));
        assert!(made);
        assert_eq!(second.servers[&Part::Broker], first.servers[&Part::Broker]);
        assert_ne!(second.servers[&Part::Edge], first.servers[&Part::Edge]);
        let names = ["demo-edge.markets.svc", "2001:db8:0:0::1"].map(str::to_owned);
        assert!(x509::has_names(&second.servers[&Part::Edge].pair.certificate, &names));
        assert!(!pass(serde_json::json!(["prices.example.com", "192.0.2.1", "2001:db8::1"]), &stored(&second)).1);
    }
}

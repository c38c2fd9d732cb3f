//! Addresses of a broker or database that somebody else runs, from the Secret a user named.
//! Rule: read by name and seldom, for the watches hold our own objects only; no content is ever told, logged or put into an object.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, ResourceExt};
use lapin::uri::AMQPUri;
use tokio::sync::Semaphore;

use crate::broker::Login;
use crate::certificates::x509;
use crate::crd::{ExternalBroker, ExternalDatabase, StockPipelineSpec};
use crate::database::encode;
use crate::names::Part;
use crate::objects::{fingerprint, trusted_file};
use crate::trust::{Trust, Trusted};

/// A Secret is read anew after this long while all is well: two of them cost the API server 0.07 requests a second.
const SETTLED: Duration = Duration::from_secs(30);
/// The same while something is amiss, and the Secret may be what somebody is about to mend.
const IN_DOUBT: Duration = Duration::from_secs(5);
/// A Secret that nobody asked for in this long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(600);
/// Longest value that is kept, in bytes: a Secret may hold up to a megabyte of other things.
const VALUE_MAX: usize = 32_768;

/// What was read for the external parts of a pipeline; a part that is not external is `None`, an `Err` is what its condition says.
#[derive(Clone, Debug, Default)]
pub struct External {
    /// The broker's.
    pub broker: Option<Result<BrokerAddress, String>>,
    /// The database's.
    pub database: Option<Result<DatabaseAddress, String>>,
}

/// How an external broker is reached.
#[derive(Clone)]
pub struct BrokerAddress {
    /// Where that was read.
    pub source: ExternalBroker,
    /// Of AMQP, tried in turn.
    pub addresses: Vec<AMQPUri>,
    /// Of the management interface: URL without a login, and the login; absent when the Secret has none; an `Err` says what is wrong with it.
    pub management: Option<Result<(String, Login), String>>,
    /// Who vouches for it; the public authorities unless somebody is named.
    pub trusted: Option<Trusted>,
    /// Changes with the address of the programs and gives nothing of it away.
    pub fingerprint: String,
}

/// How an external database is reached.
#[derive(Clone)]
pub struct DatabaseAddress {
    /// Where that was read.
    pub source: ExternalDatabase,
    /// The connection string, with the operator's own file of authorities in place of the programs'.
    pub url: String,
    /// Changes with it and gives nothing of it away.
    pub fingerprint: String,
}

impl fmt::Debug for BrokerAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "BrokerAddress(of secret {}, not shown)", self.source.secret)
    }
}

impl fmt::Debug for DatabaseAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "DatabaseAddress(of secret {}, not shown)", self.source.secret)
    }
}

/// What the operator needs of a Secret.
#[derive(Clone)]
struct Content {
    /// Random and known to those alone who may read the Secret.
    uid: String,
    values: BTreeMap<String, ByteString>,
}

/// What a look at a Secret gave: its content, or why there is none.
type Found = Result<Content, String>;

/// The Secrets that were read, of all pipelines.
#[derive(Default)]
pub struct Secrets(Mutex<HashMap<(String, String), (Instant, Found)>>);

/// External systems that are asked at the same time: each costs a client of its own for as long as it is asked, seconds when it is silent.
pub static ASKED: Semaphore = Semaphore::const_new(16);

impl Secrets {
    /// Reads what the external parts of `spec` need; `settled`: nothing is amiss, and what was read lately will do.
    pub async fn read(
        &self,
        client: &Client,
        trust: &Trust,
        namespace: &str,
        spec: &StockPipelineSpec,
        settled: bool,
    ) -> External {
        let mut external = External::default();
        if let Some(source) = &spec.broker.external {
            let found = self.look(client, namespace, &source.secret, settled).await;
            external.broker = Some(found.and_then(|content| broker(source, &content, trust)));
        }
        if let Some(source) = &spec.database.external {
            let found = self.look(client, namespace, &source.secret, settled).await;
            external.database = Some(found.and_then(|content| database(source, &content, trust)));
        }
        external
    }

    async fn look(&self, client: &Client, namespace: &str, name: &str, settled: bool) -> Found {
        let key = (namespace.to_owned(), name.to_owned());
        let (now, fresh) = (Instant::now(), if settled { SETTLED } else { IN_DOUBT });
        if let Some((at, found)) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key)
            && now.duration_since(*at) < fresh
        {
            return found.clone();
        }
        let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let found = match api.get_opt(name).await {
            Ok(Some(secret)) => Ok(Content {
                uid: secret.uid().unwrap_or_default(),
                values: secret
                    .data
                    .unwrap_or_default()
                    .into_iter()
                    .filter(|(_, value)| value.0.len() <= VALUE_MAX)
                    .collect(),
            }),
            Ok(None) => Err(format!("secret {name} does not exist in namespace {namespace}: create it")),
            Err(kube::Error::Api(status)) if status.code == 403 => {
                Err(format!("the operator may not read secret {name}: install the chart anew, its role allows that"))
            }
            Err(_) => Err(format!("secret {name} could not be read from the API server: it is tried again by itself")),
        };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, (at, _)| now.duration_since(*at) < FORGOTTEN);
        known.insert(key, (now, found.clone()));
        found
    }
}

fn value(content: &Content, secret: &str, key: &str, field: &str) -> Result<String, String> {
    let bytes = content.values.get(key).ok_or_else(|| {
        format!("secret {secret} lacks the key {key}: add it, or name in {field} the key that holds the address")
    })?;
    // The programs trim as well: a line break at the end comes from `echo`.
    let text = std::str::from_utf8(&bytes.0).map(str::trim).unwrap_or_default();
    if text.is_empty() {
        return Err(format!("key {key} of secret {secret} holds no text: put the address there"));
    }
    Ok(text.to_owned())
}

/// Tells two addresses apart without giving either away: whoever sees pods, but not Secrets, does not know the uid and so can try no guesses.
fn fingerprint_of(content: &Content, text: &str) -> String {
    fingerprint(&format!("{}\n{text}", content.uid))
}

/// Those who vouch for a part, of the key that `field` names; `file` is the address's parameter by which programs find them.
fn authorities(
    content: &Content,
    (secret, key): (&str, &str),
    (field, file): (&str, &str),
    (part, address): (Part, &str),
    trust: &Trust,
) -> Result<Trusted, String> {
    let text = value(content, secret, key, field)?;
    if x509::each(&text).is_empty() {
        return Err(format!(
            "key {key} of secret {secret} holds no certificate in PEM: put those of the authorities there, or take {field} out"
        ));
    }
    let path = trusted_file(part);
    let decoded = |value: &str| percent_encoding::percent_decode_str(value).collect::<Vec<u8>>();
    let names_it = |parameter: &str| {
        parameter.trim().split_once('=').is_some_and(|(name, value)| name == file && decoded(value) == path.as_bytes())
    };
    if !address.split(['?', '&', ',']).any(names_it) {
        return Err(format!(
            "the address in secret {secret} does not name the file in which programs find the authorities of key {key}: add {file}={path} \
             to it, or take {field} out"
        ));
    }
    trust.of(&text).map_err(|error| error.to_string())
}

fn broker(source: &ExternalBroker, content: &Content, trust: &Trust) -> Result<BrokerAddress, String> {
    let ExternalBroker { secret, key, management_key, ca_key } = source;
    let text = value(content, secret, key, "broker.external.key")?;
    let malformed = || {
        format!(
            "key {key} of secret {secret} is not an address like amqp://user:password@host:5672/vhost (amqps:// with TLS): \
             correct it, with special characters of user, password and vhost percent-encoded"
        )
    };
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let addresses: Vec<AMQPUri> =
        parts.map(|part| address(part).ok_or_else(malformed)).collect::<Result<_, String>>()?;
    let Some(first) = addresses.first() else { return Err(malformed()) };
    let management = content.values.contains_key(management_key).then(|| {
        let text = value(content, secret, management_key, "broker.external.managementKey")?;
        management(&text, first).ok_or_else(|| {
            format!(
                "key {management_key} of secret {secret} is not an address like http://user:password@host:15672: \
                 correct it, with special characters of user and password percent-encoded"
            )
        })
    });
    let trusted = ca_key.as_ref().map(|ca_key| {
        authorities(content, (secret, ca_key), ("broker.external.caKey", "cacertfile"), (Part::Broker, &text), trust)
    });
    let fingerprint = fingerprint_of(content, &text);
    Ok(BrokerAddress { source: source.clone(), addresses, management, trusted: trusted.transpose()?, fingerprint })
}

fn address(text: &str) -> Option<AMQPUri> {
    let mut uri: AMQPUri = text.parse().ok()?;
    // As the programs take it: `amqp://host/` names the empty virtual host by the letter, and every client means the default one.
    if uri.vhost.is_empty() {
        uri.vhost = "/".into();
    }
    (!uri.authority.host.is_empty()).then_some(uri)
}

/// URL without a login, and the login, which is that of AMQP unless the URL has its own.
fn management(text: &str, amqp: &AMQPUri) -> Option<(String, Login)> {
    let mut url = url::Url::parse(text).ok()?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return None;
    }
    let login = if url.username().is_empty() {
        Login { user: amqp.authority.userinfo.username.clone(), password: amqp.authority.userinfo.password.clone() }
    } else {
        Login { user: decode(url.username())?, password: decode(url.password().unwrap_or_default())? }
    };
    url.set_username("").ok()?;
    url.set_password(None).ok()?;
    url.set_query(None);
    url.set_fragment(None);
    Some((url.as_str().trim_end_matches('/').trim_end_matches("/api").to_owned(), login))
}

fn decode(text: &str) -> Option<String> {
    percent_encoding::percent_decode_str(text).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

/// The driver judges the rest of the string: it may have to ask the DNS for it.
fn database(source: &ExternalDatabase, content: &Content, trust: &Trust) -> Result<DatabaseAddress, String> {
    let ExternalDatabase { secret, key, ca_key } = source;
    let mut url = value(content, secret, key, "database.external.key")?;
    if !url.starts_with("mongodb://") && !url.starts_with("mongodb+srv://") {
        return Err(malformed_database(source));
    }
    let mut fingerprint = fingerprint_of(content, &url);
    if let Some(ca_key) = ca_key {
        let of = ("database.external.caKey", "tlsCAFile");
        let trusted = authorities(content, (secret, ca_key), of, (Part::Database, &url), trust)?;
        let file = trusted.file.to_string_lossy();
        // The programs read it when they start.
        fingerprint = fingerprint_of(content, &format!("{url}\n{file}"));
        let path = trusted_file(Part::Database);
        url = url.replace(&path, &file).replace(&encode(&path), &encode(&file));
    }
    Ok(DatabaseAddress { source: source.clone(), url, fingerprint })
}

/// What the condition says of a connection string that is none.
pub(crate) fn malformed_database(source: &ExternalDatabase) -> String {
    format!(
        "key {} of secret {} is not a connection string like mongodb://user:password@host:27017/?replicaSet=rs0: \
         correct it, with special characters of user and password percent-encoded",
        source.key, source.secret
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(values: &[(&str, &str)]) -> Content {
        let values = values.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())));
        Content { uid: "0001".into(), values: values.collect() }
    }

    fn source() -> ExternalBroker {
        ExternalBroker {
            secret: "rabbit".into(),
            key: "url".into(),
            management_key: "management-url".into(),
            ca_key: None,
        }
    }

    #[test]
    fn what_is_wrong_with_a_secret_is_told_by_its_name_and_key_and_never_by_its_content() {
        for (values, wrong) in [
            (vec![], "lacks the key url"),
            (vec![("url", " \n")], "key url of secret rabbit holds no text"),
            (vec![("url", "http://u:hush@host")], "key url of secret rabbit is not an address"),
            (vec![("url", "amqp://u:hush@host:port")], "key url of secret rabbit is not an address"),
            (vec![("url", "hush")], "key url of secret rabbit is not an address"),
        ] {
            let sentence = broker(&source(), &content(&values), &Trust::default()).unwrap_err();
            assert!(sentence.contains(wrong) && sentence.contains("rabbit"), "{sentence}");
            assert!(!sentence.contains("hush"), "{sentence}");
        }
        let source = ExternalDatabase { secret: "mongo".into(), key: "url".into(), ca_key: None };
        let sentence =
            database(&source, &content(&[("url", "postgres://u:hush@host")]), &Trust::default()).unwrap_err();
        assert!(sentence.contains("key url of secret mongo is not a connection string"), "{sentence}");
        assert!(!sentence.contains("hush"), "{sentence}");
    }

    #[test]
    fn the_management_interface_is_entered_with_the_login_of_amqp_unless_its_address_has_one() {
        let of = |management: &str| {
            let values = [("url", "amqp://us%40er:pass%2Fword@host/markets\n"), ("management-url", management)];
            broker(&source(), &content(&values), &Trust::default()).unwrap().management.unwrap()
        };
        let login = |user: &str, password: &str| Login { user: user.into(), password: password.into() };
        assert_eq!(of("http://host:15672/"), Ok(("http://host:15672".into(), login("us@er", "pass/word"))));
        assert_eq!(of("https://a:b%2Fc@host/rabbit/api"), Ok(("https://host/rabbit".into(), login("a", "b/c"))));
        assert!(of("host:15672").unwrap_err().contains("key management-url of secret rabbit"));
        let address =
            broker(&source(), &content(&[("url", "amqp://u:p@one/markets,amqps://u:p@two")]), &Trust::default())
                .unwrap();
        assert_eq!(address.addresses.iter().map(|uri| uri.vhost.as_str()).collect::<Vec<_>>(), ["markets", "/"]);
        assert!(address.management.is_none());
        assert!(!format!("{address:?}").contains("u:p"));
    }

    #[test]
    fn the_fingerprint_changes_with_the_address_alone_and_cannot_be_guessed_without_the_secret() {
        let of = |content: &Content| broker(&source(), content, &Trust::default()).unwrap().fingerprint;
        let one = content(&[("url", "amqp://u:p@host"), ("note", "a")]);
        assert_eq!(of(&one), of(&content(&[("url", "amqp://u:p@host\n"), ("management-url", "http://host")])));
        assert_ne!(of(&one), of(&content(&[("url", "amqp://u:q@host")])));
        assert_ne!(of(&one), of(&Content { uid: "0002".into(), ..one.clone() }));
    }

    #[test]
    fn authorities_of_the_users_are_certificates_and_the_address_names_their_file() {
        let source = ExternalBroker { ca_key: Some("ca.crt".into()), ..source() };
        let authority = include_str!("../tests/certificates/authority.crt");
        let of = |url: &str, authority: &str| {
            broker(&source, &content(&[("url", url), ("ca.crt", authority)]), &Trust::default())
        };
        let named = "amqps://u:hush@host/markets?heartbeat=5&cacertfile=/run/tls/broker/ca.crt";
        let found = of(named, authority).unwrap();
        assert_eq!(std::fs::read_to_string(found.trusted.unwrap().file).unwrap(), authority.trim());
        assert!(of("amqps://u:hush@host/markets?cacertfile=%2Frun%2Ftls%2Fbroker%2Fca.crt", authority).is_ok());
        for (url, authority, wrong) in [
            (named, "hush", "key ca.crt of secret rabbit holds no certificate in PEM"),
            ("amqps://u:hush@host", authority, "add cacertfile=/run/tls/broker/ca.crt to it"),
        ] {
            let sentence = of(url, authority).unwrap_err();
            assert!(sentence.contains(wrong) && !sentence.contains("hush"), "{sentence}");
        }

        let source = ExternalDatabase { secret: "mongo".into(), key: "url".into(), ca_key: Some("ca.crt".into()) };
        let url = "mongodb://u:hush@host/?tls=true&tlsCAFile=/run/tls/database/ca.crt";
        let of = |authority: &str| {
            database(&source, &content(&[("url", url), ("ca.crt", authority)]), &Trust::default()).unwrap()
        };
        let (one, other) = (of(authority), of(&format!("{authority}{authority}")));
        assert!(!one.url.contains("/run/tls") && one.url.starts_with("mongodb://u:hush@host/?tls=true&tlsCAFile=/"));
        assert_ne!(one.fingerprint, other.fingerprint, "its programs read them at their start");
    }
}

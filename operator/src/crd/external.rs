//! A broker or database that somebody else runs, named by the Secret with its address.
//! Rule: the resource holds names only; an address with its password is in the Secret and nowhere else.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// A RabbitMQ that exists: none is made.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ExternalBroker {
    /// Name of the Secret, in the pipeline's namespace.
    #[schemars(length(max = 253))]
    #[x_kube(validation = Rule::new("size(self) > 0").message("broker.external.secret must name a Secret of this namespace"))]
    pub secret: String,
    /// Its key with the address, `amqp://user:password@host:5672/vhost` or `amqps://…`; several, separated by commas, are tried in turn.
    #[serde(default = "default::key")]
    #[schemars(length(max = 253))]
    pub key: String,
    /// Its key with the address of the management interface, `http://user:password@host:15672` or `https://…`; user and password are those of
    /// `key` unless it has its own. A Secret without it: policies and figures are looked after by nobody, and the condition says so.
    #[serde(default = "default::management_key")]
    #[schemars(length(max = 253))]
    pub management_key: String,
    /// Its key with the certificates of the authorities, in PEM, that vouch for broker and management interface in place of the public ones; the
    /// address names the file that programs find them in, `amqps://…?cacertfile=/run/tls/broker/ca.crt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub ca_key: Option<String>,
}

/// A MongoDB that exists: none is made.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ExternalDatabase {
    /// Name of the Secret, in the pipeline's namespace.
    #[schemars(length(max = 253))]
    #[x_kube(validation = Rule::new("size(self) > 0").message("database.external.secret must name a Secret of this namespace"))]
    pub secret: String,
    /// Its key with the connection string, `mongodb://user:password@host:27017/?replicaSet=rs0`.
    #[serde(default = "default::key")]
    #[schemars(length(max = 253))]
    pub key: String,
    /// Its key with the certificates of the authorities, in PEM, that vouch for the members in place of the public ones; the connection string names
    /// the file that programs find them in, `tls=true&tlsCAFile=/run/tls/database/ca.crt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub ca_key: Option<String>,
}

mod default {
    pub(super) fn key() -> String {
        "url".into()
    }
    pub(super) fn management_key() -> String {
        "management-url".into()
    }
}

//! cert-manager's Certificate, as far as we write it (cert-manager.io/v1).
//! Rule: whatever the server has of it can be read: what we do not know is left out, what is missing is empty.

use std::collections::BTreeMap;

use kube::CustomResource;
use serde::{Deserialize, Serialize};

use crate::crd::IssuerReference;

/// What cert-manager is to issue, and into which Secret.
#[derive(CustomResource, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "cert-manager.io",
    version = "v1",
    kind = "Certificate",
    plural = "certificates",
    namespaced,
    schema = "disabled",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase", default)]
pub struct CertificateSpec {
    /// The Secret it is kept in.
    pub secret_name: String,
    /// What that Secret looks like.
    pub secret_template: SecretTemplate,
    /// Who issues it.
    pub issuer_ref: Option<IssuerReference>,
    /// The names of the server.
    pub dns_names: Vec<String>,
    /// Its addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ip_addresses: Vec<String>,
    /// What it is for.
    pub usages: Vec<String>,
    /// Its key.
    pub private_key: PrivateKey,
    /// How long it holds.
    pub duration: String,
    /// How long before its end it is made anew.
    pub renew_before: String,
    /// Further keys of the Secret.
    pub additional_output_formats: Vec<OutputFormat>,
}

/// What a Secret of cert-manager looks like.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct SecretTemplate {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// The key of a certificate.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct PrivateKey {
    /// `ECDSA` or `RSA`.
    pub algorithm: String,
    /// Its bits.
    pub size: i32,
    /// `PKCS8` or `PKCS1`.
    pub encoding: String,
    /// `Always`: each certificate has a new one.
    pub rotation_policy: String,
}

/// A further form of certificate and key.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct OutputFormat {
    /// `CombinedPEM` or `DER`.
    #[serde(rename = "type")]
    pub type_: String,
}

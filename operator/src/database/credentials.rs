//! The secrets of one database: the key of its members and the passwords of its users.
//! Rule: nothing here is ever printed; the database itself only learns a fingerprint of a password besides the password.

use std::fmt;

use mongodb::options::{AuthMechanism, Credential};
use sha2::{Digest, Sha256};

use super::seen::User;

/// A user name with its password.
#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    /// Name, in database `admin`.
    pub name: String,
    /// Password.
    pub password: String,
}

/// Everything the operator needs to look after one database.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Content of the key file of all members.
    pub key: String,
    /// Account with role `root`.
    pub administrator: Account,
    /// Account of publisher-side programs, consumers and liveview.
    pub application: Account,
    /// Account of metrics exporters.
    pub monitoring: Account,
}

impl fmt::Debug for Account {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Account({}, password not shown)", self.name)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Credentials(not shown)")
    }
}

impl Credentials {
    /// The account of a user.
    pub fn account(&self, user: User) -> &Account {
        match user {
            User::Administrator => &self.administrator,
            User::Application => &self.application,
            User::Monitoring => &self.monitoring,
        }
    }

    /// The identity the members use among each other. It exists before any user does and is accepted from any host,
    /// so the operator needs neither a shell in the pod nor mongod's localhost exception. Measured on mongod 6.0.5:
    /// SCRAM-SHA-256 is accepted, SCRAM-SHA-1 refused. Whitespace of a key file does not count (MongoDB manual, "Keyfiles").
    pub(super) fn member(&self) -> Credential {
        let key: String = self.key.chars().filter(|c| !c.is_whitespace()).collect();
        let mut credential = Credential::default();
        credential.username = Some("__system".to_owned());
        credential.password = Some(key);
        credential.source = Some("local".to_owned());
        credential.mechanism = Some(AuthMechanism::ScramSha256);
        credential
    }
}

impl Account {
    /// Tells two passwords of this user apart without keeping either: stored beside the user, it shows that a Secret
    /// was changed, or made anew over an old volume. Generated passwords are too long to be searched for.
    pub(super) fn fingerprint(&self) -> String {
        let digest = Sha256::new()
            .chain_update("stockpipeline user ")
            .chain_update(&self.name)
            .chain_update([0])
            .chain_update(&self.password)
            .finalize();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Address for a program: `mongodb://user:password@members/database?replicaSet=set&authSource=admin`, each part
/// percent-encoded (MongoDB manual, "Connection Strings").
pub fn connection_string(members: &[String], user: &str, password: &str, database: &str, set: &str) -> String {
    format!(
        "mongodb://{}:{}@{}/{}?replicaSet={}&authSource=admin",
        encode(user),
        encode(password),
        members.join(","),
        encode(database),
        encode(set)
    )
}

/// Percent-encodes all but the unreserved characters of RFC 3986.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

//! The broker's users: which have to be there, and how those that are compare.
//! Rule: pure; the password of a user that programs work with is never changed under them.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::management::{DEFAULT_VIRTUAL_HOST, Login};

/// A user that has to be there. All of them may do everything in the virtual host of the queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its name and password.
    pub login: Login,
    /// May use the management interface, for everything. Without it there is no tag at all.
    pub administrator: bool,
    /// Programs have its password.
    pub in_use: bool,
}

/// A user as the broker lists it.
#[derive(Clone, Debug, Deserialize)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Four bytes of salt and the hash; empty when it has no password.
    #[serde(default)]
    pub password_hash: ByteString,
    /// Name of the Erlang module that made it.
    #[serde(default)]
    pub hashing_algorithm: String,
}

/// What a user may do in a virtual host, as regular expressions over names.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)] // the interface's own words
pub struct Permission {
    pub user: String,
    pub vhost: String,
    pub configure: String,
    pub write: String,
    pub read: String,
}

/// How a user is that has to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not there.
    Missing,
    /// There, with another password.
    OtherPassword,
    /// There, and may not do all it has to.
    NotPermitted,
    /// As wanted.
    Current,
}

impl Listed {
    /// Whether this is its password (RabbitMQ manual, "Credentials and Passwords": SHA-256 over salt and password). What an algorithm
    /// made that this cannot judge is believed.
    fn has(&self, password: &str) -> bool {
        if self.hashing_algorithm != "rabbit_password_hashing_sha256" {
            return true;
        }
        let hash = &self.password_hash.0;
        let Some((salt, hash)) = hash.split_at_checked(4) else { return false };
        Sha256::new().chain_update(salt).chain_update(password).finalize().as_slice() == hash
    }
}

/// How each of the users that have to be there is, by name.
pub fn states(wanted: &[User], listed: &[Listed], permissions: &[Permission]) -> BTreeMap<String, State> {
    let permitted = |name: &str| {
        let all = |permission: &Permission| {
            [&permission.configure, &permission.write, &permission.read].iter().all(|all| *all == ".*")
        };
        permissions
            .iter()
            .any(|permission| permission.user == name && permission.vhost == DEFAULT_VIRTUAL_HOST && all(permission))
    };
    let state = |user: &User| match listed.iter().find(|listed| listed.name == user.login.user) {
        None => State::Missing,
        Some(listed) if !listed.has(&user.login.password) => State::OtherPassword,
        Some(listed) if !permitted(&listed.name) => State::NotPermitted,
        Some(_) => State::Current,
    };
    wanted.iter().map(|user| (user.login.user.clone(), state(user))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn user(name: &str, password: &str) -> User {
        let login = Login { user: name.to_owned(), password: password.to_owned() };
        User { login, administrator: false, in_use: true }
    }

    #[test]
    fn a_user_is_judged_by_the_hash_that_the_broker_lists() {
        // Of a RabbitMQ 4.0.5: `rabbitmqctl hash_password hush`.
        let salt = [0x2a, 0x01, 0xff, 0x10];
        let mut hash = salt.to_vec();
        hash.extend(Sha256::new().chain_update(salt).chain_update("hush").finalize());
        let listed = Listed {
            name: "application".into(),
            password_hash: ByteString(hash),
            hashing_algorithm: "rabbit_password_hashing_sha256".into(),
        };
        let permission = serde_json::from_value(
            json!({"user": "application", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}),
        );
        let permissions = [permission.unwrap()];
        let state = |password, listed: &[Listed], permissions: &[Permission]| {
            states(&[user("application", password)], listed, permissions)["application"]
        };
        let listed = [listed];
        assert_eq!(state("hush", &listed, &permissions), State::Current);
        assert_eq!(state("hush", &listed, &[]), State::NotPermitted);
        assert_eq!(state("other", &listed, &permissions), State::OtherPassword);
        assert_eq!(state("hush", &[], &permissions), State::Missing);
    }
}

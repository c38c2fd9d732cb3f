//! The generated credentials of broker and database: generations of users, and the secret by which members trust each other.
//! Rule: pure; made once and never again while data exists that is locked with them; never printed.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use rand::distr::{Alphanumeric, SampleString};

use crate::database::Account;
use crate::error::Error;
use crate::names::Part;

/// Keys of the Secrets; the objects write them, this module reads them. Those of users are in [`Role`].
pub mod key {
    /// Cookie by which the broker's nodes trust each other.
    pub const COOKIE: &str = "erlang-cookie";
    /// Key file by which the database's members trust each other.
    pub const KEYFILE: &str = "keyfile";
    /// Number of the generation in use; absent for the first, 0.
    pub const GENERATION: &str = "generation";
    /// Fingerprint of the wish that the newest generation was made for.
    pub const WISH: &str = "rotated-for";
    /// Before the key of a password: that of the generation that follows.
    pub const NEXT: &str = "next-";
    /// Connection string of the programs, derived.
    pub const URL: &str = "url";
    /// The broker's configuration fragment with its first user, derived.
    pub const CONFIGURATION: &str = "credentials.conf";
}

/// Name of the replica set.
pub const REPLICA_SET: &str = "rs0";
/// Characters of a generated password: 62^32 is 190 bits.
const PASSWORD_LENGTH: usize = 32;
/// MongoDB allows a key of 6 to 1024 base64 characters.
const KEYFILE_LENGTH: usize = 756;

/// What a user is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// For a person, and of the broker for the operator.
    Administrator,
    /// For publisher, consumer and liveview.
    Application,
    /// For exporters; of the database only.
    Monitoring,
}

impl Role {
    /// The users of a part.
    pub fn of(part: Part) -> &'static [Self] {
        match part {
            Part::Broker => &[Self::Administrator, Self::Application],
            _ => &[Self::Administrator, Self::Application, Self::Monitoring],
        }
    }

    /// The user's name in a generation; those of the first carry no number.
    pub fn user(self, part: Part, generation: u32) -> String {
        let name = match (part, self) {
            (Part::Broker, Self::Administrator) | (Part::Database, Self::Application) => "stockpipeline",
            (_, Self::Administrator) => "administrator",
            (_, Self::Application) => "application",
            (_, Self::Monitoring) => "monitoring",
        };
        if generation == 0 { name.to_owned() } else { format!("{name}-{generation}") }
    }

    /// The generation of a user of this role by its name.
    fn generation_of(self, part: Part, name: &str) -> u32 {
        let number = name.strip_prefix(&self.user(part, 0)).and_then(|end| end.strip_prefix('-'));
        number.and_then(|number| number.parse().ok()).unwrap_or(0)
    }

    fn key(self, part: Part, of: &str) -> String {
        match (part, self) {
            (Part::Broker, Self::Administrator) => of.to_owned(),
            (_, Self::Administrator) => format!("administrator-{of}"),
            (_, Self::Application) => format!("application-{of}"),
            (_, Self::Monitoring) => format!("monitoring-{of}"),
        }
    }

    /// The Secret's key of the password.
    pub fn password_key(self, part: Part) -> String {
        self.key(part, "password")
    }

    /// The Secret's key of the name.
    pub fn username_key(self, part: Part) -> String {
        self.key(part, "username")
    }
}

/// The users of a part that work at the same time.
#[derive(Clone, PartialEq, Eq)]
pub struct Generation {
    /// Counted from 0.
    pub number: u32,
    part: Part,
    passwords: BTreeMap<Role, String>,
}

/// The credentials of broker or database.
#[derive(Clone, PartialEq, Eq)]
pub struct PartCredentials {
    /// Of which part.
    pub part: Part,
    /// By which its members trust each other: Erlang cookie or key file. It is never replaced.
    pub mutual: String,
    /// The users that the Secret's address is of.
    pub current: Generation,
    /// Those that will follow.
    pub next: Option<Generation>,
    /// Fingerprint of the wish that the newest of them was made for.
    pub wish: Option<String>,
}

/// The credentials of broker and database.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// RabbitMQ's.
    pub broker: PartCredentials,
    /// MongoDB's.
    pub database: PartCredentials,
}

impl fmt::Debug for Generation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Generation({}, redacted)", self.number)
    }
}

impl fmt::Debug for PartCredentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("PartCredentials(redacted)")
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Credentials(redacted)")
    }
}

fn generate(length: usize) -> String {
    Alphanumeric.sample_string(&mut rand::rng(), length)
}

impl Generation {
    /// New passwords.
    pub fn generate(part: Part, number: u32) -> Self {
        let passwords = Role::of(part).iter().map(|role| (*role, generate(PASSWORD_LENGTH))).collect();
        Self { number, part, passwords }
    }

    /// The user of a role. A broker that an older operator made has one user for all until its first rotation.
    pub fn account(&self, role: Role) -> Account {
        let role = if self.passwords.contains_key(&role) { role } else { Role::Administrator };
        Account {
            name: role.user(self.part, self.number),
            password: self.passwords.get(&role).cloned().unwrap_or_default(),
        }
    }

    /// The users it has, and what each is for.
    pub fn accounts(&self) -> impl Iterator<Item = (Role, Account)> + '_ {
        self.passwords.keys().map(|role| (*role, self.account(*role)))
    }

    /// The names of the users before these; none before the first.
    pub fn former(&self) -> Vec<String> {
        let before = self.number.checked_sub(1);
        before
            .into_iter()
            .flat_map(|number| Role::of(self.part).iter().map(move |role| role.user(self.part, number)))
            .collect()
    }
}

impl PartCredentials {
    fn generate(part: Part, wish: Option<&str>) -> Self {
        let length = if part == Part::Broker { PASSWORD_LENGTH } else { KEYFILE_LENGTH };
        Self {
            part,
            mutual: generate(length),
            current: Generation::generate(part, 0),
            next: None,
            wish: wish.map(str::to_owned),
        }
    }

    /// The Secret's key of [`Self::mutual`].
    pub fn mutual_key(part: Part) -> &'static str {
        if part == Part::Broker { key::COOKIE } else { key::KEYFILE }
    }

    /// The generated part of the Secret, with the users' names.
    pub fn data(&self) -> BTreeMap<String, ByteString> {
        let mut data = BTreeMap::from([(Self::mutual_key(self.part).to_owned(), self.mutual.clone())]);
        for (role, account) in self.current.accounts() {
            data.insert(role.username_key(self.part), account.name);
            data.insert(role.password_key(self.part), account.password);
        }
        if self.current.number > 0 {
            data.insert(key::GENERATION.to_owned(), self.current.number.to_string());
        }
        for (role, account) in self.next.iter().flat_map(Generation::accounts) {
            data.insert(key::NEXT.to_owned() + &role.password_key(self.part), account.password);
        }
        data.extend(self.wish.clone().map(|wish| (key::WISH.to_owned(), wish)));
        data.into_iter().map(|(key, text)| (key, ByteString(text.into_bytes()))).collect()
    }

    /// Reads the Secret.
    ///
    /// # Errors
    /// [`Error::IncompleteSecret`] when a key is missing.
    pub fn read(part: Part, secret: &Secret) -> Result<Self, Error> {
        let must =
            |key: String| value(secret, &key).ok_or_else(|| Error::IncompleteSecret { name: secret.name_any(), key });
        let number = match value(secret, key::GENERATION) {
            // Whoever restored it by hand took the user's name from a file, and no number.
            None => value(secret, &Role::Administrator.username_key(part))
                .map_or(0, |name| Role::Administrator.generation_of(part, &name)),
            Some(text) => text
                .parse()
                .map_err(|_| Error::IncompleteSecret { name: secret.name_any(), key: key::GENERATION.to_owned() })?,
        };
        let mut passwords = BTreeMap::new();
        for role in Role::of(part) {
            let password = match (value(secret, &role.password_key(part)), part) {
                (Some(password), _) => password,
                // As an older operator made it.
                (None, Part::Broker) if *role == Role::Application => continue,
                (None, Part::Broker) => must(role.password_key(part))?,
                // Whoever has the key file needs no password: the users are replaced by others then (see `crate::rotation`).
                (None, _) => generate(PASSWORD_LENGTH),
            };
            passwords.insert(*role, password);
        }
        let next: Option<BTreeMap<Role, String>> = Role::of(part)
            .iter()
            .map(|role| Some((*role, value(secret, &(key::NEXT.to_owned() + &role.password_key(part)))?)))
            .collect();
        Ok(Self {
            part,
            mutual: must(Self::mutual_key(part).to_owned())?,
            current: Generation { number, part, passwords },
            next: next.map(|passwords| Generation { number: number.saturating_add(1), part, passwords }),
            wish: value(secret, key::WISH),
        })
    }
}

impl Credentials {
    /// New ones. Of a wish that is there already nothing follows: they are as new as it asks for.
    pub fn generate(wish: Option<&str>) -> Self {
        Self {
            broker: PartCredentials::generate(Part::Broker, wish),
            database: PartCredentials::generate(Part::Database, wish),
        }
    }

    /// Those of a part.
    pub fn of(&self, part: Part) -> &PartCredentials {
        if part == Part::Broker { &self.broker } else { &self.database }
    }

    /// Replaces those of a part.
    pub fn set(&mut self, credentials: PartCredentials) {
        if credentials.part == Part::Broker { self.broker = credentials } else { self.database = credentials }
    }
}

fn value(secret: &Secret, key: &str) -> Option<String> {
    let bytes = secret.data.as_ref()?.get(key)?;
    String::from_utf8(bytes.0.clone()).ok().filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(credentials: &PartCredentials) -> Secret {
        Secret { data: Some(credentials.data()), ..Secret::default() }
    }

    #[test]
    fn what_is_written_into_a_secret_is_read_from_it() {
        for part in [Part::Broker, Part::Database] {
            let mut credentials = PartCredentials::generate(part, Some("wish"));
            assert!(PartCredentials::read(part, &secret(&credentials)).unwrap() == credentials);
            credentials.current = Generation::generate(part, 3);
            credentials.next = Some(Generation::generate(part, 4));
            assert!(PartCredentials::read(part, &secret(&credentials)).unwrap() == credentials);
        }
    }

    #[test]
    fn a_secret_restored_by_hand_is_of_the_generation_that_its_user_is_of() {
        let restored = |data: &[(&str, &str)]| {
            let data = data.iter().map(|(key, text)| ((*key).to_owned(), ByteString(text.as_bytes().to_vec())));
            let secret = Secret { data: Some(data.collect()), ..Secret::default() };
            PartCredentials::read(Part::Broker, &secret).unwrap().current.account(Role::Administrator).name
        };
        let without = [("password", "p"), ("erlang-cookie", "c")];
        assert_eq!(restored(&without), "stockpipeline");
        assert_eq!(restored(&[&without[..], &[("username", "stockpipeline-2")]].concat()), "stockpipeline-2");
        assert_eq!(restored(&[&without[..], &[("username", "stockpipeline")]].concat()), "stockpipeline");
    }

    #[test]
    fn a_lost_key_is_named() {
        for (part, key) in [(Part::Broker, "password"), (Part::Broker, "erlang-cookie"), (Part::Database, "keyfile")] {
            let mut secret = secret(&PartCredentials::generate(part, None));
            secret.data.as_mut().unwrap().remove(key);
            let error = PartCredentials::read(part, &secret).unwrap_err().to_string();
            assert!(error.contains(&format!("lacks the key {key}")), "{error}");
        }
    }

    #[test]
    fn the_users_of_the_first_generation_have_the_names_they_always_had() {
        let names = |part| -> Vec<String> { Role::of(part).iter().map(|role| role.user(part, 0)).collect() };
        assert_eq!(names(Part::Database), ["administrator", "stockpipeline", "monitoring"]);
        assert_eq!(names(Part::Broker), ["stockpipeline", "application"]);
        assert_eq!(Role::Application.user(Part::Database, 2), "stockpipeline-2");
        assert_eq!(Generation::generate(Part::Broker, 2).former(), ["stockpipeline-1", "application-1"]);
        assert!(Generation::generate(Part::Broker, 0).former().is_empty());
    }

    #[test]
    fn a_broker_of_an_older_operator_has_one_user_for_all() {
        let mut secret = secret(&PartCredentials::generate(Part::Broker, None));
        secret.data.as_mut().unwrap().remove("application-password");
        let credentials = PartCredentials::read(Part::Broker, &secret).unwrap();
        assert!(credentials.current.account(Role::Application) == credentials.current.account(Role::Administrator));
        assert!(!credentials.data().contains_key("application-username"));
    }

    #[test]
    fn no_password_is_in_debug_text() {
        let credentials = Credentials::generate(None);
        let text = format!("{credentials:?} {:?} {:?}", credentials.broker, credentials.broker.current);
        assert!(!text.contains(&credentials.broker.current.account(Role::Administrator).password), "{text}");
    }
}

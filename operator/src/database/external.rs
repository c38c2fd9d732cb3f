//! A database that somebody else runs: whether it takes the programs' login, and the companies' newest windows.
//! Rule: it is read and never changed; no text of server or driver is repeated, for the address is a user's and may stand in it.

use std::collections::BTreeMap;

use mongodb::Client;
use mongodb::bson::doc;
use mongodb::error::{Error, ErrorKind};
use mongodb::options::{ClientOptions, ReadPreference, SelectionCriteria};
use tokio::time::timeout;

use super::client::{close, code, code_of};
use super::windows::{self, Latest, READ};
use crate::external::{DatabaseAddress, malformed_database};

/// Server error code of an act that the user has no right to (mongod, `error_codes.yml`).
const UNAUTHORIZED: i32 = 13;

/// Logs in as the programs do and reads the newest window of each of `companies`. Takes at most three seconds for the address, which may be
/// the DNS's to resolve, and three for the rest.
///
/// # Errors
/// What is wrong and what a person can do, in one sentence.
pub async fn look(
    address: &DatabaseAddress,
    database: &str,
    collection: &str,
    companies: &[String],
) -> Result<BTreeMap<String, Latest>, String> {
    let of = format!("the database of key {} of secret {}", address.source.key, address.source.secret);
    let silent = |why: &str| {
        format!(
            "{of} does not answer ({why}): is it up, has it a primary, may the cluster reach it, does it want tls=true"
        )
    };
    let mut options = match timeout(READ, ClientOptions::parse(&address.url)).await {
        Ok(Ok(options)) => options,
        Ok(Err(error)) if matches!(*error.kind, ErrorKind::DnsResolve { .. } | ErrorKind::Io(_)) => {
            return Err(silent("its name is not known"));
        }
        Ok(Err(_)) => return Err(malformed_database(&address.source)),
        Err(_) => return Err(silent("the DNS does not tell its members")),
    };
    windows::bound(&mut options);
    let Ok(client) = Client::with_options(options) else { return Err(malformed_database(&address.source)) };
    let answer = timeout(READ, ask(&client, database, collection, companies)).await;
    close(client).await;
    match answer {
        Ok(Ok(latest)) => Ok(latest),
        Ok(Err(error))
            if matches!(*error.kind, ErrorKind::Authentication { .. })
                || code_of(&error) == Some(code::AUTHENTICATION_FAILED) =>
        {
            Err(format!("{of} refuses the login: correct user, password and authSource in that key"))
        }
        Ok(Err(error)) if code_of(&error) == Some(UNAUTHORIZED) => {
            Err(format!("{of} gives its user no right to database {database}: grant it readWrite there"))
        }
        Ok(Err(error)) => {
            Err(silent(&code_of(&error).map_or_else(|| "no connection".into(), |code| format!("error {code}"))))
        }
        Err(_) => Err(silent(&format!("no answer within {} s", READ.as_secs()))),
    }
}

/// A primary has to answer first: without one nothing can be stored.
async fn ask(
    client: &Client,
    database: &str,
    collection: &str,
    companies: &[String],
) -> Result<BTreeMap<String, Latest>, Error> {
    let primary = SelectionCriteria::ReadPreference(ReadPreference::Primary);
    client.database(database).run_command(doc! {"ping": 1}).selection_criteria(primary).await?;
    windows::read(client, database, collection, companies).await
}

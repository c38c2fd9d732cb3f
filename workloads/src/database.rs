//! The database's side: address, client, indexes, errors in words.
//! Rule: a write counts when a majority has it in its journal; addresses are shown without user and password.

use std::fmt;
use std::time::Duration;

use mongodb::bson::{Document, doc};
use mongodb::error::{ErrorKind, WriteFailure};
use mongodb::options::{Acknowledgment, ClientOptions, CommitQuorum, CreateIndexOptions, IndexOptions, WriteConcern};
use mongodb::{Client, Collection, IndexModel};
use wire::env;
use wire::window::field;

use crate::settings::{Result, given, required, without_password, wrong};

const SERVER_SELECTION_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const DUPLICATE_KEY: i32 = 11_000;

/// Where the windows are kept.
#[derive(Clone)]
pub struct Address {
    options: ClientOptions,
    database: String,
    collection: String,
}

/// The three variables as the environment gives them.
#[derive(Clone, Default, clap::Args)]
pub struct DatabaseArgs {
    /// Connection string of the database, `mongodb://…`.
    #[arg(long, global = true, env = env::MONGODB_URL, hide_env_values = true)]
    pub mongodb_url: Option<String>,
    /// Database that holds the windows.
    #[arg(long, global = true, env = env::MONGODB_DB)]
    pub mongodb_db: Option<String>,
    /// Collection that holds the windows.
    #[arg(long, global = true, env = env::MONGODB_COLLECTION)]
    pub mongodb_collection: Option<String>,
}

impl Address {
    /// Reads the variables; `program` is shown in the database's logs.
    ///
    /// # Errors
    /// When the connection string is missing or none.
    pub async fn parse(args: &DatabaseArgs, program: &str) -> Result<Self> {
        let example = "set it like mongodb://user:password@host:27017/?replicaSet=rs0";
        let url = required(env::MONGODB_URL, args.mongodb_url.as_deref(), example)?;
        let mut options = ClientOptions::parse(url).await.map_err(|error| {
            wrong(env::MONGODB_URL, format!("{}; {example}", without_password(&explain(&error), url)))
        })?;
        options.app_name.get_or_insert_with(|| program.to_owned());
        options.server_selection_timeout.get_or_insert(SERVER_SELECTION_TIMEOUT);
        options.connect_timeout.get_or_insert(CONNECT_TIMEOUT);
        options.write_concern = Some(WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build());
        let name = |value: &Option<String>, default: &str| given(value.as_deref()).unwrap_or(default).to_owned();
        Ok(Self {
            options,
            database: name(&args.mongodb_db, env::default::MONGODB_DB),
            collection: name(&args.mongodb_collection, env::default::MONGODB_COLLECTION),
        })
    }

    /// The collection of the windows. Connecting happens with the first command.
    ///
    /// # Errors
    /// When the options contradict each other.
    pub fn windows(&self) -> anyhow::Result<Collection<Document>> {
        let client = Client::with_options(self.options.clone())?;
        Ok(client.database(&self.database).collection(&self.collection))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<String> = self.options.hosts.iter().map(ToString::to_string).collect();
        write!(formatter, "mongodb://{}/{}.{}", hosts.join(","), self.database, self.collection)
    }
}

/// The index every reader needs: the newest windows of a company.
fn newest_index() -> IndexModel {
    IndexModel::builder().keys(doc! {field::COMPANY: 1, field::ID: -1}).build()
}

/// The fence: a window number of a company is taken once. Partial, for documents of other programs have no number.
fn window_index() -> IndexModel {
    let partial = doc! {field::WINDOW: {"$exists": true}};
    let options = IndexOptions::builder().unique(true).partial_filter_expression(partial).build();
    IndexModel::builder().keys(doc! {field::COMPANY: 1, field::WINDOW: 1}).options(options).build()
}

/// Makes both indexes; nothing happens when they are there.
///
/// # Errors
/// When the database does not answer or refuses.
pub async fn make_indexes(windows: &Collection<Document>) -> mongodb::error::Result<()> {
    create(windows, [newest_index(), window_index()]).await
}

/// Makes the reader's index alone.
///
/// # Errors
/// When the database does not answer or refuses.
pub async fn make_newest_index(windows: &Collection<Document>) -> mongodb::error::Result<()> {
    create(windows, [newest_index()]).await
}

/// A majority is enough: by default an index of a collection with documents waits for every member, and one that is down
/// would keep all readers and writers away (MongoDB manual, "createIndexes", commitQuorum).
async fn create<const N: usize>(
    windows: &Collection<Document>,
    indexes: [IndexModel; N],
) -> mongodb::error::Result<()> {
    let majority = CreateIndexOptions::builder().commit_quorum(CommitQuorum::Majority).build();
    match windows.create_indexes(indexes.clone()).with_options(majority).await {
        // A server that is no replica set knows no quorum and says so.
        Err(error) if explain(&error).contains("commitQuorum") => windows.create_indexes(indexes).await.map(drop),
        made => made.map(drop),
    }
}

/// The error in words, without labels and server responses, which may hold whole documents.
#[must_use]
pub fn explain(error: &mongodb::error::Error) -> String {
    let ErrorKind::InsertMany(failure) = &*error.kind else { return error.kind.to_string() };
    let refused = failure.write_errors.iter().flatten().map(|failure| failure.message.as_str());
    let unheard = failure.write_concern_error.iter().map(|failure| failure.message.as_str());
    refused.chain(unheard).collect::<Vec<_>>().join("; ")
}

/// Whether a write failed because another document has the same key.
#[must_use]
pub fn is_duplicate_key(error: &mongodb::error::Error) -> bool {
    match &*error.kind {
        ErrorKind::Write(WriteFailure::WriteError(failure)) => failure.code == DUPLICATE_KEY,
        ErrorKind::InsertMany(failure) => {
            failure.write_errors.iter().flatten().any(|failure| failure.code == DUPLICATE_KEY)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn parse(url: &str) -> Result<Address> {
        Address::parse(&DatabaseArgs { mongodb_url: Some(url.into()), ..DatabaseArgs::default() }, "test").await
    }

    #[tokio::test]
    async fn an_address_is_shown_without_user_and_password() {
        let address = parse("mongodb://user:secret@one:27017,two:27018/?replicaSet=rs0&w=1").await.unwrap();
        assert_eq!(format!("{address:?}"), "mongodb://one:27017,two:27018/stockmarket.stocks");
        let concern = address.options.write_concern.unwrap();
        assert_eq!((concern.w, concern.journal), (Some(Acknowledgment::Majority), Some(true)));
    }

    #[tokio::test]
    async fn a_wrong_address_is_refused_by_name_and_without_its_password() {
        for text in [
            "http://user:secret@host",
            "mongodb://user:secret@",
            "mongodb://user:sec/ret@host",
            "mongodb+srv://user:secret@host.example.org",
        ] {
            let sentence = parse(text).await.unwrap_err().to_string();
            assert!(sentence.starts_with("MONGODB_URL: ") && !sentence.contains("sec"), "{sentence}");
        }
        assert!(
            Address::parse(&DatabaseArgs::default(), "test")
                .await
                .unwrap_err()
                .to_string()
                .starts_with("MONGODB_URL: is not set")
        );
    }
}

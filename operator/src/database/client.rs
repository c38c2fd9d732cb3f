//! Talks to single members: looks at them, and carries one step out.
//! Rule: every connection is direct, short-lived and bounded; what a step assumes is checked by mongod itself.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use futures::future::join_all;
use mongodb::Client;
use mongodb::bson::{Bson, Document, doc};
use mongodb::error::{Error, ErrorKind};
use mongodb::options::{ClientOptions, Credential, ServerAddress, ServerMonitoringMode, Tls, TlsOptions};
use tokio::time::timeout;

use super::DatabaseError;
use super::credentials::Credentials;
use super::decision::{Step, Wanted};
use super::document;
use super::seen::{Member, Seen, State, User, UserState, View};

/// Longest look at one member. All are looked at together, so this is also the longest look at all.
const LOOK: Duration = Duration::from_secs(2);
/// Longest act. An initiation asks every member first and waits for their answers.
const ACT: Duration = Duration::from_secs(5);

/// Server error codes (mongod, `error_codes.yml`).
pub(super) mod code {
    pub const AUTHENTICATION_FAILED: i32 = 18;
    pub const USER_NOT_FOUND: i32 = 11;
    pub const ALREADY_INITIALIZED: i32 = 23;
    pub const INVALID_REPLICA_SET_CONFIG: i32 = 93;
    pub const NOT_YET_INITIALIZED: i32 = 94;
    pub const USER_ALREADY_EXISTS: i32 = 51003;
}

/// How long a primary that steps down waits for another member to catch up; within the time of an act.
const CATCH_UP_SECONDS: i32 = 3;
/// How long it may not become primary again. The successor is called at once; should it fail, a longer time would only be one without
/// writes, as it was when a second step-down followed within mongod's own default of 60.
const STEP_DOWN_SECONDS: i32 = 10;

/// Looks at every wanted member at once, then at those the set has besides: the primary may be one of them. Takes at
/// most two seconds, or four when there are such.
pub async fn observe(wanted: &Wanted, credentials: &Credentials) -> Seen {
    let mut seen = Seen::default();
    let mut users = BTreeMap::new();
    let mut hosts: Vec<String> = wanted.members.iter().chain(&wanted.others).cloned().collect();
    while !hosts.is_empty() {
        let looks = hosts.into_iter().map(|host| async { (look(&host, wanted, credentials).await, host) });
        for ((member, listed), host) in join_all(looks).await {
            if let Some(listed) = listed {
                users.insert(host.clone(), listed);
            }
            seen.members.insert(host, member);
        }
        hosts = seen
            .config()
            .into_iter()
            .flat_map(|config| &config.members)
            .map(|member| member.host.clone())
            .filter(|host| !seen.members.contains_key(host))
            .collect();
    }
    seen.users = seen.primary().and_then(|primary| users.remove(primary));
    seen
}

type Users = BTreeMap<User, UserState>;

async fn look(host: &str, wanted: &Wanted, credentials: &Credentials) -> (Member, Option<Users>) {
    let unreachable = |error: String| (Member::Unreachable { error }, None);
    let client = match connect(host, credentials.member(), wanted.trusted.as_deref(), LOOK) {
        Ok(client) => client,
        Err(error) => return unreachable(first_line(&error)),
    };
    let answer = timeout(LOOK, ask(&client, wanted, credentials)).await;
    close(client).await;
    match answer {
        Ok(Ok(found)) => found,
        Ok(Err(error)) if refused(&error) => (Member::Refused { error: first_line(&error) }, None),
        Ok(Err(error)) => unreachable(first_line(&error)),
        Err(_) => unreachable(format!("no answer within {} s", LOOK.as_secs())),
    }
}

async fn ask(client: &Client, wanted: &Wanted, credentials: &Credentials) -> Result<(Member, Option<Users>), Error> {
    let admin = client.database("admin");
    let mut config = match admin.run_command(doc! {"replSetGetConfig": 1}).await {
        Ok(answer) => document::config(&answer),
        Err(error) if code_of(&error) == Some(code::NOT_YET_INITIALIZED) => {
            // A member that is just starting says the same; its stored configuration tells the two apart.
            let stored = client.database("local").collection::<Document>("system.replset").find_one(doc! {}).await?;
            let member = stored.map_or(Member::Uninitialised, |_| Member::Starting);
            return Ok((member, None));
        }
        Err(error) => return Err(error),
    };
    let (state, term, too_stale) = match admin.run_command(doc! {"replSetGetStatus": 1}).await {
        Ok(answer) => (
            document::integer(&answer, "myState").map_or(State::Unknown, State::from_code),
            document::integer(&answer, "term").unwrap_or(-1),
            answer.get_bool("tooStale").unwrap_or(false),
        ),
        Err(error) if code_of(&error) == Some(code::INVALID_REPLICA_SET_CONFIG) => (State::Removed, -1, false),
        Err(error) if code_of(&error) == Some(code::NOT_YET_INITIALIZED) => (State::Startup, -1, false),
        Err(error) => return Err(error),
    };
    let mut committed = false;
    if state == State::Primary
        // Refused by one that stepped down since.
        && let Ok(answer) = admin.run_command(doc! {"replSetGetConfig": 1, "commitmentStatus": true}).await
    {
        // From one answer: the configuration may have changed since the first.
        config = document::config(&answer);
        committed = answer.get_bool("commitmentStatus").unwrap_or(false);
    }
    let users = if state == State::Primary {
        let names: Vec<Bson> =
            User::ALL.map(|user| doc! {"user": &credentials.account(user).name, "db": "admin"}.into()).into();
        let answer = admin.run_command(doc! {"usersInfo": names}).await?;
        Some(document::users(&answer, &wanted.database, credentials))
    } else {
        None
    };
    let view = View { state, term, config, committed, too_stale };
    Ok((Member::Initialised(view), users))
}

/// Carries one step out; steps that are no act do nothing. Safe to repeat: what is already so is a success.
///
/// # Errors
/// The member did not answer in time or refused the act; [`DatabaseError::passes`] tells whether waiting helps.
pub async fn carry_out(step: &Step, wanted: &Wanted, credentials: &Credentials) -> Result<(), DatabaseError> {
    let (host, act) = match step {
        Step::Wait { .. } | Step::Refuse { .. } | Step::Done => return Ok(()),
        Step::Initiate { on } => (on, "initiate the replica set".to_owned()),
        Step::CreateUser { on, user } => (on, format!("create user {}", credentials.account(*user).name)),
        Step::UpdateUser { on, user } => (on, format!("update user {}", credentials.account(*user).name)),
        Step::StepDown { on } => (on, "step down".to_owned()),
        Step::Reconfigure { on, change, .. } => (on, format!("reconfigure ({change:?})")),
    };
    let failed = |code, message| DatabaseError { act: act.clone(), member: host.clone(), code, message };
    tracing::info!(member = %host, set = %wanted.set, "{act}");
    let client = connect(host, credentials.member(), wanted.trusted.as_deref(), LOOK)
        .map_err(|error| failed(code_of(&error), first_line(&error)))?;
    let outcome = timeout(ACT, execute(&client, step, wanted, credentials)).await;
    close(client).await;
    match outcome {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => match code_of(&error) {
            Some(code::ALREADY_INITIALIZED | code::USER_ALREADY_EXISTS) => Ok(()),
            code => Err(failed(code, first_line(&error))),
        },
        Err(_) => Err(failed(None, format!("no answer within {} s", ACT.as_secs()))),
    }
}

async fn execute(client: &Client, step: &Step, wanted: &Wanted, credentials: &Credentials) -> Result<(), Error> {
    let admin = client.database("admin");
    let command = match step {
        Step::Wait { .. } | Step::Refuse { .. } | Step::Done => return Ok(()),
        Step::Initiate { .. } => doc! {"replSetInitiate": document::initial(wanted)},
        Step::CreateUser { user, .. } => document::user_command("createUser", *user, &wanted.database, credentials),
        Step::UpdateUser { user, .. } => document::user_command("updateUser", *user, &wanted.database, credentials),
        Step::StepDown { .. } => doc! {
            "replSetStepDown": STEP_DOWN_SECONDS, "secondaryCatchUpPeriodSecs": CATCH_UP_SECONDS, "force": false,
        },
        Step::Reconfigure { from_version, change, .. } => {
            let answer = admin.run_command(doc! {"replSetGetConfig": 1}).await?;
            match document::changed(&answer, *from_version, change) {
                Some(config) => doc! {"replSetReconfig": config, "maxTimeMS": 4000},
                // Someone changed it since the decision: look again first.
                None => return Ok(()),
            }
        }
    };
    admin.run_command(command).await.map(|_| ())
}

/// A client of exactly one member, whatever the set says of it. It must be given to [`close`].
pub(super) fn connect(
    host: &str,
    credential: Credential,
    trusted: Option<&Path>,
    limit: Duration,
) -> Result<Client, Error> {
    let mut options = ClientOptions::default();
    options.tls = trusted.map(|file| Tls::Enabled(TlsOptions::builder().ca_file_path(file.to_owned()).build()));
    options.hosts = vec![ServerAddress::parse(host)?];
    options.app_name = Some("stockpipeline-operator".to_owned());
    options.direct_connection = Some(true);
    options.credential = Some(credential);
    options.connect_timeout = Some(limit);
    options.server_selection_timeout = Some(limit);
    options.max_pool_size = Some(2);
    options.retry_reads = Some(false);
    options.retry_writes = Some(false);
    // Polling opens one connection fewer than streaming, and none of ours lives long enough to profit.
    options.server_monitoring_mode = Some(ServerMonitoringMode::Poll);
    Client::with_options(options)
}

/// Ends the client's connections and its monitoring now; a dropped client would do so only some time later.
pub(super) async fn close(client: Client) {
    client.shutdown().immediate(true).await;
}

pub(super) fn code_of(error: &Error) -> Option<i32> {
    match error.kind.as_ref() {
        ErrorKind::Command(command) => Some(command.code),
        _ => None,
    }
}

fn refused(error: &Error) -> bool {
    matches!(error.kind.as_ref(), ErrorKind::Authentication { .. })
        || code_of(error) == Some(code::AUTHENTICATION_FAILED)
}

/// The driver's words without the topology it appends to them.
pub(super) fn first_line(error: &Error) -> String {
    let text = match error.kind.as_ref() {
        ErrorKind::Command(command) => command.message.clone(),
        kind => kind.to_string(),
    };
    let line = text.lines().next().unwrap_or_default();
    line.chars().take(300).collect()
}

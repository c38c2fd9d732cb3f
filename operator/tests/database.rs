//! The replica set is made and looked after on three real members that were started with nothing but a key file.
//! Rule: re-runnable; the first run on new members initiates them, every later one finds them as they have to be.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests; clippy.toml only covers the tests themselves

#[path = "servers/replica_set.rs"]
mod replica_set;

use std::time::{Duration, Instant};

use jiff::Timestamp;
use mongodb::Client;
use mongodb::bson::{Bson, DateTime, Document, doc, oid::ObjectId};
use mongodb::options::ClientOptions;
use operator::database::decision::{Change, Step, next_step};
use operator::database::drain::{self, Forgotten};
use operator::database::windows::latest_windows;
use operator::database::{
    Account, Credentials, ELECTION_TIMEOUT_MILLIS, Report, Wanted, client, connection_string, converge, users,
};
use tokio::sync::{Mutex, MutexGuard};

/// The tests share one replica set, and one of them changes a password.
static SET: Mutex<()> = Mutex::const_new(());

async fn set() -> (MutexGuard<'static, ()>, Wanted, Credentials) {
    let guard = SET.lock().await;
    let (wanted, credentials) = replica_set::wanted();
    (guard, wanted, credentials)
}

async fn until_ready(wanted: &Wanted, credentials: &Credentials) -> Report {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let began = Instant::now();
        let report = converge(wanted, credentials).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(10), "a pass took {:?}", began.elapsed());
        if report.ready {
            return report;
        }
        assert!(Instant::now() < deadline, "not ready: {report:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The members of the set once it is ready. For some seconds after a change or an election no primary confirms them.
async fn members(wanted: &Wanted, credentials: &Credentials) -> Vec<String> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(members) = until_ready(wanted, credentials).await.configured {
            return members;
        }
        assert!(Instant::now() < deadline, "nobody confirms the members");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn login(wanted: &Wanted, account: &Account) -> Client {
    let address = connection_string(&wanted.members, &account.name, &account.password, &wanted.database, &wanted.set);
    let mut options = ClientOptions::parse(&address).await.unwrap();
    options.server_selection_timeout = Some(Duration::from_secs(10));
    Client::with_options(options).unwrap()
}

#[tokio::test]
async fn three_fresh_members_become_one_set_with_a_primary_and_its_users() {
    let (_guard, wanted, credentials) = set().await;
    let report = until_ready(&wanted, &credentials).await;
    assert!(report.writable);
    assert_eq!(report.members_ready, 3);
    assert_eq!(report.waiting_for, None);
    assert!(report.primary.is_some_and(|host| wanted.members.contains(&host)));
}

#[tokio::test]
async fn a_set_that_is_as_wanted_is_not_touched() {
    let (_guard, wanted, credentials) = set().await;
    until_ready(&wanted, &credentials).await;
    let before = client::observe(&wanted, &credentials).await;
    for _ in 0..3 {
        assert!(converge(&wanted, &credentials).await.unwrap().ready);
    }
    let after = client::observe(&wanted, &credentials).await;
    assert_eq!(next_step(&wanted, &after), Step::Done);
    assert_eq!(before.config(), after.config());
}

#[tokio::test]
async fn acts_that_were_already_done_are_no_errors() {
    let (_guard, wanted, credentials) = set().await;
    let report = until_ready(&wanted, &credentials).await;
    let primary = report.primary.unwrap();
    let stale = [
        Step::Initiate { on: wanted.members[0].clone() },
        Step::CreateUser { on: primary.clone(), user: operator::database::seen::User::Application },
        Step::Reconfigure { on: primary, from_version: 0, change: Change::ElectionTimeout(1) },
    ];
    for step in stale {
        client::carry_out(&step, &wanted, &credentials).await.unwrap();
    }
    assert!(converge(&wanted, &credentials).await.unwrap().ready);
}

#[tokio::test]
async fn two_operators_at_once_make_one_set() {
    let (_guard, wanted, credentials) = set().await;
    let (one, two) = tokio::join!(until_ready(&wanted, &credentials), until_ready(&wanted, &credentials));
    assert_eq!(one.primary, two.primary);
}

#[tokio::test]
async fn the_application_may_use_its_own_database_and_no_other() {
    let (_guard, wanted, credentials) = set().await;
    until_ready(&wanted, &credentials).await;
    let client = login(&wanted, &credentials.application).await;
    let own = client.database("stockmarket");
    let windows = own.collection::<Document>("permissions");
    windows.create_index(mongodb::IndexModel::builder().keys(doc! {"company": 1, "_id": -1}).build()).await.unwrap();
    windows.insert_one(doc! {"company": "MSFT"}).await.unwrap();
    drop(windows.watch().await.unwrap());
    windows.drop().await.unwrap();
    // As the consumers keep their lease: a second collection, by the server's clock.
    let leases = own.collection::<Document>("permissions.leases");
    let hold = vec![doc! {"$set": {"holder": "one", "until": {"$add": ["$$NOW", 4000]}}}];
    leases.update_one(doc! {"_id": "MSFT"}, hold).upsert(true).await.unwrap();
    leases.drop().await.unwrap();

    let other = client.database("other").collection::<Document>("stocks");
    assert!(other.insert_one(doc! {}).await.is_err());
    assert!(other.find_one(doc! {}).await.is_err());
    let administration = client.database("admin");
    assert!(administration.run_command(doc! {"replSetGetConfig": 1}).await.is_err());
    client.shutdown().await;
}

#[tokio::test]
async fn the_monitoring_user_reads_figures_and_no_documents() {
    let (_guard, wanted, credentials) = set().await;
    until_ready(&wanted, &credentials).await;
    let client = login(&wanted, &credentials.monitoring).await;
    client.database("admin").run_command(doc! {"replSetGetStatus": 1}).await.unwrap();
    let stocks = client.database("stockmarket").collection::<Document>("stocks");
    assert!(stocks.find_one(doc! {}).await.is_err());
    client.shutdown().await;
}

#[tokio::test]
async fn another_password_in_the_secret_is_told_and_programs_keep_the_one_they_have() {
    let (_guard, wanted, credentials) = set().await;
    until_ready(&wanted, &credentials).await;
    let mut changed = credentials.clone();
    changed.application.password = format!("changed {}", Timestamp::now());
    let report = until_ready(&wanted, &changed).await;
    assert!(report.edited && report.writable, "{report:?}");
    let client = login(&wanted, &credentials.application).await;
    client.database("stockmarket").run_command(doc! {"ping": 1}).await.unwrap();
    client.shutdown().await;
    assert!(!until_ready(&wanted, &credentials).await.edited);
}

#[tokio::test]
async fn the_next_users_work_beside_those_before_who_go_when_nobody_is_connected_as_one_of_them() {
    let (_guard, wanted, credentials) = set().await;
    let primary = until_ready(&wanted, &credentials).await.primary.unwrap();
    let suffix = Timestamp::now().as_microsecond();
    let account = |name: &str| Account { name: format!("{name}-{suffix}"), password: format!("of {name}") };
    let next = Credentials {
        key: credentials.key.clone(),
        administrator: account("administrator"),
        application: account("application"),
        monitoring: account("monitoring"),
    };
    let mut half = next.clone();
    half.application.password = "of an operator that died".to_owned();
    users::make(&primary, &wanted, &half).await.unwrap();
    assert!(!users::make(&primary, &wanted, &next).await.unwrap(), "one had another password");
    assert!(users::make(&primary, &wanted, &next).await.unwrap());
    let names: Vec<String> =
        [&next.administrator, &next.application, &next.monitoring].map(|one| one.name.clone()).into();
    let there = users::there(&primary, &wanted, &credentials, names.clone()).await.unwrap();
    assert_eq!(there.len(), 3, "{there:?}");
    let program = login(&wanted, &next.application).await;
    let stocks = program.database("stockmarket").collection::<Document>(&format!("rotation_{suffix}"));
    stocks.insert_one(doc! {"company": "MSFT"}).await.unwrap();
    // It does nothing now, and its connection is open.
    let who = users::retire(&primary, &wanted, &credentials, &names).await.unwrap().unwrap();
    assert!(who.contains(&next.application.name) && who.contains("127.0.0.1"), "{who}");
    stocks.drop().await.unwrap();
    drop(stocks);
    program.shutdown().immediate(true).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Some(who) = users::retire(&primary, &wanted, &credentials, &names).await.unwrap() {
        assert!(Instant::now() < deadline, "{who}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(users::there(&primary, &wanted, &credentials, names.clone()).await.unwrap(), Vec::<String>::new());
    assert_eq!(users::retire(&primary, &wanted, &credentials, &names).await.unwrap(), None);
    assert!(converge(&wanted, &credentials).await.unwrap().writable);
}

#[tokio::test]
async fn another_election_timeout_is_set_without_a_new_primary() {
    let (_guard, mut wanted, credentials) = set().await;
    let before = until_ready(&wanted, &credentials).await;
    wanted.election_timeout_millis = 3000;
    let after = until_ready(&wanted, &credentials).await;
    assert_eq!(before.primary, after.primary);
    let seen = client::observe(&wanted, &credentials).await;
    assert_eq!(seen.config().unwrap().election_timeout_millis, Some(3000));
    wanted.election_timeout_millis = ELECTION_TIMEOUT_MILLIS;
    until_ready(&wanted, &credentials).await;
}

#[tokio::test]
async fn a_wrong_key_is_reported_as_such_and_never_printed() {
    let (_guard, wanted, mut credentials) = set().await;
    credentials.key = "c2VjcmV0LXRoYXQtaXMtd3Jvbmc".to_owned();
    let report = converge(&wanted, &credentials).await.unwrap();
    assert!(!report.ready && !report.writable);
    assert!(report.members.iter().all(|member| member.state == "REFUSED"), "{report:?}");
    let text = format!("{report:?} {credentials:?}");
    assert!(text.contains("key file"), "{text}");
    assert!(!text.contains("c2VjcmV0"), "{text}");
    assert!(!text.contains("only"), "{text}");
}

#[tokio::test]
async fn a_member_that_is_down_is_data_and_costs_at_most_a_few_seconds() {
    let (_guard, mut wanted, credentials) = set().await;
    until_ready(&wanted, &credentials).await;
    // It takes the connection and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_host = silent.local_addr().unwrap().to_string();
    wanted.members.push(silent_host.clone());
    let began = Instant::now();
    let report = converge(&wanted, &credentials).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(report.writable, "the set that exists keeps its users");
    assert_eq!(report.members_ready, 3);
    assert!(report.waiting_for.unwrap().contains(&silent_host));
}

#[tokio::test]
async fn three_members_become_one_whoever_is_primary_and_three_again_and_no_document_is_lost() {
    let (_guard, wanted, credentials) = set().await;
    let collection = format!("kept_{}", ObjectId::new());
    let mut document = 0_i64;
    for primary in [2, 0] {
        let report = until_ready(&wanted, &credentials).await;
        lead(&wanted, &credentials, report.primary.unwrap(), &wanted.members[primary]).await;
        let client = login(&wanted, &credentials.application).await;
        let kept = client.database("stockmarket").collection::<Document>(&collection);
        document += 1;
        kept.insert_one(doc! {"_id": document}).await.unwrap();

        let one =
            Wanted { members: wanted.members[..1].to_vec(), others: wanted.members[1..].to_vec(), ..wanted.clone() };
        let report = until_ready(&one, &credentials).await;
        assert_eq!(members(&one, &credentials).await, one.members);
        assert_eq!(report.primary.as_deref(), Some(one.members[0].as_str()));
        document += 1;
        kept.insert_one(doc! {"_id": document}).await.unwrap();

        assert_eq!(members(&wanted, &credentials).await, wanted.members);
        let seen = client::observe(&wanted, &credentials).await;
        let members = &seen.config().unwrap().members;
        assert!(members.iter().all(|member| member.votes && member.electable), "{members:?}");
        assert_eq!(kept.count_documents(doc! {}).await.unwrap(), document as u64);
        client.shutdown().await;
    }
    let client = login(&wanted, &credentials.application).await;
    client.database("stockmarket").collection::<Document>(&collection).drop().await.unwrap();
    client.shutdown().await;
}

/// A client of one member.
async fn member(host: &str, credentials: &Credentials) -> Client {
    let account = &credentials.administrator;
    let address = connection_string(&[host.to_owned()], &account.name, &account.password, "admin", "rs0");
    let mut options = ClientOptions::parse(&address).await.unwrap();
    (options.direct_connection, options.repl_set_name) = (Some(true), None);
    options.server_selection_timeout = Some(Duration::from_secs(10));
    Client::with_options(options).unwrap()
}

/// As a person with the administrator's password does it by hand.
async fn reconfigure(wanted: &Wanted, credentials: &Credentials, change: impl Fn(&mut Vec<Bson>)) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let client = login(wanted, &credentials.administrator).await;
        let admin = client.database("admin");
        let answer = admin.run_command(doc! {"replSetGetConfig": 1}).await.unwrap();
        let mut config = answer.get_document("config").unwrap().clone();
        config.insert("version", config.get_i32("version").unwrap() + 1);
        config.remove("term");
        change(config.get_array_mut("members").unwrap());
        let done = admin.run_command(doc! {"replSetReconfig": config}).await;
        client.shutdown().await;
        match done {
            Ok(_) => return,
            // The configuration before is still on its way.
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Waits until programs can write and the report says `text`; an election of a busy machine may come in between.
async fn until_waiting_for(text: &str, wanted: &Wanted, credentials: &Credentials) -> Report {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let report = converge(wanted, credentials).await.unwrap();
        if report.writable && report.waiting_for.as_ref().is_some_and(|reason| reason.contains(text)) {
            return report;
        }
        assert!(Instant::now() < deadline, "{text}: {report:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn who_belongs_to_the_set_is_unknown_until_a_majority_has_the_configuration() {
    let (_guard, wanted, credentials) = set().await;
    let primary = until_ready(&wanted, &credentials).await.primary.unwrap();
    let seen = client::observe(&wanted, &credentials).await;
    let from_version = seen.config().unwrap().version;
    // They hear of it and cannot store it.
    let mut others = Vec::new();
    for host in wanted.members.iter().filter(|host| **host != primary) {
        let client = member(host, &credentials).await;
        client.database("admin").run_command(doc! {"fsync": 1, "lock": true}).await.unwrap();
        others.push(client);
    }
    let change = Change::ElectionTimeout(wanted.election_timeout_millis + 1);
    let changed = Step::Reconfigure { on: primary, from_version, change };
    let done = client::carry_out(&changed, &wanted, &credentials).await;
    let seen = client::observe(&wanted, &credentials).await;
    let report = operator::database::report(&wanted, &seen, &Step::Done);
    for client in others {
        client.database("admin").run_command(doc! {"fsyncUnlock": 1}).await.unwrap();
        client.shutdown().await;
    }
    assert!(done.is_err_and(|error| error.passes()));
    assert!(seen.config().unwrap().version > from_version && report.primary.is_some());
    assert_eq!(report.configured, None);
    let deadline = Instant::now() + Duration::from_secs(60);
    while converge(&wanted, &credentials).await.unwrap().configured.as_ref() != Some(&wanted.members) {
        assert!(Instant::now() < deadline, "no majority takes the configuration");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    until_ready(&wanted, &credentials).await;
}

#[tokio::test]
async fn a_member_that_a_person_hid_is_left_hidden_and_the_remedy_is_said() {
    let (_guard, wanted, credentials) = set().await;
    let primary = until_ready(&wanted, &credentials).await.primary.unwrap();
    let hidden = wanted.members.iter().find(|host| **host != primary).unwrap();
    let set_hidden = |members: &mut Vec<Bson>, is: bool| {
        // The configuration has them in the order in which they joined.
        let mut members = members.iter_mut().filter_map(Bson::as_document_mut);
        let member = members.find(|member| member.get_str("host").is_ok_and(|host| host == hidden)).unwrap();
        member.insert("hidden", is);
        member.insert("priority", 0);
    };
    reconfigure(&wanted, &credentials, |members| set_hidden(members, true)).await;
    let before = client::observe(&wanted, &credentials).await;
    let report = until_waiting_for("set its hidden to false", &wanted, &credentials).await;
    let after = client::observe(&wanted, &credentials).await;
    reconfigure(&wanted, &credentials, |members| set_hidden(members, false)).await;
    let told = report.waiting_for.unwrap();
    assert!(told.contains(hidden), "{told}");
    assert_eq!(before.config(), after.config(), "nothing was attempted");
    until_ready(&wanted, &credentials).await;
}

#[tokio::test]
async fn a_member_added_by_hand_stays_when_ours_leave() {
    let (_guard, wanted, credentials) = set().await;
    until_ready(&wanted, &credentials).await;
    // The third member is none that the operator knows of.
    let ours = |members: usize| Wanted {
        members: wanted.members[..members].to_vec(),
        others: wanted.members[members..2].to_vec(),
        ..wanted.clone()
    };
    assert_eq!(members(&ours(2), &credentials).await, wanted.members);
    let left = members(&ours(1), &credentials).await;
    until_ready(&wanted, &credentials).await;
    assert_eq!(left, [wanted.members[0].clone(), wanted.members[2].clone()]);
}

/// Makes `next` the primary: the others step down until it is.
async fn lead(wanted: &Wanted, credentials: &Credentials, mut primary: String, next: &str) {
    let deadline = Instant::now() + Duration::from_secs(150);
    while primary != next {
        assert!(Instant::now() < deadline, "{next} does not become primary");
        // Refused while the others still catch up; asked again then.
        client::carry_out(&Step::StepDown { on: primary.clone() }, wanted, credentials).await.ok();
        primary = until_ready(wanted, credentials).await.primary.unwrap();
    }
}

#[tokio::test]
async fn passes_leave_no_connection_behind() {
    let (_guard, wanted, credentials) = set().await;
    until_ready(&wanted, &credentials).await;
    let ours = || {
        // Sockets of this process: what a leaked monitor would hold.
        std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
            .filter(|target| target.to_string_lossy().starts_with("socket:"))
            .count()
    };
    let before = ours();
    for _ in 0..20 {
        converge(&wanted, &credentials).await.unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while ours() > before + 3 {
        assert!(Instant::now() < deadline, "{before} sockets became {}", ours());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn the_newest_window_of_each_company_is_read() {
    let (_guard, wanted, credentials) = set().await;
    until_ready(&wanted, &credentials).await;
    let client = login(&wanted, &credentials.application).await;
    let collection = format!("latest_{}", ObjectId::new());
    let stocks = client.database("stockmarket").collection::<Document>(&collection);
    let at = DateTime::from_millis(1_760_000_000_123);
    for window in 0..3_i64 {
        stocks
            .insert_one(doc! {"company": "BRK.B", "avgPrice": 100.25 + window as f64, "window": window, "lastAt": at})
            .await
            .unwrap();
    }
    // As a program writes it that knows nothing of numbered windows.
    stocks.insert_one(doc! {"company": "^GSPC", "avgPrice": 7}).await.unwrap();
    let companies = ["BRK.B", "^GSPC", "NONE"].map(str::to_owned);
    let address = connection_string(
        &wanted.members,
        &credentials.application.name,
        &credentials.application.password,
        &wanted.database,
        &wanted.set,
    );
    let latest = latest_windows(&address, "stockmarket", &collection, &companies).await.unwrap();
    stocks.drop().await.unwrap();
    client.shutdown().await;
    assert_eq!(latest.len(), 2);
    let ours = &latest["BRK.B"];
    assert_eq!(
        (ours.windows, ours.price, ours.at),
        (Some(3), 102.25, Timestamp::from_millisecond(1_760_000_000_123).unwrap())
    );
    let foreign = &latest["^GSPC"];
    assert_eq!((foreign.windows, foreign.price), (None, 7.0));
    assert!(foreign.at <= Timestamp::now());
}

#[tokio::test]
async fn of_companies_that_the_pipeline_does_not_name_only_consumers_that_work_are_remembered() {
    let (_guard, wanted, credentials) = set().await;
    until_ready(&wanted, &credentials).await;
    let account = &credentials.application;
    let client = login(&wanted, account).await;
    let collection = format!("stocks-{}", ObjectId::new());
    let leases = client.database("stockmarket").collection::<Document>(&wire::window::leases(&collection));
    let (over, holds) = (DateTime::from_millis(0), DateTime::from_millis(4_000_000_000_000));
    let lease = |company: &str, until: DateTime| doc! {"_id": company, "until": until};
    let given_up = |company: &str| doc! {"_id": company};
    leases
        .insert_many([
            given_up("MSFT"),
            lease("TSLA", over),
            given_up("GONE"),
            lease("LOST", over),
            lease("THEIRS", holds),
        ])
        .await
        .unwrap();
    let address = connection_string(&wanted.members, &account.name, &account.password, &wanted.database, &wanted.set);
    let named = Forgotten::AllBut(["MSFT", "TSLA"].map(str::to_owned).into());
    drain::forget(&address, "stockmarket", &collection, &named).await.unwrap();
    let left = leases.distinct("_id", doc! {}).await.unwrap();
    leases.drop().await.unwrap();
    client.shutdown().await;
    assert_eq!(left, ["MSFT", "THEIRS", "TSLA"].map(Bson::from));
}

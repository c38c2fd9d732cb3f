//! Policies and queues on a real broker, through its management interface.
//! Rule: every test has companies of its own; the policies are the broker's, so the tests that touch them take turns.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests; clippy.toml only covers the tests themselves

#[path = "servers/rabbitmq.rs"]
mod rabbitmq;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use operator::broker::decision::{Seen, next_steps, policies};
use operator::broker::management::{Management, Policy};
use operator::broker::users::{State, User};
use operator::broker::{BrokerError, DeleteQueue, Login, QUORUM_POLICY, Removed, Report, Wanted, converge, retire};
use operator::web::Web;
use rabbitmq::wanted;
use tokio::sync::Mutex;

static POLICIES: Mutex<()> = Mutex::const_new(());

async fn request(wanted: &Wanted, method: reqwest::Method, path: &str, body: Option<&str>) -> u16 {
    let mut request = reqwest::Client::new()
        .request(method, format!("{}/api/{path}", wanted.management_url))
        .basic_auth(&wanted.login.user, Some(&wanted.login.password));
    if let Some(body) = body {
        request = request.body(body.to_owned());
    }
    request.send().await.unwrap().status().as_u16()
}

fn path(company: &str) -> String {
    format!("queues/%2F/{}", company.replace('^', "%5E").replace('=', "%3D").replace('/', "%2F"))
}

async fn clear(wanted: &Wanted) {
    for company in &wanted.companies {
        assert_eq!(request(wanted, reqwest::Method::DELETE, &path(company), None).await, 204);
    }
}

fn management<'a>(http: &'a Web, wanted: &'a Wanted) -> Management<'a> {
    Management { http, url: &wanted.management_url, login: &wanted.login, virtual_host: "/" }
}

async fn look(http: &Web, wanted: &Wanted) -> Seen {
    let management = management(http, wanted);
    Seen {
        nodes: management.nodes().await.unwrap(),
        policies: management.policies().await.unwrap(),
        queues: management.queues().await.unwrap(),
        ..Seen::default()
    }
}

async fn until(http: &Web, wanted: &Wanted, condition: impl Fn(&Report) -> bool) -> Report {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let report = converge(http, wanted).await.unwrap();
        if condition(&report) {
            return report;
        }
        assert!(Instant::now() < deadline, "{report:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn every_company_gets_its_queue_whatever_its_symbol() {
    let _guard = POLICIES.lock().await;
    let http = Web::public().unwrap();
    let wanted = wanted(&["MSFT", "BRK.B", "^GSPC", "EURUSD=X", "0700.HK", &"X".repeat(40)]);
    let first = until(&http, &wanted, |report| report.ready).await;
    assert_eq!((first.nodes_running, first.waiting_for), (1, None));
    let report = until(&http, &wanted, |report| {
        report.queues.values().all(|queue| queue.ready.is_some() && queue.consumers.is_some())
    })
    .await;
    assert_eq!(report.queues.keys().collect::<Vec<_>>(), sorted(&wanted.companies));
    for queue in report.queues.values() {
        assert_eq!(queue.queue_type.as_deref(), Some("quorum"));
        assert_eq!((queue.ready, queue.unacknowledged, queue.consumers), (Some(0), Some(0), Some(0)));
        assert_eq!((queue.members, queue.online), (Some(1), Some(1)));
    }
    clear(&wanted).await;
}

fn sorted(companies: &[String]) -> Vec<&String> {
    let mut companies: Vec<_> = companies.iter().collect();
    companies.sort();
    companies
}

#[tokio::test]
async fn while_a_node_is_to_be_replaced_every_queue_is_looked_at_however_many_there_are() {
    let _guard = POLICIES.lock().await;
    let http = Web::public().unwrap();
    let names: Vec<String> = (0..230).map(|number| format!("MANY{number}")).collect();
    let mut wanted = wanted(&names.iter().map(String::as_str).collect::<Vec<_>>());
    until(&http, &wanted, |report| report.ready).await;
    wanted.in_doubt = true;
    let report = converge(&http, &wanted).await.unwrap();
    let unknown = report.queues.iter().filter(|(_, queue)| queue.online != Some(1));
    assert_eq!(unknown.map(|(name, _)| name).collect::<Vec<_>>(), Vec::<&String>::new());
    clear(&wanted).await;
}

#[tokio::test]
async fn a_changed_and_a_deleted_policy_are_made_right_again() {
    let _guard = POLICIES.lock().await;
    let http = Web::public().unwrap();
    let wanted = wanted(&[]);
    converge(&http, &wanted).await.unwrap();
    let mut drifted = policies()[0].1.clone();
    drifted.definition.insert("delivery-limit".to_owned(), 20.into());
    management(&http, &wanted).put_policy(QUORUM_POLICY, &drifted).await.unwrap();
    assert_eq!(next_steps(&wanted, &look(&http, &wanted).await).len(), 1);
    converge(&http, &wanted).await.unwrap();
    let deleted = format!("policies/%2F/{QUORUM_POLICY}");
    assert_eq!(request(&wanted, reqwest::Method::DELETE, &deleted, None).await, 204);
    converge(&http, &wanted).await.unwrap();
    let found: BTreeMap<String, Policy> = look(&http, &wanted).await.policies;
    for (name, policy) in policies() {
        assert_eq!(found.get(name), Some(&policy));
    }
}

#[tokio::test]
async fn a_second_pass_has_nothing_to_do() {
    let _guard = POLICIES.lock().await;
    let http = Web::public().unwrap();
    let wanted = wanted(&["MSFT", "^GSPC"]);
    converge(&http, &wanted).await.unwrap();
    // Only steps write, and there is none.
    assert_eq!(next_steps(&wanted, &look(&http, &wanted).await), []);
    clear(&wanted).await;
}

#[tokio::test]
async fn a_queue_of_a_company_that_left_is_not_deleted() {
    let _guard = POLICIES.lock().await;
    let http = Web::public().unwrap();
    let with = wanted(&["MSFT", "TSLA"]);
    converge(&http, &with).await.unwrap();
    let without = Wanted { companies: with.companies[..1].to_vec(), ..with.clone() };
    let report = converge(&http, &without).await.unwrap();
    assert_eq!(report.queues.len(), 1);
    assert!(look(&http, &with).await.queues.contains_key(&with.companies[1]));
    clear(&with).await;
}

#[tokio::test]
async fn the_queue_of_a_removed_company_goes_when_it_is_empty_and_with_its_content_when_that_is_wished() {
    let _guard = POLICIES.lock().await;
    let http = Web::public().unwrap();
    let with = wanted(&["MSFT", "^GSPC"]);
    converge(&http, &with).await.unwrap();
    let removed = |delete| Wanted {
        companies: Vec::new(),
        removed: with.companies.iter().map(|company| Removed { company: company.clone(), delete }).collect(),
        ..with.clone()
    };
    let management = management(&http, &with);
    let [full, empty] = [&with.companies[0], &with.companies[1]];
    let publish =
        format!(r#"{{"properties":{{}},"routing_key":"{full}","payload":"{{}}","payload_encoding":"string"}}"#);
    let path = "exchanges/%2F/amq.default/publish";
    assert_eq!(request(&with, reqwest::Method::POST, path, Some(&publish)).await, 200);
    assert!(management.has_message(full).await.unwrap(), "at once, whatever the figures say");
    assert!(!management.has_message(empty).await.unwrap());
    let both_known = |report: &Report| report.queues.len() == 2 && report.queues[full].ready == Some(1);
    let report = until(&http, &removed(None), both_known).await;
    assert!(report.gone.is_empty(), "nothing goes before that is wished");
    // An early figure: the act itself finds the message.
    let early = Removed { company: full.clone(), delete: Some(DeleteQueue::WhenEmpty) };
    let mut seen = look(&http, &with).await;
    seen.queues.get_mut(full).unwrap().messages_ready = Some(0);
    assert_eq!(next_steps(&Wanted { removed: vec![early], companies: Vec::new(), ..with.clone() }, &seen).len(), 1);
    let report = until(&http, &removed(Some(DeleteQueue::WhenEmpty)), |report| report.gone.contains(empty)).await;
    assert_eq!(report.queues.keys().collect::<Vec<_>>(), [full]);
    let report = until(&http, &removed(Some(DeleteQueue::WithContent)), |report| report.gone.contains(full)).await;
    assert!(report.queues.is_empty());
}

#[tokio::test]
async fn a_queue_another_program_declared_with_another_type_is_named_and_left_alone() {
    let _guard = POLICIES.lock().await;
    let http = Web::public().unwrap();
    let wanted = wanted(&["MSFT"]);
    let classic = r#"{"durable":true,"arguments":{"x-queue-type":"classic"}}"#;
    let declared = request(&wanted, reqwest::Method::PUT, &path(&wanted.companies[0]), Some(classic)).await;
    assert_eq!(declared, 201);
    let report = converge(&http, &wanted).await.unwrap();
    assert!(!report.ready);
    let reason = report.waiting_for.unwrap();
    assert!(reason.contains(&wanted.companies[0]) && reason.contains("classic"), "{reason}");
    clear(&wanted).await;
}

#[tokio::test]
async fn a_wrong_password_is_an_error_with_a_remedy_and_never_printed() {
    let http = Web::public().unwrap();
    let mut wanted = wanted(&["MSFT"]);
    wanted.login.password = "hidden".to_owned();
    let error = converge(&http, &wanted).await.unwrap_err();
    assert!(matches!(error, BrokerError::Unauthorized { status: 401, .. }), "{error:?}");
    let text = format!("{error} {error:?} {wanted:?}");
    assert!(text.contains("Secret") && !text.contains("hidden"), "{text}");
}

/// A name that no other run has.
fn user(name: &str, password: &str) -> User {
    let login =
        Login { user: format!("{name}-{}", jiff::Timestamp::now().as_microsecond()), password: password.into() };
    User { login, administrator: false, in_use: true }
}

async fn amqp(user: &User) -> lapin::Result<lapin::Connection> {
    let address: lapin::uri::AMQPUri = std::env::var("STOCK_TEST_RABBITMQ_URL").unwrap().parse().unwrap();
    let Login { user, password } = user.login.clone();
    let (host, port) = (&address.authority.host, address.authority.port);
    let url = format!("amqp://{user}:{}@{host}:{port}/%2f", password.replace(' ', "%20"));
    lapin::Connection::connect(&url, lapin::ConnectionProperties::default()).await
}

#[tokio::test]
async fn the_programs_user_may_use_queues_and_not_the_management_interface() {
    let _guard = POLICIES.lock().await;
    let http = Web::public().unwrap();
    let mut wanted = wanted(&["MSFT"]);
    let mut application = user("application", "only for tests");
    wanted.users = vec![application.clone()];
    assert!(amqp(&application).await.is_err());
    let current = |report: &Report| report.ready && report.users.values().all(|state| *state == State::Current);
    let report = until(&http, &wanted, current).await;
    assert_eq!(report.users.len(), 1);
    let connection = amqp(&application).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let options = lapin::options::QueueDeclareOptions { exclusive: true, ..Default::default() };
    channel.queue_declare(application.login.user.clone().into(), options, Default::default()).await.unwrap();
    connection.close(200, "over".into()).await.unwrap();
    let its = Wanted { login: application.login.clone(), ..wanted.clone() };
    let refused = converge(&http, &its).await.unwrap_err();
    assert!(matches!(refused, BrokerError::Unauthorized { .. }), "{refused:?}");

    // Edited in the Secret: programs hold the old one, so it stays. Of a user that nobody uses yet it becomes the password.
    application.login.password = "edited".to_owned();
    wanted.users = vec![application.clone()];
    let report = converge(&http, &wanted).await.unwrap();
    assert_eq!(report.users[&application.login.user], State::OtherPassword);
    assert!(amqp(&application).await.is_err());
    wanted.users[0].in_use = false;
    until(&http, &wanted, current).await;

    // It goes when nobody is connected as it; the list of connections follows within seconds.
    let connection = amqp(&application).await.unwrap();
    let its = [application.login.user.clone()];
    let deadline = Instant::now() + Duration::from_secs(30);
    let connected = || async { management(&http, &wanted).connections().await.unwrap() };
    while !connected().await.iter().any(|connection| its.contains(&connection.user)) {
        assert!(Instant::now() < deadline, "the connection is not listed");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let who = retire(&http, &wanted, &its).await.unwrap().unwrap();
    assert!(who.contains(&its[0]), "{who}");
    connection.close(200, "over".into()).await.unwrap();
    while retire(&http, &wanted, &its).await.unwrap().is_some() {
        assert!(Instant::now() < deadline, "the user is still there");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(amqp(&application).await.is_err());
    assert_eq!(retire(&http, &wanted, &its).await, Ok(None));
    clear(&wanted).await;
}

#[tokio::test]
async fn a_broker_that_does_not_answer_is_reported_within_seconds() {
    let http = Web::public().unwrap();
    let mut wanted = wanted(&["MSFT"]);
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for url in ["http://127.0.0.1:1".to_owned(), format!("http://{}", silent.local_addr().unwrap())] {
        wanted.management_url = url;
        let began = Instant::now();
        let report = converge(&http, &wanted).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(4));
        assert!(!report.ready && report.queues.is_empty());
        let reason = report.waiting_for.unwrap();
        assert!(reason.contains("does not answer"), "{reason}");
    }
}

//! The three programs as processes: settings from the environment, signals, exit codes, what they print.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "clippy knows tests, not their helpers")]

mod support;

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use mongodb::bson::doc;
use support::process::{CONSUMER, LIVEVIEW, PUBLISHER, free_port};
use support::{Broker, Database, company, mongodb, rabbitmq};

type Variables<'a> = &'a [(&'a str, &'a str)];

fn command(program: &str, variables: Variables<'_>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().envs(variables.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(program: &str, variables: Variables<'_>) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = command(program, variables).output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

#[test]
fn a_wrong_setting_ends_a_program_at_once_with_code_2_and_a_sentence() {
    let (rabbitmq, mongodb) = ("amqp://user:topsecret@127.0.0.1:1", "mongodb://user:topsecret@127.0.0.1:1");
    let cases: [(&str, Variables<'_>, &str); 8] = [
        (CONSUMER, &[], "stock-consumer: QUEUE_NAME: is not set; set it to the company's symbol, for example MSFT\n"),
        (
            CONSUMER,
            &[("QUEUE_NAME", "MSFT"), ("RABBITMQ_URL", rabbitmq), ("MONGODB_URL", mongodb), ("BATCH_SIZE", "0")],
            "stock-consumer: BATCH_SIZE: 0 is not accepted; set a whole number from 1 to 32767\n",
        ),
        (
            CONSUMER,
            &[("QUEUE_NAME", "MSFT"), ("RABBITMQ_URL", rabbitmq), ("MONGODB_URL", "nonsense")],
            "stock-consumer: MONGODB_URL: ",
        ),
        (
            PUBLISHER,
            &[("RABBITMQ_URL", rabbitmq)],
            "stock-publisher: COMPANY: is not set; set it to a symbol such as MSFT, or COMPANIES to MSFT,TSLA,AAPL\n",
        ),
        (
            PUBLISHER,
            &[("COMPANY", "MSFT"), ("COMPANIES", "TSLA")],
            "stock-publisher: COMPANY: is set and COMPANIES too; set only one of them\n",
        ),
        (
            PUBLISHER,
            &[("COMPANY", "MSFT"), ("RABBITMQ_URL", "http://user:topsecret@host")],
            "stock-publisher: RABBITMQ_URL: ",
        ),
        (
            LIVEVIEW,
            &[],
            "stock-liveview: MONGODB_URL: is not set; set it like mongodb://user:password@host:27017/?replicaSet=rs0\n",
        ),
        (
            LIVEVIEW,
            &[("MONGODB_URL", mongodb), ("LOG_FORMAT", "xml")],
            "stock-liveview: LOG_FORMAT: \"xml\" is not accepted; set text or json\n",
        ),
    ];
    for (program, variables, sentence) in cases {
        let (code, printed) = run(program, variables);
        assert_eq!(code, Some(2), "{printed}");
        assert!(printed.starts_with(sentence), "{printed:?} instead of {sentence:?}");
        assert!(!printed.contains("topsecret"), "{printed}");
        assert_eq!(printed.lines().count(), 1, "one sentence: {printed}");
    }
}

#[test]
fn a_port_that_was_asked_for_and_is_taken_ends_the_program_with_code_1() {
    let taken = std::net::TcpListener::bind(("0.0.0.0", 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, printed) = run(LIVEVIEW, &[("MONGODB_URL", "mongodb://127.0.0.1:1"), ("PORT", &port)]);
    assert_eq!(code, Some(1), "{printed}");
    assert!(printed.contains(&format!("PORT: cannot bind port {port}; set another one")), "{printed}");
}

async fn ends_well(program: &str, variables: Variables<'_>, port: u16, code: u16) {
    let child = command(program, variables).spawn().unwrap();
    support::eventually("an answer", async || {
        (support::status(&format!("http://127.0.0.1:{port}/readyz")).await == code).then_some(())
    })
    .await;
    assert_eq!(support::status(&format!("http://127.0.0.1:{port}/healthz")).await, 200);
    let started = Instant::now();
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    let Output { status, stderr, .. } =
        tokio::task::spawn_blocking(|| child.wait_with_output().unwrap()).await.unwrap();
    let printed = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(0), "{printed}");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}\n{printed}", started.elapsed());
    assert!(!printed.contains("topsecret") && !printed.contains("guest"), "{printed}");
}

#[tokio::test]
async fn sigterm_ends_each_working_program_with_code_0_within_ten_seconds() {
    let (broker, database, company, port) =
        (Broker::connect().await, Database::new().await, company("SIGTERM"), free_port());
    let (text, rabbitmq, mongodb) = (port.to_string(), rabbitmq(), mongodb());
    let of_broker = [("RABBITMQ_URL", rabbitmq.as_str()), ("METRICS_PORT", &text), ("LOG_FORMAT", "json")];
    let of_database = [("MONGODB_URL", mongodb.as_str()), ("MONGODB_DB", &database.name)];
    ends_well(PUBLISHER, &[of_broker.as_slice(), &[("COMPANY", company.as_str())]].concat(), port, 200).await;
    ends_well(CONSUMER, &[of_broker.as_slice(), &of_database, &[("QUEUE_NAME", company.as_str())]].concat(), port, 200)
        .await;
    ends_well(LIVEVIEW, &[of_database.as_slice(), &[("PORT", &text)]].concat(), port, 200).await;
    broker.delete(company.as_str()).await;
    database.drop().await;
}

#[tokio::test]
async fn sigterm_ends_a_program_that_waits_for_its_servers_too() {
    let port = free_port();
    let text = port.to_string();
    let nobody = [
        ("RABBITMQ_URL", "amqp://user:topsecret@127.0.0.1:1"),
        ("MONGODB_URL", "mongodb://user:topsecret@127.0.0.1:1/?authSource=admin"),
        ("METRICS_PORT", &text),
        ("PORT", &text),
    ];
    ends_well(PUBLISHER, &[nobody.as_slice(), &[("COMPANY", "MSFT")]].concat(), port, 503).await;
    ends_well(CONSUMER, &[nobody.as_slice(), &[("QUEUE_NAME", "MSFT")]].concat(), port, 503).await;
    ends_well(LIVEVIEW, &nobody, port, 503).await;
}

#[tokio::test]
async fn verify_prints_one_line_of_json_and_logs_nothing_that_a_pod_would_mix_into_it() {
    let database = Database::new().await;
    let window =
        doc! {"company": "MSFT", "window": 0_i64, "count": 1_i64, "sequences": [{"source": "a", "ranges": [0_i64, 0]}]};
    database.windows.insert_one(window).await.unwrap();
    let (mongodb, name) = (mongodb(), database.name.clone());
    let verify = async |log: &'static str| {
        let mut command = command(CONSUMER, &[("MONGODB_URL", &mongodb), ("MONGODB_DB", &name), ("RUST_LOG", log)]);
        command.args(["verify", "--output", "json"]);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    };
    let Output { status, stdout, stderr } = verify("").await;
    let (answer, log) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert_eq!((status.code(), log.as_str(), answer.lines().count()), (Some(0), "", 1), "{answer}");
    assert!(answer.starts_with(r#"{"ok":true,"companies":[{"company":"MSFT","windows":1,"#), "{answer}");
    assert!(!verify("info").await.stderr.is_empty(), "who asks for a log has it");
    database.drop().await;
}

/// The broker of `e2e/servers` that speaks TLS alone; it ends with the test.
struct TlsBroker;

impl TlsBroker {
    fn act(what: &str) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../e2e/servers");
        assert!(Command::new(script).args([what, "tls-rabbitmq"]).status().unwrap().success(), "{what}");
    }
}

impl Drop for TlsBroker {
    fn drop(&mut self) {
        Self::act("kill");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_trusts_the_authority_its_address_names_and_a_renewed_certificate_costs_no_connection() {
    TlsBroker::act("reset");
    let _broker = TlsBroker;
    let (url, authority) =
        (support::address("STOCK_TEST_TLS_RABBITMQ_URL"), support::address("STOCK_TEST_TLS_AUTHORITY"));
    let (trusting, port, suspicious) = (format!("{url}?cacertfile={authority}"), free_port(), free_port());
    let publisher = |url: &str, port: u16| {
        let port = port.to_string();
        command(PUBLISHER, &[("RABBITMQ_URL", url), ("COMPANY", "TLS"), ("METRICS_PORT", &port)]).spawn().unwrap()
    };
    let (mut one, mut other) = (publisher(&trusting, port), publisher(&url, suspicious));
    let metric = async |port: u16, name: &str| {
        let page = reqwest::get(format!("http://127.0.0.1:{port}/metrics")).await.ok()?.text().await.ok()?;
        let line = page.lines().find(|line| line.starts_with(name))?.to_owned();
        line.rsplit(' ').next()?.parse::<f64>().ok()
    };
    let confirmed = async || metric(port, "stock_publisher_events_confirmed_total").await;
    let first = support::eventually("events are confirmed", async || confirmed().await.filter(|n| *n > 0.0)).await;
    let reconnects = metric(port, "stock_publisher_reconnects_total").await;
    TlsBroker::act("renew");
    // The broker looks at its files each second here; whoever has connected by then stays.
    support::eventually("far more are confirmed", async || confirmed().await.filter(|n| *n > first + 5000.0)).await;
    assert_eq!(metric(port, "stock_publisher_reconnects_total").await, reconnects);
    assert_eq!(support::status(&format!("http://127.0.0.1:{suspicious}/readyz")).await, 503);
    for child in [&mut one, &mut other] {
        child.kill().unwrap();
    }
    let Output { stdout, stderr, .. } = other.wait_with_output().unwrap();
    let printed = String::from_utf8([stdout, stderr].concat()).unwrap();
    assert!(printed.contains("UnknownIssuer"), "{printed}");
}

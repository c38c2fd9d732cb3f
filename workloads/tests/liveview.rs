//! The liveview against a real database, with a real WebSocket client.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "clippy knows tests, not their helpers")]

mod support;

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Document, doc};
use serde_json::Value;
use support::{Database, Running, company, eventually, mongodb, socket, status};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tokio_util::sync::CancellationToken;
use wire::Frame;
use workloads::database::{DatabaseArgs, make_indexes};
use workloads::liveview::{self, Args, Settings, windows};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn start(database: &Database) -> Running {
    let args = Args {
        database: DatabaseArgs {
            mongodb_url: Some(mongodb()),
            mongodb_db: Some(database.name.clone()),
            ..DatabaseArgs::default()
        },
        pod_name: Some("liveview-under-test".into()),
        shutdown_grace: Some("100".into()),
        ..Args::default()
    };
    let settings = Settings::parse(&args).await.unwrap();
    let listener = socket().await;
    let url = format!("http://{}", listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    let task = tokio::spawn(liveview::run(settings, listener, stop.clone()));
    let running = Running { stop, task, url };
    running.ready().await;
    running
}

async fn connect(running: &Running, path: &str) -> Socket {
    connect_async(format!("{}{path}", running.url.replace("http", "ws"))).await.unwrap().0
}

/// The next frame; pings in between are answered by the library.
async fn frame(socket: &mut Socket) -> Frame {
    loop {
        let message = timeout(Duration::from_secs(30), socket.next()).await.expect("a frame").unwrap().unwrap();
        if let Message::Text(text) = message {
            return serde_json::from_str(&text).unwrap();
        }
    }
}

async fn insert(database: &Database, document: Document) {
    database.windows.insert_one(document).await.unwrap();
}

async fn get(running: &Running, path: &str) -> (u16, Value) {
    let answer = reqwest::get(format!("{}{path}", running.url)).await.unwrap();
    (answer.status().as_u16(), serde_json::from_str(&answer.text().await.unwrap()).unwrap())
}

#[tokio::test]
async fn a_page_gets_everything_on_connect_and_each_change_soon() {
    let database = Database::new().await;
    for (name, price) in [("TSLA", 1.0), ("MSFT", 2.0), ("MSFT", 3.0)] {
        insert(&database, doc! {"company": name, "avgPrice": price}).await;
    }
    let running = start(&database).await;
    for path in ["/", "/ws"] {
        let mut socket = connect(&running, path).await;
        let frame = frame(&mut socket).await;
        let shown: Vec<_> = frame.prices.iter().map(|window| (window.company.as_str(), window.avg_price)).collect();
        assert_eq!(shown, [("MSFT", 3.0), ("TSLA", 1.0)], "the newest of each, sorted, foreign documents too");
        assert_eq!(frame.pod.as_deref(), Some("liveview-under-test"));
    }
    let mut socket = connect(&running, "/").await;
    frame(&mut socket).await;
    let inserted = Instant::now();
    insert(&database, doc! {"company": "AAPL", "avgPrice": 4.25, "window": 0_i64, "count": 1000_i64}).await;
    let update = frame(&mut socket).await;
    assert_eq!(
        (update.prices[0].company.as_str(), update.prices[0].avg_price, update.prices[0].count),
        ("AAPL", 4.25, Some(1000))
    );
    assert_eq!(update.prices.len(), 3, "each frame is whole");
    assert!(inserted.elapsed() < Duration::from_secs(5), "{:?}", inserted.elapsed());
    running.end().await;
    database.drop().await;
}

#[tokio::test]
async fn many_changes_make_few_frames() {
    let database = Database::new().await;
    let running = start(&database).await;
    let mut socket = connect(&running, "/").await;
    frame(&mut socket).await;
    let started = Instant::now();
    for price in 0..200 {
        insert(&database, doc! {"company": "MSFT", "avgPrice": f64::from(price)}).await;
    }
    let mut frames = 0;
    while frame(&mut socket).await.prices[0].avg_price < 199.0 {
        frames += 1;
    }
    let beats = started.elapsed().as_millis() / 500 + 2;
    assert!(frames <= beats, "{frames} frames in {:?}", started.elapsed());
    running.end().await;
    database.drop().await;
}

#[tokio::test]
async fn a_page_that_does_not_read_holds_nobody_up_and_misses_only_what_is_old() {
    let database = Database::new().await;
    // Wide frames fill the sleeping page's buffers quickly.
    let wide: Vec<Document> = (0..400)
        .map(|number| doc! {"company": format!("C{number:03}"), "avgPrice": 1.0, "writer": "w".repeat(2000)})
        .collect();
    database.windows.insert_many(wide).await.unwrap();
    let running = start(&database).await;
    let mut sleeping = connect(&running, "/").await;
    let mut awake = connect(&running, "/").await;
    frame(&mut awake).await;
    for price in 0..8 {
        insert(&database, doc! {"company": "C000", "avgPrice": f64::from(price) + 2.0}).await;
        while frame(&mut awake).await.prices[0].avg_price < f64::from(price) + 2.0 {}
    }
    let mut seen = 0;
    while frame(&mut sleeping).await.prices[0].avg_price < 9.0 {
        seen += 1;
    }
    assert!(seen <= 9, "{seen}");
    assert_eq!(running.metric("stock_liveview_clients{transport=\"websocket\"}").await, 2.0);
    running.end().await;
    database.drop().await;
}

#[tokio::test]
async fn a_deleted_newest_window_gives_way_to_the_one_before() {
    let database = Database::new().await;
    insert(&database, doc! {"company": "MSFT", "avgPrice": 1.0}).await;
    let newest = ObjectId::new();
    insert(&database, doc! {"_id": newest, "company": "MSFT", "avgPrice": 2.0}).await;
    let running = start(&database).await;
    let mut socket = connect(&running, "/").await;
    assert_eq!(frame(&mut socket).await.prices[0].avg_price, 2.0);
    database.windows.delete_one(doc! {"_id": newest}).await.unwrap();
    assert_eq!(frame(&mut socket).await.prices[0].avg_price, 1.0);
    running.end().await;
    database.drop().await;
}

#[tokio::test]
async fn a_dropped_collection_empties_the_page_and_a_new_one_fills_it() {
    let database = Database::new().await;
    insert(&database, doc! {"company": "MSFT", "avgPrice": 1.0}).await;
    let running = start(&database).await;
    let mut socket = connect(&running, "/").await;
    frame(&mut socket).await;
    database.windows.drop().await.unwrap();
    while !frame(&mut socket).await.prices.is_empty() {}
    insert(&database, doc! {"company": "TSLA", "avgPrice": 2.0}).await;
    assert_eq!(frame(&mut socket).await.prices[0].company, "TSLA");
    running.end().await;
    database.drop().await;
}

#[tokio::test]
async fn reading_the_newest_windows_touches_one_key_per_company_however_many_documents_there_are() {
    let database = Database::new().await;
    make_indexes(&database.windows).await.unwrap();
    let many: Vec<Document> = (0..3000)
        .map(|number| doc! {"company": format!("C{}", number % 3), "avgPrice": 1.0, "window": i64::from(number / 3)})
        .collect();
    database.windows.insert_many(many).await.unwrap();
    assert_eq!(windows::newest(&database.windows).await.unwrap().len(), 3);
    let explained = database
        .windows
        .client()
        .database(&database.name)
        .run_command(doc! {
            "explain": {
                "aggregate": database.windows.name(),
                "pipeline": windows::newest_pipeline().to_vec(),
                "cursor": {},
            },
            "verbosity": "executionStats",
        })
        .await
        .unwrap();
    let text = explained.to_string();
    assert!(text.contains("DISTINCT_SCAN"), "{text}");
    let keys: Vec<i64> = text
        .split("\"totalKeysExamined\": ")
        .skip(1)
        .map(|rest| rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap())
        .collect();
    assert!(!keys.is_empty() && keys.iter().all(|keys| *keys <= 10), "{keys:?} keys for 3 companies");
    database.drop().await;
}

#[tokio::test]
async fn the_json_api_serves_prices_and_the_history_of_a_company() {
    let (database, company) = (Database::new().await, company("^API"));
    for number in 0..5_i64 {
        insert(&database, doc! {"company": company.as_str(), "avgPrice": number as f64, "window": number}).await;
    }
    let running = start(&database).await;
    let (code, prices) = get(&running, "/api/prices").await;
    assert_eq!(
        (code, &prices["type"], &prices["prices"][0]["avgPrice"]),
        (200, &Value::from("prices"), &Value::from(4.0))
    );
    let path = format!("/api/companies/{}/windows", company.as_str().replace('^', "%5E"));
    let (code, history) = get(&running, &format!("{path}?limit=2")).await;
    assert_eq!((code, &history["company"]), (200, &Value::from(company.as_str())));
    let numbers: Vec<i64> =
        history["windows"].as_array().unwrap().iter().map(|window| window["window"].as_i64().unwrap()).collect();
    assert_eq!(numbers, [4, 3]);
    let (code, error) = get(&running, &format!("{path}?limit=0")).await;
    assert_eq!((code, &error["error"]), (400, &Value::from("limit must be a whole number from 1 to 500")));
    assert_eq!(get(&running, "/api/companies/A%20B/windows").await.0, 400);
    assert_eq!(get(&running, "/api/companies/UNKNOWN/windows").await.1["windows"], Value::Array(vec![]));
    running.end().await;
    database.drop().await;
}

#[tokio::test]
async fn the_page_and_its_files_come_from_here_alone() {
    let database = Database::new().await;
    let running = start(&database).await;
    for (path, kind) in [("/", "text/html"), ("/page.js", "text/javascript"), ("/page.css", "text/css")] {
        let answer = reqwest::get(format!("{}{path}", running.url)).await.unwrap();
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        assert!(header("content-type").starts_with(kind));
        assert!(header("content-security-policy").contains("default-src 'none'"));
        assert_eq!(header("x-content-type-options"), "nosniff");
        let text = answer.text().await.unwrap();
        let outside = text.replace("http://www.w3.org/2000/svg", "");
        assert!(!outside.contains("http://") && !outside.contains("https://"), "{path} names another host");
    }
    running.end().await;
    database.drop().await;
}

#[tokio::test]
async fn server_sent_events_carry_the_same_frames() {
    let database = Database::new().await;
    insert(&database, doc! {"company": "MSFT", "avgPrice": 1.5}).await;
    let running = start(&database).await;
    let mut answer = reqwest::get(format!("{}/events", running.url)).await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let chunk = timeout(Duration::from_secs(10), answer.chunk()).await.unwrap().unwrap().unwrap();
    let text = String::from_utf8(chunk.to_vec()).unwrap();
    let frame: Frame = serde_json::from_str(text.trim().strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(frame.prices[0].avg_price, 1.5);
    running.end().await;
    assert!(
        matches!(timeout(Duration::from_secs(5), answer.chunk()).await.unwrap(), Ok(None)),
        "the stream ends in order"
    );
    database.drop().await;
}

#[tokio::test]
async fn a_stop_is_told_to_balancers_first_and_to_pages_with_code_1001() {
    let database = Database::new().await;
    let running = start(&database).await;
    let mut socket = connect(&running, "/").await;
    frame(&mut socket).await;
    let readyz = format!("{}/readyz", running.url);
    running.stop.cancel();
    eventually("not ready while still serving", async || (status(&readyz).await == 503).then_some(())).await;
    let close = loop {
        let message = timeout(Duration::from_secs(5), socket.next()).await.unwrap().unwrap();
        if let Message::Close(close) = message.unwrap() {
            break close.unwrap();
        }
    };
    assert_eq!(close.code, CloseCode::Away);
    drop(socket.close(None).await);
    running.end().await;
    database.drop().await;
}

#[tokio::test]
async fn a_page_may_send_anything_and_only_harms_itself() {
    let database = Database::new().await;
    let running = start(&database).await;
    let mut socket = connect(&running, "/").await;
    frame(&mut socket).await;
    drop(socket.send(Message::text("x".repeat(100_000))).await);
    eventually("the talker is put out", async || {
        (running.metric("stock_liveview_clients{transport=\"websocket\"}").await == 0.0).then_some(())
    })
    .await;
    assert_eq!(status(&format!("{}/readyz", running.url)).await, 200);
    running.end().await;
    database.drop().await;
}

//! The liveview against a real database, with a real WebSocket client.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "clippy knows tests, not their helpers")]

mod support;

use std::time::Duration;

use futures::{FutureExt, SinkExt, StreamExt};
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Document, doc};
use serde_json::Value;
use support::{Database, Running, company, eventually, mongodb, socket, status};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tokio_util::sync::CancellationToken;
use wire::Frame;
use wire::frame::FrameType;
use workloads::database::{DatabaseArgs, make_indexes};
use workloads::liveview::{self, Args, Settings, windows};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn start(database: &Database) -> Running {
    start_with(Args { shutdown_spread: Some("100".into()), ..arguments(database, &mongodb()) }).await
}

fn arguments(database: &Database, address: &str) -> Args {
    Args {
        database: DatabaseArgs {
            mongodb_url: Some(address.into()),
            mongodb_db: Some(database.name.clone()),
            ..DatabaseArgs::default()
        },
        pod_name: Some("liveview-under-test".into()),
        shutdown_grace: Some("100".into()),
        ..Args::default()
    }
}

async fn start_with(args: Args) -> Running {
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
async fn a_page_that_says_where_it_stands_does_not_wait_for_the_beat_of_whole_frames() {
    let database = Database::new().await;
    let running = start(&database).await;
    let (mut whole, mut page) = (connect(&running, "/").await, connect(&running, "/ws?since=").await);
    frame(&mut whole).await;
    frame(&mut page).await;
    let mut sooner = 0;
    // A machine that is busy elsewhere for half a second decides one round, not all.
    for price in 1..=10 {
        insert(&database, doc! {"company": "MSFT", "avgPrice": f64::from(price)}).await;
        while frame(&mut page).await.prices.first().is_none_or(|window| window.avg_price < f64::from(price)) {}
        let whole_came = matches!(whole.next().now_or_never(), Some(Some(Ok(Message::Text(_)))));
        sooner += u32::from(!whole_came);
    }
    assert!(sooner >= 5, "{sooner} of 10");
    insert(&database, doc! {"company": "MSFT", "avgPrice": 11.0}).await;
    while frame(&mut whole).await.prices[0].avg_price < 11.0 {}
    running.end().await;
    database.drop().await;
}

/// Windows of so many companies that a frame of them all is larger than any buffer.
async fn insert_wide(database: &Database) {
    let wide: Vec<Document> = (0..400)
        .map(|number| doc! {"company": format!("C{number:03}"), "avgPrice": 1.0, "writer": "w".repeat(2000)})
        .collect();
    database.windows.insert_many(wide).await.unwrap();
}

#[tokio::test]
async fn the_answers_to_a_pages_pings_come_between_whole_frames() {
    let database = Database::new().await;
    insert_wide(&database).await;
    let running = start(&database).await;
    let mut socket = connect(&running, "/").await;
    frame(&mut socket).await;
    // Frames larger than any buffer are under way while the pings arrive.
    for price in 2..6_u8 {
        insert(&database, doc! {"company": "C000", "avgPrice": f64::from(price)}).await;
        for number in 0..20 {
            socket.send(Message::Ping(vec![20 * price + number].into())).await.unwrap();
        }
    }
    let (mut answers, mut newest) = (Vec::new(), 1.0);
    while answers.last() != Some(&119) || newest < 5.0 {
        match timeout(Duration::from_secs(30), socket.next()).await.expect("a message").unwrap().unwrap() {
            Message::Text(text) => {
                newest = serde_json::from_str::<Frame>(&text).unwrap().prices[0].avg_price;
            }
            Message::Pong(number) => answers.push(number[0]),
            Message::Ping(_) => {}
            other => panic!("{other:?}"),
        }
    }
    // The newest of several may be answered for all of them (RFC 6455, 5.5.3).
    assert!(answers.is_sorted(), "{answers:?}");
    running.end().await;
    database.drop().await;
}

#[tokio::test]
async fn a_page_that_does_not_read_holds_nobody_up_and_misses_only_what_is_old() {
    let database = Database::new().await;
    // Wide frames fill the sleeping page's buffers quickly.
    insert_wide(&database).await;
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
async fn a_database_without_change_streams_is_read_again_and_again() {
    let database = Database::at(&support::address("STOCK_TEST_STANDALONE_URL")).await;
    insert(&database, doc! {"company": "MSFT", "avgPrice": 1.0}).await;
    let address = support::address("STOCK_TEST_STANDALONE_URL");
    let running = start_with(Args { shutdown_spread: Some("100".into()), ..arguments(&database, &address) }).await;
    let (mut whole, mut changes) = (connect(&running, "/").await, connect(&running, "/ws?since=").await);
    let first = frame(&mut changes).await;
    assert_eq!((first.kind, frame(&mut whole).await.prices.len()), (FrameType::Prices, 1));
    insert(&database, doc! {"company": "TSLA", "avgPrice": 2.0}).await;
    assert_eq!(frame(&mut whole).await.prices.len(), 2);
    let change = frame(&mut changes).await;
    assert_eq!((change.kind, change.prices.len(), change.prices[0].company.as_str()), (FrameType::Changes, 1, "TSLA"));
    // Another pod counts for itself: it tells all.
    let other = start_with(Args { shutdown_spread: Some("100".into()), ..arguments(&database, &address) }).await;
    let mut socket = connect(&other, &format!("/ws?since={}", change.at.unwrap())).await;
    assert_eq!(frame(&mut socket).await.kind, FrameType::Prices);
    running.end().await;
    other.end().await;
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
async fn the_pages_of_a_history_meet_without_gap_or_overlap_and_cost_what_they_show() {
    let (database, company) = (Database::new().await, company("PAGED"));
    make_indexes(&database.windows).await.unwrap();
    let others = (0..5000).map(|number| doc! {"company": "OTHER", "avgPrice": 1.0, "window": number});
    let ours = (0..1000_i64).map(|number| doc! {"company": company.as_str(), "avgPrice": 1.0, "window": number});
    database.windows.insert_many(others.chain(ours)).await.unwrap();
    let running = start(&database).await;
    let (mut seen, mut before, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let path = format!("/api/companies/{company}/windows?limit=400&before={before}");
        let (code, page) = get(&running, &path).await;
        assert_eq!(code, 200);
        let windows = page["windows"].as_array().unwrap();
        seen.extend(windows.iter().map(|window| window["window"].as_i64().unwrap()));
        pages += 1;
        match page["next"].as_str() {
            Some(next) => before = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(pages, 3);
    assert_eq!(seen, (0..1000).rev().collect::<Vec<_>>());
    // In the middle as at the end: as many keys and documents as are shown.
    for before in [None, Some(before.as_str())] {
        let explained = database
            .windows
            .client()
            .database(&database.name)
            .run_command(doc! {
                "explain": {
                    "find": database.windows.name(), "filter": windows::selection(&company, before),
                    "sort": {"_id": -1}, "limit": 50,
                },
                "verbosity": "executionStats",
            })
            .await
            .unwrap();
        let stats = explained.get_document("executionStats").unwrap();
        assert_eq!(stats.get_i32("totalKeysExamined").unwrap(), 50, "{explained}");
        assert_eq!(stats.get_i32("totalDocsExamined").unwrap(), 50);
    }
    running.end().await;
    database.drop().await;
}

#[tokio::test]
async fn a_history_goes_on_behind_documents_that_are_no_windows() {
    let (database, company) = (Database::new().await, company("FOREIGN"));
    for number in 0..6_i64 {
        let mut document = doc! {"company": company.as_str(), "window": number};
        if number % 3 != 1 {
            document.insert("avgPrice", 1.0);
        }
        insert(&database, document).await;
    }
    let running = start(&database).await;
    let (mut seen, mut before) = (Vec::new(), String::new());
    loop {
        let path = format!("/api/companies/{company}/windows?limit=2&before={before}");
        let page = get(&running, &path).await.1;
        seen.extend(page["windows"].as_array().unwrap().iter().map(|window| window["window"].as_i64().unwrap()));
        match page["next"].as_str() {
            Some(next) => before = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(seen, [5, 3, 2, 0]);
    running.end().await;
    database.drop().await;
}

#[tokio::test]
async fn sparklines_of_several_companies_come_with_one_request_oldest_first() {
    let database = Database::new().await;
    for (company, price) in [("A", 1.0), ("B", 9.0), ("A", 2.0)] {
        insert(&database, doc! {"company": company, "avgPrice": price}).await;
    }
    let running = start(&database).await;
    let (code, lines) = get(&running, "/api/sparklines?companies=A,not%20ours,B,NONE").await;
    assert_eq!(code, 200);
    assert_eq!(lines["sparklines"]["A"]["prices"], serde_json::json!([1.0, 2.0]));
    assert_eq!(lines["sparklines"]["B"]["prices"], serde_json::json!([9.0]));
    assert_eq!(lines["sparklines"]["NONE"], serde_json::json!({"prices": []}));
    assert_eq!(get(&running, "/api/sparklines?companies=a%20b").await.0, 400);
    assert_eq!(get(&running, &format!("/api/sparklines?companies=A{}", ",B".repeat(60))).await.0, 400);
    running.end().await;
    database.drop().await;
}

#[tokio::test]
async fn the_description_names_every_route_of_the_api_and_each_answers() {
    let database = Database::new().await;
    insert(&database, doc! {"company": "MSFT", "avgPrice": 1.5}).await;
    let running = start(&database).await;
    let (code, description) = get(&running, "/api/openapi.json").await;
    assert_eq!((code, &description["openapi"]), (200, &Value::from("3.1.0")));
    let paths: Vec<&String> = description["paths"].as_object().unwrap().keys().collect();
    let expected = ["companies/{symbol}/windows", "events", "openapi.json", "prices", "sparklines"];
    assert_eq!(paths, expected.map(|path| format!("/api/{path}")).iter().collect::<Vec<_>>());
    for path in paths {
        let example = path.replace("{symbol}", "MSFT").replace("sparklines", "sparklines?companies=MSFT");
        assert_eq!(status(&format!("{}{example}", running.url)).await, 200, "{path}");
    }
    running.end().await;
    database.drop().await;
}

#[tokio::test]
async fn the_page_and_its_files_come_from_here_alone() {
    let database = Database::new().await;
    let running = start(&database).await;
    for (path, kind) in [("/", "text/html"), ("/page/main.js", "text/javascript"), ("/page/page.css", "text/css")] {
        let answer = reqwest::get(format!("{}{path}", running.url)).await.unwrap();
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        assert!(header("content-type").starts_with(kind));
        assert!(header("content-security-policy").contains("default-src 'none'"));
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert!(!answer.headers().contains_key("set-cookie"));
        let text = answer.text().await.unwrap();
        let outside = text.replace("http://www.w3.org/2000/svg", "");
        assert!(!outside.contains("http://") && !outside.contains("https://"), "{path} names another host");
    }
    assert_eq!(status(&format!("{}/page/none.js", running.url)).await, 404);
    running.end().await;
    database.drop().await;
}

#[tokio::test]
async fn the_pages_files_are_compressed_and_not_sent_again_to_who_has_them() {
    let database = Database::new().await;
    let running = start(&database).await;
    let client = reqwest::Client::new();
    let ask = async |name: &str, value: &str| {
        let url = format!("{}/page/table.js", running.url);
        client.get(url).header(name, value).send().await.unwrap()
    };
    let plain = ask("accept-encoding", "identity").await;
    assert!(!plain.headers().contains_key("content-encoding"));
    let whole = plain.bytes().await.unwrap().len();
    for encoding in ["br", "gzip"] {
        let answer = ask("accept-encoding", encoding).await;
        assert_eq!(answer.headers()["content-encoding"], encoding);
        assert_eq!(answer.headers()["vary"], "accept-encoding");
        let tag = answer.headers()["etag"].to_str().unwrap().to_owned();
        assert!(answer.bytes().await.unwrap().len() < whole / 2, "{encoding}");
        let url = format!("{}/page/table.js", running.url);
        let again = client.get(url).header("accept-encoding", encoding).header("if-none-match", &tag);
        let again = again.send().await.unwrap();
        assert_eq!((again.status().as_u16(), again.headers()["etag"].to_str().unwrap()), (304, tag.as_str()));
        assert!(again.bytes().await.unwrap().is_empty());
    }
    assert_eq!(ask("if-none-match", "\"older\"").await.status().as_u16(), 200);
    running.end().await;
    database.drop().await;
}

#[tokio::test]
async fn who_says_where_it_stands_gets_everything_once_and_then_what_changed() {
    let database = Database::new().await;
    for company in ["AAPL", "MSFT", "TSLA"] {
        insert(&database, doc! {"company": company, "avgPrice": 1.0}).await;
    }
    let running = start(&database).await;
    let mut socket = connect(&running, "/ws?since=").await;
    let first = frame(&mut socket).await;
    assert_eq!((first.kind, first.prices.len()), (FrameType::Prices, 3));
    insert(&database, doc! {"company": "MSFT", "avgPrice": 2.0}).await;
    let change = loop {
        let change = frame(&mut socket).await;
        assert_eq!(change.kind, FrameType::Changes);
        if let [window] = change.prices.as_slice()
            && window.avg_price == 2.0
        {
            break change;
        }
    };
    drop(socket);
    // On another pod, from where it stood.
    insert(&database, doc! {"company": "TSLA", "avgPrice": 3.0}).await;
    let other = start(&database).await;
    // A pod that has only just read the database does not know since when it is so, nor what is gone since: it says all, once.
    let mut socket = connect(&other, &format!("/ws?since={}", change.at.unwrap())).await;
    let resumed = frame(&mut socket).await;
    assert_eq!((resumed.kind, resumed.prices.len()), (FrameType::Prices, 3));
    assert!(resumed.prices.iter().any(|window| window.company == "TSLA" && window.avg_price == 3.0), "{resumed:?}");
    // On the first pod, which followed all the time, exactly that.
    eventually("the first pod knows of it too", async || {
        (get(&running, "/api/prices").await.1["prices"][2]["avgPrice"] == 3.0).then_some(())
    })
    .await;
    let mut socket = connect(&running, &format!("/ws?since={}", first.at.unwrap())).await;
    let resumed = frame(&mut socket).await;
    let companies: Vec<_> = resumed.prices.iter().map(|window| window.company.as_str()).collect();
    assert_eq!(companies, ["MSFT", "TSLA"]);
    running.end().await;
    other.end().await;
    database.drop().await;
}

#[tokio::test]
async fn a_page_that_comes_to_a_new_pod_forgets_a_company_that_went_before_that_pod_was_there() {
    let database = Database::new().await;
    for company in ["GONE", "MSFT"] {
        insert(&database, doc! {"company": company, "avgPrice": 1.0}).await;
    }
    let running = start(&database).await;
    let mut socket = connect(&running, "/ws?since=").await;
    let first = frame(&mut socket).await;
    assert_eq!((first.kind, first.prices.len()), (FrameType::Prices, 2));
    drop(socket);
    running.end().await;
    database.windows.delete_many(doc! {"company": "GONE"}).await.unwrap();
    let other = start(&database).await;
    let mut socket = connect(&other, &format!("/ws?since={}", first.at.unwrap())).await;
    let whole = frame(&mut socket).await;
    let companies: Vec<_> = whole.prices.iter().map(|window| window.company.as_str()).collect();
    assert_eq!((whole.kind, companies), (FrameType::Prices, vec!["MSFT"]));
    other.end().await;
    database.drop().await;
}

/// The next event's id and frame.
async fn event(answer: &mut reqwest::Response) -> (String, Frame) {
    let chunk = timeout(Duration::from_secs(15), answer.chunk()).await.unwrap().unwrap().unwrap();
    let text = String::from_utf8(chunk.to_vec()).unwrap();
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned());
    (field("id:").unwrap(), serde_json::from_str(&field("data:").unwrap()).unwrap())
}

#[tokio::test]
async fn server_sent_events_go_on_from_the_last_event_id() {
    let database = Database::new().await;
    insert(&database, doc! {"company": "MSFT", "avgPrice": 1.5}).await;
    insert(&database, doc! {"company": "TSLA", "avgPrice": 1.5}).await;
    let running = start(&database).await;
    let url = format!("{}/api/events", running.url);
    let mut answer = reqwest::get(&url).await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    assert_eq!(answer.headers()["x-accel-buffering"], "no");
    let (id, first) = event(&mut answer).await;
    assert_eq!((first.kind, first.prices.len(), first.at.as_deref()), (FrameType::Prices, 2, Some(id.as_str())));
    drop(answer);
    insert(&database, doc! {"company": "TSLA", "avgPrice": 2.5}).await;
    eventually("the change is known", async || {
        (get(&running, "/api/prices").await.1["prices"][1]["avgPrice"] == 2.5).then_some(())
    })
    .await;
    let again = reqwest::Client::new().get(&url).header("last-event-id", &id);
    let mut answer = again.send().await.unwrap();
    let (_, resumed) = event(&mut answer).await;
    assert_eq!(resumed.kind, FrameType::Changes);
    assert_eq!(resumed.prices.iter().map(|window| window.avg_price).collect::<Vec<_>>(), [2.5]);
    running.end().await;
    let rest = async { while let Ok(Some(_)) = answer.chunk().await {} };
    timeout(Duration::from_secs(5), rest).await.expect("the stream ends in order");
    database.drop().await;
}

#[tokio::test]
async fn who_finds_no_place_is_told_to_come_again_and_may_when_one_is_free() {
    let database = Database::new().await;
    let args = Args { max_readers: Some("2".into()), ..arguments(&database, &mongodb()) };
    let running = start_with(args).await;
    let mut first = connect(&running, "/").await;
    frame(&mut first).await;
    let events = reqwest::get(format!("{}/api/events", running.url)).await.unwrap();
    let url = format!("{}/ws", running.url.replace("http", "ws"));
    let Err(tokio_tungstenite::tungstenite::Error::Http(refusal)) = connect_async(&url).await else {
        panic!("a third reader was let in");
    };
    assert_eq!((refusal.status().as_u16(), &refusal.headers()["retry-after"]), (503, &"5".parse().unwrap()));
    let refusal = reqwest::get(format!("{}/api/events", running.url)).await.unwrap();
    assert_eq!((refusal.status().as_u16(), &refusal.headers()["retry-after"]), (503, &"5".parse().unwrap()));
    let sentence: Value = serde_json::from_str(&refusal.text().await.unwrap()).unwrap();
    assert!(sentence["error"].as_str().unwrap().contains("as many readers as it takes"), "{sentence}");
    assert_eq!(status(&format!("{}/", running.url)).await, 200, "the page itself is always served");
    assert_eq!(status(&format!("{}/readyz", running.url)).await, 200);
    assert_eq!(running.metric("stock_liveview_refused_total").await, 2.0);
    drop(events);
    drop(first);
    eventually("a place is free", async || connect_async(&url).await.ok().map(drop)).await;
    running.end().await;
    database.drop().await;
}

#[tokio::test]
async fn a_company_whose_consumers_lease_is_over_is_named_with_its_time_until_one_works_again() {
    let database = Database::new().await;
    insert(&database, doc! {"company": "AAPL", "avgPrice": 1.0}).await;
    insert(&database, doc! {"company": "MSFT", "avgPrice": 1.0}).await;
    let leases = database.windows.client().database(&database.name).collection::<Document>("stocks.leases");
    let lease = async |company: &str, until: i64| {
        let until = mongodb::bson::DateTime::from_millis(until);
        let set = doc! {"$set": {"holder": "h", "until": until}};
        leases.update_one(doc! {"_id": company}, set).upsert(true).await.unwrap();
    };
    lease("AAPL", 1_800_000_000_000 - 100_000_000_000).await;
    lease("MSFT", 4_000_000_000_000).await;
    lease("GONE", 0).await;
    let running = start(&database).await;
    let mut socket = connect(&running, "/").await;
    let told = loop {
        let told = frame(&mut socket).await.unattended;
        if !told.is_empty() {
            break told;
        }
    };
    assert_eq!(told, [("AAPL".to_owned(), "2023-11-14T22:13:20Z".to_owned())].into());
    lease("AAPL", 4_000_000_000_000).await;
    while !frame(&mut socket).await.unattended.is_empty() {}
    running.end().await;
    database.drop().await;
}

#[tokio::test]
async fn a_stop_is_told_to_balancers_first_and_to_pages_with_code_1012_each_at_a_moment_of_its_own() {
    let database = Database::new().await;
    let args = Args { shutdown_spread: Some("1000".into()), ..arguments(&database, &mongodb()) };
    let running = start_with(args).await;
    let mut sockets = Vec::new();
    for _ in 0..40 {
        let mut socket = connect(&running, "/").await;
        frame(&mut socket).await;
        sockets.push(socket);
    }
    let readyz = format!("{}/readyz", running.url);
    running.stop.cancel();
    eventually("not ready while still serving", async || (status(&readyz).await == 503).then_some(())).await;
    let goodbyes = sockets.into_iter().map(async |mut socket| {
        loop {
            let message = timeout(Duration::from_secs(5), socket.next()).await.unwrap().unwrap();
            if let Message::Close(close) = message.unwrap() {
                drop(socket.close(None).await);
                return (close.unwrap().code, Instant::now());
            }
        }
    });
    let goodbyes = futures::future::join_all(goodbyes).await;
    assert!(goodbyes.iter().all(|(code, _)| *code == CloseCode::Restart), "{goodbyes:?}");
    let moments = goodbyes.iter().map(|(_, moment)| *moment);
    let apart = moments.clone().max().unwrap() - moments.min().unwrap();
    assert!(apart > Duration::from_millis(300), "all within {apart:?}");
    running.end().await;
    database.drop().await;
}

#[tokio::test]
async fn who_keeps_a_connection_is_told_that_it_ends_before_it_does() {
    let database = Database::new().await;
    let running = start_with(Args { shutdown_grace: Some("2000".into()), ..arguments(&database, &mongodb()) }).await;
    let connection = async || {
        let answer = reqwest::get(format!("{}/api/prices", running.url)).await.unwrap();
        answer.headers().get("connection").cloned()
    };
    assert_eq!(connection().await, None);
    running.stop.cancel();
    eventually("told to close", async || connection().await.filter(|told| told == "close").map(drop)).await;
    // Sockets are told in their own way.
    drop(connect(&running, "/ws").await);
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

#[tokio::test]
async fn a_page_that_says_goodbye_gets_it_back() {
    let database = Database::new().await;
    let running = start(&database).await;
    let mut socket = connect(&running, "/").await;
    frame(&mut socket).await;
    let goodbye = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    socket.send(Message::Close(Some(goodbye))).await.unwrap();
    // What was under way comes first.
    let answer = async {
        loop {
            let message = socket.next().await.expect("an answer before the end").unwrap();
            if message.is_close() {
                break message;
            }
        }
    };
    let answer = timeout(Duration::from_secs(10), answer).await.unwrap();
    assert!(matches!(&answer, Message::Close(Some(frame)) if frame.code == CloseCode::Normal), "{answer:?}");
    running.end().await;
    database.drop().await;
}

#[tokio::test]
async fn whatever_is_asked_wrongly_is_refused_in_the_words_of_the_api() {
    let database = Database::new().await;
    let running = start(&database).await;
    for path in [
        "/api/sparklines",
        "/api/sparklines?companies=A&companies=B",
        "/api/companies/MSFT/windows?limit=1&limit=2",
        "/api/companies/MSFT/windows?limit=many",
        "/api/companies/%FF/windows",
    ] {
        let (code, body) = get(&running, path).await;
        assert_eq!(code, 400, "{path}");
        assert!(body["error"].as_str().is_some_and(|error| !error.is_empty()), "{path}: {body}");
    }
    running.end().await;
    database.drop().await;
}

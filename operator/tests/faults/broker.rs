//! The operator is killed at each of its writes to a real broker in turn, before the write and after it.
//! Rule: the next one finds what was made and makes the rest; it declares nothing anew that is there.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::Method;
use axum::response::Response;
use futures::future::pending;
use operator::broker::decision::{Seen, next_steps, policies};
use operator::broker::management::{Management, Queue};
use operator::broker::{Wanted, converge};
use operator::web::Web;
use reqwest::Client;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::rabbitmq::wanted;
use crate::relay::Moment;
use crate::world::say;

/// Between the operator and the management interface: kills the operator at the given write, counted from 1.
struct Relay {
    url: String,
    writes: Arc<Mutex<Vec<String>>>,
    dead: CancellationToken,
}

impl Relay {
    async fn new(server: &str, crash: Option<(usize, Moment)>) -> Self {
        let (writes, dead, http) = (Arc::<Mutex<Vec<String>>>::default(), CancellationToken::new(), Client::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answer = {
            let (writes, dead, server) = (writes.clone(), dead.clone(), server.to_owned());
            move |request: Request| {
                let (writes, dead, http, server) = (writes.clone(), dead.clone(), http.clone(), server.clone());
                async move {
                    let write = (request.method() != Method::GET).then(|| {
                        let mut writes = writes.lock().unwrap();
                        writes.push(format!("{} {}", request.method(), request.uri().path()));
                        writes.len()
                    });
                    let moment = crash.filter(|(at, _)| write == Some(*at)).map(|(_, moment)| moment);
                    if dead.is_cancelled() {
                        return pending().await;
                    }
                    if moment == Some(Moment::Before) {
                        dead.cancel();
                        return pending().await;
                    }
                    let answer = forward(&http, &server, request).await;
                    if moment == Some(Moment::After) {
                        dead.cancel();
                        return pending().await;
                    }
                    answer
                }
            }
        };
        let app = Router::new().fallback(answer);
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, writes, dead }
    }
}

async fn forward(http: &Client, server: &str, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let url = format!("{server}{}", head.uri);
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let mut headers = head.headers;
    headers.remove("host");
    let answer = http.request(head.method, url).headers(headers).body(body).send().await.unwrap();
    let status = answer.status();
    let mut response = Response::new(Body::from(answer.bytes().await.unwrap()));
    *response.status_mut() = status;
    response
}

async fn look(http: &Web, wanted: &Wanted) -> Seen {
    let management = Management { http, url: &wanted.management_url, login: &wanted.login, virtual_host: "/" };
    Seen {
        nodes: management.nodes().await.unwrap(),
        policies: management.policies().await.unwrap(),
        queues: management.queues().await.unwrap(),
        ..Seen::default()
    }
}

async fn delete(wanted: &Wanted, path: &str) {
    let request = Client::new().delete(format!("{}/api/{path}", wanted.management_url));
    request.basic_auth(&wanted.login.user, Some(&wanted.login.password)).send().await.unwrap();
}

/// Lets an operator work on a broker without policies and without the queues until it has nothing to do or dies; then the next one.
/// Returns how many writes the first one made.
async fn run(http: &Web, crash: Option<(usize, Moment)>) -> usize {
    let wanted = wanted(&["MSFT", "^GSPC", "BRK.B"]);
    for (name, _) in policies() {
        delete(&wanted, &format!("policies/%2F/{name}")).await;
    }
    let relay = Relay::new(&wanted.management_url, crash).await;
    let disturbed = Wanted { management_url: relay.url.clone(), ..wanted.clone() };
    let died = tokio::select! {
        () = relay.dead.cancelled() => true,
        report = converge(http, &disturbed) => { report.unwrap(); false }
    };
    assert_eq!(died, crash.is_some(), "{crash:?}");
    let writes = relay.writes.lock().unwrap().clone();
    if died {
        let next = Relay::new(&wanted.management_url, None).await;
        let missing = next_steps(&wanted, &look(http, &wanted).await).len();
        converge(http, &Wanted { management_url: next.url.clone(), ..wanted.clone() }).await.unwrap();
        let made = next.writes.lock().unwrap().clone();
        // Fewer, when a write beside the last one was still under way.
        assert!(made.len() <= missing, "killed at {crash:?} after {writes:?} it made {made:?}");
    }
    let seen = look(http, &wanted).await;
    assert_eq!(next_steps(&wanted, &seen), [], "killed at {crash:?}");
    for (name, policy) in policies() {
        assert_eq!(seen.policies.get(name), Some(&policy), "killed at {crash:?}");
    }
    for company in &wanted.companies {
        let queue: &Queue = &seen.queues[company];
        assert_eq!(queue.queue_type.as_deref(), Some("quorum"), "killed at {crash:?}");
        let path = company.replace('^', "%5E");
        delete(&wanted, &format!("queues/%2F/{path}")).await;
    }
    writes.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_write_to_the_broker_the_operator_ends_in_the_same_world() {
    let began = Instant::now();
    let http = Web::public().unwrap();
    let writes = run(&http, None).await;
    for write in 1..=writes {
        for moment in [Moment::Before, Moment::After] {
            run(&http, Some((write, moment))).await;
        }
    }
    say(&format!("broker: {writes} writes, {} crash points in {:.0?}", 2 * writes, began.elapsed()));
}

//! Requests at a steady rate, as browsers make them, from outside of the cluster.
//! Rule: a request fails when its client may not ask again. A GET whose connection ends before the head of an answer may be asked once more, on a new
//! connection (RFC 9112, 9.3.1): every browser does so for kept connections, Firefox for new ones too, and those are counted by themselves. A
//! connection that is refused is a failure, and so is whatever happens to the second asking.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Kept connections, as many browsers have them.
const CONNECTIONS: usize = 50;
/// A user is gone after this long.
const PATIENCE: Duration = Duration::from_secs(15);
/// Most failures that are kept with their words.
const KEPT: usize = 10;

/// What happened to the requests.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Answered with 200.
    pub answered: u64,
    /// Failed for their user.
    pub failed: u64,
    /// The first of those.
    pub failures: Vec<String>,
    /// Asked once more, for their kept connection had ended.
    pub repeated: u64,
    /// Asked once more, for a connection that had just been made was cut: what a server that is killed takes along is what its kernel accepted
    /// for it in its last millisecond.
    pub cut: u64,
    /// The slowest answer.
    pub slowest: Duration,
    /// Answers by the pod that gave them.
    pub by_pod: BTreeMap<String, u64>,
}

/// Running requests.
pub struct Load {
    tally: Arc<Mutex<Tally>>,
    began: Mutex<Instant>,
    _browsers: JoinSet<()>,
}

impl Load {
    /// Begins to ask for `/api/prices`, `rate` times per second in all; each browser knows one of the `addresses`.
    pub fn start(addresses: &[String], rate: u32) -> Self {
        let tally = Arc::new(Mutex::new(Tally::default()));
        let mut browsers = JoinSet::new();
        let pause = Duration::from_secs(1) * u32::try_from(CONNECTIONS).unwrap_or(u32::MAX) / rate;
        for number in 0..CONNECTIONS {
            let address = addresses[number % addresses.len()].clone();
            browsers.spawn(browse(Browser { address, connection: None, tally: tally.clone() }, pause));
        }
        Self { tally, began: Mutex::new(Instant::now()), _browsers: browsers }
    }

    /// What happened since the start, or since it was asked last; and requests per second.
    pub fn take(&self) -> (Tally, f64) {
        let tally = std::mem::take(&mut *self.tally.lock().unwrap_or_else(PoisonError::into_inner));
        let mut began = self.began.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = began.elapsed().as_secs_f64();
        *began = Instant::now();
        let rate = (tally.answered + tally.failed) as f64 / seconds;
        (tally, rate)
    }
}

struct Browser {
    address: String,
    connection: Option<SendRequest<Empty<Bytes>>>,
    tally: Arc<Mutex<Tally>>,
}

async fn browse(mut browser: Browser, pause: Duration) {
    let mut tick = interval(pause);
    // A slow answer must not thin out the load.
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    loop {
        tick.tick().await;
        let start = Instant::now();
        let outcome = match timeout(PATIENCE, browser.get()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(anyhow!("no answer within {} s", PATIENCE.as_secs())),
        };
        browser.note(|tally| match outcome {
            Ok(pod) => {
                tally.answered += 1;
                tally.slowest = tally.slowest.max(start.elapsed());
                *tally.by_pod.entry(pod).or_default() += 1;
            }
            Err(error) => {
                tally.failed += 1;
                if tally.failures.len() < KEPT {
                    tally.failures.push(format!("{error:#}"));
                }
            }
        });
    }
}

impl Browser {
    fn note(&self, change: impl FnOnce(&mut Tally)) {
        change(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Asks, once more if need be, and gives the name of the pod that answered.
    async fn get(&mut self) -> Result<String> {
        // Taken out, so that a request that is given up leaves no half of an answer behind.
        let kept = self.connection.take().filter(|kept| !kept.is_closed());
        let was_kept = kept.is_some();
        match self.ask_on(kept).await {
            Err(Unanswered::Closed(_)) if was_kept => self.note(|tally| tally.repeated += 1),
            Err(Unanswered::Closed(_)) => self.note(|tally| tally.cut += 1),
            Err(Unanswered::Wrong(error)) => return Err(error),
            Ok(pod) => return Ok(pod),
        }
        self.ask_on(None).await.map_err(|unanswered| match unanswered {
            Unanswered::Closed(error) => anyhow!(error).context("a second connection ended without an answer"),
            Unanswered::Wrong(error) => error,
        })
    }

    /// Asks on a connection, a new one if there is none, and keeps it.
    async fn ask_on(&mut self, kept: Option<SendRequest<Empty<Bytes>>>) -> Result<String, Unanswered> {
        let mut connection = match kept {
            Some(kept) => kept,
            None => self.connect().await.map_err(Unanswered::Wrong)?,
        };
        let pod = ask(&mut connection).await?;
        self.connection = Some(connection);
        Ok(pod)
    }

    async fn connect(&self) -> Result<SendRequest<Empty<Bytes>>> {
        let stream = TcpStream::connect(&self.address).await.context("a connection was refused")?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

enum Unanswered {
    /// The connection ended before the head of an answer.
    Closed(hyper::Error),
    /// An answer that is none.
    Wrong(anyhow::Error),
}

async fn ask(connection: &mut SendRequest<Empty<Bytes>>) -> Result<String, Unanswered> {
    connection.ready().await.map_err(Unanswered::Closed)?;
    let request = Request::get("/api/prices").header("host", "prices.example.com").body(Empty::new());
    let request = request.map_err(|error| Unanswered::Wrong(error.into()))?;
    let response = connection
        .send_request(request)
        .await
        .map_err(|error| if error.is_parse() { Unanswered::Wrong(error.into()) } else { Unanswered::Closed(error) })?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(|error| Unanswered::Wrong(error.into()))?.to_bytes();
    pod_of(status, &body).map_err(Unanswered::Wrong)
}

fn pod_of(status: StatusCode, body: &[u8]) -> Result<String> {
    if status != StatusCode::OK {
        bail!("{status}: {}", String::from_utf8_lossy(&body[..body.len().min(120)]));
    }
    let frame: serde_json::Value = serde_json::from_slice(body).context("the answer is not JSON")?;
    ensure!(frame["prices"].is_array(), "the answer has no prices");
    Ok(frame["pod"].as_str().unwrap_or_default().to_owned())
}

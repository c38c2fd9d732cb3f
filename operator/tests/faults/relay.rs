//! What stands between an operator and the API server: counts its requests, and disturbs them.
//! Rule: it answers as the real server would; what it lets through reaches the real server.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body as Answer;
use axum::http::{Method, Request, Response};
use futures::future::pending;
use futures::{Stream, StreamExt, stream};
use kube::Client;
use kube::client::Body;
use serde_json::json;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tower::{BoxError, service_fn};

/// What goes wrong.
#[derive(Clone, Copy, Debug, Default)]
pub enum Disturbance {
    #[default]
    None,
    /// The operator dies at this write, counted from 1.
    Crash { write: usize, moment: Moment },
    /// Of the requests, reads and the opening of watches included, one in so many fails.
    OneIn { requests: usize, fault: Fault },
    /// Each request whose method and path contain these fails.
    Matching { method: &'static str, path: &'static str, fault: Fault },
    /// Every watch ends after this long.
    WatchesEnd(Duration),
    /// What the watches tell is this old.
    WatchesLag(Duration),
}

impl Disturbance {
    pub fn crash((write, moment): (usize, Moment)) -> Self {
        Self::Crash { write, moment }
    }
}

/// When the operator dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The write never left.
    Before,
    /// The write was made and its answer is lost.
    After,
}

/// How a request fails.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// An answer of this status, which the server gives without having done anything.
    Status(u16),
    /// As the server's own limit on requests under way: come back in a second.
    TooMany,
    /// The connection is cut before the server has read the request.
    Cut,
    /// The connection is cut after the server has done what was asked.
    CutAfter,
    /// No answer, until the disturbance is over and the connection with it.
    Silence,
}

/// One operator's way to the API server.
#[derive(Clone)]
pub struct Relay {
    server: Client,
    state: Arc<Mutex<State>>,
    /// The operator is dead: nothing it does counts any more.
    dead: CancellationToken,
    /// The disturbance is another one now.
    turned: Arc<Notify>,
}

#[derive(Default)]
struct State {
    disturbance: Disturbance,
    requests: usize,
    writes: Vec<String>,
    /// Without those that open a watch.
    reads: Vec<String>,
    watches: usize,
}

/// What becomes of one request.
enum Fate {
    Pass,
    Die(Moment),
    Fail(Fault),
}

impl Relay {
    /// `server` is what the operator would use in a cluster.
    pub fn new(server: &Client) -> Self {
        Self { server: server.clone(), state: Arc::default(), dead: CancellationToken::new(), turned: Arc::default() }
    }

    /// The client that the operator is given.
    pub fn client(&self) -> Client {
        let relay = self.clone();
        let service = service_fn(move |request| {
            let relay = relay.clone();
            async move { relay.pass(request).await }
        });
        Client::new(service, "default")
    }

    /// From now on; requests and writes are counted anew.
    pub fn disturb(&self, disturbance: Disturbance) {
        let watches = self.state().watches;
        *self.state() = State { disturbance, watches, ..State::default() };
        self.turned.notify_waiters();
    }

    /// All writes since the last [`Self::disturb`], as method and path.
    pub fn writes(&self) -> Vec<String> {
        self.state().writes.clone()
    }

    /// All reads since then, watches apart.
    pub fn reads(&self) -> Vec<String> {
        self.state().reads.clone()
    }

    /// Counts anew from now on.
    pub fn forget(&self) {
        self.disturb(Disturbance::None);
    }

    /// The watches that were opened.
    pub fn watches(&self) -> usize {
        self.state().watches
    }

    /// Ends when the operator has died.
    pub async fn death(&self) {
        self.dead.cancelled().await;
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    async fn pass(&self, request: Request<Body>) -> Result<Response<Answer>, BoxError> {
        if self.dead.is_cancelled() {
            return pending().await;
        }
        let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
        match self.fate(&request, is_watch) {
            Fate::Pass if is_watch => self.watch(request).await,
            Fate::Pass => self.send(request).await,
            Fate::Die(moment) => {
                if moment == Moment::After {
                    axum::body::to_bytes(self.send(request).await?.into_body(), usize::MAX).await?;
                }
                self.dead.cancel();
                pending().await
            }
            Fate::Fail(Fault::Status(code)) => Ok(refusal(code, None)),
            Fate::Fail(Fault::TooMany) => Ok(refusal(429, Some(1))),
            Fate::Fail(Fault::Silence) => {
                self.turned.notified().await;
                Err(cut())
            }
            Fate::Fail(Fault::Cut) => Err(cut()),
            Fate::Fail(Fault::CutAfter) => {
                axum::body::to_bytes(self.send(request).await?.into_body(), usize::MAX).await?;
                Err(cut())
            }
        }
    }

    fn fate(&self, request: &Request<Body>, is_watch: bool) -> Fate {
        let mut state = self.state();
        let name = format!("{} {}", request.method(), request.uri().path());
        state.requests += 1;
        state.watches += usize::from(is_watch);
        let is_write = request.method() != Method::GET;
        if is_write {
            state.writes.push(name.clone());
        } else if !is_watch {
            state.reads.push(name.clone());
        }
        match state.disturbance {
            Disturbance::Crash { write, moment } if is_write && state.writes.len() == write => Fate::Die(moment),
            // A watch has no end to read up to.
            Disturbance::OneIn { requests, fault } if mixed(state.requests).is_multiple_of(requests) => match fault {
                Fault::CutAfter if is_watch => Fate::Fail(Fault::Cut),
                fault => Fate::Fail(fault),
            },
            Disturbance::Matching { method, path, fault } if name.starts_with(method) && name.contains(path) => {
                Fate::Fail(fault)
            }
            _ => Fate::Pass,
        }
    }

    async fn send(&self, request: Request<Body>) -> Result<Response<Answer>, BoxError> {
        let answer = self.server.send(request).await?;
        Ok(answer.map(Answer::new))
    }

    async fn watch(&self, request: Request<Body>) -> Result<Response<Answer>, BoxError> {
        let (head, body) = self.send(request).await?.into_parts();
        let events = body.into_data_stream();
        let body = match self.state().disturbance {
            Disturbance::WatchesEnd(after) => Answer::from_stream(ended(events, after)),
            Disturbance::WatchesLag(by) => Answer::from_stream(late(events, by)),
            _ => Answer::from_stream(events),
        };
        Ok(Response::from_parts(head, body))
    }
}

/// Which ones fail is the same in every run and follows no beat: were it every third, a pass of three requests would fail for ever.
fn mixed(count: usize) -> usize {
    let hash = operator::objects::fingerprint(&count.to_string());
    usize::from_str_radix(&hash[..8], 16).unwrap()
}

fn ended<T>(events: impl Stream<Item = T> + Unpin, after: Duration) -> impl Stream<Item = T> {
    let end = Instant::now() + after;
    stream::unfold(events, move |mut events| async move {
        let left = end.saturating_duration_since(Instant::now());
        let event = timeout(left, events.next()).await.ok().flatten()?;
        Some((event, events))
    })
}

/// All events with the same delay, in their order.
fn late<T: Send + 'static>(
    mut events: impl Stream<Item = T> + Send + Unpin + 'static,
    by: Duration,
) -> impl Stream<Item = T> {
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            if sender.send((Instant::now() + by, event)).is_err() {
                return;
            }
        }
    });
    stream::unfold(receiver, |mut receiver| async move {
        let (due, event) = receiver.recv().await?;
        sleep_until(due).await;
        Some((event, receiver))
    })
}

fn cut() -> BoxError {
    std::io::Error::from(std::io::ErrorKind::ConnectionReset).into()
}

fn refusal(code: u16, retry_after: Option<u64>) -> Response<Answer> {
    let reason = match code {
        409 => "Conflict",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        _ => "InternalError",
    };
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("disturbed with {code}"), "reason": reason, "code": code,
    });
    let mut answer = Response::builder().status(code).header("Content-Type", "application/json");
    if let Some(seconds) = retry_after {
        answer = answer.header("Retry-After", seconds);
    }
    answer.body(Answer::from(status.to_string())).unwrap()
}

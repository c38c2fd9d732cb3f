//! What a process says of itself over HTTP: `/healthz` it lives, `/readyz` it works and if not why, `/metrics` its figures.
//! Rule: a lost connection makes a process not ready, never dead; a restart would not bring the server back.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;

use crate::settings::Port;

/// Connections that wait to be accepted: when a pod is gone its pages come to the others within a second. The kernel takes at most its `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

/// Whether the process does its work, and if not, what it waits for. Clones share the state.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<Mutex<Condition>>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Condition {
    Ready,
    Waiting(String),
    Stopping,
}

impl Readiness {
    /// Not ready, because of `reason`.
    #[must_use]
    pub fn waiting(reason: &str) -> Self {
        Self(Arc::new(Mutex::new(Condition::Waiting(reason.to_owned()))))
    }

    /// The process works.
    pub fn ready(&self) {
        self.set(Condition::Ready);
    }

    /// The process does not work, because of `reason`.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.set(Condition::Waiting(reason.into()));
    }

    /// The process ends; nothing makes it ready again.
    pub fn stopping(&self) {
        self.set(Condition::Stopping);
    }

    /// Why the process is not ready; `None` when it is.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Condition::Ready => None,
            Condition::Waiting(reason) => Some(reason.clone()),
            Condition::Stopping => Some("stopping".to_owned()),
        }
    }

    /// Whether the process ends.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) == Condition::Stopping
    }

    fn set(&self, condition: Condition) {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *current != Condition::Stopping {
            *current = condition;
        }
    }
}

/// What the endpoints show.
#[derive(Clone)]
pub struct Health {
    readiness: Readiness,
    registry: Arc<Registry>,
}

impl Health {
    /// Shows this readiness and these metrics.
    #[must_use]
    pub fn new(readiness: Readiness, registry: Registry) -> Self {
        Self { readiness, registry: Arc::new(registry) }
    }

    /// The three routes, for a server of its own or as part of another.
    pub fn router(self) -> Router {
        Router::new()
            .route("/healthz", get(async || "ok\n"))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .with_state(self)
    }
}

async fn readyz(State(health): State<Health>) -> impl IntoResponse {
    match health.readiness.reason() {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
    }
}

async fn metrics(State(health): State<Health>) -> impl IntoResponse {
    let mut text = String::new();
    match encode(&mut text, &health.registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            (StatusCode::OK, [(header::CONTENT_TYPE, kind)], text)
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], error.to_string()),
    }
}

/// Binds a port on all addresses.
///
/// # Errors
/// When a port that was asked for is taken. A default that is taken gives way to a free one, so that several programs
/// run on one machine without settings.
pub fn bind(name: &str, port: Port) -> anyhow::Result<TcpListener> {
    let (Port::Default(number) | Port::Explicit(number)) = port;
    match (listen(number), port) {
        (Ok(listener), _) => Ok(listener),
        (Err(error), Port::Default(_)) => {
            let listener = listen(0).context("cannot bind any port")?;
            let taken = listener.local_addr().map_or(0, |address| address.port());
            tracing::warn!(
                "port {number} cannot be used ({error}), serving on port {taken} instead; set {name} to choose one"
            );
            Ok(listener)
        }
        (Err(error), Port::Explicit(_)) => {
            Err(error).with_context(|| format!("{name}: cannot bind port {number}; set another one"))
        }
    }
}

fn listen(port: u16) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    // What a process before left behind on its port does not keep it taken.
    socket.set_reuseaddr(true)?;
    socket.bind((std::net::Ipv4Addr::UNSPECIFIED, port).into())?;
    socket.listen(BACKLOG)
}

/// Serves the endpoints until `stop`. Meant to be spawned.
pub async fn serve(listener: TcpListener, health: Health, stop: CancellationToken) {
    if let Ok(address) = listener.local_addr() {
        tracing::info!("health and metrics on http://{address}");
    }
    let served = axum::serve(listener, health.router()).with_graceful_shutdown(stop.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::error!("the health endpoints ended: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_stops_never_becomes_ready_again() {
        let readiness = Readiness::waiting("connecting");
        assert_eq!(readiness.reason().as_deref(), Some("connecting"));
        readiness.ready();
        assert_eq!(readiness.reason(), None);
        readiness.not_ready("lost");
        assert_eq!(readiness.reason().as_deref(), Some("lost"));
        readiness.stopping();
        readiness.ready();
        assert_eq!(readiness.reason().as_deref(), Some("stopping"));
    }
}

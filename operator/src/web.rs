//! The operator's HTTP client, for the broker's management interface: plain, or over TLS with the authorities it is given.
//! Rule: a request is bounded in time and its answer in length; no proxy sees a broker's password.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::Request;
use http_body_util::{BodyExt, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;

/// Longest way to a server.
const CONNECT: Duration = Duration::from_secs(2);
/// Longest request.
pub const REQUEST: Duration = Duration::from_secs(3);
/// A connection that is idle for longer is closed: when all is well the next pass comes later than that, and there may be hundreds of brokers.
const IDLE: Duration = Duration::from_secs(5);
/// Longest answer read into memory, in bytes: 500 queues of five nodes take about 200 000.
const ANSWER_MAX: usize = 4 << 20;

/// A client with its pool of connections.
#[derive(Clone)]
pub struct Web(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// All of it.
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection, none in time, or cut short: the innermost cause, in the words of the system.
    Unreachable(String),
    /// It was longer than anything such a server says.
    TooLong,
}

impl fmt::Debug for Web {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Web")
    }
}

/// Trusts `roots` and nobody else.
///
/// # Errors
/// The crypto library lacks what TLS needs, which would be a defect of this program.
pub fn trusting(roots: RootCertStore) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

impl Web {
    /// A client that trusts the public authorities.
    ///
    /// # Errors
    /// As [`trusting`].
    pub fn public() -> Result<Self, rustls::Error> {
        Ok(Self::new(&trusting(webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect())?))
    }

    /// A client that trusts as `config` says.
    pub fn new(config: &ClientConfig) -> Self {
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_connect_timeout(Some(CONNECT));
        connector.set_nodelay(true);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(config.clone())
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_idle_timeout(IDLE).pool_timer(TokioTimer::new());
        Self(builder.build(connector))
    }

    /// Asks a server.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer, Failure> {
        match timeout(REQUEST, self.exchange(request)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::Unreachable(format!("no answer within {} s", REQUEST.as_secs()))),
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer, Failure> {
        let mut response = self.0.request(request).await.map_err(|error| innermost(&error))?;
        let status = response.status().as_u16();
        let mut body = Vec::new();
        while let Some(frame) = response.body_mut().frame().await {
            let frame = frame.map_err(|error| innermost(&error))?;
            let Ok(chunk) = frame.into_data() else { continue };
            if body.len() + chunk.len() > ANSWER_MAX {
                return Err(Failure::TooLong);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { status, body })
    }
}

fn innermost(error: &(dyn std::error::Error + 'static)) -> Failure {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    Failure::Unreachable(cause.to_string())
}

//! Starts everything the operator consists of, and ends it in order.
//! Rule: one leader works; a replica that lost the lease ends, so that two never work at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use futures::{FutureExt, StreamExt};
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::client::{ClientBuilder, ConfigExt};
use kube::core::CustomResourceExt;
use kube::runtime::events::Reporter;
use kube::{Api, Client, Config};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::{BoxError, ServiceBuilder};
use tracing_subscriber::EnvFilter;

use crate::crd::StockPipeline;
use crate::http::{self, Pages};
use crate::metrics::Metrics;
use crate::plan::Images;
use crate::reconcile::{AT_ONCE, Context, error_policy, reconcile};
use crate::recorder::Recorder;
use crate::web::Web;
use crate::{lease, names, watch};

/// How the operator runs.
pub struct Settings {
    /// Default images of the children.
    pub images: Images,
    /// Namespace to watch; all when empty.
    pub watch_namespace: String,
    /// Namespace of the Lease.
    pub lease_namespace: String,
    /// This replica's name.
    pub identity: String,
    /// Address of the health and metrics pages.
    pub listen: SocketAddr,
}

/// Runs until SIGTERM or until the lease is lost.
///
/// # Errors
/// No cluster is configured, the address is taken, or the lease was lost.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let Settings { images, watch_namespace, lease_namespace, identity, listen } = settings;
    let stop = CancellationToken::new();
    tokio::spawn(stop_on_signal(stop.clone())?);

    let metrics = Arc::new(Metrics::default());
    let pages = Pages { ready: Arc::new(AtomicBool::new(false)), metrics: metrics.clone() };
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen}: choose another address with LISTEN"))?;
    // The pages end last: as long as the process lives it says how it is.
    let pages_stop = CancellationToken::new();
    let server = tokio::spawn(http::serve(listener, pages.clone(), pages_stop.clone()));

    let client = client(Config::infer().await.context("no cluster: set KUBECONFIG or run in a pod")?)?;
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        () = definition_is_there(&client) => {}
    }
    pages.ready.store(true, Ordering::Relaxed);

    let leadership = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        leadership = lease::hold(client.clone(), &lease_namespace, names::MANAGER, &identity) => leadership,
    };
    metrics.leading(true);
    let ended = lead(client, images, &watch_namespace, &identity, metrics.clone(), &stop, leadership.lost()).await;
    metrics.leading(false);
    // Given back only now that the last pass has ended.
    leadership.release().await;
    pages_stop.cancel();
    drop(server.await);
    ended
}

/// Pause between two counts of the pipelines for the metrics.
const COUNT_EVERY: Duration = Duration::from_secs(5);

/// Bytes; a connection's buffer for what it reads. The HTTP library's own grows with the largest list and keeps its size, and each watch has one.
const READ_BUFFER: usize = 16 << 10;

/// A connection that is idle for longer is closed: while many pipelines are made there are dozens, and each takes some 60 KiB.
const IDLE: Duration = Duration::from_secs(10);

/// The operator's way to the API server. It does not try again by itself: that takes minutes when the answer stays 429 or 503, and 429 is also how
/// a disruption budget refuses an eviction. A pass never waits; the next one tries again, as the watches and the lease do.
///
/// # Errors
/// The configuration is not one for a client, or names a proxy.
pub fn client(config: Config) -> anyhow::Result<Client> {
    anyhow::ensure!(
        config.proxy_url.is_none(),
        "a proxy is to lead to the API server, and this program goes without: take proxy-url out of the kubeconfig, or HTTPS_PROXY out of the environment"
    );
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    // Around TLS: a server that takes a connection and says no more is none.
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(connector)?);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_write_timeout(config.write_timeout);
    let web = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .http1_read_buf_exact_size(READ_BUFFER)
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(web);
    Ok(ClientBuilder::new(service, config.default_namespace).build())
}

/// Works on the pipelines until `stop`, or until the lease is `lost`.
///
/// # Errors
/// The lease was lost.
pub async fn lead(
    client: Client,
    images: Images,
    watch_namespace: &str,
    identity: &str,
    metrics: Arc<Metrics>,
    stop: &CancellationToken,
    lost: CancellationToken,
) -> anyhow::Result<()> {
    let (controller, stores) = watch::controller(&client, watch_namespace);
    let reporter = Reporter { controller: names::MANAGER.into(), instance: Some(identity.to_owned()) };
    let context = Arc::new(Context {
        recorder: Recorder::new(client.clone(), reporter),
        pipelines: controller.store(),
        client,
        web: Web::public()?,
        trust: Default::default(),
        stores,
        images,
        metrics,
        settled: Default::default(),
        turns: Semaphore::new(AT_ONCE),
        log_reader: Semaphore::new(1),
        secrets: Default::default(),
        memory: Default::default(),
    });
    let counted = context.clone();
    let counts = async move {
        loop {
            counted.count();
            tokio::time::sleep(COUNT_EVERY).await;
        }
    };
    let (waiting, stopped) = (context.clone(), stop.clone().cancelled_owned());
    let send_away = stopped.map(move |()| waiting.turns.close());
    let passes = controller.graceful_shutdown_on(send_away).run(reconcile, error_policy, context).for_each(
        |result| async move {
            if let Err(error) = result {
                tracing::debug!(%error, "pass ended with an error");
            }
        },
    );
    tokio::select! {
        () = passes => Ok(()),
        () = counts => Ok(()),
        // At once, in the middle of a pass if need be: another replica may already be working.
        () = lost.cancelled() => anyhow::bail!("the lease was lost: another replica leads or the API server does not answer"),
    }
}

/// Waits until the API server answers and knows the resource.
async fn definition_is_there(client: &Client) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = StockPipeline::crd_name();
    loop {
        match definitions.get_opt(name).await {
            Ok(Some(_)) => return,
            Ok(None) => tracing::warn!(
                name,
                "the definition is missing: apply crds/stockpipelines.yaml or install the chart with crds.install=true"
            ),
            Err(error) => tracing::warn!(%error, "the API server does not answer"),
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

fn stop_on_signal(stop: CancellationToken) -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    })
}

/// Sends the log to standard output: JSON for machines, text for a terminal; `RUST_LOG` filters.
pub fn telemetry(format: &str) {
    let filter = EnvFilter::try_from_env(wire::env::LOG).unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter);
    if format == "json" { log.json().flatten_event(true).with_span_list(false).init() } else { log.init() }
}

//! Names of the environment variables. The operator sets them, the programs' command lines read them.
//! The first group is the contract with the programs that existed before; the second is ours.

/// AMQP address of the broker, `amqp://user:password@host:5672/%2f`; several, separated by commas, are tried in turn.
/// With TLS `amqps://…`; `?cacertfile=/path` trusts the authorities in that file besides the public ones.
pub const RABBITMQ_URL: &str = "RABBITMQ_URL";
/// The queue one consumer reads; it is the company's symbol.
pub const QUEUE_NAME: &str = "QUEUE_NAME";
/// Milliseconds from one event to the next, a decimal number; 0 publishes as fast as the broker confirms.
pub const TICKER_INTERVAL: &str = "TICKER_INTERVAL";
/// Connection string of the database, `mongodb://…`; with TLS `tls=true`, and `tlsCAFile=/path` trusts the authorities in that file alone.
pub const MONGODB_URL: &str = "MONGODB_URL";
/// Database that holds the windows.
pub const MONGODB_DB: &str = "MONGODB_DB";
/// Collection that holds the windows.
pub const MONGODB_COLLECTION: &str = "MONGODB_COLLECTION";
/// Port of the liveview page.
pub const PORT: &str = "PORT";

/// The one company a publisher speaks for.
pub const COMPANY: &str = "COMPANY";
/// Several companies of one publisher, separated by commas.
pub const COMPANIES: &str = "COMPANIES";
/// Seed of the synthetic prices; the same seed and company give the same prices.
pub const SEED: &str = "SEED";
/// Lowest synthetic price, inclusive.
pub const PRICE_MIN: &str = "PRICE_MIN";
/// Highest synthetic price, exclusive.
pub const PRICE_MAX: &str = "PRICE_MAX";
/// Events per window.
pub const BATCH_SIZE: &str = "BATCH_SIZE";
/// Milliseconds after its first event that a window is closed although it is short; unset: never.
pub const FLUSH_AFTER: &str = "FLUSH_AFTER";
/// Events per company after which a publisher stops by itself; unset: never.
pub const COUNT: &str = "COUNT";
/// Type a queue is declared with: `quorum` or `classic`.
pub const QUEUE_TYPE: &str = "QUEUE_TYPE";
/// Port of `/healthz`, `/readyz` and `/metrics` of publisher and consumer.
pub const METRICS_PORT: &str = "METRICS_PORT";
/// Name of the running pod, shown by the page and written into each window.
pub const POD_NAME: &str = "POD_NAME";
/// Log filter in the syntax of `tracing_subscriber::EnvFilter`.
pub const LOG: &str = "RUST_LOG";
/// `json` or `text`; text unless set.
pub const LOG_FORMAT: &str = "LOG_FORMAT";

/// Milliseconds that liveview goes on serving after SIGTERM, not ready, before it closes its sockets.
pub const SHUTDOWN_GRACE: &str = "SHUTDOWN_GRACE";
/// Milliseconds after that within which liveview closes its sockets, each at a moment of its own.
pub const SHUTDOWN_SPREAD: &str = "SHUTDOWN_SPREAD";
/// Sockets and event streams that one liveview serves at a time; more are refused.
pub const MAX_READERS: &str = "MAX_READERS";

/// Defaults that both sides must know.
pub mod default {
    /// Database of the windows.
    pub const MONGODB_DB: &str = "stockmarket";
    /// Collection of the windows.
    pub const MONGODB_COLLECTION: &str = "stocks";
    /// Port of the liveview page.
    pub const PORT: u16 = 3000;
    /// Port of health and metrics of publisher and consumer.
    pub const METRICS_PORT: u16 = 9090;
    /// Events per window.
    pub const BATCH_SIZE: u32 = 1000;
    /// Lowest synthetic price, inclusive.
    pub const PRICE_MIN: f64 = 50.0;
    /// Highest synthetic price, exclusive.
    pub const PRICE_MAX: f64 = 550.0;
    /// Milliseconds from one event to the next.
    pub const TICKER_INTERVAL: f64 = 1.0;
    /// Milliseconds that liveview goes on serving after SIGTERM. With the 5 s before it (`preStop`) this is longer than an edge may go on sending requests here:
    /// CoreDNS keeps an answer for 5 s (its plugin `kubernetes`, `ttl`), and NGINX what it was told for 2 s.
    pub const SHUTDOWN_GRACE: u64 = 5_000;
    /// Milliseconds within which liveview then closes its sockets.
    pub const SHUTDOWN_SPREAD: u64 = 1_500;
    /// Sockets and event streams of one liveview. Measured (docs/benchmarks.md): 10 000 take 70 MiB of the process and 20 MiB of the kernel, and their frames
    /// less than half of the one core that the program uses. So many leave a third of the memory that the operator allows the pod.
    pub const MAX_READERS: usize = 8_000;
}

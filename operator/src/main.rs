//! `stockpipeline-operator run` and `stockpipeline-operator crd`.
//! Rule: the binary parses and starts; everything it starts is in the library.

use std::net::SocketAddr;

use clap::{Parser, Subcommand};
use operator::{crd, run};

/// What a pass needs for a moment lies between what lives on; with the C library's allocator the holes were more than half of all memory
/// (docs/benchmarks.md).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The Kubernetes operator of the StockPipeline resource.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the operator against the cluster of the kubeconfig or the pod's service account.
    Run(Box<RunArguments>),
    /// Print the CustomResourceDefinition as YAML.
    Crd,
}

#[derive(clap::Args)]
struct RunArguments {
    /// Image of publisher, consumer and liveview.
    #[arg(long, env = "STOCK_IMAGE_WORKLOADS")]
    image_workloads: String,
    /// Image of RabbitMQ.
    #[arg(long, env = "STOCK_IMAGE_BROKER")]
    image_broker: String,
    /// Image of MongoDB.
    #[arg(long, env = "STOCK_IMAGE_DATABASE")]
    image_database: String,
    /// Image of NGINX; it must run unprivileged and be 1.27.3 or newer.
    #[arg(long, env = "STOCK_IMAGE_EDGE")]
    image_edge: String,
    /// Pull policy of these images; the cluster's rule unless set.
    #[arg(long, env = "STOCK_IMAGE_PULL_POLICY")]
    image_pull_policy: Option<String>,
    /// Namespace to watch; all unless set.
    #[arg(long, env = "WATCH_NAMESPACE", default_value = "")]
    watch_namespace: String,
    /// Namespace of the Lease by which replicas elect a leader.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    lease_namespace: String,
    /// This replica's name in the Lease and in events; a random one unless set.
    #[arg(long, env = "POD_NAME")]
    identity: Option<String>,
    /// Address of /healthz, /readyz and /metrics.
    #[arg(long, env = "LISTEN", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// Form of the log: json or text.
    #[arg(long, env = wire::env::LOG_FORMAT, default_value = "text")]
    log_format: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Run(arguments) => {
            let RunArguments {
                image_workloads,
                image_broker,
                image_database,
                image_edge,
                image_pull_policy,
                watch_namespace,
                lease_namespace,
                identity,
                listen,
                log_format,
            } = *arguments;
            run::telemetry(&log_format);
            let images = operator::plan::Images {
                workloads: image_workloads,
                broker: image_broker,
                database: image_database,
                edge: image_edge,
                pull_policy: image_pull_policy.filter(|policy| !policy.is_empty()),
            };
            let identity =
                identity.unwrap_or_else(|| format!("{}-{:08x}", operator::names::MANAGER, rand::random::<u32>()));
            run::run(run::Settings { images, watch_namespace, lease_namespace, identity, listen }).await
        }
        Command::Crd => {
            print!("{}", crd::yaml()?);
            Ok(())
        }
    }
}

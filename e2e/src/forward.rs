//! A port of a Service on this machine: the way in that is the same on every cluster.
//! Rule: it lives as long as its value; it ends on one pod, so whoever outlives pods opens a new one.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

/// Longest that kubectl takes to say its port.
const PATIENCE: Duration = Duration::from_secs(15);

/// A running `kubectl port-forward`.
pub struct Forward {
    /// Port on 127.0.0.1.
    pub port: u16,
    _kubectl: Child,
    // kubectl writes a line for each connection: without a reader it would die of it.
    _output: Lines<BufReader<ChildStdout>>,
}

impl Forward {
    /// Forwards a free port to `target`, for example `service/demo-edge`.
    ///
    /// # Errors
    /// There is no such target, or no pod behind it is ready.
    pub async fn open(namespace: &str, target: &str, port: u16) -> Result<Self> {
        let mut child = Command::new("kubectl")
            .args(["port-forward", "--namespace", namespace, "--address", "127.0.0.1", target, &format!(":{port}")])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("run kubectl port-forward")?;
        let output = child.stdout.take().context("kubectl has no output")?;
        let mut lines = BufReader::new(output).lines();
        // "Forwarding from 127.0.0.1:34567 -> 8080"
        let line = timeout(PATIENCE, lines.next_line())
            .await
            .with_context(|| format!("kubectl port-forward {target} says nothing"))??;
        let Some(port) = line.as_deref().and_then(local_port) else {
            let mut complaint = String::new();
            if let Some(mut errors) = child.stderr.take() {
                errors.read_to_string(&mut complaint).await?;
            }
            bail!("kubectl port-forward {target} {port}: {}{}", line.unwrap_or_default(), complaint.trim());
        };
        Ok(Self { port, _kubectl: child, _output: lines })
    }

    /// The forwarded port as a base URL.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

fn local_port(line: &str) -> Option<u16> {
    line.strip_prefix("Forwarding from 127.0.0.1:")?.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::local_port;

    #[test]
    fn the_port_is_read_from_kubectls_words() {
        assert_eq!(local_port("Forwarding from 127.0.0.1:34567 -> 8080"), Some(34567));
        assert_eq!(local_port("error: timed out"), None);
    }
}

//! kubectl, for what is about kubectl: its tables, its port forwarding, its descriptions.
//! Rule: everything else goes through the API.

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

/// Runs kubectl and gives its standard output.
///
/// # Errors
/// kubectl is not on the PATH, or it failed; the message has its own words.
pub async fn kubectl(arguments: &[&str]) -> Result<String> {
    let output = Command::new("kubectl")
        .args(arguments)
        .output()
        .await
        .context("run kubectl: is it on the PATH (e2e/cluster/up links it into .local/bin)")?;
    ensure!(
        output.status.success(),
        "kubectl {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

//! Has every member take over a renewed certificate: mongod reads its files when it is told to (MongoDB manual, `rotateCertificates`, 5.0).
//! Rule: what a member shows is seen in a handshake, not assumed; the kubelet brings the files in its own time, so the member is told until it shows them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use mongodb::bson::doc;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::client::{close, connect};
use super::credentials::Credentials;
use super::decision::Wanted;
use crate::certificates::x509::of_der;

/// Longest look and act at one member; all are looked at together.
const LOOK: Duration = Duration::from_secs(2);

/// What the members show, by host: fingerprints as of [`of_der`].
pub type Shown = BTreeMap<String, String>;

/// Tells the members that show something else than `certificate` to read their files, and gives what all of them show. One that is known to show it
/// is not asked again: what it shows changes with its files only, and a member that starts reads the newest.
pub async fn take_over(
    wanted: &Wanted,
    credentials: &Credentials,
    config: &Arc<ClientConfig>,
    certificate: &str,
    known: &Shown,
) -> Shown {
    let looks = wanted.members.iter().chain(&wanted.others).map(|host| async move {
        if known.get(host).is_some_and(|shown| shown == certificate) {
            return Some((host.clone(), certificate.to_owned()));
        }
        let shown = timeout(LOOK, shown_by(host, config)).await.ok()??;
        if shown != certificate {
            tell(host, wanted, credentials).await;
        }
        Some((host.clone(), shown))
    });
    join_all(looks).await.into_iter().flatten().collect()
}

/// What a server shows, `host:port`; nothing when it does not answer, or when those who are trusted do not vouch for it.
pub async fn shown_by(host: &str, config: &Arc<ClientConfig>) -> Option<String> {
    let name = ServerName::try_from(host.rsplit_once(':')?.0.to_owned()).ok()?;
    let stream = TcpStream::connect(host).await.ok()?;
    let stream = TlsConnector::from(config.clone()).connect(name, stream).await.ok()?;
    let (_, connection) = stream.get_ref();
    connection.peer_certificates()?.first().map(|certificate| of_der(certificate))
}

/// Connections that are open stay as they are.
async fn tell(host: &str, wanted: &Wanted, credentials: &Credentials) {
    let Ok(client) = connect(host, credentials.member(), wanted.trusted.as_deref(), LOOK) else { return };
    let command = doc! {"rotateCertificates": 1, "message": "stockpipeline-operator: the certificate was renewed"};
    let admin = client.database("admin");
    match timeout(LOOK, admin.run_command(command)).await {
        Ok(Ok(_)) => tracing::info!(member = host, "told to read its certificate again"),
        Ok(Err(error)) => {
            tracing::warn!(member = host, %error, "does not read its certificate again, to be tried again")
        }
        Err(_) => tracing::warn!(member = host, "no answer to reading its certificate again, to be tried again"),
    }
    close(client).await;
}

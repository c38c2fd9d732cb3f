//! The broker's side of a connection: addresses, connecting, declaring a queue next to programs that declare it differently.
//! Rule: recovery is a new connection with new channels, made by the caller's loop, so delivery tags die with their channel.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use lapin::options::{ConfirmSelectOptions, QueueDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::tcp::{AMQPUriTcpExt, TLSConfig};
use lapin::types::{AMQPValue, FieldTable};
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties, ErrorKind, Event};
use percent_encoding::percent_decode_str;
use tokio::time::{sleep, timeout};
use wire::env;
use wire::queue::{QueueType, TYPE_ARGUMENT};

use crate::settings::{self, required, without_password, wrong};

/// Seconds; a peer that is silent for twice as long, and half of it more at worst, is dead. A program that speaks with a node that was cut off does nothing
/// until then, and so it is a second less than RabbitMQ advises (manual, "Heartbeats": below 5 false alarms become likely): one costs us a new
/// connection and no event.
const HEARTBEAT: u16 = 4;
/// Bound of one attempt, from the first packet to the open connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Bound of one try at its first part, the transport.
const TRANSPORT_TIMEOUT: Duration = Duration::from_secs(2);
/// After so long without a transport another one is tried beside it: for most of a minute after a node was lost a Service still leads to its pod, and
/// the next try may well reach another one.
const ANOTHER_AFTER: Duration = Duration::from_millis(500);
/// Transports that are tried beside each other at most: a broker that is only slow must not be asked for ever more handshakes.
const TRIES: usize = 3;
/// Bytes of a frame for who only writes messages of ours, which are far smaller: lapin keeps two buffers of 32 frames.
pub const SMALL_FRAMES: u32 = 16 * 1024;
/// Bytes of a frame for who reads and copies what anybody wrote: the properties of a message are one frame, however large, and this is what RabbitMQ
/// accepts unless it is told otherwise (`frame_max`). It costs up to 8 MiB of buffers.
pub const WHOLE_FRAMES: u32 = 128 * 1024;

/// Where the broker is: one or more addresses that are tried in turn.
#[derive(Clone)]
pub struct Address(Vec<Server>);

/// One of them.
#[derive(Clone)]
struct Server {
    uri: AMQPUri,
    /// File with authorities that are trusted besides the public ones: the parameter `cacertfile`, as RabbitMQ's own clients name it.
    authorities: Option<PathBuf>,
}

impl Address {
    /// Reads `RABBITMQ_URL`. A frame has at most `frame_max` bytes unless an address says otherwise.
    ///
    /// # Errors
    /// When it is not set or one of its addresses is none.
    pub fn parse(value: Option<&str>, frame_max: u32) -> settings::Result<Self> {
        let example = "set it like amqp://user:password@host:5672/%2f, several separated by commas";
        let text = required(env::RABBITMQ_URL, value, example)?;
        text.split(',')
            .map(str::trim)
            .filter(|url| !url.is_empty())
            .map(|url| {
                let mut uri: AMQPUri = url.parse().map_err(|error: String| {
                    wrong(env::RABBITMQ_URL, format!("{}; {example}", without_password(&error, url)))
                })?;
                // `amqp://host/` names the empty virtual host by the letter of the rule; every client we know means the default one.
                if uri.vhost.is_empty() {
                    uri.vhost = "/".into();
                }
                let query = &mut uri.query;
                // 0 is none at all, and then nobody would notice a host that vanished.
                let wished = query.heartbeat.filter(|seconds| *seconds > 0);
                query.heartbeat = Some(wished.map_or(HEARTBEAT, |seconds| seconds.min(HEARTBEAT)));
                query.frame_max.get_or_insert(frame_max);
                Ok(Server { uri, authorities: authorities(url) })
            })
            .collect::<settings::Result<Vec<_>>>()
            .and_then(|servers| {
                if servers.is_empty() {
                    Err(wrong(env::RABBITMQ_URL, format!("holds no address; {example}")))
                } else {
                    Ok(Self(servers))
                }
            })
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.0.iter().map(|server| shown(&server.uri))).finish()
    }
}

fn authorities(url: &str) -> Option<PathBuf> {
    let (_, query) = url.split_once('?')?;
    let file = query.split('&').find_map(|parameter| parameter.strip_prefix("cacertfile="))?;
    Some(percent_decode_str(file).decode_utf8().ok()?.as_ref().into())
}

fn shown(uri: &AMQPUri) -> String {
    format!("{}://{}:{}/{}", uri.scheme, uri.authority.host, uri.authority.port, uri.vhost)
}

/// Connects to the first address that answers. `name` is shown by the broker's management page.
///
/// # Errors
/// When none answers; the sentence names each with its cause.
pub async fn connect(address: &Address, name: &str) -> anyhow::Result<Connection> {
    let mut causes = Vec::new();
    for server in &address.0 {
        let uri = &server.uri;
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        match timeout(CONNECT_TIMEOUT, connect_to(server, properties)).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => causes.push(format!("{}: {error}", shown(uri))),
            Err(_) => causes.push(format!("{}: no answer within {CONNECT_TIMEOUT:?}", shown(uri))),
        }
    }
    bail!("cannot connect to the broker at {}", causes.join(", "))
}

async fn connect_to(server: &Server, properties: ConnectionProperties) -> lapin::Result<Connection> {
    let runtime = lapin::runtime::default_runtime()?;
    // Read anew each time: the file follows the authorities.
    let authorities = server.authorities.as_ref().map(std::fs::read_to_string).transpose()?;
    // As lapin's own, which has no bound for this part.
    let transport = async move |uri: AMQPUri, runtime| {
        let one = || async {
            let config = TLSConfig { identity: None, cert_chain: authorities.as_deref() };
            match timeout(TRANSPORT_TIMEOUT, uri.connect_with_config_async(config, &runtime)).await {
                Ok(stream) => Ok(stream?),
                Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
            }
        };
        first_of_several(one).await
    };
    Connection::connector(server.uri.clone(), runtime, transport, properties).await
}

/// The first success of an act that is begun again beside itself while it has no outcome; a failure when no begun one is left.
async fn first_of_several<T, E, F: Future<Output = Result<T, E>>>(act: impl Fn() -> F) -> Result<T, E> {
    let mut tries = FuturesUnordered::from_iter([act()]);
    let mut begun = 1;
    loop {
        tokio::select! {
            Some(outcome) = tries.next() => {
                if outcome.is_ok() || tries.is_empty() {
                    return outcome;
                }
            }
            () = sleep(ANOTHER_AFTER), if begun < TRIES => {
                tries.push(act());
                begun += 1;
            }
        }
    }
}

/// Resolves when the connection is lost, also while nothing is being sent. It hears what happens from the call on.
pub fn lost(connection: &Connection) -> impl Future<Output = anyhow::Error> + use<'_> {
    let mut events = Box::pin(connection.events_listener());
    async move {
        while let Some(event) = events.next().await {
            match event {
                Event::Error(error) => return anyhow!(error).context("the broker's connection is lost"),
                Event::ConnectionBlocked(reason) => tracing::warn!("the broker accepts nothing now: {reason}"),
                Event::ConnectionUnblocked => tracing::info!("the broker accepts messages again"),
                _ => {}
            }
        }
        anyhow!("the broker's connection has ended")
    }
}

/// Whether a queue is as we would have made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Declared {
    /// As declared.
    AsOurs,
    /// Another program made it with other properties; it is used as it is.
    AsFound,
}

/// Opens a channel on which the queue is known to exist.
///
/// A broker answers a declare with other properties by 406 and closes the channel; then the queue is taken as it is.
///
/// # Errors
/// When the broker refuses for another reason or the connection is lost.
pub async fn open(connection: &Connection, queue: &str, kind: QueueType) -> anyhow::Result<(Channel, Declared)> {
    let channel = connection.create_channel().await.context("cannot open a channel")?;
    let mut arguments = FieldTable::default();
    arguments.insert(TYPE_ARGUMENT.into(), AMQPValue::LongString(kind.as_str().into()));
    match channel.queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments).await {
        Ok(_) => Ok((channel, Declared::AsOurs)),
        Err(error) if is_precondition_failed(&error) => {
            let channel = connection.create_channel().await.context("cannot open a channel")?;
            let passive = QueueDeclareOptions::default().passive();
            channel
                .queue_declare(queue.into(), passive, FieldTable::default())
                .await
                .with_context(|| format!("cannot use queue {queue} as it is"))?;
            Ok((channel, Declared::AsFound))
        }
        Err(error) => Err(error).with_context(|| format!("cannot declare queue {queue}")),
    }
}

/// The same as [`open`], with publisher confirms switched on.
///
/// # Errors
/// As [`open`].
pub async fn open_for_publishing(
    connection: &Connection,
    queue: &str,
    kind: QueueType,
) -> anyhow::Result<(Channel, Declared)> {
    let (channel, declared) = open(connection, queue, kind).await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await.context("cannot switch confirms on")?;
    Ok((channel, declared))
}

/// Whether a message that cannot be read has ended the connection, as it will the next one: lapin reads no properties whose text is not UTF-8, and none
/// that are more than a frame.
#[must_use]
pub fn is_unreadable(error: &lapin::Error) -> bool {
    match error.kind() {
        ErrorKind::ParsingError(_) => true,
        ErrorKind::ProtocolError(error) => *error.kind() == AMQPErrorKind::Hard(AMQPHardError::FRAMEERROR),
        _ => false,
    }
}

fn is_precondition_failed(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(error)
        if *error.kind() == AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use lapin::protocol::AMQPError;
    use lapin::types::parsing::parse_short_string;

    use super::*;

    fn parse(text: &str) -> settings::Result<Address> {
        Address::parse(Some(text), SMALL_FRAMES)
    }

    #[test]
    fn several_addresses_are_read_and_shown_without_user_or_password() {
        let address = parse("amqp://u:secret@one:5672/%2f, amqp://u:secret@two/").unwrap();
        assert_eq!(format!("{address:?}"), r#"["amqp://one:5672//", "amqp://two:5672//"]"#);
    }

    #[test]
    fn the_heartbeat_is_never_slower_than_ours_nor_off() {
        for (text, seconds) in [
            ("amqp://h", 4),
            ("amqp://h/%2f?heartbeat=60", 4),
            ("amqp://h/%2f?heartbeat=0", 4),
            ("amqp://h/%2f?heartbeat=3", 3),
        ] {
            assert_eq!(parse(text).unwrap().0[0].uri.query.heartbeat, Some(seconds), "{text}");
        }
    }

    #[test]
    fn frames_are_as_large_as_the_program_needs_unless_the_address_says_otherwise() {
        let frame_max = |text, wished| Address::parse(Some(text), wished).unwrap().0[0].uri.query.frame_max;
        assert_eq!(frame_max("amqp://h", WHOLE_FRAMES), Some(131_072));
        assert_eq!(frame_max("amqp://h/%2f?frame_max=8192", WHOLE_FRAMES), Some(8192));
    }

    #[test]
    fn what_is_not_utf_8_or_above_a_frame_is_unreadable_and_a_lost_connection_is_not() {
        let error = |kind: ErrorKind| is_unreadable(&kind.into());
        let refused = |kind: AMQPErrorKind| error(ErrorKind::ProtocolError(AMQPError::new(kind, "words".into())));
        assert!(error(ErrorKind::ParsingError(parse_short_string(&[1, 0xff][..]).unwrap_err())));
        assert!(refused(AMQPHardError::FRAMEERROR.into()));
        assert!(!refused(AMQPHardError::CONNECTIONFORCED.into()) && !refused(AMQPSoftError::NOTFOUND.into()));
        assert!(!error(ErrorKind::MissingHeartbeatError));
    }

    /// Each call of the act ends as told, or never.
    async fn first_of(outcomes: &[Option<Result<usize, usize>>]) -> Result<usize, usize> {
        let begun = Cell::new(0);
        first_of_several(|| {
            let outcome = outcomes[begun.replace(begun.get() + 1)];
            async move {
                match outcome {
                    Some(outcome) => outcome,
                    None => std::future::pending().await,
                }
            }
        })
        .await
    }

    #[tokio::test]
    async fn a_try_that_hangs_is_overtaken_and_one_that_fails_alone_is_the_outcome() {
        assert_eq!(first_of(&[Some(Ok(0))]).await, Ok(0));
        assert_eq!(first_of(&[Some(Err(0))]).await, Err(0), "the caller's pause comes first");
        assert_eq!(first_of(&[None, Some(Err(1)), Some(Ok(2))]).await, Ok(2));
        let no_fourth = timeout(4 * ANOTHER_AFTER, first_of(&[None, None, None, Some(Ok(3))])).await;
        assert!(no_fourth.is_err(), "{no_fourth:?}");
    }

    #[test]
    fn the_file_of_authorities_is_named_by_the_address_as_rabbitmqs_own_clients_do() {
        let file = |text: &str| parse(text).unwrap().0[0].authorities.clone();
        assert_eq!(file("amqps://u:p@h/%2f"), None);
        assert_eq!(
            file("amqps://u:p@h/%2f?heartbeat=3&cacertfile=/run/tls/my%20ca.crt"),
            Some("/run/tls/my ca.crt".into())
        );
    }

    #[test]
    fn a_wrong_address_is_refused_by_name_and_without_its_password() {
        for text in ["http://u:secret@host", "amqp://u:secret@host:notaport", "secret@host", " , "] {
            let sentence = parse(text).unwrap_err().to_string();
            assert!(sentence.starts_with("RABBITMQ_URL: ") && !sentence.contains("secret"), "{sentence}");
        }
    }
}

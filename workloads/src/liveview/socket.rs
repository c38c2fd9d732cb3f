//! One page's WebSocket: the current frame at once, then each newer one.
//! Rule: a slow page skips frames and one that is gone is noticed; nobody's memory grows with anybody's slowness, nor with the frames.

use std::time::Duration;

use axum::response::Response;
use futures::{SinkExt, StreamExt};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, interval, timeout};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};

use super::metrics::Transport;
use super::reader::{Reader, Readers, Wants};
use super::text::Text;
use super::upgrade::{Socket, Upgrade};

const PING: Duration = Duration::from_secs(20);
/// Two pings without an answer.
const SILENCE: Duration = Duration::from_secs(50);
/// A page that has not read a frame for so long is stuck.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Bytes; pages have nothing to say, and the default would reserve 128 KiB for each.
const BUFFER: usize = 256;
const LARGEST_MESSAGE: usize = 4096;

/// Answers an upgrade.
pub fn accept(readers: &Readers, upgrade: Upgrade, wants: Wants) -> Response {
    let reader = match readers.admit(Transport::Websocket, wants) {
        Ok(reader) => reader,
        Err(refusal) => return *refusal,
    };
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER)
        .write_buffer_size(0)
        .max_message_size(Some(LARGEST_MESSAGE))
        .max_frame_size(Some(LARGEST_MESSAGE));
    upgrade.grant(config, async move |socket| serve(socket, reader).await)
}

/// Sends a frame. The library would copy it into a buffer of this socket's, which would keep its size for ever.
async fn send(socket: &mut Socket, text: &Text) -> tungstenite::Result<()> {
    // Answers to pings go first and whole.
    socket.flush().await?;
    Ok(socket.get_mut().write_all(text.message()).await?)
}

/// Ends when the page is gone, stuck or told to go; every end is an ordinary one.
async fn serve(mut socket: Socket, mut reader: Reader) {
    let mut dismissed = std::pin::pin!(reader.dismissed(rand::random()));
    let mut ping = interval(PING);
    let mut heard = Instant::now();
    loop {
        let text = tokio::select! {
            () = &mut dismissed => break,
            text = reader.next() => match text {
                Some(text) => Some(text),
                None => break,
            },
            received = socket.next() => match received {
                None | Some(Err(_)) => return,
                // The answer waits to be sent (RFC 6455, 5.5.1): without it the page takes its own goodbye for a broken connection.
                Some(Ok(Message::Close(_))) => { drop(timeout(LAST_WORDS, socket.flush()).await); return }
                Some(Ok(_)) => { heard = Instant::now(); continue }
            },
            _ = ping.tick() => {
                if heard.elapsed() > SILENCE { return }
                None
            }
        };
        let sending = async {
            match text {
                Some(text) => send(&mut socket, &text).await,
                None => socket.send(Message::Ping(Default::default())).await,
            }
        };
        if !matches!(timeout(SEND_TIMEOUT, sending).await, Ok(Ok(()))) {
            return;
        }
    }
    // 1012, service restart: come back. At once, for the moments of the goodbyes are spread here already.
    let goodbye = CloseFrame { code: CloseCode::Restart, reason: "this pod stops: reconnect now".into() };
    let farewell = async {
        if socket.send(Message::Close(Some(goodbye))).await.is_ok() {
            while let Some(Ok(_)) = socket.next().await {}
        }
    };
    if timeout(LAST_WORDS, farewell).await.is_err() {
        tracing::debug!("a page did not answer the goodbye");
    }
}

//! One page's WebSocket: the current frame at once, then each newer one.
//! Rule: a slow page skips frames and one that is gone is noticed; nobody's memory grows with anybody's slowness.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::response::Response;
use tokio::time::{Instant, interval, timeout};

use super::metrics::Transport;
use super::reader::{Reader, Readers, Wants};

const PING: Duration = Duration::from_secs(20);
/// Two pings without an answer.
const SILENCE: Duration = Duration::from_secs(50);
/// A page that has not read a frame for so long is stuck.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Bytes; pages have nothing to say, and the default would reserve 256 KiB for each.
const BUFFER: usize = 1024;
const LARGEST_MESSAGE: usize = 4096;

/// Answers an upgrade.
pub fn accept(readers: &Readers, upgrade: WebSocketUpgrade, wants: Wants) -> Response {
    let reader = match readers.admit(Transport::Websocket, wants) {
        Ok(reader) => reader,
        Err(refusal) => return *refusal,
    };
    upgrade
        .read_buffer_size(BUFFER)
        .write_buffer_size(0)
        .max_message_size(LARGEST_MESSAGE)
        .max_frame_size(LARGEST_MESSAGE)
        .on_upgrade(async move |socket| serve(socket, reader).await)
}

/// Ends when the page is gone, stuck or told to go; every end is an ordinary one.
async fn serve(mut socket: WebSocket, mut reader: Reader) {
    let mut dismissed = std::pin::pin!(reader.dismissed(rand::random()));
    let mut ping = interval(PING);
    let mut heard = Instant::now();
    loop {
        let message = tokio::select! {
            () = &mut dismissed => break,
            text = reader.next() => match text {
                Some(text) => Message::Text(text),
                None => break,
            },
            received = socket.recv() => match received {
                None | Some(Err(_) | Ok(Message::Close(_))) => return,
                Some(Ok(_)) => { heard = Instant::now(); continue }
            },
            _ = ping.tick() => {
                if heard.elapsed() > SILENCE { return }
                Message::Ping(Default::default())
            }
        };
        if !matches!(timeout(SEND_TIMEOUT, socket.send(message)).await, Ok(Ok(()))) {
            return;
        }
    }
    // 1012, service restart: come back. At once, for the moments of the goodbyes are spread here already.
    let goodbye = CloseFrame { code: close_code::RESTART, reason: "this pod stops: reconnect now".into() };
    let farewell = async {
        if socket.send(Message::Close(Some(goodbye))).await.is_ok() {
            while let Some(Ok(_)) = socket.recv().await {}
        }
    };
    if timeout(LAST_WORDS, farewell).await.is_err() {
        tracing::debug!("a page did not answer the goodbye");
    }
}

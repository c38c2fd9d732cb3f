//! One page's WebSocket: the current frame at once, then each newer one.
//! Rule: a slow page skips frames and one that is gone is noticed; nobody's memory grows with anybody's slowness.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::response::Response;
use tokio::time::{Instant, interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::feed::Frames;
use super::metrics::{Client, Metrics, Transport};

const PING: Duration = Duration::from_secs(20);
/// Two pings without an answer.
const SILENCE: Duration = Duration::from_secs(50);
/// A page that has not read a frame for so long is stuck.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Bytes; pages have nothing to say, and the default would reserve 256 KiB for each.
const BUFFER: usize = 1024;
const LARGEST_MESSAGE: usize = 4096;

/// What every socket shares.
#[derive(Clone)]
pub struct Sockets {
    /// The frames.
    pub frames: Frames,
    /// Cancelled when pages must go to another pod.
    pub closing: CancellationToken,
    /// Sockets that are open, so that the process can wait for their goodbye.
    pub open: TaskTracker,
    /// Figures.
    pub metrics: Metrics,
}

impl Sockets {
    /// Answers an upgrade.
    pub fn accept(self, upgrade: WebSocketUpgrade) -> Response {
        let upgrade = upgrade
            .read_buffer_size(BUFFER)
            .write_buffer_size(0)
            .max_message_size(LARGEST_MESSAGE)
            .max_frame_size(LARGEST_MESSAGE);
        let token = self.open.token();
        upgrade.on_upgrade(async move |socket| {
            let client = self.metrics.client(Transport::Websocket);
            serve(socket, self.frames, self.closing, client).await;
            drop(token);
        })
    }
}

/// Ends when the page is gone, stuck or told to go; every end is an ordinary one.
async fn serve(mut socket: WebSocket, mut frames: Frames, closing: CancellationToken, client: Client) {
    frames.mark_changed();
    let mut ping = interval(PING);
    let mut heard = Instant::now();
    loop {
        let message = tokio::select! {
            () = closing.cancelled() => break,
            changed = frames.changed() => {
                if changed.is_err() { break }
                let Some(text) = frames.borrow_and_update().clone() else { continue };
                client.frame();
                Message::Text(text)
            }
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
    // 1001, going away: browsers come back, and the balancer gives them to another pod.
    let goodbye = CloseFrame { code: close_code::AWAY, reason: "this pod is stopping".into() };
    let farewell = async {
        if socket.send(Message::Close(Some(goodbye))).await.is_ok() {
            while let Some(Ok(_)) = socket.recv().await {}
        }
    };
    if timeout(LAST_WORDS, farewell).await.is_err() {
        tracing::debug!("a page did not answer the goodbye");
    }
}

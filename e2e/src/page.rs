//! The live page as a browser sees it: the WebSocket on `/`, through NGINX.
//! Rule: frames are read as plain JSON, so that a change of our own types cannot hide a change of the contract.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::forward::Forward;
use crate::{Space, wait_until};

/// A frame comes at once on connecting, and then as often as a window is stored.
const NEXT_FRAME: Duration = Duration::from_secs(10);

/// The newest average price of each company, with the window it belongs to: an average may repeat, a window's id does not.
pub type Prices = BTreeMap<String, Price>;

/// One company's newest window.
#[derive(Clone, Debug, PartialEq)]
pub struct Price {
    /// The document's id.
    pub window: String,
    /// Average price.
    pub average: f64,
}

/// An open page.
pub struct Page {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    _forward: Forward,
}

impl Page {
    /// Opens the page of a pipeline through its edge Service.
    ///
    /// # Errors
    /// No pod of the edge is ready, or it does not upgrade.
    pub async fn open(space: &Space, pipeline: &str) -> Result<Self> {
        let forward = Forward::open(&space.namespace, &format!("service/{pipeline}-edge"), 80).await?;
        let opening = connect_async(format!("ws://127.0.0.1:{}/", forward.port));
        let (socket, _) = timeout(NEXT_FRAME, opening)
            .await
            .context("NGINX does not answer")?
            .context("open the page's WebSocket")?;
        Ok(Self { socket, _forward: forward })
    }

    /// Waits for the next frame of prices.
    ///
    /// # Errors
    /// The socket closed, nothing came in time, or what came is not a frame.
    pub async fn next(&mut self) -> Result<Prices> {
        loop {
            let message = timeout(NEXT_FRAME, self.socket.next())
                .await
                .with_context(|| format!("no frame within {} s", NEXT_FRAME.as_secs()))?;
            match message.context("the page's WebSocket ended")?? {
                Message::Text(text) => return prices(&serde_json::from_str(&text)?),
                Message::Close(reason) => bail!("the page's WebSocket was closed: {reason:?}"),
                _ => {}
            }
        }
    }
}

/// Reads `{"type":"prices","prices":[{"_id":…,"company":…,"avgPrice":…}]}`.
fn prices(frame: &Value) -> Result<Prices> {
    ensure!(frame["type"] == "prices", "the frame's type is {}", frame["type"]);
    let list = frame["prices"].as_array().context("the frame has no list of prices")?;
    list.iter()
        .map(|price| {
            let company = price["company"].as_str().context("a price has no company")?;
            let average = price["avgPrice"].as_f64().with_context(|| format!("{company} has no avgPrice"))?;
            Ok((company.to_owned(), Price { window: price["_id"].to_string(), average }))
        })
        .collect()
}

/// Waits until one frame has a price of every company named, and gives that frame.
///
/// # Errors
/// The deadline passed.
pub async fn prices_of(space: &Space, pipeline: &str, companies: &[&str], deadline: Duration) -> Result<Prices> {
    newer_prices_of(space, pipeline, companies, &Prices::new(), deadline).await
}

/// As [`prices_of`], with another window of every company than in `old`. It reconnects as the page does, so it outlives pods.
///
/// # Errors
/// The deadline passed.
pub async fn newer_prices_of(
    space: &Space,
    pipeline: &str,
    companies: &[&str],
    old: &Prices,
    deadline: Duration,
) -> Result<Prices> {
    let mut page = None;
    let description = format!("a new price of each of {} arrives through NGINX", companies.join(", "));
    wait_until(&description, deadline, async || {
        let mut open: Page = match page.take() {
            Some(open) => open,
            None => Page::open(space, pipeline).await?,
        };
        let frame = open.next().await?;
        page = Some(open);
        for company in companies {
            let new = frame.get(*company).with_context(|| format!("a frame without {company}: {frame:?}"))?;
            ensure!(
                old.get(*company).is_none_or(|old| old.window != new.window),
                "{company} still shows window {}",
                new.window
            );
        }
        Ok(frame)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_frame_of_the_contract_is_read() {
        let frame = json!({"type": "prices", "prices": [{"_id": "65f0", "company": "MSFT", "avgPrice": 301.25, "count": 1000}]});
        assert_eq!(prices(&frame).unwrap()["MSFT"].average, 301.25);
    }

    #[test]
    fn a_price_without_an_average_is_refused() {
        assert!(prices(&json!({"type": "prices", "prices": [{"company": "MSFT"}]})).is_err());
    }
}

//! One trade as it lies in a queue: `{"company":"MSFT","eventType":"buy","price":123.45}`.
//! Rule: the body is the old contract byte for byte; what is ours travels in AMQP properties only.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Content type of the body.
pub const CONTENT_TYPE: &str = "application/json";
/// Header that names one life of one publisher: 128 random bits as lower-case hexadecimal text.
pub const SOURCE_HEADER: &str = "x-source";
/// Header that counts the events of a source: 0, 1, 2, …, a signed 64-bit integer.
pub const SEQUENCE_HEADER: &str = "x-seq";
/// Highest price that is taken for one; above it a sum of prices could no longer be kept exactly.
pub const MAX_PRICE: f64 = 1e12;

/// Which way a share changed hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventType {
    /// Someone bought.
    Buy,
    /// Someone sold.
    Sell,
}

/// One trade. Unknown fields are ignored; the price may be written as an integer.
///
/// A price is finite, not negative and at most [`MAX_PRICE`]: one wrong sign would bend a stored average without a trace,
/// while in the dead-letter queue a person sees it. Whether the company is the right one is for the consumer to judge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PriceEvent<'a> {
    /// Symbol of the company; borrowed from the body when it holds no escapes.
    #[serde(borrow)]
    pub company: Cow<'a, str>,
    /// Buy or sell.
    pub event_type: EventType,
    /// Price of one share.
    #[serde(serialize_with = "write_price", deserialize_with = "read_price")]
    pub price: f64,
}

// Go and Node write 100, serde_json writes 100.0; the same bytes leave every publisher.
fn write_price<S: Serializer>(price: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if price.fract() == 0.0 && price.abs() <= MAX_PRICE {
        serializer.serialize_i64(*price as i64)
    } else {
        serializer.serialize_f64(*price)
    }
}

fn read_price<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let price = f64::deserialize(deserializer)?;
    if (0.0..=MAX_PRICE).contains(&price) {
        Ok(price)
    } else {
        Err(de::Error::custom(format!("price {price} is not between 0 and {MAX_PRICE}")))
    }
}

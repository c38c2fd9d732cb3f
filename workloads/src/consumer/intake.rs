//! Reads one message: an event of our company, or the reason why it is none.
//! Rule: pure; a message is judged by its body alone, what the headers add is optional.

use lapin::BasicProperties;
use lapin::types::AMQPValue;
use wire::event::{SEQUENCE_HEADER, SOURCE_HEADER, Sequence};
use wire::queue::Reason;
use wire::{EventType, PriceEvent, Symbol};

/// An event as the windows need it.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading<'a> {
    /// Buy or sell.
    pub event_type: EventType,
    /// Price of one share.
    pub price: f64,
    /// When it was published, milliseconds since 1970.
    pub at: i64,
    /// Source and number within it; foreign publishers have none.
    pub sequence: Option<Sequence<'a>>,
}

/// Longest name of a source in a header, in bytes; every window carries it. Ours, in message ids, have [`wire::event::SOURCE_LENGTH`].
const MAX_SOURCE: usize = 64;

/// Reads a message. `now`, in milliseconds since 1970, stands in for a missing timestamp.
///
/// # Errors
/// The reason, when the message is not an event of this company.
pub fn read<'a>(
    company: &Symbol,
    body: &[u8],
    properties: &'a BasicProperties,
    now: i64,
) -> Result<Reading<'a>, Reason> {
    let event: PriceEvent<'_> = serde_json::from_slice(body)
        .map_err(|error| if error.is_data() { Reason::NotAnEvent } else { Reason::NotJson })?;
    if event.company != company.as_str() {
        return Err(Reason::WrongCompany);
    }
    Ok(Reading {
        event_type: event.event_type,
        price: event.price,
        at: published_at(properties).unwrap_or(now),
        sequence: sequence_in_headers(properties).or_else(|| sequence_in_message_id(properties)),
    })
}

/// AMQP counts a timestamp in seconds, our contract in milliseconds; the year tells them apart.
fn published_at(properties: &BasicProperties) -> Option<i64> {
    const LARGEST_SECONDS: i64 = 100_000_000_000;
    let timestamp = i64::try_from((*properties.timestamp())?).ok()?;
    Some(if timestamp < LARGEST_SECONDS { timestamp.saturating_mul(1000) } else { timestamp })
}

fn sequence_in_message_id(properties: &BasicProperties) -> Option<Sequence<'_>> {
    Sequence::of_message_id(properties.message_id().as_ref()?.as_str())
}

fn sequence_in_headers(properties: &BasicProperties) -> Option<Sequence<'_>> {
    let headers = properties.headers().as_ref()?.inner();
    let AMQPValue::LongString(source) = headers.get(SOURCE_HEADER)? else { return None };
    let source = std::str::from_utf8(source.as_bytes()).ok().filter(|source| source.len() <= MAX_SOURCE)?;
    // Each client has its own idea of how wide a number is; pika's depends on the number.
    let number = match *headers.get(SEQUENCE_HEADER)? {
        AMQPValue::LongLongInt(number) => number,
        AMQPValue::LongInt(number) => number.into(),
        AMQPValue::LongUInt(number) => number.into(),
        AMQPValue::ShortInt(number) => number.into(),
        AMQPValue::ShortUInt(number) => number.into(),
        AMQPValue::ShortShortInt(number) => number.into(),
        AMQPValue::ShortShortUInt(number) => number.into(),
        _ => return None,
    };
    Some(Sequence { source, number: u64::try_from(number).ok()? })
}

#[cfg(test)]
mod tests {
    use lapin::types::FieldTable;
    use wire::event::MAX_NUMBER;

    use super::*;

    fn judged(body: &str) -> Result<f64, Reason> {
        read(&"MSFT".parse().unwrap(), body.as_bytes(), &BasicProperties::default(), 0).map(|reading| reading.price)
    }

    #[test]
    fn every_message_is_an_event_or_has_its_reason() {
        assert_eq!(judged(r#"{"company":"MSFT","eventType":"buy","price":123.45}"#), Ok(123.45));
        assert_eq!(judged(r#"{"company":"TSLA","eventType":"buy","price":123.45}"#), Err(Reason::WrongCompany));
        assert_eq!(judged(r#"{"company":"MSFT","price":123.45}"#), Err(Reason::NotAnEvent));
        assert_eq!(judged(r#"{"company":"MSFT","eventType":"buy","price":-1}"#), Err(Reason::NotAnEvent));
        assert_eq!(judged("hello"), Err(Reason::NotJson));
        assert_eq!(judged(""), Err(Reason::NotJson));
    }

    #[test]
    fn an_event_carries_its_time_and_number_in_its_message_id_or_headers_or_not_at_all() {
        let mut headers = FieldTable::default();
        headers.insert(SOURCE_HEADER.into(), AMQPValue::LongString("abc".into()));
        headers.insert(SEQUENCE_HEADER.into(), AMQPValue::LongLongInt(7));
        let ours = BasicProperties::default().with_timestamp(1_800_000_000_123).with_headers(headers);
        let body = br#"{"company":"MSFT","eventType":"sell","price":1}"#;
        let company = "MSFT".parse().unwrap();
        let reading = read(&company, body, &ours, 5).unwrap();
        assert_eq!((reading.at, reading.sequence), (1_800_000_000_123, Some(Sequence { source: "abc", number: 7 })));
        for narrow in [AMQPValue::LongInt(7), AMQPValue::ShortUInt(7), AMQPValue::ShortShortInt(7)] {
            let mut headers = ours.headers().clone().unwrap();
            headers.insert(SEQUENCE_HEADER.into(), narrow);
            let ours = ours.clone().with_headers(headers);
            assert_eq!(read(&company, body, &ours, 5).unwrap().sequence, Some(Sequence { source: "abc", number: 7 }));
        }
        let source = "k3J9xQ2mPz0a";
        let named = BasicProperties::default().with_message_id(format!("{source}#7").into());
        assert_eq!(read(&company, body, &named, 5).unwrap().sequence, Some(Sequence { source, number: 7 }));
        let both = named.with_headers(ours.headers().clone().unwrap());
        assert_eq!(read(&company, body, &both, 5).unwrap().sequence, Some(Sequence { source: "abc", number: 7 }));
        // The database could not hold it: the event is counted, without a number.
        let beyond = BasicProperties::default().with_message_id(format!("{source}#{}", MAX_NUMBER + 1).into());
        assert_eq!(read(&company, body, &beyond, 5).unwrap().sequence, None);
        let plain = BasicProperties::default();
        let reading = read(&company, body, &plain, 5).unwrap();
        assert_eq!((reading.at, reading.sequence), (5, None));
        let seconds = BasicProperties::default().with_timestamp(1_800_000_000);
        assert_eq!(read(&company, body, &seconds, 5).unwrap().at, 1_800_000_000_000);
    }
}

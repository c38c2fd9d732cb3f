//! The contract with the programs that existed before: their bytes parse, ours are theirs where that was promised.

use wire::queue::{self, QueueType, Reason};
use wire::{EventType, Frame, PriceEvent, Symbol, Window};

fn event(text: &str) -> Result<PriceEvent<'_>, serde_json::Error> {
    serde_json::from_str(text)
}

#[test]
fn an_event_of_a_go_publisher_parses_and_is_written_back_byte_for_byte() {
    for text in [
        r#"{"company":"MSFT","eventType":"buy","price":123.45}"#,
        r#"{"company":"TSLA","eventType":"sell","price":100}"#,
        r#"{"company":"BRK.B","eventType":"sell","price":0.01}"#,
        r#"{"company":"AAPL","eventType":"buy","price":99.99999999999999}"#,
    ] {
        let parsed = event(text).unwrap();
        assert_eq!(serde_json::to_string(&parsed).unwrap(), text);
    }
}

#[test]
fn a_python_publisher_may_use_spaces_another_order_escapes_and_fields_of_its_own() {
    let parsed = event(r#"{"price": 123.450, "eventType": "buy", "at": "now", "company": "MSF\u0054"}"#).unwrap();
    assert_eq!(parsed, PriceEvent { company: "MSFT".into(), event_type: EventType::Buy, price: 123.45 });
    assert_eq!(event(r#"{"company":"MSFT","eventType":"buy","price":1e2}"#).unwrap().price, 100.0);
}

#[test]
fn what_is_not_an_event_is_refused() {
    for text in [
        r#"{"company":"MSFT","eventType":"buy"}"#,
        r#"{"company":"MSFT","eventType":"hold","price":1}"#,
        r#"{"company":"MSFT","eventType":"buy","price":"1"}"#,
        r#"{"company":"MSFT","eventType":"buy","price":-0.01}"#,
        r#"{"company":"MSFT","eventType":"buy","price":1e13}"#,
        r#"{"company":"MSFT","eventType":"buy","price":null}"#,
        r#"{"company":7,"eventType":"buy","price":1}"#,
        "[]",
        "7",
    ] {
        assert!(event(text).unwrap_err().is_data(), "{text}");
    }
    for text in ["", "{", "hello", r#"{"company":"MSFT""#, r#"{"company":"MSFT","eventType":"buy","price":1} x"#] {
        assert!(!event(text).unwrap_err().is_data(), "{text}");
    }
}

#[test]
fn a_frame_of_a_node_server_parses_and_a_foreign_window_is_written_back_byte_for_byte() {
    let text = concat!(
        r#"{"type":"prices","prices":["#,
        r#"{"_id":"655f1d2f8b3c2a0012345678","company":"AAPL","avgPrice":300.12},"#,
        r#"{"_id":"655f1d2f8b3c2a0012345679","company":"MSFT","avgPrice":299.5}]}"#
    );
    let frame: Frame = serde_json::from_str(text).unwrap();
    assert_eq!(frame.prices[0].window, None);
    assert_eq!(serde_json::to_string(&frame).unwrap(), text);
}

#[test]
fn our_frame_is_sorted_and_its_additions_stand_where_old_readers_ignore_them() {
    let window = |company: &str| Window {
        id: "655f1d2f8b3c2a0012345678".into(),
        company: company.into(),
        avg_price: 300.12,
        window: Some(7),
        count: Some(1000),
        min: Some(50.0),
        max: Some(549.99),
        open: Some(60.25),
        close: Some(61.0),
        buys: Some(490),
        sells: Some(510),
        first_at: Some("2026-11-23T14:00:00Z".into()),
        last_at: None,
        unsequenced: None,
        writer: Some("consumer-0".into()),
    };
    let frame = Frame::new(vec![window("TSLA"), window("AAPL")], Some("liveview-0".into()));
    let value = serde_json::to_value(&frame).unwrap();
    assert_eq!(value["type"], "prices");
    assert_eq!(value["pod"], "liveview-0");
    assert_eq!(value["prices"][0]["company"], "AAPL");
    assert_eq!(value["prices"][0]["_id"], "655f1d2f8b3c2a0012345678");
    assert_eq!(value["prices"][0]["avgPrice"], 300.12);
    assert!(value["prices"][0].get("lastAt").is_none());
    assert!(serde_json::to_string(&frame).unwrap().starts_with(
        r#"{"type":"prices","prices":[{"_id":"655f1d2f8b3c2a0012345678","company":"AAPL","avgPrice":300.12,"#
    ));
}

#[test]
fn a_queue_is_named_like_its_company_and_its_dead_letters_like_no_company() {
    let company: Symbol = "BRK.B".parse().unwrap();
    assert_eq!(queue::name(&company), "BRK.B");
    assert_eq!(queue::dead_letters(&company), "BRK.B/dead-letters");
    assert!(queue::dead_letters(&company).parse::<Symbol>().is_err());
}

#[test]
fn queue_types_and_reasons_are_written_as_the_broker_and_the_metrics_know_them() {
    assert_eq!("quorum".parse(), Ok(QueueType::Quorum));
    assert_eq!("classic".parse(), Ok(QueueType::Classic));
    assert_eq!("stream".parse::<QueueType>(), Err("queue type \"stream\" is unknown: use quorum or classic".into()));
    assert_eq!(Reason::ALL.map(Reason::as_str), ["not_json", "not_an_event", "wrong_company"]);
}

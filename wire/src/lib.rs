//! Everything that crosses a process boundary of the stock pipeline: who writes it, who reads it, what never changes.
//! Rule: data and names only. No clock, no randomness, no sockets; serde and nothing else.
//!
//! | module | what | writer → reader |
//! | --- | --- | --- |
//! | [`event`] | one trade: JSON body and AMQP headers | publisher → consumer |
//! | [`window`] | one average: the document of the database, as JSON shows it | consumer → liveview |
//! | [`frame`] | the newest window of each company | liveview → browser |
//! | [`queue`] | queue names, types, dead letters | operator, publisher, consumer |
//! | [`symbol`] | what a company may be called | everyone |
//! | [`mod@env`] | environment variables and their defaults | operator → programs |
//!
//! Programs that existed before this repository speak the same contract; `tests/contract.rs` holds their bytes.

pub mod env;
pub mod event;
pub mod frame;
pub mod queue;
pub mod symbol;
pub mod window;

pub use event::{EventType, PriceEvent};
pub use frame::Frame;
pub use symbol::Symbol;
pub use window::Window;

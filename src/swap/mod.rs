//! Virtual swap slots and the devices behind them.
mod error;
mod place;
mod slots;
mod word;
pub use error::Error;
pub use place::Place;
pub use slots::{SlotGuard, Slots};
pub use word::{Content, Entry, MAX_COUNT, SlotWord};

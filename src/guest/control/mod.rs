//! A socket by which a running engine is asked and told things: `zspool top`, `zspool ctl`, or a shell with `nc -U`.
//!
//! ```text
//!   $XDG_RUNTIME_DIR/zspool/4711.sock            (without that variable: /tmp/zspool-UID, mode 0700)
//!
//!   client                              Server: a thread, and one more for each connection
//!     | status\n                   -->    |
//!     |  <-- {"pid":4711,"vms":[...]}\n    |   Controlled: what an engine says and does
//!     | reclaim 64M\n              -->    |
//!     |  <-- {"reclaimed":67108864,...}\n  |
//! ```
//!
//! 1. A line in, a line out: one JSON object, in the order of the questions. One with the key `error` says what was wrong.
//! 2. The folder belongs to the user and nobody else may enter it: who can connect may do everything.
//! 3. A connection that is slow or silent holds up nobody but itself; there are at most [`CONNECTIONS`].

mod client;
mod engine;
mod error;
mod json;
mod place;
mod server;
mod settings;
mod verb;

pub use client::Client;
pub use engine::EngineControl;
pub use error::ControlError;
pub use json::Json;
pub use place::{Place, sockets};
pub use server::{CONNECTIONS, Server};
pub use settings::{LIBRARY_NOTE, Settings, SwapKind, SwapSettings, VARIABLE};
pub use verb::{Controlled, Verb};

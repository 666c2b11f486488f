//! Turning pages into fewer bytes and back.
//!
//! ```text
//!                 same_filled? -- yes --> a word, no bytes at all
//!                      | no
//!   page --------> Codec::compress(context) --> Bytes (1..4096)   kept with the codec's id
//!                      |                    `-> Incompressible    kept raw, id 0
//!                  Context: output buffer and tables, one of `Contexts`
//!
//!   id, bytes ---> Codecs::decompress --> page                    no context, no allocation
//! ```
//!
//! 1. What a codec wrote can be read as long as a codec with that id is registered: the id is kept per object, so the codec
//!    for new pages may change while running.
//! 2. Compressing may allocate (a context's tables, once) and wait (for a free context). Decompressing does neither: it
//!    runs inside fault handlers.
//! 3. Bytes are not trusted: garbage is an error, never a panic or a write outside the page.
//!
//! Where the bytes go is not this layer's business.

mod codec;
mod context;
mod contexts;
mod error;
mod id;
mod lz4;
mod registry;
mod same_filled;
mod tagged;

pub use codec::{Codec, Compressed};
pub use context::{Context, OUTPUT_BYTES};
pub use contexts::{ContextGuard, Contexts};
pub use error::{Corrupt, Error};
pub use id::CodecId;
pub use lz4::Lz4;
pub use registry::Codecs;
pub use same_filled::{fill, same_filled};
pub use tagged::Tagged;

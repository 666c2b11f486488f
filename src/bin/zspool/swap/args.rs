//! The command line of `swap`.

use crate::args::{Sources, Swapfiles, seed};
use crate::size;
use clap::Args;
use std::path::PathBuf;

pub(crate) const AFTER_SWAP: &str = "\
Sources and swapfiles are those of `zspool squeeze`. Without a swapfile there are two, of a tier each, without names in the
folder for temporary files. Everything is stored, written back and read; then each device is taken off, first of the table
first: what it holds goes to the others, or into memory. Ctrl-C cancels that.

Examples:
  zspool swap --image a.pages                  two tiers, and what the metadata costs a page
  zspool swap --image a.pages --free-half      free a random half, and clean the devices
  zspool swap --swapfile /fast/swap,size=64M,tier=fast --swapfile /slow/swap,size=4G,tier=slow --json - -- COMMAND

Exit status: as that of `zspool squeeze`: of the pages that were stored. Those that were refused are counted in the report.
1 as well if a device could not be taken off.";

#[derive(Debug, Args)]
pub(crate) struct Swap {
    #[command(flatten)]
    pub(crate) sources: Sources,

    #[command(flatten)]
    pub(crate) swapfiles: Swapfiles,

    /// Most memory the pool may have, in frames, warm ones included [default: a fifth of the machine's]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = size::parse)]
    pub(crate) pool_limit: Option<u64>,

    /// How pages are compressed
    #[arg(long, value_name = "NAME", default_value = "lz4")]
    pub(crate) codec: String,

    /// Free a random half of the pages when all are written, and clean the devices
    #[arg(long)]
    pub(crate) free_half: bool,

    /// Decides which pages --free-half takes, and the order of the read-back
    #[arg(long, value_name = "N", default_value_t = 0, allow_hyphen_values = true, value_parser = seed)]
    pub(crate) seed: u64,

    /// Write the numbers as JSON as well; with -, to standard output, and the text to standard error
    #[arg(long, value_name = "FILE|-")]
    pub(crate) json: Option<PathBuf>,
}

//! The command line of `classes`.

use crate::args::{Sources, seed};
use crate::size;
use clap::Args;
use std::path::PathBuf;

/// Replacements of every page that nobody waits for more of.
const TIMES_MAX: u64 = 1000;

pub(crate) const AFTER_CLASSES: &str = "\
Sources are those of `zspool squeeze`. Pages are stored by one thread, and nothing runs in the background, so that the same
pages give the same picture. Parts of the frames add up to what the pool has backed, to the byte.

Examples:
  zspool classes --image a.pages                          after a fill
  zspool classes --image a.pages --free-half              with holes in it
  zspool classes --image a.pages --free-half --compact    packed again
  zspool classes --churn=4 --json - -- COMMAND            after replacing each page four times, as JSON

Exit status: as that of `zspool squeeze`: of the pages that were stored. Those that were refused are counted in the report.";

#[derive(Debug, Args)]
pub(crate) struct Classes {
    #[command(flatten)]
    pub(crate) sources: Sources,

    /// Most memory the pool may have, in frames, warm ones included [default: a fifth of the machine's]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = size::parse)]
    pub(crate) pool_limit: Option<u64>,

    /// How pages are compressed
    #[arg(long, value_name = "NAME", default_value = "lz4")]
    pub(crate) codec: String,

    /// Replace pages by others at random, TIMES as many as there are
    #[arg(long, value_name = "TIMES", num_args = 0..=1, require_equals = true, default_missing_value = "1", value_parser = times)]
    pub(crate) churn: Option<u64>,

    /// Free a random half of the pages (after --churn)
    #[arg(long)]
    pub(crate) free_half: bool,

    /// Compact the pool (at the end)
    #[arg(long)]
    pub(crate) compact: bool,

    /// Decides which pages --churn and --free-half take
    #[arg(long, value_name = "N", default_value_t = 0, allow_hyphen_values = true, value_parser = seed)]
    pub(crate) seed: u64,

    /// Write the numbers as JSON as well; with -, to standard output, and the picture to standard error
    #[arg(long, value_name = "FILE|-")]
    pub(crate) json: Option<PathBuf>,
}

fn times(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) => Err("Zero times would replace nothing; leave --churn out, or use at least 1.".into()),
        Ok(n) if n <= TIMES_MAX => Ok(n),
        Ok(_) => Err(format!("At most {TIMES_MAX} times are possible; use fewer.")),
        Err(_) => Err("How often pages are replaced is a whole number, at least 1.".into()),
    }
}

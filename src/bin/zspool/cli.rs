//! [`Cli`]: the command line, as far as it is not a command's own.

use crate::classes::args::{AFTER_CLASSES, Classes};
use crate::squeeze::args::{AFTER_SQUEEZE, Squeeze};
use crate::swap::args::{AFTER_SWAP, Swap};
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "zspool", version, about = "Compressed memory for userspace", after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Compress real memory, account for it, read it back and compare
    #[command(after_help = AFTER_SQUEEZE)]
    Squeeze(Squeeze),
    /// Show where the bytes of the pool go: size classes, and a picture
    #[command(after_help = AFTER_CLASSES)]
    Classes(Classes),
    /// Show pages on devices in tiers: written back, read, cleaned, and moved off again
    #[command(after_help = AFTER_SWAP)]
    Swap(Swap),
    /// Print the control files that every memcg has: what they say, and what can be written to them
    #[command(after_help = AFTER_FILES)]
    Files,
    /// Run a program under a memory limit: what is over it leaves, compressed, and comes back when it is touched
    #[cfg(feature = "guest")]
    #[command(after_help = crate::run::args::AFTER_RUN)]
    Run(crate::run::args::Run),
    /// Show what runs under a limit, live
    #[cfg(feature = "guest")]
    #[command(after_help = crate::top::args::AFTER_TOP)]
    Top(crate::top::args::Top),
    /// Ask or tell a program that runs under a limit
    #[cfg(feature = "guest")]
    #[command(after_help = crate::top::args::AFTER_CTL)]
    Ctl(crate::top::args::Ctl),
}

const EXAMPLES: &str = "\
Examples:
  zspool squeeze                       compress the memory of the running programs, and compare
  zspool squeeze -- python3 -c 'import time; x = list(range(10**6)); time.sleep(60)'
  zspool classes --image a.pages       where the bytes of the pool go
  zspool swap --image a.pages          the same through swapfiles, with a table of them
  zspool files                         the control files of a memcg
  zspool squeeze --help                everything it can do";

const AFTER_FILES: &str = "\
r: can be read, w: can be written. With `zspool squeeze --mount DIR` each memcg is a directory with these files in it.

Sizes are bytes, or have K, M, G or T behind them (steps of 1024).";

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}

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

    /// Else the parser's own advice is to write `-- -5`, which would start a program of that name.
    #[test]
    fn a_number_with_a_sign_is_judged_as_a_number() {
        let numbers = |verb: &'static str, options: &'static [&'static str]| options.iter().map(move |&o| (verb, o));
        let options = numbers("squeeze", &["--pid", "--after", "--max-pages", "--swap-size", "--pool-limit"])
            .chain(numbers("squeeze", &["--memcg-limit", "--threads", "--seed"]))
            .chain(numbers("classes", &["--pool-limit", "--seed"]))
            .chain(numbers("swap", &["--pool-limit", "--seed"]));
        #[cfg(feature = "guest")]
        let options = options
            .chain(numbers("run", &["--memory-max", "--memory-high", "--pool-limit", "--evict-cold-after", "--least"]))
            .chain(numbers("top", &["--interval"]));
        for (verb, option) in options {
            for value in ["-5", "-5M"] {
                let said = Cli::try_parse_from(["zspool", verb, option, value]).unwrap_err().to_string();
                assert!(said.contains(&format!("invalid value '{value}' for '{option} ")), "{verb} {option}: {said}");
                assert!(
                    !said.contains("tip:") && said.lines().next().unwrap().ends_with('.'),
                    "{verb} {option}: {said}"
                );
            }
        }
    }

    #[cfg(feature = "guest")]
    #[test]
    fn a_process_that_is_no_number_is_refused_with_a_sentence() {
        for pid in ["-1", "abc", "0"] {
            let said = Cli::try_parse_from(["zspool", "ctl", pid, "status"]).unwrap_err().to_string();
            assert!(said.contains(&format!("invalid value '{pid}' for '<PID>'")), "{said}");
            assert!(!said.contains("tip:") && said.lines().next().unwrap().ends_with('.'), "{said}");
        }
        assert!(Cli::try_parse_from(["zspool", "ctl", "--help"]).is_err_and(|e| e.exit_code() == 0));
    }
}

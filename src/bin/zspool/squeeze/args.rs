//! The command line of `squeeze`.

use crate::args::{Sources, Swapfiles, seed};
use crate::size;
use clap::Args;
use std::ffi::OsString;
use std::path::PathBuf;

/// Threads nobody needs more of; each has a few hundred KiB.
const THREADS_MAX: usize = 1024;

// No option has a long text, so `--help` is as short as `-h`.
pub(crate) const AFTER_SQUEEZE: &str = "\
Each source becomes a memcg; --pid, --image and --core can be given more than once. Without a source, the
processes this user may read are taken, largest first. Nothing is stopped but COMMAND, which is ended.

SIZE is a number of bytes, or one with K, M, G or T behind it (steps of 1024).

A swapfile is made, or reused if it is an earlier one of ours; with `unnamed`, PATH is a folder, and the file has no name
in it; with `block`, PATH is a block device, which must be empty or ours; with `overwrite` too, what is on it is lost. Tiers of higher priority are used first; one that
names none comes after those named before it; swapfiles of one tier share the load.

Examples:
  zspool squeeze                                  memory of the running programs
  zspool squeeze --pid 4711 --classes --json -    one program, as JSON; the table goes to standard error
  zspool squeeze -- python3 -c 'import time; x = list(range(10**6)); time.sleep(60)'
  zspool squeeze --image a.pages --image b.pages --memcg-limit a=8M \\
                 --pool-limit 32M --swapfile /var/tmp/zspool.swap --swap-size 1G
  zspool squeeze --image a.pages --pool-limit 8M --swapfile /fast/swap,size=16M,tier=fast \\
                 --swapfile /var/tmp,size=1G,tier=slow,unnamed --swapoff fast
  zspool squeeze --mount /mnt/zspool --hold       and in another shell: cat /mnt/zspool/*/memory.stat

Exit status: 0 if every stored page came back identical, 1 if one did not, 2 if the run could not be made
or its report not be written, 128 and the signal's number if it was interrupted. Pages that the limits
refuse are not stored: the report counts them, and the exit status does not.";

#[derive(Debug, Args)]
pub(crate) struct Squeeze {
    #[command(flatten)]
    pub(crate) sources: Sources,

    /// Most memory the pool may have, in frames, warm ones included [default: a fifth of the machine's]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = size::parse)]
    pub(crate) pool_limit: Option<u64>,

    /// memory.zswap.max of a source's memcg, by its name in the table; of every one without SOURCE
    #[arg(long, value_name = "[SOURCE=]SIZE", allow_hyphen_values = true, value_parser = memcg_limit)]
    pub(crate) memcg_limit: Vec<MemcgLimit>,

    #[command(flatten)]
    pub(crate) swapfiles: Swapfiles,

    /// Before pages are read back, move everything off this tier or swapfile; Ctrl-C cancels that and no more
    #[arg(long, value_name = "TIER|PATH")]
    pub(crate) swapoff: Vec<OsString>,

    /// How pages are compressed
    #[arg(long, value_name = "NAME", default_value = "lz4")]
    pub(crate) codec: String,

    /// Threads that store and load [default: one per core]
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = threads)]
    pub(crate) threads: Option<usize>,

    /// Decides the order of the read-back
    #[arg(long, value_name = "N", default_value_t = 0, allow_hyphen_values = true, value_parser = seed)]
    pub(crate) seed: u64,

    /// Show the size classes
    #[arg(long)]
    pub(crate) classes: bool,

    /// Show each memcg's memory.stat
    #[arg(long)]
    pub(crate) stat: bool,

    /// Mount the memcgs at this empty directory while it runs, to be watched and driven like cgroup v2's
    #[arg(long, value_name = "DIR")]
    pub(crate) mount: Option<PathBuf>,

    /// Between storing and reading back, wait for Ctrl-C, or for DIR to be unmounted
    #[arg(long, requires = "mount")]
    pub(crate) hold: bool,

    /// Write the report as JSON as well; with -, to standard output, and the table to standard error
    #[arg(long, value_name = "FILE|-")]
    pub(crate) json: Option<PathBuf>,
}

/// One `--memcg-limit`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemcgLimit {
    /// None for every source.
    pub(crate) source: Option<String>,
    pub(crate) bytes: u64,
}

fn memcg_limit(text: &str) -> Result<MemcgLimit, String> {
    // Sizes have no `=`, so a name may.
    let (source, bytes) = match text.rsplit_once('=') {
        Some(("", _)) => {
            return Err("There is no source's name before the equals sign; leave both out to limit all.".into());
        }
        Some((source, bytes)) => (Some(source.to_owned()), bytes),
        None => (None, text),
    };
    Ok(MemcgLimit { source, bytes: size::parse(bytes).map_err(|e| e.to_string())? })
}

fn threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("Zero threads would store nothing; use at least 1.".into()),
        Ok(n) if n <= THREADS_MAX => Ok(n),
        Ok(_) => Err(format!("At most {THREADS_MAX} threads are started; use fewer.")),
        Err(_) => Err("The number of threads is a whole number, at least 1.".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_a_source_or_not() {
        let limit = |source: Option<&str>, bytes| MemcgLimit { source: source.map(str::to_owned), bytes };
        assert_eq!(memcg_limit("10M"), Ok(limit(None, 10 << 20)));
        assert_eq!(memcg_limit("0"), Ok(limit(None, 0)));
        assert_eq!(memcg_limit("java-12=1"), Ok(limit(Some("java-12"), 1)));
        assert_eq!(memcg_limit("a=b=1K"), Ok(limit(Some("a=b"), 1024)));
        for wrong in ["=1", "a=", "a", "a=1Q"] {
            assert!(memcg_limit(wrong).is_err(), "{wrong}");
        }
    }
}

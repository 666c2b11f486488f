//! The command lines of `top` and `ctl`.

use crate::args::{pid, seconds};
use clap::Args;
use std::time::Duration;

pub(crate) const AFTER_TOP: &str = "\
Columns: what the limit counts (USED: resident and compressed together, with the LIMIT), bytes in memory (RESIDENT), bytes that
compressed pages take (POOLED) and the pages they were (OUT), bytes on devices (DEVICE), faults a second, and the time within
which 99 of 100 faults were served since the start.

On a terminal the table is drawn anew; elsewhere one follows the other. Root sees the programs of all users.";

#[derive(Debug, Args)]
pub(crate) struct Top {
    /// Show it once
    #[arg(long)]
    pub(crate) once: bool,

    /// As JSON, an object a line
    #[arg(long)]
    pub(crate) json: bool,

    /// Time between looks
    #[arg(long, value_name = "SECONDS", default_value = "1", allow_hyphen_values = true, value_parser = seconds)]
    pub(crate) interval: Duration,
}

pub(crate) const AFTER_CTL: &str = "\
Verbs:
  status                            everything there is to know
  out                               everything out of memory that can go
  in                                everything back
  trim                              give back what nobody needs: compress what is staged, pack the pool
  reclaim BYTES [source=anon|zswap] as a write to memory.reclaim
  limit BYTES|max                   memory.max
  high BYTES|max                    memory.high

The answer is a line of JSON.";

#[derive(Debug, Args)]
pub(crate) struct Ctl {
    /// The process
    #[arg(allow_hyphen_values = true, value_parser = pid)]
    pub(crate) pid: u32,

    /// What it is asked or told
    #[arg(required = true, trailing_var_arg = true, value_name = "VERB")]
    pub(crate) verb: Vec<String>,
}

//! `zspool top` and `zspool ctl`: what runs under a limit, and telling it something.
//!
//! ```text
//!   control sockets --status--> looks --two of one process--> rows --> a table, drawn anew; or JSON
//! ```

pub(crate) mod args;
mod look;
mod rows;
mod table;

use crate::error::RunError;
use crate::output;
use crate::signals;
use args::{Ctl, Top};
use look::look;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};
use zspool::guest::control::{Client, Place, sockets};

const REFUSED: u8 = 2;

/// For what a program does at once unless it is stopped.
const PATIENCE: Duration = Duration::from_secs(30);

/// Show what runs, until Ctrl-C.
///
/// # Errors
/// When it cannot be shown.
pub(crate) fn top(args: &Top) -> Result<(), RunError> {
    let drawn_anew = io::stdout().is_terminal() && !args.json && !args.once;
    let mut before = look();
    loop {
        let next = Instant::now() + args.interval;
        while Instant::now() < next && signals::stopped().is_none() {
            thread::sleep(next.saturating_duration_since(Instant::now()).min(Duration::from_millis(50)));
        }
        if signals::stopped().is_some() {
            return Ok(());
        }
        let now = look();
        let rows = rows::rows(&before, &now);
        let mut text = match args.json {
            true => serde_json::to_string(&rows).expect("rows have no maps with strange keys") + "\n",
            false => table::table(&rows),
        };
        if drawn_anew {
            text = format!("\x1b[H\x1b[J{text}");
        }
        let is_read = output::print(&text)?;
        if args.once || !is_read {
            return Ok(());
        }
        before = now;
    }
}

/// Have one process asked.
pub(crate) fn ctl(args: &Ctl) -> ExitCode {
    // Who waits for an answer may stop waiting.
    signals::end_at_once();
    let known = sockets().into_iter().find(|(pid, _)| *pid == args.pid).map(|(_, path)| path);
    let path = known.unwrap_or_else(|| Place::of_this_user().socket(args.pid));
    let verb = args.verb.join(" ");
    // The others take as long as they take.
    let is_short = verb.trim() == "status";
    let answer = Client::connect(&path).and_then(|client| client.of(args.pid)).and_then(|client| {
        let mut client = if is_short { client.patience(PATIENCE) } else { client };
        client.ask(&verb)
    });
    let refused = match answer {
        Ok(answer) => {
            let error = serde_json::from_str::<serde_json::Value>(&answer)
                .ok()
                .and_then(|a| Some(a.get("error")?.as_str()?.to_owned()));
            match error {
                None => match output::print(&(answer + "\n")) {
                    Ok(_) => return ExitCode::SUCCESS,
                    Err(error) => error.to_string(),
                },
                Some(error) => error,
            }
        }
        Err(error) => error.to_string(),
    };
    let _ = writeln!(io::stderr(), "{refused}");
    ExitCode::from(REFUSED)
}

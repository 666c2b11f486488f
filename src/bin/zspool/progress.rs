//! A bar on standard error while it works; nothing where that is no terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// One phase's bar.
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// A bar for `pages` pages, at most.
    pub(crate) fn new(doing: &'static str, pages: u64) -> Self {
        // Hidden by itself where standard error is no terminal.
        let bar = ProgressBar::with_draw_target(Some(pages), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{msg:>12} [{wide_bar}] {pos}/{len} pages, {eta} left");
        bar.set_style(style.expect("the template is a constant").progress_chars("=> "));
        bar.set_message(doing);
        Progress { bar }
    }

    pub(crate) fn add(&self, pages: u64) {
        self.bar.inc(pages);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

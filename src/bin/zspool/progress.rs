//! A bar on standard error while it works; nothing where that is no terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::borrow::Cow;

/// One phase's bar.
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// A bar for `pages` pages, at most.
    pub(crate) fn pages(doing: impl Into<Cow<'static, str>>, pages: u64) -> Self {
        Self::new(doing, pages, "pages")
    }

    /// A bar for `objects` objects on a device, at most.
    pub(crate) fn objects(doing: impl Into<Cow<'static, str>>, objects: u64) -> Self {
        Self::new(doing, objects, "objects")
    }

    fn new(doing: impl Into<Cow<'static, str>>, many: u64, of: &str) -> Self {
        // Hidden by itself where standard error is no terminal.
        let bar = ProgressBar::with_draw_target(Some(many), ProgressDrawTarget::stderr());
        let style =
            ProgressStyle::with_template(&format!("{{msg:>12}} [{{wide_bar}}] {{pos}}/{{len}} {of}, {{eta}} left"));
        bar.set_style(style.expect("the template is a constant").progress_chars("=> "));
        bar.set_message(doing);
        Progress { bar }
    }

    pub(crate) fn add(&self, pages: u64) {
        self.bar.inc(pages);
    }

    /// So many are through.
    pub(crate) fn at(&self, many: u64) {
        self.bar.set_position(many);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

//! [`Chosen`]: the sources that the command line names, with names of their own and shares of `--max-pages`.

use super::command::{self, Command};
use super::core::Core;
use super::image::Image;
use super::names::Names;
use super::process::Process;
use super::survey::survey;
use super::{Source, SourceError};
use crate::args::{DEFAULT_MAX_PAGES, Sources};

/// Sources that can be read. A command among them is not started yet: it takes seconds, and must be ended again.
pub(crate) struct Chosen {
    sources: Vec<Box<dyn Source>>,
    /// A name for each, and for the command if there is one.
    names: Vec<String>,
}

/// A source with its name and how many pages to read of it at most.
pub(crate) struct Taken {
    pub(crate) name: String,
    pub(crate) source: Box<dyn Source>,
    pub(crate) pages: u64,
}

impl Chosen {
    /// All sources that are named; every process there is, if nothing at all was.
    ///
    /// # Errors
    /// When one cannot be read.
    pub(crate) fn open(args: &Sources) -> Result<Self, SourceError> {
        let mut sources: Vec<Box<dyn Source>> = vec![];
        for path in &args.image {
            sources.push(Box::new(Image::open(path)?));
        }
        for path in &args.core {
            sources.push(Box::new(Core::open(path)?));
        }
        for &pid in &args.pid {
            sources.push(Box::new(Process::open(pid)?));
        }
        if args.names_no_source() {
            let found = survey(args.max_pages.unwrap_or(DEFAULT_MAX_PAGES))?;
            if found.denied > 0 {
                let denied = found.denied;
                eprintln!("Not read, because this user may not read them: {denied} of the larger processes.");
            }
            sources.extend(found.processes.into_iter().map(|process| Box::new(process) as Box<dyn Source>));
        }
        let mut unique = Names::default();
        let mut names: Vec<_> = sources.iter().map(|source| unique.unique(source.name())).collect();
        if let Some(program) = args.command.first() {
            names.push(unique.unique(&command::name(program)));
        }
        Ok(Chosen { sources, names })
    }

    /// The names, in the order of the report.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// Start the command, and give each source its share of `--max-pages`: as much as is left when its turn comes. What it
    /// leaves nothing for is not in the report.
    ///
    /// # Errors
    /// When the command does not start, or is through before it is read.
    pub(crate) fn take(mut self, args: &Sources) -> Result<Vec<Taken>, SourceError> {
        if !args.command.is_empty() {
            self.sources.push(Box::new(Command::start(&args.command, args.after)?));
        }
        let mut left = args.max_pages.unwrap_or(if args.names_no_source() { DEFAULT_MAX_PAGES } else { u64::MAX });
        let mut taken = vec![];
        for (name, source) in self.names.into_iter().zip(self.sources) {
            let pages = source.pages_at_most().min(left);
            left -= pages;
            if pages > 0 {
                taken.push(Taken { name, source, pages });
            }
        }
        Ok(taken)
    }
}

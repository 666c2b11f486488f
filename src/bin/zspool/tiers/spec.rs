//! [`Spec`]: what follows `--swapfile`, and [`planned`]: what becomes of several of them.
//!
//! ```text
//!   PATH[,size=SIZE][,tier=NAME][,priority=N][,unnamed|,block[,overwrite]]
//!
//!   /fast/swap,size=1G,tier=fast          a file, made or reused
//!   /var/tmp,size=8G,tier=slow,unnamed    a file without a name in that folder: nobody else can open it
//!   /dev/vdb,tier=slow,block              a block device; one that has anything on it wants `overwrite` as well
//! ```
//!
//! Options are taken off the end while they are known, so a path may have commas in it.

use crate::size;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use zspool::swap::{DEFAULT_TIER, check_tier_name};

/// What a swapfile is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Kind {
    /// A file of that name.
    #[default]
    File,
    /// A file without a name, in the folder of that name.
    Unnamed,
    /// A block device.
    Block,
}

/// One `--swapfile`, as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Spec {
    pub(crate) path: PathBuf,
    pub(crate) size: Option<u64>,
    pub(crate) tier: Option<String>,
    pub(crate) priority: Option<i16>,
    pub(crate) kind: Kind,
    /// A block device is used whatever is on it.
    pub(crate) overwrite: bool,
}

/// A swapfile to be added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) path: PathBuf,
    /// None for all of a block device.
    pub(crate) size: Option<u64>,
    pub(crate) tier: String,
    pub(crate) priority: i16,
    pub(crate) kind: Kind,
    /// A block device is used whatever is on it.
    pub(crate) overwrite: bool,
}

/// What is wrong with the swapfiles together.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpecError {
    #[error("--swapfile {} has no size: write {},size=SIZE, or give --swap-size SIZE for all that have none.", .0.display(), .0.display())]
    NoSize(PathBuf),
    #[error("--swap-size needs --swapfile PATH beside it, the file to use.")]
    NoFile,
    #[error("--no-encryption needs --swapfile PATH beside it: nothing else is encrypted.")]
    NothingEncrypted,
    #[error("--swapfile names {} twice: each is a device of its own, so give every one its own path.", .0.display())]
    Twice(PathBuf),
    #[error("--swapoff needs --swapfile PATH beside it: there is nothing to be taken off.")]
    NothingOn,
    #[error("--swapoff names {name:?}, but the tiers and swapfiles are: {known}.")]
    UnknownTier { name: OsString, known: String },
}

// === impl Spec ===

impl Spec {
    /// From the command line.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub(crate) fn parse(text: OsString) -> Result<Self, String> {
        let (mut spec, mut rest) = (Spec::default(), text.as_bytes());
        while let Some(comma) = rest.iter().rposition(|byte| *byte == b',') {
            // Options are words; a path may have any bytes in it.
            let Ok(option) = str::from_utf8(&rest[comma + 1..]) else { break };
            if !spec.take(option)? {
                break;
            }
            rest = &rest[..comma];
        }
        if rest.is_empty() {
            return Err(format!("{text:?} names no file: write its path first, as in /var/tmp/swap,size=1G."));
        }
        spec.path = OsStr::from_bytes(rest).into();
        if spec.overwrite && spec.kind != Kind::Block {
            return Err("`overwrite` is for block devices: add `block`, or leave it out.".into());
        }
        Ok(spec)
    }

    /// Take an option in; `false`: it is a part of the path.
    fn take(&mut self, option: &str) -> Result<bool, String> {
        let once = |again: bool| match again {
            true => Err(format!("{option:?} says again what was said before: leave one of them out.")),
            false => Ok(()),
        };
        match option.split_once('=') {
            Some(("size", size)) => {
                once(self.size.is_some())?;
                self.size = Some(size::parse(size).map_err(|error| error.to_string())?);
            }
            Some(("tier", tier)) => {
                once(self.tier.is_some())?;
                check_tier_name(tier).map_err(|error| format!("{error}."))?;
                self.tier = Some(tier.to_owned());
            }
            Some(("priority", priority)) => {
                once(self.priority.is_some())?;
                let wrong = |_| {
                    format!(
                        "{priority:?} is no priority: take a whole number from -32768 to 32767; higher ones are used first."
                    )
                };
                self.priority = Some(priority.parse().map_err(wrong)?);
            }
            None if option == "unnamed" || option == "block" => {
                let kind = if option == "block" { Kind::Block } else { Kind::Unnamed };
                once(self.kind == kind)?;
                if self.kind != Kind::File {
                    return Err("`unnamed` is for a file and `block` for a device: leave one of them out.".into());
                }
                self.kind = kind;
            }
            None if option == "overwrite" => {
                once(self.overwrite)?;
                self.overwrite = true;
            }
            Some((word, _)) if !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase()) => {
                return Err(format!(
                    "{word:?} is nothing a swapfile has: after its path come size=, tier=, priority=, and `unnamed`, or `block` and with it `overwrite`."
                ));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// Each with its size, tier and priority. A tier without a priority comes after those named before it.
///
/// # Errors
/// When one has no size, or is named twice.
pub(crate) fn planned(specs: &[Spec], default_size: Option<u64>) -> Result<Vec<Planned>, SpecError> {
    if specs.is_empty() && default_size.is_some() {
        return Err(SpecError::NoFile);
    }
    let tier_of = |spec: &Spec| spec.tier.clone().unwrap_or_else(|| DEFAULT_TIER.to_owned());
    let mut tiers: Vec<(String, i16)> = vec![];
    let mut planned: Vec<Planned> = vec![];
    for spec in specs {
        let path = &spec.path;
        // Files without a name may well lie in one folder.
        if spec.kind != Kind::Unnamed
            && planned.iter().any(|other| other.kind != Kind::Unnamed && same(&other.path, path))
        {
            return Err(SpecError::Twice(path.clone()));
        }
        let size = spec.size.or(default_size);
        if spec.kind != Kind::Block && size.is_none() {
            return Err(SpecError::NoSize(path.clone()));
        }
        let tier = tier_of(spec);
        let named = || specs.iter().filter(|other| tier_of(other) == tier).find_map(|other| other.priority);
        let known = tiers.iter().find(|(name, _)| *name == tier).map(|&(_, priority)| priority);
        let priority = spec.priority.or(known).or_else(named).unwrap_or_else(|| after(&tiers, specs));
        if known.is_none() {
            tiers.push((tier.clone(), priority));
        }
        // A block device has a size of its own.
        let size = if spec.kind == Kind::Block { spec.size } else { size };
        planned.push(Planned { path: path.clone(), size, tier, priority, kind: spec.kind, overwrite: spec.overwrite });
    }
    Ok(planned)
}

/// The highest priority that is free below those of the tiers so far, 0 if there are none.
fn after(tiers: &[(String, i16)], specs: &[Spec]) -> i16 {
    let mut priority = tiers.iter().map(|&(_, priority)| priority.saturating_sub(1)).min().unwrap_or(0);
    while specs.iter().any(|spec| spec.priority == Some(priority)) && priority > i16::MIN {
        priority -= 1;
    }
    priority
}

fn same(a: &Path, b: &Path) -> bool {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute(a) == absolute(b)
}

/// Which of the swapfiles each `--swapoff` means: those of a tier, or one by its path.
///
/// # Errors
/// When it means none.
pub(crate) fn meant(names: &[OsString], planned: &[Planned]) -> Result<Vec<u8>, SpecError> {
    if planned.is_empty() && !names.is_empty() {
        return Err(SpecError::NothingOn);
    }
    let mut indexes = vec![];
    for name in names {
        let is_meant = |one: &&Planned| *name == *one.tier || same(&one.path, Path::new(name));
        if !planned.iter().any(|one| is_meant(&one)) {
            let mut known: Vec<_> = planned.iter().map(|one| one.tier.clone()).collect();
            known.dedup();
            known.extend(planned.iter().map(|one| one.path.display().to_string()));
            return Err(SpecError::UnknownTier { name: name.clone(), known: known.join(", ") });
        }
        let more = planned.iter().enumerate().filter(|(_, one)| is_meant(one)).map(|(at, _)| at as u8);
        indexes.extend(more.filter(|at| !indexes.contains(at)).collect::<Vec<_>>());
    }
    Ok(indexes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> Spec {
        Spec::parse(text.into()).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn options_come_after_the_path_in_any_order() {
        let path = PathBuf::from("/a/b");
        assert_eq!(spec("/a/b"), Spec { path: path.clone(), ..Spec::default() });
        let all = Spec {
            path,
            size: Some(1 << 30),
            tier: Some("fast".into()),
            priority: Some(-3),
            kind: Kind::Unnamed,
            overwrite: false,
        };
        assert_eq!(spec("/a/b,size=1G,tier=fast,priority=-3,unnamed"), all);
        assert_eq!(spec("/a/b,unnamed,priority=-3,tier=fast,size=1G"), all);
        let block = spec("/dev/vdb,block,overwrite");
        assert_eq!((block.kind, block.overwrite), (Kind::Block, true));
        assert_eq!(spec("/a,b,tier=x").path, PathBuf::from("/a,b"));
        assert_eq!(spec("/a,size=b,c").path, PathBuf::from("/a,size=b,c"), "only what is at the end is an option");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let wrong = [
            ("", "names no file"),
            (",size=1G", "names no file"),
            ("/a,size=x", "is no size"),
            ("/a,size=1G,size=2G", "says again"),
            ("/a,unnamed,unnamed", "\"unnamed\" says again"),
            ("/a,unnamed,block", "`unnamed` is for a file and `block` for a device"),
            ("/a,block,unnamed", "leave one of them out"),
            (",unnamed,block", "leave one of them out"),
            ("/a,tier=a b", "\"a b\" cannot be the name of a tier"),
            ("/a,tier=", "cannot be the name of a tier"),
            ("/a,tier=a,tier=b", "says again"),
            ("/a,priority=x", "is no priority"),
            ("/a,priority=40000", "is no priority"),
            ("/a,sise=1G", "size=, tier=, priority=, and `unnamed`, or `block` and with it `overwrite`"),
            ("/a,size=1G,overwrite", "add `block`"),
        ];
        for (text, part) in wrong {
            let error = Spec::parse(text.into()).expect_err(text);
            assert!(error.contains(part) && error.ends_with('.'), "{text}: {error}");
        }
    }

    #[test]
    fn a_path_is_bytes() {
        let spec = |bytes: &[u8]| Spec::parse(OsStr::from_bytes(bytes).to_owned()).unwrap();
        let found = spec(b"/a\xff b\n,size=1K,tier=x");
        assert_eq!((found.path.as_os_str().as_bytes(), found.size), (&b"/a\xff b\n"[..], Some(1024)));
        assert_eq!(spec(b"/a,size=\xff").path.as_os_str().as_bytes(), b"/a,size=\xff");
    }

    fn plan(texts: &[&str]) -> Result<Vec<(String, i16)>, SpecError> {
        let specs: Vec<_> = texts.iter().map(|text| spec(text)).collect();
        Ok(planned(&specs, Some(1 << 20))?.into_iter().map(|one| (one.tier, one.priority)).collect())
    }

    #[test]
    fn tiers_without_a_priority_come_in_the_order_they_are_named() {
        let tiers = |texts| plan(texts).unwrap().into_iter().map(|(tier, n)| format!("{tier} {n}")).collect::<Vec<_>>();
        assert_eq!(tiers(&["/a", "/b"]), ["swap 0", "swap 0"]);
        assert_eq!(tiers(&["/a,tier=x", "/b,tier=y", "/c,tier=x"]), ["x 0", "y -1", "x 0"]);
        assert_eq!(tiers(&["/a,tier=x", "/b,tier=y,priority=-1", "/c,tier=z"]), ["x 0", "y -1", "z -2"]);
        assert_eq!(tiers(&["/a,tier=x", "/b,tier=x,priority=9"]), ["x 9", "x 9"]);
        // Two priorities of one tier are for the library to refuse.
        assert_eq!(tiers(&["/a,tier=x,priority=1", "/b,tier=x,priority=2"]), ["x 1", "x 2"]);
    }

    #[test]
    fn sizes_and_paths_are_looked_at_together() {
        let specs = |texts: &[&str]| texts.iter().map(|text| spec(text)).collect::<Vec<_>>();
        let sizes = |texts, default| {
            planned(&specs(texts), default).map(|planned| planned.iter().map(|one| one.size).collect::<Vec<_>>())
        };
        assert_eq!(sizes(&["/a", "/b,size=5"], Some(7)).unwrap(), [Some(7), Some(5)]);
        assert_eq!(sizes(&["/dev/x,block"], Some(7)).unwrap(), [None]);
        let refused = |texts: &[&str], default| planned(&specs(texts), default).unwrap_err().to_string();
        assert!(refused(&["/a"], None).contains("write /a,size=SIZE"));
        assert!(refused(&[], Some(1)).contains("needs --swapfile"));
        assert!(refused(&["/a,size=1", "/a,size=1"], None).contains("twice"));
        assert!(refused(&["a,size=1", "./a,size=1"], None).contains("twice"));
        assert!(planned(&specs(&["/a,size=1,unnamed", "/a,size=1,unnamed"]), None).is_ok());
    }

    #[test]
    fn a_swapoff_means_a_tier_or_a_file() {
        let specs: Vec<_> = ["/a,tier=x", "/b,tier=y", "/c,tier=x"].iter().map(|text| spec(text)).collect();
        let planned = planned(&specs, Some(1)).unwrap();
        let meant = |names: &[&str]| meant(&names.iter().map(OsString::from).collect::<Vec<_>>(), &planned);
        assert_eq!(meant(&["x"]).unwrap(), [0, 2]);
        assert_eq!(meant(&["/b", "x", "/c"]).unwrap(), [1, 0, 2]);
        assert_eq!(
            meant(&["z"]).unwrap_err().to_string(),
            "--swapoff names \"z\", but the tiers and swapfiles are: x, y, x, /a, /b, /c."
        );
    }
}

//! The `switchboard` binaries that are measured, and the flags that each of them knows.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use switchboard_tests::app::App;
use switchboard_tests::host::binary;

use crate::Args;

/// Which of the two binaries of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The binary that was built with this benchmark.
    New,
    /// The binary of `--against`.
    Former,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::New => "new",
            Self::Former => "former",
        })
    }
}

/// A binary.
pub(crate) struct Engine {
    pub(crate) side: Side,
    path: PathBuf,
    /// The flags of `switchboard run`, each with its two hyphens.
    flags: BTreeSet<String>,
}

impl Engine {
    /// The binary that was built with this benchmark.
    pub(crate) fn new() -> Result<Self> {
        Self::at(Side::New, &binary()?)
    }

    /// Both binaries of a comparison.
    pub(crate) fn both(former: &Path) -> Result<[Self; 2]> {
        Ok([Self::new()?, Self::at(Side::Former, former)?])
    }

    fn at(side: Side, path: &Path) -> Result<Self> {
        let path = path.canonicalize().with_context(|| format!("there is no binary {}", path.display()))?;
        let help = Command::new(&path).args(["run", "--help"]).output();
        let help = help.with_context(|| format!("{} cannot be run", path.display()))?;
        ensure!(help.status.success(), "`{} run --help` failed: {}", path.display(), help.status);
        Ok(Self { side, flags: flags_in(&String::from_utf8_lossy(&help.stdout)), path })
    }

    /// An application whose hosts run this binary.
    pub(crate) fn runs(&self, app: App) -> App {
        app.with_binary(&self.path)
    }

    /// The flags of a host: its parallelism, and those of `--with` that this binary knows.
    pub(crate) fn flags(&self, args: &Args) -> Vec<String> {
        let parallelism = if self.knows("--threads") { "--threads" } else { "--workers" };
        self.with_flags(parallelism, args.threads, args)
    }

    /// The flags of a host that is a single member of its group.
    pub(crate) fn single_member_flags(&self, args: &Args) -> Vec<String> {
        // Each worker is a member. Threads share one.
        if self.knows("--threads") { self.flags(args) } else { self.with_flags("--workers", 1, args) }
    }

    fn with_flags(&self, parallelism: &str, count: usize, args: &Args) -> Vec<String> {
        let mut flags = vec![parallelism.to_owned(), count.to_string()];
        flags.extend(known(&args.with, |flag| self.knows(flag)));
        flags
    }

    fn knows(&self, flag: &str) -> bool {
        self.flags.contains(flag)
    }
}

/// The flags in a help text. A line that describes one begins with it: `-c, --config <FILE>`.
fn flags_in(help: &str) -> BTreeSet<String> {
    let lines = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    let flag = |line: &str| {
        let from = line.find("--")?;
        let end = |c: char| !c.is_ascii_alphanumeric() && c != '-';
        line[from..].split(end).next().filter(|flag| flag.len() > 2).map(str::to_owned)
    };
    lines.filter_map(flag).collect()
}

/// The words without unknown long flags and without the values that follow those.
fn known(words: &[String], knows: impl Fn(&str) -> bool) -> Vec<String> {
    let mut keep = true;
    let mut kept = Vec::new();
    for word in words {
        if word.starts_with('-') {
            let (flag, _) = word.split_once('=').unwrap_or((word, ""));
            keep = !flag.starts_with("--") || knows(flag);
        }
        if keep {
            kept.push(word.clone());
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELP: &str = "\
Runs a host. See --unknown.

Usage: switchboard run [OPTIONS]

Options:
  -c, --config <FILE>
          The config file. Flags such as --app override it.
      --batch-time-ms=<MS>  A transaction ends after this time
      --watch
  -h, --help
";

    #[test]
    fn flags_are_read_from_the_lines_that_describe_them() {
        let flags: Vec<_> = flags_in(HELP).into_iter().collect();
        assert_eq!(flags, ["--batch-time-ms", "--config", "--help", "--watch"]);
    }

    #[test]
    fn unknown_flags_are_left_out_with_their_values() {
        let words = ["--watch", "--threads", "2", "--config", "a file", "--members=3", "-c", "other"];
        let words = words.map(str::to_owned);
        let flags = flags_in(HELP);
        assert_eq!(known(&words, |flag| flags.contains(flag)), ["--watch", "--config", "a file", "-c", "other"]);
    }
}

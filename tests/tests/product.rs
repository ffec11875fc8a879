//! The binary as `make build` leaves it: small, and with backtraces that name lines.
//!
//! `tools/split-debug` moves its debug information into a second file. Here it does so with a copy: each run of cargo puts
//! its own file back.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use switchboard_tests::host::{binary, messenger};
use tempfile::TempDir;

const MAX_BINARY_BYTES: u64 = 40_000_000;

/// A copy of the binary in a directory of its own, split.
fn split() -> Result<(TempDir, PathBuf)> {
    let directory = tempfile::tempdir()?;
    let copy = directory.path().join("switchboard");
    std::fs::copy(binary()?, &copy)?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/split-debug");
    // Twice: the second run leaves it as it is.
    for _ in 0..2 {
        ensure!(Command::new(&script).arg(&copy).status()?.success(), "tools/split-debug failed");
    }
    Ok((directory, copy))
}

/// Standard error of a run that panics: the reader of its output is gone.
fn panic_of(binary: &Path) -> Result<String> {
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let mut command = Command::new(binary);
    command.arg("inspect").arg(messenger()?).env("RUST_BACKTRACE", "1").stdin(Stdio::null());
    let output = command.stdout(writer).stderr(Stdio::piped()).spawn()?.wait_with_output()?;
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn the_binary_is_small_and_its_backtraces_name_files_and_lines() -> Result<()> {
    let (directory, binary) = split()?;
    let size = binary.metadata()?.len();
    ensure!(size <= MAX_BINARY_BYTES, "the binary has {size} bytes");
    let backtrace = panic_of(&binary)?;
    ensure!(backtrace.contains("commands/inspect.rs:"), "no line: {backtrace}");

    // The lines come from the second file. Names of functions remain without it.
    std::fs::remove_file(directory.path().join("switchboard.debug"))?;
    let backtrace = panic_of(&binary)?;
    ensure!(!backtrace.contains("commands/inspect.rs:"), "the lines come from elsewhere: {backtrace}");
    ensure!(backtrace.contains("switchboard::"), "no name: {backtrace}");
    Ok(())
}

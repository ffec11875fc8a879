//! Is the shipped binary small, and do its backtraces name files and lines?
//!
//! `tools/split-debug` moves the debug information into a second file. `make build` and `make test` call it.

use std::process::Stdio;

use anyhow::{Result, ensure};
use switchboard_tests::host::{binary, messenger, switchboard};

const MAX_BINARY_BYTES: u64 = 40 << 20;

#[test]
fn the_binary_is_small_and_its_debug_information_is_in_a_file_of_its_own() -> Result<()> {
    let binary = binary()?;
    let size = binary.metadata()?.len();
    ensure!(size <= MAX_BINARY_BYTES, "{} has {size} bytes: run `tools/split-debug {0}`", binary.display());
    ensure!(binary.with_extension("debug").is_file(), "there is no {}.debug", binary.display());
    Ok(())
}

#[test]
fn a_backtrace_names_files_and_lines() -> Result<()> {
    // The pipe has no reader, so printing panics.
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let mut command = switchboard()?;
    command.arg("inspect").arg(messenger()?).env("RUST_BACKTRACE", "1");
    let output = command.stdout(writer).stderr(Stdio::piped()).spawn()?.wait_with_output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(stderr.contains("switchboard::commands::inspect"), "no function name: {stderr}");
    ensure!(stderr.contains("commands/inspect.rs:"), "no line: {stderr}");
    Ok(())
}

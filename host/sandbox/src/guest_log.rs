//! What a guest writes: its log calls, stdout and stderr become lines of the host's log, with the target `plugin`.
//!
//! | from | level |
//! |---|---|
//! | a log call | the call's (`critical` becomes `error`) |
//! | stdout | `info` |
//! | stderr | `warn` |
//!
//! Each line carries the fields `plugin`, `tenant` and, while a message is handled, `source`. A guest cannot forge lines:
//! control characters are escaped. It cannot flood the log either: lines are cut, and a tenant has a `LogBudget`.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use switchboard_core::record::{Coordinates, TenantId};
use tracing::Level;

/// A longer line is cut.
const MAX_LINE_BYTES: usize = 8 << 10;
/// How much of the guest's last output to stderr is kept, for the reason of a failed call.
const MAX_STDERR_TAIL_BYTES: usize = 2 << 10;

/// Follows a line that was cut.
const CUT_NOTE: &str = " [cut]";

/// The log of one instance.
#[derive(Debug)]
pub(crate) struct GuestLog {
    plugin: Arc<str>,
    tenant: TenantId,
    stdout: Line,
    stderr: Line,
    /// What the guest wrote to stderr last: the whole text of a panic, otherwise one line.
    stderr_tail: String,
    panicking: bool,
}

/// A stream that a guest can write to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl GuestLog {
    /// `plugin`: name and version.
    pub(crate) fn new(plugin: Arc<str>, tenant: TenantId) -> Self {
        Self {
            plugin,
            tenant,
            stdout: Line::default(),
            stderr: Line::default(),
            stderr_tail: String::new(),
            panicking: false,
        }
    }

    /// What the guest wrote to stderr last, for people.
    pub(crate) fn stderr_tail(&self) -> &str {
        &self.stderr_tail
    }

    /// Takes bytes of a stream. Each complete line becomes a log line.
    pub(crate) fn write(
        &mut self,
        stream: Stream,
        mut bytes: &[u8],
        budget: &mut LogBudget,
        source: Option<&Coordinates>,
    ) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(end);
            bytes = &rest[1..];
            self.line(stream).push(line);
            self.end_line(stream, budget, source);
        }
        self.line(stream).push(bytes);
    }

    /// Before a message: the tail of stderr belongs to the message before.
    pub(crate) fn begin_message(&mut self) {
        self.stderr_tail.clear();
        self.panicking = false;
    }

    /// After a message: ends unfinished lines, so that the next message starts a line of its own.
    pub(crate) fn end_message(&mut self, budget: &mut LogBudget, source: Option<&Coordinates>) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if !self.line(stream).is_empty() {
                self.end_line(stream, budget, source);
            }
        }
    }

    /// Takes a line of the guest's log calls.
    pub(crate) fn log(&self, level: Level, text: &str, budget: &mut LogBudget, source: Option<&Coordinates>) {
        let end = text.floor_char_boundary(MAX_LINE_BYTES);
        self.emit(level, &text[..end], end < text.len(), budget, source);
    }

    fn line(&mut self, stream: Stream) -> &mut Line {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    fn end_line(&mut self, stream: Stream, budget: &mut LogBudget, source: Option<&Coordinates>) {
        let line = std::mem::take(self.line(stream));
        let text = String::from_utf8_lossy(&line.bytes);
        let level = match stream {
            Stream::Stdout => Level::INFO,
            Stream::Stderr => Level::WARN,
        };
        if stream == Stream::Stderr {
            self.keep_tail(&text);
        }
        self.emit(level, &text, line.is_cut, budget, source);
    }

    fn keep_tail(&mut self, text: &str) {
        let text = text.trim();
        // Rust's hint about backtraces does not apply here.
        if text.is_empty() || text.starts_with("note: run with `RUST_BACKTRACE") {
            return;
        }
        if !self.panicking {
            self.stderr_tail.clear();
            self.panicking = text.contains("panicked at ");
        }
        let room = MAX_STDERR_TAIL_BYTES.saturating_sub(self.stderr_tail.len());
        if !self.stderr_tail.is_empty() && room > 0 {
            self.stderr_tail.push(' ');
        }
        self.stderr_tail.push_str(&text[..text.floor_char_boundary(room)]);
    }

    fn emit(&self, level: Level, text: &str, is_cut: bool, budget: &mut LogBudget, source: Option<&Coordinates>) {
        // `tracing` needs the level as a constant.
        macro_rules! emit {
            ($level:ident) => {
                if tracing::enabled!(target: "plugin", Level::$level) && budget.take() {
                    self.report_dropped(budget);
                    let source = source.map(tracing::field::display);
                    let text = printable(text);
                    let note = if is_cut { CUT_NOTE } else { "" };
                    tracing::event!(
                        target: "plugin", Level::$level, plugin = %self.plugin, tenant = %self.tenant, source, "{text}{note}"
                    );
                }
            };
        }
        match level {
            Level::TRACE => emit!(TRACE),
            Level::DEBUG => emit!(DEBUG),
            Level::INFO => emit!(INFO),
            Level::WARN => emit!(WARN),
            Level::ERROR => emit!(ERROR),
        }
    }

    fn report_dropped(&self, budget: &mut LogBudget) {
        let dropped = budget.take_dropped();
        if dropped > 0 {
            tracing::warn!(
                target: "plugin", plugin = %self.plugin, tenant = %self.tenant, dropped,
                allowed_per_second = budget.lines_per_second, "log lines were dropped: the tenant's plugin writes too many"
            );
        }
    }
}

/// Escapes control characters. Otherwise a line could look like several lines, or like one of another program.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    let is_plain = |c: char| !c.is_control() || c == '\t';
    if text.chars().all(is_plain) {
        return text.into();
    }
    let escape = |c: char| if is_plain(c) { c.to_string() } else { c.escape_default().to_string() };
    text.trim_end_matches('\n').chars().map(escape).collect()
}

/// An unfinished line of a stream.
#[derive(Debug, Default)]
struct Line {
    bytes: Vec<u8>,
    is_cut: bool,
}

impl Line {
    fn push(&mut self, bytes: &[u8]) {
        let room = MAX_LINE_BYTES - self.bytes.len();
        self.is_cut |= bytes.len() > room;
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// How many log lines a tenant may still write: a token bucket, which fills up within a second. It outlives the tenant's
/// instances.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogBudget {
    lines_per_second: u32,
    available_lines: f64,
    /// When `available_lines` was computed.
    refilled_at: Option<Instant>,
    /// Dropped lines that no warning has reported yet.
    dropped: u64,
}

impl LogBudget {
    pub(crate) fn new(lines_per_second: u32) -> Self {
        Self { lines_per_second, available_lines: f64::from(lines_per_second), refilled_at: None, dropped: 0 }
    }

    /// Takes a line from the bucket. False: it is empty, and the line is dropped.
    fn take(&mut self) -> bool {
        let now = Instant::now();
        let elapsed = self.refilled_at.map_or(0.0, |then| now.duration_since(then).as_secs_f64());
        let capacity = f64::from(self.lines_per_second);
        self.refilled_at = Some(now);
        self.available_lines = (self.available_lines + elapsed * capacity).min(capacity);
        if self.available_lines < 1.0 {
            self.dropped += 1;
            return false;
        }
        self.available_lines -= 1.0;
        true
    }

    /// The number of lines dropped since the last call.
    fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_control_characters_stays_one_line() {
        assert_eq!(printable("tab\there"), "tab\there");
        assert_eq!(printable("one\n2024 ERROR forged\u{1b}[31m\n"), "one\\n2024 ERROR forged\\u{1b}[31m");
    }

    #[test]
    fn a_long_line_is_cut_and_marked() {
        let mut line = Line::default();
        line.push(&[b'x'; MAX_LINE_BYTES]);
        assert!(!line.is_cut);
        line.push(b"y");
        assert!(line.is_cut);
        assert_eq!(line.bytes.len(), MAX_LINE_BYTES);
    }

    #[test]
    fn the_tail_of_stderr_is_a_whole_panic_or_the_last_line() {
        let mut log = GuestLog::new("p".into(), TenantId::new("t"));
        let mut budget = LogBudget::new(9);
        log.write(Stream::Stderr, b"first\nsecond\n", &mut budget, None);
        assert_eq!(log.stderr_tail(), "second");
        let panic = b"\nthread 'main' panicked at src/lib.rs:1:2:\nboom\nnote: run with `RUST_BACKTRACE=1`\n";
        log.write(Stream::Stderr, panic, &mut budget, None);
        assert_eq!(log.stderr_tail(), "thread 'main' panicked at src/lib.rs:1:2: boom");
        log.begin_message();
        assert_eq!(log.stderr_tail(), "");
    }

    #[test]
    fn a_budget_allows_its_number_at_once_and_fills_up_again() {
        let mut budget = LogBudget::new(3);
        let taken = (0..10).filter(|_| budget.take()).count();
        assert_eq!((taken, budget.take_dropped(), budget.take_dropped()), (3, 7, 0));
        budget.refilled_at =
            budget.refilled_at.map(|at| at.checked_sub(std::time::Duration::from_millis(400)).unwrap());
        assert!(budget.take());
        assert!(!budget.take());
    }
}

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use switchboard_core::record::{Coordinates, TenantId};
use tracing::Level;

/// A longer line is cut.
const MAX_LINE: usize = 8 << 10;
/// So much of what a guest wrote to stderr is kept for the verdict on its call.
const MAX_WORDS: usize = 2 << 10;

/// Where a guest's lines go: from its log calls, its stdout and its stderr into the host's log, target `plugin`.
#[derive(Debug)]
pub(super) struct Console {
    plugin: Arc<str>,
    tenant: TenantId,
    stdout: Line,
    stderr: Line,
    /// What it wrote to stderr last: a panic's whole text, otherwise a line.
    words: String,
    panicking: bool,
}

/// One of the two streams that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

impl Console {
    pub(super) fn new(plugin: Arc<str>, tenant: TenantId) -> Self {
        let (stdout, stderr) = (Line::default(), Line::default());
        Self { plugin, tenant, stdout, stderr, words: String::new(), panicking: false }
    }

    /// What the guest wrote to stderr last, for people.
    pub(super) fn words(&self) -> &str {
        &self.words
    }

    /// Bytes of a stream; each full line becomes a log line.
    pub(super) fn write(
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

    /// The message is done with: an unfinished line is a line, and nothing is left for the next message.
    pub(super) fn end_message(&mut self, budget: &mut LogBudget, source: Option<&Coordinates>) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if !self.line(stream).is_empty() {
                self.end_line(stream, budget, source);
            }
        }
    }

    /// Before a message: what the last one said does not count any more.
    pub(super) fn begin_message(&mut self) {
        self.words.clear();
        self.panicking = false;
    }

    /// A line of the guest's log.
    pub(super) fn log(&self, level: Level, text: &str, budget: &mut LogBudget, source: Option<&Coordinates>) {
        let cut = text.floor_char_boundary(MAX_LINE);
        let note = if cut < text.len() { " [cut]" } else { "" };
        self.emit(level, &text[..cut], note, budget, source);
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
            self.remember(&text);
        }
        self.emit(level, &text, if line.is_cut { " [cut]" } else { "" }, budget, source);
    }

    fn remember(&mut self, text: &str) {
        let text = text.trim();
        // What Rust's panic says of itself helps nobody here.
        if text.is_empty() || text.starts_with("note: run with `RUST_BACKTRACE") {
            return;
        }
        if !self.panicking {
            self.words.clear();
            self.panicking = text.contains("panicked at ");
        }
        let room = MAX_WORDS.saturating_sub(self.words.len());
        if !self.words.is_empty() && room > 0 {
            self.words.push(' ');
        }
        self.words.push_str(&text[..text.floor_char_boundary(room)]);
    }

    fn emit(&self, level: Level, text: &str, note: &str, budget: &mut LogBudget, source: Option<&Coordinates>) {
        // `tracing` wants the level to be known when it is compiled.
        macro_rules! emit {
            ($level:ident) => {
                if tracing::enabled!(target: "plugin", Level::$level) && budget.take() {
                    self.report_dropped(budget);
                    let source = source.map(tracing::field::display);
                    let text = printable(text);
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
        let dropped = std::mem::take(&mut budget.unreported);
        if dropped > 0 {
            let most = budget.most;
            tracing::warn!(
                target: "plugin", plugin = %self.plugin, tenant = %self.tenant,
                "{dropped} log lines were dropped: more than {most} a second"
            );
        }
    }
}

/// A line would otherwise pass for several, or for another program's.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    let is_plain = |c: char| !c.is_control() || c == '\t';
    if text.chars().all(is_plain) {
        return text.into();
    }
    let escape = |c: char| if is_plain(c) { c.to_string() } else { c.escape_default().to_string() };
    text.trim_end_matches('\n').chars().map(escape).collect()
}

/// A line that is being written.
#[derive(Debug, Default)]
struct Line {
    bytes: Vec<u8>,
    is_cut: bool,
}

impl Line {
    fn push(&mut self, bytes: &[u8]) {
        let room = MAX_LINE - self.bytes.len();
        self.is_cut |= bytes.len() > room;
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// How many log lines a tenant may still write: a bucket that fills up within a second. It outlives the tenant's
/// instances.
#[derive(Debug, Clone, Copy)]
pub(super) struct LogBudget {
    most: u32,
    left: f64,
    /// When `left` was right.
    at: Option<Instant>,
    unreported: u64,
    dropped: u64,
}

impl LogBudget {
    pub(super) fn new(most: u32) -> Self {
        Self { most, left: f64::from(most), at: None, unreported: 0, dropped: 0 }
    }

    /// Lines dropped since the last time this was asked.
    pub(super) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    fn take(&mut self) -> bool {
        let now = Instant::now();
        let passed = self.at.map_or(0.0, |at| now.duration_since(at).as_secs_f64());
        self.at = Some(now);
        self.left = (self.left + passed * f64::from(self.most)).min(f64::from(self.most));
        let is_there = self.left >= 1.0;
        if is_there {
            self.left -= 1.0;
        } else {
            self.unreported += 1;
            self.dropped += 1;
        }
        is_there
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
    fn a_long_line_is_cut_and_says_so() {
        let mut line = Line::default();
        line.push(&[b'x'; MAX_LINE]);
        assert!(!line.is_cut);
        line.push(b"y");
        assert!(line.is_cut);
        assert_eq!(line.bytes.len(), MAX_LINE);
    }

    #[test]
    fn a_panic_is_kept_whole_and_another_line_replaces_the_last() {
        let mut console = Console::new("p".into(), TenantId::new("t"));
        let mut budget = LogBudget::new(9);
        console.write(Stream::Stderr, b"first\nsecond\n", &mut budget, None);
        assert_eq!(console.words(), "second");
        let panic = b"\nthread 'main' panicked at src/lib.rs:1:2:\nboom\nnote: run with `RUST_BACKTRACE=1`\n";
        console.write(Stream::Stderr, panic, &mut budget, None);
        assert_eq!(console.words(), "thread 'main' panicked at src/lib.rs:1:2: boom");
        console.begin_message();
        assert_eq!(console.words(), "");
    }

    #[test]
    fn the_budget_is_its_number_at_once_and_fills_up_again() {
        let mut budget = LogBudget::new(3);
        let taken = (0..10).filter(|_| budget.take()).count();
        assert_eq!((taken, budget.take_dropped(), budget.take_dropped()), (3, 7, 0));
        budget.at = budget.at.map(|at| at.checked_sub(std::time::Duration::from_millis(400)).unwrap());
        assert!(budget.take());
        assert!(!budget.take());
    }
}

//! What a check of the cluster finds: one form for those that `run` makes at its start and those that `doctor` prints.

use std::fmt;

use serde::Serialize;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, at a price that is told.
    Warning,
    /// Something does not work, or would lose data.
    Problem,
}

/// One line of a diagnosis.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub level: Level,
    /// What was looked at: `the topic app-state`.
    pub subject: String,
    /// What is so.
    pub text: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Finding {
    pub(super) fn ok(subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self { level: Level::Ok, subject: subject.into(), text: text.into(), fix: None }
    }

    pub(super) fn warning(subject: impl Into<String>, text: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { level: Level::Warning, subject: subject.into(), text: text.into(), fix: Some(fix.into()) }
    }

    pub(super) fn problem(subject: impl Into<String>, text: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { level: Level::Problem, subject: subject.into(), text: text.into(), fix: Some(fix.into()) }
    }
}

/// As a sentence, for an error or a log line.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.text)?;
        match &self.fix {
            Some(fix) => write!(f, ". {fix}"),
            None => Ok(()),
        }
    }
}

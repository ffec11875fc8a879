//! The commands, one file each. `application` and `output` are shared by the commands about releases and routes.

mod application;
pub mod demo;
pub mod deploy;
pub mod doctor;
pub mod inspect;
mod output;
pub mod prune;
pub mod releases;
pub mod rollback;
mod rollout;
pub mod route;
pub mod run;
pub mod test;

/// How a command ended that could do its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// Nothing was wrong. The exit status is 0.
    Success,
    /// The command found a problem and has printed it: a failed test step, a misconfigured cluster, a failing release.
    /// The exit status is 1.
    ProblemFound,
}

impl Outcome {
    /// The outcome of a command that looks for problems.
    fn from_success(is_success: bool) -> Self {
        if is_success { Self::Success } else { Self::ProblemFound }
    }
}

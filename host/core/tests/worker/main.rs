//! The worker against a scripted broker. Each test states one rule of `docs/architecture.md`.

mod aborts;
mod batches;
mod fake_broker;
mod fake_plugins;
mod jobs;
mod lookups;
mod maps;
mod membership;
mod paths;
mod refusals;
mod rig;
mod swaps;
mod takeover;
mod verdicts;

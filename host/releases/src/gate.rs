//! The health gate: whether a release that was deployed a short while ago fails too often to keep its tenants.
//!
//! Counted is what this host's workers committed. Failures that a sound plugin never has (traps, limits, deadlines, outputs
//! that may not be sent, state that it could not take over) count each; messages that it rejects count as far as they are
//! more than the replaced release rejects, which is a matter of its input. Where this host has not seen enough of that
//! one, rejections say nothing. A gate's time begins when its route was set: a host that starts later does not begin anew.

use std::collections::BTreeMap;
use std::time::Duration;

use switchboard_core::record::{Offset, Timestamp};
use switchboard_core::registry::{RegistryState, Scope};
use switchboard_core::routing::{Digest, Gate, Route};

use super::health::{Counts, ReleaseHealth};

/// A route whose release fails, and why it is to be undone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failing {
    pub(super) release: Digest,
    /// Of the route's record.
    pub(super) offset: Offset,
    pub(super) why: String,
    /// Whether its tenants ran something before.
    pub(super) has_previous: bool,
}

/// One route that is being watched.
#[derive(Debug)]
struct GateState {
    gate: Gate,
    /// When the route was set.
    began: Timestamp,
    /// What had become of the release's messages before.
    before: Counts,
    /// Of the messages of the replaced release, how many it rejects, where that is known.
    usual: Option<f64>,
    open: bool,
}

/// So many messages of the replaced release tell how many it rejects.
const SAMPLE: u64 = 100;

/// All routes that are being watched, by scope and the offset of their records.
#[derive(Debug, Default)]
pub(super) struct Gates(BTreeMap<(Scope, Offset), GateState>);

impl Gates {
    /// Takes up routes that are new; forgets those that are gone. To be called before the workers go by them. `base`: what runs
    /// where no route was.
    pub(super) fn watch(
        &mut self,
        control: &RegistryState,
        tally: &ReleaseHealth,
        base: Option<Digest>,
        now: Timestamp,
    ) {
        let routed: Vec<_> = control.routed().collect();
        self.0.retain(|key, _| routed.iter().any(|(scope, _, offset)| (scope, *offset) == (&key.0, key.1)));
        for (scope, value, offset) in routed {
            let Route { release, previous, gate: Some(gate) } = value.route() else { continue };
            let usual = previous.or(base).and_then(|previous| rate(&tally.counts(&previous)));
            let (before, began) = (tally.counts(release), control.routed_at(&scope).unwrap_or(now));
            let open = !is_over(gate, began, now);
            let watch = GateState { gate: *gate, began, before, usual, open };
            self.0.entry((scope, offset)).or_insert(watch);
        }
    }

    /// Routes whose releases have failed too often; each is told once.
    pub(super) fn failing(&mut self, control: &RegistryState, tally: &ReleaseHealth, now: Timestamp) -> Vec<Failing> {
        let mut failing = Vec::new();
        for (scope, value, offset) in control.routed() {
            let Route { release, previous, .. } = *value.route();
            let Some(watch) = self.0.get_mut(&(scope, offset)).filter(|watch| watch.open) else { continue };
            let counts = tally.counts(&release);
            if let Some(why) = watch.judge(&counts, now) {
                watch.open = false;
                let why = tally.first(&release).map_or(why.clone(), |first| format!("{why}; the first: {first}"));
                failing.push(Failing { release, offset, why, has_previous: previous.is_some() });
            }
        }
        failing
    }
}

impl GateState {
    /// Why the release is to go, when it is. Closes when its messages or its time are over.
    fn judge(&mut self, now_has: &Counts, now: Timestamp) -> Option<String> {
        let Counts { messages, failures, rejections } = now_has.since(&self.before);
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let more = self.usual.map_or(0, |usual| rejections.saturating_sub((usual * messages as f64).ceil() as u64));
        if failures + more >= self.gate.failures {
            let also = if more > 0 { format!(" and {more} more than usual were rejected") } else { String::new() };
            return Some(format!("{failures} failures among its first {messages} messages{also}"));
        }
        self.open = messages < self.gate.messages && !is_over(&self.gate, self.began, now);
        None
    }
}

fn is_over(gate: &Gate, began: Timestamp, now: Timestamp) -> bool {
    now.saturating_since(began) >= Duration::from_secs(gate.seconds)
}

#[allow(clippy::cast_precision_loss)]
fn rate(counts: &Counts) -> Option<f64> {
    (counts.messages >= SAMPLE).then(|| counts.rejections as f64 / counts.messages as f64)
}

#[cfg(test)]
mod tests {
    use switchboard_core::record::TenantId;
    use switchboard_core::routing::Manifest;
    use switchboard_core::routing::Release;
    use switchboard_core::worker::Observer as _;

    use super::*;

    /// A release for all tenants since the time 5000, with a gate of 3 failures within 60 s; and three of its failures.
    fn failing(started: i64, now: i64) -> Vec<Failing> {
        let (mut control, tally, mut gates) = (RegistryState::default(), ReleaseHealth::default(), Gates::default());
        let digest = Digest::new([1; 32]);
        let route = format!(r#"{{"release":"{digest}","gate":{{"failures":3,"messages":100,"seconds":60}}}}"#);
        control.apply(7.into(), Timestamp::from_millis(5000), b"route/default", Some(route.as_bytes())).unwrap();
        gates.watch(&control, &tally, None, Timestamp::from_millis(started));
        let manifest = Manifest {
            name: "plugin".into(),
            version: "1.0.0".into(),
            consumes: vec![],
            produces: vec![],
            lookups: vec![],
            state_version: 1,
        };
        let (release, mut observer) = (Release::new(digest, manifest), tally.observer());
        for tenant in ["a", "b", "c"] {
            observer.refused(&TenantId::new(tenant), &release, "no");
        }
        gates.failing(&control, &tally, Timestamp::from_millis(now))
    }

    #[test]
    fn a_gates_time_begins_with_its_route_and_not_anew_with_a_host_that_starts() {
        let failed = failing(5000, 6000);
        assert_eq!((failed.len(), failed[0].offset), (1, 7.into()));
        assert!(failed[0].why.contains("3 failures") && failed[0].why.contains("no (tenant a)"), "{failed:?}");
        assert_eq!(failing(64_000, 64_500).len(), 1, "a host that started within the time");
        assert_eq!(failing(65_000, 65_000), [], "one that started after it");
    }

    fn watch(usual: Option<f64>) -> GateState {
        let gate = Gate { failures: 3, messages: 100, seconds: 60 };
        let before = Counts { messages: 1000, failures: 7, rejections: 50 };
        GateState { gate, began: Timestamp::from_millis(5000), before, usual, open: true }
    }

    fn after(messages: u64, failures: u64, rejections: u64) -> Counts {
        Counts { messages: 1000 + messages, failures: 7 + failures, rejections: 50 + rejections }
    }

    #[test]
    fn failures_count_each_and_rejections_beyond_the_usual() {
        for (usual, messages, failures, rejections, fails) in [
            (Some(0.0), 50, 2, 0, false),
            (Some(0.0), 50, 3, 0, true),
            (Some(0.0), 50, 2, 1, true),
            (Some(0.1), 50, 2, 5, false),
            (Some(0.1), 50, 2, 6, true),
            (Some(0.1), 50, 0, 7, false),
            (Some(0.1), 50, 0, 8, true),
            (None, 50, 2, 48, false),
            (None, 50, 3, 0, true),
        ] {
            let mut watch = watch(usual);
            let began = watch.began;
            let why = watch.judge(&after(messages, failures, rejections), began);
            assert_eq!(why.is_some(), fails, "{usual:?} {failures} {rejections}: {why:?}");
        }
    }

    #[test]
    fn a_gate_closes_after_its_messages_or_its_time() {
        let mut first = watch(Some(0.0));
        let began = first.began;
        assert_eq!(first.judge(&after(99, 0, 0), began), None);
        assert!(first.open);
        assert_eq!(first.judge(&after(100, 0, 0), began), None);
        assert!(!first.open, "so many messages");
        let mut second = watch(Some(0.0));
        assert_eq!(second.judge(&after(1, 0, 0), began.saturating_add(Duration::from_secs(61))), None);
        assert!(!second.open, "so long");
    }
}

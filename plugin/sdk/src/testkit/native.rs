//! A natively compiled plugin behind the host's interface for plugins.

use std::any::Any;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use switchboard_core::record::{self, Class, DeadLetter, Tenant, TenantId};
use switchboard_core::routing::{Digest, Release, Routing};
use switchboard_core::state::{StateError, StateLimits, TenantState};
use switchboard_core::worker::{Answers, Call, MigrateError, Outcome, Plugins, Query, Runner};

use super::Lines;
use crate::{Context, Entry, Header, Lookup, Message, Migrate, Outbound, Plugin, Rejection, State};

/// Runs the plugin `P` for `switchboard-core`, compiled natively. Of the sandbox's limits it applies those of the
/// state. It is also its own [`Runner`]: one for each tenant, or one for all.
#[derive(Debug)]
pub struct Native<P> {
    /// The lines that were logged, also by calls that were dropped. A clone and a lent runner log here too.
    pub lines: Arc<Lines>,
    migration: Option<Migration>,
    /// Nothing of `P` is stored, so any thread may have it.
    plugin: PhantomData<fn() -> P>,
}

/// The migration of a plugin that implements [`Migrate`].
#[derive(Debug, Clone, Copy)]
struct Migration {
    from: &'static [u32],
    migrate: fn(&mut Context<'_>, u32) -> Result<(), String>,
}

impl<P> Default for Native<P> {
    fn default() -> Self {
        Self { lines: Arc::default(), migration: None, plugin: PhantomData }
    }
}

impl<P> Clone for Native<P> {
    fn clone(&self) -> Self {
        Self { lines: Arc::clone(&self.lines), migration: self.migration, plugin: PhantomData }
    }
}

impl<P: Migrate> Native<P> {
    /// A plugin with migration, as `export!(P, migrate)` exports it.
    pub fn migrating() -> Self {
        Self { migration: Some(Migration { from: P::FROM, migrate: P::migrate }), ..Self::default() }
    }
}

impl<P: Plugin> Native<P> {
    /// The plugin as a release. It has no artifact, so its digest is zero.
    pub fn release(&self) -> Arc<Release> {
        let release = Release::new(Digest::new([0; 32]), Self::manifest());
        Arc::new(Release { migrates: self.migrates().to_vec(), ..release })
    }

    /// The plugin's manifest as the host sees it.
    pub fn manifest() -> switchboard_core::routing::Manifest {
        let manifest = P::manifest();
        switchboard_core::routing::Manifest {
            name: manifest.name,
            version: manifest.version,
            consumes: manifest.consumes,
            produces: manifest.produces,
            lookups: manifest.lookups,
            state_version: manifest.state_version,
        }
    }
}

impl<P> Native<P> {
    /// The other state versions that the plugin takes over.
    pub fn migrates(&self) -> &'static [u32] {
        self.migration.map_or(&[], |migration| migration.from)
    }

    /// Lets the plugin take over the state from version `from`. Its changes are staged as those of a message.
    ///
    /// # Errors
    ///
    /// Why it could not. Then nothing is staged.
    pub fn migrate(&mut self, from: u32, state: &mut TenantState) -> Result<(), String> {
        let Some(Migration { migrate, .. }) = self.migration.filter(|migration| migration.from.contains(&from)) else {
            return Err(format!("it does not take over state of version {from}"));
        };
        let lines = &*self.lines;
        let ended = catch_unwind(AssertUnwindSafe(|| {
            migrate(&mut Context::new(&mut Staged(state), &NoLookups, lines, 0), from)
        }));
        let ended = ended.unwrap_or_else(|panic| Err(format!("{:?}", outcome_of(panic))));
        ended.inspect_err(|_| state.reject_message())
    }
}

impl<P: Plugin> Runner for Native<P> {
    fn handle(&mut self, _: &Arc<Release>, call: Call<'_>, state: &mut TenantState, answers: &Answers) -> Outcome {
        let message = message(call);
        let mut state = Staged(state);
        let answers = Given(answers);
        // A dropped call leaves nothing half done that is used again: its state is dropped with it.
        let ended = catch_unwind(AssertUnwindSafe(|| {
            P::handle(&mut Context::new(&mut state, &answers, &*self.lines, message.timestamp), &message)
        }));
        match ended {
            Ok(Ok(outputs)) => Outcome::Outputs(outputs.into_iter().map(outbound).collect()),
            Ok(Err(Rejection::Invalid(reason))) => Outcome::Rejected(reason),
            Ok(Err(Rejection::UnusableAnswer(reason))) => Outcome::UnusableAnswer(reason),
            Err(panic) => outcome_of(panic),
        }
    }

    fn migrate(
        &mut self,
        _: &Arc<Release>,
        _: &Tenant,
        from: u32,
        state: &mut TenantState,
    ) -> Result<(), MigrateError> {
        Self::migrate(self, from, state).map_err(MigrateError::Rejected)
    }
}

impl<P: Plugin> Plugins for Native<P> {
    type Runner = Self;

    /// The caller decides which release runs.
    fn routing(&mut self) -> Option<Arc<Routing>> {
        None
    }

    fn lend(&mut self, _: &TenantId) -> Self {
        self.clone()
    }

    fn give_back(&mut self, _: &TenantId, _: Self) {}

    fn discard(&mut self, _: &TenantId) {}
}

/// Unwinds from a call that the host ends. The plugin does not notice.
struct Dropped(Outcome);

fn outcome_of(panic: Box<dyn Any + Send>) -> Outcome {
    match panic.downcast::<Dropped>() {
        Ok(dropped) => dropped.0,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panic");
            Outcome::Failed(DeadLetter::new(Class::Trap, text))
        }
    }
}

fn drop_call(outcome: Outcome) -> ! {
    // Unlike `panic!`, this writes nothing to stderr.
    resume_unwind(Box::new(Dropped(outcome)))
}

struct Staged<'a>(&'a mut TenantState);

impl State for Staged<'_> {
    fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.0.get(key).map(<[u8]>::to_vec)
    }

    fn set(&mut self, key: &str, value: Vec<u8>) {
        if let Err(error) = self.0.set(key, value, &StateLimits::default()) {
            let class = if error == StateError::Key { Class::Trap } else { Class::Limit };
            drop_call(Outcome::Failed(DeadLetter::new(class, error.to_string())));
        }
    }

    fn delete(&mut self, key: &str) {
        self.0.delete(key);
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: u32) -> Vec<Entry> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        self.0.list(prefix, after, limit).into_iter().map(|(key, value)| Entry { key, value }).collect()
    }
}

struct Given<'a>(&'a Answers);

impl Lookup for Given<'_> {
    fn lookup(&self, source: &str, key: &str) -> Option<Vec<u8>> {
        let query = Query { source: source.to_owned(), key: key.to_owned() };
        match self.0.get(&query) {
            Some(answer) => answer.map(<[u8]>::to_vec),
            None => drop_call(Outcome::Missing(query)),
        }
    }
}

/// The lookups of a migration: there are none.
pub(super) struct NoLookups;

impl Lookup for NoLookups {
    fn lookup(&self, _: &str, _: &str) -> Option<Vec<u8>> {
        panic!("a lookup in migrate()")
    }
}

fn message(call: Call<'_>) -> Message {
    let header = |header: record::Header<'_>| Header {
        name: String::from_utf8_lossy(header.name).into_owned(),
        value: header.value.map(<[u8]>::to_vec),
    };
    Message {
        topic: call.origin.topic.to_string(),
        tenant: call.tenant.id.to_string(),
        key: call.record.key.clone(),
        value: call.record.value.clone(),
        headers: call.record.headers.iter().map(header).collect(),
        timestamp: call.record.timestamp.and_then(|time| time.as_millis().try_into().ok()).unwrap_or(0),
    }
}

fn outbound(Outbound { topic, key, value, headers }: Outbound) -> record::Outbound {
    let header = |Header { name, value }| (name, value);
    record::Outbound { topic, key, value, headers: headers.into_iter().map(header).collect() }
}

#[cfg(test)]
mod tests {
    use switchboard_core::record::{Coordinates, Record, Timestamp};

    use super::*;
    use crate::{Level, Manifest};

    /// Does what the value of the record requests.
    struct Obedient;

    impl Plugin for Obedient {
        fn manifest() -> Manifest {
            let topics = || vec!["T".to_owned()];
            Manifest {
                name: "obedient".into(),
                version: "1.0.0".into(),
                consumes: topics(),
                produces: topics(),
                lookups: vec!["names".into()],
                state_version: 3,
            }
        }

        fn handle(ctx: &mut Context<'_>, message: &Message) -> Result<Vec<Outbound>, Rejection> {
            ctx.log(Level::Info, &format!("{} at {}", message.tenant, ctx.timestamp()));
            let value = match message.value.as_deref() {
                Some(b"count") => {
                    let count = ctx.get_json::<u64>("count").unwrap_or(0) + 1;
                    ctx.set_json("count", &count);
                    Some(count.to_string().into_bytes())
                }
                Some(b"look up") => ctx.lookup("names", "1"),
                Some(b"bad key") => {
                    ctx.set("", vec![]);
                    None
                }
                Some(b"long value") => {
                    ctx.set("long", vec![0; (1 << 20) + 1]);
                    None
                }
                Some(b"panic") => panic!("on request"),
                Some(b"refuse answer") => return Err(Rejection::UnusableAnswer("on request".into())),
                _ => return Err(Rejection::Invalid("unknown request".into())),
            };
            Ok(vec![Outbound { topic: "T".into(), key: None, value, headers: message.headers.clone() }])
        }
    }

    impl Migrate for Obedient {
        const FROM: &'static [u32] = &[1, 4];

        fn migrate(ctx: &mut Context<'_>, from: u32) -> Result<(), String> {
            ctx.set("migrated", vec![1]);
            match from {
                1 => Ok(()),
                _ => Err(format!("{:?}", ctx.lookup("names", "1"))),
            }
        }
    }

    fn handle(plugins: &mut Native<Obedient>, state: &mut TenantState, answers: &Answers, value: &str) -> Outcome {
        let headers = [("x", Some("y"))].into_iter().collect();
        let record = Record {
            value: Some(value.into()),
            headers,
            timestamp: Some(Timestamp::from_millis(5)),
            ..Record::default()
        };
        let tenant = Tenant { id: TenantId::new("t"), headers: record::Headers::new(), texts: vec![] };
        let source = Coordinates { topic: "T".into(), partition: 0.into(), offset: 0.into() };
        let release = plugins.release();
        plugins.handle(&release, Call { tenant: &tenant, record: &record, origin: &source }, state, answers)
    }

    fn outputs(value: Option<&str>) -> Outcome {
        Outcome::Outputs(vec![record::Outbound {
            topic: "T".into(),
            key: None,
            value: value.map(Into::into),
            headers: [("x", Some("y"))].into_iter().collect(),
        }])
    }

    #[test]
    fn a_plugin_gets_its_message_state_and_log() {
        let (mut plugins, mut state, answers) = (Native::default(), TenantState::default(), Answers::default());
        assert_eq!(handle(&mut plugins, &mut state, &answers, "count"), outputs(Some("1")));
        assert_eq!(handle(&mut plugins, &mut state, &answers, "count"), outputs(Some("2")));
        assert_eq!(state.get("count"), Some(&b"2"[..]));
        assert_eq!(plugins.lines.take(), vec![(Level::Info, "t at 5".to_owned()); 2]);
        assert_eq!(Native::<Obedient>::manifest().state_version, 3);
    }

    #[test]
    fn a_lent_runner_moves_to_a_thread_and_logs_to_the_same_lines() {
        let mut plugins = Native::<Obedient>::default();
        let mut runner = plugins.lend(&TenantId::new("t"));
        let on_a_thread = move || {
            let outcome = handle(&mut runner, &mut TenantState::default(), &Answers::default(), "count");
            (runner, outcome)
        };
        let (runner, outcome) = std::thread::spawn(on_a_thread).join().unwrap();
        assert_eq!(outcome, outputs(Some("1")));
        plugins.give_back(&TenantId::new("t"), runner);
        assert_eq!(plugins.lines.take(), [(Level::Info, "t at 5".to_owned())]);
    }

    #[test]
    fn a_call_without_its_answer_is_dropped() {
        let (mut plugins, mut state, mut answers) = (Native::default(), TenantState::default(), Answers::default());
        let query = Query { source: "names".into(), key: "1".into() };
        assert_eq!(handle(&mut plugins, &mut state, &answers, "look up"), Outcome::Missing(query.clone()));
        answers.insert(query.clone(), None);
        assert_eq!(handle(&mut plugins, &mut state, &answers, "look up"), outputs(None));
        answers.insert(query, Some(b"Ann".to_vec()));
        assert_eq!(handle(&mut plugins, &mut state, &answers, "look up"), outputs(Some("Ann")));
    }

    #[test]
    fn a_migration_stages_all_or_nothing() {
        let (mut plugins, mut state) = (Native::<Obedient>::migrating(), TenantState::default());
        assert_eq!((plugins.migrates(), Native::<Obedient>::default().migrates()), (&[1, 4][..], &[][..]));
        let refused = Err("it does not take over state of version 2".to_owned());
        assert_eq!(plugins.migrate(2, &mut state), refused);
        let panicked = plugins.migrate(4, &mut state).unwrap_err();
        assert!(panicked.contains("a lookup in migrate()"), "{panicked}");
        assert_eq!(state.get("migrated"), None);
        assert_eq!(plugins.migrate(1, &mut state), Ok(()));
        assert_eq!(state.get("migrated"), Some(&[1][..]));
        let mut bench = crate::testkit::Bench::default();
        assert_eq!(bench.migrate::<Obedient>(2), refused);
        assert_eq!(bench.migrate::<Obedient>(1), Ok(()));
        assert_eq!(bench.state.get("migrated"), Some(vec![1]));
    }

    #[test]
    fn failures_have_the_classes_of_the_host() {
        let (mut plugins, mut state, answers) = (Native::default(), TenantState::default(), Answers::default());
        let mut outcome = |value| handle(&mut plugins, &mut state, &answers, value);
        assert_eq!(outcome("?"), Outcome::Rejected("unknown request".into()));
        assert_eq!(outcome("refuse answer"), Outcome::UnusableAnswer("on request".into()));
        assert_eq!(outcome("panic"), Outcome::Failed(DeadLetter::new(Class::Trap, "on request")));
        for (value, class) in [("bad key", Class::Trap), ("long value", Class::Limit)] {
            let ended = outcome(value);
            assert!(matches!(&ended, Outcome::Failed(letter) if letter.class == class), "{value}: {ended:?}");
        }
    }
}

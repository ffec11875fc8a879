//! An explicit-state model of the rules by which the engine processes each record exactly once.
//!
//! Two members, a source partition `p`, a shard `s` with two tenants, and a Kafka of a few records. The search visits every
//! state that these can reach within bounds, and checks each. So it shows more than tests and simulation for the rules, and
//! nothing for the code: no line of the engine is in here. [`rules::RULES`] lists the rules. The engine's sources name each where
//! they obey it. Change the model first when you change a rule.
//!
//! # What can happen
//!
//! * The group moves `p` and `s` between the members, together or apart. `p` is anchored to `s` or to another shard. One
//!   generation fences both. In some scopes the group fences by partition, as KIP-848 of Kafka 4.4 does.
//! * A former owner learns of a move late, or when its offsets are refused.
//! * Records of `p` hop, or take the direct path. A transaction holds hops, results and parked records, in any mix.
//! * A barrier opens the direct path. Its transaction aborts, or is that of a former owner, or the attempt is given up.
//! * Messages of a tenant run one after the other, and finish while a transaction is open or commits. The state has four layers.
//! * An aborted transaction is sent again from its results. A message whose records are refused becomes a dead letter.
//! * Committed offsets have a map of the records that are finished beyond them.
//! * Markers of a decided transaction reach the offsets, the repartition topic and the changelog one by one.
//! * Members crash, and leave a transaction open.
//! * A record is parked in the changelog.
//!
//! # What is checked
//!
//! * In each state ([`checks`]): no record is lost, doubled or overtaken, and no message ran on old state.
//! * With `checks_end`: from each state, the end can be reached, where all records are settled.
//! * In a model of its own ([`load`]): the direct path opens under load that never ends.
//!
//! # What it does not have
//!
//! Time, more than one source partition or shard, lookups, releases, loss of metadata, offsets that expire, limits on maps and
//! on parked bytes, and the order of records within a transaction: they are written when it begins. A commit whose
//! outcome is unknown is the same as a crash here. The simulation covers these.
//!
//! # Where to look
//!
//! | module | what it holds |
//! |---|---|
//! | [`rules`] | the rules, by name |
//! | [`mistakes`] | the mistakes that break them |
//! | [`state`] | the whole state, bounds, and what is possible in a state |
//! | [`step`] | the steps from one state to the next, in words |
//! | [`cluster`] | what Kafka does: partitions, transactions, the group |
//! | [`member`] | what a member does: takeover, paths, queues, transactions |
//! | [`checks`] | what must hold in each state |
//! | [`search`] | the search of all states |
//! | [`load`] | the opening of the direct path under endless load |
//! | [`scopes`] | named bounds |
//!
//! # Example
//!
//! ```
//! use switchboard_model::mistakes::Mistake;
//! use switchboard_model::search::{Ending, Options, search};
//! use switchboard_model::scopes;
//! use switchboard_model::state::Model;
//!
//! let scope = scopes::find("refusals").expect("a scope of the tests");
//! let options = Options { checks_end: true, max_states: 1_000_000 };
//! let model = Model { bounds: scope.bounds, mistake: None };
//! assert_eq!(search(&model, options).ending, Ending::Holds);
//!
//! let report = search(&Model { mistake: Some(Mistake::SkipRefusedMessage), ..model }, options);
//! assert_eq!(report.ending, Ending::Violation);
//! println!("{}", report.trace.join("\n"));
//! ```
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod checks;
mod cli;
pub mod cluster;
pub mod load;
pub mod member;
pub mod mistakes;
pub mod rules;
pub mod scopes;
pub mod search;
pub mod small;
pub mod state;
pub mod step;

pub use cli::main;

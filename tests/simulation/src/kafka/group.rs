//! The group coordinator and the clients' side of it: members, generations, assignments, committed and pending offsets.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use switchboard_core::record::{Offset, ShardId};
use switchboard_core::worker::{Event, GroupOffset, Partition};

use super::log::ProducerId;

/// The worker of a process. The successor of a process that died has another id.
pub(crate) type ClientId = u32;
type MemberId = u32;

/// `session.timeout.ms`.
const SESSION: Duration = Duration::from_secs(10);

/// `offsets.retention.minutes`: how long an offset of a topic without a subscriber lasts after its commit. No outage of a
/// schedule is as long.
pub(crate) const OFFSET_RETENTION: Duration = Duration::from_secs(150);

/// `offset.metadata.max.bytes`.
const MOST_METADATA_BYTES: usize = 4096;

/// Metadata that lists no settled records.
pub(crate) const WITHOUT_MAP: &str = "v=1,n=0";

/// How the coordinator fences offsets of its members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fencing {
    /// A member has to send the current generation.
    ByGeneration,
    /// KIP-848 of Kafka 4.4: for a partition that a member holds, it may also send an epoch since it got the partition.
    ByPartition,
}

/// Why the group coordinator does not accept offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotTaken {
    /// ILLEGAL_GENERATION or UNKNOWN_MEMBER_ID.
    Stale,
    /// FENCED_INSTANCE_ID: a newer member has the static identity.
    Fenced,
    /// OFFSET_METADATA_TOO_LARGE.
    MetadataTooLarge,
}

/// A member, as the coordinator knows it.
#[derive(Debug)]
struct Member {
    client: ClientId,
    /// Its static identity.
    instance: Option<u32>,
    heard_of: Duration,
    /// Assigned to it and not given back yet, each with the generation in which it got the shard.
    owned: BTreeMap<ShardId, i32>,
}

/// What a member sends with its offsets, so that the coordinator can fence them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Membership {
    member: MemberId,
    generation: i32,
    instance: Option<u32>,
}

/// The membership as the client library knows it. It may be out of date.
#[derive(Debug, Default)]
pub(crate) struct Consumer {
    pub(crate) instance: Option<u32>,
    /// Whether it is to join the group.
    joins: bool,
    member: Option<MemberId>,
    generation: i32,
    /// It knows that the coordinator removed it. It joins again when the worker has answered.
    lost: bool,
    events: VecDeque<Event>,
    unanswered: Option<Event>,
    /// Assigned to the worker and not revoked.
    assigned: BTreeSet<ShardId>,
    /// The offset to read next, and whether the partition is paused.
    positions: BTreeMap<Partition, (Offset, bool)>,
    /// The process is stopped: it sends and receives nothing.
    pub(crate) frozen: bool,
}

impl Consumer {
    pub(crate) fn new(instance: Option<u32>) -> Self {
        Self { instance, ..Self::default() }
    }

    /// The client library may join the group from now on.
    pub(crate) fn join(&mut self) {
        self.joins = true;
    }

    pub(crate) fn next_event(&mut self) -> Option<Event> {
        if self.unanswered.is_some() {
            return None;
        }
        let event = self.events.pop_front()?;
        if matches!(event, Event::Assigned(_) | Event::Revoked(_) | Event::Lost(_)) {
            self.unanswered = Some(event.clone());
        }
        Some(event)
    }

    pub(crate) fn fail(&mut self, why: &str) {
        self.events.push_back(Event::Failed(why.into()));
    }

    pub(crate) fn start(&mut self, partition: Partition, offset: Offset, paused: bool) {
        self.positions.insert(partition, (offset, paused));
    }

    pub(crate) fn stop(&mut self, partition: Partition) {
        self.positions.remove(&partition);
    }

    pub(crate) fn answer_assigned(&mut self) {
        self.unanswered.take_if(|event| matches!(event, Event::Assigned(_)));
    }

    pub(crate) fn seek(&mut self, partition: Partition, offset: Offset) {
        if let Some((position, _)) = self.positions.get_mut(&partition) {
            *position = offset;
        }
    }

    pub(crate) fn pause(&mut self, partition: Partition, pause: bool) {
        if let Some((_, paused)) = self.positions.get_mut(&partition) {
            *paused = pause;
        }
    }

    /// The partitions that are read, each with its next offset.
    pub(crate) fn reading(&self) -> impl Iterator<Item = (Partition, Offset)> {
        self.positions.iter().filter(|(_, (_, paused))| !paused).map(|(partition, (offset, _))| (*partition, *offset))
    }

    /// The partitions that are not read at the moment.
    pub(crate) fn paused(&self) -> Vec<Partition> {
        self.positions.iter().filter(|(_, (_, paused))| *paused).map(|(partition, _)| *partition).collect()
    }

    /// How many paths there are from a source partition to a shard, both of this consumer.
    pub(crate) fn path_count(&self) -> usize {
        let sources = self.positions.keys().filter(|partition| matches!(partition, Partition::Source { .. })).count();
        sources * (self.positions.len() - sources)
    }

    pub(crate) fn read(&mut self, partition: Partition, offset: Offset) {
        if let Some((position, _)) = self.positions.get_mut(&partition) {
            *position = offset.next();
        }
    }

    pub(crate) fn is_live(&self) -> bool {
        self.member.is_some() && !self.lost
    }

    /// What is sent with offsets.
    pub(crate) fn membership(&self) -> Option<Membership> {
        let member = self.member.filter(|_| !self.lost)?;
        Some(Membership { member, generation: self.generation, instance: self.instance })
    }
}

/// The coordinator of the group, with the clients' side of it: members, generations, committed offsets.
#[derive(Debug)]
pub(crate) struct Group {
    shards: Vec<ShardId>,
    fencing: Fencing,
    generation: i32,
    members: BTreeMap<MemberId, Member>,
    next_member: MemberId,
    target: BTreeMap<ShardId, MemberId>,
    pub(crate) committed: BTreeMap<Partition, GroupOffset>,
    /// The offsets that the coordinator forgot.
    pub(crate) expired: BTreeMap<Partition, GroupOffset>,
    /// Offsets with metadata that no worker can read, as an operator left them. They do not expire: no operator leaves them
    /// for so long.
    pub(crate) damaged: BTreeMap<Partition, GroupOffset>,
    /// How many committed offsets had a list of settled records, as far as their metadata is longer than without.
    pub(crate) maps: u64,
    /// Something that no worker may do.
    pub(crate) problem: Option<String>,
    /// When the offsets of source partitions were committed last.
    committed_at: BTreeMap<Partition, Duration>,
    /// Offsets of open transactions.
    pending: BTreeMap<ProducerId, BTreeMap<Partition, GroupOffset>>,
    pub(crate) clients: BTreeMap<ClientId, Consumer>,
}

impl Group {
    pub(crate) fn new(shards: Vec<ShardId>, fencing: Fencing) -> Self {
        Self {
            shards,
            fencing,
            generation: 0,
            members: BTreeMap::new(),
            next_member: 0,
            target: BTreeMap::new(),
            committed: BTreeMap::new(),
            expired: BTreeMap::new(),
            damaged: BTreeMap::new(),
            maps: 0,
            problem: None,
            committed_at: BTreeMap::new(),
            pending: BTreeMap::new(),
            clients: BTreeMap::new(),
        }
    }

    pub(crate) fn client(&mut self, client: ClientId) -> &mut Consumer {
        self.clients.get_mut(&client).expect("it runs")
    }

    /// TxnOffsetCommit: pending until the transaction's marker.
    pub(crate) fn add_offsets(
        &mut self,
        producer: ProducerId,
        membership: Option<Membership>,
        offsets: &[(Partition, GroupOffset)],
    ) -> Result<(), NotTaken> {
        // Offsets without a member's id and generation are taken from anybody.
        if let Some(Membership { member, generation, instance }) = membership {
            match self.members.get(&member) {
                None if instance.is_some_and(|id| self.members.values().any(|m| m.instance == Some(id))) => {
                    return Err(NotTaken::Fenced);
                }
                None => return Err(NotTaken::Stale),
                Some(member) => {
                    let accepts = |(partition, _): &(Partition, GroupOffset)| match (self.fencing, partition) {
                        (Fencing::ByPartition, Partition::Shard(shard)) => {
                            member.owned.get(shard).map_or(generation == self.generation, |since| generation >= *since)
                        }
                        _ => generation == self.generation,
                    };
                    if !offsets.iter().all(accepts) {
                        return Err(NotTaken::Stale);
                    }
                }
            }
        }
        // The answer has an error for each partition. Offsets without one are pending all the same.
        let fits = |(_, offset): &&(Partition, GroupOffset)| offset.metadata.len() <= MOST_METADATA_BYTES;
        self.pending.entry(producer).or_default().extend(offsets.iter().filter(fits).cloned());
        if offsets.iter().all(|offset| fits(&offset)) { Ok(()) } else { Err(NotTaken::MetadataTooLarge) }
    }

    /// The marker of a transaction that had offsets.
    pub(crate) fn mark(&mut self, producer: ProducerId, commit: bool, now: Duration) {
        let offsets = self.pending.remove(&producer).unwrap_or_default();
        if commit {
            let sources = offsets.keys().filter(|partition| matches!(partition, Partition::Source { .. }));
            self.committed_at.extend(sources.map(|partition| (*partition, now)));
            let kept = |(partition, offset)| self.damaged.get(partition).is_none_or(|damaged| damaged == offset);
            if let Some((partition, offset)) = offsets.iter().find(|offset| !kept(*offset)) {
                let problem =
                    format!("{partition:?}: {offset:?} is committed, though nobody could read what was committed");
                self.problem.get_or_insert(problem);
            }
            let has_map = |offset: &&GroupOffset| offset.metadata.len() > WITHOUT_MAP.len();
            self.maps += offsets.values().filter(has_map).count() as u64;
            self.committed.extend(offsets);
        }
    }

    /// Forgets offsets of source partitions that were committed too long ago: no member subscribes to their topics.
    pub(crate) fn expire_offsets(&mut self, now: Duration) {
        let pending: BTreeSet<_> = self.pending.values().flat_map(BTreeMap::keys).copied().collect();
        let is_kept = |partition: &Partition| pending.contains(partition) || self.damaged.contains_key(partition);
        let is_old = |partition: &Partition, at: Duration| now > at + OFFSET_RETENTION && !is_kept(partition);
        let old: Vec<_> = self.committed_at.iter().map(|(partition, at)| (*partition, *at)).collect();
        let old: Vec<_> = old.into_iter().filter(|(partition, at)| is_old(partition, *at)).collect();
        for (partition, _) in old {
            self.committed_at.remove(&partition);
            if let Some(offset) = self.committed.remove(&partition) {
                self.expired.insert(partition, offset);
            }
        }
    }

    /// OffsetFetch with `require_stable`: `None` while one of these is pending.
    pub(crate) fn stable_offsets(&self, partitions: &[Partition]) -> Option<Vec<Option<GroupOffset>>> {
        let pending = |partition| self.pending.values().any(|offsets| offsets.contains_key(partition));
        if partitions.iter().any(pending) {
            return None;
        }
        Some(partitions.iter().map(|partition| self.committed.get(partition).cloned()).collect())
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.pending.is_empty()
    }

    /// Whether an operator may move offsets: the group has no members.
    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty() && self.is_quiet()
    }

    /// Assigns all shards again, at random.
    pub(crate) fn rebalance(&mut self, random: &mut fastrand::Rng) {
        self.generation += 1;
        let mut members: Vec<_> = self.members.keys().copied().collect();
        random.shuffle(&mut members);
        let mut shards = self.shards.clone();
        random.shuffle(&mut shards);
        let takers = members.iter().cycle();
        self.target = shards.into_iter().zip(takers).map(|(shard, member)| (shard, *member)).collect();
    }

    /// Removes a member. Its shards are free at once, whether it knows or not.
    fn remove(&mut self, member: MemberId, random: &mut fastrand::Rng) {
        if self.members.remove(&member).is_some() {
            self.rebalance(random);
        }
    }

    /// LeaveGroup. A static member does not send it, so it keeps its partitions until its session ends.
    pub(crate) fn leave(&mut self, client: ClientId, random: &mut fastrand::Rng) {
        let consumer = self.client(client);
        if let (Some(member), None) = (consumer.member, consumer.instance) {
            self.remove(member, random);
        }
    }

    /// Removes a member that is alive, because its heartbeats were lost.
    pub(crate) fn kick(&mut self, random: &mut fastrand::Rng) {
        let members: Vec<_> = self.members.keys().copied().collect();
        if let Some(member) = random.choice(members) {
            self.remove(member, random);
        }
    }

    /// The worker answers a revocation or the loss of its shards.
    pub(crate) fn answer_revoked(&mut self, client: ClientId, shards: &[ShardId]) {
        let consumer = self.clients.get_mut(&client).expect("it runs");
        for shard in shards {
            consumer.stop(Partition::Shard(*shard));
        }
        match consumer.unanswered.take() {
            Some(Event::Revoked(all)) => {
                if let Some(member) = consumer.member.and_then(|member| self.members.get_mut(&member)) {
                    member.owned.retain(|shard, _| !all.contains(shard));
                }
                consumer.assigned.retain(|shard| !all.contains(shard));
            }
            Some(Event::Lost(_)) => {
                consumer.assigned.clear();
                (consumer.lost, consumer.member) = (false, None);
            }
            other => consumer.unanswered = other,
        }
    }

    /// One exchange between a client library and the coordinator, as by a heartbeat.
    pub(crate) fn exchange(&mut self, id: ClientId, now: Duration, random: &mut fastrand::Rng) {
        let Some(consumer) = self.clients.get_mut(&id) else { return };
        if consumer.frozen || consumer.unanswered.is_some() || !consumer.events.is_empty() {
            return;
        }
        if !consumer.joins {
            return;
        }
        let Some(member_id) = consumer.member else {
            self.join(id, now, random);
            return;
        };
        let Some(member) = self.members.get_mut(&member_id) else {
            let fenced = consumer.instance.is_some_and(|own| self.members.values().any(|m| m.instance == Some(own)));
            if fenced {
                consumer.events.push_back(Event::Fenced("a newer member has the static identity".into()));
            } else if !consumer.lost {
                consumer.lost = true;
                consumer.events.push_back(Event::Lost(consumer.assigned.iter().copied().collect()));
            }
            return;
        };
        member.heard_of = now;
        consumer.generation = self.generation;
        let target = |shard: &ShardId| self.target.get(shard) == Some(&member_id);
        let revoked: Vec<_> = member.owned.keys().copied().filter(|shard| !target(shard)).collect();
        if !revoked.is_empty() {
            consumer.events.push_back(Event::Revoked(revoked));
            return;
        }
        let taken: BTreeSet<_> = self.members.values().flat_map(|m| m.owned.keys().copied()).collect();
        let wanted = self.shards.iter().copied().filter(|shard| target(shard));
        let free: Vec<_> = wanted.filter(|shard| !taken.contains(shard)).collect();
        if !free.is_empty() {
            let member = self.members.get_mut(&member_id).expect("looked up above");
            member.owned.extend(free.iter().map(|shard| (*shard, self.generation)));
            consumer.assigned.extend(free.iter().copied());
            consumer.events.push_back(Event::Assigned(free));
        }
    }

    fn join(&mut self, client: ClientId, now: Duration, random: &mut fastrand::Rng) {
        let consumer = self.clients.get_mut(&client).expect("it runs");
        let (id, instance) = (self.next_member, consumer.instance);
        self.next_member += 1;
        consumer.member = Some(id);
        let known =
            instance.and_then(|own| self.members.iter().find(|(_, m)| m.instance == Some(own)).map(|(m, _)| *m));
        if let Some(old) = known {
            // A known static identity gets the shards that it had, in the same generation. The old member id is fenced.
            let Member { owned, .. } = self.members.remove(&old).expect("found above");
            for member in self.target.values_mut().filter(|member| **member == old) {
                *member = id;
            }
            consumer.generation = self.generation;
            if !owned.is_empty() {
                consumer.assigned.extend(owned.keys().copied());
                consumer.events.push_back(Event::Assigned(owned.keys().copied().collect()));
            }
            self.members.insert(id, Member { client, instance, heard_of: now, owned });
        } else {
            let owned = BTreeMap::new();
            self.members.insert(id, Member { client, instance, heard_of: now, owned });
            self.rebalance(random);
            self.clients.get_mut(&client).expect("it runs").generation = self.generation;
        }
    }

    /// Removes members without a heartbeat within the session time-out.
    pub(crate) fn expire(&mut self, now: Duration, random: &mut fastrand::Rng) {
        let mut silent = Vec::new();
        for (id, member) in &mut self.members {
            let own = self.clients.get(&member.client);
            if own.is_some_and(|consumer| !consumer.frozen && consumer.member == Some(*id)) {
                member.heard_of = now;
            } else if now > member.heard_of + SESSION {
                silent.push(*id);
            }
        }
        for id in silent {
            self.remove(id, random);
        }
    }
}

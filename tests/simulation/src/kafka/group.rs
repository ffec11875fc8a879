//! The group coordinator and the clients' side of it: members, generations, assignments, committed and pending offsets.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use switchboard_core::record::Offset;
use switchboard_core::worker::{Event, Partition};

use super::log::ProducerId;

/// The worker of a process. The successor of a process that died has another id.
pub(crate) type ClientId = u32;
type MemberId = u32;

/// `session.timeout.ms`.
const SESSION: Duration = Duration::from_secs(10);

/// Why the group coordinator does not accept offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotTaken {
    /// ILLEGAL_GENERATION or UNKNOWN_MEMBER_ID.
    Stale,
    /// FENCED_INSTANCE_ID: a newer member has the static identity.
    Fenced,
}

/// A member, as the coordinator knows it.
#[derive(Debug)]
struct Member {
    client: ClientId,
    /// Its static identity.
    instance: Option<u32>,
    /// The source topics that it subscribed to.
    subscription: BTreeSet<usize>,
    heard_of: Duration,
    /// Assigned to it and not given back yet.
    owned: BTreeSet<Partition>,
}

/// What a member sends with its offsets, so that the coordinator can fence them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Metadata {
    member: MemberId,
    generation: i32,
    instance: Option<u32>,
}

/// The membership as the client library knows it. It may be out of date.
#[derive(Debug, Default)]
pub(crate) struct Consumer {
    instance: Option<u32>,
    /// The source topics to read. `None`: it does not join the group yet.
    subscription: Option<BTreeSet<usize>>,
    member: Option<MemberId>,
    generation: i32,
    /// It knows that the coordinator removed it. It joins again when the worker has answered.
    lost: bool,
    events: VecDeque<Event>,
    unanswered: Option<Event>,
    /// Assigned to the worker and not revoked.
    assigned: BTreeSet<Partition>,
    /// The offset to read next, and whether the partition is paused.
    positions: BTreeMap<Partition, (Offset, bool)>,
    /// The process is stopped: it sends and receives nothing.
    pub(crate) frozen: bool,
}

impl Consumer {
    pub(crate) fn new(instance: Option<u32>) -> Self {
        Self { instance, ..Self::default() }
    }

    /// The next consumer of the same process, with the same subscription.
    pub(crate) fn again(&self) -> Self {
        Self { instance: self.instance, subscription: self.subscription.clone(), ..Self::default() }
    }

    /// Rebalances follow. Members always get partitions of the repartition topic.
    pub(crate) fn subscribe(&mut self, topics: BTreeSet<usize>) {
        self.subscription = Some(topics);
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

    pub(crate) fn assign(&mut self, partition: Partition, offset: Offset, paused: bool) {
        self.positions.insert(partition, (offset, paused));
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

    pub(crate) fn read(&mut self, partition: Partition, offset: Offset) {
        if let Some((position, _)) = self.positions.get_mut(&partition) {
            *position = offset.next();
        }
    }

    pub(crate) fn is_live(&self) -> bool {
        self.member.is_some() && !self.lost
    }

    /// What is sent with offsets.
    pub(crate) fn metadata(&self) -> Option<Metadata> {
        let member = self.member.filter(|_| !self.lost)?;
        Some(Metadata { member, generation: self.generation, instance: self.instance })
    }
}

/// Whether a member with this subscription may have a partition.
fn wants(subscription: &BTreeSet<usize>, partition: Partition) -> bool {
    match partition {
        Partition::Source { topic, .. } => subscription.contains(&topic),
        Partition::Shard(_) => true,
    }
}

/// The coordinator of the group, with the clients' side of it: members, generations, committed offsets.
#[derive(Debug)]
pub(crate) struct Group {
    partitions: Vec<Partition>,
    generation: i32,
    members: BTreeMap<MemberId, Member>,
    next_member: MemberId,
    target: BTreeMap<Partition, MemberId>,
    pub(crate) committed: BTreeMap<Partition, Offset>,
    /// Offsets of open transactions.
    pending: BTreeMap<ProducerId, BTreeMap<Partition, Offset>>,
    pub(crate) clients: BTreeMap<ClientId, Consumer>,
}

impl Group {
    pub(crate) fn new(partitions: Vec<Partition>) -> Self {
        Self {
            partitions,
            generation: 0,
            members: BTreeMap::new(),
            next_member: 0,
            target: BTreeMap::new(),
            committed: BTreeMap::new(),
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
        metadata: Option<Metadata>,
        offsets: &[(Partition, Offset)],
    ) -> Result<(), NotTaken> {
        // Offsets without a member's id and generation are taken from anybody.
        if let Some(Metadata { member, generation, instance }) = metadata {
            match self.members.get(&member) {
                None if instance.is_some_and(|id| self.members.values().any(|m| m.instance == Some(id))) => {
                    return Err(NotTaken::Fenced);
                }
                None => return Err(NotTaken::Stale),
                Some(_) if generation != self.generation => return Err(NotTaken::Stale),
                Some(_) => {}
            }
        }
        self.pending.entry(producer).or_default().extend(offsets.iter().copied());
        Ok(())
    }

    /// The marker of a transaction that had offsets.
    pub(crate) fn mark(&mut self, producer: ProducerId, commit: bool) {
        let offsets = self.pending.remove(&producer).unwrap_or_default();
        if commit {
            self.committed.extend(offsets);
        }
    }

    /// OffsetFetch with `require_stable`: `None` while one of these is pending.
    pub(crate) fn stable_offsets(&self, partitions: &[Partition]) -> Option<Vec<Option<Offset>>> {
        let pending = |partition| self.pending.values().any(|offsets| offsets.contains_key(partition));
        if partitions.iter().any(pending) {
            return None;
        }
        Some(partitions.iter().map(|partition| self.committed.get(partition).copied()).collect())
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.pending.is_empty()
    }

    /// Assigns all partitions again, at random.
    pub(crate) fn rebalance(&mut self, random: &mut fastrand::Rng) {
        self.generation += 1;
        let mut members: Vec<_> = self.members.keys().copied().collect();
        random.shuffle(&mut members);
        let mut partitions = self.partitions.clone();
        random.shuffle(&mut partitions);
        self.target.clear();
        for (place, partition) in partitions.into_iter().enumerate() {
            let wants = |member: &&MemberId| wants(&self.members[member].subscription, partition);
            let takers: Vec<_> = members.iter().filter(wants).collect();
            if !takers.is_empty() {
                self.target.insert(partition, *takers[place % takers.len()]);
            }
        }
    }

    /// Removes a member. Its partitions are free at once, whether it knows or not.
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

    /// The worker answers a revocation or the loss of its partitions.
    pub(crate) fn answer_revoked(&mut self, client: ClientId, partitions: &[Partition]) {
        let consumer = self.clients.get_mut(&client).expect("it runs");
        for partition in partitions {
            consumer.positions.remove(partition);
        }
        match consumer.unanswered.take() {
            Some(Event::Revoked(all)) => {
                if let Some(member) = consumer.member.and_then(|member| self.members.get_mut(&member)) {
                    member.owned.retain(|partition| !all.contains(partition));
                }
                consumer.assigned.retain(|partition| !all.contains(partition));
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
        let Some(subscription) = &consumer.subscription else { return };
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
        if member.subscription != *subscription {
            member.subscription.clone_from(subscription);
            self.rebalance(random);
            return;
        }
        consumer.generation = self.generation;
        let target = |partition: &Partition| self.target.get(partition) == Some(&member_id);
        let revoked: Vec<_> = member.owned.iter().copied().filter(|partition| !target(partition)).collect();
        if !revoked.is_empty() {
            consumer.events.push_back(Event::Revoked(revoked));
            return;
        }
        let taken: BTreeSet<_> = self.members.values().flat_map(|m| m.owned.iter().copied()).collect();
        let wanted = self.partitions.iter().copied().filter(|partition| target(partition));
        let free: Vec<_> = wanted.filter(|partition| !taken.contains(partition)).collect();
        if !free.is_empty() {
            let member = self.members.get_mut(&member_id).expect("looked up above");
            member.owned.extend(free.iter().copied());
            consumer.assigned.extend(free.iter().copied());
            consumer.events.push_back(Event::Assigned(free));
        }
    }

    fn join(&mut self, client: ClientId, now: Duration, random: &mut fastrand::Rng) {
        let consumer = self.clients.get_mut(&client).expect("it runs");
        let (id, instance) = (self.next_member, consumer.instance);
        let subscription = consumer.subscription.clone().expect("it is subscribed");
        self.next_member += 1;
        consumer.member = Some(id);
        let known =
            instance.and_then(|own| self.members.iter().find(|(_, m)| m.instance == Some(own)).map(|(m, _)| *m));
        if let Some(old) = known {
            // A known static identity gets the partitions that it had, in the same generation. The old member id is fenced.
            // Kafka 4.2 does not rebalance for it, even if its subscription is another one. The client has to join again for
            // that. Here its next heartbeat does.
            let Member { mut owned, subscription: former, .. } = self.members.remove(&old).expect("found above");
            owned.retain(|partition| wants(&subscription, *partition));
            for member in self.target.values_mut().filter(|member| **member == old) {
                *member = id;
            }
            consumer.generation = self.generation;
            if !owned.is_empty() {
                consumer.assigned.extend(owned.iter().copied());
                consumer.events.push_back(Event::Assigned(owned.iter().copied().collect()));
            }
            self.members.insert(id, Member { client, instance, subscription: former, heard_of: now, owned });
        } else {
            let owned = BTreeSet::new();
            self.members.insert(id, Member { client, instance, subscription, heard_of: now, owned });
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

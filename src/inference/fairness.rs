//! Whose turn it is among those that share something.
//!
//! The rule is weighted fair queueing: each member gets the same share, counted in tokens, for as
//! long as it has texts waiting. It is used twice (see [`super::shares`]): among clients, and among
//! the requests of one client. A member's turn is due once it could have had what waits of it, at
//! most [`MOST_COST_TOKENS`], from a server that serves all members at once. So a member with one
//! short text goes before one with hundreds, and what has just come in, with `n` tokens, waits for
//! at most `n` + [`MOST_COST_TOKENS`] tokens of every other member, and the end of a run.
//!
//! The virtual clock goes on by what is served over the number of members that wait, and is never
//! behind the start of what is served, as in WF2Q+ (Bennett and Zhang, "Hierarchical packet fair
//! queueing algorithms", 1996). Here it is never past the time at which a waiting member is due either.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hash};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Tokens of a member that count for when it is due: one with more waits no longer for its first. At
/// 128 long texts took 1.3 times as long at 32 clients and short ones 0.75 times; at 32 the short ones
/// took 1.4 times as long.
pub const MOST_COST_TOKENS: usize = 64;

/// Steps of the virtual clock for one token of one member that is alone.
const STEPS_PER_TOKEN: u64 = 1 << 16;

static NEXT_FLOW: AtomicU64 = AtomicU64::new(0);

/// Keyed at random, so that nobody can send what shares a client's number.
static CLIENT_HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// Whoever is entitled to one share. What makes a client is for the caller to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(u64);

impl ClientId {
    /// The client that is known by `name`.
    #[must_use]
    pub fn of(name: &impl Hash) -> Self {
        Self(CLIENT_HASHER.hash_one(name))
    }
}

/// Texts of one client that share one turn: those of a request, or of a stream of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    client: ClientId,
    number: u64,
}

impl Flow {
    /// A new flow of this client.
    #[must_use]
    pub fn of(client: ClientId) -> Self {
        Self { client, number: NEXT_FLOW.fetch_add(1, Ordering::Relaxed) }
    }

    /// Whose texts they are.
    #[must_use]
    pub fn client(self) -> ClientId {
        self.client
    }
}

/// What waits, of one member or of all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Texts.
    pub texts: usize,
    /// Their tokens.
    pub tokens: usize,
}

impl Held {
    /// The same with one more text.
    #[must_use]
    pub fn with(self, tokens: usize) -> Self {
        Self { texts: self.texts + 1, tokens: self.tokens + tokens }
    }

    /// The same with one text less.
    #[must_use]
    pub fn without(self, tokens: usize) -> Self {
        Self { texts: self.texts - 1, tokens: self.tokens - tokens }
    }
}

/// One of those that share, and its texts.
#[derive(Debug)]
pub(super) struct Member<V> {
    pub(super) texts: V,
    pub(super) held: Held,
    /// Virtual time until which it has had its share.
    used: u64,
    /// Of two that are due at the same time with as much waiting, the one that came first has the turn.
    number: u64,
}

impl<V> Member<V> {
    fn place(&self) -> (u64, usize, u64) {
        let due = self.used.saturating_add(steps(self.held.tokens.min(MOST_COST_TOKENS)));
        (due, self.held.tokens, self.number)
    }
}

/// The virtual clock and what each member has had of it. Knows those that have texts waiting only.
#[derive(Debug)]
pub(super) struct Turns<K, V> {
    now: u64,
    next_number: u64,
    members: HashMap<K, Member<V>>,
    order: BTreeMap<(u64, usize, u64), K>,
}

impl<K, V> Default for Turns<K, V> {
    fn default() -> Self {
        // There is time before the start to give back.
        Self { now: steps(MOST_COST_TOKENS), next_number: 0, members: HashMap::new(), order: BTreeMap::new() }
    }
}

impl<K: Copy + Eq + Hash, V: Default> Turns<K, V> {
    /// Takes note of one more text of a member; returns where to put it.
    pub(super) fn enter(&mut self, key: K, tokens: usize) -> &mut V {
        self.next_number += 1;
        let new = Member { texts: V::default(), held: Held::default(), used: self.now, number: self.next_number };
        let member = self.members.entry(key).or_insert(new);
        self.order.remove(&member.place());
        member.held = member.held.with(tokens);
        self.order.insert(member.place(), key);
        &mut member.texts
    }

    /// Gives back what a member was charged for a text that was not served after all.
    pub(super) fn refund(&mut self, key: K, cost: usize) {
        // No further back than the clock may run ahead of a member.
        let least = self.now.saturating_sub(steps(MOST_COST_TOKENS));
        self.change(key, |member| member.used = member.used.saturating_sub(steps(cost)).max(least.min(member.used)));
    }

    /// Takes note of a text that waits no more and was not served.
    pub(super) fn leave(&mut self, key: K, tokens: usize) {
        self.change(key, |member| member.held = member.held.without(tokens));
    }

    /// Takes note of texts that are served now, each with its member, its tokens and what it is
    /// charged; `first` is the member whose turn it was.
    pub(super) fn serve(&mut self, first: Option<K>, texts: impl Iterator<Item = (K, usize, usize)>) {
        let start = first.and_then(|first| self.members.get(&first)).map_or(0, |member| member.used);
        let before = self.now.max(start);
        self.now = before;
        let sharing = self.members.len().max(1) as u64;
        for (key, tokens, cost) in texts {
            self.now = self.now.saturating_add(steps(cost) / sharing);
            self.change(key, |member| {
                member.used = member.used.saturating_add(steps(cost));
                member.held = member.held.without(tokens);
            });
        }
        // Who comes next must not be due after more than its own tokens of what waits now.
        let next_due = self.order.keys().next().map_or(u64::MAX, |(due, ..)| *due);
        self.now = self.now.min(next_due).max(before);
    }

    /// The members in the order of their turns.
    pub(super) fn in_order(&self) -> impl Iterator<Item = (K, &Member<V>)> {
        self.order.values().filter_map(|key| Some((*key, self.members.get(key)?)))
    }

    /// One member, if it has texts waiting.
    pub(super) fn member(&self, key: K) -> Option<&Member<V>> {
        self.members.get(&key)
    }

    /// The texts of a member, to take some out; [`Self::serve`] or [`Self::leave`] must be told.
    pub(super) fn texts_mut(&mut self, key: K) -> Option<&mut V> {
        Some(&mut self.members.get_mut(&key)?.texts)
    }

    fn change(&mut self, key: K, change: impl FnOnce(&mut Member<V>)) {
        let Some(member) = self.members.get_mut(&key) else { return };
        self.order.remove(&member.place());
        change(member);
        if member.held.texts == 0 {
            self.members.remove(&key);
        } else {
            self.order.insert(member.place(), key);
        }
    }
}

fn steps(tokens: usize) -> u64 {
    tokens as u64 * STEPS_PER_TOKEN
}

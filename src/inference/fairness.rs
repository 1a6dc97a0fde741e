//! Whose turn it is among the texts that wait.
//!
//! The rule is weighted fair queueing: picture a server that reads a little of every request's next
//! text at once, each request getting the same share; texts are due in the order in which they
//! would be read whole there. Each request is one flow, and so is each stream of lines. So the turn
//! of a text of `n` tokens comes after no more than `n` tokens and one text of every other request,
//! however many texts that request has, and after the run that a worker is in. Texts of similar
//! length ride along in the run of one whose turn it is, which makes that run longer, up to
//! `MAX_BATCH_TOKENS`. A long text counts as [`MOST_COST_TOKENS`]: it waits for that much of each
//! other request and not for twenty short texts, and a request of nothing but the longest texts gets
//! up to four times the share of others.
//!
//! The virtual clock goes on by what is served over the number of flows that wait, and is never
//! behind the start of what is served, as in WF2Q+ (Bennett and Zhang, "Hierarchical packet fair
//! queueing algorithms", 1996). Here it is never past the time at which a waiting text is due either.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::{BuildHasher, Hash};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Tokens that a longer text counts as.
pub const MOST_COST_TOKENS: usize = 128;

/// Steps of the virtual clock for one token of one flow that is alone.
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

/// When a text is due, in virtual time; the smaller one comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turn {
    due: u64,
    number: u64,
    start: u64,
}

/// What waits, of one flow or of all.
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
}

#[derive(Debug, Default)]
struct FlowState {
    held: Held,
    finish: u64,
}

/// The virtual clock and what each flow has had of it.
#[derive(Debug, Default)]
pub struct Turns {
    now: u64,
    number: u64,
    flows: HashMap<Flow, FlowState>,
}

impl Turns {
    /// The turn of a flow's next text.
    pub fn enter(&mut self, flow: Flow, tokens: usize) -> Turn {
        let now = self.now;
        let state = self.hold(flow, tokens);
        let start = state.finish.max(now);
        state.finish = start.saturating_add(cost(tokens));
        let due = state.finish;
        self.numbered(start, due)
    }

    /// The turn of a text that was taken but not served: at once.
    pub fn enter_again(&mut self, flow: Flow, tokens: usize) -> Turn {
        self.hold(flow, tokens);
        self.numbered(self.now, self.now)
    }

    /// What the flow has waiting now.
    #[must_use]
    pub fn held(&self, flow: Flow) -> Held {
        self.flows.get(&flow).map(|state| state.held).unwrap_or_default()
    }

    /// Takes note of texts that are served now; `first` is the turn that was due first, `next` the
    /// one that is due first of those that go on waiting.
    pub fn serve(&mut self, first: Turn, next: Option<Turn>, texts: impl Iterator<Item = (Flow, usize)>) {
        let before = self.now.max(first.start);
        self.now = before;
        let sharing = self.flows.len().max(1) as u64;
        for (flow, tokens) in texts {
            self.now = self.now.saturating_add(cost(tokens) / sharing);
            self.leave(flow, tokens);
        }
        // What comes next must not be due after more than its own tokens of what waits now.
        self.now = next.map_or(self.now, |next| self.now.min(next.due)).max(before);
    }

    /// Takes note of a text that waits no more.
    pub fn leave(&mut self, flow: Flow, tokens: usize) {
        let Entry::Occupied(mut state) = self.flows.entry(flow) else { return };
        let held = &mut state.get_mut().held;
        (held.texts, held.tokens) = (held.texts - 1, held.tokens - tokens);
        if held.texts == 0 {
            state.remove();
        }
    }

    fn hold(&mut self, flow: Flow, tokens: usize) -> &mut FlowState {
        let state = self.flows.entry(flow).or_default();
        state.held.texts += 1;
        state.held.tokens += tokens;
        state
    }

    fn numbered(&mut self, start: u64, due: u64) -> Turn {
        self.number += 1;
        Turn { due, number: self.number, start }
    }
}

fn cost(tokens: usize) -> u64 {
    tokens.min(MOST_COST_TOKENS) as u64 * STEPS_PER_TOKEN
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn flow() -> Flow {
        Flow::of(ClientId::of(&"the only client"))
    }

    /// Texts that are served one by one.
    #[derive(Default)]
    struct Line {
        turns: Turns,
        waiting: BTreeMap<Turn, (Flow, usize)>,
    }

    impl Line {
        fn enter(&mut self, flow: Flow, tokens: usize) -> Turn {
            let turn = self.turns.enter(flow, tokens);
            self.waiting.insert(turn, (flow, tokens));
            turn
        }

        fn serve(&mut self) -> Option<(Turn, Flow, usize)> {
            let (turn, (flow, tokens)) = self.waiting.pop_first()?;
            let next = self.waiting.keys().next().copied();
            self.turns.serve(turn, next, std::iter::once((flow, tokens)));
            Some((turn, flow, tokens))
        }

        fn costs_until(&mut self, awaited: Turn) -> Vec<(Flow, usize)> {
            let mut served = Vec::new();
            while let Some((turn, flow, tokens)) = self.serve() {
                if turn == awaited {
                    return served;
                }
                served.push((flow, tokens.min(MOST_COST_TOKENS)));
            }
            panic!("the text was not served");
        }
    }

    #[test]
    fn a_short_text_does_not_wait_for_many_long_ones() {
        let mut line = Line::default();
        for _ in 0..50 {
            line.enter(flow(), 400);
        }
        line.serve();
        let short = line.enter(flow(), 20);
        assert_eq!(line.costs_until(short), []);
    }

    #[test]
    fn texts_of_one_flow_keep_their_order_and_flows_alternate() {
        let mut line = Line::default();
        let (one, other) = (flow(), flow());
        for flow in [one, one, one, other, other, other] {
            line.enter(flow, 10);
        }
        let order: Vec<_> = std::iter::from_fn(|| line.serve()).map(|(_, flow, _)| flow).collect();
        assert_eq!(order, [one, other, one, other, one, other]);
    }

    #[test]
    fn a_flow_that_went_away_leaves_the_clock_to_the_others() {
        let mut line = Line::default();
        let gone = flow();
        for _ in 0..500 {
            line.turns.enter(gone, 100);
        }
        for _ in 0..500 {
            line.turns.leave(gone, 100);
        }
        let long = line.enter(flow(), 100);
        let mut shorts = 0;
        loop {
            line.enter(flow(), 10);
            let (turn, ..) = line.serve().unwrap();
            if turn == long {
                break;
            }
            shorts += 1;
            // Two flows share: the long text's 100 tokens pass while 200 are served.
            assert!(shorts <= 20, "the long text still waits");
        }
    }

    proptest! {
        #[test]
        fn a_text_waits_for_no_more_of_each_other_flow_than_it_has_itself(
            before in prop::collection::vec((0_usize..12, 1_usize..513), 0..120),
            served in 0_usize..60,
            tokens in 1_usize..513,
        ) {
            let flows: Vec<Flow> = (0..12).map(|_| flow()).collect();
            let mut line = Line::default();
            for (flow, tokens) in before {
                line.enter(flows[flow], tokens);
            }
            for _ in 0..served {
                line.serve();
            }
            let text = line.enter(flow(), tokens);
            let mut of_flow: HashMap<Flow, usize> = HashMap::new();
            for (flow, cost) in line.costs_until(text) {
                *of_flow.entry(flow).or_default() += cost;
            }
            let most = tokens.min(MOST_COST_TOKENS) + MOST_COST_TOKENS;
            prop_assert!(of_flow.values().all(|cost| *cost <= most), "{of_flow:?}, not {most}");
        }

        #[test]
        fn a_long_text_is_served_though_short_ones_keep_coming(others in 1_usize..40, tokens in 1_usize..40) {
            let mut line = Line::default();
            let long = line.enter(flow(), 512);
            let mut served = 0;
            loop {
                while line.waiting.len() <= others {
                    line.enter(flow(), tokens);
                }
                let (turn, _, cost) = line.serve().unwrap();
                if turn == long {
                    break;
                }
                served += cost;
                // `others` texts wait beside it at any time, and the last one may go over the mark.
                prop_assert!(served <= (others + 1) * (MOST_COST_TOKENS + tokens), "it still waits after {served}");
            }
        }
    }
}

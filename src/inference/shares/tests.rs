use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// Longest text of these tests: models read no more.
const LONGEST: usize = 512;

/// Texts that are served one by one; each says whose it is.
#[derive(Default)]
struct Served {
    shares: Shares<u64>,
    next: u64,
}

/// A text that was served: its number, its request, and its tokens.
type One = (u64, Flow, usize);

impl Served {
    fn enter(&mut self, flow: Flow, tokens: usize) -> u64 {
        self.next += 1;
        self.shares.enter(flow, tokens, self.next);
        self.next
    }

    fn serve(&mut self) -> Option<One> {
        let place = self.shares.candidates(1).first()?.0;
        let text = self.shares.serve(&[place]).pop()?;
        Some((text, place.flow, place.tokens))
    }

    /// What is served before this text.
    fn before(&mut self, awaited: u64) -> Vec<One> {
        let served: Vec<One> = std::iter::from_fn(|| self.serve()).take_while(|(text, ..)| *text != awaited).collect();
        assert!(self.next >= awaited, "there is no such text");
        served
    }

    fn order(&mut self) -> Vec<u64> {
        std::iter::from_fn(|| self.serve()).map(|(text, ..)| text).collect()
    }
}

fn client(name: usize) -> ClientId {
    ClientId::of(&name)
}

fn flow_of(name: usize) -> Flow {
    Flow::of(client(name))
}

fn sum_by<K: std::hash::Hash + Eq>(
    served: &[One],
    key: impl Fn(Flow) -> K,
    size: impl Fn(usize) -> usize,
) -> HashMap<K, usize> {
    let mut sums = HashMap::new();
    for (_, flow, tokens) in served {
        *sums.entry(key(*flow)).or_default() += size(*tokens);
    }
    sums
}

#[test]
fn a_short_text_does_not_wait_for_many_long_ones_of_the_same_client() {
    let mut line = Served::default();
    for _ in 0..50 {
        line.enter(flow_of(0), 400);
    }
    line.serve();
    let short = line.enter(flow_of(0), 20);
    assert_eq!(line.before(short), []);
}

#[test]
fn texts_of_one_request_keep_their_order_and_requests_alternate() {
    let mut line = Served::default();
    let (one, other) = (flow_of(0), flow_of(0));
    for flow in [one, one, one, other, other, other] {
        line.enter(flow, 200);
    }
    assert_eq!(line.order(), [1, 4, 2, 5, 3, 6]);
}

#[test]
fn clients_get_the_same_however_many_requests_they_have_and_however_long_their_texts_are() {
    let mut line = Served::default();
    for _ in 0..200 {
        line.enter(flow_of(0), 512);
    }
    let many = flow_of(1);
    for _ in 0..2000 {
        line.enter(many, 20);
    }
    let served: Vec<_> = (0..500).filter_map(|_| line.serve()).collect();
    let sums = sum_by(&served, Flow::client, |tokens| tokens);
    let (flood, other) = (sums[&client(0)], sums[&client(1)]);
    assert!(flood.abs_diff(other) <= 2 * LONGEST, "{flood} tokens of the one, {other} of the other");
}

#[test]
fn what_went_away_leaves_the_clock_to_the_others() {
    let mut line = Served::default();
    let gone = flow_of(0);
    for _ in 0..500 {
        line.enter(gone, 100);
    }
    let places: Vec<Place> = line.shares.all().map(|(place, _)| place).collect();
    assert_eq!(places.iter().filter_map(|place| line.shares.remove(place)).count(), 500);
    assert_eq!(line.shares.held(), Held::default());
    let long = line.enter(flow_of(1), 100);
    let mut shorts = 0;
    loop {
        line.enter(flow_of(2), 10);
        if line.serve().unwrap().0 == long {
            break;
        }
        shorts += 1;
        // Two clients share: the long text's 100 tokens pass while 200 are served.
        assert!(shorts <= 20, "the long text still waits");
    }
}

#[test]
fn the_small_go_first_and_ride_with_the_small_only() {
    let mut line = Served::default();
    let large = flow_of(0);
    for _ in 0..40 {
        line.enter(large, 20);
    }
    let small = [line.enter(flow_of(1), 20), line.enter(flow_of(2), 20)];
    let beside_large = line.enter(flow_of(0), 20);
    let ride = |line: &Served| line.shares.candidates(100).iter().map(|(_, text)| **text).collect::<Vec<_>>();
    assert_eq!(ride(&line), small, "the texts of the large client stay out");
    let places: Vec<Place> = line.shares.candidates(100).iter().map(|(place, _)| *place).collect();
    line.shares.serve(&places);
    assert_eq!(ride(&line), [beside_large], "within a client the small request does not ride with the large one");
    line.serve();
    assert_eq!(ride(&line).len(), 40);
}

#[test]
fn what_is_put_back_stands_in_front_again_and_is_charged_nothing() {
    let mut line = Served::default();
    let flow = flow_of(0);
    let (first, second) = (line.enter(flow, 60), line.enter(flow, 60));
    let other = line.enter(flow_of(0), 60);
    let (text, flow, tokens) = line.serve().unwrap();
    assert_eq!(text, other, "it has fewer tokens");
    line.shares.put_back(flow, tokens, text);
    assert_eq!(line.order(), [other, first, second]);
}

fn waiting() -> impl Strategy<Value = Vec<(usize, usize, usize)>> {
    prop::collection::vec((0_usize..5, 0_usize..4, 1_usize..=LONGEST), 0..120)
}

/// Serves some of what has come in, so that the clocks stand anywhere.
fn line_with(before: Vec<(usize, usize, usize)>, served: usize) -> (Served, Vec<Vec<Flow>>) {
    let flows: Vec<Vec<Flow>> = (0..5).map(|client| (0..4).map(|_| flow_of(client)).collect()).collect();
    let mut line = Served::default();
    for (client, flow, tokens) in before {
        line.enter(flows[client][flow], tokens);
    }
    for _ in 0..served {
        line.serve();
    }
    (line, flows)
}

proptest! {
    #[test]
    fn a_clients_only_text_waits_for_no_more_of_each_other_client_than_it_has_itself(
        before in waiting(), served in 0_usize..60, tokens in 1_usize..=LONGEST,
    ) {
        let (mut line, _) = line_with(before, served);
        let text = line.enter(flow_of(99), tokens);
        // And one text: the last may go over the mark.
        let most = tokens.min(MOST_COST_TOKENS) + MOST_COST_TOKENS + LONGEST;
        let waited = sum_by(&line.before(text), Flow::client, |tokens| tokens);
        prop_assert!(waited.values().all(|tokens| *tokens <= most), "{waited:?}, not {most}");
    }

    #[test]
    fn a_new_request_waits_for_no_more_of_each_other_one_of_its_client_than_it_has_itself(
        before in waiting(), served in 0_usize..60, tokens in 1_usize..=LONGEST,
    ) {
        let (mut line, _) = line_with(before, served);
        let text = line.enter(flow_of(0), tokens);
        let most = tokens.min(MOST_COST_TOKENS) + MOST_COST_TOKENS;
        let mine: Vec<One> =
            line.before(text).into_iter().filter(|(_, flow, _)| flow.client() == client(0)).collect();
        let waited = sum_by(&mine, |flow| flow, |tokens| tokens.min(MOST_COST_TOKENS));
        prop_assert!(waited.values().all(|cost| *cost <= most), "{waited:?}, not {most}");
    }

    #[test]
    fn a_long_text_is_served_though_short_ones_keep_coming(
        others in 1_usize..40, tokens in 1_usize..40, of_one_client in any::<bool>(),
    ) {
        let mut line = Served::default();
        let long = line.enter(flow_of(0), LONGEST);
        let mut served = 0;
        for number in 1.. {
            while line.shares.held().texts <= others {
                line.enter(flow_of(if of_one_client { 0 } else { number }), tokens);
            }
            let (text, _, cost) = line.serve().unwrap();
            if text == long {
                break;
            }
            served += cost;
            // `others` texts wait beside it at any time, and the last one may go over the mark.
            prop_assert!(served <= (others + 1) * (MOST_COST_TOKENS + tokens), "it still waits after {served}");
        }
    }

    #[test]
    fn nothing_is_lost_or_served_twice(before in waiting(), served in 0_usize..60, removed in 0_usize..20) {
        let count = before.len();
        let (mut line, _) = line_with(before, served);
        let places: Vec<Place> = line.shares.all().map(|(place, _)| place).take(removed).collect();
        let gone = places.iter().filter_map(|place| line.shares.remove(place)).count();
        let mut rest = line.order();
        prop_assert_eq!(rest.len() + gone + served.min(count), count);
        rest.sort_unstable();
        rest.dedup();
        prop_assert_eq!(rest.len() + gone + served.min(count), count);
        prop_assert_eq!(line.shares.held(), Held::default());
    }
}

//! Which waiting texts are run together.
//!
//! The oldest text in fair order is always in the batch, so none starves. Texts whose length is
//! nearest to its own join it while the batch stays within its token limit, counted with padding,
//! and as long as each makes the batch cheaper for every token that is read.

/// What a run costs before it has computed any token, in tokens: its weights come through the
/// caches once. Measured on the models that the project ships, 15 to 25.
const RUN_TOKENS: f64 = 20.0;

/// What attention costs for each pair of cells of a row, as a part of what a token costs elsewhere.
const ATTENTION_TOKENS: f64 = 0.0007;

/// Greatest share of padding where padding is computed like any token.
const MAX_PADDING_SHARE: f64 = 0.10;

/// What a graph does with padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// Every layer computes it.
    Computed,
    /// Only attention sees it; it is left out of everything else.
    LeftOut,
}

impl Padding {
    /// What a token of padding costs, attention apart, where a token of text costs 1.
    fn weight(self) -> f64 {
        match self {
            Self::Computed => 1.0,
            Self::LeftOut => 0.05,
        }
    }
}

/// A run of texts of similar lengths.
#[derive(Clone, Copy)]
struct Shape {
    texts: usize,
    longest: usize,
    real_tokens: usize,
}

impl Shape {
    fn with(self, length: usize) -> Self {
        Self { texts: self.texts + 1, longest: self.longest.max(length), real_tokens: self.real_tokens + length }
    }

    fn cells(self) -> usize {
        self.texts * self.longest
    }

    fn padding_share(self) -> f64 {
        1.0 - self.real_tokens as f64 / self.cells() as f64
    }

    /// Cost of the run for each token of text, in tokens.
    fn cost_per_token(self, padding: Padding) -> f64 {
        let (real, cells) = (self.real_tokens as f64, self.cells() as f64);
        let attention = ATTENTION_TOKENS * cells * self.longest as f64;
        (RUN_TOKENS + real + padding.weight() * (cells - real) + attention) / real
    }
}

/// Chooses from `lengths` (tokens of the waiting texts, in the order in which they are due) the
/// texts to run with the first one; returns their indices, ascending. The first is always among
/// them, even when it alone is over `max_tokens`.
#[must_use]
pub fn form_batch(lengths: &[usize], max_tokens: usize, padding: Padding) -> Vec<usize> {
    let Some(first) = lengths.first().copied() else { return Vec::new() };
    let mut by_length: Vec<usize> = (0..lengths.len()).collect();
    by_length.sort_unstable_by_key(|index| (lengths[*index], *index));
    // Equal lengths are sorted by age, so the first text is the first of its length.
    let start = by_length.partition_point(|index| lengths[*index] < first);
    let (mut low, mut high) = (start, start + 1);
    let mut shape = Shape { texts: 1, longest: first, real_tokens: first };
    loop {
        let joined = |index: usize| {
            let joined = shape.with(lengths[by_length[index]]);
            let bearable = padding == Padding::LeftOut || joined.padding_share() <= MAX_PADDING_SHARE;
            let pays = joined.cost_per_token(padding) <= shape.cost_per_token(padding);
            (joined.cells() <= max_tokens && bearable && pays).then_some((index, joined))
        };
        let shorter = low.checked_sub(1);
        let longer = (high < by_length.len()).then_some(high);
        let distance = |index: usize| lengths[by_length[index]].abs_diff(first);
        // The nearer neighbour first; where it does not fit, the one on the other side still may.
        let longer_is_nearer = match (shorter, longer) {
            (Some(shorter), Some(longer)) => distance(longer) < distance(shorter),
            (shorter, _) => shorter.is_none(),
        };
        let (nearer, other) = if longer_is_nearer { (longer, shorter) } else { (shorter, longer) };
        let Some((index, joined)) = nearer.and_then(joined).or_else(|| other.and_then(joined)) else { break };
        shape = joined;
        if index < low {
            low = index;
        } else {
            high = index + 1;
        }
    }
    let mut chosen = by_length[low..high].to_vec();
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn equal_lengths_fill_the_batch_oldest_first() {
        assert_eq!(form_batch(&[10; 9], 40, Padding::Computed), [0, 1, 2, 3]);
    }

    #[test]
    fn a_text_over_the_limit_runs_alone() {
        assert_eq!(form_batch(&[600, 5, 600], 512, Padding::LeftOut), [0]);
    }

    #[test]
    fn a_long_text_does_not_pad_short_ones() {
        for padding in [Padding::Computed, Padding::LeftOut] {
            assert_eq!(form_batch(&[10, 400, 11, 10, 10], 512, padding), [0, 2, 3, 4]);
        }
    }

    #[test]
    fn nothing_waiting_makes_no_batch() {
        assert!(form_batch(&[], 512, Padding::Computed).is_empty());
    }

    #[test]
    fn texts_of_other_lengths_join_where_padding_is_left_out() {
        let lengths = [20, 12, 30, 8, 27];
        assert_eq!(form_batch(&lengths, 512, Padding::LeftOut), [0, 1, 2, 3, 4]);
        assert_eq!(form_batch(&lengths, 512, Padding::Computed), [0]);
    }

    proptest! {
        #[test]
        fn every_batch_holds_the_oldest_text_and_keeps_its_limits(
            lengths in prop::collection::vec(1_usize..513, 1..200),
            max_tokens in 1_usize..2048,
            left_out in any::<bool>(),
        ) {
            let padding = if left_out { Padding::LeftOut } else { Padding::Computed };
            let batch = form_batch(&lengths, max_tokens, padding);
            prop_assert_eq!(batch[0], 0);
            prop_assert!(batch.windows(2).all(|pair| pair[0] < pair[1]));
            let longest = batch.iter().map(|index| lengths[*index]).max().unwrap();
            let padded = longest * batch.len();
            let real: usize = batch.iter().map(|index| lengths[*index]).sum();
            prop_assert!(batch.len() == 1 || padded <= max_tokens);
            prop_assert!(left_out || (padded - real) as f64 <= MAX_PADDING_SHARE * padded as f64 + 1e-9);
        }
    }
}

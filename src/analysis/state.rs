//! The emotional state: confusion, conflict, mixture and valence in one word.

use std::fmt;

use serde::Serialize;

use super::Polarity;

/// One word for a text, the most telling thing about it first: confusion, then conflict, then a
/// mixture of feelings, then the valence alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EmotionalState {
    /// Confused, with mixed feelings.
    ConfusedMixed,
    /// Confused.
    Confused,
    /// Setting one thing against another.
    Conflicted,
    /// Mixed feelings, mostly positive.
    MixedPositive,
    /// Mixed feelings, mostly negative.
    MixedNegative,
    /// Mixed feelings that lean neither way.
    MixedNeutral,
    /// Mostly positive.
    Positive,
    /// Mostly negative.
    Negative,
    /// Leaning neither way.
    Neutral,
}

impl EmotionalState {
    pub(super) fn of(has_confusion: bool, has_conflict: bool, is_mixed: bool, overall: Polarity) -> Self {
        match (has_confusion, has_conflict, is_mixed, overall) {
            (true, _, true, _) => Self::ConfusedMixed,
            (true, _, false, _) => Self::Confused,
            (false, true, _, _) => Self::Conflicted,
            (false, false, true, Polarity::Positive) => Self::MixedPositive,
            (false, false, true, Polarity::Negative) => Self::MixedNegative,
            (false, false, true, Polarity::Neutral) => Self::MixedNeutral,
            (false, false, false, Polarity::Positive) => Self::Positive,
            (false, false, false, Polarity::Negative) => Self::Negative,
            (false, false, false, Polarity::Neutral) => Self::Neutral,
        }
    }
}

impl fmt::Display for EmotionalState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confusion_outranks_conflict_which_outranks_mixture_which_outranks_valence() {
        use Polarity::{Negative, Neutral, Positive};
        // Confusion, conflict, mixture, valence.
        let table = [
            (true, true, true, Positive, "confused_mixed"),
            (true, false, true, Neutral, "confused_mixed"),
            (true, true, false, Negative, "confused"),
            (true, false, false, Positive, "confused"),
            (false, true, true, Positive, "conflicted"),
            (false, true, false, Neutral, "conflicted"),
            (false, false, true, Positive, "mixed_positive"),
            (false, false, true, Negative, "mixed_negative"),
            (false, false, true, Neutral, "mixed_neutral"),
            (false, false, false, Positive, "positive"),
            (false, false, false, Negative, "negative"),
            (false, false, false, Neutral, "neutral"),
        ];
        for (has_confusion, has_conflict, is_mixed, overall, expected) in table {
            let state = EmotionalState::of(has_confusion, has_conflict, is_mixed, overall);
            assert_eq!(
                state.to_string(),
                expected,
                "confusion {has_confusion}, conflict {has_conflict}, mixed {is_mixed}, {overall}"
            );
        }
    }
}

//! Valence: how positive, negative and undecided the scores are together.

use std::fmt;

use serde::Serialize;

use super::{Category, ScoredLabel, rounding};

/// A share of valence over this one decides the whole.
const MAJORITY: f64 = 0.5;

/// Which way a text leans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Polarity {
    /// More than half of the valence is positive.
    Positive,
    /// More than half of the valence is negative.
    Negative,
    /// Neither.
    Neutral,
}

/// How the summed scores divide among the three categories: three shares of 1, not rounded,
/// serialized with 3 decimals.
///
/// Labels without a category, `neutral` among them, count nowhere. Where no label with a
/// category scores over 0, the text is wholly neutral.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Valence {
    /// Share of the positive emotions.
    #[serde(serialize_with = "rounding::share")]
    pub positive: f64,
    /// Share of the negative emotions.
    #[serde(serialize_with = "rounding::share")]
    pub negative: f64,
    /// Share of the ambiguous emotions, such as surprise (not the score of the label `neutral`).
    #[serde(serialize_with = "rounding::share")]
    pub neutral: f64,
    /// The side that holds more than half, else neutral.
    pub overall: Polarity,
}

impl Valence {
    /// `ranked` holds every label, highest score first: summing in that order makes the result
    /// independent, to the last bit, of the order in which a model lists its labels.
    pub(super) fn of(ranked: &[ScoredLabel]) -> Self {
        let (mut positive, mut negative, mut ambiguous) = (0.0, 0.0, 0.0);
        for scored in ranked {
            let score = f64::from(scored.score);
            match Category::of(&scored.label) {
                Some(Category::Positive) => positive += score,
                Some(Category::Negative) => negative += score,
                Some(Category::Ambiguous) => ambiguous += score,
                None => {}
            }
        }
        let total = positive + negative + ambiguous;
        if total > 0.0 {
            Self::from_shares(positive / total, negative / total, ambiguous / total)
        } else {
            Self::from_shares(0.0, 0.0, 1.0)
        }
    }

    fn from_shares(positive: f64, negative: f64, neutral: f64) -> Self {
        let overall = if positive > MAJORITY {
            Polarity::Positive
        } else if negative > MAJORITY {
            Polarity::Negative
        } else {
            Polarity::Neutral
        };
        Self { positive, negative, neutral, overall }
    }
}

impl fmt::Display for Polarity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

#[cfg(test)]
mod tests {
    use super::super::scored;
    use super::*;

    #[test]
    fn the_shares_are_the_sums_of_the_categories_over_their_total() {
        let valence = Valence::of(&scored(&[("joy", 0.5), ("love", 0.25), ("anger", 0.125), ("surprise", 0.125)]));
        assert_eq!((valence.positive, valence.negative, valence.neutral), (0.75, 0.125, 0.125));
        assert_eq!(valence.overall, Polarity::Positive);
    }

    #[test]
    fn half_is_not_a_majority_on_either_side() {
        let half = Valence::of(&scored(&[("joy", 0.5), ("anger", 0.5)]));
        assert_eq!((half.positive, half.negative), (0.5, 0.5));
        assert_eq!(half.overall, Polarity::Neutral);

        let over = 0.5_f32.next_up();
        let more_joy = Valence::of(&scored(&[("joy", over), ("anger", 0.5)]));
        assert_eq!(more_joy.overall, Polarity::Positive);
        let more_anger = Valence::of(&scored(&[("anger", over), ("joy", 0.5)]));
        assert_eq!(more_anger.overall, Polarity::Negative);
    }

    #[test]
    fn rounding_to_half_does_not_undo_a_majority() {
        let valence = Valence::of(&scored(&[("joy", 0.5001), ("anger", 0.5)]));
        assert_eq!(
            serde_json::to_string(&valence).unwrap(),
            r#"{"positive":0.5,"negative":0.5,"neutral":0.0,"overall":"positive"}"#
        );
    }

    #[test]
    fn the_label_neutral_counts_nowhere() {
        let valence = Valence::of(&scored(&[("neutral", 0.9), ("joy", 0.01)]));
        assert_eq!(valence.positive, 1.0);
    }

    #[test]
    fn ambiguous_emotions_lean_neither_way() {
        let valence = Valence::of(&scored(&[("surprise", 0.9), ("joy", 0.1)]));
        assert!(valence.neutral > 0.89);
        assert_eq!(valence.overall, Polarity::Neutral);
    }

    #[test]
    fn nothing_in_any_category_is_wholly_neutral() {
        for pairs in [&[][..], &[("neutral", 0.9)], &[("LABEL_0", 0.9)], &[("joy", 0.0), ("anger", 0.0)]] {
            let valence = Valence::of(&scored(pairs));
            assert_eq!((valence.positive, valence.negative, valence.neutral), (0.0, 0.0, 1.0), "{pairs:?}");
            assert_eq!(valence.overall, Polarity::Neutral, "{pairs:?}");
        }
    }
}

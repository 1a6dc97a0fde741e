//! How many feelings a text holds at once, and how they go together.

use std::fmt;

use serde::Serialize;

use super::{Category, ScoredLabel};

/// A second emotion below this is an undertone: the text has one feeling.
const SECOND_COUNTS_FROM: f32 = 0.20;
/// Of two emotions, the second has to be over this to be a layer of its own.
const SECOND_IS_A_LAYER_OVER: f32 = 0.25;

/// How the significant emotions of a text go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MixedType {
    /// One feeling, perhaps with an undertone.
    Single,
    /// A positive and a negative one among the three strongest.
    Conflicted,
    /// Three or more that do not contradict each other.
    Complex,
    /// Two that do not contradict each other.
    Layered,
}

/// How much there is to read in a text, from the number of its significant emotions and the
/// entropy of its scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are the degrees themselves")]
pub enum Complexity {
    Simple,
    Moderate,
    Complex,
    VeryComplex,
}

impl MixedType {
    /// `significant` holds all significant emotions, highest score first, however few of them
    /// the reply lists.
    pub(super) fn of(significant: &[ScoredLabel]) -> Self {
        let [_, second, others @ ..] = significant else {
            return Self::Single;
        };
        if second.score < SECOND_COUNTS_FROM {
            return Self::Single;
        }
        let among_top_three =
            |category| significant.iter().take(3).any(|scored| Category::of(&scored.label) == Some(category));
        if among_top_three(Category::Positive) && among_top_three(Category::Negative) {
            Self::Conflicted
        } else if !others.is_empty() {
            Self::Complex
        } else if second.score > SECOND_IS_A_LAYER_OVER {
            Self::Layered
        } else {
            Self::Single
        }
    }
}

impl Complexity {
    /// No significant emotion is as simple as one.
    pub(super) fn of(significant_count: usize, entropy_nats: f64) -> Self {
        if significant_count <= 1 && entropy_nats < 1.5 {
            Self::Simple
        } else if significant_count <= 2 && entropy_nats < 2.5 {
            Self::Moderate
        } else if entropy_nats < 3.0 {
            Self::Complex
        } else {
            Self::VeryComplex
        }
    }
}

/// -sum(s ln s) over the scores above 0, in nats. The scores of a multi-label model do not sum
/// to 1, so this is a measure of spread and not the entropy of a distribution.
///
/// `ranked` comes highest first, so that the sum does not depend on a model's label order.
pub(super) fn entropy(ranked: &[ScoredLabel]) -> f64 {
    ranked
        .iter()
        .map(|scored| f64::from(scored.score))
        .filter(|&score| score > 0.0)
        .map(|score| -score * score.ln())
        .sum()
}

impl fmt::Display for MixedType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

impl fmt::Display for Complexity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

#[cfg(test)]
mod tests {
    use super::super::scored;
    use super::*;

    /// Significant emotions, what they make, and why.
    type Case<'a> = (&'a [(&'a str, f32)], MixedType, &'a str);

    #[test]
    fn mixed_type_follows_the_number_the_strength_and_the_categories() {
        let under_20 = 0.20_f32.next_down();
        let over_25 = 0.25_f32.next_up();
        let table: [Case; 13] = [
            (&[], MixedType::Single, "nothing significant"),
            (&[("joy", 0.9)], MixedType::Single, "one"),
            (
                &[("joy", 0.6), ("anger", under_20), ("love", 0.15)],
                MixedType::Single,
                "the second below 0.20, whatever follows",
            ),
            (&[("joy", 0.6), ("anger", 0.20)], MixedType::Conflicted, "opposites, the second at 0.20"),
            (&[("anger", 0.6), ("surprise", 0.3), ("joy", 0.11)], MixedType::Conflicted, "the opposite is the third"),
            (
                &[("anger", 0.6), ("fear", 0.3), ("surprise", 0.2), ("joy", 0.2)],
                MixedType::Complex,
                "the opposite is only the fourth",
            ),
            (
                &[("joy", 0.6), ("love", 0.20), ("pride", 0.10)],
                MixedType::Complex,
                "three of one kind, the second at 0.20",
            ),
            (
                &[("joy", 0.6), ("surprise", 0.5), ("neutral", 0.4)],
                MixedType::Complex,
                "ambiguous and neutral contradict nothing",
            ),
            (&[("joy", 0.6), ("love", over_25)], MixedType::Layered, "two, the second over 0.25"),
            (&[("joy", 0.6), ("love", 0.25)], MixedType::Single, "two, the second at 0.25"),
            (&[("joy", 0.6), ("love", 0.20)], MixedType::Single, "two of one kind, the second at 0.20"),
            (&[("neutral", 0.6), ("sadness", 0.3)], MixedType::Layered, "neutral is no opposite of sadness"),
            (&[("LABEL_0", 0.6), ("LABEL_1", 0.3)], MixedType::Layered, "unknown labels contradict nothing"),
        ];
        for (pairs, expected, case) in table {
            assert_eq!(MixedType::of(&scored(pairs)), expected, "{case}");
        }
    }

    #[test]
    fn complexity_changes_at_its_bounds() {
        let table = [
            (0, 0.0, Complexity::Simple),
            (0, 1.5_f64.next_down(), Complexity::Simple),
            (0, 1.5, Complexity::Moderate),
            (1, 1.5_f64.next_down(), Complexity::Simple),
            (1, 1.5, Complexity::Moderate),
            (1, 2.5, Complexity::Complex),
            (2, 0.0, Complexity::Moderate),
            (2, 2.5_f64.next_down(), Complexity::Moderate),
            (2, 2.5, Complexity::Complex),
            (3, 0.0, Complexity::Complex),
            (3, 3.0_f64.next_down(), Complexity::Complex),
            (0, 3.0, Complexity::VeryComplex),
            (2, 3.0, Complexity::VeryComplex),
            (3, 3.0, Complexity::VeryComplex),
        ];
        for (significant_count, entropy_nats, expected) in table {
            assert_eq!(
                Complexity::of(significant_count, entropy_nats),
                expected,
                "{significant_count} significant, entropy {entropy_nats}"
            );
        }
    }

    #[test]
    fn entropy_leaves_out_zeros_and_certainties() {
        assert_eq!(entropy(&[]), 0.0);
        assert_eq!(entropy(&scored(&[("joy", 1.0), ("anger", 0.0)])), 0.0);
        let even = entropy(&scored(&[("joy", 0.25), ("love", 0.25), ("fear", 0.25), ("LABEL_3", 0.25)]));
        assert!((even - 4.0_f64.ln()).abs() < 1e-12, "{even}");
    }

    #[test]
    fn degrees_are_written_in_snake_case() {
        assert_eq!(Complexity::VeryComplex.to_string(), "very_complex");
        assert_eq!(MixedType::Conflicted.to_string(), "conflicted");
    }
}

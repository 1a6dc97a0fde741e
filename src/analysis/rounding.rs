//! How labels and figures are written in a reply: scores with 4 decimals, shares with 3.

use std::sync::Arc;

use serde::Serializer;

use super::ScoredLabel;

/// A score with 4 decimals, as replies write it. For output only: rules decide on the score
/// itself.
pub fn rounded_score(score: f32) -> f64 {
    // In f64, because the f32 next to 0.9832 is written as 0.9832000136375427 in JSON.
    (f64::from(score) * 1e4).round() / 1e4
}

pub(super) fn score<S: Serializer>(score: &f32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(rounded_score(*score))
}

pub(super) fn share<S: Serializer>(share: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((share * 1e3).round() / 1e3)
}

pub(super) fn label<S: Serializer>(label: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(label)
}

/// An object `{label: score}` in the order given.
pub(super) fn score_by_label<S: Serializer>(scored: &[ScoredLabel], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(scored.iter().map(|scored| (&*scored.label, rounded_score(scored.score))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_rounded_to_the_nearest_of_four_decimals() {
        let table =
            [(0.0, "0.0"), (1.0, "1.0"), (0.98324, "0.9832"), (0.98326, "0.9833"), (0.00004, "0.0"), (0.99996, "1.0")];
        for (score, expected) in table {
            assert_eq!(serde_json::to_string(&rounded_score(score)).unwrap(), expected, "{score}");
        }
    }
}

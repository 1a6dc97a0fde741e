//! What a model's scores mean to a person: emotion, valence, mixture and state.
//!
//! Pure: it knows neither HTTP nor models nor the clock. Every rule decides on the scores as the
//! model gave them; figures are rounded only when they are serialized, so that rounding never
//! changes a decision.

mod conflict;
mod mixture;
#[cfg(test)]
mod properties;
mod rounding;
mod state;
mod taxonomy;
mod valence;

use std::sync::Arc;

use serde::Serialize;

pub use mixture::{Complexity, MixedType};
pub use rounding::rounded_score;
pub use state::EmotionalState;
pub use taxonomy::{BasicEmotion, Category};
pub use valence::{Polarity, Valence};

/// Above this score of `confusion` a text counts as confused.
const CONFUSION_BOUND: f32 = 0.15;

/// A label with its score, serialized as `{"label": …, "confidence": …}` with 4 decimals.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct ScoredLabel {
    /// The label as the model spells it.
    #[serde(serialize_with = "rounding::label")]
    #[schema(value_type = String)]
    pub label: Arc<str>,
    /// 0 to 1, not rounded.
    #[serde(rename = "confidence", serialize_with = "rounding::score")]
    #[schema(value_type = f64, minimum = 0, maximum = 1)]
    pub score: f32,
}

/// What a client may choose about an analysis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Least score of a significant emotion, 0 to 1.
    pub threshold: f32,
    /// How many significant emotions are listed at most. It shortens the list only: the rules
    /// that count significant emotions count before the cut.
    pub top_k: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { threshold: 0.10, top_k: 5 }
    }
}

/// The reading of one text. It serializes with the field names of the native API.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Analysis {
    /// Label of the highest score; of equal scores, the one the model lists first.
    #[serde(serialize_with = "rounding::label")]
    #[schema(value_type = String)]
    pub emotion: Arc<str>,
    /// Score of `emotion`, serialized with 4 decimals.
    #[serde(serialize_with = "rounding::score")]
    #[schema(value_type = f64, minimum = 0, maximum = 1)]
    pub confidence: f32,
    /// The Ekman group of `emotion`.
    pub basic_emotion: BasicEmotion,
    /// Every label of the model, highest score first; serialized as an object in that order.
    #[serde(serialize_with = "rounding::score_by_label")]
    #[schema(value_type = std::collections::BTreeMap<String, f64>)]
    pub all_scores: Vec<ScoredLabel>,
    /// Labels whose score reaches the threshold, highest first, at most `top_k`.
    pub significant_emotions: Vec<ScoredLabel>,
    /// Whether `mixed_type` is anything but single.
    pub is_mixed: bool,
    /// How the significant emotions go together.
    pub mixed_type: MixedType,
    /// Two or more significant emotions, and a phrase that sets one thing against another.
    pub has_conflict: bool,
    /// The score of `confusion` is over 0.15; never for a model without that label.
    pub has_confusion: bool,
    /// How many feelings there are and how evenly the scores spread.
    pub complexity: Complexity,
    /// Shares of the positive, negative and ambiguous emotions.
    pub valence: Valence,
    /// One word for all of the above.
    pub emotional_state: EmotionalState,
}

/// Reads the scores of one text: `scores[i]` is the score, 0 to 1, of `labels[i]`.
///
/// Labels outside of GoEmotions count in no category and their basic emotion is neutral. Scores
/// are taken to be finite, which is checked where logits become scores; others give a useless
/// reading but no panic. Without any label the emotion is "neutral" with confidence 0. Where the
/// two slices differ in length, what has no counterpart is left out.
pub fn analyze(text: &str, labels: &[Arc<str>], scores: &[f32], settings: &Settings) -> Analysis {
    let all_scores = ranked(labels, scores);
    let significant_count = all_scores.partition_point(|scored| scored.score >= settings.threshold);
    let significant = &all_scores[..significant_count];

    let mixed_type = MixedType::of(significant);
    let is_mixed = mixed_type != MixedType::Single;
    let has_conflict = significant_count >= 2 && conflict::has_conflict_phrase(text);
    let has_confusion =
        all_scores.iter().any(|scored| taxonomy::is_confusion(&scored.label) && scored.score > CONFUSION_BOUND);
    let complexity = Complexity::of(significant_count, mixture::entropy(&all_scores));
    let valence = Valence::of(&all_scores);
    let emotional_state = EmotionalState::of(has_confusion, has_conflict, is_mixed, valence.overall);

    let (emotion, confidence) = match all_scores.first() {
        Some(top) => (Arc::clone(&top.label), top.score),
        None => (Arc::from("neutral"), 0.0),
    };
    Analysis {
        basic_emotion: BasicEmotion::of(&emotion),
        emotion,
        confidence,
        significant_emotions: significant.iter().take(settings.top_k).cloned().collect(),
        is_mixed,
        mixed_type,
        has_conflict,
        has_confusion,
        complexity,
        valence,
        emotional_state,
        all_scores,
    }
}

/// Labels with their scores, highest first. The sort is stable, so equal scores keep the order
/// of the model's labels.
fn ranked(labels: &[Arc<str>], scores: &[f32]) -> Vec<ScoredLabel> {
    let mut ranked: Vec<ScoredLabel> =
        labels.iter().zip(scores).map(|(label, &score)| ScoredLabel { label: Arc::clone(label), score }).collect();
    ranked.sort_by(|a, b| b.score.total_cmp(&a.score));
    ranked
}

/// Scored labels in the order given, for the tests of the rules.
#[cfg(test)]
fn scored(pairs: &[(&str, f32)]) -> Vec<ScoredLabel> {
    pairs.iter().map(|&(label, score)| ScoredLabel { label: Arc::from(label), score }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn analyze_pairs(text: &str, pairs: &[(&str, f32)], settings: &Settings) -> Analysis {
        let labels: Vec<Arc<str>> = pairs.iter().map(|&(label, _)| Arc::from(label)).collect();
        let scores: Vec<f32> = pairs.iter().map(|&(_, score)| score).collect();
        analyze(text, &labels, &scores, settings)
    }

    fn names(scored: &[ScoredLabel]) -> Vec<&str> {
        scored.iter().map(|scored| &*scored.label).collect()
    }

    #[test]
    fn the_highest_score_names_the_emotion_and_its_ekman_group() {
        let analysis = analyze_pairs(
            "Thank you so much",
            &[("joy", 0.31), ("gratitude", 0.97), ("neutral", 0.02)],
            &Settings::default(),
        );
        assert_eq!(&*analysis.emotion, "gratitude");
        assert_eq!(analysis.confidence, 0.97);
        assert_eq!(analysis.basic_emotion, BasicEmotion::Joy);
        assert_eq!(names(&analysis.all_scores), ["gratitude", "joy", "neutral"]);
        assert_eq!(names(&analysis.significant_emotions), ["gratitude", "joy"]);
    }

    #[test]
    fn equal_scores_rank_in_the_models_label_order() {
        // More than a model has, because even an unstable sort keeps the order of short lists.
        let labels: Vec<Arc<str>> = (0..100).map(|id| Arc::from(format!("LABEL_{id}"))).collect();
        let scores: Vec<f32> = (0..100).map(|id| if id % 2 == 0 { 0.3 } else { 0.4 }).collect();
        let analysis = analyze("", &labels, &scores, &Settings::default());
        let odd_then_even: Vec<&str> =
            (1..100).step_by(2).chain((0..100).step_by(2)).map(|id: usize| &*labels[id]).collect();
        assert_eq!(names(&analysis.all_scores), odd_then_even);
    }

    #[test]
    fn a_score_at_the_threshold_is_significant_and_one_below_it_is_not() {
        let below = 0.10_f32.next_down();
        let analysis = analyze_pairs("", &[("joy", 0.10), ("love", below)], &Settings::default());
        assert_eq!(names(&analysis.significant_emotions), ["joy"]);
    }

    #[test]
    fn top_k_shortens_the_list_and_changes_nothing_else() {
        let pairs = [("joy", 0.6), ("sadness", 0.5), ("love", 0.4), ("fear", 0.3)];
        let text = "I love it but it scares me";
        let full = analyze_pairs(text, &pairs, &Settings::default());
        for top_k in 0..4 {
            let settings = Settings { top_k, ..Settings::default() };
            let cut = analyze_pairs(text, &pairs, &settings);
            assert_eq!(cut.significant_emotions, full.all_scores[..top_k]);
            let restored = Analysis { significant_emotions: full.significant_emotions.clone(), ..cut };
            assert_eq!(restored, full, "top_k {top_k}");
        }
    }

    #[test]
    fn conflict_needs_a_phrase_and_two_significant_emotions() {
        let two = [("joy", 0.6), ("love", 0.10)];
        let one = [("joy", 0.6), ("love", 0.09)];
        let settings = Settings::default();
        assert!(analyze_pairs("Good, but late", &two, &settings).has_conflict);
        assert!(!analyze_pairs("Good, but late", &one, &settings).has_conflict);
        assert!(!analyze_pairs("Good and early", &two, &settings).has_conflict);
        assert!(!analyze_pairs("Good butter", &two, &settings).has_conflict);
    }

    #[test]
    fn confusion_is_over_its_bound_and_not_at_it() {
        let settings = Settings::default();
        let at = analyze_pairs("", &[("confusion", 0.15)], &settings);
        let over = analyze_pairs("", &[("confusion", 0.15_f32.next_up())], &settings);
        assert!(!at.has_confusion);
        assert!(over.has_confusion);
        assert_eq!(over.emotional_state, EmotionalState::Confused);
    }

    #[test]
    fn confusion_counts_below_the_threshold_of_significant_emotions_too() {
        let settings = Settings { threshold: 0.5, ..Settings::default() };
        let analysis = analyze_pairs("", &[("joy", 0.6), ("confusion", 0.2)], &settings);
        assert!(analysis.has_confusion);
        assert_eq!(names(&analysis.significant_emotions), ["joy"]);
    }

    #[test]
    fn a_model_with_seven_basic_emotions_is_never_confused() {
        let analysis = analyze_pairs(
            "What is going on?",
            &[
                ("anger", 0.01),
                ("disgust", 0.01),
                ("fear", 0.05),
                ("joy", 0.02),
                ("neutral", 0.11),
                ("sadness", 0.05),
                ("surprise", 0.75),
            ],
            &Settings::default(),
        );
        assert!(!analysis.has_confusion);
        assert_eq!(analysis.basic_emotion, BasicEmotion::Surprise);
        assert_eq!(analysis.valence.overall, Polarity::Neutral);
        assert_eq!(analysis.emotional_state, EmotionalState::Neutral);
    }

    #[test]
    fn labels_of_an_unknown_model_are_ranked_and_otherwise_neutral() {
        let analysis = analyze_pairs("Fine, but strange", &[("LABEL_0", 0.3), ("LABEL_1", 0.7)], &Settings::default());
        assert_eq!(&*analysis.emotion, "LABEL_1");
        assert_eq!(analysis.basic_emotion, BasicEmotion::Neutral);
        assert_eq!(analysis.mixed_type, MixedType::Layered);
        assert_eq!(analysis.valence.neutral, 1.0);
        assert_eq!(analysis.emotional_state, EmotionalState::Conflicted);
    }

    #[test]
    fn no_labels_at_all_read_as_neutral_without_confidence() {
        let analysis = analyze_pairs("anything", &[], &Settings::default());
        assert_eq!(&*analysis.emotion, "neutral");
        assert_eq!(analysis.confidence, 0.0);
        assert_eq!(analysis.complexity, Complexity::Simple);
        assert_eq!(analysis.emotional_state, EmotionalState::Neutral);
    }

    #[test]
    fn nothing_over_the_threshold_is_simple() {
        // The service before this one called such a text very complex.
        let analysis = analyze_pairs("", &[("joy", 0.05), ("neutral", 0.08)], &Settings::default());
        assert!(analysis.significant_emotions.is_empty());
        assert_eq!(analysis.complexity, Complexity::Simple);
        assert_eq!(analysis.mixed_type, MixedType::Single);
    }

    #[test]
    fn rounding_for_the_reply_does_not_change_what_is_significant() {
        // 0.09996 is written as 0.1 and still lies below the threshold of 0.10.
        let analysis = analyze_pairs("", &[("joy", 0.09996)], &Settings::default());
        assert!(analysis.significant_emotions.is_empty());
        assert_eq!(serde_json::to_value(&analysis).unwrap()["confidence"], 0.1);
    }

    #[test]
    fn it_serializes_as_the_native_api_says() {
        let analysis = analyze_pairs(
            "I am glad it is over, yet I miss it",
            &[("neutral", 0.0123456), ("sadness", 0.412_34), ("relief", 0.654_321), ("confusion", 0.151_51)],
            &Settings::default(),
        );
        let expected = json!({
            "emotion": "relief",
            "confidence": 0.6543,
            "basic_emotion": "joy",
            "all_scores": {
                "relief": 0.6543, "sadness": 0.4123, "confusion": 0.1515, "neutral": 0.0123
            },
            "significant_emotions": [
                {"label": "relief", "confidence": 0.6543},
                {"label": "sadness", "confidence": 0.4123},
                {"label": "confusion", "confidence": 0.1515}
            ],
            "is_mixed": true,
            "mixed_type": "conflicted",
            "has_conflict": true,
            "has_confusion": true,
            "complexity": "complex",
            "valence": {
                "positive": 0.537, "negative": 0.338, "neutral": 0.124, "overall": "positive"
            },
            "emotional_state": "confused_mixed"
        });
        // As text, because the order of `all_scores` is part of the promise.
        assert_eq!(serde_json::to_string(&analysis).unwrap(), expected.to_string());
    }
}

//! What holds for any text, any labels and any scores.

use std::sync::Arc;

use proptest::collection::{hash_set, vec};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;

/// Labels of GoEmotions, labels of nobody, and conflict phrases to make texts of.
const LABELS: [&str; 32] = [
    "admiration",
    "amusement",
    "anger",
    "annoyance",
    "approval",
    "caring",
    "confusion",
    "curiosity",
    "desire",
    "disappointment",
    "disapproval",
    "disgust",
    "embarrassment",
    "excitement",
    "fear",
    "gratitude",
    "grief",
    "joy",
    "love",
    "nervousness",
    "optimism",
    "pride",
    "realization",
    "relief",
    "remorse",
    "sadness",
    "surprise",
    "neutral",
    "LABEL_0",
    "",
    "悲しみ",
    "a label with spaces",
];

fn text() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        3 => select(vec!["but", "BUTTER", "don’t", "know", "on the", "other hand", "🙂", "\0"])
            .prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    vec(word, 0..12).prop_map(|words| words.join(" "))
}

fn label() -> impl Strategy<Value = Arc<str>> {
    prop_oneof![
        9 => select(&LABELS[..]).prop_map(Arc::from),
        1 => any::<String>().prop_map(Arc::from),
    ]
}

/// As models give them: many close to 0, some close to 1, and the bounds of the rules.
fn score() -> impl Strategy<Value = f32> {
    prop_oneof![
        4 => 0.0_f32..=1.0,
        4 => 0.0_f32..=0.05,
        1 => select(vec![0.0, f32::MIN_POSITIVE, 1e-45, 0.10, 0.15, 0.20, 0.25, 0.5, 1.0]),
    ]
}

/// NaN and the infinities too, which `any` leaves out.
fn any_float() -> impl Strategy<Value = f32> {
    prop_oneof![
        3 => proptest::num::f32::ANY,
        1 => select(vec![f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0]),
    ]
}

fn labels_and_scores() -> impl Strategy<Value = (Vec<Arc<str>>, Vec<f32>)> {
    vec((label(), score()), 0..64).prop_map(|pairs| pairs.into_iter().unzip())
}

fn settings() -> impl Strategy<Value = Settings> {
    (score(), 0_usize..70).prop_map(|(threshold, top_k)| Settings { threshold, top_k })
}

/// Different labels with different scores, so that no tie is decided by the label order, and a
/// permutation of them.
type Pairs = Vec<(Arc<str>, f32)>;
fn pairs_and_permutation() -> impl Strategy<Value = (Pairs, Pairs)> {
    (0..=LABELS.len())
        .prop_flat_map(|count| {
            let labels = subsequence(&LABELS[..], count);
            let scores = hash_set(0_u32..=100_000, count);
            (labels, scores)
        })
        .prop_map(|(labels, scores)| -> Pairs {
            let scores = scores.into_iter().map(|step| step as f32 / 100_000.0);
            labels.into_iter().map(Arc::from).zip(scores).collect()
        })
        .prop_flat_map(|pairs| (Just(pairs.clone()), Just(pairs).prop_shuffle()))
}

fn sorted_pairs(pairs: impl Iterator<Item = (Arc<str>, f32)>) -> Vec<(Arc<str>, u32)> {
    let mut pairs: Vec<_> = pairs.map(|(label, score)| (label, score.to_bits())).collect();
    pairs.sort();
    pairs
}

proptest! {
    #[test]
    fn all_scores_are_those_of_the_model_highest_first(
        text in text(), (labels, scores) in labels_and_scores(), settings in settings(),
    ) {
        let analysis = analyze(&text, &labels, &scores, &settings);
        prop_assert!(analysis.all_scores.is_sorted_by(|a, b| a.score >= b.score));
        prop_assert_eq!(
            sorted_pairs(analysis.all_scores.iter().map(|s| (Arc::clone(&s.label), s.score))),
            sorted_pairs(labels.iter().cloned().zip(scores.iter().copied()))
        );
        if let Some(top) = analysis.all_scores.first() {
            prop_assert_eq!(&analysis.emotion, &top.label);
            prop_assert_eq!(analysis.confidence, top.score);
        }
    }

    #[test]
    fn significant_emotions_are_the_first_of_all_scores_over_the_threshold(
        text in text(), (labels, scores) in labels_and_scores(), settings in settings(),
    ) {
        let analysis = analyze(&text, &labels, &scores, &settings);
        let significant = &analysis.significant_emotions;
        let reaching = scores.iter().filter(|&&score| score >= settings.threshold).count();
        prop_assert_eq!(significant.len(), reaching.min(settings.top_k));
        prop_assert_eq!(&significant[..], &analysis.all_scores[..significant.len()]);
    }

    #[test]
    fn the_written_shares_of_valence_sum_to_one(
        text in text(), (labels, scores) in labels_and_scores(), settings in settings(),
    ) {
        let analysis = analyze(&text, &labels, &scores, &settings);
        let written = serde_json::to_value(analysis.valence).unwrap();
        let shares = ["positive", "negative", "neutral"].map(|key| written[key].as_f64().unwrap());
        prop_assert!(shares.iter().all(|share| (0.0..=1.0).contains(share)), "{written}");
        // Three shares, each off by at most half of the last decimal, in steps of that decimal.
        prop_assert!((shares.iter().sum::<f64>() - 1.0).abs() < 0.001 + 1e-9, "{written}");
    }

    #[test]
    fn the_flags_agree_with_what_they_are_made_of(
        text in text(), (labels, scores) in labels_and_scores(), settings in settings(),
    ) {
        let analysis = analyze(&text, &labels, &scores, &settings);
        prop_assert_eq!(analysis.is_mixed, analysis.mixed_type != MixedType::Single);
        let reaching = scores.iter().filter(|&&score| score >= settings.threshold).count();
        prop_assert!(reaching >= 2 || !(analysis.is_mixed || analysis.has_conflict));
        prop_assert!(reaching < 3 || analysis.complexity >= Complexity::Complex);
        let state = analysis.emotional_state;
        prop_assert_eq!(
            analysis.has_confusion,
            matches!(state, EmotionalState::Confused | EmotionalState::ConfusedMixed)
        );
        prop_assert_eq!(
            analysis.has_conflict && !analysis.has_confusion,
            state == EmotionalState::Conflicted
        );
    }

    #[test]
    fn the_order_of_the_models_labels_changes_nothing(
        text in text(), (pairs, permuted) in pairs_and_permutation(), settings in settings(),
    ) {
        let of = |pairs: Pairs| {
            let (labels, scores): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            analyze(&text, &labels, &scores, &settings)
        };
        prop_assert_eq!(of(pairs), of(permuted));
    }

    #[test]
    fn a_higher_threshold_never_finds_more(
        text in text(), (labels, scores) in labels_and_scores(), settings in settings(),
        other_threshold in score(),
    ) {
        let at = |threshold| analyze(&text, &labels, &scores, &Settings { threshold, ..settings });
        let low = at(settings.threshold.min(other_threshold));
        let high = at(settings.threshold.max(other_threshold));
        prop_assert!(low.significant_emotions.starts_with(&high.significant_emotions));
        prop_assert!(low.has_conflict || !high.has_conflict);
        prop_assert!(low.complexity >= high.complexity);
        prop_assert!(low.is_mixed || !high.is_mixed);
        prop_assert_eq!(low.all_scores, high.all_scores);
        prop_assert_eq!(low.valence, high.valence);
    }

    #[test]
    fn figures_no_model_gives_and_missing_scores_do_not_panic(
        text in text(), labels in vec(label(), 0..64), scores in vec(any_float(), 0..64),
        threshold in any_float(), top_k in any::<usize>(),
    ) {
        let analysis = analyze(&text, &labels, &scores, &Settings { threshold, top_k });
        prop_assert_eq!(analysis.all_scores.len(), labels.len().min(scores.len()));
        prop_assert!(serde_json::to_string(&analysis).is_ok());
    }
}

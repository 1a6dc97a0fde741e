//! The emotions of GoEmotions: their category and their Ekman group.

use std::fmt;

use serde::Serialize;

/// What an emotion says about how good things are. `neutral` and unknown labels have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Category {
    /// Such as joy.
    Positive,
    /// Such as anger.
    Negative,
    /// Neither good nor bad by itself, such as surprise.
    Ambiguous,
}

/// The six basic emotions of Ekman, and neutral: what a client can rely on whichever model
/// answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are the emotions themselves")]
pub enum BasicEmotion {
    Anger,
    Disgust,
    Fear,
    Joy,
    Neutral,
    Sadness,
    Surprise,
}

/// The categories and the Ekman groups are those of the authors of GoEmotions (Demszky et al.,
/// 2020, arXiv 2005.00547), but for `desire`, which is ambiguous here and in the group of joy.
const TAXONOMY: [(&str, Option<Category>, BasicEmotion); 28] = {
    use BasicEmotion::{Anger, Disgust, Fear, Joy, Neutral, Sadness, Surprise};
    const POSITIVE: Option<Category> = Some(Category::Positive);
    const NEGATIVE: Option<Category> = Some(Category::Negative);
    const AMBIGUOUS: Option<Category> = Some(Category::Ambiguous);
    [
        ("admiration", POSITIVE, Joy),
        ("amusement", POSITIVE, Joy),
        ("anger", NEGATIVE, Anger),
        ("annoyance", NEGATIVE, Anger),
        ("approval", POSITIVE, Joy),
        ("caring", POSITIVE, Joy),
        ("confusion", AMBIGUOUS, Surprise),
        ("curiosity", AMBIGUOUS, Surprise),
        ("desire", AMBIGUOUS, Joy),
        ("disappointment", NEGATIVE, Sadness),
        ("disapproval", NEGATIVE, Anger),
        ("disgust", NEGATIVE, Disgust),
        ("embarrassment", NEGATIVE, Sadness),
        ("excitement", POSITIVE, Joy),
        ("fear", NEGATIVE, Fear),
        ("gratitude", POSITIVE, Joy),
        ("grief", NEGATIVE, Sadness),
        ("joy", POSITIVE, Joy),
        ("love", POSITIVE, Joy),
        ("nervousness", NEGATIVE, Fear),
        ("optimism", POSITIVE, Joy),
        ("pride", POSITIVE, Joy),
        ("realization", AMBIGUOUS, Surprise),
        ("relief", POSITIVE, Joy),
        ("remorse", NEGATIVE, Sadness),
        ("sadness", NEGATIVE, Sadness),
        ("surprise", AMBIGUOUS, Surprise),
        ("neutral", None, Neutral),
    ]
};

/// Models on the hub spell the same label `joy` or `Joy`: case does not count.
fn entry(label: &str) -> Option<&'static (&'static str, Option<Category>, BasicEmotion)> {
    TAXONOMY.iter().find(|(name, _, _)| name.eq_ignore_ascii_case(label))
}

impl Category {
    /// The category of a label; none for `neutral` and for labels outside of GoEmotions.
    pub fn of(label: &str) -> Option<Self> {
        entry(label).and_then(|&(_, category, _)| category)
    }
}

impl BasicEmotion {
    /// The Ekman group of a label. A label outside of GoEmotions is neutral: to claim no feeling
    /// is the mistake that does the least harm.
    pub fn of(label: &str) -> Self {
        entry(label).map_or(Self::Neutral, |&(_, _, basic)| basic)
    }
}

impl fmt::Display for BasicEmotion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// Whether a label is the one that `has_confusion` looks at.
pub(super) fn is_confusion(label: &str) -> bool {
    label.eq_ignore_ascii_case("confusion")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels_where(keep: impl Fn(Option<Category>, BasicEmotion) -> bool) -> Vec<&'static str> {
        TAXONOMY.iter().filter(|&&(_, category, basic)| keep(category, basic)).map(|&(label, _, _)| label).collect()
    }

    #[test]
    fn the_categories_are_those_of_the_contract() {
        let table = [
            (
                Some(Category::Positive),
                "admiration amusement approval caring excitement gratitude joy love optimism \
                 pride relief",
            ),
            (
                Some(Category::Negative),
                "anger annoyance disappointment disapproval disgust embarrassment fear grief \
                 nervousness remorse sadness",
            ),
            (Some(Category::Ambiguous), "confusion curiosity desire realization surprise"),
            (None, "neutral"),
        ];
        for (category, labels) in table {
            assert_eq!(
                labels_where(|of_label, _| of_label == category),
                labels.split_whitespace().collect::<Vec<_>>(),
                "{category:?}"
            );
        }
    }

    #[test]
    fn the_basic_emotions_are_those_of_the_authors_of_the_data_set() {
        let table = [
            (BasicEmotion::Anger, "anger annoyance disapproval"),
            (BasicEmotion::Disgust, "disgust"),
            (BasicEmotion::Fear, "fear nervousness"),
            (
                BasicEmotion::Joy,
                "admiration amusement approval caring desire excitement gratitude joy love \
                 optimism pride relief",
            ),
            (BasicEmotion::Sadness, "disappointment embarrassment grief remorse sadness"),
            (BasicEmotion::Surprise, "confusion curiosity realization surprise"),
            (BasicEmotion::Neutral, "neutral"),
        ];
        for (basic, labels) in table {
            assert_eq!(
                labels_where(|_, of_label| of_label == basic),
                labels.split_whitespace().collect::<Vec<_>>(),
                "{basic}"
            );
        }
    }

    #[test]
    fn a_basic_emotion_is_its_own_group_and_is_written_as_its_label() {
        for label in ["anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise"] {
            assert_eq!(BasicEmotion::of(label).to_string(), label);
        }
    }

    #[test]
    fn case_does_not_count_in_labels() {
        assert_eq!(Category::of("Joy"), Some(Category::Positive));
        assert_eq!(BasicEmotion::of("SADNESS"), BasicEmotion::Sadness);
        assert!(is_confusion("Confusion"));
    }

    #[test]
    fn unknown_labels_have_no_category_and_are_neutral() {
        for label in ["LABEL_0", "", "joyful", "joy ", "désir"] {
            assert_eq!(Category::of(label), None, "{label:?}");
            assert_eq!(BasicEmotion::of(label), BasicEmotion::Neutral, "{label:?}");
        }
    }
}

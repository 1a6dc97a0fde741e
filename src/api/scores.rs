//! Labels with their scores, as several contracts list them.

use std::sync::Arc;

use serde::ser::{Serialize, Serializer};

use crate::classifier::Answer;
use crate::model::Activation;

/// A label with its score.
#[derive(Debug, Clone, PartialEq, serde::Serialize, utoipa::ToSchema)]
pub(super) struct LabelScore {
    /// The label as the model spells it.
    #[schema(value_type = String)]
    pub label: Arc<str>,
    /// 0 to 1, or a logit where no function was applied.
    pub score: f32,
}

/// Every label of the model, highest score first; equal scores keep the order of the model's labels.
pub(super) fn ranked(answer: &Answer, activation: Activation) -> Vec<LabelScore> {
    let scores = answer.scores_with(activation);
    let labels = answer.labels.iter().zip(scores);
    let mut ranked: Vec<_> = labels.map(|(label, score)| LabelScore { label: Arc::clone(label), score }).collect();
    ranked.sort_by(|a, b| b.score.total_cmp(&a.score));
    ranked
}

/// An object from label to score, in the order of the list.
#[derive(Debug)]
pub(super) struct ScoreByLabel<T>(pub Vec<(Arc<str>, T)>);

impl<T: Serialize> Serialize for ScoreByLabel<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(label, score)| (label, score)))
    }
}

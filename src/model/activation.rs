//! From logits to scores.

use serde::{Deserialize, Serialize};

/// How the logits of one text become scores between 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// `1 / (1 + exp(-x))`, each label on its own: what a multi-label model was trained with.
    Sigmoid,
    /// `exp(x - max) / sum(exp(x - max))`: what a single-label model was trained with.
    Softmax,
    /// The logits as they are.
    None,
}

impl Activation {
    /// Applies the function to the logits of one text, in place.
    pub fn apply(self, logits: &mut [f32]) {
        match self {
            Self::Sigmoid => {
                for x in logits {
                    *x = 1.0 / (1.0 + (-*x).exp());
                }
            }
            Self::Softmax => {
                let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                for x in logits.iter_mut() {
                    *x = (*x - max).exp();
                }
                let sum: f32 = logits.iter().sum();
                for x in logits {
                    *x /= sum;
                }
            }
            Self::None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sigmoid_is_a_half_at_zero_and_stays_finite_at_the_ends() {
        let mut x = [0.0, 200.0, -200.0];
        Activation::Sigmoid.apply(&mut x);
        assert_eq!(x, [0.5, 1.0, 0.0]);
    }

    #[test]
    fn softmax_sums_to_one_even_for_logits_whose_exponential_overflows() {
        let mut x = [1000.0, 999.0, -1000.0];
        Activation::Softmax.apply(&mut x);
        assert!((x.iter().sum::<f32>() - 1.0).abs() < 1e-6, "{x:?}");
        assert!(x[0] > x[1] && x[1] > x[2], "{x:?}");
    }
}

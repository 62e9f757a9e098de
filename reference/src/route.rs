//! Routing: scores from logits; a correction bias that takes part in the choice only; experts in groups, of which the
//! worthiest are kept; top-k among the kept; weights are the unbiased scores, normalised to sum 1 if asked, and scaled.
//!
//! DeepSeek-V3 (arXiv 2412.19437, section 2.1.2): sigmoids, groups by the sum of their two best choices. DeepSeek-V2
//! (arXiv 2405.04434, section 2.1.2): softmax, groups by their best.

/// What the router needs to know.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Router {
    /// Experts.
    pub experts: usize,
    /// Experts per token.
    pub top_k: usize,
    /// Groups the experts fall into, in order.
    pub groups: usize,
    /// Groups kept.
    pub top_groups: usize,
    /// Scores are the softmax of the logits, not the sigmoid of each.
    pub softmax: bool,
    /// A group's worth is its best choice, not the sum of its two best.
    pub group_best: bool,
    /// Divide the weights by their sum.
    pub normalise: bool,
    /// Final factor of the weights.
    pub scaling: f64,
}

/// Routing of one token.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// Experts in the order of falling choice score.
    pub experts: Vec<usize>,
    /// Their weights.
    pub weights: Vec<f64>,
    /// Smallest difference of scores by which a decision (of groups or experts) was made; only
    /// above 1e-5 must an FP32 implementation decide alike.
    pub margin: f64,
}

impl Router {
    /// Routes one token from its logits.
    ///
    /// # Panics
    ///
    /// Where `logits` and `bias` do not have one element per expert.
    #[must_use]
    pub fn choose(&self, logits: &[f64], bias: &[f64]) -> Choice {
        assert_eq!(
            (logits.len(), bias.len()),
            (self.experts, self.experts),
            "one per expert"
        );
        let scores = if self.softmax {
            softmax(logits)
        } else {
            logits.iter().map(|l| 1.0 / (1.0 + (-l).exp())).collect()
        };
        let mut choice: Vec<f64> = scores.iter().zip(bias).map(|(s, b)| s + b).collect();
        let mut margin = f64::INFINITY;
        if self.groups > 1 {
            let size = self.experts / self.groups;
            let judged = if self.group_best { 1 } else { 2 };
            let worth = choice.chunks(size).map(|group| best(group, judged));
            let worth: Vec<f64> = worth.collect();
            let kept = largest(&worth, self.top_groups, &mut margin);
            for (expert, score) in choice.iter_mut().enumerate() {
                if !kept.contains(&(expert / size)) {
                    *score = f64::NEG_INFINITY;
                }
            }
        }
        let experts = largest(&choice, self.top_k, &mut margin);
        let mut weights: Vec<f64> = experts.iter().map(|&e| scores[e]).collect();
        if self.normalise {
            let sum: f64 = weights.iter().sum::<f64>() + 1e-20;
            weights.iter_mut().for_each(|w| *w /= sum);
        }
        weights.iter_mut().for_each(|w| *w *= self.scaling);
        Choice {
            experts,
            weights,
            margin,
        }
    }
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exponentials: Vec<f64> = logits.iter().map(|l| (l - most).exp()).collect();
    let sum: f64 = exponentials.iter().sum();
    exponentials.iter().map(|e| e / sum).collect()
}

/// Sum of the `count` largest.
fn best(group: &[f64], count: usize) -> f64 {
    let mut sorted = group.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    sorted.iter().take(count).sum()
}

/// Indices of the `count` largest values, falling, ties to the lower index.
fn largest(values: &[f64], count: usize, margin: &mut f64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]).then(a.cmp(&b)));
    if let (Some(&last), Some(&next)) = (order.get(count.wrapping_sub(1)), order.get(count)) {
        *margin = margin.min(values[last] - values[next]);
    }
    order.truncate(count);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTER: Router = Router {
        experts: 8,
        top_k: 2,
        groups: 4,
        top_groups: 2,
        softmax: false,
        group_best: false,
        normalise: true,
        scaling: 2.5,
    };

    #[test]
    fn groups_limit_the_choice_and_the_bias_stays_out_of_the_weights() {
        // Groups (0,1) (2,3) (4,5) (6,7). Expert 6 is the single best, but its group is poor.
        let logits = [1.0, 1.0, 0.9, 1.05, -5.0, -5.0, 1.1, -9.0];
        let choice = ROUTER.choose(&logits, &[0.0; 8]);
        assert_eq!(choice.experts, [3, 0]);
        let biased = ROUTER.choose(&logits, &[0.0, 0.0, 0.0, 0.0, 5.0, 5.0, 0.0, 0.0]);
        assert_eq!(biased.experts, [4, 5]);
        assert!((biased.weights.iter().sum::<f64>() - 2.5).abs() < 1e-12);
        assert!((biased.weights[0] - 1.25).abs() < 1e-12);
    }

    #[test]
    fn softmax_weights_are_shares_and_a_group_may_be_judged_by_its_best() {
        let router = Router {
            softmax: true,
            group_best: true,
            top_groups: 1,
            normalise: false,
            scaling: 1.0,
            ..ROUTER
        };
        // The last group has the best expert, the first one the two best together.
        let logits = [2.0, 2.0, 0.0, 0.0, 0.0, 0.0, 2.5, f64::NEG_INFINITY];
        let choice = router.choose(&logits, &[0.0; 8]);
        assert_eq!(choice.experts, [6, 7]);
        let sum = 2.5f64.exp() + 2.0 * 2.0f64.exp() + 4.0;
        assert!((choice.weights[0] - 2.5f64.exp() / sum).abs() < 1e-12);
        assert_eq!(choice.weights[1], 0.0);
        let two = Router {
            group_best: false,
            ..router
        };
        assert_eq!(two.choose(&logits, &[0.0; 8]).experts, [0, 1]);
    }

    #[test]
    fn ties_go_to_the_lower_index_with_margin_zero() {
        let choice = ROUTER.choose(&[0.5; 8], &[0.0; 8]);
        assert_eq!(
            (choice.experts.as_slice(), choice.margin),
            ([0usize, 1].as_slice(), 0.0)
        );
    }
}

//! Combine: the weighted sum of a token's expert outputs, in top-k order, and the addition of the
//! shared experts' output.

use crate::compare::Bounded;

/// `Σ_k weights[k]·rows[k][column]` (+ `shared[column]`) for every column, as FP32 fused
/// multiply-adds in that order compute it: each of the `n` additions rounds its result by at most
/// 2^-24 of a partial sum, which never exceeds the sum of magnitudes.
#[must_use]
pub fn combine(weights: &[f32], rows: &[&[f64]], shared: Option<&[f64]>) -> Vec<Bounded> {
    let columns = shared.map_or_else(|| rows.first().map_or(0, |r| r.len()), <[f64]>::len);
    let additions = rows.len() + usize::from(shared.is_some());
    (0..columns)
        .map(|column| {
            let terms = weights
                .iter()
                .zip(rows)
                .map(|(&w, row)| f64::from(w) * row[column]);
            let terms = terms.chain(shared.map(|s| s[column]));
            let (value, magnitude) = terms.fold((0.0, 0.0), |(v, m), t: f64| (v + t, m + t.abs()));
            #[expect(clippy::cast_precision_loss, reason = "at most 17 additions")]
            let roundings = (additions + 1) as f64;
            Bounded {
                value,
                bound: roundings * 2f64.powi(-24) * magnitude,
            }
        })
        .collect()
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small test values")]
mod tests {
    use super::*;

    #[test]
    fn sums_in_order_and_covers_fp32_evaluation() {
        let rows: [&[f64]; 3] = [&[1.0, 1e8], &[3.0, 1.0], &[-2.0, -1e8]];
        let weights = [0.5f32, 0.25, 0.125];
        let got = combine(&weights, &rows, Some(&[10.0, 0.0]));
        assert_eq!(got[0].value, 11.0);
        for (column, expected) in got.iter().enumerate() {
            let mut acc = 0f32;
            for (w, row) in weights.iter().zip(rows) {
                acc = w.mul_add(row[column] as f32, acc);
            }
            acc += [10.0, 0.0][column];
            assert!((f64::from(acc) - expected.value).abs() <= expected.bound);
        }
    }

    #[test]
    fn a_token_without_experts_is_its_shared_row() {
        let got = combine(&[], &[], Some(&[3.0]));
        assert_eq!(got[0].value, 3.0);
        assert!(combine(&[], &[], None).is_empty());
    }
}

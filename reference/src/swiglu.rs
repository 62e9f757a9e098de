//! SwiGLU: `silu(gate) · up` with `silu(x) = x / (1 + e^-x)`.

/// One value.
#[must_use]
pub fn swiglu(gate: f64, up: f64) -> f64 {
    gate / (1.0 + (-gate).exp()) * up
}

/// A row of `2·n` values, gate first, to `n` values.
#[must_use]
pub fn swiglu_row(gate_up: &[f64]) -> Vec<f64> {
    let (gate, up) = gate_up.split_at(gate_up.len() / 2);
    gate.iter().zip(up).map(|(&g, &u)| swiglu(g, u)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values_and_no_nan_at_the_ends() {
        assert_eq!(swiglu(0.0, 5.0), 0.0);
        assert!((swiglu(1.0, 2.0) - 2.0 * 0.731_058_578_630_004_9).abs() < 1e-12);
        assert_eq!(swiglu(-1e4, 1.0), 0.0);
        assert_eq!(swiglu(1e4, 1.0), 1e4);
        assert_eq!(swiglu_row(&[0.0, 1e4, 7.0, 2.0]), [0.0, 2e4]);
    }
}

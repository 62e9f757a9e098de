//! SwiGLU: `silu(gate) · up` with `silu(x) = x / (1 + e^-x)`, after gate was limited to at most `limit` and up to
//! within `±limit`; an infinite limit changes nothing.

/// One value.
#[must_use]
pub fn swiglu(gate: f64, up: f64, limit: f64) -> f64 {
    let gate = if gate > limit { limit } else { gate };
    let up = if up.abs() > limit {
        limit.copysign(up)
    } else {
        up
    };
    gate / (1.0 + (-gate).exp()) * up
}

/// A row of `2·n` values, gate first, to `n` values.
#[must_use]
pub fn swiglu_row(gate_up: &[f64], limit: f64) -> Vec<f64> {
    let (gate, up) = gate_up.split_at(gate_up.len() / 2);
    gate.iter()
        .zip(up)
        .map(|(&g, &u)| swiglu(g, u, limit))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: f64 = f64::INFINITY;

    #[test]
    fn known_values_and_no_nan_at_the_ends() {
        assert_eq!(swiglu(0.0, 5.0, NONE), 0.0);
        assert!((swiglu(1.0, 2.0, NONE) - 2.0 * 0.731_058_578_630_004_9).abs() < 1e-12);
        assert_eq!(swiglu(-1e4, 1.0, NONE), 0.0);
        assert_eq!(swiglu(1e4, 1.0, NONE), 1e4);
        assert_eq!(swiglu_row(&[0.0, 1e4, 7.0, 2.0], NONE), [0.0, 2e4]);
    }

    #[test]
    fn the_limit_bounds_gate_above_and_up_on_both_sides() {
        assert_eq!(swiglu(1e4, 1.0, 7.0), swiglu(7.0, 1.0, NONE));
        assert_eq!(swiglu(-9.0, 1.0, 7.0), swiglu(-9.0, 1.0, NONE));
        assert_eq!(swiglu(1.0, -1e4, 7.0), swiglu(1.0, -7.0, NONE));
        assert_eq!(swiglu(1.0, 1e4, 7.0), swiglu(1.0, 7.0, NONE));
        assert!(swiglu(f64::NAN, 1.0, 7.0).is_nan() && swiglu(1.0, f64::NAN, 7.0).is_nan());
    }
}

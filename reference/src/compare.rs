//! Whole-output comparison: every element against its own bound, the first mismatch by coordinate.

use std::fmt;

/// A value and how far a correct implementation may be from it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounded {
    /// Exact value (f64).
    pub value: f64,
    /// Largest admissible absolute difference.
    pub bound: f64,
}

/// What comparing one stage found.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Comparison {
    /// Elements compared.
    pub elements: usize,
    /// Largest |difference| / bound. Above 1 the stage is wrong.
    pub err_over_bound: f64,
    /// Widest bound over the largest |value| of the stage: how much the bound could hide.
    pub bound_over_out: f64,
    /// First element outside its bound.
    pub first_mismatch: Option<Mismatch>,
}

/// An element outside its bound.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mismatch {
    /// Row.
    pub row: usize,
    /// Column.
    pub column: usize,
    /// Value of the device.
    pub got: f64,
    /// Expected value and bound.
    pub expected: Bounded,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            row,
            column,
            got,
            expected: Bounded { value, bound },
        } = self;
        write!(
            f,
            "[{row}, {column}]: got {got:e}, expected {value:e} ± {bound:e}"
        )
    }
}

impl Comparison {
    /// Compares a row-major matrix with `columns` columns. A NaN where a number is expected, and a
    /// number where a NaN is expected, are mismatches.
    ///
    /// A length that differs from the expectation's counts as a mismatch at the first missing
    /// element.
    #[must_use]
    pub fn of(expected: &[Bounded], got: impl IntoIterator<Item = f64>, columns: usize) -> Self {
        let mut result = Self::default();
        let (mut widest, mut largest) = (0f64, 0f64);
        let mut got = got.into_iter();
        for (index, &want) in expected.iter().enumerate() {
            let value = got.next().unwrap_or(f64::NAN);
            let ratio = ratio(value, want);
            result.elements += 1;
            result.err_over_bound = result.err_over_bound.max(ratio);
            if want.value.is_finite() {
                widest = widest.max(want.bound);
                largest = largest.max(want.value.abs());
            }
            if ratio > 1.0 && result.first_mismatch.is_none() {
                let (row, column) = (index / columns, index % columns);
                result.first_mismatch = Some(Mismatch {
                    row,
                    column,
                    got: value,
                    expected: want,
                });
            }
        }
        result.bound_over_out = if widest == 0.0 { 0.0 } else { widest / largest };
        result
    }

    /// The worse of two comparisons.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        Self {
            elements: self.elements + other.elements,
            err_over_bound: self.err_over_bound.max(other.err_over_bound),
            bound_over_out: self.bound_over_out.max(other.bound_over_out),
            first_mismatch: self.first_mismatch.or(other.first_mismatch),
        }
    }
}

fn ratio(got: f64, want: Bounded) -> f64 {
    if want.value.is_nan() {
        return if got.is_nan() { 0.0 } else { f64::INFINITY };
    }
    let difference = (got - want.value).abs();
    if difference.is_nan() {
        f64::INFINITY
    } else if difference == 0.0 {
        0.0
    } else {
        difference / want.bound
    }
}

/// `‖got − expected‖₂ / ‖expected‖₂`; 0 for two empty slices.
#[must_use]
pub fn relative_l2(got: &[f32], expected: &[f32]) -> f64 {
    let (mut difference, mut norm) = (0f64, 0f64);
    for (&g, &e) in got.iter().zip(expected) {
        difference += (f64::from(g) - f64::from(e)).powi(2);
        norm += f64::from(e).powi(2);
    }
    if difference == 0.0 {
        0.0
    } else {
        (difference / norm).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANT: [Bounded; 4] = [
        Bounded {
            value: 1.0,
            bound: 0.1,
        },
        Bounded {
            value: -2.0,
            bound: 0.1,
        },
        Bounded {
            value: 0.0,
            bound: 0.0,
        },
        Bounded {
            value: 4.0,
            bound: 0.2,
        },
    ];

    #[test]
    fn names_the_first_element_outside_its_bound() {
        let result = Comparison::of(&WANT, [1.05, -2.0, 0.0, 4.3], 2);
        let first = result.first_mismatch.expect("4.3 is outside");
        assert_eq!((first.row, first.column), (1, 1));
        assert!((result.bound_over_out - 0.05).abs() < 1e-12);
    }

    #[test]
    fn nan_missing_elements_and_zero_bounds_are_not_forgiven() {
        for got in [
            vec![1.0, f64::NAN, 0.0, 4.0],
            vec![1.0, -2.0, 1e-30, 4.0],
            vec![1.0, -2.0],
        ] {
            assert!(Comparison::of(&WANT, got, 2).first_mismatch.is_some());
        }
        let result = Comparison::of(&WANT, [1.0, -2.0, 0.0, 4.0], 2);
        assert_eq!((result.first_mismatch, result.err_over_bound), (None, 0.0));
    }
}

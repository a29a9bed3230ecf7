//! What several runs say.

use bascule_lab::Samples;

/// One-sided 95 % quantiles of Student's t for 1.. degrees of freedom (any table; e.g. NIST e-Handbook 1.3.6.7.2).
const T95: [f64; 30] = [
    6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812, 1.796, 1.782, 1.771, 1.761, 1.753, 1.746,
    1.740, 1.734, 1.729, 1.725, 1.721, 1.717, 1.714, 1.711, 1.708, 1.706, 1.703, 1.701, 1.699, 1.697,
];

/// Mean of `values`, and how far below and above it its one-sided 95 % bounds lie; None from fewer than two values.
pub fn mean95(values: &[f64]) -> Option<(f64, f64)> {
    let count = u32::try_from(values.len()).ok().filter(|count| *count >= 2)?;
    let n = f64::from(count);
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let t = T95.get(values.len() - 2).copied().unwrap_or(T95[T95.len() - 1]);
    Some((mean, t * (variance / n).sqrt()))
}

/// How many times the samples of `theirs` those of `ours` are, each over the one that was taken beside it (at the same index).
pub fn over(ours: &Samples, theirs: &Samples) -> Samples {
    Samples(ours.0.iter().zip(&theirs.0).map(|(a, b)| a / b).collect())
}

/// The smallest value.
pub fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

#[cfg(test)]
mod tests {
    use bascule_lab::Samples;

    use super::{least, mean95, over};

    #[test]
    fn the_bounds_lie_beside_the_mean_by_the_spread() {
        assert_eq!(mean95(&[1.0]), None);
        assert_eq!(mean95(&[2.0, 2.0, 2.0]), Some((2.0, 0.0)));
        // Ten values 1..=10: mean 5.5, s = 3.0277, s / sqrt(10) = 0.95743, t = 1.833.
        let ten: Vec<f64> = (1..=10).map(f64::from).collect();
        let (mean, margin) = mean95(&ten).unwrap();
        assert!((mean - 5.5).abs() < 1e-9 && (margin - 1.755).abs() < 1e-3, "{margin}");
        assert_eq!(least(&ten), 1.0);
    }

    #[test]
    fn what_met_both_of_a_turn_is_not_in_their_ratio() {
        let (ours, theirs) = (Samples(vec![20.0, 10.0, 30.0, 8.0]), Samples(vec![10.0, 5.0, 15.0]));
        assert_eq!(over(&ours, &theirs).0, [2.0, 2.0, 2.0]);
    }
}

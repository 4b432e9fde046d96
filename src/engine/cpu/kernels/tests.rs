//! Every path this processor has, the portable one among them, against sums in f64.

use half::bf16;
use proptest::prelude::*;

use super::panel::PANEL_COLUMNS;
use super::*;

/// Deterministic numbers in [-1, 1] that bf16 holds exactly.
fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        f32::from((state >> 40) as i16 >> 8) / 128.0
    };
    std::iter::repeat_with(next).take(len).collect()
}

fn to_bf16(values: &[f32]) -> Vec<bf16> {
    values.iter().copied().map(bf16::from_f32).collect()
}

/// A sum of n products of magnitudes up to 1 in any order: each addition rounds once.
fn tolerance(n: usize) -> f64 {
    (n as f64).sqrt() * 4.0 * f64::from(f32::EPSILON) * (n as f64).sqrt().max(1.0)
}

/// The same product by way of packed panels.
///
/// # Safety
/// `p` must describe memory that is there.
unsafe fn panel_product(path: &Kernels, p: &Product) {
    let mut panel = vec![f32::NAN; p.k.next_multiple_of(2) * PANEL_COLUMNS];
    for first in (0..p.columns).step_by(PANEL_COLUMNS) {
        let columns = (p.columns - first).min(PANEL_COLUMNS);
        // In two parts, as two members would.
        let middle = p.k / 4 * 2;
        for (start, end) in [(0, middle), (middle, p.k)] {
            // SAFETY: passed on to the caller.
            unsafe {
                (path.pack)(&Packing {
                    x: p.x.add(first * p.x_stride),
                    x_stride: p.x_stride,
                    columns,
                    first: start,
                    end,
                    panel: panel.as_mut_ptr(),
                });
            }
        }
        // SAFETY: passed on to the caller.
        unsafe {
            (path.panel_product)(&PanelProduct {
                matrix: p.matrix,
                rows: p.rows,
                k: p.k,
                x: panel.as_ptr(),
                columns,
                out: p.out.add(first * p.out_stride),
                out_stride: p.out_stride,
                accumulate: p.accumulate,
            });
        }
    }
}

fn check_product(rows: usize, k: usize, columns: usize, accumulate: bool, seed: u64) {
    let matrix = numbers(rows * k, seed);
    let matrix_bf16 = to_bf16(&matrix);
    let gap = 3;
    let x = numbers(columns * (k + gap), seed + 1);
    let before = numbers(columns * (rows + gap), seed + 2);
    for path in available() {
        let mut paired = x.clone();
        for column in 0..columns {
            let at = column * (k + gap);
            // SAFETY: both vectors hold k numbers from there on.
            unsafe { (path.pair)(x[at..].as_ptr(), paired[at..].as_mut_ptr(), k) };
        }
        for form in ["stream", "cached", "panel"] {
            let mut out = before.clone();
            let product = Product {
                matrix: matrix_bf16.as_ptr(),
                rows,
                k,
                x: if form == "stream" {
                    paired.as_ptr()
                } else {
                    x.as_ptr()
                },
                x_stride: k + gap,
                columns,
                out: out.as_mut_ptr(),
                out_stride: rows + gap,
                accumulate,
                next: matrix_bf16.as_ptr(),
            };
            // SAFETY: the sizes above are those of the vectors.
            unsafe {
                match form {
                    "stream" => (path.stream)(&product),
                    "cached" => (path.cached)(&product),
                    _ => panel_product(&path, &product),
                }
            }
            for (column, (out, before)) in out
                .chunks(rows + gap)
                .zip(before.chunks(rows + gap))
                .enumerate()
            {
                for row in 0..rows {
                    let exact: f64 = (0..k)
                        .map(|i| {
                            f64::from(matrix[row * k + i]) * f64::from(x[column * (k + gap) + i])
                        })
                        .sum();
                    let exact = exact
                        + if accumulate {
                            f64::from(before[row])
                        } else {
                            0.0
                        };
                    assert!(
                        (f64::from(out[row]) - exact).abs() <= tolerance(k + 1),
                        "{} {form}: [{rows}, {k}] x {columns}, row {row} of column {column}: \
                         {} instead of {exact}",
                        path.name,
                        out[row]
                    );
                }
                assert_eq!(
                    out[rows..],
                    before[rows..],
                    "{}: between columns",
                    path.name
                );
            }
        }
    }
}

#[test]
fn products_of_the_shapes_of_models_are_exact_to_rounding() {
    for (rows, k) in [(7, 1024), (3, 3072), (50, 896), (49, 128), (1, 64)] {
        for columns in [1, 2, 8, 9, 33, 70] {
            check_product(rows, k, columns, false, (rows * k + columns) as u64);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn products_of_odd_shapes_are_exact_to_rounding(
        rows in 1_usize..60, k in 1_usize..300, columns in 1_usize..20,
        accumulate: bool, seed in 0_u64..1000,
    ) {
        check_product(rows, k, columns, accumulate, seed);
    }

    #[test]
    fn row_sums_are_exact_to_rounding(
        rows in 0_usize..70, width in 1_usize..150, columns in 1_usize..18, seed in 0_u64..1000,
    ) {
        let matrix = numbers(rows * width, seed);
        let matrix_bf16 = to_bf16(&matrix);
        let stride = rows + 2;
        let weights = numbers(columns * stride, seed + 1);
        let before = numbers(columns * width, seed + 2);
        for path in available() {
            let mut out = before.clone();
            let row_sum = RowSum {
                matrix: matrix_bf16.as_ptr(),
                rows,
                width,
                weights: weights.as_ptr(),
                weights_stride: stride,
                columns,
                out: out.as_mut_ptr(),
            };
            // SAFETY: the sizes above are those of the vectors.
            unsafe { (path.row_sum)(&row_sum) };
            for column in 0..columns {
                for d in 0..width {
                    let exact: f64 = (0..rows)
                        .map(|row| {
                            f64::from(weights[column * stride + row])
                                * f64::from(matrix[row * width + d])
                        })
                        .sum::<f64>()
                        + f64::from(before[column * width + d]);
                    let found = f64::from(out[column * width + d]);
                    prop_assert!(
                        (found - exact).abs() <= tolerance(rows + 1),
                        "{}: {found} instead of {exact}", path.name
                    );
                }
            }
        }
    }

    #[test]
    fn elementwise_kernels_are_exact_to_rounding(len in 1_usize..300, seed in 0_u64..1000) {
        let x: Vec<f32> = numbers(len, seed).iter().map(|x| x * 30.0).collect();
        let y = numbers(len, seed + 1);
        for path in available() {
            let mut scaled = vec![0.0; len];
            let mut gated = x.clone();
            let mut exponentials = x.clone();
            // SAFETY: every vector has len numbers.
            let (squares, (max, sum)) = unsafe {
                (path.scale_by)(x.as_ptr(), 0.37, y.as_ptr(), scaled.as_mut_ptr(), len);
                (path.silu_mul)(gated.as_mut_ptr(), y.as_ptr(), len);
                (
                    (path.sum_of_squares)(x.as_ptr(), len),
                    (path.exp_and_sum)(exponentials.as_mut_ptr(), len, 0.5),
                )
            };
            let close = |found: f32, exact: f64, relative: f64| {
                (f64::from(found) - exact).abs() <= relative * exact.abs() + 1e-37
            };
            let exact: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
            prop_assert!(close(squares, exact, 1e-5), "{} {squares} {exact}", path.name);
            let exact_max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max) * 0.5;
            prop_assert_eq!(max, exact_max);
            let mut exact_sum = 0.0;
            for i in 0..len {
                let (x, y) = (f64::from(x[i]), f64::from(y[i]));
                prop_assert!(close(scaled[i], x * f64::from(0.37_f32) * y, 3e-7));
                // Two roundings beside those of the exponential, which is good to 2 ulp.
                prop_assert!(
                    close(gated[i], x / (1.0 + (-x).exp()) * y, 8e-7),
                    "{}: silu({x}) * {y} = {}", path.name, gated[i]
                );
                let exact = (x * 0.5 - f64::from(max)).exp();
                exact_sum += exact;
                prop_assert!(
                    close(exponentials[i], exact, 4e-7),
                    "{}: exp {} instead of {exact}", path.name, exponentials[i]
                );
            }
            prop_assert!(close(sum, exact_sum, 1e-5), "{} {sum} {exact_sum}", path.name);
        }
    }
}

#[test]
fn exponentials_far_below_the_maximum_vanish() {
    for path in available() {
        let mut x = [0.0, -80.0, -200.0, -1e30];
        // SAFETY: four numbers.
        let (max, sum) = unsafe { (path.exp_and_sum)(x.as_mut_ptr(), 4, 1.0) };
        assert_eq!((max, sum), (0.0, 1.0), "{}", path.name);
        assert_eq!(x[0], 1.0);
        assert!(x[1..].iter().all(|&x| x < 2e-35), "{}: {x:?}", path.name);
    }
}

#[test]
fn unknown_kernels_are_refused_with_the_known_ones() {
    let message = choose(Some("avx9000")).unwrap_err().to_string();
    assert!(
        message.contains("avx9000") && message.contains("portable"),
        "{message}"
    );
    assert_eq!(choose(Some("portable")).unwrap().name, "portable");
    assert_eq!(choose(None).unwrap().name, available()[0].name);
}

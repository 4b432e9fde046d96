//! Numbers as charts write them: `4,096`, `0.25`, `1.2×10⁻⁵`.

/// Numbers from here on, and steps below the second, are written with powers of ten.
const LARGE: f64 = 1e7;
const SMALL: f64 = 1e-4;

/// `value` with so many decimals, its thousands apart.
pub fn fixed(value: f64, decimals: usize) -> String {
    let plain = format!("{:.decimals$}", value.abs());
    let (whole, fraction) = match plain.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (plain.as_str(), None),
    };
    let mut text = String::new();
    // What rounds to zero has no sign.
    if value < 0.0 && plain.chars().any(|digit| ('1'..='9').contains(&digit)) {
        text.push('\u{2212}');
    }
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    if let Some(fraction) = fraction {
        text.push('.');
        text.push_str(fraction);
    }
    text
}

/// `value` with so many significant digits, those behind the point that are zero left out of powers
/// of ten only.
pub fn significant(value: f64, digits: usize) -> String {
    if value == 0.0 || !value.is_finite() {
        return fixed(value, 0);
    }
    // By way of its decimal form, which says to which power it rounds.
    let power = power_of(value, digits);
    if value.abs() >= LARGE || value.abs() < SMALL {
        return powered(value, digits - 1);
    }
    fixed(
        value,
        usize::try_from(digits as i32 - 1 - power).unwrap_or(0),
    )
}

/// The numbers of an axis whose ticks are `step` apart, all written alike.
pub fn ticks(values: &[f64], step: f64) -> Vec<String> {
    let largest = values.iter().fold(0.0, |max: f64, v| max.max(v.abs()));
    if step < SMALL || largest >= LARGE {
        // As many digits as tell two neighbours apart.
        let digits = (largest.log10().floor() - step.log10().floor()).max(0.0) as usize;
        return values.iter().map(|&value| powered(value, digits)).collect();
    }
    let decimals = (-step.log10() - 1e-9).ceil().max(0.0) as usize;
    values.iter().map(|&value| fixed(value, decimals)).collect()
}

/// A number of a logarithmic axis: 1, 2 or 5 times a power of ten, or a power of two.
pub fn round(value: f64) -> String {
    const DECIMALS: usize = 6;
    let exact = |decimals: &usize| {
        let written: f64 = format!("{value:.decimals$}").parse().unwrap_or(f64::NAN);
        (written - value).abs() <= 1e-9 * value
    };
    if !(1e-3..LARGE).contains(&value) {
        return powered(value, 2);
    }
    match (0..=DECIMALS).find(exact) {
        Some(decimals) => fixed(value, decimals),
        None => powered(value, 2),
    }
}

/// The power of ten that the first of so many digits stands for.
fn power_of(value: f64, digits: usize) -> i32 {
    let text = format!("{:.*e}", digits.saturating_sub(1), value.abs());
    let exponent = text.split_once('e').map(|(_, exponent)| exponent);
    exponent.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// `1.2×10⁻⁵`, with at most so many decimals.
fn powered(value: f64, decimals: usize) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let text = format!("{value:.decimals$e}");
    let (digits, exponent) = text.split_once('e').expect("the format has an exponent");
    let digits = match digits.contains('.') {
        true => digits.trim_end_matches('0').trim_end_matches('.'),
        false => digits,
    };
    let ten = format!("10{}", raised(exponent));
    match digits {
        "1" => ten,
        "-1" => format!("\u{2212}{ten}"),
        digits => format!("{}\u{d7}{ten}", digits.replace('-', "\u{2212}")),
    }
}

fn raised(exponent: &str) -> String {
    let small = |digit| match digit {
        '-' => '\u{207b}',
        '0' => '\u{2070}',
        '1' => '\u{b9}',
        '2' => '\u{b2}',
        '3' => '\u{b3}',
        '4' => '\u{2074}',
        '5' => '\u{2075}',
        '6' => '\u{2076}',
        '7' => '\u{2077}',
        '8' => '\u{2078}',
        '9' => '\u{2079}',
        other => other,
    };
    exponent.chars().map(small).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_stand_apart() {
        assert_eq!(fixed(4096.0, 0), "4,096");
        assert_eq!(fixed(-1_234_567.25, 1), "\u{2212}1,234,567.2");
        assert_eq!(fixed(999.0, 2), "999.00");
        assert_eq!(fixed(-0.001, 2), "0.00");
    }

    #[test]
    fn significant_digits_are_kept_at_any_size() {
        for (value, expected) in [
            (0.0, "0"),
            (27.676, "27.7"),
            (99.96, "100"),
            (0.012345, "0.0123"),
            (1234.5, "1,234"),
            (8.39e-6, "8.39\u{d7}10\u{207b}\u{2076}"),
            (3.49e10, "3.49\u{d7}10\u{b9}\u{2070}"),
        ] {
            assert_eq!(significant(value, 3), expected, "{value}");
        }
    }

    #[test]
    fn ticks_of_an_axis_are_written_alike() {
        assert_eq!(ticks(&[0.0, 0.05, 0.1], 0.05), ["0.00", "0.05", "0.10"]);
        assert_eq!(ticks(&[0.0, 20.0], 20.0), ["0", "20"]);
        assert_eq!(
            ticks(&[0.0, 5e-6, 1e-5], 5e-6),
            ["0", "5\u{d7}10\u{207b}\u{2076}", "10\u{207b}\u{2075}"]
        );
    }

    #[test]
    fn powers_are_short() {
        assert_eq!(round(1e-5), "10\u{207b}\u{2075}");
        assert_eq!(round(0.005), "0.005");
        assert_eq!(round(0.25), "0.25");
        assert_eq!(round(0.015625), "0.015625");
        assert_eq!(round(32768.0), "32,768");
        assert_eq!(round(2e8), "2\u{d7}10\u{2078}");
    }
}

//! The regex of the integers in a range.

use serde_json::{Map, Value};

/// No integer has more digits than this: those all fit 64 bits, and a model that would go on
/// writing digits is stopped.
pub const MOST_DIGITS: u32 = 18;
const LARGEST: i128 = 10_i128.pow(MOST_DIGITS) - 1;

/// The range that `minimum` and its siblings leave. `None` if they are no numbers, or leave none.
pub fn bounds(schema: &Map<String, Value>) -> Option<(i128, i128)> {
    let mut low = -LARGEST;
    let mut high = LARGEST;
    for (keyword, value) in schema {
        match keyword.as_str() {
            "minimum" => low = low.max(whole(value, f64::ceil)?),
            "exclusiveMinimum" => low = low.max(whole(value, f64::floor)? + 1),
            "maximum" => high = high.min(whole(value, f64::floor)?),
            "exclusiveMaximum" => high = high.min(whole(value, f64::ceil)? - 1),
            _ => {}
        }
    }
    (low <= high).then_some((low, high))
}

fn whole(value: &Value, round: impl Fn(f64) -> f64) -> Option<i128> {
    match value.as_i64() {
        Some(value) => Some(value.into()),
        None => value.as_f64().map(|value| round(value) as i128),
    }
}

/// The regex of the integers from `low` to `high`, without leading zeros and without `-0`.
pub fn range(low: i128, high: i128) -> String {
    if (low, high) == (-LARGEST, LARGEST) {
        let more = MOST_DIGITS - 1;
        return format!("0|-?[1-9][0-9]{{0,{more}}}");
    }
    let mut patterns = Vec::new();
    if low < 0 {
        let negative = natural((-high).max(1), -low);
        patterns.extend(negative.into_iter().map(|digits| format!("-{digits}")));
    }
    if high >= 0 {
        patterns.extend(natural(low.max(0), high));
    }
    patterns.join("|")
}

/// The regexes of the integers from `low` to `high`, neither negative: one for each length.
fn natural(low: i128, high: i128) -> Vec<String> {
    let mut patterns = Vec::new();
    for digits in 1..=MOST_DIGITS {
        let shortest = if digits == 1 {
            0
        } else {
            10_i128.pow(digits - 1)
        };
        let low = low.max(shortest);
        let high = high.min(10_i128.pow(digits) - 1);
        if low <= high {
            let [low, high] = [low, high].map(|number| number.to_string());
            patterns.push(between(low.as_bytes(), high.as_bytes()));
        }
    }
    patterns
}

/// The regex of the digits from `low` to `high`, which are as long as each other.
fn between(low: &[u8], high: &[u8]) -> String {
    let (Some((&first, low_rest)), Some((&last, high_rest))) =
        (low.split_first(), high.split_first())
    else {
        return String::new();
    };
    let rest = low_rest.len();
    let any = |digits: usize| match digits {
        0 => String::new(),
        digits => format!("[0-9]{{{digits}}}"),
    };
    let digit = |from: u8, to: u8| match (char::from(from), char::from(to)) {
        (from, to) if from == to => from.to_string(),
        (from, to) => format!("[{from}-{to}]"),
    };
    let from_zero = low_rest.iter().all(|&digit| digit == b'0');
    let to_nine = high_rest.iter().all(|&digit| digit == b'9');
    if first == last && !(from_zero && to_nine) {
        return digit(first, first) + &between(low_rest, high_rest);
    }
    let mut patterns = Vec::new();
    let mut middle = (first, last);
    if !from_zero {
        patterns.push(digit(first, first) + &between(low_rest, &vec![b'9'; rest]));
        middle.0 += 1;
    }
    if !to_nine {
        middle.1 -= 1;
    }
    if middle.0 <= middle.1 {
        patterns.push(digit(middle.0, middle.1) + &any(rest));
    }
    if !to_nine {
        patterns.push(digit(last, last) + &between(&vec![b'0'; rest], high_rest));
    }
    format!("(?:{})", patterns.join("|"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(low: i128, high: i128) -> regex::Regex {
        regex::Regex::new(&format!(r"\A(?:{})\z", range(low, high))).unwrap()
    }

    proptest! {
        #[test]
        fn a_range_matches_its_integers_and_no_others(
            low in -2_000_i128..2_000, size in 0_i128..2_000, number in -5_000_i128..5_000,
        ) {
            let regex = matches(low, low + size);
            prop_assert_eq!(regex.is_match(&number.to_string()), (low..=low + size).contains(&number));
            prop_assert!(regex.is_match(&low.to_string()), "{}", low);
            prop_assert!(regex.is_match(&(low + size).to_string()), "{}", low + size);
            prop_assert!(!regex.is_match("-0") && !regex.is_match("007"));
        }
    }

    #[test]
    fn bounds_are_those_of_the_integers_inside() {
        let bounds = |json: Value| bounds(json.as_object().unwrap());
        let json = serde_json::json!({"minimum": 0.5, "exclusiveMaximum": 10});
        assert_eq!(bounds(json), Some((1, 9)));
        let json = serde_json::json!({"exclusiveMinimum": 2.5, "maximum": 3.5});
        assert_eq!(bounds(json), Some((3, 3)));
        assert_eq!(
            bounds(serde_json::json!({"minimum": 4, "maximum": 3})),
            None
        );
        assert_eq!(bounds(serde_json::json!({"minimum": "4"})), None);
        assert!(!matches(0, LARGEST).is_match(&"9".repeat(19)));
    }
}

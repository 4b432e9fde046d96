//! How wide text will be, which decides what fits beside what. Which font draws it is not known, so
//! the widths are those of a wide one (DejaVu Sans, whose advances these are, rounded up): text in
//! others is a little narrower, and never wider.

/// Pixels that `text` takes at a font size of `size` pixels, at most.
pub(super) fn width(text: &str, size: f64) -> f64 {
    text.chars().map(advance).sum::<f64>() * size
}

/// Bold text of that font is at most so much wider.
pub(super) const BOLD: f64 = 1.15;

/// `text` in lines that are no wider than `limit`. A word that is wider alone is divided.
pub(super) fn wrap(text: &str, size: f64, limit: f64) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let joined = match line.is_empty() {
            true => word.to_owned(),
            false => format!("{line} {word}"),
        };
        if width(&joined, size) <= limit {
            line = joined;
            continue;
        }
        if !line.is_empty() {
            lines.push(std::mem::take(&mut line));
        }
        for letter in word.chars() {
            if !line.is_empty() && width(&line, size) + advance(letter) * size > limit {
                lines.push(std::mem::take(&mut line));
            }
            line.push(letter);
        }
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

/// The width of a letter over the font's size.
fn advance(letter: char) -> f64 {
    match letter {
        'i' | 'j' | 'l' | '\'' => 0.28,
        ' ' | '.' | ',' | 'I' | '|' => 0.34,
        'f' | 't' | 'r' | '(' | ')' | '[' | ']' | '/' | '\\' | ':' | ';' | '-' => 0.42,
        '"' | '!' | '*' | '\u{b7}' => 0.5,
        '\u{b0}'..='\u{b9}' | '\u{2070}'..='\u{209f}' => 0.5,
        's' | 'c' | 'z' | 'v' | 'x' | 'y' | 'k' | '_' => 0.6,
        'a'..='l' | 'n'..='q' | 'u' | '0'..='9' | '?' | '$' | 'J' => 0.65,
        'L' | 'T' | 'Y' | 'Z' | 'X' | 'F' | 'E' | 'P' => 0.7,
        'A'..='D' | 'K' | 'R' | 'S' | 'V' | 'U' => 0.78,
        'G' | 'H' | 'N' | 'O' | 'Q' | '&' => 0.8,
        '+' | '=' | '<' | '>' | '~' | '\u{d7}' | '\u{2212}' => 0.84,
        'M' => 0.87,
        'w' => 0.82,
        'm' | '%' | 'W' | '@' => 1.0,
        '#' => 0.84,
        // Latin letters with marks, Greek, Cyrillic; then those that are as wide as high.
        letter if letter < '\u{2000}' => 0.9,
        _ => 1.1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_no_wider_than_the_limit_and_lose_nothing() {
        let text = "redundant_norm against block0_norm, position 32,640, \
                    averyveryveryveryverylongwordwithoutaspaceinit";
        for limit in [40.0, 90.0, 250.0, 1000.0] {
            let lines = wrap(text, 12.0, limit);
            assert!(
                lines.iter().all(|line| width(line, 12.0) <= limit),
                "{lines:?}"
            );
            let squeeze = |text: &str| text.replace(char::is_whitespace, "");
            assert_eq!(squeeze(&lines.concat()), squeeze(text));
        }
        assert!(wrap("  ", 12.0, 100.0).is_empty());
    }
}

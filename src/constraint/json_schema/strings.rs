//! Regexes of JSON strings, between their quotes.

use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, Hir, HirKind, Look, Repetition};

/// A character of a string, as JSON spells it. Two halves of a surrogate pair are one.
pub const CHARACTER: &str = concat!(
    r#"(?:[^"\\\x00-\x1F]|\\(?:["\\/bfnrt]|u(?:[0-9A-CEFa-cef][0-9A-Fa-f]{3}"#,
    r"|[Dd][0-7][0-9A-Fa-f]{2}",
    r"|[Dd][89ABab][0-9A-Fa-f]{2}\\u[Dd][C-Fc-f][0-9A-Fa-f]{2})))"
);

/// The regex of a string of `least` to `most` characters.
pub fn of_length(least: u64, most: Option<u64>) -> String {
    match (least, most) {
        (0, None) => format!("{CHARACTER}*"),
        (least, None) => format!("{CHARACTER}{{{least},}}"),
        (least, Some(most)) => format!("{CHARACTER}{{{least},{most}}}"),
    }
}

/// The regex of a string in which `pattern` matches, as JSON spells it. `None` for a pattern that
/// is no regex, or has anchors elsewhere than at its ends.
pub fn containing(pattern: &str) -> Option<String> {
    let hir = regex_syntax::parse(&with_ascii_classes(pattern)).ok()?;
    let mut parts = match hir.into_kind() {
        HirKind::Concat(parts) => parts,
        kind => vec![rebuilt(kind)],
    };
    let is_look = |part: Option<&Hir>, look| {
        part.is_some_and(|part| matches!(part.kind(), HirKind::Look(found) if *found == look))
    };
    let from_start = is_look(parts.first(), Look::Start);
    if from_start {
        parts.remove(0);
    }
    let to_end = is_look(parts.last(), Look::End);
    if to_end {
        parts.pop();
    }
    let parts = parts.iter().map(escaped).collect::<Option<Vec<_>>>()?;
    let any = format!("{CHARACTER}*");
    let before = if from_start { "" } else { &any };
    let after = if to_end { "" } else { &any };
    let pattern = format!("{before}(?:{}){after}", Hir::concat(parts));
    // Nothing between the quotes is no slot.
    (pattern != "(?:(?:))" && pattern != "(?:)").then_some(pattern)
}

/// `\d` and `\w` are ASCII in JSON schemas.
fn with_ascii_classes(pattern: &str) -> String {
    let mut text = String::with_capacity(pattern.len());
    let mut in_class = false;
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        let escape = (character == '\\').then(|| characters.next()).flatten();
        let class = match escape {
            Some('d') => "0-9",
            Some('w') => "0-9A-Za-z_",
            _ => {
                if escape.is_none() {
                    in_class = character == '[' || in_class && character != ']';
                }
                text.push(character);
                text.extend(escape);
                continue;
            }
        };
        text += &if in_class {
            class.to_owned()
        } else {
            format!("[{class}]")
        };
    }
    text
}

fn rebuilt(kind: HirKind) -> Hir {
    match kind {
        HirKind::Empty => Hir::empty(),
        HirKind::Literal(literal) => Hir::literal(literal.0),
        HirKind::Class(class) => Hir::class(class),
        HirKind::Look(look) => Hir::look(look),
        HirKind::Repetition(repetition) => Hir::repetition(repetition),
        HirKind::Capture(capture) => Hir::capture(capture),
        HirKind::Concat(parts) => Hir::concat(parts),
        HirKind::Alternation(parts) => Hir::alternation(parts),
    }
}

/// The texts of `hir` as JSON spells them.
fn escaped(hir: &Hir) -> Option<Hir> {
    let all = |parts: &[Hir]| parts.iter().map(escaped).collect::<Option<Vec<_>>>();
    Some(match hir.kind() {
        HirKind::Empty => Hir::empty(),
        HirKind::Literal(literal) => {
            let text = str::from_utf8(&literal.0).ok()?;
            Hir::concat(text.chars().map(|c| character_class(&[(c, c)])).collect())
        }
        HirKind::Class(class) => {
            let class = match class {
                Class::Unicode(class) => class.clone(),
                Class::Bytes(class) => class.to_unicode_class()?,
            };
            let ranges: Vec<_> = class.iter().map(|r| (r.start(), r.end())).collect();
            character_class(&ranges)
        }
        HirKind::Look(_) => return None,
        HirKind::Repetition(repetition) => Hir::repetition(Repetition {
            sub: Box::new(escaped(&repetition.sub)?),
            ..repetition.clone()
        }),
        HirKind::Capture(capture) => escaped(&capture.sub)?,
        HirKind::Concat(parts) => Hir::concat(all(parts)?),
        HirKind::Alternation(parts) => Hir::alternation(all(parts)?),
    })
}

/// One character of `ranges`: as it is, or with its escape where it must have one.
fn character_class(ranges: &[(char, char)]) -> Hir {
    let ranges = ranges.iter().map(|&(a, b)| ClassUnicodeRange::new(a, b));
    let class = ClassUnicode::new(ranges);
    let special = ['"', '\\']
        .into_iter()
        .chain('\0'..='\x1F')
        .map(|c| ClassUnicodeRange::new(c, c));
    let special = ClassUnicode::new(special);
    let mut plain = class.clone();
    plain.difference(&special);
    let mut escaped = class;
    escaped.intersect(&special);
    let mut ways = vec![Hir::class(Class::Unicode(plain))];
    for character in escaped.iter().flat_map(|range| range.start()..=range.end()) {
        let quoted = serde_json::Value::from(character.to_string()).to_string();
        let bytes = quoted.as_bytes();
        ways.push(Hir::literal(&bytes[1..bytes.len() - 1]));
    }
    Hir::alternation(ways)
}

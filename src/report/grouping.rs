//! Groups in the order in which they come.

use super::section::Captioned;
use super::table::Table;

/// Each of `items` once, in the order in which they first come: what tables and charts are divided by.
pub fn distinct<T: PartialEq>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut known = Vec::new();
    for item in items {
        if !known.contains(&item) {
            known.push(item);
        }
    }
    known
}

/// What belongs together, by its caption, in the order in which it comes.
pub type Groups<'t, T> = Vec<(String, Vec<&'t T>)>;

/// Groups `items` by what `caption` says of each.
pub fn by_caption<T>(items: &[T], caption: impl Fn(&T) -> String) -> Groups<'_, T> {
    let mut groups: Groups<T> = Vec::new();
    for item in items {
        let caption = caption(item);
        match groups.iter_mut().find(|(known, _)| *known == caption) {
            Some((_, group)) => group.push(item),
            None => groups.push((caption, vec![item])),
        }
    }
    groups
}

/// A table for each group, under its caption.
pub fn tables<T>(groups: &Groups<T>, table: fn(&[&T]) -> Table) -> Vec<Captioned> {
    let captioned = |(caption, group): &(String, Vec<&T>)| Captioned {
        caption: caption.clone(),
        table: table(group),
    };
    groups.iter().map(captioned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equals_keeps_its_place() {
        assert_eq!(distinct([3, 1, 3, 2, 1]), [3, 1, 2]);
    }

    #[test]
    fn groups_and_what_is_in_them_keep_their_order() {
        let parity = |number: &i32| (number % 2).to_string();
        let groups = by_caption(&[3, 2, 1, 4], parity);
        assert_eq!(groups[0], ("1".to_owned(), vec![&3, &1]));
        assert_eq!(groups[1], ("0".to_owned(), vec![&2, &4]));
        assert_eq!(groups.len(), 2);
    }
}

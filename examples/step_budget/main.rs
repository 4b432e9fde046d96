//! The budget of a decode step on paper: bytes, barriers and waits, and what they make of a token's
//! time on GPUs that were not measured.
//!
//! `cargo run --release --example step_budget` prints the tables of
//! `experiments/step-budget/README.md`, which says how they are made.

mod cards;
mod model;
mod published;
mod tables;

fn main() {
    for tables::Named { name, table } in tables::all() {
        println!("<!-- {name} -->\n{}\n", table.to_markdown());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_has_the_tables_that_are_printed() {
        let readme = include_str!("../../experiments/step-budget/README.md");
        for tables::Named { name, table } in tables::all() {
            let expected = format!("<!-- {name} -->\n{}\n\n", table.to_markdown());
            assert!(readme.contains(&expected), "not in the README:\n{expected}");
        }
    }

    #[test]
    fn the_published_speeds_are_reckoned_within_a_fifth() {
        let anchors = published::all();
        let anchors: Vec<_> = anchors.iter().filter(|anchor| anchor.must_hold).collect();
        assert_eq!(anchors.len(), 2);
        for anchor in anchors {
            let (kernel, error) = (anchor.kernel, anchor.error());
            assert!(error.abs() < 0.2, "{kernel}: {error}");
        }
    }

    #[test]
    fn nothing_is_hidden_that_was_not_waited_for() {
        use crate::cards::CARDS;
        use crate::model::{End, Host, Reckoning};
        use onegrid::measure::step_budget::{Grid, Loads, step};
        use onegrid::model::shapes;

        let config = shapes::config("qwen3-0.6b").unwrap();
        for card in CARDS {
            let grid = Grid {
                blocks: card.multiprocessors,
            };
            for position in [0, 1, 1000, 30_000] {
                let step = step(&config, grid, position, Loads::OneByOne, true);
                let ends = [End::Best, End::Middle, End::Worst];
                let times = ends.map(|end| {
                    let time = Reckoning::new(card, end).time(&step, None, Host::default());
                    assert!(time.hidden <= time.barriers + time.waits, "{time:?}");
                    assert!(time.hidden <= time.bytes, "{time:?}");
                    time.total()
                });
                assert!(times.is_sorted(), "{times:?}");
            }
        }
    }
}

use super::*;
use crate::experiment::result::{CellOutcome, CellRecord};

/// Two comparisons of the small random model, one of which this machine's CPU has no counterpart for.
const PLAN: &str = r#"
model = { model = "random:tiny" }
positions = [1, 9]
rounds = 2
steps = 2
warm_up_seconds = 0.0
check_seconds = 10.0

[[comparisons]]
name = "columns"
variant = { columns = 2 }

[[comparisons]]
name = "graph"
base = { engine = { stage = "launches" } }
variant = { engine = { stage = "graph" } }
"#;

fn opened(plan: &str, device: &str) -> Result<Box<dyn Experiment>, ExperimentError> {
    let setting = Setting {
        engine: toml::from_str(&format!("device = \"{device}\"")).unwrap(),
        ..Setting::default()
    };
    open(plan, &setting)
}

/// The records of all cells.
fn measured(plan: &str, device: &str) -> Vec<CellRecord> {
    let mut experiment = opened(plan, device).unwrap();
    let watch = Watch {
        interrupted: &|| false,
        doing: &|_| (),
    };
    let cells = experiment.cells();
    let record = |cell: &Cell| {
        let (outcome, reason, result) = match experiment.measure(cell, &watch) {
            Ok(result) => (CellOutcome::Measured, None, result),
            Err(ExperimentError::NotMeasured { reason }) => {
                (CellOutcome::NotMeasured, Some(reason), Value::Null)
            }
            Err(error) => panic!("{}: {error}", cell.id),
        };
        CellRecord {
            id: cell.id.clone(),
            outcome,
            reason,
            seconds: 1.0,
            unix_time: 1,
            result,
        }
    };
    cells.iter().map(record).collect()
}

fn text(sections: &[crate::report::section::Section]) -> String {
    let of_section = |section: &crate::report::section::Section| {
        let tables = section.tables.iter().map(|one| one.table.to_text());
        let all: Vec<String> = section.text.iter().cloned().chain(tables).collect();
        format!("{}\n{}", section.heading, all.join("\n"))
    };
    sections
        .iter()
        .map(of_section)
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn both_sides_are_checked_and_timed_behind_the_same_past() {
    let cells = measured(PLAN, "cpu");
    let ids: Vec<_> = cells.iter().map(|cell| cell.id.as_str()).collect();
    let expected = [
        "columns/position-1",
        "columns/position-9",
        "graph/position-1",
        "graph/position-9",
    ];
    assert_eq!(ids, expected);
    for cell in &cells[..2] {
        let found: Found = cell.measured().unwrap().unwrap();
        assert_eq!(found.speedup.ratio.samples.len(), 2);
        assert_eq!(found.agreement.tokens, 3);
        assert!(found.agreement.passed && found.base.checked.passed);
        assert!(found.variant.checked.reference.as_ref().unwrap().passed);
        let (base, variant) = (&found.base, &found.variant);
        assert_eq!((base.columns, variant.columns), (1, 2));
        for (index, ratio) in found.speedup.ratio.samples.iter().enumerate() {
            let speed = |side: &SideFound| side.tokens_per_second.samples[index];
            assert!((ratio - speed(variant) / speed(base)).abs() < 1e-12);
            let step = variant.step_ms.samples[index];
            assert!((speed(variant) * step - 2e3).abs() < 1e-6);
        }
    }
    for cell in &cells[2..] {
        let reason = cell.reason.as_deref().unwrap();
        assert!(reason.contains("--device emulated"), "{reason}");
    }
    let text = text(&sections::sections(&cells).unwrap());
    for part in ["All comparisons", "at 9", "columns", "Not measured: graph"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn the_kernels_stages_are_compared_on_the_emulator() {
    let plan = PLAN.replace("positions = [1, 9]", "positions = [3]");
    let cells = measured(&plan, "emulated");
    let graph: Found = cells[1].measured().unwrap().unwrap();
    assert!(graph.agreement.same_bits && graph.agreement.tokens_equal == 3);
    assert!(
        graph.variant.engine.contains("graph"),
        "{}",
        graph.variant.engine
    );
}

#[test]
fn an_engine_whose_cache_can_not_be_filled_is_not_measured() {
    let plan = PLAN.replace("variant = { columns = 2 }", "");
    let cells = measured(&plan, "reference");
    let reason = cells[0].reason.as_deref().unwrap();
    assert!(
        reason.contains("the reference engine can't be filled"),
        "{reason}"
    );
}

#[test]
fn what_can_not_be_followed_is_refused_by_name() {
    for (from, to, part) in [
        ("rounds = 2", "rounds = 0", "must be 1 or more"),
        ("positions = [1, 9]", "positions = [0]", "must be 1 or more"),
        (
            "positions = [1, 9]",
            "positions = []",
            "`positions` is empty",
        ),
        ("columns = 2", "columns = 0", "`columns`"),
        ("name = \"graph\"", "name = \"columns\"", "two comparisons"),
        ("stage = \"graph\"", "stag = \"graph\"", "stag"),
    ] {
        let error = opened(&PLAN.replace(from, to), "cpu").err().unwrap();
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn the_plans_that_are_kept_can_be_followed() {
    let itself = include_str!("../../../experiments/optimizations/aa.toml");
    let cells = |plan| opened(plan, "cpu").unwrap().cells().len();
    assert_eq!(cells(itself), 20);
    let repeated = include_str!("../../../experiments/optimizations/repeated.toml");
    assert_eq!(cells(repeated), 6);
    assert!(cells(KIND.plan) > 20);
}

use super::*;
use crate::experiment::result::{CellOutcome, CellRecord};

const PLAN: &str = r#"
model = { model = "random:tiny" }
positions = [1, 40, 100000]
real = [7]
rounds = 3
steps = 2
warm_up_seconds = 0.0
check_seconds = 10.0
bandwidth_seconds = 0.001

[[subjects]]
name = "persistent"

[[subjects]]
name = "one thread"
engine = { threads = 1 }

[[subjects]]
name = "graph"
engine = { stage = "graph" }
"#;

fn opened(plan: &str, device: &str) -> Result<Box<dyn Experiment>, ExperimentError> {
    let setting = Setting {
        engine: toml::from_str(&format!("device = \"{device}\"")).unwrap(),
        ..Setting::default()
    };
    open(plan, &setting)
}

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

#[test]
fn engines_are_timed_at_each_position_and_prompts_beside_made_up_pasts() {
    let cells = measured(PLAN, "cpu");
    let ids: Vec<_> = cells.iter().map(|cell| cell.id.as_str()).collect();
    let expected = [
        "position-1",
        "position-40",
        "position-100000",
        "prompt/position-7",
    ];
    assert_eq!(ids, expected);
    let reason = cells[2].reason.as_deref().unwrap();
    assert!(reason.contains("100002"), "{reason}");
    for (cell, names) in [
        (&cells[1], ["persistent", "one thread"]),
        (&cells[3], ["prompt", "made up"]),
    ] {
        let found: Found = cell.measured().unwrap().unwrap();
        let subjects = &found.subjects;
        let found_names: Vec<_> = subjects.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(found_names, names);
        assert!(subjects.iter().all(|one| one.checked.passed));
        let [first, second] = [&subjects[0], &subjects[1]];
        let ratio = second.speed_of_first.as_ref().unwrap();
        for (index, sample) in ratio.ratio.samples.iter().enumerate() {
            let ms = |one: &Subject| one.step_ms.samples[index];
            assert!((sample - ms(second) / ms(first)).abs() < 1e-9 * sample);
        }
        assert!(first.speed_of_first.is_none() && first.agreement.is_none());
        let bandwidth = found.bandwidth.as_ref().unwrap().median;
        let floor = found.bytes_per_step / bandwidth * 1e3;
        assert_eq!(found.floor_ms, Some(floor));
    }
    let found: Found = cells[1].measured().unwrap().unwrap();
    assert_eq!(found.missing[0].what, "graph");
    // One thread computes the rows that two share: the same bits.
    assert!(found.subjects[1].agreement.unwrap().same_bits);
    let sections = sections::sections(&cells).unwrap();
    assert_eq!(sections.len(), 2);
    assert_eq!(sections[0].charts.len(), 2);
    let text = sections[0].text.join(" ");
    assert!(
        text.contains("position-100000") && text.contains("graph"),
        "{text}"
    );
    assert_eq!(sections[1].tables[0].table.to_csv().lines().count(), 2);
}

#[test]
fn the_kernel_is_timed_beside_a_graph_on_the_emulator() {
    let plan = PLAN
        .replace("[1, 40, 100000]", "[3]")
        .replace("real = [7]", "");
    let cells = measured(&plan, "emulated");
    let found: Found = cells[0].measured().unwrap().unwrap();
    // Threads are the CPU engine's alone: the kernel itself, once more.
    assert_eq!(found.subjects.len(), 3);
    assert!(found.subjects[2].agreement.unwrap().same_bits);
    assert!(found.floor_ms.is_none());
}

#[test]
fn what_can_not_be_followed_is_refused_by_name() {
    for (from, to, part) in [
        ("rounds = 3", "rounds = 0", "must be 1 or more"),
        ("real = [7]", "real = [0]", "must be 1 or more"),
        ("[1, 40, 100000]", "[]", "`positions` is empty"),
        ("name = \"graph\"", "name = \"persistent\"", "two subjects"),
    ] {
        let error = opened(&PLAN.replace(from, to), "cpu").err().unwrap();
        assert!(error.to_string().contains(part), "{error}");
    }
}

//! Engines of a small model, and counters that tell what they are told to.

use std::cell::RefCell;
use std::path::PathBuf;

use super::*;
use crate::engine::choice::{DeviceName, EngineChoice};
use crate::engine::reference::ReferenceEngine;
use crate::experiment::result::{CellOutcome, CellRecord};
use crate::measure::decode::DecodePlan;
use crate::measure::energy::{Counter, EnergyError, Reading};
use crate::model::{random, shapes};

/// Counts so many joules from one reading to the next.
struct Steady {
    name: &'static str,
    joules: f64,
    step: f64,
}

impl Counter for Steady {
    fn name(&self) -> String {
        self.name.into()
    }

    fn parts(&self) -> Vec<String> {
        vec!["all".into()]
    }

    fn read(&mut self) -> Result<Reading, EnergyError> {
        self.joules += self.step;
        Ok(Reading {
            joules: vec![self.joules],
            watts: Some(20.0),
        })
    }
}

fn steady(name: &'static str, step: f64) -> Box<dyn Counter> {
    Box::new(Steady {
        name,
        joules: 0.0,
        step,
    })
}

fn running(name: &str, counters: Vec<Box<dyn Counter>>) -> Running {
    let config = shapes::config(shapes::TINY).unwrap();
    let weights = Arc::new(random::weights(&config, 0, &mut |_, _| ()).unwrap());
    let plan = DecodePlan {
        prompt_tokens: 3,
        new_tokens: 5,
        repetitions: 1,
        batch: 2,
        bandwidth_seconds: 0.0,
        check_seconds: 0.0,
    };
    let engine = ReferenceEngine::new(Arc::clone(&weights), plan.context(), plan.batch).unwrap();
    let decoder = Decoder::new(Box::new(engine), weights, plan).unwrap();
    Running::new(name, decoder, Meters::new(counters))
}

const GO_ON: Watch = Watch {
    interrupted: &|| false,
    doing: &|_| (),
};

#[test]
fn engines_take_turns_forwards_and_backwards() {
    let done = RefCell::new(Vec::new());
    let watch = Watch {
        interrupted: &|| false,
        doing: &|what| done.borrow_mut().push(what.to_owned()),
    };
    let mut both = [running("a", vec![]), running("b", vec![])];
    take_turns(&mut both, 2, 0.0, &watch).unwrap();
    let expected = [
        "a: warming up",
        "b: warming up",
        "a: round 1 of 2",
        "b: round 1 of 2",
        "b: round 2 of 2",
        "a: round 2 of 2",
    ];
    assert_eq!(*done.borrow(), expected);
}

#[test]
fn tokens_and_joules_are_those_of_each_round() {
    let counters = vec![
        steady("board", 4.0),
        steady("still", 0.0),
        steady("cpu", 1.0),
    ];
    let mut one = [running("a", counters)];
    take_turns(&mut one, 2, 0.0, &GO_ON).unwrap();
    let [one] = one;
    let subject = one.finish().unwrap().unwrap();
    let meters: Vec<_> = subject
        .metered
        .iter()
        .map(|metered| &*metered.meter)
        .collect();
    assert_eq!(meters, ["board", "cpu"]);
    assert_eq!(subject.missing.len(), 1);
    assert_eq!(subject.missing[0].what, "still");
    assert!(subject.missing[0].reason.contains("stood still"));
    for metered in &subject.metered {
        assert_eq!(metered.rounds.len(), 2);
        for (round, per_joule) in metered.rounds.iter().zip(&metered.tokens_per_joule.samples) {
            // Two sequences of five tokens, once: no time was asked for.
            assert_eq!(round.tokens, 10);
            assert!(round.decode.joules > 0.0);
            assert_eq!(*per_joule, 10.0 / round.decode.joules);
        }
        assert_eq!(
            metered.peak_watts,
            metered.rounds[0]
                .decode
                .average_watts
                .max(metered.rounds[1].decode.average_watts.max(20.0))
        );
    }
    assert!(subject.checked.passed && subject.checked.repetitions_agree);
}

fn consumed(seconds: f64, watts: f64) -> Consumed {
    Consumed {
        seconds,
        joules: seconds * watts,
        average_watts: watts,
        peak_watts: watts + 5.0,
        parts: Vec::new(),
        watts: vec![watts as f32],
    }
}

fn round(tokens: usize, idle_watts: f64, watts: f64) -> Round {
    Round {
        tokens,
        idle: consumed(10.0, idle_watts),
        decode: consumed(20.0, watts),
    }
}

#[test]
fn idle_power_is_taken_off_for_the_time_of_decoding() {
    let metered = Metered::new(
        "m".into(),
        vec![round(3000, 50.0, 150.0), round(3000, 50.0, 200.0)],
    );
    let metered = metered.unwrap();
    assert_eq!(metered.tokens_per_joule.samples, [1.0, 0.75]);
    assert_eq!(
        metered.tokens_per_joule_above_idle.unwrap().samples,
        [1.5, 1.0]
    );
    assert_eq!(
        (metered.average_watts.median, metered.idle_watts.median),
        (175.0, 50.0)
    );
    assert_eq!(metered.peak_watts, 205.0);
}

#[test]
fn a_meter_that_does_not_tell_decoding_from_idling_says_nothing_above_idle() {
    let metered = Metered::new(
        "m".into(),
        vec![round(10, 50.0, 60.0), round(10, 50.0, 49.0)],
    );
    let metered = metered.unwrap();
    assert!(metered.tokens_per_joule_above_idle.is_none());
    assert!(metered.tokens_per_joule.median > 0.0);
}

#[test]
fn an_engine_without_a_working_meter_is_not_measured() {
    let mut one = [running("a", vec![steady("still", 0.0)])];
    take_turns(&mut one, 1, 0.0, &GO_ON).unwrap();
    let [one] = one;
    let missing = one.finish().unwrap().unwrap_err();
    assert_eq!(missing.what, "a");
    assert!(
        missing
            .reason
            .starts_with("still: the counter of still stood still"),
        "{missing:?}"
    );
}

#[test]
fn an_end_is_heard_while_idle_and_while_decoding() {
    let watch = Watch {
        interrupted: &|| true,
        doing: &|_| (),
    };
    let mut one = running("a", vec![]);
    let ended = one.decoder.stretch(&watch).unwrap_err();
    assert!(matches!(ended, ExperimentError::Interrupted));
    // An hour, were it not for the user.
    let ended = one.round(3600.0, &watch).unwrap_err();
    assert!(matches!(ended, ExperimentError::Interrupted));
}

/// A plan of one set, and its only cell.
fn planned(model: &str, device: &str, powercap: &str) -> (Energy, Cell) {
    let plan = format!(
        "seconds = 10\nrounds = 1\nprompt_tokens = 3\nnew_tokens = 5\ncheck_seconds = 0\n\
         powercap = \"{powercap}\"\n[[sets]]\nname = \"a\"\nmodel = {{ model = \"{model}\" }}\n\
         [[sets.subjects]]\nname = \"one\"\nengine = {{ device = \"{device}\" }}\n"
    );
    let energy = Energy::open(&plan, &Setting::default()).unwrap();
    let cells = energy.cells();
    assert_eq!(cells.len(), 1);
    (energy, cells[0].clone())
}

#[test]
fn a_machine_without_counters_is_told_so_before_a_model_is_loaded() {
    // A model that there is no memory for.
    let (mut energy, cell) = planned("random:qwen3-32b", "cpu", "/nowhere");
    let error = energy.measure(&cell, &GO_ON).unwrap_err();
    let ExperimentError::NotMeasured { reason } = error else {
        panic!("{error}")
    };
    assert!(
        reason.starts_with("one: CPU: no powercap zone: /nowhere"),
        "{reason}"
    );
}

#[test]
fn a_reason_of_several_is_told_once() {
    let missing = |what: &str, reason: &str| Missing {
        what: what.into(),
        reason: reason.into(),
    };
    let told = list_missing(&[missing("a", "x"), missing("b", "y"), missing("c", "x")]);
    assert_eq!(told, "a, c: x; b: y");
}

#[test]
fn meters_of_a_gpu_are_its_board_and_the_cpu() {
    let choice = EngineChoice {
        device: DeviceName::Cuda,
        ..EngineChoice::default()
    };
    let meters = Meters::of(&choice, &PathBuf::from("/nowhere"));
    let told = meters.reasons();
    assert!(told.contains("CPU: no powercap zone"), "{told}");
    // On a machine with a GPU it may be there.
    assert!(!meters.is_empty() || told.contains("GPU: "), "{told}");
}

fn record(outcome: CellOutcome, reason: Option<&str>, result: Value) -> CellRecord {
    CellRecord {
        id: "a".into(),
        outcome,
        reason: reason.map(str::to_owned),
        seconds: 1.0,
        unix_time: 0,
        result,
    }
}

#[test]
fn tables_show_what_was_measured_and_why_something_was_not() {
    let metered = Metered::new("board (NVML)".into(), vec![round(3000, 50.0, 150.0)]).unwrap();
    let measured = Measured {
        model: "m".into(),
        batch: 1,
        prompt_tokens: 3,
        new_tokens: 5,
        subjects: vec![Subject {
            name: "default".into(),
            engine: "cuda (sm_90)".into(),
            threads: 1,
            checked: Checked {
                passed: true,
                repetitions_agree: true,
                reference: None,
            },
            tokens_per_second: Summary::new(vec![150.0]).unwrap(),
            metered: vec![metered],
            missing: vec![Missing {
                what: "CPU".into(),
                reason: "no powercap zone".into(),
            }],
        }],
        missing: Vec::new(),
    };
    let cells = [
        record(
            CellOutcome::Measured,
            None,
            serde_json::to_value(measured).unwrap(),
        ),
        record(
            CellOutcome::NotMeasured,
            Some("no powercap zone"),
            Value::Null,
        ),
    ];
    let sections = sections::sections(&cells).unwrap();
    assert_eq!(
        sections[0].tables[0].table.to_csv().lines().nth(1).unwrap(),
        "default,\"cuda (sm_90), 1 threads\",board (NVML),1.000,\"[1.000, 1.000]\",1.500,150.0,155.0,50.0,150.0"
    );
    assert!(sections[0].text[1].contains("Not measured: CPU: no powercap zone"));
    assert_eq!(sections[1].text, ["not measured: no powercap zone"]);
    assert!(sections[1].tables.is_empty());
}

#[test]
fn the_plan_that_comes_with_the_program_is_whole() {
    let energy = Energy::open(KIND.plan, &Setting::default()).unwrap();
    assert_eq!(energy.cells().len(), energy.plan.sets.len());
    assert!(energy.plan.check_seconds > 0.0);
}

//! The kernels of the engines under sanitizers: what an engine did in this process is done again by
//! programs with a sanitizer each, which must come to the same bits and find nothing, unless a
//! barrier is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};
use std::{fs, thread};

use onegrid::engine::megakernel::abi::{OG_PHASES, OG_STATUS_DONE, OG_STATUS_STALLED};
use onegrid::engine::megakernel::{Barrier, Stage, Variant, phase_name};
use tempfile::TempDir;

use crate::cases::{self, Case};
use crate::programs::{BAD_MEMORY_ACCESS, Ended, RACE, Sanitizer, check_program, run};
use crate::recorder::Recording;

static CASES: LazyLock<Vec<Case>> = LazyLock::new(cases::all);

/// A recording as a file, and what a replay leaves behind.
struct Replay {
    folder: TempDir,
}

impl Replay {
    fn new(recording: &Recording) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("case"), recording.case_file()).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> String {
        let path: PathBuf = self.folder.path().join(name);
        path.to_str().unwrap().to_owned()
    }

    fn run(&self, sanitizer: Sanitizer, options: &[&str]) -> Ended {
        let kernels = ["megakernel.cu", "traced_megakernel.cu", "step_kernels.cu"];
        let program = check_program(&kernels, sanitizer);
        let files = [self.path("case"), self.path("result")];
        run(
            &program,
            &[&[files[0].as_str(), &files[1]], options].concat(),
        )
    }

    fn result(&self) -> Vec<u8> {
        fs::read(Path::new(&self.path("result"))).unwrap()
    }
}

/// Calls `work` for all of `items`, a few at a time.
fn for_each<T: Sync>(items: &[T], work: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    work(item);
                }
            });
        }
    });
}

fn expect_clean(sanitizer: Sanitizer, options: &[&str]) {
    for_each(&CASES, |case| {
        let replay = Replay::new(case.recording());
        replay.run(sanitizer, options).expect_code(0, &case.name);
        case.recording().expect_result(&replay.result(), &case.name);
    });
}

#[test]
fn no_race_with_every_barrier_in_place() {
    expect_clean(Sanitizer::Thread, &[]);
}

#[test]
fn no_access_beyond_memory_and_nothing_undefined() {
    expect_clean(Sanitizer::AddressAndUndefined, &["--tensors"]);
}

#[test]
fn what_lies_between_tensors_is_guarded() {
    let recording = CASES[0].recording();
    let last = recording.launches().count() - 1;
    // No kernel looks at the number of rows: there is room for logits, but nobody may touch it.
    let recording = recording.up_to(last, |arguments| arguments.at.logits_rows = 0);
    let sanitizer = Sanitizer::AddressAndUndefined;
    let ended = Replay::new(&recording).run(sanitizer, &["--tensors"]);
    let ended = ended.expect_code(BAD_MEMORY_ACCESS, "logits");
    assert!(ended.stderr.contains("score.h"), "{}", ended.stderr);
}

#[test]
fn a_stop_that_the_host_raises_meanwhile_ends_a_launch_and_is_no_race() {
    let case = cases::long();
    let recording = case.recording();
    let all = recording.tokens();
    for sanitizer in [Sanitizer::None, Sanitizer::Thread] {
        for after in [1, 4] {
            let replay = Replay::new(recording);
            let ended = replay.run(sanitizer, &["--stop-after", &after.to_string()]);
            ended.expect_code(0, &case.name);
            let result = replay.result();
            let tokens = recording.tokens_of(&result);
            assert_eq!(recording.report_of(&result).status, OG_STATUS_DONE);
            assert!((after..all.len()).contains(&tokens.len()), "{tokens:?}");
            assert_eq!(tokens, all[..tokens.len()]);
        }
    }
}

/// The barriers that a case reaches, by site or phase.
fn sites(case: &Case) -> BTreeSet<String> {
    let replay = Replay::new(case.recording());
    let listed = replay.run(Sanitizer::None, &["--list-sites"]);
    let listed = listed.expect_code(0, &case.name).stdout;
    listed.lines().map(str::to_owned).collect()
}

/// The barriers of blocks in the sources of the kernels: `core/product.h:166`, ...
fn sites_in_sources() -> BTreeSet<String> {
    let cuda = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda");
    let mut sites = BTreeSet::new();
    for folder in ["", "core/", "phase/"] {
        for entry in fs::read_dir(cuda.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let is_source = path
                .extension()
                .is_some_and(|end| end == "h" || end == "cu");
            if !is_source {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let file = path.file_name().unwrap().to_str().unwrap();
            for (line, words) in (1..).zip(text.lines()) {
                if words.contains("BLOCK_SYNC();") {
                    sites.insert(format!("{folder}{file}:{line}"));
                }
            }
        }
    }
    sites
}

/// The cases that reach a barrier, by its site or phase; for a phase those of each variant and each
/// kind of barrier apart.
fn cases_by_barrier() -> BTreeMap<(String, String), Vec<&'static Case>> {
    let reached: Mutex<BTreeMap<_, Vec<_>>> = Mutex::default();
    // A traced kernel has the same barriers, and one whose purpose is to know when a phase has ended.
    let numbered = CASES.iter().enumerate();
    let numbered: Vec<_> = numbered.filter(|(_, case)| !case.is_traced).collect();
    for_each(&numbered, |&(index, case)| {
        let options = &case.options;
        for site in sites(case) {
            let is_of_grid = !site.contains(':');
            // Separate kernels pass by the barriers of the grid.
            if is_of_grid && options.stage.is_separate() {
                continue;
            }
            let within = match is_of_grid {
                true => format!("{} {}", options.variant.name(), options.barrier.name()),
                false => String::new(),
            };
            let mut reached = reached.lock().unwrap();
            reached.entry((site, within)).or_default().push(index);
        }
    });
    let in_order = |mut indices: Vec<usize>| {
        indices.sort_unstable();
        indices.into_iter().map(|index| &CASES[index]).collect()
    };
    let reached = reached.into_inner().unwrap().into_iter();
    reached.map(|(key, cases)| (key, in_order(cases))).collect()
}

/// Whether ThreadSanitizer finds a race in some case when the barrier `site` is left out.
fn is_race(site: &str, cases: &[&Case]) -> bool {
    // What it finds depends a little on how the threads take turns.
    let tries = [&[][..], &["--jitter", "1"], &["--jitter", "2"]];
    let mut tries = tries.iter().flat_map(|jitter| {
        let case = |case| (case, *jitter);
        cases.iter().map(case)
    });
    tries.any(|(case, jitter)| {
        let replay = Replay::new(case.recording());
        let options = [&["--leave-out", site], jitter].concat();
        let ended = replay.run(Sanitizer::Thread, &options);
        if ended.code == Some(RACE) {
            assert!(ended.stderr.contains("data race"), "{}", ended.stderr);
            return true;
        }
        ended.expect_code(0, &case.name);
        false
    })
}

#[test]
fn each_barrier_left_out_is_a_race() {
    let cases = cases_by_barrier();
    let reached: BTreeSet<String> = cases.keys().map(|(site, _)| site.clone()).collect();
    let mut expected = sites_in_sources();
    expected.extend((0..OG_PHASES).map(|phase| phase_name(phase).to_owned()));
    assert_eq!(
        reached, expected,
        "reached by some case, and in the sources"
    );

    let cases: Vec<_> = cases.iter().collect();
    let not_needed = Mutex::new(Vec::new());
    for_each(&cases, |((site, within), cases)| {
        if !is_race(site, cases) {
            not_needed.lock().unwrap().push(format!("{site} {within}"));
        }
    });
    let not_needed = not_needed.into_inner().unwrap();
    assert!(not_needed.is_empty(), "no race without {not_needed:?}");
}

/// The barriers of one pass, in order: phase and layer.
fn barriers(variant: Variant, layers: u32) -> Vec<(&'static str, u32)> {
    let layer_phases: &[&str] = match variant {
        Variant::RedundantNorm => &["qkv", "attention", "output", "gate_up", "down"],
        Variant::Block0Norm => &[
            "norm",
            "qkv",
            "attention",
            "output",
            "norm",
            "gate_up",
            "down",
        ],
        Variant::HeadBlocks => &["attention", "output", "gate_up", "down"],
        Variant::FusedPhases => &["qkv", "output", "gate_up", "down"],
    };
    let mut all = vec![("embed", 0)];
    for layer in 0..layers {
        all.extend(layer_phases.iter().map(|phase| (*phase, layer)));
    }
    if variant == Variant::Block0Norm {
        all.push(("norm", layers));
    }
    all
}

#[test]
fn a_stalled_block_is_reported_with_phase_and_layer() {
    let mut stalls = Vec::new();
    for case in CASES.iter() {
        let options = &case.options;
        if options.barrier != Barrier::Epoch || options.stage != Stage::V1 || !case.is_plain() {
            continue;
        }
        let recording = case.recording();
        let last = recording.launches().count() - 1;
        let layers = recording.launches().next().unwrap().arguments.model.layers;
        // The last launch decodes: it samples, makes a pass, samples.
        let sample = [("head", layers)];
        let of_pass = barriers(options.variant, layers);
        let all = [&sample, &of_pass[..], &sample].concat();
        let epochs = [
            1,
            2,
            3,
            4,
            all.len() / 2,
            all.len() - 2,
            all.len() - 1,
            all.len(),
        ];
        for epoch in epochs.into_iter().collect::<BTreeSet<_>>() {
            stalls.push((case, last, epoch as u32, all[epoch - 1]));
        }
    }
    assert!(stalls.len() > 20);
    for_each(&stalls, |&(case, last, epoch, (phase, layer))| {
        let block = epoch % 3;
        let recording = case.recording().up_to(last, |arguments| {
            arguments.watchdog_ms = 1000;
            arguments.stall_block = block;
            arguments.stall_epoch = epoch;
        });
        let replay = Replay::new(&recording);
        let ended = replay.run(Sanitizer::None, &[]);
        ended.expect_code(0, &case.name);
        let report = recording.report_of(&replay.result());
        let found = (report.block, phase_name(report.phase), report.layer);
        let what = format!("{}, epoch {epoch}", case.name);
        assert_eq!(report.status, OG_STATUS_STALLED, "{what}");
        assert_eq!(found, (block, phase, layer), "{what}");
    });
}

//! The emulator against kernels that need all of it (`cuda/emulator/self_test.cu`): what they find is
//! right, nothing is reported while every barrier is in place, and something is for each that is not.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::programs::{BAD_MEMORY_ACCESS, Ended, RACE, Sanitizer, check_program, program, run};

const BARRIERS: [&str; 2] = ["epoch", "cooperative"];

/// A launch, as the program `self_test` makes it.
struct Launch {
    kernel: &'static str,
    blocks: u32,
    threads: u32,
    steps: u32,
    barrier: &'static str,
    launches: u32,
    /// The grid barrier at which block 1 never arrives, from 1; 0: it always does.
    stall_epoch: u32,
}

impl Default for Launch {
    fn default() -> Self {
        Self {
            kernel: "everything",
            blocks: 2,
            threads: 64,
            steps: 4,
            barrier: "epoch",
            launches: 1,
            stall_epoch: 0,
        }
    }
}

/// A launch as a file, and what it leaves behind.
struct Case {
    folder: TempDir,
}

impl Case {
    fn new(launch: &Launch) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("case");
        let numbers = [
            launch.blocks,
            launch.threads,
            launch.steps,
            launch.launches,
            launch.stall_epoch,
        ];
        let [blocks, threads, steps, launches, stall_epoch] = numbers.map(|n| n.to_string());
        self_test(&[
            "make",
            launch.kernel,
            &blocks,
            &threads,
            &steps,
            launch.barrier,
            &launches,
            &stall_epoch,
            path.to_str().unwrap(),
        ]);
        Self { folder }
    }

    fn path(&self, name: &str) -> String {
        let path: PathBuf = self.folder.path().join(name);
        path.to_str().unwrap().to_owned()
    }

    fn run(&self, sanitizer: Sanitizer, options: &[&str]) -> Ended {
        let check = check_program(&["emulator/self_test.cu"], sanitizer);
        let files = [self.path("case"), self.path("result")];
        let arguments = [&[files[0].as_str(), &files[1]], options].concat();
        run(&check, &arguments)
    }

    /// `verify` or `stalled`: what the launch must have left behind.
    fn expect(&self, what: &str) {
        self_test(&[what, &self.path("case"), &self.path("result")]);
    }
}

#[track_caller]
fn self_test(arguments: &[&str]) {
    let program = program(&["emulator/self_test.cpp"], Sanitizer::None);
    run(&program, arguments).expect_code(0, &arguments.join(" "));
}

#[test]
fn all_threads_find_what_the_others_wrote() {
    for sanitizer in Sanitizer::ALL {
        for barrier in BARRIERS {
            let case = Case::new(&Launch {
                blocks: 3,
                launches: 2,
                barrier,
                ..Launch::default()
            });
            case.run(sanitizer, &[])
                .expect_code(0, &format!("{sanitizer:?} {barrier}"));
            case.expect("verify");
        }
    }
}

#[test]
fn a_grid_has_up_to_8_blocks_of_256_threads() {
    for (blocks, threads) in [(1, 32), (7, 32), (8, 256)] {
        let launch = Launch {
            blocks,
            threads,
            steps: 2,
            ..Launch::default()
        };
        for barrier in BARRIERS {
            let case = Case::new(&Launch { barrier, ..launch });
            case.run(Sanitizer::None, &[]).expect_code(0, barrier);
            case.expect("verify");
        }
    }
}

#[test]
fn jitter_changes_no_result_and_makes_no_race() {
    for sanitizer in Sanitizer::ALL {
        let case = Case::new(&Launch::default());
        for seed in ["1", "2"] {
            case.run(sanitizer, &["--jitter", seed])
                .expect_code(0, &format!("{sanitizer:?}, seed {seed}"));
            case.expect("verify");
        }
    }
}

#[test]
fn each_barrier_left_out_is_a_race() {
    for barrier in BARRIERS {
        let case = Case::new(&Launch {
            barrier,
            ..Launch::default()
        });
        let listed = case.run(Sanitizer::Thread, &["--list-sites"]);
        let listed = listed.expect_code(0, barrier).stdout;
        let sites: Vec<&str> = listed.lines().collect();
        let of = |file: &str| sites.iter().filter(|site| site.starts_with(file)).count();
        assert_eq!(of("emulator/self_test.cu:"), 4, "{sites:?}");
        assert_eq!(
            of("core/barrier.h:"),
            if barrier == "epoch" { 2 } else { 0 }
        );
        assert!(sites.contains(&"qkv") && sites.contains(&"output"));
        for site in sites {
            let ended = case.run(Sanitizer::Thread, &["--leave-out", site]);
            let ended = ended.expect_code(RACE, site);
            assert!(ended.stderr.contains("data race"), "{}", ended.stderr);
        }
    }
}

#[test]
fn only_what_orders_memory_on_a_gpu_orders_it_here() {
    for (kernel, code) in [
        ("exchange_for_barrier", RACE),
        ("relaxed_flag", RACE),
        ("ordered_flag", 0),
    ] {
        let case = Case::new(&Launch {
            kernel,
            ..Launch::default()
        });
        case.run(Sanitizer::Thread, &[]).expect_code(code, kernel);
    }
}

#[test]
fn a_stalled_block_is_reported_and_all_threads_leave() {
    for sanitizer in Sanitizer::ALL {
        // Two barriers a step: the third is the one behind phase qkv of step 1.
        let case = Case::new(&Launch {
            blocks: 3,
            stall_epoch: 3,
            ..Launch::default()
        });
        case.run(sanitizer, &[])
            .expect_code(0, &format!("{sanitizer:?}"));
        case.expect("stalled");
    }
}

#[test]
fn threads_that_miss_each_other_are_named() {
    for (kernel, message) in [
        ("two_barriers", "thread 0 is at emulator/self_test.cu:"),
        (
            "lost_barrier",
            "32 threads at nothing: they left the kernel",
        ),
    ] {
        let case = Case::new(&Launch {
            kernel,
            ..Launch::default()
        });
        let ended = case.run(Sanitizer::None, &[]);
        assert_eq!(ended.code, None, "{kernel}");
        assert!(ended.stderr.contains(message), "{}", ended.stderr);
    }
}

#[test]
fn memory_that_is_not_the_kernels_is_guarded() {
    for (kernel, sanitizer, code) in [
        (
            "beyond_shared",
            Sanitizer::AddressAndUndefined,
            BAD_MEMORY_ACCESS,
        ),
        ("writes_weights", Sanitizer::None, 5),
    ] {
        let launch = Launch {
            kernel,
            ..Launch::default()
        };
        Case::new(&launch)
            .run(sanitizer, &[])
            .expect_code(code, kernel);
    }
}

#[test]
fn wrong_use_is_refused() {
    let case = Case::new(&Launch::default());
    let leave_out = ["--leave-out", "core/barrier.h:1"];
    let never_reached = case.run(Sanitizer::None, &leave_out);
    let never_reached = never_reached.expect_code(3, "a barrier that there is not");
    assert!(never_reached.stderr.contains("core/barrier.h:1"));
    for launch in [
        Launch {
            kernel: "no_such_kernel",
            ..Launch::default()
        },
        Launch {
            threads: 33,
            ..Launch::default()
        },
        Launch {
            blocks: 0,
            ..Launch::default()
        },
    ] {
        let refused = Case::new(&launch).run(Sanitizer::None, &[]);
        refused.expect_code(4, launch.kernel);
    }

    let path = case.path("case");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(Path::new(&path), &whole[..whole.len() - 1]).unwrap();
    case.run(Sanitizer::None, &[])
        .expect_code(2, "a case file that is cut short");
}

//! NVML's counter on a machine without a GPU: by a library of the same interface, which this compiles and
//! the program loads as it would load the driver's.
#![cfg(target_os = "linux")]

use std::path::Path;
use std::process::Command;

use onegrid::measure::energy::nvml::NvmlCounter;
use onegrid::measure::energy::{Counter, measure};

/// Set in the process that finds the library.
const INSIDE: &str = "ONEGRID_TEST_INSIDE";
const UUID: &str = "GPU-00112233-4455-6677-8899-aabbccddeeff";

#[test]
fn joules_and_watts_are_those_of_the_gpu_with_this_uuid() {
    if std::env::var_os(INSIDE).is_some() {
        return check();
    }
    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nvml/library.c");
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let compiler = cc::Build::new()
        .target(&target)
        .host(&target)
        .opt_level(0)
        .cargo_metadata(false)
        .get_compiler();
    let mut compile = compiler.to_command();
    compile.args(["-shared", "-fPIC", "-o"]);
    compile
        .arg(folder.path().join("libnvidia-ml.so.1"))
        .arg(source);
    assert!(compile.status().unwrap().success());
    // The loader reads its path when a process starts.
    let mut inside = Command::new(std::env::current_exe().unwrap());
    inside
        .env(INSIDE, "1")
        .env("LD_LIBRARY_PATH", folder.path());
    inside.args([
        "--exact",
        "joules_and_watts_are_those_of_the_gpu_with_this_uuid",
        "--nocapture",
    ]);
    assert!(inside.status().unwrap().success());
}

fn check() {
    let unknown = NvmlCounter::open("GPU-ffffffff-4455-6677-8899-aabbccddeeff");
    let message = unknown.err().unwrap().to_string();
    assert!(
        message.contains("cannot find the GPU by its UUID"),
        "{message}"
    );
    let mut counter = NvmlCounter::open(UUID).unwrap();
    assert_eq!(counter.name(), "A GPU (NVML)");
    let reading = counter.read().unwrap();
    // Opening it was a reading too.
    assert_eq!((reading.joules, reading.watts), (vec![12.5], Some(83.25)));
    let mut counters: Vec<Box<dyn Counter>> = vec![Box::new(counter)];
    let ((), consumed) = measure(&mut counters, || ());
    let consumed = consumed.into_iter().next().unwrap().unwrap();
    assert_eq!(consumed.joules % 12.5, 0.0);
    assert!(consumed.joules >= 12.5 && consumed.watts.iter().all(|watts| *watts == 83.25));
}

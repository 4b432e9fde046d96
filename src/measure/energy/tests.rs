//! A powercap folder made of files, and counters that tell what they are told to.

use std::path::Path;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};

use super::nvml::NvmlCounter;
use super::powercap::Powercap;
use super::*;

/// Files as in `/sys/class/powercap`.
struct FakePowercap(tempfile::TempDir);

impl FakePowercap {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn zone(&self, zone: &str, name: &str, energy: u64, range: Option<u64>) {
        let folder = self.path().join(zone);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("name"), format!("{name}\n")).unwrap();
        if let Some(range) = range {
            std::fs::write(folder.join("max_energy_range_uj"), format!("{range}\n")).unwrap();
        }
        self.set(zone, energy);
    }

    fn set(&self, zone: &str, energy: u64) {
        let path = self.path().join(zone).join("energy_uj");
        std::fs::write(path, format!("{energy}\n")).unwrap();
    }

    fn refused(&self) -> String {
        Powercap::open(self.path()).unwrap_err().to_string()
    }
}

/// 2^32 counts of 61 uJ, as on many Intel processors.
const RANGE: u64 = 262_143_328_850;

#[test]
fn packages_and_their_memory_are_counted_and_nothing_twice() {
    let folder = FakePowercap::new();
    folder.zone("intel-rapl:0", "package-0", 100, Some(RANGE));
    folder.zone("intel-rapl:0:0", "core", 10, Some(RANGE));
    folder.zone("intel-rapl:0:1", "dram", 50, Some(RANGE));
    folder.zone("intel-rapl:1", "package-1", 7, Some(RANGE));
    folder.zone("intel-rapl:2", "psys", 1, Some(RANGE));
    folder.zone("intel-rapl-mmio:0", "package-0", 1, Some(RANGE));
    std::fs::create_dir(folder.path().join("intel-rapl")).unwrap();
    let mut counter = Powercap::open(folder.path()).unwrap();
    assert_eq!(
        counter.parts(),
        ["package-0", "package-0 dram", "package-1"]
    );
    assert_eq!(
        counter.name(),
        "package-0, package-0 dram, package-1 (RAPL)"
    );
    assert_eq!(counter.read().unwrap().joules, [0.0, 0.0, 0.0]);
    for zone in ["intel-rapl:0:0", "intel-rapl:2", "intel-rapl-mmio:0"] {
        folder.set(zone, 9_000_000);
    }
    folder.set("intel-rapl:0", 2_000_100);
    folder.set("intel-rapl:0:1", 500_050);
    folder.set("intel-rapl:1", 3_000_007);
    let reading = counter.read().unwrap();
    assert_eq!((reading.joules, reading.watts), (vec![2.0, 0.5, 3.0], None));
}

#[test]
fn a_counter_that_wraps_around_goes_on() {
    let folder = FakePowercap::new();
    folder.zone("intel-rapl:0", "package-0", RANGE - 1_000_000, Some(RANGE));
    let mut counter = Powercap::open(folder.path()).unwrap();
    let mut joules_at = |energy| {
        folder.set("intel-rapl:0", energy);
        counter.read().unwrap().joules[0]
    };
    assert_eq!(joules_at(500_000), 1.5);
    assert_eq!(
        joules_at(RANGE - 500_000),
        (RANGE as f64 + 500_000.0) * 1e-6
    );
    // Again, and by less than it had before.
    assert_eq!(joules_at(0), (RANGE + 1_000_000) as f64 * 1e-6);
}

#[test]
fn a_counter_that_goes_back_without_a_range_is_not_guessed() {
    let folder = FakePowercap::new();
    folder.zone("intel-rapl:0", "package-0", 700, None);
    let mut counter = Powercap::open(folder.path()).unwrap();
    folder.set("intel-rapl:0", 900);
    assert!((counter.read().unwrap().joules[0] - 200e-6).abs() < 1e-12);
    folder.set("intel-rapl:0", 100);
    let message = counter.read().unwrap_err().to_string();
    assert!(
        message.contains("package-0 went from 900 to 100"),
        "{message}"
    );
}

#[test]
fn what_is_missing_is_named() {
    let folder = FakePowercap::new();
    let nowhere = Powercap::open(&folder.path().join("no"))
        .unwrap_err()
        .to_string();
    assert!(nowhere.starts_with("no powercap zone"), "{nowhere}");
    assert!(folder.refused().contains("holds no zone of RAPL"));
    folder.zone("intel-rapl:0", "psys", 1, Some(RANGE));
    assert!(
        folder.refused().contains("holds intel-rapl:0"),
        "{}",
        folder.refused()
    );
    let energy = folder.path().join("intel-rapl:1/energy_uj");
    folder.zone("intel-rapl:1", "package-0", 1, Some(RANGE));
    std::fs::write(&energy, "many\n").unwrap();
    assert!(
        folder.refused().contains("'many' is no number"),
        "{}",
        folder.refused()
    );
    std::fs::remove_file(&energy).unwrap();
    let message = folder.refused();
    assert!(message.contains("intel-rapl:1/energy_uj"), "{message}");
}

/// Root may read everything: so as nobody, for whom the file is root's, where this is root.
#[cfg(target_os = "linux")]
#[test]
fn a_file_that_root_alone_may_read_says_so() {
    use std::os::unix::fs::PermissionsExt;

    let folder = FakePowercap::new();
    folder.zone("intel-rapl:0", "package-0", 1, Some(RANGE));
    let energy = folder.path().join("intel-rapl:0/energy_uj");
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(folder.path(), 0o755);
    mode(&energy, 0o000);
    let path = folder.path().to_owned();
    let as_nobody = std::thread::spawn(move || {
        // SAFETY: changes what this thread alone may open; it ends right after.
        unsafe { libc::setfsuid(65_534) };
        Powercap::open(&path).unwrap_err().to_string()
    });
    let message = as_nobody.join().unwrap();
    assert!(message.starts_with("permission denied"), "{message}");
    assert!(
        message.contains("energy_uj is readable by root only"),
        "{message}"
    );
}

#[test]
fn a_machine_without_nvml_is_told_what_it_lacks() {
    // On a machine with a GPU it is the GPU that is not known.
    let message = match NvmlCounter::open("GPU-00000000-0000-0000-0000-000000000000") {
        Ok(_) => panic!("there is no such GPU"),
        Err(error) => error.to_string(),
    };
    assert!(message.starts_with("NVML: cannot "), "{message}");
}

/// Tells these readings one after the other, then the last one again and again.
struct Scripted {
    readings: Vec<Reading>,
    next: usize,
}

impl Scripted {
    fn new(readings: impl IntoIterator<Item = (f64, Option<f64>)>) -> Self {
        let reading = |(joules, watts)| Reading {
            joules: vec![joules],
            watts,
        };
        Self {
            readings: readings.into_iter().map(reading).collect(),
            next: 0,
        }
    }
}

impl Counter for Scripted {
    fn name(&self) -> String {
        "a script".into()
    }

    fn parts(&self) -> Vec<String> {
        vec!["all".into()]
    }

    fn read(&mut self) -> Result<Reading, EnergyError> {
        let reading = self.readings[self.next.min(self.readings.len() - 1)].clone();
        self.next += 1;
        Ok(reading)
    }
}

fn samples(of: &[(f64, &[f64], Option<f64>)]) -> Vec<Sample> {
    of.iter()
        .map(|&(seconds, joules, watts)| Sample {
            seconds,
            reading: Reading {
                joules: joules.to_vec(),
                watts,
            },
        })
        .collect()
}

#[test]
fn energy_is_the_counters_difference_and_power_what_it_is_between_readings() {
    let counter = Scripted::new([]);
    // 10 W, then 30 W, then a last reading right after: 1000 W of nothing but its own jitter.
    let readings = [
        (0.0, &[5.0][..], None),
        (1.0, &[15.0], None),
        (2.0, &[45.0], None),
        (2.001, &[46.0], None),
    ];
    let found = consumed(&counter, &samples(&readings)).unwrap();
    assert_eq!((found.joules, found.seconds), (41.0, 2.001));
    assert_eq!(found.average_watts, 41.0 / 2.001);
    assert_eq!((found.peak_watts, found.watts), (30.0, vec![10.0, 30.0]));
    assert_eq!(found.parts, []);
}

#[test]
fn power_that_the_hardware_tells_is_taken_as_told() {
    let counter = Scripted::new([]);
    let readings = [
        (0.0, &[0.0][..], Some(50.0)),
        (1.0, &[60.0], Some(75.0)),
        (2.0, &[120.0], Some(70.0)),
    ];
    let found = consumed(&counter, &samples(&readings)).unwrap();
    assert_eq!((found.peak_watts, found.average_watts), (75.0, 60.0));
    assert_eq!(found.watts, [50.0, 75.0, 70.0]);
}

#[test]
fn parts_add_up_to_the_whole() {
    let folder = FakePowercap::new();
    folder.zone("intel-rapl:0", "package-0", 0, Some(RANGE));
    folder.zone("intel-rapl:0:0", "dram", 0, Some(RANGE));
    let counter = Powercap::open(folder.path()).unwrap();
    let readings = samples(&[(0.0, &[0.0, 1.0], None), (2.0, &[20.0, 5.0], None)]);
    let found = consumed(&counter, &readings).unwrap();
    assert_eq!((found.joules, found.average_watts), (24.0, 12.0));
    let parts: Vec<_> = found
        .parts
        .iter()
        .map(|part| (&*part.name, part.joules))
        .collect();
    assert_eq!(parts, [("package-0", 20.0), ("package-0 dram", 4.0)]);
}

#[test]
fn a_counter_that_stands_still_measures_nothing() {
    let mut counters: Vec<Box<dyn Counter>> = vec![Box::new(Scripted::new([(3.0, None)]))];
    let ((), found) = measure(&mut counters, || ());
    let message = found[0].as_ref().unwrap_err().to_string();
    assert!(message.contains("a script stood still"), "{message}");
}

#[test]
fn the_first_reading_comes_before_the_work_and_the_last_one_after_it() {
    /// Joules that the work itself counts.
    struct Shared(Arc<Mutex<f64>>);
    impl Counter for Shared {
        fn name(&self) -> String {
            "shared".into()
        }
        fn parts(&self) -> Vec<String> {
            vec!["all".into()]
        }
        fn read(&mut self) -> Result<Reading, EnergyError> {
            let joules = vec![*self.0.lock().unwrap()];
            Ok(Reading {
                joules,
                watts: None,
            })
        }
    }
    let joules = Arc::new(Mutex::new(1.0));
    let fails = FakePowercap::new();
    fails.zone("intel-rapl:0", "package-0", 1, Some(RANGE));
    let mut counters: Vec<Box<dyn Counter>> = vec![
        Box::new(Shared(Arc::clone(&joules))),
        Box::new(Powercap::open(fails.path()).unwrap()),
    ];
    let (result, found) = measure(&mut counters, || {
        std::fs::remove_file(fails.path().join("intel-rapl:0/energy_uj")).unwrap();
        *joules.lock().unwrap() += 41.0;
        "done"
    });
    assert_eq!(result, "done");
    assert_eq!(found[0].as_ref().unwrap().joules, 41.0);
    // One counter that fails does not keep the other from counting.
    assert!(matches!(found[1], Err(EnergyError::Read { .. })));
}

#[test]
fn readings_go_on_while_the_work_does() {
    /// Says that it was read.
    struct Telling(f64, Sender<()>);
    impl Counter for Telling {
        fn name(&self) -> String {
            "telling".into()
        }
        fn parts(&self) -> Vec<String> {
            vec!["all".into()]
        }
        fn read(&mut self) -> Result<Reading, EnergyError> {
            self.0 += 1.0;
            // The work hears the first few alone.
            let _ = self.1.send(());
            let joules = vec![self.0];
            Ok(Reading {
                joules,
                watts: None,
            })
        }
    }
    let (tell, told) = channel();
    let mut counters: Vec<Box<dyn Counter>> = vec![Box::new(Telling(0.0, tell))];
    let ((), found) = measure(&mut counters, move || {
        for reading in 0..4 {
            let heard = told.recv_timeout(Duration::from_secs(60));
            assert!(heard.is_ok(), "reading {reading} never came");
        }
    });
    // Four before the work ended, and one after it.
    assert!(found[0].as_ref().unwrap().joules >= 4.0);
}

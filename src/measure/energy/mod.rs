//! Energy: how many joules some work took, by the counters that the hardware keeps.
//!
//! - here: counters, and a measurement with several of them at once
//! - [`powercap`]: CPU packages and their memory, by RAPL through Linux's powercap
//! - [`nvml`]: an NVIDIA GPU's board, by the driver's counter
//!
//! A counter is read ten times a second while the work runs, by a thread that sleeps in between: for the
//! power over time, and so that a counter of few bits can't wrap around unseen. Energy is the counter's
//! difference, not a sum of power samples: an A100 or H100 shows its power for a quarter of the time only
//! (Yang et al., arXiv 2312.02741). GPU counters move every 20 to 100 ms, so that work should last for ten
//! seconds, of which that is 1%.

pub mod nvml;
pub mod powercap;

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Time between two readings.
const PERIOD: Duration = Duration::from_millis(100);

/// Why there is no energy to report.
#[derive(Debug, thiserror::Error)]
pub enum EnergyError {
    /// A system without powercap.
    #[error(
        "no powercap zone: {} does not exist (as in most virtual machines and containers)",
        folder.display()
    )]
    NoPowercap {
        /// The folder that zones would be in.
        folder: PathBuf,
    },
    /// Zones, but none of a CPU package.
    #[error(
        "no powercap zone of a CPU package: {} holds {found}; expected intel-rapl:0 with the name \
         package-0",
        folder.display()
    )]
    NoPackage {
        /// The folder.
        folder: PathBuf,
        /// What it holds.
        found: String,
    },
    /// A file that others may not read.
    #[error(
        "permission denied: {} is readable by root only, as on Linux since 5.10; run as root, or let \
         an administrator grant reading",
        path.display()
    )]
    Permission {
        /// The file.
        path: PathBuf,
    },
    /// A file that can't be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// A file that holds no number.
    #[error("{}: '{found}' is no number of microjoules", path.display())]
    NotANumber {
        /// The file.
        path: PathBuf,
        /// What it holds.
        found: String,
    },
    /// A counter that went back, and does not say where it wraps around.
    #[error(
        "the counter of {zone} went from {before} to {after} uJ, and max_energy_range_uj is missing"
    )]
    WentBack {
        /// The zone.
        zone: String,
        /// Its value before.
        before: u64,
        /// Its value after.
        after: u64,
    },
    /// A counter that does not count.
    #[error(
        "the counter of {counter} stood still for {seconds:.1} s (as in some virtual machines)"
    )]
    StoodStill {
        /// What it counts.
        counter: String,
        /// For how long.
        seconds: f64,
    },
    /// No NVML, or one that fails.
    #[error("NVML: {what}: {word}")]
    Nvml {
        /// What was asked of it.
        what: &'static str,
        /// Its word.
        word: String,
    },
}

/// A counter at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Joules since the counter was opened, of each of its parts.
    pub joules: Vec<f64>,
    /// Watts as the hardware itself tells them, where it does.
    pub watts: Option<f64>,
}

/// Something that counts energy.
pub trait Counter: Send {
    /// What it counts, in a few words, and by which means.
    fn name(&self) -> String;

    /// The parts that are counted apart and add up to the whole.
    fn parts(&self) -> Vec<String>;

    /// Reads it.
    ///
    /// # Errors
    /// If it can't be read any more.
    fn read(&mut self) -> Result<Reading, EnergyError>;
}

/// What some work took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Consumed {
    /// Seconds between the first reading and the last.
    pub seconds: f64,
    /// Joules of all parts.
    pub joules: f64,
    /// Joules over seconds.
    pub average_watts: f64,
    /// The most watts of a sample.
    pub peak_watts: f64,
    /// Joules of each part, where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
    /// Watts over time: as the hardware tells them at each reading, or from one reading to the next.
    pub watts: Vec<f32>,
}

/// A part of what a counter counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Its joules.
    pub joules: f64,
}

/// A reading, and when it was taken.
#[derive(Clone, Debug)]
struct Sample {
    seconds: f64,
    reading: Reading,
}

/// Does `work`, and measures it with all `counters`.
pub fn measure<T>(
    counters: &mut [Box<dyn Counter>],
    work: impl FnOnce() -> T,
) -> (T, Vec<Result<Consumed, EnergyError>>) {
    let mut samplers: Vec<Sampler> = counters.iter_mut().map(Sampler::new).collect();
    let start = Instant::now();
    read_all(&mut samplers, start);
    let result = std::thread::scope(|scope| {
        // Hung up when the work is done, also by a panic.
        let (_done, is_done) = channel();
        let samplers = &mut samplers;
        scope.spawn(move || sample(samplers, start, &is_done));
        work()
    });
    read_all(&mut samplers, start);
    (result, samplers.into_iter().map(Sampler::finish).collect())
}

fn sample(samplers: &mut [Sampler], start: Instant, is_done: &Receiver<()>) {
    while is_done.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
        read_all(samplers, start);
    }
}

fn read_all(samplers: &mut [Sampler], start: Instant) {
    samplers.iter_mut().for_each(|sampler| sampler.read(start));
}

/// A counter and what was read of it.
struct Sampler<'a> {
    counter: &'a mut dyn Counter,
    /// The readings, or what ended them.
    samples: Result<Vec<Sample>, EnergyError>,
}

impl<'a> Sampler<'a> {
    fn new(counter: &'a mut Box<dyn Counter>) -> Self {
        Self {
            counter: counter.as_mut(),
            samples: Ok(Vec::new()),
        }
    }

    fn read(&mut self, start: Instant) {
        let Ok(samples) = &mut self.samples else {
            return;
        };
        match self.counter.read() {
            Ok(reading) => samples.push(Sample {
                seconds: start.elapsed().as_secs_f64(),
                reading,
            }),
            Err(error) => self.samples = Err(error),
        }
    }

    fn finish(self) -> Result<Consumed, EnergyError> {
        consumed(self.counter, &self.samples?)
    }
}

/// What lies between the first of `samples` and the last; there are two at least.
fn consumed(counter: &dyn Counter, samples: &[Sample]) -> Result<Consumed, EnergyError> {
    let (first, last) = (&samples[0], &samples[samples.len() - 1]);
    let between = |a: &Sample, b: &Sample| {
        let parts = b.reading.joules.iter().zip(&a.reading.joules);
        parts.map(|(b, a)| b - a).sum::<f64>()
    };
    let (joules, seconds) = (between(first, last), last.seconds - first.seconds);
    if joules <= 0.0 {
        return Err(EnergyError::StoodStill {
            counter: counter.name(),
            seconds,
        });
    }
    let told: Option<Vec<f64>> = samples.iter().map(|sample| sample.reading.watts).collect();
    let watts = told.unwrap_or_else(|| {
        // The last reading comes whenever the work ends, maybe right after another one.
        let apart =
            |pair: &&[Sample]| pair[1].seconds - pair[0].seconds >= PERIOD.as_secs_f64() / 2.0;
        let pairs = samples.windows(2).filter(apart);
        let watts =
            pairs.map(|pair| between(&pair[0], &pair[1]) / (pair[1].seconds - pair[0].seconds));
        watts.collect()
    });
    let average_watts = joules / seconds;
    let names = counter.parts();
    let parts = names.iter().enumerate().map(|(index, name)| Part {
        name: name.clone(),
        joules: last.reading.joules[index] - first.reading.joules[index],
    });
    Ok(Consumed {
        seconds,
        joules,
        average_watts,
        peak_watts: watts.iter().copied().fold(average_watts, f64::max),
        parts: match names.len() {
            1 => Vec::new(),
            _ => parts.collect(),
        },
        watts: watts.iter().map(|&watts| watts as f32).collect(),
    })
}

#[cfg(test)]
mod tests;

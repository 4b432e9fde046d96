//! From a step's phases and a card's constants to microseconds.

use onegrid::measure::step_budget::{Phase, Step, Waits};

use crate::cards::{
    BATCH_CYCLES, BLOCK_BARRIER_CYCLES, COPY_NS, Card, HOST_SAMPLE_US, L1_CYCLES, LAUNCH_US,
    LOADED, REDUCTION_CYCLES, ROUND_TRIP_US, Range, SHARED_BYTES,
};

/// Which end of every range is reckoned with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All in favour of speed.
    Best,
    Middle,
    /// All against it.
    Worst,
}

/// A constant whose weight is asked for: multiplied with a factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Constant {
    Bandwidth,
    Barrier,
    L2,
    Memory,
    /// Reductions, block barriers, batches and L1, all in cycles.
    Cycles,
    Host,
}

impl Constant {
    pub const ALL: [Self; 6] = [
        Self::Bandwidth,
        Self::Barrier,
        Self::L2,
        Self::Memory,
        Self::Cycles,
        Self::Host,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Bandwidth => "read bandwidth",
            Self::Barrier => "grid barrier",
            Self::L2 => "L2 latency",
            Self::Memory => "memory latency",
            Self::Cycles => "on-chip cycles",
            Self::Host => "host",
        }
    }
}

/// What the host adds to each token.
#[derive(Clone, Copy, Debug, Default)]
pub struct Host {
    /// Calls that wait for the card.
    pub round_trips: usize,
    /// Kernels launched behind another.
    pub launches: usize,
    /// Bytes of logits copied, to be sampled from.
    pub logits: usize,
}

/// Where the time of a token goes, us.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Time {
    /// Bytes over bandwidth.
    pub bytes: f64,
    pub barriers: f64,
    /// Latency that follows a barrier.
    pub waits: f64,
    /// What of the last two passes while bytes come in that were asked for before.
    pub hidden: f64,
    pub host: f64,
}

impl Time {
    pub fn total(self) -> f64 {
        self.bytes + self.barriers + self.waits - self.hidden + self.host
    }

    pub fn tokens_per_second(self) -> f64 {
        1e6 / self.total()
    }

    /// The largest of what it consists of. Barriers and waits are told less what is hidden, in
    /// equal parts.
    pub fn largest(self) -> &'static str {
        let latency = self.barriers + self.waits;
        let exposed = (latency - self.hidden) / latency;
        let terms = [
            ("bytes", self.bytes),
            ("barriers", self.barriers * exposed),
            ("waits", self.waits * exposed),
            ("host", self.host),
        ];
        terms
            .into_iter()
            .max_by(|a, b| a.1.total_cmp(&b.1))
            .expect("four terms")
            .0
    }
}

/// A card with one end of its ranges, and perhaps one constant changed.
#[derive(Clone, Copy, Debug)]
pub struct Reckoning {
    pub card: Card,
    pub end: End,
    pub changed: Option<(Constant, f64)>,
    /// Whether the fence in a barrier waits for loads that are under way (grid.sync), so that
    /// weights asked for before it don't arrive during it.
    pub fence_waits: bool,
}

impl Reckoning {
    pub fn new(card: Card, end: End) -> Self {
        Self {
            card,
            end,
            changed: None,
            fence_waits: false,
        }
    }

    fn factor(&self, constant: Constant) -> f64 {
        match self.changed {
            Some((changed, factor)) if changed == constant => factor,
            _ => 1.0,
        }
    }

    /// Of a constant that costs time.
    fn cost(&self, range: Range, constant: Constant) -> f64 {
        let cost = match self.end {
            End::Best => range.low,
            End::Middle => range.middle,
            End::Worst => range.high,
        };
        self.factor(constant) * cost
    }

    /// Of a constant that saves time.
    fn speed(&self, range: Range, constant: Constant) -> f64 {
        let speed = match self.end {
            End::Best => range.high,
            End::Middle => range.middle,
            End::Worst => range.low,
        };
        self.factor(constant) * speed
    }

    fn memory_latency(&self) -> f64 {
        self.cost(self.card.memory, Constant::Memory) * 1e-3
    }

    /// Bytes a microsecond: the card's, or what `in_flight` bytes allow by Little's law.
    fn bandwidth(&self, in_flight: Option<usize>) -> f64 {
        let reached = self.speed(self.card.bandwidth, Constant::Bandwidth) * 1e3;
        let latency = self.card.memory.times(LOADED);
        let latency = self.cost(latency, Constant::Memory) * 1e-3;
        match in_flight {
            Some(bytes) => reached.min(bytes as f64 / latency),
            None => reached,
        }
    }

    fn barrier(&self) -> f64 {
        self.cost(self.card.barrier, Constant::Barrier) * 1e-3
    }

    fn waits(&self, waits: Waits) -> f64 {
        let cycles = |count: usize, range| {
            count as f64 * self.cost(range, Constant::Cycles) / self.card.clock * 1e-3
        };
        waits.l2 as f64 * self.cost(self.card.l2, Constant::L2) * 1e-3
            + waits.memory as f64 * self.memory_latency()
            + cycles(waits.l1, L1_CYCLES)
            + cycles(waits.reductions, REDUCTION_CYCLES)
            + cycles(waits.block_barriers, BLOCK_BARRIER_CYCLES)
            + cycles(waits.batches, BATCH_CYCLES)
    }

    fn host(&self, host: Host) -> f64 {
        let of = |range| self.cost(range, Constant::Host);
        let sampling = match host.logits {
            0 => 0.0,
            bytes => bytes as f64 * 1e-3 * of(COPY_NS) + of(HOST_SAMPLE_US),
        };
        host.round_trips as f64 * of(ROUND_TRIP_US)
            + host.launches as f64 * of(LAUNCH_US)
            + sampling
    }

    /// How long `step` takes, with `in_flight` bytes on their way at once (all that the card can
    /// use, if not known).
    pub fn time(&self, step: &Step, in_flight: Option<usize>, host: Host) -> Time {
        let bandwidth = self.bandwidth(in_flight);
        let mut time = Time {
            host: self.host(host),
            ..Time::default()
        };
        let phases: Vec<&Phase> = step.phases().collect();
        let mut follows_barrier = false;
        for (index, phase) in phases.iter().enumerate() {
            let lent = phases.get(index + 1).map_or(0, |next| next.early);
            let bytes = phase.bytes - phase.early + lent;
            let preload = phase.preload - phase.early + lent;
            let barrier = match follows_barrier {
                true => self.barrier(),
                false => 0.0,
            };
            let fence = match follows_barrier && self.fence_waits && phase.preload > phase.early {
                true => self.memory_latency(),
                false => 0.0,
            };
            // What was not asked for before can only come in after the waits, and while the trips
            // wait; what was, at any time.
            let streamed = (bytes - preload) as f64 / bandwidth;
            let trips = phase.trips as f64 * self.waits(phase.trip);
            let waits = self.waits(phase.waits) + fence + (trips - streamed).max(0.0);
            let all = bytes as f64 / bandwidth;
            let took = all.max(barrier + waits + streamed);
            time.bytes += all;
            time.barriers += barrier;
            time.waits += waits;
            time.hidden += all + barrier + waits - took;
            follows_barrier = phase.barrier;
        }
        time
    }

    /// The least that a step can take whose weights never stop streaming into shared memory (V2):
    /// bytes over bandwidth, or the chain of barriers and waits and the weights' way out of shared
    /// memory.
    pub fn streamed(&self, step: &Step) -> (f64, f64) {
        let time = self.time(step, None, Host::default());
        let blocks = self.card.multiprocessors as f64;
        let from_shared = step.bytes() as f64 / (blocks * SHARED_BYTES * self.card.clock * 1e3);
        (time.bytes, time.barriers + time.waits + from_shared)
    }
}

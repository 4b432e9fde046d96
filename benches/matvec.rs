//! The matrix products of a decode step, beside a plain read of the same bytes.
//!
//! `cargo bench --bench matvec [-- FILTER]`, a minute in all, with nothing else running. Every
//! product has the shape of a matrix of Qwen3-0.6B and is made by a team of one thread for each
//! core, each its own rows, as in the engine, but with no barriers between them. One iteration
//! multiplies as many copies of the matrix as fill [`POOL_BYTES`], one after the other, so that
//! weights always come from memory.
//!
//! Between the samples the bandwidth of a plain read of that memory is measured with as many
//! threads. The line `of a plain read` is the median of the samples' shares of it: 100% is the
//! floor, which no product of one column can pass but by noise.

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{
    BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use half::bf16;
use onegrid::engine::cpu::buffer::SharedBuffer;
use onegrid::engine::cpu::kernels::panel::{PANEL_COLUMNS, Packing, PanelProduct};
use onegrid::engine::cpu::kernels::product::Product;
use onegrid::engine::cpu::kernels::{self, Kernels};
use onegrid::engine::cpu::team::{Team, Waiting};
use onegrid::measure::bandwidth::Bandwidth;
use onegrid::measure::bandwidth::team::ReadTeam;
use onegrid::measure::statistics::Summary;
use onegrid::model::shapes;
use onegrid::model::storage::{Slice, Storage, elements_mut, huge_pages};

/// Far beyond any last-level cache that one socket shares, and room for two heads.
const POOL_BYTES: usize = 640 << 20;
/// How long the plain read between two samples takes, in seconds.
const READ_SECONDS: f64 = 0.05;
/// The widest input: a product of a panel.
const MAX_COLUMNS: usize = PANEL_COLUMNS;

/// A matrix of the model.
#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    rows: usize,
    k: usize,
}

/// How a matrix is multiplied.
#[derive(Clone, Copy)]
enum Way {
    /// A row at a time, for as many columns.
    Stream(usize),
    /// A packed panel of columns, as prefill does.
    Panel,
}

fn matrices() -> Vec<Shape> {
    let config = shapes::config("qwen3-0.6b").expect("a named shape");
    let shape = |name, rows, k| Shape { name, rows, k };
    let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
    vec![
        shape("q", config.q_size(), hidden),
        shape("k", config.kv_size(), hidden),
        shape("gate", intermediate, hidden),
        shape("down", hidden, intermediate),
        shape("head", config.vocab_size, hidden),
    ]
}

/// Weights in memory, and who multiplies and reads them.
struct Bench {
    team: Team,
    weights: Slice<bf16>,
    floor: Bandwidth,
    x: SharedBuffer<f32>,
    /// `x` as a kernel wants it.
    prepared: SharedBuffer<f32>,
    out: SharedBuffer<f32>,
}

impl Bench {
    fn new() -> Self {
        let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let mut pool = huge_pages(POOL_BYTES).expect("memory for the weights");
        for (index, weight) in elements_mut::<bf16>(&mut pool).iter_mut().enumerate() {
            // Whatever is finite and differs: the low bits of a multiplicative hash, in [1, 2).
            *weight =
                bf16::from_bits(0x3f80 | (index.wrapping_mul(0x9e37_79b9) >> 25) as u16 & 0x7f);
        }
        let storage = Arc::new(Storage::Anonymous(pool));
        let readers = ReadTeam::new(threads.get()).expect("threads");
        let floor = Bandwidth::calibrate(readers, storage.clone(), READ_SECONDS);
        let widest = matrices().iter().map(|shape| shape.k).max().unwrap_or(0);
        let tallest = matrices().iter().map(|shape| shape.rows).max().unwrap_or(0);
        let buffer = |len| SharedBuffer::new(len, "a benchmark").expect("memory");
        Self {
            team: Team::new(threads, Waiting::default()).expect("threads"),
            weights: Slice::new(storage, 0..POOL_BYTES).expect("maps are aligned"),
            floor: floor.expect("the memory can be read"),
            x: buffer(widest * MAX_COLUMNS),
            prepared: buffer(widest * MAX_COLUMNS),
            out: buffer(tallest * MAX_COLUMNS),
        }
    }

    /// How often a matrix fits into the memory.
    fn copies(&self, shape: Shape) -> usize {
        self.weights.as_slice().len() / (shape.rows * shape.k)
    }

    /// Makes the input as `way` reads it.
    fn prepare(&mut self, kernels: &Kernels, shape: Shape, way: Way) {
        let k = shape.k;
        let len = k * MAX_COLUMNS;
        let (x, prepared) = (self.x.pointer(0..len), self.prepared.pointer(0..len));
        // SAFETY: both hold k numbers for each of MAX_COLUMNS columns, and the team is idle.
        unsafe {
            for index in 0..len {
                *x.add(index) = (index % 17) as f32 - 8.0;
            }
            match way {
                Way::Stream(columns) => {
                    for column in 0..columns {
                        (kernels.pair)(x.add(column * k), prepared.add(column * k), k);
                    }
                }
                Way::Panel => (kernels.pack)(&Packing {
                    x,
                    x_stride: k,
                    columns: PANEL_COLUMNS,
                    first: 0,
                    end: k,
                    panel: prepared,
                }),
            }
        }
    }

    /// Multiplies every copy of the matrix.
    fn multiply(&mut self, kernels: &Kernels, shape: Shape, way: Way) {
        let Shape { rows, k, .. } = shape;
        let copies = self.copies(shape);
        let (weights, x, out) = (self.weights.as_slice(), &self.prepared, &self.out);
        self.team.run(&|member| {
            let share = member.share(rows);
            if share.is_empty() {
                return;
            }
            for copy in 0..copies {
                let start_of = |copy| &weights[(copy * rows + share.start) * k..];
                let matrix = start_of(copy)[..share.len() * k].as_ptr();
                let next = start_of((copy + 1) % copies).as_ptr();
                let x = x.pointer(0..k * MAX_COLUMNS).cast_const();
                let last = (MAX_COLUMNS - 1) * rows;
                let out = out.pointer(share.start..last + share.end);
                // SAFETY: the matrix was sliced above; x holds k numbers for each column, prepared
                // for this way; these rows of every column of `out` are this member's.
                unsafe {
                    match way {
                        Way::Stream(columns) => (kernels.stream)(&Product {
                            matrix,
                            rows: share.len(),
                            k,
                            x,
                            x_stride: k,
                            columns,
                            out,
                            out_stride: rows,
                            accumulate: false,
                            next,
                        }),
                        Way::Panel => (kernels.panel_product)(&PanelProduct {
                            matrix,
                            rows: share.len(),
                            k,
                            x,
                            columns: PANEL_COLUMNS,
                            out,
                            out_stride: rows,
                            accumulate: false,
                        }),
                    }
                }
            }
        });
        black_box(out.pointer(0..1));
    }

    fn measure(&mut self, criterion: &mut Criterion, kernels: &Kernels, shape: Shape, way: Way) {
        let Shape { name, rows, k } = shape;
        let bytes = self.copies(shape) * rows * k * size_of::<bf16>();
        let (what, columns) = match way {
            Way::Stream(columns) => ("stream", columns),
            Way::Panel => ("panel_product", PANEL_COLUMNS),
        };
        let mut group = criterion.benchmark_group(format!("{what} {}", kernels.name));
        group
            .sample_size(10)
            .sampling_mode(SamplingMode::Flat)
            .warm_up_time(Duration::from_millis(100))
            .measurement_time(Duration::from_millis(600))
            .throughput(Throughput::Bytes(bytes as u64));
        self.prepare(kernels, shape, way);
        let mut shares = Vec::new();
        let id = BenchmarkId::new(format!("{name} {rows}x{k}"), format!("{columns} columns"));
        group.bench_function(id, |bencher| {
            bencher.iter_custom(|iterations| {
                let started = Instant::now();
                for _ in 0..iterations {
                    self.multiply(kernels, shape, way);
                }
                let elapsed = started.elapsed();
                let speed = bytes as f64 * iterations as f64 / elapsed.as_secs_f64();
                let floor = self.floor.measure().expect("the memory can be read");
                shares.push(speed / floor);
                elapsed
            });
        });
        group.finish();
        // None where the command line's filter leaves this one out.
        if let Some(share) = Summary::new(shares) {
            println!("{:>70.1}% of a plain read\n", 100.0 * share.median);
        }
    }
}

fn products(criterion: &mut Criterion) {
    let paths = kernels::available();
    let mut bench = Bench::new();
    let floor = bench.floor.measure().expect("the memory can be read");
    println!(
        "plain read of {} MB by {} threads with {}: {:.2} GB/s\n",
        POOL_BYTES >> 20,
        bench.floor.threads(),
        bench.floor.kernel(),
        floor * 1e-9
    );
    // What the engine takes, in all its shapes; the other paths where they differ most.
    let best = paths[0];
    for shape in matrices() {
        for way in [1, 2, 4, 8].map(Way::Stream) {
            bench.measure(criterion, &best, shape, way);
        }
    }
    let gate = matrices()[2];
    bench.measure(criterion, &best, gate, Way::Panel);
    for path in &paths[1..] {
        for way in [Way::Stream(1), Way::Stream(8), Way::Panel] {
            bench.measure(criterion, path, gate, way);
        }
    }
}

criterion_group!(benches, products);
criterion_main!(benches);

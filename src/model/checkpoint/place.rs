//! Brings the matrices of a checkpoint to where they are to lie.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use half::{bf16, f16};
use memmap2::MmapMut;

use super::error::CheckpointError;
use super::shards::{Located, Shard, Shards};
use super::{LoadOptions, Placement, Precision, matrix};
use crate::memory;
use crate::model::layout::{Shape, TensorSpec, pack};
use crate::model::promotion;
use crate::model::storage::{
    Element, ElementType, Slice, Storage, elements, elements_mut, huge_pages,
};
use crate::model::weights::{Matrix, Values};

/// Numbers that a thread reads at once: 4 to 8 MB of a file, large enough to hide what a call
/// costs, small enough that threads finish together.
const PIECE: usize = 2 << 20;

/// The matrices among `specs`, each at its place; `None` for vectors.
pub(super) fn matrices(
    shards: &Shards<'_>,
    specs: &[TensorSpec],
    located: &[Located],
    options: LoadOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<Option<Matrix>>, CheckpointError> {
    // On systems that move no pages there is nothing better than memory.
    let in_file = match options.placement {
        Placement::Auto => promotion::is_supported(),
        Placement::Mapped => true,
        Placement::HugePages => false,
    };
    let mut placed: Vec<Option<Matrix>> = vec![None; specs.len()];
    let mut touched = Vec::new();
    let mut copied = Vec::new();
    for (index, (spec, located)) in specs.iter().zip(located).enumerate() {
        if matches!(spec.shape, Shape::Vector(_)) {
            continue;
        }
        let target = match options.precision {
            Precision::Stored => located.kind,
            Precision::Bf16 => ElementType::Bf16,
        };
        if in_file
            && located.kind == target
            && let Some(map) = shards.shard(located).map()?
        {
            let bytes = located.bytes.start as usize..located.bytes.end as usize;
            if let Some(values) = values(target, &map, bytes.clone()) {
                placed[index] = Some(matrix(spec, values));
                touched.push((map, bytes));
                continue;
            }
        }
        copied.push(Copied { index, target });
    }

    let bytes = touched.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    if options.placement == Placement::Auto && promotion_pays(bytes) {
        for (map, _) in &touched {
            let of_map = touched.iter().filter(|(other, _)| Arc::ptr_eq(other, map));
            map.promote_later(of_map.map(|(_, bytes)| bytes.clone()));
        }
    }

    // What is bf16 stays, in one piece; what is not is likely to be converted and freed matrix by
    // matrix, so that each gets memory of its own.
    let len = |copy: &Copied| specs[copy.index].shape.elements() * copy.target.size();
    let (kept, apart): (Vec<Copied>, Vec<Copied>) = copied
        .into_iter()
        .partition(|copy| copy.target == ElementType::Bf16);
    let (ranges, bytes) = pack(kept.iter().map(len));
    let mut arena = anonymous(bytes)?;
    let mut maps: Vec<MmapMut> = apart
        .iter()
        .map(|copy| anonymous(len(copy)))
        .collect::<Result<_, _>>()?;

    let mut work = Vec::new();
    for (map, bytes) in &touched {
        for piece in pieces(bytes.clone(), PIECE) {
            work.push(Work::Touch(map, piece));
        }
    }
    let mut rest = &mut arena[..];
    let mut at = 0;
    let source = |copy: &Copied| (shards.shard(&located[copy.index]), &located[copy.index]);
    for (copy, range) in kept.iter().zip(&ranges) {
        let (_, from_start) = rest.split_at_mut(range.start - at);
        let (to, behind) = from_start.split_at_mut(range.len());
        (rest, at) = (behind, range.end);
        let (shard, located) = source(copy);
        copy_work(&mut work, shard, located, copy.target, to);
    }
    for (copy, map) in apart.iter().zip(&mut maps) {
        let (shard, located) = source(copy);
        let len = len(copy);
        copy_work(&mut work, shard, located, copy.target, &mut map[..len]);
    }
    run(work, progress)?;

    let arena = Arc::new(Storage::Anonymous(arena));
    let maps = maps
        .into_iter()
        .map(|map| Arc::new(Storage::Anonymous(map)));
    let kept = kept
        .iter()
        .zip(ranges)
        .map(|(copy, range)| (copy, Arc::clone(&arena), range));
    let apart = apart
        .iter()
        .zip(maps)
        .map(|(copy, map)| (copy, map, 0..len(copy)));
    for (copy, storage, range) in kept.chain(apart) {
        let values = values(copy.target, &storage, range);
        let values = values.expect("memory begins on a page and tensors on cache lines");
        placed[copy.index] = Some(matrix(&specs[copy.index], values));
    }
    Ok(placed)
}

/// Whether `bytes` of a mapped file should be moved: there are huge pages, and memory for them.
fn promotion_pays(bytes: u64) -> bool {
    let never = memory::transparent_huge_pages().is_none_or(|granted| granted == "never");
    !never && memory::available().is_none_or(|free| bytes <= free)
}

/// A matrix that doesn't stay in its file.
struct Copied {
    /// Into the list of tensors.
    index: usize,
    target: ElementType,
}

fn anonymous(bytes: usize) -> Result<MmapMut, CheckpointError> {
    huge_pages(bytes).map_err(|source| CheckpointError::OutOfMemory { bytes, source })
}

/// The numbers at `bytes` of `storage`, if they lie there and are aligned.
fn values(kind: ElementType, storage: &Arc<Storage>, bytes: Range<usize>) -> Option<Values> {
    let storage = Arc::clone(storage);
    match kind {
        ElementType::Bf16 => Slice::new(storage, bytes).map(Values::Bf16),
        ElementType::F16 => Slice::new(storage, bytes).map(Values::F16),
        ElementType::F32 => Slice::new(storage, bytes).map(Values::F32),
    }
}

/// A piece of the loading that a thread does at once.
enum Work<'a> {
    /// Have the system read a range of a mapped file.
    Touch(&'a Storage, Range<usize>),
    /// Read `to.len() / target.size()` numbers of type `from` at `offset`.
    Copy {
        shard: &'a Shard<'a>,
        offset: u64,
        from: ElementType,
        target: ElementType,
        to: &'a mut [u8],
    },
}

impl Work<'_> {
    fn bytes(&self) -> u64 {
        match self {
            Work::Touch(_, range) => range.len() as u64,
            Work::Copy {
                to, from, target, ..
            } => (to.len() / target.size() * from.size()) as u64,
        }
    }

    /// `scratch` is memory to read into where numbers are converted.
    fn run(self, scratch: &mut Vec<u8>) -> Result<(), CheckpointError> {
        let bytes = self.bytes() as usize;
        let (shard, offset, from, target, to) = match self {
            Work::Touch(storage, range) => {
                storage.populate(range);
                return Ok(());
            }
            Work::Copy {
                shard,
                offset,
                from,
                target,
                to,
            } => (shard, offset, from, target, to),
        };
        if from == target {
            return shard.read(offset, to);
        }
        scratch.resize(bytes, 0);
        shard.read(offset, scratch)?;
        match from {
            ElementType::F16 => round::<f16>(scratch, elements_mut(to)),
            ElementType::F32 => round::<f32>(scratch, elements_mut(to)),
            ElementType::Bf16 => unreachable!("bf16 is never converted"),
        }
        Ok(())
    }
}

fn round<T: Element>(from: &[u8], to: &mut [bf16]) {
    for (to, from) in to.iter_mut().zip(elements::<T>(from)) {
        *to = bf16::from_f32(from.widen());
    }
}

fn pieces(range: Range<usize>, len: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range
        .step_by(len)
        .map(move |start| start..end.min(start + len))
}

fn copy_work<'a>(
    work: &mut Vec<Work<'a>>,
    shard: &'a Shard<'a>,
    located: &Located,
    target: ElementType,
    to: &'a mut [u8],
) {
    let from = located.kind;
    let mut offset = located.bytes.start;
    for to in to.chunks_mut(PIECE * target.size()) {
        let piece = Work::Copy {
            shard,
            offset,
            from,
            target,
            to,
        };
        offset += piece.bytes();
        work.push(piece);
    }
}

/// Does all of `work` on every core; this thread takes part and reports.
fn run(work: Vec<Work<'_>>, progress: &mut dyn FnMut(u64, u64)) -> Result<(), CheckpointError> {
    let total = work.iter().map(Work::bytes).sum();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = cores.min(work.len());
    let work = Mutex::new(work.into_iter());
    let done = AtomicU64::new(0);
    let failure = Mutex::new(None);
    let turn = |report: &mut dyn FnMut(u64)| {
        let mut scratch = Vec::new();
        loop {
            let next = work.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(piece) = next else { break };
            let bytes = piece.bytes();
            if let Err(error) = piece.run(&mut scratch) {
                let mut work = work.lock().unwrap_or_else(PoisonError::into_inner);
                work.by_ref().for_each(drop);
                failure
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .get_or_insert(error);
            }
            report(done.fetch_add(bytes, Ordering::Relaxed) + bytes);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|| turn(&mut |_| ()));
        }
        turn(&mut |done| progress(done, total));
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => {
            progress(total, total);
            Ok(())
        }
    }
}

//! Moves a mapped checkpoint into huge pages, a few pages at a time, while it is in use.
//!
//! A mapped file is there at once, but its 4 KB pages cost a decode step about a fifth of its
//! speed. Huge pages must first be had, and a virtual machine pays a millisecond and more for each
//! that it has never touched: seconds for a model. So the weights begin in the mapped file, and
//! whoever decodes moves some of them between two steps.
//!
//! A stretch is copied to memory set aside, and those pages then take the place of the file's by
//! `mremap`: addresses and bytes stay what they were, for everyone who reads them, and nothing is
//! held twice but the stretch under way.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use memmap2::{Mmap, MmapMut};

use super::storage::{Storage, huge_pages};
use super::weights::Weights;

/// Bytes of a huge page where pages have 4 KB. Where they are larger, this many bytes still are
/// whole pages.
const HUGE_PAGE: usize = 2 << 20;

/// Huge pages of a stretch: as many as there are threads to copy them, and enough that the
/// rendezvous and the system call cost little beside them; few enough that what is held twice
/// stays below 64 MB.
const STRETCH_PAGES: Range<usize> = 8..32;

/// A mapped file that is to be moved, and how far that is.
#[derive(Debug)]
pub struct Promotion {
    /// What is moved, a huge page each: bytes of the map. The ends of the map may cut one.
    pages: Vec<Range<usize>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Pages that were moved.
    done: usize,
    /// Time it took.
    spent: Duration,
    /// The system would not move a page: the rest stays where it is.
    refused: bool,
}

/// How much of a model was moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that are to be moved in all.
    pub bytes: u64,
    /// Bytes that were moved so far.
    pub moved: u64,
    /// Time it took.
    pub spent: Duration,
}

impl Promotion {
    /// A promotion of the huge pages that `used` lies in, bytes of `map`.
    pub(super) fn new(map: &Mmap, used: impl IntoIterator<Item = Range<usize>>) -> Self {
        let start = map.as_ptr().addr();
        let pages: BTreeSet<usize> = used
            .into_iter()
            .filter(|used| !used.is_empty())
            .flat_map(|used| (start + used.start) / HUGE_PAGE..=(start + used.end - 1) / HUGE_PAGE)
            .collect();
        let bytes = |page: usize| {
            let first = (page * HUGE_PAGE).saturating_sub(start);
            first..((page + 1) * HUGE_PAGE - start).min(map.len())
        };
        Self {
            pages: pages.into_iter().map(bytes).collect(),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        let state = self.state();
        state.refused || state.done == self.pages.len()
    }

    fn progress(&self) -> Progress {
        let state = self.state();
        let bytes = |pages: &[Range<usize>]| pages.iter().map(|page| page.len() as u64).sum();
        Progress {
            bytes: bytes(&self.pages),
            moved: bytes(&self.pages[..state.done]),
            spent: state.spent,
        }
    }

    /// Moves the next stretch, by way of `staging`.
    fn advance(
        &self,
        map: &Mmap,
        staging: &mut Staging,
        on_every_thread: impl FnOnce(&(dyn Fn() + Sync)),
    ) {
        let started = Instant::now();
        let mut state = self.state();
        let rest = &self.pages[state.done..];
        let whole = |pair: &[Range<usize>]| pair[0].end == pair[1].start;
        let adjacent = 1 + rest.windows(2).take_while(|pair| whole(pair)).count();
        let pages = &rest[..adjacent.min(staging.pages).min(rest.len())];
        let (Some(first), Some(last)) = (pages.first(), pages.last()) else {
            return;
        };
        let stretch = first.start..last.end;
        // Where the stretch begins in its huge page, so does its copy.
        let at = map[stretch.start..].as_ptr().addr() % HUGE_PAGE;
        let staged = &mut staging.whole_pages()[at..][..stretch.len()];

        // Threads take a page at a time: how long a fresh one takes is anybody's guess.
        let mut rest = &mut *staged;
        let work = Mutex::new(pages.iter().map(|page| {
            let (to, behind) = std::mem::take(&mut rest).split_at_mut(page.len());
            rest = behind;
            (&map[page.clone()], to)
        }));
        let copied = AtomicUsize::new(0);
        let copy = || loop {
            let next = work.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((from, to)) = next else { break };
            to.copy_from_slice(from);
            copied.fetch_add(1, Ordering::Release);
        };
        on_every_thread(&copy);
        copy();
        let copied = copied.load(Ordering::Acquire);
        assert_eq!(copied, pages.len(), "whoever copies is waited for");

        let to = map[stretch].as_ptr();
        // SAFETY: the pages of `staged` are borrowed, and those at `to` belong to `map`; all of
        // `staged` was just copied from them.
        match unsafe { replace(staged.as_mut_ptr(), to, staged.len()) } {
            true => state.done += pages.len(),
            false => state.refused = true,
        }
        state.spent += started.elapsed();
    }
}

/// Memory that stretches are copied to, on their way.
#[derive(Debug)]
struct Staging {
    memory: MmapMut,
    /// Huge pages of a stretch.
    pages: usize,
}

impl Staging {
    /// For stretches of `pages`; `None` if there is no memory.
    fn new(pages: usize) -> Option<Self> {
        // One more for where the first begins, one for the alignment of the whole.
        let memory = huge_pages((pages + 2) * HUGE_PAGE).ok()?;
        Some(Self { memory, pages })
    }

    /// From its first whole huge page on.
    fn whole_pages(&mut self) -> &mut [u8] {
        let start = self.memory.as_ptr().align_offset(HUGE_PAGE);
        &mut self.memory[start..]
    }
}

/// Moves a model's mapped files into huge pages, as its owner finds the time.
#[derive(Debug)]
pub struct Promoter {
    files: Vec<Arc<Storage>>,
    staging: Staging,
}

impl Promoter {
    /// For the files that `weights` lie in, moved by `threads` threads; `None` if there is nothing to
    /// move.
    pub fn new(weights: &Weights, threads: usize) -> Option<Self> {
        let mut files = weights.storages();
        files.retain(|file| pending(file).is_some());
        if files.is_empty() {
            return None;
        }
        let pages = threads.clamp(STRETCH_PAGES.start, STRETCH_PAGES.end);
        let staging = Staging::new(pages)?;
        Some(Self { files, staging })
    }

    /// Moves the next stretch, and says whether there is more to move. `on_every_thread` must run
    /// what it is given on any number of threads, and wait for them. Allocates nothing.
    pub fn advance(&mut self, on_every_thread: impl FnOnce(&(dyn Fn() + Sync))) -> bool {
        if let Some((map, promotion)) = self.files.first().and_then(|file| pending(file)) {
            promotion.advance(map, &mut self.staging, on_every_thread);
        }
        // Others may hold the same weights, and move them as well.
        self.files.retain(|file| pending(file).is_some());
        !self.files.is_empty()
    }
}

/// The promotion of `file`, if it is not over.
fn pending(file: &Storage) -> Option<(&Mmap, &Promotion)> {
    let Storage::File { map, promotion } = file else {
        return None;
    };
    let promotion = promotion.get()?;
    (!promotion.is_over()).then_some((map, promotion))
}

/// How far the files of `weights` are moved; `None` if none of them is to be.
pub fn progress(weights: &Weights) -> Option<Progress> {
    let storages = weights.storages();
    let promotions = storages.iter().filter_map(|storage| match &**storage {
        Storage::File { promotion, .. } => promotion.get(),
        Storage::Anonymous(_) => None,
    });
    promotions.map(Promotion::progress).reduce(|a, b| Progress {
        bytes: a.bytes + b.bytes,
        moved: a.moved + b.moved,
        spent: a.spent + b.spent,
    })
}

/// Whether this system can put pages in the place of others.
pub fn is_supported() -> bool {
    let page = || huge_pages(1).ok();
    let (Some(mut from), Some(to)) = (page(), page()) else {
        return false;
    };
    from[0] = 1;
    // SAFETY: both are ours, and nobody has a reference to either's bytes.
    unsafe { replace(from.as_mut_ptr(), to.as_ptr(), 1) && to.as_ptr().read_volatile() == 1 }
}

/// Puts the pages of `from..from + len` in the place of those at `to`; what lies at `from` then is
/// zero. Says whether that was done; if not, nothing was.
///
/// # Safety
/// Both ranges must begin on a page and be mapped, by no one who unmaps them meanwhile. Those at
/// `to` may be read meanwhile if both hold the same bytes.
#[cfg(target_os = "linux")]
unsafe fn replace(from: *mut u8, to: *const u8, len: usize) -> bool {
    // Linux 5.7 knows DONTUNMAP, which leaves `from` mapped. The kernel unmaps `to` and moves the
    // pages under one lock, which whoever reads `to` at that moment waits for; and it checks that
    // there is room for the mapping before it does either.
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
    // SAFETY: the caller's.
    let moved = unsafe { libc::mremap(from.cast(), len, len, flags, to) };
    moved != libc::MAP_FAILED
}

#[cfg(not(target_os = "linux"))]
unsafe fn replace(_: *mut u8, _: *const u8, _: usize) -> bool {
    false
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// A mapped file of `len` bytes, no page like another, of which `used` are to be moved.
    fn file(
        len: usize,
        used: impl IntoIterator<Item = Range<usize>>,
    ) -> (tempfile::NamedTempFile, Arc<Storage>) {
        let byte = |index: usize| (index.wrapping_mul(0x9e37_79b9) >> 16) as u8;
        let bytes: Vec<u8> = (0..len).map(byte).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        // SAFETY: nobody else knows the file.
        let storage = Storage::mapped(unsafe { Mmap::map(file.as_file()) }.unwrap());
        storage.promote_later(used);
        (file, Arc::new(storage))
    }

    fn promoter(file: &Arc<Storage>) -> Promoter {
        Promoter {
            files: vec![Arc::clone(file)],
            staging: Staging::new(STRETCH_PAGES.start).unwrap(),
        }
    }

    fn on_threads(threads: usize, copy: &(dyn Fn() + Sync)) {
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(copy);
            }
        });
    }

    /// Bytes that `file` is mapped with.
    fn mapped(file: &tempfile::NamedTempFile) -> usize {
        let name = file.path().to_str().unwrap();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let lines = maps.lines().filter(|line| line.ends_with(name));
        let address = |text: &str| usize::from_str_radix(text, 16).unwrap();
        lines
            .map(|line| {
                let range = line.split(' ').next().unwrap();
                let (start, end) = range.split_once('-').unwrap();
                address(end) - address(start)
            })
            .sum()
    }

    #[test]
    fn bytes_and_addresses_stay_while_the_file_leaves() {
        for (threads, len) in [
            (0, 1),
            (1, 5 << 20),
            (2, (41 << 20) + 12_345),
            (3, 16 << 20),
        ] {
            let (file, storage) = file(len, std::iter::once(0..len));
            let expected = std::fs::read(file.path()).unwrap();
            let at = storage.bytes().as_ptr();
            let mut promoter = promoter(&storage);
            let mut before = mapped(&file);
            assert!(before >= len);
            while promoter.advance(|copy| on_threads(threads, copy)) {
                let now = mapped(&file);
                assert!(now < before, "{now} of {before} bytes stayed");
                before = now;
                assert!(
                    storage.bytes() == expected,
                    "{threads} threads, {len} bytes"
                );
            }
            assert_eq!(mapped(&file), 0);
            assert!(
                storage.bytes() == expected,
                "{threads} threads, {len} bytes"
            );
            assert_eq!(storage.bytes().as_ptr(), at);
        }
    }

    #[test]
    fn what_nobody_uses_stays_in_the_file() {
        let page = HUGE_PAGE;
        let (file, storage) = file(20 * page, [page..page + 1, 7 * page..9 * page]);
        let expected = std::fs::read(file.path()).unwrap();
        let mut promoter = promoter(&storage);
        while promoter.advance(|copy| on_threads(2, copy)) {}
        let stayed = mapped(&file);
        assert!((15 * page..=17 * page).contains(&stayed), "{stayed}");
        assert!(storage.bytes() == expected);
    }

    #[test]
    fn a_file_may_be_read_while_it_moves() {
        let len = 64 << 20;
        let (file, storage) = file(len, std::iter::once(0..len));
        let expected = std::fs::read(file.path()).unwrap();
        let mut promoter = promoter(&storage);
        std::thread::scope(|scope| {
            let read = || (0..3).all(|_| storage.bytes() == expected);
            let readers = [scope.spawn(read), scope.spawn(read)];
            while promoter.advance(|copy| on_threads(1, copy)) {}
            assert!(readers.into_iter().all(|reader| reader.join().unwrap()));
        });
    }

    #[test]
    fn two_owners_move_each_page_once() {
        let len = 64 << 20;
        let (file, storage) = file(len, std::iter::once(0..len));
        let expected = std::fs::read(file.path()).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                let mut promoter = promoter(&storage);
                scope.spawn(move || while promoter.advance(|copy| copy()) {});
            }
        });
        assert!(storage.bytes() == expected);
        assert_eq!(mapped(&file), 0);
    }

    #[test]
    fn this_linux_moves_pages() {
        assert!(is_supported());
    }
}

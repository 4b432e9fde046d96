//! The memory that host and kernel share while the kernel runs: stop flags, the ring of sampled
//! tokens, and the report.

use std::mem::offset_of;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::abi::{OgMailbox, OgReport};
use crate::model::TokenId;

/// Bits of a ring entry's lower half that hold the token; those above hold the request.
const TOKEN_BITS: u32 = 28;

/// A sampled token, as it comes out of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingEntry {
    /// Index of the request in the launch.
    pub request: usize,
    /// The token.
    pub token: TokenId,
}

impl RingEntry {
    /// What `word`, the ring's word at `index`, says; `None` if the kernel has not written it.
    pub fn decode(word: u64, index: usize) -> Option<Self> {
        let [flag, data] = [(word >> 32) as u32, word as u32];
        (flag as usize == index + 1).then_some(Self {
            request: (data >> TOKEN_BITS) as usize,
            token: data & ((1 << TOKEN_BITS) - 1),
        })
    }
}

/// The host's view of an `OgMailbox`.
#[derive(Debug)]
pub struct Mailbox {
    start: NonNull<OgMailbox>,
    ring_capacity: usize,
}

impl Mailbox {
    /// Bytes of a mailbox with a ring of `ring_capacity` tokens.
    pub fn bytes(ring_capacity: usize) -> usize {
        offset_of!(OgMailbox, ring) + ring_capacity * size_of::<u64>()
    }

    /// The mailbox at `start`.
    ///
    /// # Safety
    /// `start` must be aligned for u64, have [`bytes`](Self::bytes) initialised bytes, live as
    /// long as the result, and be accessed by nothing but kernels and the result.
    pub unsafe fn new(start: NonNull<OgMailbox>, ring_capacity: usize) -> Self {
        Self {
            start,
            ring_capacity,
        }
    }

    /// Tokens that fit the ring.
    pub fn ring_capacity(&self) -> usize {
        self.ring_capacity
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset + 4 <= offset_of!(OgMailbox, ring));
        // SAFETY: inside the mailbox (checked), aligned since all fields before the ring are
        // 32-bit, and `new` promises the rest.
        unsafe { AtomicU32::from_ptr(self.start.as_ptr().byte_add(offset).cast()) }
    }

    fn entry_word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.ring_capacity);
        let offset = offset_of!(OgMailbox, ring) + index * size_of::<u64>();
        // SAFETY: inside the ring (checked), aligned since the ring is, and `new` promises the
        // rest.
        unsafe { AtomicU64::from_ptr(self.start.as_ptr().byte_add(offset).cast()) }
    }

    /// Empties it for the next launch. Nothing may run.
    pub fn clear(&self) {
        self.stop(0);
        for word in 0..size_of::<OgReport>() / 4 {
            let offset = offset_of!(OgMailbox, report) + 4 * word;
            self.word(offset).store(0, Ordering::Relaxed);
        }
        for index in 0..self.ring_capacity {
            self.entry_word(index).store(0, Ordering::Relaxed);
        }
    }

    /// Asks the kernel to end the requests whose bits are set in `mask`.
    pub fn stop(&self, mask: u32) {
        let offset = offset_of!(OgMailbox, stop_mask);
        self.word(offset).store(mask, Ordering::Relaxed);
    }

    /// The token at `index` of the ring, if it is there.
    pub fn entry(&self, index: usize) -> Option<RingEntry> {
        if index >= self.ring_capacity {
            return None;
        }
        // Data and flag are one word, so that no order is needed between two.
        RingEntry::decode(self.entry_word(index).load(Ordering::Relaxed), index)
    }

    /// What became of the launch, once it has ended.
    pub fn report(&self) -> OgReport {
        let begin = offset_of!(OgMailbox, report);
        let word = |offset: usize| self.word(begin + offset).load(Ordering::Relaxed);
        OgReport {
            status: word(offset_of!(OgReport, status)),
            norm: word(offset_of!(OgReport, norm)),
            column: word(offset_of!(OgReport, column)),
            position: word(offset_of!(OgReport, position)),
            block: word(offset_of!(OgReport, block)),
            phase: word(offset_of!(OgReport, phase)),
            layer: word(offset_of!(OgReport, layer)),
            steps: word(offset_of!(OgReport, steps)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(flag: u64, request: u64, token: u64) -> u64 {
        flag << 32 | request << 28 | token
    }

    #[test]
    fn an_entry_is_there_when_its_flag_is_its_number() {
        let written = RingEntry {
            request: 5,
            token: 151_935,
        };
        assert_eq!(RingEntry::decode(word(1, 5, 151_935), 0), Some(written));
        assert_eq!(
            RingEntry::decode(word(4096, 5, 151_935), 4095),
            Some(written)
        );
        assert_eq!(RingEntry::decode(0, 0), None);
        // What a longer launch before this one left.
        assert_eq!(RingEntry::decode(word(8, 5, 151_935), 3), None);
    }

    #[test]
    fn request_and_token_do_not_mix() {
        for request in 0..8 {
            for token in [0, 1, (1 << TOKEN_BITS) - 1] {
                let entry = RingEntry::decode(word(3, request, token), 2).unwrap();
                assert_eq!(
                    (entry.request as u64, u64::from(entry.token)),
                    (request, token)
                );
            }
        }
    }

    #[test]
    fn a_cleared_mailbox_holds_nothing() {
        const CAPACITY: usize = 3;
        let mut memory = vec![u64::MAX; Mailbox::bytes(CAPACITY) / 8];
        let start = NonNull::new(memory.as_mut_ptr().cast()).unwrap();
        // SAFETY: the vector is long enough and outlives the mailbox, which alone uses it.
        let mailbox = unsafe { Mailbox::new(start, CAPACITY) };
        mailbox.clear();
        assert_eq!(
            bytemuck::bytes_of(&mailbox.report()),
            [0; size_of::<OgReport>()]
        );
        assert!((0..CAPACITY + 2).all(|index| mailbox.entry(index).is_none()));
        mailbox
            .entry_word(1)
            .store(word(2, 1, 9), Ordering::Relaxed);
        let expected = RingEntry {
            request: 1,
            token: 9,
        };
        assert_eq!(mailbox.entry(1), Some(expected));
        mailbox.stop(0b101);
        assert_eq!(memory[0] as u32, 0b101);
        assert_eq!(memory.len() * 8, size_of::<OgMailbox>() + 2 * 8);
    }
}

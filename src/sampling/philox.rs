//! Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy
//! as 1, 2, 3", SC 2011). A number is a pure function of its key and counter.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// Added to the key after each round (the golden ratio and the square root of 3, less 1).
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// Ten rounds on `LANES` counters at once, kept as four arrays so that they compile to vector
/// instructions. `counter[word][lane]` is replaced by the output.
#[inline(always)]
#[allow(
    clippy::needless_range_loop,
    reason = "a lane of all four words at once"
)]
fn rounds<const LANES: usize>(counter: &mut [[u32; LANES]; 4], mut key: [u32; 2]) {
    for _ in 0..ROUNDS {
        for lane in 0..LANES {
            let product0 = u64::from(counter[0][lane]) * u64::from(MULTIPLIERS[0]);
            let product1 = u64::from(counter[2][lane]) * u64::from(MULTIPLIERS[1]);
            let (word1, word3) = (counter[1][lane], counter[3][lane]);
            counter[0][lane] = (product1 >> 32) as u32 ^ word1 ^ key[0];
            counter[1][lane] = product1 as u32;
            counter[2][lane] = (product0 >> 32) as u32 ^ word3 ^ key[1];
            counter[3][lane] = product0 as u32;
        }
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
}

/// One block of Philox4x32-10.
pub fn block(mut counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let mut lanes = counter.map(|word| [word]);
    rounds(&mut lanes, key);
    for (word, [output]) in counter.iter_mut().zip(lanes) {
        *word = output;
    }
    counter
}

/// The random numbers of one draw: 32 bits for each token.
///
/// The seed is the key; the counter is (token / 4, position, sequence, 0), and token modulo 4
/// picks one of the four words of the output.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    key: [u32; 2],
    sequence: u32,
    position: u32,
}

impl Stream {
    /// The draw at `position` of `sequence`.
    pub fn new(seed: u64, sequence: u32, position: u32) -> Self {
        Self {
            key: [seed as u32, (seed >> 32) as u32],
            sequence,
            position,
        }
    }

    /// The bits of one token.
    pub fn bits(&self, token: u32) -> u32 {
        let counter = [token / 4, self.position, self.sequence, 0];
        block(counter, self.key)[token as usize % 4]
    }

    /// The bits of the `N` tokens from `first` on; both multiples of 64.
    pub fn chunk<const N: usize>(&self, first: u32) -> [u32; N] {
        const LANES: usize = 16;
        let mut bits = [0; N];
        for (index, bits) in bits.chunks_exact_mut(4 * LANES).enumerate() {
            let first_block = first / 4 + (index * LANES) as u32;
            let mut counter = [
                std::array::from_fn(|lane| first_block + lane as u32),
                [self.position; LANES],
                [self.sequence; LANES],
                [0; LANES],
            ];
            rounds(&mut counter, self.key);
            for (lane, four) in bits.chunks_exact_mut(4).enumerate() {
                for (word, bits) in four.iter_mut().enumerate() {
                    *bits = counter[word][lane];
                }
            }
        }
        bits
    }
}

/// Gumbel noise from 32 random bits: `-ln(-ln(u))` with `u = (bits + 1/2) / 2^32`.
pub fn gumbel(bits: u32) -> f64 {
    let u = (f64::from(bits) + 0.5) * (-32_f64).exp2();
    -(-u.ln()).ln()
}

/// No [`gumbel`] is larger: that of all bits set is 22.873.
pub const MAX_GUMBEL: f64 = 22.88;

/// Bits below this give a [`gumbel`] below `bar`; those from it on may exceed it.
pub fn bits_that_exceed(bar: f64) -> u32 {
    let u = (-(-bar).exp()).exp();
    // Rounding here and in `gumbel` moves a bound by far less than one step of the bits.
    let bits = u * 32_f64.exp2() - 0.5;
    (bits.floor() - 1.0).clamp(0.0, f64::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers of the authors' library (Random123, kat_vectors).
    #[test]
    fn blocks_equal_the_published_vectors() {
        assert_eq!(
            block([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            block([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            block(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn a_chunk_holds_the_bits_of_its_tokens() {
        let stream = Stream::new(0x1234_5678_9abc_def0, 3, 17);
        let chunk: [u32; 128] = stream.chunk(192);
        for (token, bits) in (192..).zip(chunk) {
            assert_eq!(bits, stream.bits(token));
        }
    }

    #[test]
    fn no_gumbel_above_the_bar_comes_from_bits_below_it() {
        for bar in [-3.0, -0.5, 0.0, 1.0, 5.0, 12.0, 20.0, 22.5] {
            let bits = bits_that_exceed(bar);
            assert!(bits == 0 || gumbel(bits - 1) < bar, "{bar}");
            assert!(
                gumbel(bits.saturating_add(4)) > bar,
                "the bar is tight: {bar}"
            );
        }
        assert!(gumbel(u32::MAX) < MAX_GUMBEL);
    }
}

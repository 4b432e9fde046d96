//! Which rows of a matrix a member computes: a fixed range, or stretches that it claims as it goes.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::team::{Member, Padded};

/// Bytes of weights that are claimed at once: tens of microseconds of one core's reading, and four times
/// what a stream of weights is fetched ahead.
const CLAIM_BYTES: usize = 64 << 10;

/// The products of a pass whose rows are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Divided {
    /// Q, K and V of a layer, one after the other.
    Qkv(usize),
    /// The O projection of a layer.
    Output(usize),
    /// Gate and up rows of a layer, in pairs.
    GateUp(usize),
    /// The down projection of a layer.
    Down(usize),
    /// The LM head.
    Head,
}

/// How rows are divided among members.
#[derive(Debug)]
pub struct RowDivision {
    /// Where rows are claimed: for each [`Divided`] of a pass, how many stretches were taken.
    claims: Option<Vec<Padded<AtomicUsize>>>,
}

/// Rows that a member takes at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Which.
    pub rows: Range<usize>,
    /// The first of those that the same member takes after them, if there are any.
    pub next: Option<usize>,
}

impl RowDivision {
    /// One range for each member, always the same.
    pub fn fixed() -> Self {
        Self { claims: None }
    }

    /// The first stretches by number, the others to whoever comes first; for a model of `layers`.
    pub fn claimed(layers: usize) -> Self {
        let claims = std::iter::repeat_with(Padded::default);
        Self {
            claims: Some(claims.take(4 * layers + 1).collect()),
        }
    }

    /// Makes all rows free for a job of `members`. Call it while no member runs.
    pub fn free_all(&self, members: usize) {
        for claims in self.claims.iter().flatten() {
            claims.0.store(members, Ordering::Relaxed);
        }
    }

    /// Rows of `k` bf16 weights that are claimed at once, at least `least`.
    pub fn claim_rows(k: usize, least: usize) -> usize {
        (CLAIM_BYTES / (size_of::<half::bf16>() * k)).max(least)
    }

    /// The first of `rows` rows that `member` takes, where `claim` are claimed at once; any row where it
    /// takes none.
    pub fn first(&self, member: &Member, rows: usize, claim: usize) -> usize {
        match self.claims {
            None => member.share(rows).start,
            Some(_) => (member.index * claim).min(rows.saturating_sub(1)),
        }
    }

    /// Calls `work` with the stretches of `rows` rows that fall to `member`, `claim` at once where they
    /// are claimed.
    #[inline]
    pub fn each(
        &self,
        member: &Member,
        product: Divided,
        rows: usize,
        claim: usize,
        mut work: impl FnMut(Stretch),
    ) {
        let Some(claims) = &self.claims else {
            let rows = member.share(rows);
            if !rows.is_empty() {
                work(Stretch { rows, next: None });
            }
            return;
        };
        let claims = &claims[match product {
            Divided::Qkv(layer) => 4 * layer,
            Divided::Output(layer) => 4 * layer + 1,
            Divided::GateUp(layer) => 4 * layer + 2,
            Divided::Down(layer) => 4 * layer + 3,
            Divided::Head => claims.len() - 1,
        }]
        .0;
        let start = |number: usize| Some(number * claim).filter(|start| *start < rows);
        let mut first = start(member.index);
        while let Some(row) = first {
            // One ahead, so that the weights behind the stretch are known while it is read. Relaxed:
            // what is claimed was complete before the job, and what is made of it is read after a barrier.
            let next = start(claims.fetch_add(1, Ordering::Relaxed));
            work(Stretch {
                rows: row..(row + claim).min(rows),
                next,
            });
            first = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_taken_once_in_every_division() {
        let claimed = RowDivision::claimed(2);
        for division in [&RowDivision::fixed(), &claimed] {
            for (members, rows, claim) in [(1, 10, 3), (3, 100, 7), (5, 3, 2), (4, 8, 2), (2, 1, 9)]
            {
                division.free_all(members);
                let mut taken = vec![0; rows];
                for product in [Divided::Qkv(0), Divided::Down(1), Divided::Head] {
                    for index in 0..members {
                        let member = Member::new(index, members);
                        let mut next = None;
                        division.each(&member, product, rows, claim, |stretch| {
                            let first = division.first(&member, rows, claim);
                            assert_eq!(stretch.rows.start, next.unwrap_or(first));
                            next = stretch.next;
                            stretch.rows.for_each(|row| taken[row] += 1);
                        });
                        assert_eq!(next, None, "the last stretch has none behind it");
                    }
                }
                assert_eq!(taken, vec![3; rows], "{members} members, {claim} at once");
            }
        }
    }
}

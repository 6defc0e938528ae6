use std::ops::Range;
use std::time::Duration;

use crate::time::{duration, nanos};

/// The only source of chance in a simulation: a generator that gives the same numbers for the same seed on
/// every machine and in every version of this crate.
///
/// xoshiro256** of Blackman and Vigna, seeded through splitmix64. Not for secrets.
#[derive(Clone, Debug)]
pub struct Random {
    state: [u64; 4],
}

impl Random {
    /// A generator whose numbers follow from `seed` alone.
    pub fn new(seed: u64) -> Self {
        let mut mixer = seed;
        Self { state: std::array::from_fn(|_| split_mix(&mut mixer)) }
    }

    /// The next 64 bits.
    #[expect(
        clippy::should_implement_trait,
        reason = "an endless iterator would invite loops that never end"
    )]
    pub fn next(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let result = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        result
    }

    /// A number in `0..bound`; 0 when `bound` is 0.
    ///
    /// The bias of the multiplication is below `bound / 2^64`, which no simulation can notice.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// A number in `range`; its start when it is empty.
    pub fn range(&mut self, range: Range<u64>) -> u64 {
        range.start + self.below(range.end.saturating_sub(range.start))
    }

    /// True in `per_thousand` of a thousand cases.
    pub fn chance(&mut self, per_thousand: u32) -> bool {
        per_thousand > 0 && self.below(1000) < u64::from(per_thousand)
    }

    /// A duration between `min` and `max`, both included; `min` when `max` is not larger.
    pub fn duration(&mut self, min: Duration, max: Duration) -> Duration {
        duration(self.nanos(nanos(min), nanos(max)))
    }

    pub(crate) fn nanos(&mut self, min: u64, max: u64) -> u64 {
        if max <= min { min } else { min + self.below((max - min).saturating_add(1)) }
    }

    /// An index in `0..len`; 0 when `len` is 0.
    pub(crate) fn index(&mut self, len: usize) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "the number is below a usize")]
        let index = self.below(len as u64) as usize;
        index
    }

    /// One of `items`; `None` when there are none.
    pub fn choose<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        let index = self.index(items.len());
        items.get(index)
    }

    /// Brings `items` into a random order; each order is as likely as any other.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.index(last + 1);
            items.swap(last, other);
        }
    }

    /// An independent generator, so that one piece of a test can draw more or fewer numbers without changing
    /// what the others get.
    pub fn fork(&mut self) -> Random {
        Random::new(self.next())
    }
}

fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_published_generators() {
        let mut mixer = 0;
        assert_eq!(split_mix(&mut mixer), 0xe220_a839_7b1d_cdaf);
        let mut random = Random { state: [1, 2, 3, 4] };
        assert_eq!([random.next(), random.next(), random.next()], [11520, 0, 1_509_978_240]);
    }

    #[test]
    fn numbers_stay_in_their_range_and_reach_its_ends() {
        let mut random = Random::new(1);
        let mut seen = [false; 5];
        for _ in 0..1000 {
            let number = random.range(10..15);
            assert!((10..15).contains(&number));
            seen[usize::try_from(number - 10).unwrap()] = true;
        }
        assert_eq!(seen, [true; 5]);
        assert_eq!(random.below(0), 0);
        assert_eq!(random.range(7..7), 7);
        assert_eq!(random.choose::<u8>(&[]), None);
    }

    #[test]
    fn chance_is_what_it_says() {
        let mut random = Random::new(2);
        let hits = (0..100_000).filter(|_| random.chance(200)).count();
        assert!((19_000..21_000).contains(&hits), "{hits}");
        assert!((0..1000).all(|_| random.chance(1000) && !random.chance(0)));
    }

    #[test]
    fn durations_include_both_ends() {
        let mut random = Random::new(3);
        let (min, max) = (Duration::from_nanos(5), Duration::from_nanos(6));
        let drawn: Vec<_> = (0..100).map(|_| random.duration(min, max)).collect();
        assert!(drawn.contains(&min) && drawn.contains(&max));
        assert!(drawn.iter().all(|drawn| (min..=max).contains(drawn)));
        assert_eq!(random.duration(max, min), max);
    }

    #[test]
    fn a_fork_goes_its_own_way() {
        let mut random = Random::new(4);
        let mut copy = random.clone();
        let mut fork = random.fork();
        let mut same = copy.fork();
        let drawn: Vec<_> = (0..8).map(|_| fork.next()).collect();
        assert_eq!(drawn, (0..8).map(|_| same.next()).collect::<Vec<_>>());
        assert_ne!(drawn, (0..8).map(|_| random.next()).collect::<Vec<_>>());
        assert_eq!(copy.next(), {
            Random::new(4).fork();
            let mut again = Random::new(4);
            again.fork();
            again.next()
        });
    }

    #[test]
    fn a_shuffle_keeps_the_items() {
        let mut random = Random::new(5);
        let mut items: Vec<u32> = (0..50).collect();
        random.shuffle(&mut items);
        assert_ne!(items, (0..50).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<_>>());
    }
}

//! A random number generator whose sequence never changes. A seed must give the same run after any
//! upgrade, which the generators of libraries do not promise.

/// A random number generator, `SplitMix64`.
#[derive(Debug, Clone)]
pub struct SeededRng(u64);

impl SeededRng {
    /// Creates a generator. The same seed always gives the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns 64 uniform random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Returns 32 uniform random bits.
    pub fn next_u32(&mut self) -> u32 {
        (self.next_u64() >> 32) as u32
    }

    /// Returns a number in `0..end`, or 0 if `end` is 0.
    pub fn below(&mut self, end: u32) -> u32 {
        let wide = u64::from(self.next_u32()) * u64::from(end);
        (wide >> 32) as u32
    }

    /// Returns a number in `start..=last`.
    pub fn between(&mut self, start: i32, last: i32) -> i32 {
        let span = last.abs_diff(start).saturating_add(1);
        start.saturating_add_unsigned(self.below(span))
    }

    /// Returns true in `percent` of a hundred calls.
    pub fn percent(&mut self, percent: u32) -> bool {
        self.below(100) < percent
    }

    /// Returns true with this probability, `0.0..=1.0`.
    pub fn chance(&mut self, probability: f64) -> bool {
        f64::from(self.next_u32()) < probability * (f64::from(u32::MAX) + 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn seed_always_gives_the_same_numbers() {
        let mut rng = SeededRng::new(1_234_567);
        assert_eq!(rng.next_u64(), 6_457_827_717_110_365_317);
        assert_eq!(rng.next_u64(), 3_203_168_211_198_807_973);
    }

    proptest! {
        #[test]
        fn numbers_stay_in_their_range(seed: u64, end in 1u32.., low in -1000i32..0, high in 0i32..1000) {
            let mut rng = SeededRng::new(seed);
            prop_assert!(rng.below(end) < end);
            let between = rng.between(low, high);
            prop_assert!(between >= low && between <= high);
            prop_assert!(rng.chance(1.0));
            prop_assert!(!rng.chance(0.0));
        }
    }
}

//! Quorum sizes.

/// The sizes that agreement among `n` replicas rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quorum {
    n: usize,
}

impl Quorum {
    /// For a group of `n` replicas, at least one.
    #[must_use]
    pub const fn of(n: usize) -> Self {
        Self { n: if n == 0 { 1 } else { n } }
    }

    /// All replicas: n.
    #[must_use]
    pub const fn all(self) -> usize {
        self.n
    }

    /// Replicas that may do anything at all: the largest f with n >= 3f + 1.
    #[must_use]
    pub const fn faulty(self) -> usize {
        (self.n - 1) / 3
    }

    /// Votes of which any two sets share a correct replica: 2f + 1 where n = 3f + 1, and for every other n
    /// the least number q with 2q - n >= f + 1. Correct replicas alone reach it.
    #[must_use]
    pub const fn quorum(self) -> usize {
        (self.n + self.faulty()) / 2 + 1
    }

    /// Votes of which one is a correct replica's: f + 1.
    #[must_use]
    pub const fn weak(self) -> usize {
        self.faulty() + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definitions, by trying every number.
    fn dumb(n: usize) -> (usize, usize) {
        let f = (0..n).filter(|f| n > 3 * f).max().unwrap_or(0);
        let q = (1..=n).find(|q| 2 * q > n + f).expect("all of them are enough");
        (f, q)
    }

    #[test]
    fn sizes_are_what_their_definitions_say() {
        for n in 1..200 {
            let quorum = Quorum::of(n);
            assert_eq!((quorum.faulty(), quorum.quorum()), dumb(n), "n = {n}");
            assert_eq!(quorum.weak(), quorum.faulty() + 1);
            assert!(quorum.quorum() <= n - quorum.faulty(), "correct replicas alone reach a quorum of {n}");
            if n % 3 == 1 {
                assert_eq!(quorum.quorum(), 2 * quorum.faulty() + 1);
            }
        }
    }
}

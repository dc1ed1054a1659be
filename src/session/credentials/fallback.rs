//! Which credentials to present: the newest, unless the broker refuses them while it accepted
//! earlier ones. No file shows whether a password is right, so a wrong new one must not end a
//! session that the old one still opens. Pure.

/// The newest set, and the one that is known to work.
#[derive(Debug, Clone)]
pub struct CredentialFallback<T> {
    newest: T,
    /// Accepted by the broker; `None` if nothing was yet, or if it is the newest.
    proven: Option<T>,
    newest_accepted: bool,
    /// The broker refused the newest: present the proven ones.
    fallen_back: bool,
}

/// What follows from a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterRefusal {
    /// Present the earlier ones next.
    FallBack,
    /// There is nothing else to present, or that was refused too.
    Wait,
}

impl<T: Clone> CredentialFallback<T> {
    /// With nothing known to work.
    pub fn new(newest: T) -> Self {
        Self { newest, proven: None, newest_accepted: false, fallen_back: false }
    }

    /// There are newer ones: present them next.
    pub fn replace(&mut self, newest: T) {
        let old = std::mem::replace(&mut self.newest, newest);
        if self.newest_accepted {
            self.proven = Some(old);
        }
        self.newest_accepted = false;
        self.fallen_back = false;
    }

    /// The newest ones, to be presented or not.
    pub fn newest(&self) -> &T {
        &self.newest
    }

    /// The ones to present.
    pub fn current(&self) -> &T {
        match &self.proven {
            Some(proven) if self.fallen_back => proven,
            _ => &self.newest,
        }
    }

    /// The broker accepted the current ones.
    pub fn accepted(&mut self) {
        if !self.fallen_back {
            self.newest_accepted = true;
            self.proven = None;
        }
    }

    /// The broker refused the current ones. Once both were refused, they take turns.
    pub fn refused(&mut self) -> AfterRefusal {
        self.fallen_back = !self.fallen_back && self.proven.is_some();
        if self.fallen_back { AfterRefusal::FallBack } else { AfterRefusal::Wait }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refused_new_ones_give_way_to_those_that_worked_until_there_are_newer_ones() {
        let mut fallback = CredentialFallback::new(1);
        fallback.accepted();
        fallback.replace(2);
        assert_eq!(*fallback.current(), 2);
        assert_eq!(fallback.refused(), AfterRefusal::FallBack);
        assert_eq!(*fallback.current(), 1);
        fallback.accepted();
        assert_eq!(*fallback.current(), 1);
        fallback.replace(3);
        assert_eq!(*fallback.current(), 3);
        assert_eq!(fallback.refused(), AfterRefusal::FallBack);
        assert_eq!(*fallback.current(), 1);
    }

    #[test]
    fn where_both_are_refused_they_take_turns() {
        let mut fallback = CredentialFallback::new(1);
        assert_eq!(fallback.refused(), AfterRefusal::Wait);
        fallback.accepted();
        fallback.replace(2);
        fallback.refused();
        assert_eq!(fallback.refused(), AfterRefusal::Wait);
        assert_eq!(*fallback.current(), 2);
        fallback.accepted();
        assert_eq!(fallback.refused(), AfterRefusal::Wait, "2 is proven now, 1 forgotten");
        assert_eq!(*fallback.current(), 2);
    }

    proptest! {
        #[test]
        fn only_the_newest_or_what_was_accepted_is_ever_presented(
            steps in prop::collection::vec(0u8..3, 0..60)
        ) {
            let mut fallback = CredentialFallback::new(0);
            let (mut newest, mut good) = (0, None);
            for step in steps {
                match step {
                    0 => { newest += 1; fallback.replace(newest); }
                    1 => { good = Some(*fallback.current()); fallback.accepted(); }
                    _ => { fallback.refused(); }
                }
                let current = *fallback.current();
                prop_assert!(current == newest || Some(current) == good);
            }
        }
    }
}

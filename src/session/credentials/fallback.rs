//! Selection of the credentials to present: the newest, unless the broker refuses them and has
//! accepted earlier ones. A file does not show whether a password is right, so a wrong new one must
//! not end a session that the old one still opens. Pure.

/// The newest credentials, and earlier ones that the broker accepted.
#[derive(Debug, Clone)]
pub struct CredentialFallback<T> {
    newest: T,
    /// Earlier credentials that the broker accepted. `None` if there are none, or if the newest were
    /// accepted.
    proven: Option<T>,
    newest_accepted: bool,
    /// True if the broker refused the newest, so that the proven ones are presented.
    fallen_back: bool,
}

/// Next step after a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterRefusal {
    /// Present the earlier credentials next.
    FallBack,
    /// Wait, because there are no others, or they were refused too.
    Wait,
}

impl<T: Clone> CredentialFallback<T> {
    /// Starts with credentials that are not proven yet.
    pub fn new(newest: T) -> Self {
        Self { newest, proven: None, newest_accepted: false, fallen_back: false }
    }

    /// Replaces the newest credentials, which are presented next.
    pub fn replace(&mut self, newest: T) {
        let old = std::mem::replace(&mut self.newest, newest);
        if self.newest_accepted {
            self.proven = Some(old);
        }
        self.newest_accepted = false;
        self.fallen_back = false;
    }

    /// Returns the newest credentials, presented or not.
    pub fn newest(&self) -> &T {
        &self.newest
    }

    /// Returns the credentials to present.
    pub fn current(&self) -> &T {
        match &self.proven {
            Some(proven) if self.fallen_back => proven,
            _ => &self.newest,
        }
    }

    /// Records that the broker accepted the current credentials.
    pub fn accepted(&mut self) {
        if !self.fallen_back {
            self.newest_accepted = true;
            self.proven = None;
        }
    }

    /// Records that the broker refused the current credentials. After both were refused, they
    /// alternate.
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
    fn refused_credentials_fall_back_until_newer_ones_exist() {
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
    fn credentials_alternate_if_both_are_refused() {
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
        fn only_newest_or_accepted_credentials_are_presented(
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

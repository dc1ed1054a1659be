//! One value for each kind of event.

use std::ops::{Index, IndexMut};

use super::EventKind;

/// One value for each kind of event. Invariant: a kind has its discriminant as index.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ByKind<T>([T; EventKind::ALL.len()]);

impl<T> ByKind<T> {
    /// Makes the value of each kind.
    pub fn new(value: impl FnMut(EventKind) -> T) -> Self {
        Self(EventKind::ALL.map(value))
    }

    /// Returns the values in the order of [`EventKind::ALL`].
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }
}

impl<T> ByKind<Option<T>> {
    /// Returns the values, or `None` if one is absent.
    pub fn complete(self) -> Option<ByKind<T>> {
        let values: Option<Vec<T>> = self.0.into_iter().collect();
        values?.try_into().ok().map(ByKind)
    }
}

impl<T> Index<EventKind> for ByKind<T> {
    type Output = T;

    fn index(&self, kind: EventKind) -> &T {
        &self.0[kind as usize]
    }
}

impl<T> IndexMut<EventKind> for ByKind<T> {
    fn index_mut(&mut self, kind: EventKind) -> &mut T {
        &mut self.0[kind as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_own_value() {
        let values = ByKind::new(|kind| kind);
        assert!(EventKind::ALL.into_iter().all(|kind| values[kind] == kind));
    }

    #[test]
    fn one_absent_value_makes_all_absent() {
        let only = |wanted| ByKind::new(|kind| (kind == wanted).then_some(kind));
        assert!(EventKind::ALL.into_iter().all(|kind| only(kind).complete().is_none()));
        let all = ByKind::new(Some).complete();
        assert_eq!(all, Some(ByKind::new(|kind| kind)));
    }
}

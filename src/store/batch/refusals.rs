//! Distinguishes rows at fault from tables at fault. If the database refuses every row with the same
//! code, setting each aside would move the whole stream to `dead_letter`.

use std::collections::HashSet;

use uuid::Uuid;

/// This many different rows refused alike, and none accepted between them, are no coincidence.
pub(in crate::store) const ALIKE: usize = 8;

/// The refusals since a row was last accepted.
#[derive(Debug, Default)]
pub(in crate::store) struct RefusalHistory {
    /// Invariant: fewer than [`ALIKE`] ids, all refused with `code`.
    ids: HashSet<Uuid>,
    code: Option<String>,
}

/// One refused row.
#[derive(Debug, Clone)]
pub(in crate::store) struct RefusedRow {
    pub id: Uuid,
    pub code: Option<String>,
}

impl RefusalHistory {
    /// Returns true if these refusals, with `accepted` rows written next to them, are the fault of the
    /// tables. Called before the rows are set aside.
    pub fn is_systemic(&self, accepted: u64, refused: &[RefusedRow]) -> bool {
        let Some(first) = refused.first() else { return false };
        if accepted > 0 || refused.iter().any(|r| r.code != first.code) {
            return false;
        }
        let mut ids: HashSet<Uuid> = refused.iter().map(|r| r.id).collect();
        if self.code == first.code {
            ids.extend(&self.ids);
        }
        ids.len() >= ALIKE
    }

    /// Records a commit in which `refused` were set aside and `accepted` were not.
    pub fn note(&mut self, accepted: u64, refused: &[RefusedRow]) {
        let Some(first) = refused.first() else {
            if accepted > 0 {
                self.ids.clear();
            }
            return;
        };
        if accepted > 0 || self.code != first.code {
            self.ids.clear();
        }
        if accepted == 0 && refused.iter().all(|r| r.code == first.code) {
            self.code.clone_from(&first.code);
            self.ids.extend(refused.iter().map(|r| r.id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(ids: std::ops::Range<u128>, code: &str) -> Vec<RefusedRow> {
        ids.map(|id| RefusedRow { id: Uuid::from_u128(id), code: Some(code.into()) }).collect()
    }

    #[test]
    fn batch_refused_alike_is_systemic() {
        let none = RefusalHistory::default();
        assert!(none.is_systemic(0, &refused(0..8, "23502")));
        assert!(!none.is_systemic(0, &refused(0..7, "23502")));
        assert!(!none.is_systemic(1, &refused(0..8, "23502")));
    }

    #[test]
    fn refusals_of_different_kinds_are_the_rows_fault() {
        let mut mixed = refused(0..8, "23502");
        mixed[3].code = Some("22021".into());
        assert!(!RefusalHistory::default().is_systemic(0, &mixed));
    }

    #[test]
    fn refusals_add_up_until_a_row_is_accepted() {
        let mut refusals = RefusalHistory::default();
        refusals.note(0, &refused(0..4, "23502"));
        refusals.note(0, &refused(4..7, "23502"));
        assert!(refusals.is_systemic(0, &refused(7..8, "23502")));
        assert!(!refusals.is_systemic(0, &refused(7..8, "22021")));
        refusals.note(3, &[]);
        assert!(!refusals.is_systemic(0, &refused(7..8, "23502")));
    }

    #[test]
    fn one_row_redelivered_for_ever_stays_one_row() {
        let mut refusals = RefusalHistory::default();
        for _ in 0..100 {
            assert!(!refusals.is_systemic(0, &refused(1..2, "54000")));
            refusals.note(0, &refused(1..2, "54000"));
        }
    }
}

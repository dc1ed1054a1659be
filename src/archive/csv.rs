//! Records of CSV as `COPY` writes it: a line feed ends a record, except between double quotes.

/// Counts the records of a text that comes in pieces.
#[derive(Debug, Clone, Copy, Default)]
pub struct RecordCounter {
    quoted: bool,
    records: u64,
}

impl RecordCounter {
    /// Reads the next piece.
    pub fn count(&mut self, piece: &[u8]) {
        for byte in piece {
            match byte {
                // An escaped quote is two, which changes nothing.
                b'"' => self.quoted = !self.quoted,
                b'\n' if !self.quoted => self.records += 1,
                _ => {}
            }
        }
    }

    /// Returns the number of complete records.
    pub fn records(&self) -> u64 {
        self.records
    }
}

/// Cuts a text that comes in pieces into groups of whole records. The first record, which names the
/// columns, is apart.
#[derive(Debug)]
pub struct RecordGroups {
    most: u64,
    counter: RecordCounter,
    header: Option<Vec<String>>,
    group: Vec<u8>,
    /// Records in `group` that are complete.
    complete: u64,
}

impl RecordGroups {
    /// Creates groups of at most `most` records.
    pub fn of(most: u64) -> Self {
        let counter = RecordCounter::default();
        Self { most, counter, header: None, group: Vec::new(), complete: 0 }
    }

    /// Returns the names of the columns, once the first record was read.
    pub fn header(&self) -> Option<&[String]> {
        self.header.as_deref()
    }

    /// Reads the next piece and returns the groups that it completes.
    pub fn push(&mut self, piece: &[u8]) -> Vec<Vec<u8>> {
        let mut groups = Vec::new();
        let mut start = 0;
        for at in 0..piece.len() {
            let before = self.counter.records();
            self.counter.count(&piece[at..=at]);
            if self.counter.records() == before {
                continue;
            }
            if self.header.is_none() {
                self.group.extend_from_slice(&piece[start..at]);
                start = at + 1;
                self.header =
                    Some(names(&String::from_utf8_lossy(&std::mem::take(&mut self.group))));
                continue;
            }
            self.complete += 1;
            if self.complete == self.most {
                self.group.extend_from_slice(&piece[start..=at]);
                start = at + 1;
                self.complete = 0;
                groups.push(std::mem::take(&mut self.group));
            }
        }
        self.group.extend_from_slice(&piece[start..]);
        groups
    }

    /// Returns the last group, which may be empty.
    pub fn rest(self) -> Vec<u8> {
        self.group
    }
}

fn names(header: &str) -> Vec<String> {
    let (mut names, mut name, mut quoted) = (Vec::new(), String::new(), false);
    let mut letters = header.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => {
                letters.next();
                name.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => names.push(std::mem::take(&mut name)),
            other => name.push(other),
        }
    }
    names.push(name);
    names
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str =
        "a,\"b \"\"x\"\",\",c\n1,\"two\nlines\",\n2,\"\",\"say \"\"hi\"\"\n\"\n3,,\n";

    proptest! {
        #[test]
        fn pieces_do_not_matter(cuts in prop::collection::vec(0..TEXT.len(), 0..9), most in 1u64..5) {
            let mut cuts = cuts;
            cuts.extend([0, TEXT.len()]);
            cuts.sort_unstable();
            let (mut groups, mut counter) = (RecordGroups::of(most), RecordCounter::default());
            let mut all = Vec::new();
            for ends in cuts.windows(2) {
                let piece = &TEXT.as_bytes()[ends[0]..ends[1]];
                counter.count(piece);
                all.extend(groups.push(piece));
            }
            prop_assert_eq!(counter.records(), 4);
            let columns = ["a", "b \"x\",", "c"].map(str::to_owned);
            prop_assert_eq!(groups.header().unwrap(), &columns[..]);
            prop_assert_eq!(all.len() as u64, 3 / most);
            all.push(groups.rest());
            let body = TEXT.split_once('\n').unwrap().1;
            prop_assert_eq!(all.concat(), body.as_bytes());
        }
    }
}

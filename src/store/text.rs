//! Text as PostgreSQL takes it: array literals, and text cut so that it is never refused.

/// Longest topic or detail of a dead letter, bytes. Long enough for an operator, and within every
/// limit of an index.
pub const MAX_TEXT: usize = 8 * 1024;

/// Returns the text without NUL, which `text` cannot hold, cut to [`MAX_TEXT`] bytes on a character boundary.
pub fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len().min(MAX_TEXT));
    for c in text.chars().filter(|c| *c != '\0') {
        if clean.len() + c.len_utf8() > MAX_TEXT {
            break;
        }
        clean.push(c);
    }
    clean
}

/// Quotes text as a literal, whatever `standard_conforming_strings` is.
pub fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// Returns the literal that `::text[]` reads back as these elements. Every element is quoted, so that
/// NULL, blanks, commas and braces are text.
pub fn array_literal<S: AsRef<str>>(elements: &[S]) -> String {
    let size: usize = elements.iter().map(|e| e.as_ref().len() + 3).sum();
    let mut literal = String::with_capacity(size + 2);
    literal.push('{');
    for (i, element) in elements.iter().enumerate() {
        if i > 0 {
            literal.push(',');
        }
        literal.push('"');
        for c in element.as_ref().chars() {
            if matches!(c, '"' | '\\') {
                literal.push('\\');
            }
            literal.push(c);
        }
        literal.push('"');
    }
    literal.push('}');
    literal
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_literal_holds_quotes_and_backslashes() {
        assert_eq!(literal("a'b\\c"), "E'a''b\\\\c'");
    }

    /// Reads an array literal by PostgreSQL's rules for quoted elements.
    fn read(literal: &str) -> Vec<String> {
        let inner = literal.strip_prefix('{').unwrap().strip_suffix('}').unwrap();
        let mut elements = Vec::new();
        let mut chars = inner.chars().peekable();
        while chars.peek().is_some() {
            assert_eq!(chars.next(), Some('"'));
            let mut element = String::new();
            loop {
                match chars.next().unwrap() {
                    '\\' => element.push(chars.next().unwrap()),
                    '"' => break,
                    c => element.push(c),
                }
            }
            elements.push(element);
            assert!(matches!(chars.next(), None | Some(',')));
        }
        elements
    }

    proptest! {
        #[test]
        fn an_array_literal_reads_back_as_its_elements(
            elements in prop::collection::vec("[a-z\"\\\\,{} NUL\u{e9}\u{1f600}]{0,8}", 0..6)
        ) {
            prop_assert_eq!(read(&array_literal(&elements)), elements);
        }

        #[test]
        fn clean_text_is_short_and_without_nul(text in "[a\0\u{e9}\u{1f600}]{0,4000}") {
            let clean = clean(&text);
            let whole = text.replace('\0', "");
            prop_assert!(!clean.contains('\0'));
            prop_assert!(clean.len() <= MAX_TEXT);
            prop_assert!(whole.starts_with(&clean));
            prop_assert!(clean == whole || clean.len() > MAX_TEXT - 4);
        }
    }
}

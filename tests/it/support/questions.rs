//! The questions of dashboards, and a database of events to ask them.

/// Script of psql that fills a database. It needs the variables `each`, `tags` and `boards`.
pub const GENERATE: &str = include_str!("../../../benches/questions/generate.sql");

const QUESTIONS: &str = include_str!("../../../benches/questions/questions.sql");

/// A question, and the statements that answer it.
#[derive(Debug, Clone, Copy)]
pub struct Question {
    pub name: &'static str,
    /// Limit of its time at 10 million events, ms. Empty if there is none.
    pub limit: &'static str,
    pub now: &'static str,
    /// Answers it from the views before there were stays.
    pub before: Option<&'static str>,
}

/// Returns all questions.
pub fn questions() -> Vec<Question> {
    QUESTIONS.split("\n\n").skip(1).map(parse).collect()
}

fn parse(block: &'static str) -> Question {
    let (head, statements) = block.split_once('\n').unwrap();
    let (name, limit) = head.trim_start_matches("-- ").split_once('|').unwrap();
    let (now, before) = match statements.split_once("\n-- before\n") {
        Some((now, before)) => (now, Some(before)),
        None => (statements, None),
    };
    Question { name: name.trim(), limit: limit.trim(), now, before }
}

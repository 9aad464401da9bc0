//! A parser for the series and labels in `PromQL` queries.

use std::collections::BTreeSet;

/// Operators and modifiers that are words.
const OPERATORS: [&str; 5] = ["and", "or", "unless", "bool", "offset"];
/// Keywords before a list of labels.
const GROUPINGS: [&str; 6] = [
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
];

/// A series selector.
#[derive(Debug, PartialEq)]
pub(crate) struct Series {
    pub(crate) name: String,
    /// Label matchers, with several values for a list of alternatives.
    pub(crate) labels: Vec<(String, Vec<String>)>,
}

/// The series and labels of a query.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Used {
    pub(crate) series: Vec<Series>,
    /// Labels for grouping and vector matching.
    pub(crate) grouped: BTreeSet<String>,
}

#[derive(Debug, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Sign(char),
}

fn tokens(query: &str) -> Vec<Token> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_:.".contains(c);
    let mut tokens = Vec::new();
    let mut rest = query.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, length) = if first == '"' {
            // No string in this repository contains an escaped quote.
            let end = rest[1..].find('"').unwrap();
            (Token::Text(rest[1..=end].to_owned()), end + 2)
        } else if is_part(first) {
            let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
            (Token::Word(rest[..end].to_owned()), end)
        } else {
            (Token::Sign(first), first.len_utf8())
        };
        tokens.push(token);
        rest = rest[length..].trim_start();
    }
    tokens
}

/// The series and labels of `query`.
pub(crate) fn used(query: &str) -> Used {
    let mut used = Used::default();
    let mut tokens = tokens(query).into_iter().peekable();
    while let Some(token) = tokens.next() {
        let Token::Word(word) = token else { continue };
        if GROUPINGS.contains(&word.as_str()) {
            assert_eq!(tokens.next(), Some(Token::Sign('(')), "{query}");
            let list = tokens.by_ref().take_while(|t| *t != Token::Sign(')'));
            used.grouped.extend(list.filter_map(|token| match token {
                Token::Word(label) => Some(label),
                _ => None,
            }));
            continue;
        }
        let is_number = word.starts_with(|c: char| c.is_ascii_digit());
        let is_function = match tokens.peek() {
            Some(Token::Sign(sign)) => *sign == '(',
            Some(Token::Word(next)) => GROUPINGS.contains(&next.as_str()),
            _ => false,
        };
        if is_number || is_function || OPERATORS.contains(&word.as_str()) {
            continue;
        }
        let mut labels: Vec<(String, Vec<String>)> = Vec::new();
        if tokens.next_if_eq(&Token::Sign('{')).is_some() {
            for token in tokens.by_ref().take_while(|t| *t != Token::Sign('}')) {
                match token {
                    Token::Word(label) => labels.push((label, Vec::new())),
                    Token::Text(value) => {
                        let alternatives = value.split('|').map(str::to_owned);
                        labels.last_mut().unwrap().1.extend(alternatives);
                    }
                    Token::Sign(_) => {}
                }
            }
        }
        used.series.push(Series { name: word, labels });
    }
    used
}

#[test]
fn the_series_and_labels_of_a_query_are_found() {
    let query = r#"sum by (le, job) (rate(a_bucket{x=~"1|2",y!="3"}[5m] offset 1d)) * 2e3
        / ignoring (z) b:c and on (job) max without(w) (d{} > bool 0.5)"#;
    let series = |name: &str, labels: &[(&str, &[&str])]| Series {
        name: name.to_owned(),
        labels: labels
            .iter()
            .map(|(label, values)| {
                let values = values.iter().map(|&value| value.to_owned());
                ((*label).to_owned(), values.collect())
            })
            .collect(),
    };
    let expected = Used {
        series: vec![
            series("a_bucket", &[("x", &["1", "2"]), ("y", &["3"])]),
            series("b:c", &[]),
            series("d", &[]),
        ],
        grouped: ["job", "le", "w", "z"].map(str::to_owned).into(),
    };
    assert_eq!(used(query), expected);
}

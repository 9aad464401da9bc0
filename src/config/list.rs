//! Comma-separated lists.

use crate::variable::quote;

/// The items of a list. Empty items, such as after a trailing comma, are skipped.
pub(super) fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

/// What is wrong with an item of the list `text`. If the item is the whole list, the message about the
/// value names it already.
pub(super) fn item_problem(text: &str, item: &str, problem: &str) -> String {
    if text.trim() == item {
        problem.to_owned()
    } else {
        format!("contains {}, which {problem}", quote(item))
    }
}

/// Parses a list of at most `max` distinct items.
pub(super) fn parse_list<T: PartialEq>(
    text: &str,
    max: usize,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    let mut values = Vec::new();
    for item in items(text) {
        let problem = |what: &str| item_problem(text, item, what);
        let value = parse(item).map_err(|what| problem(&what))?;
        if values.contains(&value) {
            return Err(problem("occurs twice"));
        }
        values.push(value);
        if values.len() > max {
            return Err(format!("contains more than {max} items"));
        }
    }
    if values.is_empty() {
        return Err("contains nothing".to_owned());
    }
    Ok(values)
}

pub(super) fn join(items: impl Iterator<Item = impl ToString>) -> String {
    items
        .map(|item| item.to_string())
        .collect::<Vec<_>>()
        .join(",")
}

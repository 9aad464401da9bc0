//! Parser of the rule file.
//!
//! ```text
//! # reservations: a peer, and a network except one address
//! allow reserve 12D3KooW…
//! allow reserve 198.51.100.0/24
//! deny reserve,connect,target 12D3KooW…
//! deny reserve,connect 198.51.100.7   # since May
//! ```

use std::fmt;

use super::{
    rules::{Effect, Origin, Rule, Scope},
    subject::Subject,
};

/// Maximum number of rules in a file; a line counts once for each of its scopes. A rule takes up to
/// 300 bytes of memory.
pub const MAX_RULES: usize = 100_000;

/// Maximum number of problems that are reported individually.
const MAX_PROBLEMS: usize = 10;

/// Problems of a file. `Display` lists the first ones on one line. The content is not repeated,
/// because it may identify clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    first: Vec<(usize, String)>,
    number: usize,
}

impl Problems {
    fn add(&mut self, line: usize, problem: String) {
        self.number += 1;
        if self.first.len() < MAX_PROBLEMS {
            self.first.push((line, problem));
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (line, problem)) in self.first.iter().enumerate() {
            let separator = if index > 0 { "; " } else { "" };
            write!(f, "{separator}line {line} {problem}")?;
        }
        match self.number - self.first.len() {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

impl std::error::Error for Problems {}

/// Parses all rules.
///
/// # Errors
/// All invalid lines; a file with an invalid line has no effect.
pub fn parse_rules(text: &str) -> Result<Vec<Rule>, Problems> {
    let mut rules = Vec::new();
    let mut problems = Problems {
        first: Vec::new(),
        number: 0,
    };
    // Some editors write a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (number, line) in text.lines().enumerate().map(|(n, line)| (n + 1, line)) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        if let Err(problem) = parse_line(line, number, &mut rules) {
            problems.add(number, problem);
        }
        if rules.len() > MAX_RULES {
            problems.add(number, format!("is beyond the {MAX_RULES} rules of a file"));
            break;
        }
    }
    if problems.number == 0 {
        Ok(rules)
    } else {
        Err(problems)
    }
}

/// Appends the rules of one line.
fn parse_line(line: &str, number: usize, rules: &mut Vec<Rule>) -> Result<(), String> {
    let mut words = line.split_whitespace();
    let (Some(effect), Some(scopes), Some(entry), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err("is not of the form `allow|deny scope entry`".to_owned());
    };
    let effect = match effect {
        "allow" => Effect::Allow,
        "deny" => Effect::Deny,
        _ => return Err("begins with neither `allow` nor `deny`".to_owned()),
    };
    let subject: Subject = entry.parse().map_err(unquoted)?;
    let origin = Origin::Line(u32::try_from(number).unwrap_or(u32::MAX));
    for word in scopes.split(',') {
        let scope = Scope::ALL.into_iter().find(|scope| scope.as_str() == word);
        let scope = scope.ok_or("has a scope other than `reserve`, `connect` and `target`")?;
        let rule = Rule {
            scope,
            effect,
            subject,
            origin,
        };
        rule.check()?;
        rules.push(rule);
    }
    Ok(())
}

/// The problem without the suggestion, which repeats the entry.
fn unquoted(problem: String) -> String {
    let end = problem.find(';').unwrap_or(problem.len());
    let mut problem = problem;
    problem.truncate(end);
    format!("has an entry that {problem}")
}

impl Rule {
    /// Checks whether the rule can ever apply.
    ///
    /// # Errors
    /// Why it cannot; the text continues a sentence about the rule.
    pub fn check(&self) -> Result<(), &'static str> {
        match (self.scope, self.effect, self.subject) {
            (Scope::Target, _, Subject::Network(_)) => {
                Err("has a network for a target: targets are peer ids")
            }
            (_, Effect::Deny, Subject::None) => Err("denies nothing: `none` is only for `allow`"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PEER: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";

    #[test]
    fn lines_are_rules_blanks_or_comments() {
        let text = format!(
            "\u{feff}# rules\r\n\r\n  allow reserve {PEER} # a friend\n\
             deny connect,target\t{PEER}\nallow reserve none"
        );
        let rules = parse_rules(&text).unwrap();
        let seen: Vec<_> = rules
            .iter()
            .map(|r| (r.scope, r.effect, r.origin))
            .collect();
        assert_eq!(
            seen,
            [
                (Scope::Reserve, Effect::Allow, Origin::Line(3)),
                (Scope::Connect, Effect::Deny, Origin::Line(4)),
                (Scope::Target, Effect::Deny, Origin::Line(4)),
                (Scope::Reserve, Effect::Allow, Origin::Line(5)),
            ]
        );
        assert_eq!(parse_rules(""), Ok(Vec::new()));
    }

    #[test]
    fn every_problem_has_its_line_and_no_content() {
        let text = "allow reserve 192.0.2.7/24\nforbid reserve 192.0.2.7\ndeny reserve\n\
                    deny everything 192.0.2.7\ndeny target 192.0.2.7\ndeny connect none\n\
                    deny connect 192.0.2.7 too\ndeny reserve, 192.0.2.7\nallow reserve 192.0.2.8";
        let problems = parse_rules(text).unwrap_err().to_string();
        for line in 1..=8 {
            assert!(problems.contains(&format!("line {line} ")), "{problems}");
        }
        assert!(!problems.contains("line 9"), "{problems}");
        assert!(!problems.contains("192.0.2."), "{problems}");
        let many = "x\n".repeat(1000);
        let problems = parse_rules(&many).unwrap_err().to_string();
        assert!(problems.ends_with("; and 990 more"), "{problems}");
    }

    #[test]
    fn number_of_rules_is_bounded() {
        let line = "deny reserve,connect 192.0.2.7\n";
        assert_eq!(
            parse_rules(&line.repeat(MAX_RULES / 2)).unwrap().len(),
            MAX_RULES
        );
        let problems = parse_rules(&line.repeat(MAX_RULES))
            .unwrap_err()
            .to_string();
        assert!(
            problems.contains("is beyond the 100000 rules"),
            "{problems}"
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "((allow|deny|#|none|reserve|connect|target|[0-9.:/,]| |\n|.){0,40})") {
            let _ = parse_rules(&text);
        }
    }
}

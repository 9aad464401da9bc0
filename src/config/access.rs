//! Formats of access control settings: lists, a file, and the access endpoint.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;

use super::list::{join, parse_list};
use super::value_format::{MinDuration, ValueFormat, mask, show_duration};
use crate::access::{Effect, Origin, Rule, Scope, Subject};
use crate::secret::Secret;

/// Maximum number of entries of one list; a file may have more.
const MAX_ENTRIES: usize = 1024;

/// Maximum length of the endpoint's URL and of its token, in characters.
const MAX_URL: usize = 2048;
const MAX_TOKEN: usize = 4096;

/// Entries of the allow or the deny list of one scope.
pub(super) struct AccessEntries(pub(super) Scope, pub(super) Effect);

impl ValueFormat for AccessEntries {
    type Value = Vec<Subject>;

    fn allowed(&self) -> String {
        let what = match self.0 {
            Scope::Target => "peer ids",
            Scope::Reserve | Scope::Connect => {
                "peer ids, IP addresses and networks such as `192.0.2.0/24`"
            }
        };
        let none = match self.1 {
            Effect::Allow => ", or `none`",
            Effect::Deny => "",
        };
        format!("a comma-separated list of at most {MAX_ENTRIES} {what}{none}")
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        parse_list(text, MAX_ENTRIES, |item| {
            let entry = item.parse()?;
            let rule = Rule {
                scope: self.0,
                effect: self.1,
                subject: entry,
                origin: Origin::Item(0),
            };
            rule.check()?;
            Ok(entry)
        })
    }

    fn show(&self, value: &Self::Value) -> String {
        join(value.iter())
    }
}

/// The path of a file, or none.
pub(super) struct FilePath;

impl ValueFormat for FilePath {
    type Value = Option<PathBuf>;

    fn allowed(&self) -> String {
        "the path of a file".to_owned()
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        if text.contains('\0') {
            return Err("is not a path".to_owned());
        }
        Ok(Some(text.into()))
    }

    fn show(&self, value: &Self::Value) -> String {
        let path = value.as_ref();
        path.map_or_else(String::new, |path| path.display().to_string())
    }
}

/// The URL of the access endpoint, or none.
pub(super) struct EndpointUrl;

impl ValueFormat for EndpointUrl {
    type Value = Option<Url>;

    fn allowed(&self) -> String {
        "`http://…` or `https://…`, without user name, password, `#` and `@` (write `%40`)"
            .to_owned()
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        if text.len() > MAX_URL {
            return Err("is too long".to_owned());
        }
        let url = Url::parse(text).map_err(|error| format!("is not a URL ({error})"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err("has another scheme".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
            return Err("has a part that is not allowed".to_owned());
        }
        // After a password with `/` or `?`, the `@` is parsed as part of the path or query.
        if text.contains('@') {
            return Err("contains `@`".to_owned());
        }
        Ok(Some(url))
    }

    fn show(&self, value: &Self::Value) -> String {
        value.as_ref().map_or_else(String::new, Url::to_string)
    }
}

/// A bearer token, or none.
pub(super) struct BearerToken;

impl ValueFormat for BearerToken {
    type Value = Option<Secret>;

    fn allowed(&self) -> String {
        format!("1 to {MAX_TOKEN} visible ASCII characters, without spaces")
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        match text.len() {
            0 => Err("is empty".to_owned()),
            1..=MAX_TOKEN if text.bytes().all(|b| b.is_ascii_graphic()) => {
                Ok(Some(Secret::new(text)))
            }
            1..=MAX_TOKEN => Err("has a character that is not allowed".to_owned()),
            _ => Err("is too long".to_owned()),
        }
    }

    fn show(&self, value: &Self::Value) -> String {
        mask(value.as_ref())
    }
}

/// A duration between two bounds.
pub(super) struct DurationRange {
    pub(super) min: Duration,
    pub(super) max: Duration,
}

impl DurationRange {
    fn lower_bound(&self) -> MinDuration {
        MinDuration { min: self.min }
    }
}

impl ValueFormat for DurationRange {
    type Value = Duration;

    fn allowed(&self) -> String {
        let max = show_duration(self.max);
        format!("{}, at most {max}", self.lower_bound().allowed())
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        let duration = self.lower_bound().parse(text)?;
        if duration > self.max {
            return Err("is too long".to_owned());
        }
        Ok(duration)
    }

    fn show(&self, value: &Self::Value) -> String {
        show_duration(*value)
    }
}

/// A number from 1 to the bound.
pub(super) struct CountInRange(pub(super) usize);

impl ValueFormat for CountInRange {
    type Value = usize;

    fn allowed(&self) -> String {
        format!("a whole number from 1 to {}", self.0)
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        match text.parse() {
            Ok(0) => Err("is too small".to_owned()),
            Ok(count) if count <= self.0 => Ok(count),
            Ok(_) => Err("is too large".to_owned()),
            Err(_) => Err("is not a whole number".to_owned()),
        }
    }

    fn show(&self, value: &Self::Value) -> String {
        value.to_string()
    }
}

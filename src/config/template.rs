//! Placeholders: `{instance}` and `{index}` in values that differ between the relays of a fleet.

/// Replaces `{instance}` by the instance name and `{index}` by its trailing digits.
///
/// # Errors
/// An unknown placeholder, an unbalanced brace, or `{index}` with an instance name that does not end
/// in a digit; in words that can follow the text.
pub(super) fn expand(text: &str, instance: &str) -> Result<String, String> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').ok_or("has a `{` without a `}`")?;
        expanded.push_str(without_brace(before)?);
        expanded.push_str(match name {
            "instance" => instance,
            "index" => index(instance).ok_or_else(|| {
                format!("uses `{{index}}`, but the instance name `{instance}` ends in no number")
            })?,
            _ => {
                return Err(
                    "has an unknown placeholder; there are `{instance}` and `{index}`".to_owned(),
                );
            }
        });
        rest = after;
    }
    expanded.push_str(without_brace(rest)?);
    Ok(expanded)
}

/// `relay-2` → `2`.
fn index(instance: &str) -> Option<&str> {
    let stem = instance.trim_end_matches(|c: char| c.is_ascii_digit());
    instance
        .strip_prefix(stem)
        .filter(|digits| !digits.is_empty())
}

fn without_brace(text: &str) -> Result<&str, String> {
    if text.contains('}') {
        Err("has a `}` without a `{`".to_owned())
    } else {
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::expand;

    #[test]
    fn placeholders_are_replaced() {
        let expanded = expand("/dns/{instance}.example/tcp/900{index}", "relay-12");
        assert_eq!(expanded.as_deref(), Ok("/dns/relay-12.example/tcp/90012"));
        assert_eq!(expand("plain", "x").as_deref(), Ok("plain"));
        assert_eq!(expand("{index}", "42").as_deref(), Ok("42"));
    }

    #[test]
    fn invalid_placeholders_are_errors() {
        assert!(expand("{index}", "relay").is_err_and(|e| e.contains("ends in no number")));
        assert!(expand("{pod}", "relay").is_err_and(|e| e.contains("unknown placeholder")));
        assert!(expand("{instance", "relay").is_err_and(|e| e.contains("without a `}`")));
        assert!(expand("instance}", "relay").is_err_and(|e| e.contains("without a `{`")));
        assert!(expand("}{instance}", "relay").is_err_and(|e| e.contains("without a `{`")));
    }
}

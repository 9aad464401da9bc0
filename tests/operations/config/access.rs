//! Access control variables.

use super::*;

const PEER: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
const URL: (&str, &str) = (
    "RELAY_ACCESS_URL",
    "https://members.internal:8443/ask?tenant=7",
);

/// Asserts the error line for a bad value, up to the allowed values.
fn check(name: &str, value: &str, problem: &str) {
    let error = errors(&[URL, (name, value)]);
    let start = format!("{name}: {value:?} {problem}; allowed: ");
    assert!(error.starts_with(&start), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn lists() {
    let item = |name: &str, item: &str, problem: &str| {
        check(name, item, problem);
        let list = format!("{PEER},{item}");
        check(name, &list, &format!("contains {item:?}, which {problem}"));
    };
    for scope in ["RESERVE", "CONNECT"] {
        let (allow, deny) = (
            format!("RELAY_ACCESS_{scope}_ALLOW"),
            format!("RELAY_ACCESS_{scope}_DENY"),
        );
        let value = format!("{PEER}, 192.0.2.0/24 ,2001:db8::1,::ffff:198.51.100.7,");
        let access = config(&[(&allow, &value), (&deny, &value)]).access;
        let lists = if scope == "RESERVE" {
            access.reserve
        } else {
            access.connect
        };
        let shown: Vec<_> = lists.allow.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [PEER, "192.0.2.0/24", "2001:db8::1/128", "198.51.100.7/32"]
        );
        assert_eq!(lists.deny, lists.allow);
        item(&deny, "none", "denies nothing: `none` is only for `allow`");
        item(
            &allow,
            "192.0.2.1/24",
            "has bits beyond its prefix; the network is 192.0.2.0/24",
        );
        item(
            &allow,
            "bob",
            "is neither a peer id nor an IP address nor a network",
        );
        let twice = format!("{PEER},{PEER}");
        check(
            &allow,
            &twice,
            &format!("contains {PEER:?}, which occurs twice"),
        );
    }
    item(
        "RELAY_ACCESS_TARGET_DENY",
        "192.0.2.0/24",
        "has a network for a target: targets are peer ids",
    );
    let none = config(&[("RELAY_ACCESS_TARGET_ALLOW", "none")]).access;
    assert_eq!(none.target.allow.len(), 1);
    let many: Vec<_> = (0..=1024)
        .map(|n| format!("10.0.{}.{}", n / 256, n % 256))
        .collect();
    let error = errors(&[("RELAY_ACCESS_RESERVE_DENY", &many.join(","))]);
    assert!(
        error.contains(" contains more than 1024 items; "),
        "{error}"
    );
}

#[test]
fn the_endpoint() {
    let endpoint = config(&[
        URL,
        ("RELAY_ACCESS_TIMEOUT", "10s"),
        ("RELAY_ACCESS_ON_ERROR", "Fail-Open"),
        ("RELAY_ACCESS_CACHE_TTL", "0"),
        ("RELAY_ACCESS_CACHE_CAPACITY", "65536"),
        ("RELAY_ACCESS_CONCURRENCY", "256"),
        ("RELAY_ACCESS_CA_FILE", "/etc/ca.pem"),
    ]);
    let access = endpoint.access;
    assert_eq!(access.url.unwrap().as_str(), URL.1);
    assert_eq!(access.endpoint.timeout, Duration::from_secs(10));
    assert_eq!(access.endpoint.on_error, OnError::FailOpen);
    assert_eq!(access.endpoint.cache_ttl, None);
    let default = config(&[URL]).access.endpoint;
    assert_eq!(default.on_error, OnError::FailClosed);
    assert_eq!(default.timeout, Duration::from_secs(2));
    for (value, problem) in [
        ("members", "is not a URL (relative URL without a base)"),
        ("ftp://members", "has another scheme"),
        ("https://user@members", "has a part that is not allowed"),
        ("https://:pass@members", "has a part that is not allowed"),
        ("https://members#top", "has a part that is not allowed"),
        ("https://members/a@b", "contains `@`"),
    ] {
        let error = errors(&[("RELAY_ACCESS_URL", value)]);
        let start = format!("RELAY_ACCESS_URL: *** {problem}; allowed: ");
        assert!(error.starts_with(&start), "{error}");
    }
    for (name, value, problem) in [
        ("RELAY_ACCESS_TIMEOUT", "9ms", "is too short"),
        ("RELAY_ACCESS_TIMEOUT", "11s", "is too long"),
        ("RELAY_ACCESS_TIMEOUT", "0", "is too short"),
        ("RELAY_ACCESS_ON_ERROR", "open", "is not one of the choices"),
        (
            "RELAY_ACCESS_CACHE_TTL",
            "1",
            "has no unit; add one, such as s, m or h",
        ),
        ("RELAY_ACCESS_CACHE_CAPACITY", "65537", "is too large"),
        ("RELAY_ACCESS_CONCURRENCY", "0", "is too small"),
        ("RELAY_ACCESS_CONCURRENCY", "257", "is too large"),
        ("RELAY_ACCESS_CONCURRENCY", "some", "is not a whole number"),
    ] {
        check(name, value, problem);
    }
}

/// Includes passwords of which the URL parser takes a part for a host, port, path or query.
#[test]
fn password_in_the_url_is_never_shown() {
    for url in [
        "https://user:hunter2@members",
        "https://:hunter2@members/decide?tenant=7",
        "https://hunter2@members",
        "HTTP://user:hunter2@[2001:db8::1]:8080/",
        "https://user:hunter2@",
        "https://user:hunter2@members:99999/",
        "https://user:hunter2@mem bers/",
        "https://user:hunter2@members#top",
        "https:user:hunter2@members",
        "https:/user:hunter2@members",
        "https//user:hunter2@members",
        "https://user:12/hunter2@members",
        "https://user:12?hunter2@members",
        "https://user:12#hunter2@members",
        "https://user:hunter2/3@members",
        r"https://user:12\hunter2@members",
        "https://user:hun@hunter2@members",
        "https://user:hunter2%40members",
        "https%3A%2F%2Fuser%3Ahunter2%40members",
        "https://user:hunter2\u{ff20}members",
        "https://user:hunter2 members",
        "https://user:hunter2",
        "user:hunter2@members",
        "ftp://user:hunter2@members",
        "//user:hunter2@members",
        "\"https://user:hunter2@members\"",
        "https://user:hunter2\n@members",
        "\u{1}https://user:hunter2@members",
        &format!("https://user:hunter2@members/{}", "x".repeat(4096)),
    ] {
        let error = load(&[("RELAY_ACCESS_URL", url)]).unwrap_err();
        for text in [error.to_string(), format!("{error:?}")] {
            assert!(!text.contains("hunter2"), "{url}: {text}");
            assert!(text.contains("RELAY_ACCESS_URL"), "{text}");
        }
    }
}

#[test]
fn the_token_is_a_secret() {
    let pairs = [URL, ("RELAY_ACCESS_TOKEN_FILE", "/token")];
    let loaded = load_with(&pairs, &[("/token", "hunter2\n")]).unwrap();
    let token = loaded.config.access.endpoint.token.clone();
    assert_eq!(token, Some(Secret::new("hunter2")));
    for text in [format!("{loaded:?}"), loaded.render()] {
        assert!(!text.contains("hunter2") && text.contains("***"), "{text}");
    }
    for token in ["hunter 2", "hünter2", &"h".repeat(4097)] {
        let error = errors(&[URL, ("RELAY_ACCESS_TOKEN", token)]);
        assert!(error.starts_with("RELAY_ACCESS_TOKEN: *** "), "{error}");
    }
}

/// Otherwise, a relay without an endpoint would accept every peer.
#[test]
fn access_settings_without_a_url_are_an_error() {
    let set = [
        ("RELAY_ACCESS_TOKEN", "hunter2"),
        ("RELAY_ACCESS_CA_FILE", "/etc/ca.pem"),
        ("RELAY_ACCESS_TIMEOUT", "1s"),
        ("RELAY_ACCESS_ON_ERROR", "fail-open"),
        ("RELAY_ACCESS_CACHE_TTL", "1m"),
        ("RELAY_ACCESS_CACHE_CAPACITY", "1"),
        ("RELAY_ACCESS_CONCURRENCY", "1"),
    ];
    let expected = set.map(|(name, _)| format!("{name}: has no effect without RELAY_ACCESS_URL"));
    assert_eq!(errors(&set), expected.join("\n"));
    config(&[&set[..], &[URL]].concat());
    // The default value causes no error.
    config(&[("RELAY_ACCESS_ON_ERROR", "fail-closed")]);
    // A bad URL causes a single error line.
    let error = errors(&[("RELAY_ACCESS_URL", "members"), set[0]]);
    assert_eq!(error.lines().count(), 1, "{error}");
}

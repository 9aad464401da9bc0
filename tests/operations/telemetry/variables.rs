//! The effect of each telemetry variable. Every variable has a case.

use std::collections::BTreeSet;

use descord_relay::telemetry::{Destination, Protocol, Settings, variable_names};
use reqwest::header::HeaderValue;

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const COLLECTOR: (&str, &str) = (ENDPOINT, "http://collector:4318");

/// A variable without signal-specific forms.
struct SingleVariable {
    name: &'static str,
    /// Valid values, and the result of [`pick`](Self::pick) for each.
    values: &'static [(&'static str, &'static str)],
    /// Invalid values, if there are any.
    invalid: &'static [&'static str],
    pick: fn(&Settings) -> String,
}

/// A variable with signal-specific forms.
struct PerSignalVariable {
    /// The suffix after `OTEL_EXPORTER_OTLP_` or `OTEL_EXPORTER_OTLP_TRACES_`.
    suffix: &'static str,
    values: &'static [(&'static str, &'static str)],
    invalid: &'static [&'static str],
    /// Other variables that have to be set.
    required: &'static [(&'static str, &'static str)],
    pick: fn(&Destination) -> String,
}

const TIMEOUTS: &[&str] = &["0", "-1", "1s", "1.5", "600001", "99999999999999999999"];
const INTERVALS: &[&str] = &["0", "9", "-1", "1s", "86400001"];
const SIZES: &[&str] = &["0", "-1", "many", "32769", "99999999999999999999"];

const SINGLE_VARIABLES: &[SingleVariable] = &[
    SingleVariable {
        name: "OTEL_SDK_DISABLED",
        values: &[("true", "true"), ("TRUE", "true")],
        invalid: &["1", "yes"],
        pick: |s| s.disabled.to_string(),
    },
    SingleVariable {
        name: "OTEL_SERVICE_NAME",
        values: &[("my relay", "Some(\"my relay\")")],
        invalid: &[],
        pick: |s| format!("{:?}", s.service_name),
    },
    SingleVariable {
        name: "OTEL_RESOURCE_ATTRIBUTES",
        values: &[(
            " k8s.pod.name = a%2Cb%3D , x=,",
            r#"[("k8s.pod.name", "a,b="), ("x", "")]"#,
        )],
        invalid: &["a", "a=b,c", "=b", "a=%ff"],
        pick: |s| format!("{:?}", s.attributes),
    },
    SingleVariable {
        name: "OTEL_TRACES_EXPORTER",
        values: &[
            ("otlp", "http://localhost:4318/v1/traces false"),
            ("console", " true"),
            ("OTLP, Console", "http://localhost:4318/v1/traces true"),
        ],
        invalid: &["zipkin", "otlp,zipkin", "prometheus"],
        pick: |s| format!("{} {}", url(s.traces.otlp.as_ref()), s.traces.console),
    },
    SingleVariable {
        name: "OTEL_METRICS_EXPORTER",
        values: &[
            ("otlp", "http://localhost:4318/v1/metrics false"),
            ("console,prometheus", " true"),
        ],
        invalid: &["statsd", "otlp,,"],
        pick: |s| format!("{} {}", url(s.metrics.otlp.as_ref()), s.metrics.console),
    },
    SingleVariable {
        name: "OTEL_TRACES_SAMPLER",
        values: &[
            ("always_on", "AlwaysOn"),
            ("Always_Off", "AlwaysOff"),
            ("traceidratio", "TraceIdRatioBased(1.0)"),
            ("parentbased_always_off", "ParentBased(AlwaysOff)"),
            (
                "parentbased_traceidratio",
                "ParentBased(TraceIdRatioBased(1.0))",
            ),
        ],
        invalid: &["jaeger_remote", "xray", "sometimes"],
        pick: |s| format!("{:?}", s.traces.sampler),
    },
    SingleVariable {
        name: "OTEL_BSP_SCHEDULE_DELAY",
        values: &[("10", "10ms"), ("86400000", "86400s")],
        invalid: INTERVALS,
        pick: |s| format!("{:?}", s.traces.batch.delay),
    },
    SingleVariable {
        name: "OTEL_BSP_MAX_QUEUE_SIZE",
        values: &[("1", "1 1"), ("100", "100 100"), ("32768", "32768 512")],
        invalid: SIZES,
        pick: |s| format!("{} {}", s.traces.batch.queue, s.traces.batch.size),
    },
    SingleVariable {
        name: "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
        values: &[("7", "7"), ("32768", "2048")],
        invalid: SIZES,
        pick: |s| s.traces.batch.size.to_string(),
    },
    SingleVariable {
        name: "OTEL_METRIC_EXPORT_INTERVAL",
        values: &[("1000", "1s")],
        invalid: INTERVALS,
        pick: |s| format!("{:?}", s.metrics.interval),
    },
    SingleVariable {
        name: "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
        values: &[("delta", "Delta"), ("LowMemory", "LowMemory")],
        invalid: &["none"],
        pick: |s| format!("{:?}", s.metrics.temporality),
    },
    SingleVariable {
        name: "OTEL_PROPAGATORS",
        values: &[
            ("none", "[]"),
            ("tracecontext", "[TraceContext]"),
            ("baggage", "[Baggage]"),
        ],
        invalid: &["b3", "tracecontext,b3", "jaeger"],
        pick: |s| format!("{:?}", s.propagators),
    },
];

const PER_SIGNAL_VARIABLES: &[PerSignalVariable] = &[
    PerSignalVariable {
        suffix: "PROTOCOL",
        values: &[("grpc", "Grpc"), ("GRPC", "Grpc")],
        invalid: &["http/json", "http"],
        required: &[],
        pick: |d| format!("{:?}", d.protocol),
    },
    PerSignalVariable {
        suffix: "HEADERS",
        values: &[(
            " Authorization = Bearer%20abc, x-tenant=a=b ",
            "authorization: Bearer abc; x-tenant: a=b; ",
        )],
        invalid: &["Authorization", "a b=c", "a=%0a", "=b"],
        required: &[],
        pick: |d| {
            let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
            let mut all: Vec<_> = d.headers.iter().collect();
            all.sort_by_key(|(name, _)| name.as_str());
            let lines = all.iter().map(|(name, v)| format!("{name}: {}; ", text(v)));
            lines.collect()
        },
    },
    PerSignalVariable {
        suffix: "TIMEOUT",
        values: &[("1", "1ms"), ("29999", "29.999s"), ("600000", "30s")],
        invalid: TIMEOUTS,
        required: &[],
        pick: |d| format!("{:?}", d.timeout),
    },
    PerSignalVariable {
        suffix: "COMPRESSION",
        values: &[("gzip", "Gzip")],
        invalid: &["zstd", "deflate"],
        required: &[],
        pick: |d| format!("{:?}", d.compression),
    },
    PerSignalVariable {
        suffix: "INSECURE",
        values: &[("true", "http://collector:443/")],
        invalid: &["1"],
        required: &[
            (ENDPOINT, "collector:443"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ],
        pick: |d| d.url.to_string(),
    },
    PerSignalVariable {
        suffix: "CERTIFICATE",
        values: &[("/ca.pem", "Some(\"/ca.pem\")")],
        invalid: &[],
        required: &[],
        pick: |d| format!("{:?}", d.certificate),
    },
    PerSignalVariable {
        suffix: "CLIENT_KEY",
        values: &[("/key.pem", "Some(\"/key.pem\")")],
        invalid: &[],
        required: &[],
        pick: |d| format!("{:?}", d.client_key),
    },
    PerSignalVariable {
        suffix: "CLIENT_CERTIFICATE",
        values: &[("/own.pem", "Some(\"/own.pem\")")],
        invalid: &[],
        required: &[],
        pick: |d| format!("{:?}", d.client_certificate),
    },
];

/// Variables without an effect by themselves, with separate tests below.
const SEPARATELY_TESTED: &[&str] = &[
    "OTEL_TRACES_SAMPLER_ARG",
    "OTEL_BSP_EXPORT_TIMEOUT",
    "OTEL_METRIC_EXPORT_TIMEOUT",
    ENDPOINT,
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
];

fn url(destination: Option<&Destination>) -> String {
    destination.map_or_else(String::new, |d| d.url.to_string())
}

/// The settings for these variables. Asserts that there are no warnings.
fn settings(pairs: &[(&str, &str)]) -> Settings {
    let (settings, warnings) = Settings::from_env(pairs.iter().copied());
    assert!(warnings.is_empty(), "{warnings:?}");
    settings
}

/// The settings for these variables. Asserts a single warning, about this variable.
#[track_caller]
fn settings_with_warning(name: &str, value: &str, required: &[(&str, &str)]) -> Settings {
    let pairs = required.iter().copied().chain([(name, value)]);
    let (settings, warnings) = Settings::from_env(pairs);
    assert_eq!(warnings.len(), 1, "{name}={value}: {warnings:?}");
    let warning = warnings.concat();
    assert!(warning.starts_with(&format!("{name}: ")), "{warning}");
    assert!(warning.contains("is ignored; allowed: "), "{warning}");
    let shown = warning.contains(&format!("{value:?}"));
    assert_ne!(shown, name.contains("HEADERS"), "{warning}");
    settings
}

/// The signals as in variable names, with the destination of each.
fn signals(settings: &Settings) -> [(&'static str, Option<&Destination>); 2] {
    [
        ("TRACES", settings.traces.otlp.as_ref()),
        ("METRICS", settings.metrics.otlp.as_ref()),
    ]
}

#[test]
fn every_variable_has_a_case() {
    let ones = SINGLE_VARIABLES.iter().map(|case| case.name.to_owned());
    let each = PER_SIGNAL_VARIABLES.iter().flat_map(|case| {
        ["", "TRACES_", "METRICS_"].map(|s| format!("OTEL_EXPORTER_OTLP_{s}{}", case.suffix))
    });
    let others = SEPARATELY_TESTED.iter().map(|name| (*name).to_owned());
    let cases: BTreeSet<_> = ones.chain(each).chain(others).collect();
    assert_eq!(cases, variable_names().into_iter().collect());
}

#[test]
fn variables_without_signal_forms_have_their_effect() {
    for case in SINGLE_VARIABLES {
        let default = (case.pick)(&settings(&[]));
        for (value, expected) in case.values {
            let found = (case.pick)(&settings(&[(case.name, value)]));
            assert_eq!(found, *expected, "{}={value}", case.name);
            assert_ne!(found, default, "{}={value} does nothing", case.name);
        }
        for empty in ["", " "] {
            let found = (case.pick)(&settings(&[(case.name, empty)]));
            assert_eq!(found, default, "{} is empty", case.name);
        }
        for invalid in case.invalid {
            let found = (case.pick)(&settings_with_warning(case.name, invalid, &[]));
            assert_eq!(found, default, "{}={invalid}", case.name);
        }
    }
}

#[test]
fn variables_with_signal_forms_have_their_effect() {
    for case in PER_SIGNAL_VARIABLES {
        let general = format!("OTEL_EXPORTER_OTLP_{}", case.suffix);
        let with = |more: &[(&str, &str)]| {
            let all = [&[COLLECTOR], case.required, more].concat();
            settings(&all)
        };
        let pick = |settings: &Settings, signal| {
            let found = signals(settings)
                .into_iter()
                .find(|(name, _)| *name == signal);
            (case.pick)(found.unwrap().1.unwrap())
        };
        for signal in ["TRACES", "METRICS"] {
            let other = if signal == "TRACES" {
                "METRICS"
            } else {
                "TRACES"
            };
            let own = format!("OTEL_EXPORTER_OTLP_{signal}_{}", case.suffix);
            let default = pick(&with(&[]), signal);
            for (value, expected) in case.values {
                assert_eq!(
                    pick(&with(&[(&general, value)]), signal),
                    *expected,
                    "{general}"
                );
                assert_ne!(*expected, default, "{general}={value} does nothing");
                let settings = with(&[(&own, value)]);
                assert_eq!(pick(&settings, signal), *expected, "{own}={value}");
                assert_eq!(pick(&settings, other), pick(&with(&[]), other), "{own}");
            }
            assert_eq!(
                pick(&with(&[(&general, " ")]), signal),
                default,
                "{general}"
            );
            let (first, expected) = case.values.first().unwrap();
            for invalid in case.invalid {
                let required = [&[COLLECTOR], case.required].concat();
                let settings = settings_with_warning(&general, invalid, &required);
                assert_eq!(pick(&settings, signal), default, "{general}={invalid}");
                // The general form applies.
                let required = [&required[..], &[(&*general, *first)]].concat();
                let settings = settings_with_warning(&own, invalid, &required);
                assert_eq!(pick(&settings, signal), *expected, "{own}={invalid}");
            }
        }
    }
}

#[test]
fn endpoint_enables_export() {
    let off = settings(&[]);
    assert!(signals(&off).iter().all(|(_, to)| to.is_none()));
    let both = |pairs: &[(&str, &str)]| {
        let settings = settings(pairs);
        signals(&settings).map(|(_, to)| url(to))
    };
    for base in ["http://c:1/x", "http://c:1/x/"] {
        assert_eq!(
            both(&[(ENDPOINT, base)]),
            ["http://c:1/x/v1/traces", "http://c:1/x/v1/metrics"]
        );
    }
    // The signal-specific endpoint is used unchanged, and enables that signal only.
    let traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://t/in");
    let metrics = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "https://m/in");
    assert_eq!(both(&[traces]), ["https://t/in", ""]);
    assert_eq!(both(&[metrics]), ["", "https://m/in"]);
    assert_eq!(
        both(&[traces, COLLECTOR]),
        ["https://t/in", "http://collector:4318/v1/metrics"]
    );
    let grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    assert_eq!(
        both(&[(ENDPOINT, "c:4317"), grpc]),
        ["https://c:4317/", "https://c:4317/"]
    );
    // A named exporter uses the default endpoint of the specification.
    let named = ("OTEL_TRACES_EXPORTER", "otlp");
    assert_eq!(both(&[named, grpc]), ["http://localhost:4317/", ""]);
    // A disabled signal stays disabled.
    for (name, value) in [
        ("OTEL_TRACES_EXPORTER", "none"),
        ("OTEL_TRACES_EXPORTER", "console"),
        ("OTEL_SDK_DISABLED", "true"),
    ] {
        let [traces, _] = both(&[COLLECTOR, named, (name, value)]);
        assert_eq!(traces, "", "{name}={value}");
    }
    let [_, metrics] = both(&[COLLECTOR, ("OTEL_METRICS_EXPORTER", "prometheus")]);
    assert_eq!(metrics, "");
    let disabled = settings(&[
        ("OTEL_SDK_DISABLED", "true"),
        ("OTEL_TRACES_EXPORTER", "console"),
        ("OTEL_METRICS_EXPORTER", "console"),
    ]);
    assert!(!disabled.traces.console && !disabled.metrics.console);
}

#[test]
fn invalid_endpoint_is_ignored() {
    for invalid in ["ftp://c", "http://", "://", "http://c:99999", "a b"] {
        let settings = settings_with_warning(ENDPOINT, invalid, &[]);
        assert!(settings.traces.otlp.is_none(), "{invalid}");
    }
    // HTTP endpoints need a scheme.
    let (settings, warnings) = Settings::from_env([(ENDPOINT, "c:4318")]);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(signals(&settings).iter().all(|(_, to)| to.is_none()));
    // The URL may contain a password.
    let (_, warnings) = Settings::from_env([(ENDPOINT, "http://user:hunter2@c:99999")]);
    let warnings = warnings.concat();
    assert!(
        warnings.contains("***") && !warnings.contains("hunter2"),
        "{warnings}"
    );
}

#[test]
fn sampling_ratio_is_applied() {
    const ARG: &str = "OTEL_TRACES_SAMPLER_ARG";
    let sampler = |pairs: &[(&str, &str)]| format!("{:?}", settings(pairs).traces.sampler);
    let kind = ("OTEL_TRACES_SAMPLER", "traceidratio");
    assert_eq!(sampler(&[kind, (ARG, "0.25")]), "TraceIdRatioBased(0.25)");
    let kind = ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio");
    let expected = "ParentBased(TraceIdRatioBased(0.0))";
    assert_eq!(sampler(&[kind, (ARG, "0")]), expected);
    for invalid in ["-0.1", "1.1", "NaN", "half"] {
        let settings = settings_with_warning(ARG, invalid, &[kind]);
        let found = format!("{:?}", settings.traces.sampler);
        assert_eq!(found, "ParentBased(TraceIdRatioBased(1.0))");
    }
}

#[test]
fn smaller_timeout_applies() {
    for (name, signal) in [
        ("OTEL_BSP_EXPORT_TIMEOUT", "TRACES"),
        ("OTEL_METRIC_EXPORT_TIMEOUT", "METRICS"),
    ] {
        let millis = |pairs: &[(&str, &str)]| {
            let settings = settings(&[&[COLLECTOR], pairs].concat());
            let found = signals(&settings).map(|(s, to)| (s, to.unwrap().timeout.as_millis()));
            found.into_iter().find(|(s, _)| *s == signal).unwrap().1
        };
        let otlp = "OTEL_EXPORTER_OTLP_TIMEOUT";
        assert_eq!(millis(&[]), 10_000);
        assert_eq!(millis(&[(name, "50")]), 50);
        assert_eq!(millis(&[(name, "50"), (otlp, "40")]), 40);
        assert_eq!(millis(&[(name, "60000"), (otlp, "50000")]), 50_000);
        for invalid in TIMEOUTS {
            settings_with_warning(name, invalid, &[COLLECTOR]);
        }
    }
}

#[test]
fn values_of_invalid_text_are_ignored() {
    use std::{ffi::OsString, os::unix::ffi::OsStringExt};
    let name = OsString::from("OTEL_SERVICE_NAME");
    let (settings, warnings) = Settings::from_env([(name, OsString::from_vec(vec![0xff]))]);
    assert_eq!(settings.service_name, None);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}

#[test]
fn debug_output_of_settings_has_no_secret() {
    let settings = settings(&[
        (
            ENDPOINT,
            "https://user:hunter2@c:4318/x?token=hunter3#hunter4",
        ),
        (
            "OTEL_EXPORTER_OTLP_METRICS_HEADERS",
            "authorization=hunter5",
        ),
    ]);
    let text = format!("{settings:?} {settings:#?}");
    assert!(!text.contains("hunter") && !text.contains("user"), "{text}");
    // Debug output of the exporters, which contains the headers, does not either.
    for (signal, destination) in signals(&settings) {
        let headers = &destination.unwrap().headers;
        assert!(headers.contains_key("authorization"), "{signal}");
        assert!(headers.values().all(HeaderValue::is_sensitive), "{signal}");
    }
    let traces = settings.traces.otlp.unwrap();
    assert_eq!(traces.shown(), "https://c:4318/x/v1/traces");
    assert_eq!(traces.protocol, Protocol::Http);
}

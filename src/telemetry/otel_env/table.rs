//! The table of all `OTEL_*` variables that the relay honours.
//!
//! Parsing, warnings and the reference in `docs/telemetry.md` all come from here.

use std::fmt::Write as _;

use opentelemetry_sdk::metrics::Temporality;

use super::{
    parse,
    raw::{Exporter, RawConfig, RawOtlp, SamplerKind},
};
use crate::telemetry::settings::{Compression, Propagator, Protocol};

/// What the names of the variables start with that each signal has a form of.
const OTLP: &str = "OTEL_EXPORTER_OTLP_";

/// One environment variable.
pub(super) struct Variable {
    /// The full name, in the form that holds for all signals.
    pub(super) name: &'static str,
    /// What holds when it is not set, for people.
    default: &'static str,
    /// What may be written, for people.
    pub(super) allowed: &'static str,
    /// What it does, in one sentence.
    doc: &'static str,
    /// Whether the value must not be shown.
    pub(super) is_secret: bool,
    /// Where the value goes.
    pub(super) field: Field,
}

/// Where a value goes. `None` when it is not allowed.
pub(super) enum Field {
    /// There is one.
    One(fn(&mut RawConfig, &str) -> Option<()>),
    /// There is one for all signals and one for each, which wins.
    Signals(fn(&mut RawOtlp, &str) -> Option<()>),
}

impl Variable {
    const fn new(
        name: &'static str,
        default: &'static str,
        allowed: &'static str,
        doc: &'static str,
        field: Field,
    ) -> Self {
        Self {
            name,
            default,
            allowed,
            doc,
            is_secret: false,
            field,
        }
    }

    const fn secret(mut self) -> Self {
        self.is_secret = true;
        self
    }

    /// The name of the form for one signal ("TRACES", "METRICS"), if there is one.
    pub(super) fn name_for(&self, signal: &str) -> Option<String> {
        let rest = self.name.strip_prefix(OTLP)?;
        matches!(self.field, Field::Signals(_)).then(|| format!("{OTLP}{signal}_{rest}"))
    }
}

/// `one!(path.of.field = parse)`, `signals!(field = parse)`: where a value goes once it is parsed.
macro_rules! one {
    ($($field:ident).+ = $parse:expr) => {
        Field::One(|raw, text| {
            raw.$($field).+ = Some($parse(text)?);
            Some(())
        })
    };
}
macro_rules! signals {
    ($field:ident = $parse:expr) => {
        Field::Signals(|raw, text| {
            raw.$field = Some($parse(text)?);
            Some(())
        })
    };
}

const BOOLEAN: &str = "`true` or `false`";
const INTERVAL: &str = "milliseconds, from 10 to 86400000";
const TIMEOUT: &str = "milliseconds, from 1 to 600000";
const SPANS: &str = "a number from 1 to 32768";
const PAIRS: &str = "`key=value,key=value`, values percent-encoded";
const PATH: &str = "the path of a PEM file";

/// Every variable, in the order in which people meet them.
pub(super) static VARIABLES: &[Variable] = &[
    Variable::new(
        "OTEL_SDK_DISABLED",
        "`false`",
        BOOLEAN,
        "Switches traces and metrics off, `/metrics` included.",
        one!(disabled = parse::boolean),
    ),
    Variable::new(
        "OTEL_SERVICE_NAME",
        "`descord-relay`",
        "any text",
        "The resource's `service.name`.",
        one!(service_name = |text: &str| Some(text.to_owned())),
    ),
    Variable::new(
        "OTEL_RESOURCE_ATTRIBUTES",
        "none",
        PAIRS,
        "Attributes of the resource; they replace what the relay says of itself, and \
         `OTEL_SERVICE_NAME` replaces their `service.name`.",
        one!(attributes = parse::pairs),
    ),
    Variable::new(
        "OTEL_TRACES_EXPORTER",
        "`otlp` once an endpoint is set, else `none`",
        "a list of `otlp` and `console`, or `none`",
        "Where spans go.",
        one!(
            traces_exporters = |text| parse::words(
                text,
                &[("otlp", Exporter::Otlp), ("console", Exporter::Console)]
            )
        ),
    ),
    Variable::new(
        "OTEL_METRICS_EXPORTER",
        "`otlp` once an endpoint is set, else `none`",
        "a list of `otlp`, `console` and `prometheus`, or `none`",
        "Where metrics go; `prometheus` is `/metrics`, which is served anyway if \
         `RELAY_ADMIN_ADDRESS` is set.",
        one!(
            metrics_exporters = |text| parse::words(
                text,
                &[
                    ("otlp", Exporter::Otlp),
                    ("console", Exporter::Console),
                    ("prometheus", Exporter::Prometheus)
                ]
            )
        ),
    ),
    Variable::new(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "`http://localhost:4318`, with gRPC `http://localhost:4317`",
        "`http://…` or `https://…`; with gRPC also `host:port`",
        "The collector. With `http/protobuf`, `/v1/traces` and `/v1/metrics` are appended; the \
         forms for one signal are used as they are.",
        signals!(endpoint = parse::address),
    ),
    Variable::new(
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        "`http/protobuf`",
        "`http/protobuf` or `grpc`",
        "How the collector is spoken to.",
        signals!(
            protocol = |text| parse::word(
                text,
                &[("http/protobuf", Protocol::Http), ("grpc", Protocol::Grpc)]
            )
        ),
    ),
    Variable::new(
        "OTEL_EXPORTER_OTLP_HEADERS",
        "none",
        PAIRS,
        "Headers of every request to the collector. A secret.",
        signals!(headers = parse::headers),
    )
    .secret(),
    Variable::new(
        "OTEL_EXPORTER_OTLP_TIMEOUT",
        "`10000`",
        TIMEOUT,
        "How long an export may take, with everything that belongs to it.",
        signals!(timeout = parse::timeout),
    ),
    Variable::new(
        "OTEL_EXPORTER_OTLP_COMPRESSION",
        "`none`",
        "`gzip` or `none`",
        "How requests are compressed.",
        signals!(
            compression = |text| parse::word(
                text,
                &[("gzip", Compression::Gzip), ("none", Compression::None)]
            )
        ),
    ),
    Variable::new(
        "OTEL_EXPORTER_OTLP_INSECURE",
        "`false`",
        BOOLEAN,
        "With gRPC and an endpoint without a scheme: no TLS.",
        signals!(insecure = parse::boolean),
    ),
    Variable::new(
        "OTEL_EXPORTER_OTLP_CERTIFICATE",
        "the system's certificates",
        PATH,
        "The certificates that may vouch for the collector, instead of the system's.",
        signals!(certificate = |text: &str| Some(text.into())),
    ),
    Variable::new(
        "OTEL_EXPORTER_OTLP_CLIENT_KEY",
        "none",
        PATH,
        "The private key of the certificate that the relay shows.",
        signals!(client_key = |text: &str| Some(text.into())),
    ),
    Variable::new(
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
        "none",
        PATH,
        "The certificate that the relay shows to the collector; it needs its key.",
        signals!(client_certificate = |text: &str| Some(text.into())),
    ),
    Variable::new(
        "OTEL_TRACES_SAMPLER",
        "`parentbased_always_on`",
        "`always_on`, `always_off`, `traceidratio`, `parentbased_always_on`, \
         `parentbased_always_off` or `parentbased_traceidratio`",
        "Which traces are recorded.",
        one!(sampler = |text| parse::word(text, SamplerKind::NAMES)),
    ),
    Variable::new(
        "OTEL_TRACES_SAMPLER_ARG",
        "`1.0`",
        "a number from 0 to 1",
        "The share of traces that `traceidratio` records.",
        one!(sampler_ratio = parse::ratio),
    ),
    Variable::new(
        "OTEL_BSP_SCHEDULE_DELAY",
        "`5000`",
        INTERVAL,
        "Time between two exports of spans.",
        one!(batch.delay = parse::interval),
    ),
    Variable::new(
        "OTEL_BSP_EXPORT_TIMEOUT",
        "`30000`",
        TIMEOUT,
        "How long an export of spans may take; the smaller of this and \
         `OTEL_EXPORTER_OTLP_TIMEOUT` holds.",
        one!(batch.timeout = parse::timeout),
    ),
    Variable::new(
        "OTEL_BSP_MAX_QUEUE_SIZE",
        "`2048`",
        SPANS,
        "Spans that may wait to be exported, those on their way included; more are dropped.",
        one!(batch.queue = parse::spans),
    ),
    Variable::new(
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
        "`512`",
        SPANS,
        "Spans of one export; at most `OTEL_BSP_MAX_QUEUE_SIZE`.",
        one!(batch.size = parse::spans),
    ),
    Variable::new(
        "OTEL_METRIC_EXPORT_INTERVAL",
        "`60000`",
        INTERVAL,
        "Time between two exports of metrics.",
        one!(metric_interval = parse::interval),
    ),
    Variable::new(
        "OTEL_METRIC_EXPORT_TIMEOUT",
        "`30000`",
        TIMEOUT,
        "How long an export of metrics may take; the smaller of this and \
         `OTEL_EXPORTER_OTLP_TIMEOUT` holds.",
        one!(metric_timeout = parse::timeout),
    ),
    Variable::new(
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
        "`cumulative`",
        "`cumulative`, `delta` or `lowmemory`",
        "Whether counters and histograms are pushed as totals or as differences.",
        one!(
            temporality = |text| parse::word(
                text,
                &[
                    ("cumulative", Temporality::Cumulative),
                    ("delta", Temporality::Delta),
                    ("lowmemory", Temporality::LowMemory)
                ]
            )
        ),
    ),
    Variable::new(
        "OTEL_PROPAGATORS",
        "`tracecontext,baggage`",
        "a list of `tracecontext` and `baggage`, or `none`",
        "Whose traces the requests to the admin endpoints may continue. Baggage has no effect: \
         the relay passes nothing on.",
        one!(
            propagators = |text| parse::words(
                text,
                &[
                    ("tracecontext", Propagator::TraceContext),
                    ("baggage", Propagator::Baggage)
                ]
            )
        ),
    ),
];

/// The names of all variables, the forms for one signal included.
pub fn names() -> Vec<String> {
    let forms = |variable: &Variable| {
        let signals = ["TRACES", "METRICS"];
        let signals = signals.map(|signal| variable.name_for(signal));
        [Some(variable.name.to_owned())].into_iter().chain(signals)
    };
    VARIABLES.iter().flat_map(forms).flatten().collect()
}

/// The reference of all variables, as a table in Markdown that ends in a line break.
pub fn reference_table() -> String {
    let mut table = "| Variable | Default | Meaning |\n|---|---|---|\n".to_owned();
    for variable in VARIABLES {
        let forms = match variable.field {
            Field::Signals(_) => " ¹",
            Field::One(_) => "",
        };
        // WorkerGuard to a string cannot fail.
        let _ = writeln!(
            table,
            "| `{}`{forms} | {} | {} Allowed: {}. |",
            variable.name, variable.default, variable.doc, variable.allowed
        );
    }
    table
}

//! The table of all supported `OTEL_*` variables.
//!
//! It is the source of parsing, of warnings and of the reference in `docs/telemetry.md`.

use opentelemetry_sdk::metrics::Temporality;

use super::{
    parse,
    raw::{Exporter, RawConfig, RawOtlp, SamplerKind},
};
use crate::{
    telemetry::settings::{Compression, Propagator, Protocol},
    variable::{REFERENCE_HEAD, reference_row},
};

/// The prefix of variables that also have a form for each signal.
const OTLP: &str = "OTEL_EXPORTER_OTLP_";

/// One environment variable.
pub(super) struct Variable {
    /// The full name, in the form for all signals.
    pub(super) name: &'static str,
    /// The default, for the documentation.
    default: &'static str,
    /// The allowed values, for the documentation.
    pub(super) allowed: &'static str,
    /// Its meaning, in one sentence.
    doc: &'static str,
    /// Whether the value is masked.
    pub(super) is_secret: bool,
    /// The setter of the value.
    pub(super) field: Field,
}

/// The setter of a value; it returns `None` if the value is not allowed.
pub(super) enum Field {
    /// A variable with a single form.
    One(fn(&mut RawConfig, &str) -> Option<()>),
    /// A variable that also has a form for each signal, which takes precedence.
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

/// `one!(path.of.field = parse)`, `signals!(field = parse)`: parses a value and sets the field.
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

/// Every variable, in the order of the reference.
pub(super) static VARIABLES: &[Variable] = &[
    Variable::new(
        "OTEL_SDK_DISABLED",
        "`false`",
        BOOLEAN,
        "Disables traces and metrics, including `/metrics`.",
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
        "Attributes of the resource; they replace the relay's own, and \
         `OTEL_SERVICE_NAME` replaces their `service.name`.",
        one!(attributes = parse::pairs),
    ),
    Variable::new(
        "OTEL_TRACES_EXPORTER",
        "`otlp` if an endpoint is set, else `none`",
        "a list of `otlp` and `console`, or `none`",
        "Exporters of spans.",
        one!(
            traces_exporters = |text| parse::words(
                text,
                &[("otlp", Exporter::Otlp), ("console", Exporter::Console)]
            )
        ),
    ),
    Variable::new(
        "OTEL_METRICS_EXPORTER",
        "`otlp` if an endpoint is set, else `none`",
        "a list of `otlp`, `console` and `prometheus`, or `none`",
        "Exporters of metrics; `prometheus` is `/metrics`, which is always served if \
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
        "The protocol of the collector.",
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
        "Headers of every request to the collector. Secret.",
        signals!(headers = parse::headers),
    )
    .secret(),
    Variable::new(
        "OTEL_EXPORTER_OTLP_TIMEOUT",
        "`10000`",
        TIMEOUT,
        "Deadline of an export, including retries.",
        signals!(timeout = parse::timeout),
    ),
    Variable::new(
        "OTEL_EXPORTER_OTLP_COMPRESSION",
        "`none`",
        "`gzip` or `none`",
        "Compression of requests.",
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
        "With gRPC and an endpoint without a scheme: connect without TLS.",
        signals!(insecure = parse::boolean),
    ),
    Variable::new(
        "OTEL_EXPORTER_OTLP_CERTIFICATE",
        "the system's certificates",
        PATH,
        "PEM file of CA certificates to trust for the collector, instead of the system store.",
        signals!(certificate = |text: &str| Some(text.into())),
    ),
    Variable::new(
        "OTEL_EXPORTER_OTLP_CLIENT_KEY",
        "none",
        PATH,
        "The private key of the relay's client certificate.",
        signals!(client_key = |text: &str| Some(text.into())),
    ),
    Variable::new(
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
        "none",
        PATH,
        "The relay's client certificate; it requires the key.",
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
        "The ratio of traces that `traceidratio` records.",
        one!(sampler_ratio = parse::ratio),
    ),
    Variable::new(
        "OTEL_BSP_SCHEDULE_DELAY",
        "`5000`",
        INTERVAL,
        "Interval between two exports of spans.",
        one!(batch.delay = parse::interval),
    ),
    Variable::new(
        "OTEL_BSP_EXPORT_TIMEOUT",
        "`30000`",
        TIMEOUT,
        "Deadline of an export of spans; the shorter of this and \
         `OTEL_EXPORTER_OTLP_TIMEOUT` applies.",
        one!(batch.timeout = parse::timeout),
    ),
    Variable::new(
        "OTEL_BSP_MAX_QUEUE_SIZE",
        "`2048`",
        SPANS,
        "Maximum number of spans in the queue, including those of an export in progress; more are dropped.",
        one!(batch.queue = parse::spans),
    ),
    Variable::new(
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
        "`512`",
        SPANS,
        "Maximum number of spans of one export; at most `OTEL_BSP_MAX_QUEUE_SIZE`.",
        one!(batch.size = parse::spans),
    ),
    Variable::new(
        "OTEL_METRIC_EXPORT_INTERVAL",
        "`60000`",
        INTERVAL,
        "Interval between two exports of metrics.",
        one!(metric_interval = parse::interval),
    ),
    Variable::new(
        "OTEL_METRIC_EXPORT_TIMEOUT",
        "`30000`",
        TIMEOUT,
        "Deadline of an export of metrics; the shorter of this and \
         `OTEL_EXPORTER_OTLP_TIMEOUT` applies.",
        one!(metric_timeout = parse::timeout),
    ),
    Variable::new(
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
        "`cumulative`",
        "`cumulative`, `delta` or `lowmemory`",
        "Whether counters and histograms are exported as totals or as differences.",
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
        "Formats of trace context in requests to the admin API. Baggage has no effect, because \
         the relay propagates no context.",
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

/// The names of all variables, including the forms for one signal.
pub fn names() -> Vec<String> {
    let forms = |variable: &Variable| {
        let signals = ["TRACES", "METRICS"];
        let signals = signals.map(|signal| variable.name_for(signal));
        [Some(variable.name.to_owned())].into_iter().chain(signals)
    };
    VARIABLES.iter().flat_map(forms).flatten().collect()
}

/// The reference of all variables, as a Markdown table that ends in a line break.
pub fn reference_table() -> String {
    let rows = VARIABLES.iter().map(|variable| {
        let forms = match variable.field {
            Field::Signals(_) => " ¹",
            Field::One(_) => "",
        };
        let name = format!("`{}`{forms}", variable.name);
        reference_row(&name, variable.default, variable.doc, variable.allowed, "")
    });
    [REFERENCE_HEAD.to_owned()]
        .into_iter()
        .chain(rows)
        .collect()
}

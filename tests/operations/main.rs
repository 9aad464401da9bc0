//! The relay from the operator's perspective: configuration, command line, log, metrics, traces, admin
//! endpoints, and the files for hosts and Kubernetes.

mod admin;
mod admin_drain;
mod chart;
mod cli;
mod command_line;
mod command_line_document;
mod config;
mod documentation;
mod documentation_paths;
mod documented_commands;
mod event_log;
mod first_process;
mod hosts;
mod log_filter;
mod metrics;
mod metrics_endpoint;
mod module_cycles;
mod observability;
mod peers;
mod privacy;
mod project_files;
mod telemetry;
mod terminal;

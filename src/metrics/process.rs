//! Instruments of the process and its runtime.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use opentelemetry::{KeyValue, metrics::Meter};
use tokio::runtime::Handle;

use super::catalogue::{
    BUILD_INFO, RUNTIME_BUSY, RUNTIME_QUEUE, RUNTIME_TASKS, RUNTIME_WORKERS, START_TIME, UPTIME,
};

/// Registers the instruments of the process. Must be called within the runtime.
pub(crate) fn observe(meter: &Meter) {
    BUILD_INFO.observe(meter, |observer| {
        let attributes: Vec<_> = BUILD_INFO
            .attributes
            .iter()
            .flat_map(|attribute| {
                let values = attribute.values.iter();
                values.map(|value| KeyValue::new(attribute.key, *value))
            })
            .collect();
        observer.observe(1, &attributes);
    });
    let start_time = SystemTime::now().duration_since(UNIX_EPOCH);
    let start_time = start_time.unwrap_or_default().as_secs_f64();
    START_TIME.observe_f64(meter, move |observer| observer.observe(start_time, &[]));
    let started = Instant::now();
    UPTIME.observe_f64(meter, move |observer| {
        observer.observe(started.elapsed().as_secs_f64(), &[]);
    });
    runtime(meter);
    #[cfg(target_os = "linux")]
    linux::observe(meter);
}

fn runtime(meter: &Meter) {
    let metrics = Handle::current().metrics();
    let workers = metrics.num_workers();
    RUNTIME_WORKERS.observe(meter, move |observer| observer.observe(workers as u64, &[]));
    let tasks = metrics.clone();
    RUNTIME_TASKS.observe(meter, move |observer| {
        observer.observe(tasks.num_alive_tasks() as u64, &[]);
    });
    let queue = metrics.clone();
    RUNTIME_QUEUE.observe(meter, move |observer| {
        observer.observe(queue.global_queue_depth() as u64, &[]);
    });
    RUNTIME_BUSY.observe_f64(meter, move |observer| {
        let busy = (0..workers).map(|worker| metrics.worker_total_busy_duration(worker));
        observer.observe(busy.map(|busy| busy.as_secs_f64()).sum(), &[]);
    });
}

/// Statistics of the process from `/proc`.
#[cfg(target_os = "linux")]
mod linux {
    use opentelemetry::{KeyValue, metrics::Meter};
    use procfs::process::{LimitValue, Process, Stat};

    use crate::metrics::catalogue::{
        CPU_TIME, FILE_DESCRIPTOR_LIMIT, FILE_DESCRIPTORS, MEMORY_USAGE, MEMORY_VIRTUAL, THREADS,
    };

    pub(super) fn observe(meter: &Meter) {
        #[expect(
            clippy::cast_precision_loss,
            reason = "a time is a measure, not a count"
        )]
        let ticks_per_second = procfs::ticks_per_second() as f64;
        CPU_TIME.observe_f64(meter, move |observer| {
            let Some(stat) = stat() else { return };
            for (mode, ticks) in [("user", stat.utime), ("system", stat.stime)] {
                #[expect(
                    clippy::cast_precision_loss,
                    reason = "a time is a measure, not a count"
                )]
                let seconds = ticks as f64 / ticks_per_second;
                observer.observe(seconds, &[KeyValue::new("cpu.mode", mode)]);
            }
        });
        let page = procfs::page_size();
        MEMORY_USAGE.observe(meter, move |observer| {
            if let Some(stat) = stat() {
                observer.observe(stat.rss.saturating_mul(page), &[]);
            }
        });
        MEMORY_VIRTUAL.observe(meter, |observer| {
            if let Some(stat) = stat() {
                observer.observe(stat.vsize, &[]);
            }
        });
        THREADS.observe(meter, |observer| {
            if let Some(threads) = stat().and_then(|stat| u64::try_from(stat.num_threads).ok()) {
                observer.observe(threads, &[]);
            }
        });
        FILE_DESCRIPTORS.observe(meter, |observer| {
            if let Ok(open) = Process::myself().and_then(|process| process.fd_count()) {
                observer.observe(open as u64, &[]);
            }
        });
        FILE_DESCRIPTOR_LIMIT.observe(meter, |observer| {
            let limits = Process::myself().and_then(|process| process.limits());
            if let Ok(LimitValue::Value(limit)) =
                limits.map(|limits| limits.max_open_files.soft_limit)
            {
                observer.observe(limit, &[]);
            }
        });
    }

    fn stat() -> Option<Stat> {
        Process::myself().and_then(|process| process.stat()).ok()
    }
}

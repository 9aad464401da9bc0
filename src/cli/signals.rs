//! Signals: some start the drain, others are logged and ignored.

use std::io::{self, IsTerminal as _};

use futures::StreamExt as _;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook_tokio::Signals;
use tracing::{info, warn};

use lifecycle::Lifecycle;

/// Signals that start the drain; a second one ends the process.
const STOP_SIGNALS: [i32; 2] = [SIGTERM, SIGINT];
/// Signals that are logged and otherwise ignored. Their default action would end the process with all
/// circuits; they are sent when a terminal closes, or by tools that reload or rotate logs.
const IGNORED_SIGNALS: [i32; 3] = [SIGHUP, SIGUSR1, SIGUSR2];
/// The signal that makes a task panic, in debug builds only.
#[cfg(debug_assertions)]
const PANIC_SIGNAL: i32 = signal_hook::consts::SIGALRM;

/// The registered signals. Those that arrive before [`spawn`](Self::spawn) are handled then.
pub(super) struct SignalHandler(Signals);

impl SignalHandler {
    /// Replaces the default action of the signals.
    ///
    /// # Errors
    /// When the system refuses it.
    pub(super) fn register() -> io::Result<Self> {
        let handled = STOP_SIGNALS.iter().chain(&IGNORED_SIGNALS);
        #[cfg(debug_assertions)]
        let handled = handled.chain(&[PANIC_SIGNAL]);
        Ok(Self(Signals::new(handled)?))
    }

    /// Handles the signals until shutdown.
    ///
    /// Ctrl-C in a terminal (SIGINT, with standard input or standard error being a terminal) ends the
    /// process without a drain if `is_unused` returns true, because nothing would be cut. SIGTERM
    /// always drains: a supervisor sends it, and clients may be about to connect.
    pub(super) fn spawn(
        mut self,
        lifecycle: &Lifecycle,
        is_unused: impl Fn() -> bool + Send + 'static,
    ) {
        lifecycle.spawn_cancellable("signals", {
            let lifecycle = lifecycle.clone();
            async move {
                while let Some(signal) = self.0.next().await {
                    #[cfg(debug_assertions)]
                    if signal == PANIC_SIGNAL {
                        lifecycle.spawn("fault", async { panic!("a fault was injected") });
                        continue;
                    }
                    let name = signal_name(signal);
                    if IGNORED_SIGNALS.contains(&signal) {
                        warn!(signal = name, "signal ignored");
                        continue;
                    }
                    if signal == SIGINT && is_in_terminal() && is_unused() {
                        info!(
                            signal = name,
                            "received signal with no peer connected, ending without a drain"
                        );
                        lifecycle.stop();
                        lifecycle.shutdown_token().cancel();
                        return;
                    }
                    info!(signal = name, "received signal, stopping");
                    lifecycle.stop();
                }
            }
        });
    }
}

/// Whether a person started the process, who waits for its end. The log may go to a file or a pipe.
fn is_in_terminal() -> bool {
    io::stdin().is_terminal() || io::stderr().is_terminal()
}

fn signal_name(signal: i32) -> &'static str {
    signal_hook::low_level::signal_name(signal).unwrap_or("unknown")
}

//! Receives the signals that stop the service (SIGTERM, SIGINT) and that reload it (SIGHUP).

use tokio::signal::unix::{Signal, SignalKind, signal};

/// A signal that stops the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopSignal {
    /// SIGINT, sent by Ctrl-C.
    Interrupt,
    /// SIGTERM, sent by the service manager.
    Terminate,
}

impl StopSignal {
    /// Returns the name of the signal.
    pub fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        }
    }

    /// Returns the exit code after a second signal ended the drain: 128 plus the signal's number.
    pub fn forced_exit_code(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}

/// Receives the signal that asks for a reload.
#[derive(Debug)]
pub struct ReloadSignals(Signal);

impl ReloadSignals {
    /// Begins to listen. From now on SIGHUP no longer kills the process.
    pub fn listen() -> std::io::Result<Self> {
        signal(SignalKind::hangup()).map(Self)
    }

    /// Waits for the next request. Several requests that came in between count as one.
    pub async fn next(&mut self) {
        self.0.recv().await;
    }
}

/// Receives the signals that stop the service.
#[derive(Debug)]
pub struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    /// Begins to listen. From now on these signals no longer kill the process.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next request to stop.
    pub async fn stop(&mut self) -> StopSignal {
        tokio::select! {
            _ = self.interrupt.recv() => StopSignal::Interrupt,
            _ = self.terminate.recv() => StopSignal::Terminate,
        }
    }
}

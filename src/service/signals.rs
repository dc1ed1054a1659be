//! SIGTERM and SIGINT, which stop the service, and SIGHUP, which reloads it.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// A request to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopSignal {
    /// SIGINT, Ctrl-C.
    Interrupt,
    /// SIGTERM, the service manager.
    Terminate,
}

impl StopSignal {
    /// The signal's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        }
    }

    /// 128 plus the signal's number, for a second signal that ends the drain.
    pub fn forced_exit_code(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}

/// Listens to the signal that asks for a reload.
#[derive(Debug)]
pub struct ReloadSignals(Signal);

impl ReloadSignals {
    /// From now on SIGHUP no longer kills the process.
    pub fn listen() -> std::io::Result<Self> {
        signal(SignalKind::hangup()).map(Self)
    }

    /// The next request. Several that came meanwhile are one.
    pub async fn next(&mut self) {
        self.0.recv().await;
    }
}

/// Listens to the signals that stop the service.
#[derive(Debug)]
pub struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    /// From now on the signals no longer kill the process.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// The next request to stop.
    pub async fn stop(&mut self) -> StopSignal {
        tokio::select! {
            _ = self.interrupt.recv() => StopSignal::Interrupt,
            _ = self.terminate.recv() => StopSignal::Terminate,
        }
    }
}

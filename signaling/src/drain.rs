//! The moment the server begins to go away, and everybody who waits for it.

use tokio::sync::watch;

/// Begins the drain, at the latest when it is dropped.
#[derive(Debug)]
pub struct Drain(watch::Sender<bool>);

/// Waits for it.
#[derive(Debug, Clone)]
pub struct Draining(watch::Receiver<bool>);

impl Drain {
    /// Not yet.
    #[must_use]
    pub fn new() -> (Self, Draining) {
        let (sender, receiver) = watch::channel(false);
        (Self(sender), Draining(receiver))
    }

    /// From now on.
    pub fn begin(&self) {
        self.0.send_replace(true);
    }
}

impl Draining {
    /// Whether it has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it has begun.
    pub async fn begun(&mut self) {
        // An error means that whoever could begin it is gone, which is the end of the server too.
        let _ = self.0.wait_for(|begun| *begun).await;
    }
}

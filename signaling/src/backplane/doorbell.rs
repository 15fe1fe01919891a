//! A bell at a stream's door: somebody left something, go and read.

use std::sync::Arc;

use tokio::sync::Notify;

/// Rings once for any number of pushes that nobody has answered yet. One listener at a time.
#[derive(Debug, Clone, Default)]
pub struct Doorbell(Arc<Notify>);

impl Doorbell {
    /// Pushes the button.
    pub fn ring(&self) {
        self.0.notify_one();
    }

    /// Waits until it has been pushed since this was last asked.
    pub async fn rung(&self) {
        self.0.notified().await;
    }
}

//! Lets time pass for the sessions, and shows whether the place where they are can be reached.

use std::sync::Arc;
use std::time::Duration;

use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tracing::{error, info};

use crate::backplane::Backplane;
use crate::service::Context;

pub(super) struct Sweeper<B> {
    context: Arc<Context<B>>,
    health: HealthReporter,
    reached: bool,
}

impl<B: Backplane> Sweeper<B> {
    /// Asks once, so that health is true from the beginning.
    pub(super) async fn new(context: Arc<Context<B>>, health: HealthReporter) -> Self {
        context.metrics.backplane_reached.up();
        let mut sweeper = Self { context, health, reached: true };
        sweeper.once().await;
        sweeper
    }

    pub(super) async fn sweep(mut self) {
        let mut ticks = tokio::time::interval(SWEEP);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.once().await;
        }
    }

    async fn once(&mut self) {
        let status = match (self.context.backplane.sweep().await, self.reached) {
            (Ok(()), true) | (Err(_), false) => return,
            (Ok(()), false) => {
                info!("The backplane is back");
                self.context.metrics.backplane_reached.up();
                ServingStatus::Serving
            }
            (Err(error), true) => {
                error!(%error, "Nobody can join or send, and no lease runs out");
                self.context.metrics.backplane_reached.down();
                ServingStatus::NotServing
            }
        };
        self.reached = !self.reached;
        if !self.context.draining.has_begun() {
            show(&self.health, status).await;
        }
    }
}

/// What those who ask for the health of the server, or of its service, are told.
pub(super) async fn show(health: &HealthReporter, status: ServingStatus) {
    health.set_service_status("", status).await;
    health.set_service_status(SERVICE, status).await;
}

const SERVICE: &str = "farcall.signaling.v1.SignalingService";
/// How late a lease may be noticed to have run out.
const SWEEP: Duration = Duration::from_millis(100);

//! Counters and timers of the operator, and their text for Prometheus. Labels are static words only.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct KindLabel {
    kind: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ReconcileLabels {
    kind: String,
    result: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct WriteLabels {
    verb: String,
    kind: String,
    result: String,
}

/// The metrics of the process.
pub struct Metrics {
    registry: Registry,
    reconciles: Family<ReconcileLabels, Counter>,
    durations: Family<KindLabel, Histogram>,
    active: Family<KindLabel, Gauge>,
    writes: Family<WriteLabels, Counter>,
    leader: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("coopery");
        let reconciles = Family::default();
        let durations = Family::<KindLabel, Histogram>::new_with_constructor(|| {
            Histogram::new(exponential_buckets(0.005, 2.0, 14))
        });
        let active = Family::default();
        let writes = Family::default();
        let leader = Gauge::default();
        registry.register(
            "reconcile",
            "Reconciles by kind and result: success or the reason of the failure",
            reconciles.clone(),
        );
        registry.register(
            "reconcile_duration_seconds",
            "Duration of a reconcile",
            durations.clone(),
        );
        registry.register("reconcile_active", "Reconciles that run", active.clone());
        registry.register(
            "api_writes",
            "Writes to the API server by verb, kind and result",
            writes.clone(),
        );
        registry.register(
            "leader",
            "1 while this process is the leader",
            leader.clone(),
        );
        Self {
            registry,
            reconciles,
            durations,
            active,
            writes,
            leader,
        }
    }
}

impl Metrics {
    /// Counts one reconcile of `kind`; `result` is `success` or a reason.
    pub fn reconciled(&self, kind: &str, result: &'static str, duration: Duration) {
        self.reconciles
            .get_or_create(&ReconcileLabels {
                kind: kind.to_owned(),
                result: result.to_owned(),
            })
            .inc();
        self.durations
            .get_or_create(&KindLabel {
                kind: kind.to_owned(),
            })
            .observe(duration.as_secs_f64());
    }

    /// Counts a reconcile of `kind` as running until the guard is dropped.
    pub fn running(&self, kind: &str) -> Running {
        let gauge = self
            .active
            .get_or_create(&KindLabel {
                kind: kind.to_owned(),
            })
            .clone();
        gauge.inc();
        Running(gauge)
    }

    /// Counts one write to the API server.
    pub fn write(&self, verb: &str, kind: &str, ok: bool) {
        self.writes
            .get_or_create(&WriteLabels {
                verb: verb.to_owned(),
                kind: kind.to_owned(),
                result: if ok { "success" } else { "failure" }.to_owned(),
            })
            .inc();
    }

    /// Says whether this process is the leader.
    pub fn set_leader(&self, leader: bool) {
        self.leader.set(i64::from(leader));
    }

    /// The metrics in the text format of OpenMetrics.
    ///
    /// # Panics
    /// Never: writing into a String cannot fail.
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing into a String cannot fail");
        text
    }
}

/// Counts a reconcile as running until it is dropped.
pub struct Running(Gauge);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_the_counters() {
        let metrics = Metrics::default();
        let running = metrics.running("Registry");
        metrics.reconciled("Registry", "success", Duration::from_millis(20));
        metrics.write("apply", "Deployment", true);
        metrics.set_leader(true);
        let text = metrics.text();
        for line in [
            "coopery_reconcile_total{kind=\"Registry\",result=\"success\"} 1",
            "coopery_reconcile_active{kind=\"Registry\"} 1",
            "coopery_api_writes_total{verb=\"apply\",kind=\"Deployment\",result=\"success\"} 1",
            "coopery_leader 1",
        ] {
            assert!(text.contains(line), "{line} not in\n{text}");
        }
        drop(running);
        assert!(
            metrics
                .text()
                .contains("coopery_reconcile_active{kind=\"Registry\"} 0")
        );
    }
}

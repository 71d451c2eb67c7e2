//! Histograms that many threads count in.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Buckets as prometheus_client counts them, which `telemetry/counts.py` carries on.
pub struct Spread {
    bounds: Vec<f64>,
    counts: Vec<AtomicU64>,
    sum: AtomicU64,
}

impl Spread {
    pub fn new(bounds: &[f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Spread { bounds: bounds.to_vec(), counts, sum: AtomicU64::new(0) }
    }

    pub fn observe(&self, microseconds: u64) {
        let seconds = microseconds as f64 / 1e6;
        self.counts[self.bounds.partition_point(|bound| *bound < seconds)].fetch_add(1, Relaxed);
        self.sum.fetch_add(microseconds, Relaxed);
    }

    /// The sum in microseconds, then the counts.
    pub fn values(&self) -> Vec<u64> {
        std::iter::once(&self.sum).chain(&self.counts).map(|value| value.load(Relaxed)).collect()
    }
}

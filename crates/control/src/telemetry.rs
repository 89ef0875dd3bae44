//! Metrics under the names that dashboards know, by route pattern and never
//! by id; recorded in the process, shown at `/metrics`.

use aether_store::Store;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::sync::OnceLock;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

pub(crate) const REQUESTS: &str = "aether_api_requests_total";
pub(crate) const REQUEST_SECONDS: &str = "aether_api_request_duration_seconds";
pub(crate) const IN_FLIGHT: &str = "aether_api_requests_in_flight";
pub(crate) const AGENTS: &str = "aether_agents_total";
pub(crate) const OPERATIONS: &str = "aether_agent_operations_total";
pub(crate) const AGENT_ERRORS: &str = "aether_agent_errors_total";
pub(crate) const STARTUP_SECONDS: &str = "aether_agent_startup_duration_seconds";
pub(crate) const SCHEDULING_SECONDS: &str = "aether_scheduling_duration_seconds";
pub(crate) const SCHEDULING_ERRORS: &str = "aether_scheduling_errors_total";
pub(crate) const RATE_LIMITED: &str = "aether_rate_limited_total";
pub(crate) const RATE_ALONE: &str = "aether_rate_counted_alone_total";
const LEASE_AGE: &str = "aether_node_lease_age_seconds";
const STORE_SECONDS: &str = "aether_store_latency_seconds";

const UPKEEP: Duration = Duration::from_secs(5);

static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// Installs the process's recorder, once.
pub(crate) fn install() {
    HANDLE.get_or_init(|| {
        let request = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
        let startup = [0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0];
        let scheduling = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];
        let builder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Full(REQUEST_SECONDS.into()), &request)
            .and_then(|b| b.set_buckets_for_metric(Matcher::Full(STARTUP_SECONDS.into()), &startup))
            .and_then(|b| b.set_buckets_for_metric(Matcher::Full(SCHEDULING_SECONDS.into()), &scheduling))
            .and_then(|b| b.set_buckets_for_metric(Matcher::Full(STORE_SECONDS.into()), &scheduling))
            .ok()?;
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).ok()?;
        describe();
        Some(handle)
    });
}

fn describe() {
    metrics::describe_counter!(REQUESTS, "Requests by route pattern and status");
    metrics::describe_histogram!(REQUEST_SECONDS, metrics::Unit::Seconds, "Time to the answer's head");
    metrics::describe_gauge!(IN_FLIGHT, "Requests without an answer yet");
    metrics::describe_gauge!(AGENTS, "Agents of all tenants by observed state");
    metrics::describe_counter!(OPERATIONS, "Operations on agents by result");
    metrics::describe_counter!(AGENT_ERRORS, "Agents that failed, by reason");
    metrics::describe_histogram!(STARTUP_SECONDS, metrics::Unit::Seconds, "From the request to the guest ready");
    metrics::describe_histogram!(SCHEDULING_SECONDS, metrics::Unit::Seconds, "One scheduling pass");
    metrics::describe_counter!(SCHEDULING_ERRORS, "Agents a pass could not place, by reason");
    metrics::describe_counter!(RATE_ALONE, "Requests counted by this server alone while Redis is away");
    metrics::describe_counter!(RATE_LIMITED, "Requests refused because they came too fast");
    metrics::describe_gauge!(LEASE_AGE, metrics::Unit::Seconds, "Age of each node's lease");
    metrics::describe_histogram!(STORE_SECONDS, metrics::Unit::Seconds, "The store's smallest read");
}

/// A request that came too fast.
pub(crate) fn rate_limited(class: &'static str, tenant: &str) {
    metrics::counter!(RATE_LIMITED, "class" => class, "tenant_id" => tenant.to_owned()).increment(1);
}

/// A request that was counted by this server alone, since Redis is away.
pub(crate) fn rate_counted_alone() {
    metrics::counter!(RATE_ALONE).increment(1);
}

/// The text that Prometheus scrapes; `None` where another recorder is in place.
pub(crate) fn render() -> Option<String> {
    HANDLE.get().and_then(Option::as_ref).map(PrometheusHandle::render)
}

pub(crate) fn operation(operation: &'static str, tenant: &str, ok: bool) {
    let result = if ok { "success" } else { "failure" };
    metrics::counter!(OPERATIONS, "operation" => operation, "result" => result, "tenant_id" => tenant.to_owned())
        .increment(1);
}

/// Keeps the gauges that are read rather than counted, and the histograms'
/// memory bounded.
pub(crate) async fn keep_gauges(store: Store, shutdown: CancellationToken) {
    loop {
        if let Some(Some(handle)) = HANDLE.get() {
            handle.run_upkeep();
        }
        if let Ok(latency) = store.ping().await {
            metrics::histogram!(STORE_SECONDS).record(latency.as_secs_f64());
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(UPKEEP) => {}
        }
    }
}

/// Gauges that are read at the scrape: agents of all tenants by state (no
/// label names a tenant: a gauge would outlive it), ages of leases by node.
pub(crate) async fn refresh(store: &Store, clock: &dyn aether_core::Clock) {
    let Ok(counts) = store.count_agents().await else { return };
    for state in aether_core::Observed::ALL {
        let total = counts.iter().find(|(counted, _)| counted == state).map_or(0, |(_, n)| *n);
        #[allow(clippy::cast_precision_loss, reason = "a gauge is a float; counts stay far below 2^52")]
        metrics::gauge!(AGENTS, "status" => state.as_str()).set(total as f64);
    }
    let Ok(nodes) = store.nodes().await else { return };
    let now = clock.now();
    for node in nodes {
        let age = now.since(node.lease_renewed_at).as_secs_f64();
        metrics::gauge!(LEASE_AGE, "node" => node.id.to_string()).set(age);
    }
}

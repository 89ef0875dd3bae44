//! Buckets that all servers share, in Redis: one script for all that a
//! request is counted in, by Redis' own clock.
//!
//! Where Redis does not answer within [`ANSWERS_IN`] it is left alone for
//! [`LEFT_ALONE`], so that its absence costs no request more than that, and
//! each server counts for itself again: never an error, never no limit.

use super::bucket::{Bucket, Rate};
use super::{Cost, Left, Of, Refused, judge};
use crate::config::RedisConfig;
use crate::telemetry;
use aether_core::TenantId;
use parking_lot::Mutex;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, RedisError, Script};
use std::time::Duration;

const ANSWERS_IN: Duration = Duration::from_millis(100);
const LEFT_ALONE: Duration = Duration::from_secs(1);

/// As `bucket::Bucket`, in microseconds: a key holds when its bucket will be
/// full, and goes when it is. `ARGV` holds for each key what must be there,
/// what is taken, and a whole bucket. Answers whether it was taken, and of each
/// bucket how far it is from full.
const SCRIPT: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local full, refused = {}, false
for i, key in ipairs(KEYS) do
  full[i] = math.max(tonumber(redis.call('GET', key) or '0'), now)
  refused = refused or full[i] + ARGV[3 * i - 2] > now + ARGV[3 * i]
end
local answer = { refused and 0 or 1 }
for i, key in ipairs(KEYS) do
  if not refused then
    full[i] = full[i] + ARGV[3 * i - 1]
    redis.call('SET', key, string.format('%.0f', full[i]), 'PX', math.ceil((full[i] - now) / 1000) + 1)
  end
  answer[i + 1] = full[i] - now
end
return answer";

pub(super) struct Shared {
    connection: ConnectionManager,
    script: Script,
    /// Until when Redis is left alone; told once, until it answers again.
    away_until: Mutex<Option<Duration>>,
}

impl Shared {
    /// Connects when it is first asked.
    pub(super) fn new(cfg: &RedisConfig) -> Result<Self, RedisError> {
        let (host, port) = (cfg.host.clone(), cfg.port);
        let address = match cfg.tls {
            true => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
            false => ConnectionAddr::Tcp(host, port),
        };
        let mut login = RedisConnectionInfo::default().set_db(i64::from(cfg.db)).set_skip_set_lib_name();
        if !cfg.password.is_empty() {
            login = login.set_password(cfg.password.expose());
        }
        let client = Client::open(address.into_connection_info()?.set_redis_settings(login))?;
        let manner = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(ANSWERS_IN))
            .set_response_timeout(Some(ANSWERS_IN))
            .set_number_of_retries(0);
        let connection = ConnectionManager::new_lazy_with_config(client, manner)?;
        Ok(Self { connection, script: Script::new(SCRIPT), away_until: Mutex::new(None) })
    }

    /// `None`: Redis is away, count by yourself.
    pub(super) async fn charge(
        &self,
        tenant: &TenantId,
        counted: &[(Of, Rate)],
        cost: Cost,
        now: Duration,
    ) -> Option<Result<Left, Refused>> {
        if self.away_until.lock().is_some_and(|until| now < until) {
            telemetry::rate_counted_alone();
            return None;
        }
        let missing = tokio::time::timeout(ANSWERS_IN, self.ask(tenant, counted, cost)).await;
        match missing {
            Ok(Ok((taken, missing))) => {
                if self.away_until.lock().take().is_some() {
                    tracing::info!("Redis answers again: rates are counted over all servers");
                }
                let rates = counted.iter().map(|(_, rate)| *rate);
                let buckets: Vec<_> = rates.zip(missing.into_iter().map(Bucket::full_in)).collect();
                Some(judge(taken, &buckets, cost, Duration::ZERO))
            }
            Ok(Err(error)) => self.is_away(now, &error.to_string()),
            Err(_) => self.is_away(now, "it does not answer"),
        }
    }

    fn is_away(&self, now: Duration, why: &str) -> Option<Result<Left, Refused>> {
        telemetry::rate_counted_alone();
        let told = self.away_until.lock().replace(now + LEFT_ALONE).is_some();
        if !told {
            tracing::warn!(error = why, "Redis is away: each server counts rates for itself until it answers");
        }
        None
    }

    /// Whether tokens were taken, and how far each bucket is from full.
    async fn ask(
        &self,
        tenant: &TenantId,
        counted: &[(Of, Rate)],
        cost: Cost,
    ) -> Result<(bool, Vec<Duration>), RedisError> {
        let mut call = self.script.prepare_invoke();
        for (of, rate) in counted {
            // The braces keep a tenant's keys in one slot of a cluster.
            call.key(format!("aether:rate:{{{tenant}}}:{of}"));
            let needed = rate.time_of(cost.needed(*rate));
            for time in [needed, rate.time_of(cost.tokens), rate.time_of(rate.burst())] {
                call.arg(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
            }
        }
        let answer: Vec<u64> = call.invoke_async(&mut self.connection.clone()).await?;
        match answer.split_first() {
            Some((taken, missing)) if missing.len() == counted.len() => {
                Ok((*taken == 1, missing.iter().map(|us| Duration::from_micros(*us)).collect()))
            }
            _ => Err(RedisError::from((redis::ErrorKind::UnexpectedReturnType, "another answer than the script's"))),
        }
    }
}

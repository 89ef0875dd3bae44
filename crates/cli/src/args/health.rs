//! The health probe's flags of `aether agent create`.

use aether_core::probe::{HealthProbe, HttpProbe, TcpProbe};
use clap::Args;

#[derive(Debug, Args)]
#[command(next_help_heading = "Health probe")]
pub(crate) struct HealthArgs {
    /// Well when this command exits with 0, run by a shell inside
    #[arg(long, value_name = "COMMAND", group = "probe")]
    pub(crate) health_cmd: Option<String>,
    /// Well when http://127.0.0.1:PORT/PATH answers inside with 200 to 399
    #[arg(long, value_name = "PORT[/PATH]", group = "probe")]
    pub(crate) health_http: Option<String>,
    /// Well when the port can be connected to inside
    #[arg(long, value_name = "PORT", group = "probe")]
    pub(crate) health_tcp: Option<u16>,
    /// Between two probes, as in 10s
    #[arg(long, value_name = "DURATION", default_value = "10s", requires = "probe")]
    pub(crate) health_interval: String,
    /// Of one probe, as in 5s
    #[arg(long, value_name = "DURATION", default_value = "5s", requires = "probe")]
    pub(crate) health_timeout: String,
    /// Failures in a row that make it unhealthy
    #[arg(long, value_name = "COUNT", default_value_t = 3, requires = "probe")]
    pub(crate) health_retries: u32,
    /// After a start failures do not count for so long
    #[arg(long, value_name = "DURATION", default_value = "0s", requires = "probe")]
    pub(crate) health_start_period: String,
    /// Leave the main process alone when unhealthy
    #[arg(long, requires = "probe")]
    pub(crate) health_no_restart: bool,
}

impl HealthArgs {
    pub(crate) fn probe(&self) -> Result<Option<HealthProbe>, crate::error::CliError> {
        let seconds =
            |flag: &str, text: &str| crate::values::seconds(flag, text).map(|s| u32::try_from(s).unwrap_or(u32::MAX));
        let mut probe = HealthProbe {
            interval_s: seconds("--health-interval", &self.health_interval)?,
            timeout_s: seconds("--health-timeout", &self.health_timeout)?,
            retries: self.health_retries,
            start_period_s: seconds("--health-start-period", &self.health_start_period)?,
            restart: !self.health_no_restart,
            ..HealthProbe::default()
        };
        if let Some(command) = &self.health_cmd {
            probe.command = vec!["/bin/sh".to_owned(), "-c".to_owned(), command.clone()];
        } else if let Some(text) = &self.health_http {
            let (port, path) = text.split_once('/').unwrap_or((text, ""));
            let port = port.parse().map_err(|_| {
                crate::error::CliError::usage(format!("--health-http: {text:?} does not begin with a port"))
            })?;
            probe.http = Some(HttpProbe { port, path: format!("/{path}") });
        } else if let Some(port) = self.health_tcp {
            probe.tcp = Some(TcpProbe { port });
        } else {
            return Ok(None);
        }
        Ok(Some(probe))
    }
}

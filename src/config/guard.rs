//! Settings of who may ask, how often and from where, and of what is written down about it.

use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::BoolishValueParser;

use super::ConfigError;
use crate::api::guard::address::TrustedProxies;
use crate::api::guard::keys::Keys;
use crate::api::guard::rate::RateLimit;
use crate::api::guard::{Guard, OpenPaths, Origins};

/// Settings of the guard and of the access log.
#[derive(Debug, Clone, Args)]
pub struct GuardArgs {
    /// Keys that open the server, comma separated; sent as a Bearer token or in X-API-Key [default: open to all]
    #[arg(long, env = "API_KEY", value_name = "KEYS", hide_env_values = true)]
    pub api_key: Option<String>,

    /// File with such keys, comma separated or one a line [default: none]
    #[arg(long, env = "API_KEY_FILE", value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,

    /// Keys that open the administrative paths, and all others too, comma separated; without one they are off
    #[arg(long, env = "ADMIN_KEY", value_name = "KEYS", hide_env_values = true)]
    pub admin_key: Option<String>,

    /// File with such keys, comma separated or one a line [default: none]
    #[arg(long, env = "ADMIN_KEY_FILE", value_name = "FILE")]
    pub admin_key_file: Option<PathBuf>,

    /// What needs no key beside /livez and /readyz, comma separated: health, metrics, pages (/, /docs, /openapi.json), or none
    #[arg(long, env = "OPEN_PATHS", value_name = "NAMES", default_value = "pages")]
    pub open_paths: OpenPaths,

    /// Origins whose pages may ask, comma separated, such as https://app.example, or * for any [default: only its own]
    #[arg(long, env = "CORS_ORIGINS", value_name = "ORIGINS")]
    pub cors_origins: Option<Origins>,

    /// Most requests a second of one key, or of one address where no key is sent, 1 to 1000000 [default: no limit]
    #[arg(long, env = "RATE_LIMIT_RPS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate_limit_rps: Option<u32>,

    /// Requests that may come at once within that rate, 1 to 1000000 [default: as many as RATE_LIMIT_RPS]
    #[arg(long, env = "RATE_LIMIT_BURST", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate_limit_burst: Option<u32>,

    /// Most texts a second of one client, counted in the same way, 1 to 1000000 [default: no limit]
    #[arg(long, env = "RATE_LIMIT_TEXTS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate_limit_texts: Option<u32>,

    /// Texts that may come at once within that rate, 1 to 1000000; a request of more is refused [default: the larger of RATE_LIMIT_TEXTS and MAX_TEXTS]
    #[arg(long, env = "RATE_LIMIT_TEXTS_BURST", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate_limit_texts_burst: Option<u32>,

    /// Addresses or networks of proxies whose X-Forwarded-For is believed, comma separated, such as 10.0.0.0/8 [default: none]
    #[arg(long, env = "TRUSTED_PROXIES", value_name = "NETWORKS", default_value = "", hide_default_value = true)]
    pub trusted_proxies: TrustedProxies,

    /// Write one log line a request
    #[arg(long, env = "ACCESS_LOG", value_name = "BOOL", default_value = "true", num_args = 0..=1,
          default_missing_value = "true", action = clap::ArgAction::Set, value_parser = BoolishValueParser::new())]
    pub access_log: bool,

    /// Write the texts to the log; for finding faults only, as texts are private
    #[arg(long, env = "LOG_TEXTS", value_name = "BOOL", default_value = "false", num_args = 0..=1,
          default_missing_value = "true", action = clap::ArgAction::Set, value_parser = BoolishValueParser::new())]
    pub log_texts: bool,
}

impl GuardArgs {
    /// Reads the key files and puts the settings into the guard's terms; `max_texts` is the most that one
    /// request may hold.
    ///
    /// # Errors
    /// Names the setting that cannot be read or contradicts another.
    pub fn guard(&self, max_texts: u32) -> Result<Guard, ConfigError> {
        let keys = keys_of(("API_KEY", self.api_key.as_deref()), ("API_KEY_FILE", self.api_key_file.as_deref()))?;
        let admin =
            keys_of(("ADMIN_KEY", self.admin_key.as_deref()), ("ADMIN_KEY_FILE", self.admin_key_file.as_deref()))?;
        for (setting, burst, rate, of_rate) in [
            ("RATE_LIMIT_BURST", self.rate_limit_burst, self.rate_limit_rps, "RATE_LIMIT_RPS"),
            ("RATE_LIMIT_TEXTS_BURST", self.rate_limit_texts_burst, self.rate_limit_texts, "RATE_LIMIT_TEXTS"),
        ] {
            if burst.is_some() && rate.is_none() {
                let what = format!("it has no effect without {of_rate}; set both or none");
                return Err(ConfigError { setting, what });
            }
        }
        Ok(Guard {
            keys,
            admin,
            open: self.open_paths,
            rate: self.rate_limit_rps.map(|rps| RateLimit::new(rps, self.rate_limit_burst.unwrap_or(rps))),
            // Without a burst of its own the rate alone refuses no request that MAX_TEXTS lets through.
            text_rate: self
                .rate_limit_texts
                .map(|texts| RateLimit::new(texts, self.rate_limit_texts_burst.unwrap_or(texts.max(max_texts)))),
            proxies: self.trusted_proxies.clone(),
        })
    }
}

/// The keys of a list and of a file. What is set but holds no key is an error: a server that was to
/// be closed must not start open.
fn keys_of(list: (&'static str, Option<&str>), file: (&'static str, Option<&Path>)) -> Result<Keys, ConfigError> {
    let named = |setting| move |what| ConfigError { setting, what };
    let mut keys = list.1.map_or(Ok(Keys::default()), Keys::from_list).map_err(named(list.0))?;
    if let Some(path) = file.1 {
        keys.extend(Keys::from_file(path).map_err(named(file.0))?);
    }
    Ok(keys)
}

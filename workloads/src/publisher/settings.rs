//! What a publisher is told: companies, broker, pace, prices.
//! Rule: every wrong value is found before the first connection.

use std::collections::BTreeSet;

use wire::queue::QueueType;
use wire::{Symbol, env};

use super::prices::Range;
use crate::broker;
use crate::settings::{Port, Result, amount, given, number, queue_type, wrong};
use crate::telemetry;

/// The command line; each flag is also an environment variable.
#[derive(Clone, Default, clap::Parser)]
#[command(name = "stock-publisher", version, about = "Publishes synthetic trades of one or several companies")]
pub struct Args {
    /// The one company to publish for.
    #[arg(long, env = env::COMPANY)]
    pub company: Option<String>,
    /// Several companies, separated by commas.
    #[arg(long, env = env::COMPANIES)]
    pub companies: Option<String>,
    /// Address of the broker; several, separated by commas, are tried in turn.
    #[arg(long, env = env::RABBITMQ_URL, hide_env_values = true)]
    pub rabbitmq_url: Option<String>,
    /// Milliseconds from one event to the next, decimal; 0: as fast as the broker confirms. Default 1.
    #[arg(long, env = env::TICKER_INTERVAL)]
    pub ticker_interval: Option<String>,
    /// Events per company after whose confirms the program stops by itself. Never unless set.
    #[arg(long, env = env::COUNT)]
    pub count: Option<String>,
    /// Seed of the prices; random unless set.
    #[arg(long, env = env::SEED)]
    pub seed: Option<String>,
    /// Lowest price, inclusive. Default 50.
    #[arg(long, env = env::PRICE_MIN)]
    pub price_min: Option<String>,
    /// Highest price, exclusive. Default 550.
    #[arg(long, env = env::PRICE_MAX)]
    pub price_max: Option<String>,
    /// Type of a queue that does not exist yet: quorum or classic. Default quorum.
    #[arg(long, env = env::QUEUE_TYPE)]
    pub queue_type: Option<String>,
    /// Port of health and metrics. Default 9090.
    #[arg(long, env = env::METRICS_PORT)]
    pub metrics_port: Option<String>,
    /// How to log.
    #[command(flatten)]
    pub logs: telemetry::LogArgs,
}

/// Checked settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Companies, without repetition.
    pub companies: Vec<Symbol>,
    /// Where the broker is.
    pub broker: broker::Address,
    /// Milliseconds from one event to the next; 0 is no pace.
    pub interval: f64,
    /// Events to publish per company; without end unless set.
    pub count: Option<u64>,
    /// Seed of the prices.
    pub seed: u64,
    /// Prices to draw from.
    pub range: Range,
    /// Type of a queue that does not exist yet.
    pub queue_type: QueueType,
    /// Port of health and metrics.
    pub port: Port,
}

impl Settings {
    /// Checks everything.
    ///
    /// # Errors
    /// A sentence that names the variable and the remedy.
    pub fn parse(args: &Args) -> Result<Self> {
        let amount_of = |name, value: &Option<String>, default| {
            amount(name, value.as_deref(), default, "set an amount of money such as 50 or 99.5")
        };
        Ok(Self {
            companies: companies(given(args.company.as_deref()), given(args.companies.as_deref()))?,
            broker: broker::Address::parse(args.rabbitmq_url.as_deref(), broker::SMALL_FRAMES)?,
            interval: amount(
                env::TICKER_INTERVAL,
                args.ticker_interval.as_deref(),
                env::default::TICKER_INTERVAL,
                "set milliseconds such as 1 or 0.5; 0 publishes as fast as the broker confirms",
            )?,
            count: given(args.count.as_deref())
                .map(|text| number(env::COUNT, Some(text), 0, "set a whole number of events, or leave it unset"))
                .transpose()?,
            seed: number(env::SEED, args.seed.as_deref(), rand::random(), "set a whole number from 0 to 2^64-1")?,
            range: Range::new(
                amount_of(env::PRICE_MIN, &args.price_min, env::default::PRICE_MIN)?,
                amount_of(env::PRICE_MAX, &args.price_max, env::default::PRICE_MAX)?,
            )?,
            queue_type: queue_type(args.queue_type.as_deref())?,
            port: Port::parse(env::METRICS_PORT, args.metrics_port.as_deref(), env::default::METRICS_PORT)?,
        })
    }
}

fn companies(one: Option<&str>, several: Option<&str>) -> Result<Vec<Symbol>> {
    let (name, text) = match (one, several) {
        (Some(_), Some(_)) => {
            return Err(wrong(env::COMPANY, "is set and COMPANIES too; set only one of them"));
        }
        (None, None) => {
            return Err(wrong(
                env::COMPANY,
                "is not set; set it to a symbol such as MSFT, or COMPANIES to MSFT,TSLA,AAPL",
            ));
        }
        (Some(text), None) => (env::COMPANY, text),
        (None, Some(text)) => (env::COMPANIES, text),
    };
    let parts = if name == env::COMPANY { vec![text] } else { text.split(',').collect() };
    let mut seen = BTreeSet::new();
    let mut companies = Vec::new();
    for part in parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty()) {
        let company: Symbol = part.parse().map_err(|error| wrong(name, error))?;
        if !seen.insert(company.clone()) {
            return Err(wrong(name, format!("{company} stands twice; name each company once")));
        }
        companies.push(company);
    }
    if companies.is_empty() {
        return Err(wrong(name, "names no company; set it like MSFT,TSLA,AAPL"));
    }
    Ok(companies)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> Args {
        Args {
            company: Some("MSFT".into()),
            rabbitmq_url: Some("amqp://guest:secret@localhost".into()),
            ..Args::default()
        }
    }

    fn refusal(args: &Args) -> String {
        Settings::parse(args).unwrap_err().to_string()
    }

    #[test]
    fn the_command_line_is_consistent() {
        <Args as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn a_company_and_a_broker_are_enough() {
        let settings = Settings::parse(&args()).unwrap();
        assert_eq!((settings.interval, settings.queue_type), (1.0, QueueType::Quorum));
        assert!(!format!("{settings:?}").contains("secret"));
    }

    #[test]
    fn several_companies_are_split_trimmed_and_checked() {
        let several = |text: &str| Args { company: None, companies: Some(text.into()), ..args() };
        let names =
            |args: &Args| Settings::parse(args).unwrap().companies.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(names(&several("MSFT, BRK.B ,^GSPC,")), ["MSFT", "BRK.B", "^GSPC"]);
        assert_eq!(refusal(&several("MSFT,MSFT")), "COMPANIES: MSFT stands twice; name each company once");
        assert_eq!(refusal(&several(",")), "COMPANIES: names no company; set it like MSFT,TSLA,AAPL");
        assert!(refusal(&several("A B")).starts_with("COMPANIES: symbol \"A B\" holds ' '"));
    }

    #[test]
    fn both_ways_of_naming_companies_or_none_are_refused() {
        assert_eq!(
            refusal(&Args { companies: Some("TSLA".into()), ..args() }),
            "COMPANY: is set and COMPANIES too; set only one of them"
        );
        assert!(refusal(&Args { company: None, ..args() }).starts_with("COMPANY: is not set"));
        assert!(refusal(&Args { company: Some("A,B".into()), ..args() }).starts_with("COMPANY: symbol"));
    }

    #[test]
    fn wrong_numbers_are_refused_by_name() {
        let cases = [
            (Args { ticker_interval: Some("-1".into()), ..args() }, "TICKER_INTERVAL: "),
            (Args { count: Some("1e6".into()), ..args() }, "COUNT: "),
            (Args { seed: Some("abc".into()), ..args() }, "SEED: "),
            (Args { price_min: Some("600".into()), ..args() }, "PRICE_MIN 600 and PRICE_MAX 550: "),
            (Args { queue_type: Some("stream".into()), ..args() }, "QUEUE_TYPE: "),
            (Args { metrics_port: Some("x".into()), ..args() }, "METRICS_PORT: "),
            (Args { rabbitmq_url: None, ..args() }, "RABBITMQ_URL: is not set"),
        ];
        for (args, start) in cases {
            assert!(refusal(&args).starts_with(start), "{}", refusal(&args));
        }
    }
}

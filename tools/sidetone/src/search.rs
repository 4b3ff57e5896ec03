//! The options that say which recordings are meant; the same conditions as the API's parameters.

use anyhow::{Result, anyhow};
use clap::Args;
use sidetone_api::{Search, StateCondition, TagCondition};
use sidetone_model::CaptureTime;
use sidetone_store::Filter;

/// Conditions; every one that is given must hold. Texts are compared in lower case.
#[derive(Args)]
#[command(next_help_heading = "Which recordings")]
pub(crate) struct SearchArguments {
    /// Started at or after this time (RFC 3339); a date alone is its first moment, in UTC.
    #[arg(long, value_parser = parse_time, value_name = "TIME")]
    from: Option<CaptureTime>,
    /// Started before this time (RFC 3339); a date alone is its first moment, in UTC.
    #[arg(long, value_parser = parse_time, value_name = "TIME")]
    to: Option<CaptureTime>,
    /// Words, each of which is part of a party's number, name or address, or of a user.
    #[arg(long, value_name = "WORDS")]
    text: Option<String>,
    /// Part of a party's number or name.
    #[arg(long, value_name = "TEXT")]
    party: Option<String>,
    /// A party's whole number; spaces and -./() in it do not matter.
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    number: Option<String>,
    /// What a party's number begins with.
    #[arg(long, value_name = "DIGITS")]
    number_prefix: Option<String>,
    /// What a party's number ends with.
    #[arg(long, value_name = "DIGITS")]
    number_suffix: Option<String>,
    /// Part of a party's name.
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// A recorded user.
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// A party's signalling address, without the port.
    #[arg(long, value_name = "ADDRESS")]
    address: Option<String>,
    /// The appliance that recorded it.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// A leg's call identifier (SIP: Call-ID).
    #[arg(long, value_name = "ID")]
    call_id: Option<String>,
    /// active, complete, incomplete, or finished (complete or incomplete).
    #[arg(long, value_parser = parse_state, value_name = "STATE")]
    state: Option<StateCondition>,
    /// Not shorter than this.
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    min_duration_seconds: Option<f64>,
    /// Not longer than this.
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    max_duration_seconds: Option<f64>,
    /// Of any stream: PCMA, or PCMA/8000.
    #[arg(long, value_name = "NAME")]
    codec: Option<String>,
    /// Has this tag, with this value where one is given; may be given several times.
    #[arg(long, value_name = "KEY[=VALUE]")]
    tag: Vec<TagCondition>,
    /// On hold (true), or not (false).
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true")]
    hold: Option<bool>,
    /// Packets lost by the network, of the worst stream.
    #[arg(long, value_name = "PERCENT", allow_negative_numbers = true)]
    min_loss_percent: Option<f64>,
    /// Mean jitter of the worst stream.
    #[arg(long, value_name = "MILLISECONDS", allow_negative_numbers = true)]
    min_jitter_ms: Option<f64>,
    /// Time filled by concealment, of the worst track.
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    min_concealed_seconds: Option<f64>,
}

impl SearchArguments {
    pub(crate) fn filter(&self) -> Result<Filter> {
        let search = Search {
            from: self.from,
            to: self.to,
            text: self.text.clone(),
            party: self.party.clone(),
            number: self.number.clone(),
            number_prefix: self.number_prefix.clone(),
            number_suffix: self.number_suffix.clone(),
            name: self.name.clone(),
            user: self.user.clone(),
            address: self.address.clone(),
            node: self.node.clone(),
            call_id: self.call_id.clone(),
            state: self.state,
            min_duration_seconds: self.min_duration_seconds,
            max_duration_seconds: self.max_duration_seconds,
            codec: self.codec.clone(),
            tags: self.tag.clone(),
            hold: self.hold,
            min_loss_percent: self.min_loss_percent,
            min_jitter_ms: self.min_jitter_ms,
            min_concealed_seconds: self.min_concealed_seconds,
        };
        search.filter().map_err(|unusable| {
            let option = unusable.name.replace('_', "-");
            let problem = unusable.problem.replace('`', "'");
            anyhow!("--{option} {problem}: {}", unusable.remedy)
        })
    }
}

fn parse_time(text: &str) -> Result<CaptureTime, String> {
    let is_date = text.len() == "2026-01-31".len() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    if is_date { format!("{text}T00:00:00Z").parse() } else { text.parse() }
}

fn parse_state(text: &str) -> Result<StateCondition, String> {
    match text {
        "active" => Ok(StateCondition::Active),
        "complete" => Ok(StateCondition::Complete),
        "incomplete" => Ok(StateCondition::Incomplete),
        "finished" => Ok(StateCondition::Finished),
        _ => Err("choose active, complete, incomplete or finished".into()),
    }
}

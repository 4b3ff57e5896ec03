//! What a caller may ask for: file format and channels.

use crate::UnknownName;
use std::fmt;
use std::str::FromStr;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Format {
    /// Ogg Opus (RFC 7845). The stored packets as they are, except for [`Channels::Mix`] of two sides.
    Opus,
    /// PCM, 16 bits, 8 kHz.
    Wav,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Channels {
    /// Two channels: the caller left, the callee right. A side without audio is silent.
    Dual,
    /// One channel: both sides added up.
    Mix,
    /// One channel: the recorded user; where no user is known, the caller.
    Near,
    /// One channel: everybody else.
    Far,
    Caller,
    Callee,
}

impl Format {
    pub const ALL: [Self; 2] = [Self::Opus, Self::Wav];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Opus => "opus",
            Self::Wav => "wav",
        }
    }

    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Opus => "audio/ogg; codecs=opus",
            Self::Wav => "audio/wav",
        }
    }
}

impl Channels {
    pub const ALL: [Self; 6] = [Self::Dual, Self::Mix, Self::Near, Self::Far, Self::Caller, Self::Callee];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Dual => "dual",
            Self::Mix => "mix",
            Self::Near => "near",
            Self::Far => "far",
            Self::Caller => "caller",
            Self::Callee => "callee",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Channels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = || UnknownName { what: "audio format", given: text.to_owned(), choices: "opus, wav" };
        Self::ALL.into_iter().find(|format| format.name() == text).ok_or_else(unknown)
    }
}

impl FromStr for Channels {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = || UnknownName {
            what: "choice of channels",
            given: text.to_owned(),
            choices: "dual, mix, near, far, caller, callee",
        };
        Self::ALL.into_iter().find(|channels| channels.name() == text).ok_or_else(unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_others_are_refused_with_the_choices() {
        for format in Format::ALL {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        for channels in Channels::ALL {
            assert_eq!(channels.to_string().parse(), Ok(channels));
        }
        assert_eq!(
            "mp3".parse::<Format>().unwrap_err().to_string(),
            "'mp3' is no audio format: one of opus, wav is needed"
        );
        assert!("Dual".parse::<Channels>().is_err());
    }
}

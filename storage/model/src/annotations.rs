//! What people and policy say about a recording, apart from what was observed of its call.

use crate::CaptureTime;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Everything that can be said of a recording after the fact; replaced as a whole.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct Annotations {
    /// Free metadata, `key=value`.
    pub tags: BTreeMap<String, String>,
    /// Must not be erased, whatever its retention says.
    pub hold: Option<Hold>,
    /// Absent: kept without a limit, in the class `standard`.
    pub retention: Option<Retention>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Hold {
    pub reason: String,
    pub by: String,
    pub at: CaptureTime,
}

/// How long a recording is kept, and with which others it shares its fate on the disk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Retention {
    /// Name of the retention class.
    pub class: String,
    /// Absent: kept without a limit.
    pub expires_at: Option<CaptureTime>,
}

/// That a recording's audio is sealed: how much it is, and what proves that none of it was changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Proof {
    pub chunks: u64,
    /// Of the chunks' payloads.
    pub bytes: u64,
    pub merkle_root: MerkleRoot,
}

/// SHA-256 root of a Merkle tree (RFC 6962 §2.1); 64 hexadecimal digits in JSON.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(value_type = String))]
pub struct MerkleRoot(pub [u8; 32]);

impl fmt::Display for MerkleRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The text is not 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadMerkleRoot;

impl fmt::Display for BadMerkleRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a Merkle root: 64 hexadecimal digits are expected")
    }
}

impl std::error::Error for BadMerkleRoot {}

impl FromStr for MerkleRoot {
    type Err = BadMerkleRoot;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(BadMerkleRoot);
        }
        let mut root = [0; 32];
        for (byte, pair) in root.iter_mut().zip(digits.chunks_exact(2)) {
            let value = |digit: u8| char::from(digit).to_digit(16).ok_or(BadMerkleRoot);
            *byte = (value(pair[0])? * 16 + value(pair[1])?) as u8;
        }
        Ok(Self(root))
    }
}

impl Serialize for MerkleRoot {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MerkleRoot {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merkle_root_reads_back_from_its_text_and_nothing_else_does() {
        let root = MerkleRoot(std::array::from_fn(|index| index as u8 * 7));
        assert_eq!(root.to_string().parse(), Ok(root));
        assert_eq!(serde_json::from_str::<MerkleRoot>(&serde_json::to_string(&root).unwrap()).unwrap(), root);
        let text = root.to_string();
        for bad in ["", &text[1..], &text.replace('0', "g"), &format!("é{}", &text[2..])] {
            assert_eq!(bad.parse::<MerkleRoot>(), Err(BadMerkleRoot), "{bad}");
        }
    }
}

//! Session descriptions (RFC 8866) → where a side receives, in which formats.
//!
//! Constraints: reads on past damage; one bad line costs that line, and an `m=` line that cannot be read keeps its
//! place, since offer and answer match by position (RFC 3264 §6). Counts are bounded by the `*_MAX` constants,
//! surplus is left out. Host names instead of addresses are not resolved.

use crate::event::{MediaBinding, MediaDirection, MediaKind, MediaSecurity, PayloadFormat, is_usable};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// A description longer than this is refused.
pub const DESCRIPTION_BYTES_MAX: usize = 32 * 1024;
pub const MEDIA_MAX: usize = 16;
pub const FORMATS_MAX: usize = 40;
pub const CANDIDATES_MAX: usize = 16;
pub const CRYPTO_MAX: usize = 4;
/// Longer values of `fmtp`, `crypto` and `label` are left out.
pub const VALUE_BYTES_MAX: usize = 1024;

#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SdpError {
    #[error("the body has no v= and no m= line")]
    NotSdp,
    #[error("the description is longer than {DESCRIPTION_BYTES_MAX} bytes")]
    TooLong,
}

#[derive(Clone, PartialEq, Debug)]
pub struct SessionDescription {
    pub media: Vec<MediaDescription>,
}

/// One `m=` line with all that speaks of it.
#[derive(Clone, PartialEq, Debug)]
pub struct MediaDescription {
    pub binding: MediaBinding,
    /// Port 0 without `bundle-only`: the stream is refused or removed.
    pub rejected: bool,
    /// `a=rtcp-mux` (RFC 5761): `binding.rtcp` equals `binding.address` if the peer agrees.
    pub rtcp_mux: bool,
    /// Where RTCP goes when the peer does not multiplex (RFC 3605, or the next port).
    pub rtcp_unmultiplexed: Option<SocketAddr>,
    /// Keys stand in a description whose profile does not demand them: the stream is secured only if the peer's line
    /// has keys too (RFC 8643).
    pub opportunistic_security: bool,
}

/// RFC 3551 §6, tables 4 and 5; payload type 2 as it was registered before (G726-32).
const STATIC_FORMATS: [(u8, &str, u32, u8); 25] = [
    (0, "PCMU", 8000, 1),
    (2, "G726-32", 8000, 1),
    (3, "GSM", 8000, 1),
    (4, "G723", 8000, 1),
    (5, "DVI4", 8000, 1),
    (6, "DVI4", 16000, 1),
    (7, "LPC", 8000, 1),
    (8, "PCMA", 8000, 1),
    (9, "G722", 8000, 1),
    (10, "L16", 44100, 2),
    (11, "L16", 44100, 1),
    (12, "QCELP", 8000, 1),
    (13, "CN", 8000, 1),
    (14, "MPA", 90000, 1),
    (15, "G728", 8000, 1),
    (16, "DVI4", 11025, 1),
    (17, "DVI4", 22050, 1),
    (18, "G729", 8000, 1),
    (25, "CelB", 90000, 1),
    (26, "JPEG", 90000, 1),
    (28, "nv", 90000, 1),
    (31, "H261", 90000, 1),
    (32, "MPV", 90000, 1),
    (33, "MP2T", 90000, 1),
    (34, "H263", 90000, 1),
];

/// The format that a payload type has without any `a=rtpmap` (RFC 3551); `None` for dynamic and reserved ones.
pub fn static_format(payload_type: u8) -> Option<PayloadFormat> {
    STATIC_FORMATS.iter().find(|entry| entry.0 == payload_type).map(|&(_, encoding, clock_rate, channels)| {
        PayloadFormat { payload_type, encoding: Arc::from(encoding), clock_rate, channels, parameters: Arc::from("") }
    })
}

/// Reads a session description.
///
/// # Errors
/// When there is nothing of one in the bytes, or too much of it.
pub fn parse(bytes: &[u8]) -> Result<SessionDescription, SdpError> {
    if bytes.len() > DESCRIPTION_BYTES_MAX {
        return Err(SdpError::TooLong);
    }
    let mut session = Section::default();
    let mut media: Vec<(MediaLine<'_>, Section<'_>)> = Vec::new();
    let (mut has_version, mut surplus) = (false, false);
    let text = String::from_utf8_lossy(bytes);
    for line in text.lines() {
        let Some((kind, value)) = line.trim().split_once('=') else { continue };
        match kind {
            "v" => has_version = true,
            "m" if media.len() < MEDIA_MAX => media.push((MediaLine::parse(value), Section::default())),
            // What follows belongs to a line that is left out.
            "m" => surplus = true,
            "c" | "a" if !surplus => {
                let section = media.last_mut().map_or(&mut session, |(_, section)| section);
                section.read(kind, value.trim());
            }
            _ => {}
        }
    }
    if !has_version && media.is_empty() {
        return Err(SdpError::NotSdp);
    }
    let bundle_address = media
        .iter()
        .find(|(line, _)| line.port != 0)
        .and_then(|(line, section)| Some(SocketAddr::new(section.connection.or(session.connection)?, line.port)));
    let media = media.iter().map(|(line, section)| describe(line, section, &session, bundle_address)).collect();
    Ok(SessionDescription { media })
}

/// `m=<media> <port>[/<count>] <profile> <format> …` (RFC 8866 §5.14).
struct MediaLine<'a> {
    kind: MediaKind,
    port: u16,
    profile: &'a str,
    formats: Vec<&'a str>,
}

impl<'a> MediaLine<'a> {
    fn parse(value: &'a str) -> Self {
        let mut words = value.split_ascii_whitespace();
        let kind = match words.next().unwrap_or_default().to_ascii_lowercase().as_str() {
            "audio" => MediaKind::Audio,
            "video" => MediaKind::Video,
            "image" => MediaKind::Image,
            _ => MediaKind::Other,
        };
        let port = words.next().and_then(|word| word.split('/').next()?.parse().ok()).unwrap_or(0);
        Self { kind, port, profile: words.next().unwrap_or_default(), formats: words.take(FORMATS_MAX).collect() }
    }
}

/// What `c=` and `a=` lines say at one level, session or media.
#[derive(Default)]
struct Section<'a> {
    connection: Option<IpAddr>,
    direction: Option<MediaDirection>,
    format_maps: Vec<(u8, &'a str)>,
    format_parameters: Vec<(u8, &'a str)>,
    candidates: Vec<SocketAddr>,
    rtcp: Option<(u16, Option<IpAddr>)>,
    rtcp_mux: bool,
    bundle_only: bool,
    crypto: Vec<String>,
    fingerprint: bool,
    label: &'a str,
    ptime_ms: Option<u16>,
}

impl<'a> Section<'a> {
    fn read(&mut self, kind: &str, value: &'a str) {
        if kind == "c" {
            self.connection = parse_connection(value).or(self.connection);
            return;
        }
        let (name, value) = value.split_once(':').unwrap_or((value, ""));
        let value = value.trim();
        match name.trim() {
            "sendrecv" => self.direction = Some(MediaDirection::SendRecv),
            "sendonly" => self.direction = Some(MediaDirection::SendOnly),
            "recvonly" => self.direction = Some(MediaDirection::RecvOnly),
            "inactive" => self.direction = Some(MediaDirection::Inactive),
            "rtpmap" if self.format_maps.len() < FORMATS_MAX => self.format_maps.extend(parse_payload_value(value)),
            "fmtp" if self.format_parameters.len() < FORMATS_MAX && value.len() <= VALUE_BYTES_MAX => {
                self.format_parameters.extend(parse_payload_value(value));
            }
            "candidate" if self.candidates.len() < CANDIDATES_MAX => {
                self.candidates.extend(parse_candidate(value).filter(|address| !self.candidates.contains(address)));
            }
            "rtcp" => self.rtcp = parse_rtcp(value).or(self.rtcp),
            "rtcp-mux" | "rtcp-mux-only" => self.rtcp_mux = true,
            "bundle-only" => self.bundle_only = true,
            "crypto" if self.crypto.len() < CRYPTO_MAX && value.len() <= VALUE_BYTES_MAX => {
                self.crypto.push(value.to_owned());
            }
            "fingerprint" => self.fingerprint = true,
            "label" if value.len() <= VALUE_BYTES_MAX => self.label = value,
            "ptime" => self.ptime_ms = value.split('.').next().and_then(|digits| digits.trim().parse().ok()),
            _ => {}
        }
    }
}

/// `IN IP4 192.0.2.1/127` → the address; the suffix speaks of multicast only (RFC 8866 §5.7).
fn parse_connection(value: &str) -> Option<IpAddr> {
    let address = value.split_ascii_whitespace().nth(2)?;
    address.split('/').next()?.parse().ok()
}

fn parse_payload_value(value: &str) -> Option<(u8, &str)> {
    let (payload_type, rest) = value.split_once(|character: char| character.is_ascii_whitespace())?;
    payload_type.parse().ok().filter(|&payload_type| payload_type < 128).map(|payload_type| (payload_type, rest.trim()))
}

/// `foundation component transport priority address port typ …` (RFC 8839 §5.1); RTP over UDP only.
fn parse_candidate(value: &str) -> Option<SocketAddr> {
    let mut words = value.split_ascii_whitespace().skip(1);
    let (component, transport) = (words.next()?, words.next()?);
    let address: IpAddr = words.nth(1)?.parse().ok()?;
    let port: u16 = words.next()?.parse().ok()?;
    let is_rtp = component == "1" && transport.eq_ignore_ascii_case("udp");
    (is_rtp && port != 0 && is_usable(address)).then_some(SocketAddr::new(address, port))
}

/// `port [nettype addrtype address]` (RFC 3605).
fn parse_rtcp(value: &str) -> Option<(u16, Option<IpAddr>)> {
    let (port, connection) = value.split_once(' ').unwrap_or((value, ""));
    let port = port.parse().ok().filter(|&port| port != 0)?;
    Some((port, parse_connection(connection)))
}

fn describe(
    line: &MediaLine<'_>,
    section: &Section<'_>,
    session: &Section<'_>,
    bundle_address: Option<SocketAddr>,
) -> MediaDescription {
    let connection = section.connection.or(session.connection);
    let rejected = line.port == 0 && !section.bundle_only;
    let stated = match line.port {
        0 if section.bundle_only => bundle_address,
        0 => None,
        port => connection.map(|address| SocketAddr::new(address, port)),
    };
    let address = stated.filter(|address| is_usable(address.ip()));
    let mut direction = section.direction.or(session.direction).unwrap_or_default();
    if !rejected && connection.is_some_and(|address| address.is_unspecified()) {
        // Hold by the old convention (RFC 3264 §8.4): the side asks that nothing be sent to it.
        direction = match direction {
            MediaDirection::SendRecv | MediaDirection::SendOnly => MediaDirection::SendOnly,
            MediaDirection::RecvOnly | MediaDirection::Inactive => MediaDirection::Inactive,
        };
    }
    let rtcp_mux = section.rtcp_mux || session.rtcp_mux;
    let rtcp_unmultiplexed = address.and_then(|address| match section.rtcp {
        Some((port, ip)) => Some(SocketAddr::new(ip.unwrap_or(address.ip()), port)),
        None => address.port().checked_add(1).map(|port| SocketAddr::new(address.ip(), port)),
    });
    let (security, opportunistic_security) = security(line.profile, section, session);
    MediaDescription {
        binding: MediaBinding {
            kind: line.kind,
            address,
            rtcp: if rtcp_mux { address } else { rtcp_unmultiplexed },
            candidates: section.candidates.iter().copied().filter(|&candidate| Some(candidate) != address).collect(),
            direction,
            formats: formats(line, section),
            security,
            label: section.label.to_owned(),
            ptime_ms: section.ptime_ms,
        },
        rejected,
        rtcp_mux,
        rtcp_unmultiplexed,
        opportunistic_security,
    }
}

/// A dynamic payload type without `a=rtpmap` means nothing to anybody and is left out.
fn formats(line: &MediaLine<'_>, section: &Section<'_>) -> Vec<PayloadFormat> {
    if !line.profile.to_ascii_uppercase().contains("RTP/") {
        return Vec::new();
    }
    let mut formats: Vec<PayloadFormat> = Vec::with_capacity(line.formats.len());
    for payload_type in line.formats.iter().filter_map(|format| format.parse::<u8>().ok()) {
        if payload_type > 127 || formats.iter().any(|format| format.payload_type == payload_type) {
            continue;
        }
        let mapped = section.format_maps.iter().find(|(mapped, _)| *mapped == payload_type);
        let mapped = mapped.and_then(|&(_, map)| parse_format_map(payload_type, map));
        let Some(mut format) = mapped.or_else(|| static_format(payload_type)) else { continue };
        if let Some(&(_, parameters)) = section.format_parameters.iter().find(|(of, _)| *of == payload_type) {
            format.parameters = Arc::from(parameters);
        }
        formats.push(format);
    }
    formats
}

/// `encoding/clock[/channels]` (RFC 8866 §6.6).
fn parse_format_map(payload_type: u8, map: &str) -> Option<PayloadFormat> {
    let mut parts = map.split('/').map(str::trim);
    let encoding = parts.next().filter(|name| !name.is_empty() && name.len() <= 64)?;
    let clock_rate = parts.next()?.parse().ok().filter(|&rate| rate > 0)?;
    let channels = parts.next().and_then(|text| text.parse().ok()).filter(|&count| count > 0).unwrap_or(1);
    Some(PayloadFormat { payload_type, encoding: Arc::from(encoding), clock_rate, channels, parameters: Arc::from("") })
}

/// What secures the media, and whether only if the peer has keys too.
fn security(profile: &str, section: &Section<'_>, session: &Section<'_>) -> (MediaSecurity, bool) {
    let demanded = profile.to_ascii_uppercase().contains("SAVP");
    let crypto = if section.crypto.is_empty() { &session.crypto } else { &section.crypto };
    let fingerprint = section.fingerprint || session.fingerprint;
    let security = if !crypto.is_empty() {
        MediaSecurity::Sdes(crypto.clone())
    } else if demanded || fingerprint {
        MediaSecurity::Unreadable
    } else {
        MediaSecurity::None
    };
    let opportunistic = !demanded && security != MediaSecurity::None;
    (security, opportunistic)
}

#[cfg(test)]
#[path = "sdp_tests.rs"]
mod tests;

//! The messages of one dialog, as text (RFC 3261), and their session descriptions (RFC 8866).

use crate::options::{Codec, Transport};
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub number: String,
    pub name: String,
    pub signalling: SocketAddr,
    pub media: SocketAddr,
    pub tag: String,
}

#[derive(Clone, Debug)]
pub(crate) struct Dialog {
    pub call_id: String,
    pub branch: String,
    pub transport: Transport,
    pub caller: Endpoint,
    pub callee: Endpoint,
}

/// One request and what belongs to its transaction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transaction<'a> {
    pub method: &'a str,
    pub sequence: u32,
    pub by_caller: bool,
    /// The request is inside the dialog: it bears both tags.
    pub in_dialog: bool,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Extra {
    pub headers: String,
    pub body: String,
}

impl Dialog {
    pub(crate) fn request(&self, t: Transaction<'_>, extra: &Extra) -> String {
        let target = if t.by_caller { &self.callee } else { &self.caller };
        let uri = format!("sip:{}@{}", target.number, target.signalling);
        let first = format!("{} {uri} SIP/2.0", t.method);
        let max_forwards = "Max-Forwards: 70\r\n";
        self.message(&first, t, max_forwards, t.in_dialog, extra)
    }

    /// A response to the transaction's request; `with_tag`: the called party is known.
    pub(crate) fn response(&self, status: &str, t: Transaction<'_>, with_tag: bool, extra: &Extra) -> String {
        self.message(&format!("SIP/2.0 {status}"), t, "", with_tag || t.in_dialog, extra)
    }

    fn message(&self, first: &str, t: Transaction<'_>, more: &str, both_tags: bool, extra: &Extra) -> String {
        let (sender, receiver) = if t.by_caller { (&self.caller, &self.callee) } else { (&self.callee, &self.caller) };
        let contact = if first.starts_with("SIP/2.0") { receiver } else { sender };
        let transport = match self.transport {
            Transport::Udp => "UDP",
            Transport::Tcp => "TCP",
        };
        // ACK to a 2xx is a transaction of its own (§17.1.1.3); CANCEL shares the branch of its INVITE.
        let branch = match t.method {
            "ACK" if t.in_dialog => "a",
            _ => "i",
        };
        let direction = if t.by_caller { 'u' } else { 'd' };
        let mut text = String::with_capacity(1024);
        let write = |text: &mut String| -> std::fmt::Result {
            write!(text, "{first}\r\n")?;
            write!(
                text,
                "Via: SIP/2.0/{transport} {};branch=z9hG4bK{}{branch}{direction}{};rport\r\n{more}",
                sender.signalling, self.branch, t.sequence
            )?;
            let quoted =
                |party: &Endpoint| format!("\"{}\" <sip:{}@{}>", party.name, party.number, host(party.signalling.ip()));
            write!(text, "From: {};tag={}\r\n", quoted(sender), sender.tag)?;
            let to_tag = if both_tags { format!(";tag={}", receiver.tag) } else { String::new() };
            write!(text, "To: {}{to_tag}\r\n", quoted(receiver))?;
            write!(text, "Call-ID: {}\r\nCSeq: {} {}\r\n", self.call_id, t.sequence, t.method)?;
            write!(
                text,
                "Contact: <sip:{}@{};transport={}>\r\n",
                contact.number,
                contact.signalling,
                transport.to_lowercase()
            )?;
            write!(text, "User-Agent: callgen\r\n{}", extra.headers)?;
            if !extra.body.is_empty() {
                text.push_str("Content-Type: application/sdp\r\n");
            }
            write!(text, "Content-Length: {}\r\n\r\n{}", extra.body.len(), extra.body)
        };
        let written = write(&mut text);
        assert!(written.is_ok(), "a String takes all that is written to it");
        text
    }
}

fn host(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

/// A session description with one audio stream.
pub(crate) fn sdp(media: SocketAddr, codecs: &[Codec], direction: &str, version: u32) -> String {
    let family = if media.is_ipv4() { "IP4" } else { "IP6" };
    let ip = media.ip();
    let types: Vec<String> = codecs.iter().map(|codec| codec.payload_type().to_string()).collect();
    let mut text = format!(
        "v=0\r\no=- 4711 {version} IN {family} {ip}\r\ns=-\r\nc=IN {family} {ip}\r\nt=0 0\r\nm=audio {} RTP/AVP {} 101\r\n",
        media.port(),
        types.join(" ")
    );
    for codec in codecs {
        text.push_str(&format!("a=rtpmap:{} {}/8000\r\n", codec.payload_type(), codec.name()));
    }
    text.push_str(&format!("a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=ptime:20\r\na={direction}\r\n"));
    text
}

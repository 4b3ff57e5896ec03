//! Calls between two SIPp instances, one in each phone network.
//!
//! SIPp sends speech in two ways, and each is a test of its own: from captures every call has a port of its own and all
//! calls have the same SSRC; as a stream all calls of an instance share one port, are told apart by the SSRC alone, and both
//! directions of a call have the same SSRC.

use crate::bed::{ADDRESSES_PER_SIDE, Bed, Side};
use crate::g711::Law;
use crate::interrupt;
use crate::process::{self, Running};
use crate::rtp_file;
use crate::speech::{Conversation, RATE_HZ};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const CALLER_SCENARIO: &str = include_str!("../scenarios/caller.xml");
const CALLEE_SCENARIO: &str = include_str!("../scenarios/callee.xml");
const FIRST_MEDIA_PORT: u16 = 20_000;

/// How the RTP of the calls is laid out over ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ports {
    /// A port for each call, the same SSRC in all.
    PerCall,
    /// One port for all calls, an SSRC for each call.
    Shared,
}

/// Calls that one pair of SIPp instances places.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Unique on the bed; selects the addresses. 0 to `ADDRESSES_PER_SIDE - 2`.
    pub number: u8,
    pub calls: u32,
    /// How many calls begin in a second.
    pub calls_per_second: u32,
    pub law: Law,
    pub ports: Ports,
    pub conversation: Conversation,
}

impl Plan {
    /// Numbers of both parties of a call, counted from 0: they differ over all plans of a bed.
    pub fn numbers(&self, call: u32) -> (String, String) {
        (format!("+4930{:03}{call:04}", self.number), format!("+4940{:03}{call:04}", self.number))
    }

    fn speech_duration(&self) -> Duration {
        Duration::from_millis(self.conversation.caller.len() as u64 * 1000 / u64::from(RATE_HZ))
    }

    /// From the first call's begin to the last one's end, and some for a loaded machine.
    fn duration_max(&self) -> Duration {
        self.speech_duration() + Duration::from_secs(u64::from(self.calls / self.calls_per_second.max(1)) + 30)
    }
}

/// A pair of SIPp instances at work.
pub struct Calls {
    caller: Running,
    callee: Running,
    directory: PathBuf,
    duration_max: Duration,
}

/// First names, for people who look at the demo.
const NAMES: [&str; 12] =
    ["Anna", "Bruno", "Clara", "David", "Elena", "Felix", "Greta", "Hugo", "Irene", "Jonas", "Katja", "Leon"];

impl Calls {
    /// Writes scenarios and speech into a new `directory` and starts both instances.
    ///
    /// # Errors
    /// When files cannot be written or SIPp does not start.
    pub fn start(bed: &Bed, directory: &Path, plan: &Plan) -> Result<Self> {
        if plan.number + 2 > ADDRESSES_PER_SIDE || plan.calls == 0 || plan.calls > 2000 {
            bail!("no such plan: number {}, {} calls", plan.number, plan.calls);
        }
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let speech = plan.speech_duration().as_millis() as u64;
        for (scenario, name, samples) in [
            (CALLER_SCENARIO, "caller", &plan.conversation.caller),
            (CALLEE_SCENARIO, "callee", &plan.conversation.callee),
        ] {
            let (media_port, speak) = match plan.ports {
                Ports::PerCall => {
                    rtp_file::write_capture(&directory.join(format!("{name}.pcap")), plan.law, samples, 0x5349_5070)?;
                    ("[auto_media_port]", format!("play_pcap_audio=\"{name}.pcap\""))
                }
                Ports::Shared => {
                    rtp_file::write_codes(&directory.join(format!("{name}.g711")), plan.law, samples)?;
                    let (payload_type, encoding) = (plan.law.payload_type(), plan.law.encoding_name());
                    // Played once.
                    ("[rtpstream_audio_port]", format!("rtp_stream=\"{name}.g711,1,{payload_type},{encoding}/8000\""))
                }
            };
            let text = scenario
                .replace("{{MEDIA_PORT}}", media_port)
                .replace("{{PAYLOAD_TYPE}}", &plan.law.payload_type().to_string())
                .replace("{{ENCODING}}", plan.law.encoding_name())
                .replace("{{SPEAK}}", &speak)
                .replace("{{SPEECH_MILLISECONDS}}", &speech.to_string())
                .replace("{{CALL_MILLISECONDS}}", &(speech + 600).to_string());
            write(&directory.join(format!("{name}.xml")), &text)?;
        }
        let mut numbers = String::from("SEQUENTIAL\n");
        for call in 0..plan.calls {
            let (from, to) = plan.numbers(call);
            let name = |shift: u32| NAMES[(call + u32::from(plan.number) * 5 + shift) as usize % NAMES.len()];
            numbers.push_str(&format!("{from};{to};{} {call};{} {call};\n", name(0), name(7)));
        }
        write(&directory.join("numbers.csv"), &numbers)?;

        let host = plan.number + 2;
        let callee_address = bed.address(Side::B, host);
        let callee = Self::sipp(bed, Side::B, host, directory, "callee", plan, &[])?;
        // It must listen before the first INVITE, or that is sent again half a second later.
        interrupt::sleep(Duration::from_millis(400))?;
        let rate = plan.calls_per_second.to_string();
        let target = format!("{callee_address}:5060");
        let calls = plan.calls.to_string();
        let more = ["-inf", "numbers.csv", "-r", &rate, "-l", &calls, &target];
        let caller = Self::sipp(bed, Side::A, host, directory, "caller", plan, &more)?;
        Ok(Self { caller, callee, directory: directory.to_owned(), duration_max: plan.duration_max() })
    }

    fn sipp(
        bed: &Bed,
        side: Side,
        host: u8,
        directory: &Path,
        name: &str,
        plan: &Plan,
        more: &[&str],
    ) -> Result<Running> {
        let address = bed.address(side, host);
        let mut command = process::command(bed.phones(side), "sipp");
        command
            .current_dir(directory)
            .env("TERM", "xterm")
            .args(["-sf", &format!("{name}.xml"), "-i", &address, "-p", "5060", "-mi", &address])
            .args(["-mp", &FIRST_MEDIA_PORT.to_string(), "-nostdin", "-m", &plan.calls.to_string()])
            .args(["-trace_err", "-error_file", &format!("{name}.errors")])
            .args(["-timeout", &format!("{}s", plan.duration_max().as_secs()), "-timeout_error"])
            .args(more);
        Running::start(&format!("SIPp ({name})"), &mut command, &directory.join(format!("{name}.log")))
    }

    /// Waits until all calls are over.
    ///
    /// # Errors
    /// When a call failed by the phones' own account, or the calls last too long.
    pub fn wait(mut self) -> Result<()> {
        let limit = self.duration_max + Duration::from_secs(10);
        for (name, running) in [("caller", &mut self.caller), ("callee", &mut self.callee)] {
            let status = running.wait(limit)?;
            if !status.success() {
                let errors = process::tail(&self.directory.join(format!("{name}.errors")), 8);
                bail!("SIPp ({name}) ended with {status}, see {}:\n{errors}", self.directory.display());
            }
        }
        Ok(())
    }

    /// Whether both instances have ended.
    ///
    /// # Errors
    /// When the operating system does not know them.
    pub fn ended(&mut self) -> Result<bool> {
        Ok(self.caller.ended()?.is_some() && self.callee.ended()?.is_some())
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_have_no_place_that_is_not_filled() {
        let known = [
            "{{MEDIA_PORT}}",
            "{{PAYLOAD_TYPE}}",
            "{{ENCODING}}",
            "{{SPEAK}}",
            "{{SPEECH_MILLISECONDS}}",
            "{{CALL_MILLISECONDS}}",
            "{{…}}",
        ];
        for scenario in [CALLER_SCENARIO, CALLEE_SCENARIO] {
            let rest = known.iter().fold(scenario.to_owned(), |text, place| text.replace(place, ""));
            assert!(!rest.contains("{{"), "{rest}");
        }
    }
}

//! A call between two baresip phones: a second SIP and RTP stack, written apart from SIPp's.

use crate::bed::{Bed, Side};
use crate::g711::Law;
use crate::interrupt;
use crate::process::{self, Running};
use crate::speech::Conversation;
use crate::wav::Wav;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Where Debian's baresip-core keeps its modules.
const MODULES: &str = "/usr/lib/baresip/modules";
pub const CALLER_NUMBER: &str = "100";
pub const CALLEE_NUMBER: &str = "200";

/// Two phones, one call.
pub struct Call {
    caller: Running,
    callee: Running,
    seconds: u32,
}

impl Call {
    /// Starts both phones; the first calls the second, which answers at once, and hangs up after `seconds`.
    ///
    /// # Errors
    /// When configuration cannot be written or a phone does not start.
    pub fn start(bed: &Bed, directory: &Path, law: Law, conversation: &Conversation, seconds: u32) -> Result<Self> {
        let phone = |side: Side, name: &str, number: &str, display: &str, samples: &[i16], more: &[&str]| {
            let home = directory.join(name);
            fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
            let speech = home.join("speech.wav");
            Wav::mono(crate::speech::RATE_HZ, samples.to_vec()).write(&speech)?;
            let address = bed.address(side, 1);
            let codec = law.encoding_name().to_ascii_lowercase();
            write(&home.join("config"), &configuration(&address, &speech, &home.join("heard.wav")))?;
            write(
                &home.join("accounts"),
                &format!("\"{display}\" <sip:{number}@{address}>;regint=0;answermode=auto;audio_codecs={codec}\n"),
            )?;
            write(&home.join("contacts"), "")?;
            let mut command = process::command(bed.phones(side), "baresip");
            command.arg("-f").arg(&home).args(more);
            Running::start(&format!("baresip ({name})"), &mut command, &home.join("log"))
        };
        let callee_seconds = (seconds + 6).to_string();
        let callee = phone(Side::B, "callee", CALLEE_NUMBER, "Bob", &conversation.callee, &["-t", &callee_seconds])?;
        interrupt::wait_for("baresip to be ready", Duration::from_secs(10), || {
            Ok(callee.log_tail().contains("baresip is ready").then_some(()))
        })?;
        let dial = format!("/dial sip:{CALLEE_NUMBER}@{}", bed.address(Side::B, 1));
        let caller_seconds = seconds.to_string();
        let more = ["-t", &caller_seconds, "-e", &dial];
        let caller = phone(Side::A, "caller", CALLER_NUMBER, "Alice", &conversation.caller, &more)?;
        Ok(Self { caller, callee, seconds })
    }

    /// Waits until the call is over and both phones have ended.
    ///
    /// # Errors
    /// When they do not end in time, or the call was not established.
    pub fn wait(mut self) -> Result<()> {
        for running in [&mut self.caller, &mut self.callee] {
            let status = running.wait(Duration::from_secs(u64::from(self.seconds) + 30))?;
            if !status.success() {
                bail!("baresip ended with {status}:\n{}", running.log_tail());
            }
        }
        let log = fs::read(self.caller.log()).context("cannot read baresip's log")?;
        if !String::from_utf8_lossy(&log).contains("Call established") {
            bail!("the call between the baresip phones was not established:\n{}", self.caller.log_tail());
        }
        Ok(())
    }
}

fn configuration(address: &str, speech: &Path, heard: &Path) -> String {
    let (speech, heard) = (speech.display(), heard.display());
    format!(
        "poll_method epoll\n\
         sip_listen {address}:5060\n\
         net_interface eth0\n\
         audio_source aufile,{speech}\n\
         audio_player aufile,{heard}\n\
         audio_alert aufile,{heard}.alert\n\
         ausrc_srate 8000\nauplay_srate 8000\nausrc_channels 1\nauplay_channels 1\n\
         audio_level no\n\
         rtp_ports 40000-40100\n\
         rtcp_mux no\n\
         jitter_buffer_delay 1-5\n\
         module_path {MODULES}\n\
         module g711.so\nmodule aufile.so\nmodule uuid.so\n\
         module_app account.so\nmodule_app menu.so\n"
    )
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
